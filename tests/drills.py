"""Fault drills: processes are killed at random, and nothing may be lost.

  python tests/drills.py --kills=60 --seed=0 --out=/tmp/drills

A drill starts a command, ends it by SIGKILL at a random moment, and gives the
same command again, until it is through; what is there then must be what the
command leaves when nothing disturbs it, bit for bit.

  train     training: state, data order and every logged step
  save      the same, killed while a checkpoint is being written
  evaluate  a metric of a checkpoint
  prepare   a data set, byte by byte
  convert   official weights to a workdir
  pod       one process of two that train together

A table of kills is printed, and of the moments at which they came. Whatever
went wrong ends the program with a traceback and leaves the directory.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import runs

from gans_jax.core import cli

rehearse_pod = runs.script('rehearse_pod')
STEPS = 200
TRAIN = (f'--config.total_steps={STEPS}', '--config.checkpoint_every=5',
         '--config.sample_every=40', '--config.alarms.collapse=off')


class Drills:
  """Kills commands, and counts.

  Attributes:
    folder: where everything is written.
    random: of the moments.
    kills: {kind: commands killed}.
    progress: {kind: of them, those that had begun to write}.
    rounds: {kind: undisturbed ends that were compared}.
  """

  def __init__(self, folder, seed: int):
    self.folder = pathlib.Path(folder)
    self.folder.mkdir(parents=True, exist_ok=True)
    self.random = random.Random(seed)
    self.kills = collections.Counter()
    self.progress = collections.Counter()
    self.rounds = collections.Counter()
    self.config = runs.write_config(self.folder)
    self._references = {}

  def run(self, kind: str, kills: int) -> None:
    """Kills commands of a kind until `kills` are dead; compares each round."""
    while self.kills[kind] < kills:
      target = self.folder / f'{kind}_{self.rounds[kind]}'
      while self.kills[kind] < kills:
        if getattr(self, f'_{kind}')(target):
          break
        self.kills[kind] += 1
        self.progress[kind] += target.exists()
        logged = target / 'metrics.jsonl'
        print(f'{kind}: kill {self.kills[kind]} of {kills}'
              + (f', {len(logged.read_text().splitlines())} lines logged'
                 if logged.exists() else ''), flush=True)
      getattr(self, f'_compare_{kind}')(target)
      self.rounds[kind] += 1

  # -- One command, killed or not

  def _spawn(self, module: str, *arguments) -> subprocess.Popen:
    # A group of its own: SIGKILL reaches its data workers too.
    return subprocess.Popen(
        runs.command(module, *arguments), cwd=runs.ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True, text=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu',
             'PYTHONPATH': str(runs.ROOT)})

  def _end(self, process: subprocess.Popen, after: float,
           when=lambda: True) -> bool:
    """Kills `after` seconds once `when()` is true; True if it was through."""
    while process.poll() is None and not when():
      time.sleep(0.001)
    try:
      _, err = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.communicate()
      return False
    assert process.returncode == cli.DONE, err
    return True

  def _whole(self, module: str, *arguments) -> float:
    """Runs undisturbed; returns the seconds that it took."""
    start = time.monotonic()
    process = self._spawn(module, *arguments)
    _, err = process.communicate()
    assert process.returncode == cli.DONE, err
    return time.monotonic() - start

  def _reference(self, kind: str, make):
    """Returns what `make` gave for this kind, made once."""
    if kind not in self._references:
      self._references[kind] = make()
    return self._references[kind]

  # -- Training

  def _training(self, workdir) -> tuple[str, ...]:
    return f'--config={self.config}', f'--workdir={workdir}', *TRAIN

  def _straight(self) -> tuple[pathlib.Path, float]:
    path = self.folder / 'straight'

    def make():
      self._whole('main', *self._training(self.folder / 'warm'))
      return path, self._whole('main', *self._training(path))
    return self._reference('train', make)

  def _train(self, target) -> bool:
    _, seconds = self._straight()
    return self._end(self._spawn('main', *self._training(target)),
                     self.random.uniform(0.0, seconds))

  def _compare_train(self, target) -> None:
    self._whole('main', *self._training(target))
    runs.assert_same_run(target, self._straight()[0], STEPS)

  def _save(self, target) -> bool:
    self._straight()
    folder, wait = target / 'checkpoints', self.random.randrange(4)
    start, seen = time.time(), set()

    def writing() -> bool:
      """Whether a save after `wait` others has begun and is not done."""
      new = [entry for entry in (os.scandir(folder) if folder.exists() else ())
             if modified(entry.path) > start]
      seen.update(entry.name.split('.')[0] for entry in new)
      return len(seen) > wait and any(
          not entry.name.isdigit() or not os.path.exists(
              os.path.join(entry.path, 'checksums.json')) for entry in new)

    return self._end(self._spawn('main', *self._training(target)),
                     self.random.uniform(0.0, 0.03), writing)

  _compare_save = _compare_train

  # -- Evaluation

  def _evaluation(self, workdir) -> tuple[str, ...]:
    return (f'--workdir={workdir}', '--metrics=fd64_lite0',
            '--batch_size=16')

  def _evaluated(self) -> tuple[pathlib.Path, float]:
    path = self.folder / 'evaluated'

    def make():
      shutil.copytree(self._straight()[0], path)
      self._whole('evaluate', *self._evaluation(path))
      (path / 'evaluations.jsonl').unlink()
      return path, self._whole('evaluate', *self._evaluation(path))
    return self._reference('evaluate', make)

  def _evaluate(self, target) -> bool:
    _, seconds = self._evaluated()
    if not target.exists():
      shutil.copytree(self._straight()[0], target)
    return self._end(self._spawn('evaluate', *self._evaluation(target)),
                     self.random.uniform(0.0, seconds))

  def _compare_evaluate(self, target) -> None:
    self._whole('evaluate', *self._evaluation(target))
    found, wanted = ([json.loads(line) for line in (
        path / 'evaluations.jsonl').read_text().splitlines()]
        for path in (target, self._evaluated()[0]))
    assert found and {x['value'] for x in found} == {wanted[0]['value']}
    runs.assert_same_run(target, self._straight()[0], STEPS)

  # -- Data preparation

  def _preparation(self, out) -> tuple[str, ...]:
    return '--source=emoji:both', f'--out={out}', '--resolution=64'

  def _prepared(self) -> tuple[pathlib.Path, float]:
    path = self.folder / 'prepared'
    return self._reference('prepare', lambda: (
        path, self._whole('prepare', *self._preparation(path))))

  def _prepare(self, target) -> bool:
    _, seconds = self._prepared()
    if (target / 'manifest.json').exists():
      return True  # Killed when all was written.
    return self._end(self._spawn('prepare', *self._preparation(target)),
                     self.random.uniform(0.0, seconds))

  def _compare_prepare(self, target) -> None:
    if not (target / 'manifest.json').exists():
      self._whole('prepare', *self._preparation(target))
    wanted = contents(self._prepared()[0])
    assert contents(target) == wanted and len(wanted) >= 2

  # -- Conversion

  def _conversion(self, out) -> tuple[str, ...]:
    return ('--format=dcgan', f'--checkpoint={self.folder / "netG.pth"}',
            f'--out={out}')

  def _converted(self) -> tuple[pathlib.Path, float]:
    path = self.folder / 'converted'

    def make():
      official_generator(self.folder / 'netG.pth')
      return path, self._whole('convert', *self._conversion(path))
    return self._reference('convert', make)

  def _convert(self, target) -> bool:
    _, seconds = self._converted()
    if saved(target):
      return True  # Killed when all was written.
    return self._end(self._spawn('convert', *self._conversion(target)),
                     self.random.uniform(0.0, seconds))

  def _compare_convert(self, target) -> None:
    if not saved(target):
      self._whole('convert', *self._conversion(target))
    images = [runs.generator(path)(seeds=range(4))
              for path in (target, self._converted()[0])]
    np.testing.assert_array_equal(*images)

  # -- One process of several

  def _together(self, workdir, victim: int | None = None,
                after: float = 0.0) -> float | None:
    """Trains with two processes; the seconds it took, None if one died."""
    argvs = rehearse_pod.commands(2, rehearse_pod.free_port(), [
        *self._training(workdir), '--config.mesh.data=-1'])
    start = time.monotonic()
    environment = {**os.environ, 'PYTHONPATH': str(runs.ROOT),
                   **rehearse_pod.settings(1)}
    with rehearse_pod.Pod(argvs, environment) as pod:
      if victim is not None:
        while time.monotonic() < start + after and not pod.ended():
          time.sleep(0.01)
        if not pod.ended():
          os.killpg(pod.processes[victim].pid, signal.SIGKILL)
          # The other waits for it; the scheduler ends that.
          time.sleep(self.random.uniform(0.0, 1.0))
          return None
      code = rehearse_pod.wait(pod, 300.0, 15.0, [])
      assert code == cli.DONE, code
    return time.monotonic() - start

  def _straight_pod(self) -> tuple[pathlib.Path, float]:
    path = self.folder / 'straight_pod'
    return self._reference('pod', lambda: (
        path, self._together(self.folder / 'warm_pod')
        and self._together(path)))

  def _pod(self, target) -> bool:
    _, seconds = self._straight_pod()
    return self._together(target, self.random.randrange(2),
                          self.random.uniform(0.0, seconds)) is not None

  def _compare_pod(self, target) -> None:
    self._together(target)
    runs.assert_same_run(target, self._straight_pod()[0], STEPS)


def saved(workdir: pathlib.Path) -> bool:
  """Whether a workdir has a checkpoint."""
  return any(path.name.isdigit()
             for path in (workdir / 'checkpoints').glob('*'))


def modified(path: str) -> float:
  """Returns when a path was changed, in seconds; 0 if it is gone."""
  try:
    return os.stat(path).st_mtime
  except OSError:
    return 0.0


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns {name: bytes} of the files of a directory."""
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())
          if path.is_file()}


def official_generator(path) -> None:
  """Writes the weights of pytorch/examples' generator of 64 pixels."""
  import torch

  torch.manual_seed(0)
  module, widths = torch.nn.Module(), (100, 512, 256, 128, 64, 3)
  layers = []
  for i, (fan_in, width) in enumerate(zip(widths, widths[1:], strict=False)):
    layers.append(torch.nn.ConvTranspose2d(
        fan_in, width, 4, 2 if i else 1, 1 if i else 0, bias=False))
    if i < 4:
      layers += [torch.nn.BatchNorm2d(width), torch.nn.ReLU(True)]
  module.main = torch.nn.Sequential(*layers, torch.nn.Tanh())
  torch.save(module.state_dict(), path)


# Of sixty; the first kinds are where a run is for most of its time.
SHARES = {'train': 20, 'save': 14, 'evaluate': 6, 'prepare': 6, 'convert': 6,
          'pod': 8}


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--kills', type=int, default=60)
  parser.add_argument('--kinds', default=','.join(SHARES))
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--out', help='a temporary directory by default')
  args = parser.parse_args(argv)
  kinds = args.kinds.split(',')
  if not set(kinds) <= SHARES.keys():
    parser.error(f'--kinds: expected of {", ".join(SHARES)}')
  folder = args.out or tempfile.mkdtemp(prefix='drills_')
  drills = Drills(folder, args.seed)
  total = sum(SHARES[kind] for kind in kinds)
  with runs.compile_cache(drills.folder / 'cache'):
    for kind in kinds:
      drills.run(kind, -(-args.kills * SHARES[kind] // total))
  print('kind      kills  after it had begun to write  compared')
  for kind in kinds:
    print(f'{kind:9} {drills.kills[kind]:5}  {drills.progress[kind]:27}  '
          f'{drills.rounds[kind]:8}')
  print(f'together  {sum(drills.kills.values()):5}')
  if not args.out:
    shutil.rmtree(folder)
  return 0


if __name__ == '__main__':
  sys.exit(main())
