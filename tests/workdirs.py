"""Workdirs as a run leaves them, written in milliseconds."""

import json
import os

import numpy as np

from gans_jax.core import config as config_lib
from gans_jax.core import images

SPEC = 'experiments/wgan_gp/cifar10.py:row=supervised'
STEPS = (0, 10, 20, 30, 40)
BATCH = 50  # steps 10 to 40 are 0.5 to 2 kimg


def loss(step: int, scale: float) -> float:
  return scale * 10.0 ** (step / 20)


def result(step: int, value: float, **options) -> dict:
  """One line of evaluations.jsonl."""
  return {
      'metric': 'fd16_lite0', 'value': value, 'values': {'fd': value},
      'floor': {'value': 5.0, 'counts': [16, 16], 'same_counts': True},
      'real': {'identity': 'abc', 'split': 'train', 'count': 16,
               'cached': step > 0},
      'fake': {'count': 16, 'seed': 0, 'step': step, 'weights': 'ema',
               'images_seen': step * BATCH, 'batch_norm': 'running statistics',
               **options},
      'seconds': {'real': 0.0, 'fake': 1.0}, 'step': step}


def lines(records: list[dict]) -> str:
  return ''.join(json.dumps(record) + '\n' for record in records)


def make(path, spec: str = SPEC, scale: float = 1.0, changed=None,
         log: str = '', results: list[dict] | None = None, more=None) -> str:
  """Writes a workdir of 40 steps; returns its path.

  Args:
    path: of the directory.
    spec: the config, as --config names it.
    scale: of the losses and of the metric.
    changed: {dotted key: value} of the config.
    log: of log.txt, after the plan.
    results: of evaluations.jsonl.
    more: a record in place of the last one of metrics.jsonl.
  """
  os.makedirs(path / 'samples')
  config = config_lib.load(spec)
  config_lib.assign(config, {
      'batch_size': BATCH, 'total_steps': STEPS[-1], **(changed or {})})
  (path / 'config.json').write_text(json.dumps({
      'program': 'gans_jax', 'version': '0.1.0', 'host': 'somewhere',
      'started': '2026-01-02T03:04:05+00:00', 'git': 'f00d' * 10,
      'python': '3.11.7', 'packages': {'jax': '0.10.2'},
      'command': ['main.py', f'--config={spec}', f'--workdir={path}'],
      'config': config_lib.to_json(config)}))
  records = [{'step': s, 'kimg': s * BATCH / 1000,
              'loss/d': loss(s, scale), 'loss/g': -loss(s, scale),
              'perf/images_per_second': 100.0} for s in STEPS[1:]]
  if more:
    records[-1] = {'step': STEPS[-1], 'kimg': STEPS[-1] * BATCH / 1000, **more}
  (path / 'metrics.jsonl').write_text(lines(records))
  (path / 'evaluations.jsonl').write_text(lines(
      [result(s, scale * (100.0 - s)) for s in (0, 20, 40)]
      if results is None else results))
  (path / 'log.txt').write_text(
      '2026-01-02 03:04:05,678 INFO system    wgan_gp: D 5 parameters\n'
      'devices   8 (tpu), mesh data 8 x model 1, 1 process(es)\n' + log)
  for kind in ('live', 'ema'):
    for s in STEPS[::2]:
      grey = np.full((8, 8, 3), s + 10 * (kind == 'ema'), np.uint8)
      (path / 'samples' / f'{kind}_{s:08d}.png').write_bytes(
          images.to_png(grey))
  return str(path)
