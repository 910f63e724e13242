"""Evaluates: `python -m gans_jax.evaluate --workdir=DIR --metrics=fd5k_lite0`.

A metric's name is its protocol (gans_jax/metrics/protocols.py); every result
is one JSON line in DIR/evaluations.jsonl with the protocol in full.
"""

import json
import os
import re
import time
from typing import Any

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Computes metrics of a run's checkpoints and appends them, one JSON line each,
to WORKDIR/evaluations.jsonl.

  python -m gans_jax.evaluate --workdir=runs/quickstart --metrics=fd5k_lite0
  python -m gans_jax.evaluate --workdir=runs/x --metrics=fd5k_lite0 --step=all
  python -m gans_jax.evaluate --workdir=runs/x --metrics=fd5k_lite0 --watch

fdN_lite0 is the Frechet distance between N generated and N real images in
the features of EfficientNet-Lite0, whose weights are installed with the
package: nothing is downloaded. It is not FID, and does not compare with FID.
The floor printed beside it is the distance of real images to other real ones.
A run on points (experiments/toy) has the metric `modes`.
"""

RESULTS = 'evaluations.jsonl'
MODES = 'modes'


def check(metrics, system, spec, num: int = 0) -> None:
  """Refuses metrics that do not exist or do not fit the data.

  Args:
    metrics: names.
    system: the System that is evaluated.
    spec: facts of the data.
    num: replaces the number in the names, if positive.
  """
  from gans_jax.metrics import protocols

  points = hasattr(system, 'point_metrics')
  for name in metrics:
    if (name == MODES) != points:
      known = MODES if points else 'fd5k_lite0 and its like'
      raise errors.UserError(
          f'The metric {name!r} is not one for this system; it has: {known}. '
          'Set --config.evaluate.metrics (or --metrics).')
  if not points:
    real = protocols.dataset_images(
        None, spec.num_examples, spec.identity, 'train', None)
    protocols.check([protocols.parse(rename(n, num)) for n in metrics], real)


def rename(metric: str, num: int) -> str:
  """Returns the metric's name with N = num ('fd5k_lite0' -> 'fd1k_lite0')."""
  if not num:
    return metric
  size = f'{num // 1000}k' if num % 1000 == 0 else str(num)
  return re.sub(r'\d+k?', size, metric, count=1)


def best_metric(metrics) -> tuple[str, str] | None:
  """Returns what decides the best checkpoint: (name, 'min' or 'max')."""
  if not metrics:
    return None
  if metrics[0] == MODES:
    return 'modes/covered', 'max'
  return metrics[0], 'min'


def append(workdir: str, result: dict[str, Any]) -> None:
  """Adds one line to the results of a workdir."""
  import jax

  from gans_jax.core import files

  if jax.process_index() == 0:
    path = os.path.join(workdir, RESULTS)
    try:
      with open(path, 'a', encoding='utf-8') as f:
        f.write(json.dumps(result) + '\n')
    except OSError as error:
      raise files.cannot_write(path, error) from error


class Evaluator:
  """Computes a run's metrics for given weights.

  Real images are measured once and their statistics kept in the cache.
  """

  def __init__(self, config, system, dataset, mesh, metrics=None,
               num: int = 0, batch_size: int = 0, quiet: bool = False):
    """Prepares.

    Args:
      config: the run's config.
      system: its System.
      dataset: the real images.
      mesh: devices.
      metrics: names; the config's by default.
      num: replaces the number in the names, if positive.
      batch_size: images generated and measured at a time; 0 chooses.
      quiet: no progress in the log.
    """
    from gans_jax.core import sampler as sampler_lib
    from gans_jax.metrics import features
    from gans_jax.metrics import protocols

    names = config.evaluate.metrics if metrics is None else metrics
    num = num or config.evaluate.num
    check(names, system, dataset.spec, num)
    self._config, self._system, self._dataset = config, system, dataset
    self._mesh = mesh
    self._batch_size = batch_size or config.evaluate.batch_size or 64
    self._sampler = sampler_lib.Sampler(system, mesh, self._batch_size)
    self._progress = None if quiet else features.log_progress
    self._protocols = [] if names == (MODES,) else [
        protocols.parse(rename(name, num)) for name in names]
    self._modes = MODES in names

  def __call__(self, variables, step: int, weights: str = 'ema'
               ) -> list[dict[str, Any]]:
    """Returns one result for each metric, in order.

    Args:
      variables: {net: flax variables}.
      step: recorded with the results.
      weights: 'ema' or 'live', recorded too.
    """
    import jax

    from gans_jax.core import rng
    from gans_jax.data import pipeline
    from gans_jax.metrics import protocols

    facts = dict(step=int(step), weights=weights,
                 images_seen=int(step) * self._config.batch_size,
                 batch_norm='running statistics')
    if self._modes:
      start = time.perf_counter()
      keys = rng.per_example(jax.random.key(0), 0, 2500)
      found = self._system.point_metrics(self._sampler(variables, keys))
      return [dict(metric=name, value=float(value), **facts,
                   fake=dict(count=2500, seed=0),
                   seconds=time.perf_counter() - start)
              for name, value in found.items()]

    def ordered(num):
      return pipeline.ordered_batches(
          self._dataset, self._batch_size, num, seed=0, keys=('image',))

    spec = self._dataset.spec
    real = protocols.dataset_images(
        ordered, spec.num_examples, spec.identity,
        self._config.data.split, 0)
    labels = self._labels()

    def sample(keys):
      conditions = {}
      if labels is not None:
        draw = jax.vmap(lambda k: jax.random.randint(
            rng.named(k, 0, 'label'), (), 0, len(labels)))
        conditions['label'] = labels[jax.device_get(draw(keys))]
      return self._sampler(variables, keys, conditions)

    fake = protocols.generated_images(
        sample, 0, self._sampler.batch_size, **facts,
        labels='empirical' if labels is not None else None)
    results = protocols.compute(
        self._protocols, real, fake, mesh=self._mesh,
        progress=self._progress)
    return [{**result, 'step': int(step)} for result in results]

  def _labels(self):
    """Returns labels with the data's distribution, or None."""
    if 'label' not in self._system.conditions:
      return None
    import numpy as np

    from gans_jax.data import pipeline

    # A sample of them is enough, and decoding a million images is not.
    batches = pipeline.ordered_batches(
        self._dataset, 64, min(len(self._dataset), 10_000), seed=0,
        keys=('label',))
    return np.concatenate([batch['label'][valid]
                           for batch, valid in batches]).astype(np.int32)


def line(result: dict[str, Any]) -> str:
  """Returns a result in one line for people."""
  text = f'step {result["step"]}: {result["metric"]} {result["value"]:.4g}'
  floor = result.get('floor', {})
  if floor.get('value') is not None:
    text += (f' (floor, real against real: {floor["value"]:.4g}'
             f'{"" if floor["same_counts"] else ", fewer images"})')
  return text


def main(argv: list[str]) -> int:
  parser = cli.parser('python -m gans_jax.evaluate', DESCRIPTION)
  add = parser.add_argument
  add('--workdir', required=True, metavar='DIR')
  add('--metrics', default='', metavar='A,B',
      help="default: the config's evaluate.metrics")
  add('--num', type=int, default=0, metavar='N',
      help='number of images, in place of the one in the names')
  add('--step', default='latest', metavar='latest|all|N')
  add('--watch', action='store_true',
      help='every checkpoint there is, and each new one until the run is '
           'complete')
  add('--weights', choices=['ema', 'live'], default='ema')
  add('--batch_size', type=int, default=0)
  args = parser.parse_args(argv)
  if args.num < 0 or args.batch_size < 0:
    raise errors.UserError('--num and --batch_size cannot be negative.')
  if args.step not in ('latest', 'all') and not args.step.isdigit():
    raise errors.UserError(
        f"--step is {args.step!r}, expected 'latest', 'all' or a number.")
  if args.watch and args.step.isdigit():
    raise errors.UserError(
        f'--watch takes every checkpoint, but --step is {args.step}: leave '
        'one of them out.')

  import logging

  import jax

  from gans_jax import sample
  from gans_jax.core import checkpoint as checkpoint_lib
  from gans_jax.core import config as config_lib
  from gans_jax.core import mesh as mesh_lib
  from gans_jax.data import pipeline

  logging.getLogger().setLevel(logging.INFO)
  checkpoints = checkpoint_lib.Checkpointer(args.workdir)
  evaluator, done = None, set()
  while True:
    steps = checkpoints.steps()
    if args.step == 'latest' and not args.watch:
      steps = steps[-1:]
    elif args.step.isdigit():
      steps = [int(args.step)]
    todo = [s for s in steps if s not in done] or ([] if done else [None])
    for step in todo:
      generator = sample.load(args.workdir, step, args.weights)
      if evaluator is None:
        metrics = tuple(filter(None, args.metrics.split(',')))
        dataset = pipeline.open_dataset(generator.config.data)
        if dataset.spec.identity != generator.spec.identity:
          logging.warning(
              'the data set has changed since training (identity %s, then '
              '%s): the metric is against the one that is there now',
              dataset.spec.identity, generator.spec.identity)
        evaluator = Evaluator(
            generator.config, generator.system, dataset,
            mesh_lib.make(devices=jax.local_devices()),
            metrics or None, args.num, args.batch_size)
      for result in evaluator(generator.variables, generator.step,
                              generator.weights):
        append(args.workdir, result)
        print(line(result))
      done.add(generator.step)
    if not args.watch:
      return cli.DONE
    if max(done) >= config_lib.total_steps(generator.config):
      return cli.DONE
    time.sleep(10)


if __name__ == '__main__':
  cli.run(main)
