"""What a workdir tells about its run, as far as it can be read.

A run may be going on, may have been killed in the middle of a line, or may
have files that something has damaged: what cannot be read becomes a note.
"""

import dataclasses
import functools
import json
import math
import os
import socket
from typing import Any

from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.core import logging as logging_lib
from gans_jax.core import workdir as workdir_lib
from gans_jax.reporting import log_file
from gans_jax.reporting import sheets as sheets_lib

RESULTS = 'evaluations.jsonl'


@dataclasses.dataclass
class Run:
  """One workdir.

  Attributes:
    path: absolute.
    name: short, and of no other run of the page.
    record: config.json; {} if it is damaged.
    config: {dotted key: value}, with what later starts changed.
    starts: lines of config_history.jsonl: later starts that changed it.
    points: lines of metrics.jsonl: 'step', 'kimg' (None where it is not
      recorded) and floats by name; NaN for null.
    results: lines of evaluations.jsonl that have a metric and a step.
    log: messages of log.txt.
    sheets: sample grids.
    checkpoints: steps.
    meta: what the newest checkpoint says of itself.
    lock: who trains here, as .lock tells; {} if nobody.
    notes: what is missing or damaged.
  """

  path: str
  name: str
  record: dict[str, Any]
  config: dict[str, Any]
  starts: list[dict]
  points: list[dict]
  results: list[dict]
  log: list[log_file.Said]
  sheets: list[sheets_lib.Sheet]
  checkpoints: list[int]
  meta: dict[str, Any]
  lock: dict[str, Any]
  notes: list[str]

  @property
  def step(self) -> int:
    """Steps done, as far as anything tells."""
    return max([p['step'] for p in self.points] + self.checkpoints
               + [s.step for s in self.sheets], default=0)

  @functools.cached_property
  def _kimg(self) -> dict[int, float]:
    found = {}
    for point in self.points:
      if point['kimg'] is not None:
        found[point['step']] = point['kimg']
    for result in self.results:
      seen = number(flat(result).get('fake.images_seen'))
      if math.isfinite(seen):
        found.setdefault(result['step'], seen / 1000)
    return found

  def kimg(self, step: int) -> float:
    """Thousands of images seen by `step`.

    That of the record; else by the rule of three from the nearest record,
    for batches may have grown; else steps times batch size.
    """
    if step in self._kimg:
      return self._kimg[step]
    known = [s for s in self._kimg if s > 0]
    if known:
      near = min(known, key=lambda s: abs(s - step))
      kimg = self._kimg[near] * step / near
    else:
      kimg = step * number(self.config.get('batch_size')) / 1000
    return kimg if math.isfinite(kimg) else float(step)

  @property
  def share(self) -> float | None:
    """Of the length that the config asks for, 1 when complete."""
    for key, done in (('total_steps', self.step),
                      ('total_kimg', self.kimg(self.step))):
      total = number(self.config.get(key))
      if total > 0:
        return min(1.0, done / total)
    return None

  @property
  def status(self) -> str:
    """'complete', 'training', 'stopped' or 'not started', with what is known.
    """
    if self.share is not None and self.share >= 1:
      return 'complete'
    if self.lock:
      pid, host = self.lock.get('pid'), str(self.lock.get('host'))
      if host == socket.gethostname() and not _alive(pid):
        return 'killed; the same command goes on'
      return f'training (process {pid} on {host})'
    if not self.points and not self.checkpoints:
      return 'not started'
    return 'stopped; the same command goes on'


def expand(paths: list[str]) -> list[str]:
  """Returns the workdirs that directories stand for.

  Args:
    paths: workdirs, or directories of workdirs (of a sweep).

  Raises:
    UserError: one is neither.
  """
  found = []
  for path in paths:
    path = os.path.abspath(os.path.expanduser(path))
    inside = []
    if os.path.isdir(path) and not _is_workdir(path):
      inside = [os.path.join(path, name) for name in sorted(os.listdir(path))
                if _is_workdir(os.path.join(path, name))]
      if not inside:
        raise errors.UserError(
            f'{path} has no {workdir_lib.CONFIG} and no directory in it has '
            'one, so it is neither the workdir of a run nor a directory of '
            'workdirs. Give the directory that --workdir named in training.')
    found += inside or [path]
  return list(dict.fromkeys(found))


def _is_workdir(path: str) -> bool:
  return os.path.isfile(os.path.join(path, workdir_lib.CONFIG))


def names(paths: list[str]) -> list[str]:
  """Returns the shortest ends of paths that tell them apart."""
  parts = [path.strip(os.sep).split(os.sep) for path in paths]
  found = []
  for one in parts:
    ends = range(1, len(one) + 1)
    found.append(os.sep.join(next(
        (one[-n:] for n in ends
         if sum(other[-n:] == one[-n:] for other in parts) == 1), one)))
  return found


def read(path: str, name: str) -> Run:
  """Reads a workdir.

  Args:
    path: of the workdir.
    name: for `Run.name`.

  Raises:
    UserError: it is not a workdir of this program.
  """
  notes = []
  record, config = _config(path, notes)
  starts = _starts(path, notes)
  points, odd = [], 0
  for values in _lines(path, logging_lib.METRICS, notes):
    point = _point(values)
    odd += point is None
    points += [point] if point else []
  results = []
  for result in _lines(path, RESULTS, notes):
    good = (isinstance(result.get('metric'), str) and _is_step(
        result.get('step')))
    odd += not good
    results += [result] if good else []
  if odd:
    notes.append(f'{odd} lines of {logging_lib.METRICS} and {RESULTS} are not '
                 'records of a run; they are left out.')
  sheets, more = sheets_lib.find(path)
  checkpoints, meta = _checkpoints(path, notes)
  log = log_file.read(path)
  for missing, what in ((not points, logging_lib.METRICS),
                        (not log, logging_lib.LOG)):
    if missing:
      notes.append(f'There is nothing in {what} yet.')
  points.sort(key=lambda point: point['step'])
  return Run(path, name, record, config, starts, points, results, log, sheets,
             checkpoints, meta, _lock(path),
             [*notes, *more, *_not_finite(points)])


def flat(values: dict[str, Any]) -> dict[str, Any]:
  """`workdir.flatten`, of keys that are text in any case."""
  return workdir_lib.flatten(values)


def number(value: Any) -> float:
  """Returns a JSON number as a float; NaN of anything else."""
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return math.nan
  try:
    return float(value)
  except OverflowError:
    return math.nan


def _config(path: str, notes: list[str]) -> tuple[dict, dict]:
  name = os.path.join(path, workdir_lib.CONFIG)
  try:
    with open(name, encoding='utf-8') as f:
      record = json.load(f)
  except FileNotFoundError:
    workdir_lib.read_config(path)  # refuses it
    raise
  except (OSError, ValueError, RecursionError) as error:
    notes.append(f'{workdir_lib.CONFIG} cannot be read ({error}): nothing is '
                 'known of the config, the command and the versions.')
    return {}, {}
  workdir_lib.read_config(path)  # refuses what is of another program
  return record, flat(workdir_lib.latest_config(path))


def _starts(path: str, notes: list[str]) -> list[dict]:
  """Later starts that changed the config: 'changed' is {key: [before, now]}.
  """
  lines = _lines(path, workdir_lib.HISTORY, notes)
  good = [line for line in lines
          if isinstance(line.get('changed'), dict) and all(
              isinstance(pair, list) and len(pair) == 2
              for pair in line['changed'].values())]
  if len(good) < len(lines):
    notes.append(f'{len(lines) - len(good)} lines of {workdir_lib.HISTORY} are '
                 'damaged; what they changed of the config is not known.')
  return good


def _lines(path: str, name: str, notes: list[str]) -> list[dict]:
  try:
    found, damaged = files.read_json_lines(os.path.join(path, name))
  except OSError as error:
    notes.append(f'{name} cannot be read: {error.strerror or error}.')
    return []
  if damaged:
    notes.append(f'{damaged} lines of {name} are damaged; they are left out.')
  return found


def _is_step(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and (
      0 <= value < 2**53)


def _point(values: dict) -> dict | None:
  """A line of metrics.jsonl with floats only; None if it is none."""
  if not _is_step(values.get('step')):
    return None
  kimg = number(values.get('kimg'))
  point = {'step': values['step'], 'kimg': (
      kimg if 0 <= kimg < math.inf else None)}
  for name, value in values.items():
    if name not in ('step', 'kimg') and (
        value is None or math.isfinite(number(value))):
      point[name] = number(value)
  return point


def _checkpoints(path: str, notes: list[str]) -> tuple[list[int], dict]:
  """Steps that are saved, and the newest one's meta."""
  folder = os.path.join(path, 'checkpoints')
  try:
    steps = sorted(int(name) for name in os.listdir(folder)
                   if name.isascii() and name.isdigit() and len(name) < 16)
  except OSError:
    return [], {}
  for step in reversed(steps):
    name = os.path.join(folder, str(step), 'meta', 'metadata')
    try:
      with open(name, encoding='utf-8') as f:
        meta = json.load(f)
      if isinstance(meta, dict):
        return steps, meta
    except FileNotFoundError:
      # It is being written, or was removed to make room for a newer one.
      continue
    except (OSError, ValueError, RecursionError) as error:
      notes.append(f'checkpoints/{step}/meta cannot be read: {error}.')
  return steps, {}


def _lock(path: str) -> dict[str, Any]:
  """What the process that trains here has written of itself."""
  try:
    with open(os.path.join(path, workdir_lib.LOCK), 'rb') as f:
      found = json.loads(f.read(1000))
  except (OSError, ValueError, RecursionError):
    return {}
  return found if isinstance(found, dict) else {}


def _alive(pid: Any) -> bool:
  """Whether there is a process of this number here."""
  if not _is_step(pid) or pid == 0:
    return False
  try:
    os.kill(pid, 0)
  except (ProcessLookupError, OverflowError):
    return False
  except OSError:
    pass  # It is another user's.
  return True


def _not_finite(points: list[dict]) -> list[str]:
  """A note on each curve that has NaN or infinity."""
  found: dict[str, list[int]] = {}
  for point in points:
    for name, value in point.items():
      if value is not None and math.isnan(value):
        found.setdefault(name, []).append(point['step'])
  return [f'{name} is NaN or infinite at {len(steps)} logged steps, first at '
          f'step {steps[0]}.' for name, steps in found.items()]
