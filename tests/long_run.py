"""A small run of 5,000 steps: what it costs beside its steps, what it leaks.

  python tests/long_run.py --steps=5000
  python tests/long_run.py --config=experiments/quickstart.py --steps=200

Trains and looks on: resident memory, open files and threads of the process
at a fifth of the steps and at the end, programs that were compiled between,
and the time that the loop of train.py spends outside the device's steps. A
step is the time from the call of the compiled function until its result is
there; the loop is told to wait for each, so that nothing overlaps. The share
is an upper bound: on an accelerator the host works while the device does.

Exits with 1 if memory grew by more than 2%, or files, threads or programs
appeared.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import jax
import runs

from gans_jax import main as main_lib
from gans_jax.core import cli

SMALL = ('--config.log_every=10', '--config.sample_every=500',
         '--config.checkpoint_every=500', '--config.alarms.collapse=off')


def resident() -> int:
  """Bytes of this process in memory."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


class Watch:
  """Stands before the compiled train step, and notes.

  Attributes:
    device: seconds of each step, from the call to the result.
    times: when each step began.
    marks: {step: (bytes, open files, threads, programs compiled so far)}.
    programs: names of the programs compiled so far.
  """

  def __init__(self, at: tuple[int, ...]):
    self.at = at
    self.device, self.times, self.programs = [], [], []
    self.marks = {}

  def jit(self, function, **options):
    """As jax.jit, but for the train step."""
    compiled = self._jit(function, **options)
    if getattr(function, '__name__', '') != 'train_step':
      return compiled

    def step(*arguments):
      begin = time.perf_counter()
      result = jax.block_until_ready(compiled(*arguments))
      self.device.append(time.perf_counter() - begin)
      self.times.append(begin)
      if len(self.device) in self.at:
        self.marks[len(self.device)] = (
            resident(), len(os.listdir('/proc/self/fd')),
            len(os.listdir('/proc/self/task')), len(self.programs))
      return result

    return step

  def listen(self, event: str, duration: float, **facts) -> None:
    if event.endswith('backend_compile_duration'):
      self.programs.append(str(facts.get('fun_name', '')))

  def __enter__(self) -> 'Watch':
    self._jit, jax.jit = jax.jit, self.jit
    jax.monitoring.register_event_duration_secs_listener(self.listen)
    return self

  def __exit__(self, *unused_exception) -> None:
    jax.jit = self._jit
    jax.monitoring.unregister_event_duration_listener(self.listen)

  def grown(self) -> list[str]:
    """Returns what there is more of at the end than at the first mark."""
    (_, early), (_, late) = sorted(self.marks.items())
    limits = (1.02 * early[0], *early[1:])
    names = ('memory', 'open files', 'threads', 'programs')
    return [name for name, limit, now in zip(names, limits, late, strict=True)
            if now > limit]

  def outside(self, first: int) -> tuple[float, float]:
    """Returns (ms a step outside of the device, share of all time).

    Means over the steps from `first` on, pictures, checkpoints and records
    that are due among them included.
    """
    whole = self.times[-1] - self.times[first]
    device = sum(self.device[first:-1])
    steps = len(self.times) - 1 - first
    return 1000 * (whole - device) / steps, (whole - device) / whole

  def typical(self, first: int) -> float:
    """Returns the median ms outside the device: steps with nothing due."""
    gaps = sorted(b - a - device for a, b, device in zip(
        self.times[first:], self.times[first + 1:], self.device[first:],
        strict=False))
    return 1000 * gaps[len(gaps) // 2]


def run(config: str, workdir, steps: int, *more: str) -> Watch:
  """Trains `steps` steps under watch."""
  with Watch((max(steps // 5, 2), steps)) as watch:
    code = cli.call(main_lib.main, [
        f'--config={config}', f'--workdir={workdir}',
        f'--config.total_steps={steps}', *more])
  assert code == cli.DONE, code
  return watch


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--config', help="a DCGAN of 7,000 parameters by default")
  parser.add_argument('--steps', type=int, default=5000)
  parser.add_argument('--out', help='a temporary directory by default')
  args, more = parser.parse_known_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    config = args.config or runs.write_config(folder)
    if not args.config:
      more = [*SMALL, *more]
    watch = run(config, args.out or f'{folder}/run', args.steps, *more)
  (first, early), (last, late) = sorted(watch.marks.items())
  grown = watch.grown()
  print(f'after {first:,} and {last:,} steps: resident '
        f'{early[0] / 2**20:.0f} and {late[0] / 2**20:.0f} MiB, '
        f'{early[1]} and {late[1]} open files, {early[2]} and {late[2]} '
        f'threads, {early[3]} and {late[3]} programs compiled')
  ms, share = watch.outside(min(10, first))
  median = 1000 * sorted(watch.device)[len(watch.device) // 2]
  print(f'a step takes {median:.1f} ms; outside of it the loop takes '
        f'{watch.typical(min(10, first)):.2f} ms, and {ms:.2f} ms with '
        f'pictures, checkpoints and records: {share:.1%} of the time')
  if grown:
    print(f'grown: {", ".join(grown)}')
  return 1 if grown else 0


if __name__ == '__main__':
  sys.exit(main())
