"""Runs the rows of an experiment with several seeds: here or by a launcher.

  python launch/sweep.py --config=experiments/wgan_gp/emoji64.py:cpu \\
      --rows=pyramid,dcgan --seeds=0-2 --workdir=runs/gp
  python launch/sweep.py --config=FILE.py --rows=all --seeds=0-4 \\
      --workdir=/mnt/shared/runs/x --launcher=slurm -- --nodes=2
  python launch/sweep.py --config=FILE.py --rows=all --workdir=DIR --dry_run

A job is one row with one seed, in the workdir DIR/ROW_seedN. Rows are those
of the file's ROWS, as its argument `row`; --config.KEY=VALUE is for all jobs.
A job whose workdir holds a finished run is skipped, one that was stopped goes
on, and one that fails does not stop the others. So the same command carries
on a sweep that was interrupted.

Launchers: `here` runs the jobs one after the other; `slurm` (sbatch), `gke`
and `xmanager` hand all of them over at once and do not wait; `tpu` trains
them on one pod, one after the other. What follows `--` are options of sbatch,
gke.py, xmanager.py or `tpu_pod.sh watch`; NAME in them is the job's name.

exit codes: 0 all jobs are finished, or handed over; 1 some failed; 2 bad
input; 75 stopped by a signal, or some were (the same command goes on).
"""

from collections.abc import Sequence
import dataclasses
import fcntl
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time

from gans_jax import sample
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import workdir as workdir_lib

HERE = os.path.dirname(os.path.abspath(__file__))
MAIN = (sys.executable, '-m', 'gans_jax.main')
NEW, UNFINISHED, RUNNING, FINISHED = 'new', 'unfinished', 'running', 'finished'
WAITS = ('here', 'tpu')  # launchers that return when the job has ended


@dataclasses.dataclass
class Job:
  """One row with one seed.

  Attributes:
    name: of the folder, and of the job where a launcher wants a name.
    workdir: of the run.
    arguments: the command line of gans_jax.main.
    config: what that will train.
    result: what came of it, for the table.
    seconds: that it took here.
  """

  name: str
  workdir: str
  arguments: list[str]
  config: config_lib.ConfigDict
  result: str = ''
  seconds: float = 0.0


# --- Jobs --------------------------------------------------------------------


def rows_of(spec: str, asked: str | None) -> list[str]:
  """Returns the rows to run; '' stands for a file as it is.

  Args:
    spec: path of the experiment with its arguments, which has been loaded.
    asked: 'all', or names with commas, or None.

  Raises:
    UserError: the file has no such row.
  """
  path = spec.partition(':')[0]
  name = f'gans_jax_config_{os.path.basename(path)[:-3]}'
  known = list(getattr(sys.modules[name], 'ROWS', ()))
  if not asked:
    return ['']
  if not known:
    raise errors.UserError(
        f'--rows is {asked!r}, but {path} has no ROWS: leave --rows out.')
  chosen = known if asked == 'all' else asked.split(',')
  for row in chosen:
    config_lib.row(dict.fromkeys(known, {}), row)
  return chosen


def expand(spec: str, rows: str | None, seeds: Sequence[int] | None,
           folder: str, overrides: Sequence[str]) -> list[Job]:
  """Returns the jobs, whose configs are all valid.

  Args:
    spec: 'FILE.py[:ARGS]'.
    rows: 'all', or names with commas, or None.
    seeds: one job each; None takes the config's own.
    folder: the workdirs go into it.
    overrides: 'a.b=v', for all jobs.

  Raises:
    UserError: what gans_jax.main would refuse of a config.
  """
  config_lib.load(spec)
  jobs = []
  for row in rows_of(spec, rows):
    path, _, arguments = spec.partition(':')
    if row:
      arguments = ','.join(filter(None, [f'row={row}', arguments]))
    full = f'{path}:{arguments}' if arguments else path
    for seed in [None] if seeds is None else seeds:
      changes = [*overrides, *([] if seed is None else [f'seed={seed}'])]
      config = config_lib.apply_overrides(config_lib.load(full), changes)
      config_lib.validate(config)
      name = '_'.join(filter(None, [row, f'seed{config.seed}']))
      workdir = os.path.join(folder, name)
      jobs.append(Job(
          name, workdir,
          [f'--config={full}', f'--workdir={workdir}',
           *(f'--config.{change}' for change in changes)], config))
  return jobs


def state_of(job: Job) -> tuple[str, int | None]:
  """Returns what the workdir of a job tells: (state, step or None).

  Step is that of the newest checkpoint. A run counts as running while its
  lock is held, where the file system has locks.
  """
  steps = [int(name) for name in _names(
      os.path.join(job.workdir, 'checkpoints')) if name.isdigit()]
  step = max(steps, default=None)
  if _locked(job.workdir):
    return RUNNING, step
  if not os.path.exists(os.path.join(job.workdir, workdir_lib.CONFIG)):
    return NEW, None
  if step is None:
    return UNFINISHED, None
  return (FINISHED if _complete(job, step) else UNFINISHED), step


def _complete(job: Job, step: int) -> bool:
  """Whether a checkpoint is the last of its run."""
  if job.config.total_steps:
    return step >= job.config.total_steps
  try:
    # Of a run that grows, images do not follow from the step alone.
    with open(os.path.join(job.workdir, 'checkpoints', str(step), 'meta',
                           'metadata'), encoding='utf-8') as f:
      return json.load(f)['images'] >= job.config.total_kimg * 1000
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _names(path: str) -> list[str]:
  try:
    return os.listdir(path)
  except OSError:
    return []


def _locked(path: str) -> bool:
  try:
    with open(os.path.join(path, workdir_lib.LOCK), encoding='utf-8') as f:
      fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:
    pass  # no lock, or no locks in this file system
  return False


# --- Launchers ---------------------------------------------------------------


def command(job: Job, launcher: str, options: Sequence[str]) -> list[str]:
  """Returns the command that runs a job or hands it over."""
  # Kubernetes takes lower-case names without underscores.
  name = re.sub(r'[^a-z0-9]+', '-', job.name.lower()).strip('-')
  options = [option.replace('NAME', name) for option in options]
  script = {'slurm': 'slurm.sbatch', 'gke': 'gke.py', 'tpu': 'tpu_pod.sh',
            'xmanager': 'xmanager.py', 'here': ''}[launcher]
  script = os.path.join(HERE, script)
  if launcher == 'here':
    return [*MAIN, *job.arguments]
  if launcher == 'slurm':
    return ['sbatch', f'--job-name={job.name}', *options, script,
            *job.arguments]
  if launcher == 'tpu':
    return [script, 'watch', *options, '--', *job.arguments]
  if launcher == 'gke' and not any(x.startswith('--name=') for x in options):
    options = [f'--name={name}', *options]
  return [sys.executable, script, *options, '--', *job.arguments]


def run(argv: Sequence[str], interrupts: list[int]) -> int:
  """Runs a command to its end; returns its exit code, 128 + n of signal n.

  Args:
    argv: the command.
    interrupts: grows by one with each signal to this program. The first is
      passed on as SIGTERM, so that the run saves; the second kills.
  """
  # A session of its own: Ctrl-C reaches it once, through here.
  process = subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                             start_new_session=True)
  passed = 0
  while process.poll() is None:
    if len(interrupts) > passed:
      passed += 1
      if passed == 1:
        process.send_signal(signal.SIGTERM)
      else:
        os.killpg(process.pid, signal.SIGKILL)
    time.sleep(0.05)
  code = process.returncode
  return code if code >= 0 else 128 - code


def sweep(jobs: Sequence[Job], launcher: str, options: Sequence[str],
          interrupts: list[int]) -> int:
  """Runs all jobs that are not finished; returns the exit code.

  Args:
    jobs: their results are filled in.
    launcher: one of `command`.
    options: of the launcher.
    interrupts: as of `run`.
  """
  codes = []
  for i, job in enumerate(jobs):
    state, step = state_of(job)
    if state in (FINISHED, RUNNING):
      job.result = state if state == FINISHED else 'running elsewhere'
      continue
    if interrupts:
      job.result = state
      continue
    going = f', goes on from step {step}' if step else ''
    _say(f'{i + 1} of {len(jobs)}: {job.name}{going}')
    begin = time.monotonic()
    try:
      code = run(command(job, launcher, options), interrupts)
    except OSError as error:
      raise errors.UserError(
          f'{command(job, launcher, options)[0]} cannot be started: '
          f'{error.strerror}. Install it, or choose another --launcher.'
      ) from error
    job.seconds = time.monotonic() - begin
    codes.append(code)
    job.result = _result(code, launcher)
    if code:
      _say(f'{job.name}: {job.result}')
  if any(code not in (cli.DONE, cli.PREEMPTED) for code in codes) and (
      not interrupts):
    return cli.UNEXPECTED
  stopped = interrupts or cli.PREEMPTED in codes
  return cli.PREEMPTED if stopped else cli.DONE


def _result(code: int, launcher: str) -> str:
  if code == cli.DONE:
    return FINISHED if launcher in WAITS else 'handed over'
  words = {cli.BAD_INPUT: 'bad input', cli.ALARM: 'alarm',
           cli.PREEMPTED: 'saved and stopped'}
  return words.get(code, f'failed with exit code {code}')


# --- The table ---------------------------------------------------------------


def table(jobs: Sequence[Job]) -> str:
  """Returns what came of the jobs, a line each.

  The last metrics of a run are those of its evaluations.jsonl.
  """
  lines = [['job', 'result', 'step', 'of', 'time', 'metrics']]
  for job in jobs:
    _, step = state_of(job)
    total = (f'{job.config.total_steps:,}' if job.config.total_steps
             else f'{job.config.total_kimg:,g} kimg')
    metrics = ', '.join(f'{name} {value:.4g}' for name, value in
                        _metrics(job.workdir).items())
    lines.append([
        job.name, job.result, '-' if step is None else f'{step:,}', total,
        f'{job.seconds:.0f} s' if job.seconds else '-', metrics or '-'])
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  return '\n'.join(
      '  '.join(cell.ljust(width) for cell, width in
                zip(line, widths, strict=True)).rstrip() for line in lines)


def _metrics(path: str) -> dict[str, float]:
  """Returns {metric: its newest value} of a run."""
  found = {}
  try:
    with open(os.path.join(path, 'evaluations.jsonl'), encoding='utf-8') as f:
      for line in f:
        try:
          result = json.loads(line)
          if math.isfinite(result['value']):
            found[result['metric']] = result['value']
        except (ValueError, KeyError, TypeError):
          continue  # half a line of a run that was killed
  except OSError:
    pass
  return found


# --- The command -------------------------------------------------------------


def _say(text: str) -> None:
  print(f'[sweep] {text}', file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str]):
  """Returns (our arguments, config overrides, options of the launcher)."""
  argv = list(argv)
  cut = argv.index('--') if '--' in argv else len(argv)
  overrides, rest = config_lib.split_overrides(argv[:cut])
  parser = cli.parser('python launch/sweep.py', __doc__)
  parser.epilog = None
  parser.add_argument('--config', required=True, metavar='FILE.py[:ARGS]')
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='the workdirs of the jobs go into it')
  parser.add_argument('--rows', metavar='A,B',
                      help='of the file, or `all`; default: the file as it is')
  parser.add_argument('--seeds', metavar='0-4,7',
                      help="default: the config's own")
  parser.add_argument('--launcher', default='here',
                      choices=('here', 'slurm', 'tpu', 'gke', 'xmanager'))
  parser.add_argument('--dry_run', action='store_true',
                      help='print state and command of every job, run nothing')
  return parser.parse_args(rest), overrides, argv[cut + 1:]


def main(argv: Sequence[str]) -> int:
  args, overrides, options = _arguments(argv)
  if options and args.launcher == 'here':
    raise errors.UserError(
        f'{options[0]} after `--` is an option of a launcher, and '
        '--launcher is here. What is for gans_jax.main comes before `--`, as '
        '--config.KEY=VALUE.')
  seeds = sample.parse_seeds(args.seeds) if args.seeds else None
  jobs = expand(args.config, args.rows, seeds, args.workdir, overrides)
  if args.dry_run:
    for job in jobs:
      state, step = state_of(job)
      at = '' if step is None else f' at step {step}'
      print(f'# {job.name}: {state}{at}')
      skip = '# ' if state in (FINISHED, RUNNING) else ''
      print(skip + shlex.join(command(job, args.launcher, options)))
    return cli.DONE
  interrupts = []
  before = {number: signal.signal(number, lambda *_: interrupts.append(1))
            for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    code = sweep(jobs, args.launcher, options, interrupts)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  print(table(jobs))
  return code


if __name__ == '__main__':
  cli.run(main)
