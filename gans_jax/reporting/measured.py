"""Metrics by protocol: only numbers of one protocol stand in one table.

A protocol is the name of a metric and every recorded option; what differs
between two results of one measurement (step, value, time) is none of it.
"""

import dataclasses
import functools
import json
import math
from typing import Any

from gans_jax.core import errors
from gans_jax.reporting import run as run_lib

# What of a result is not its protocol; with all that is below these keys.
_RESULT = ('metric', 'value', 'values', 'floor', 'step', 'seconds',
           # How it was computed, which is not what.
           'route', 'real.cached', 'fake.step', 'fake.images_seen',
           # Results of points once had these at the top.
           'images_seen')
_ABSENT = 'not recorded'


@dataclasses.dataclass(frozen=True)
class Value:
  """One result.

  Attributes:
    step: steps done.
    kimg: thousands of images seen.
    value: NaN where it was not finite.
    std: its standard deviation, NaN where it has none.
    floor: of real images to real ones; NaN where there is none.
    floor_note: what is the matter with the floor, or ''.
    seconds: that it took; NaN where it does not say.
  """

  step: int
  kimg: float
  value: float
  std: float = math.nan
  floor: float = math.nan
  floor_note: str = ''
  seconds: float = math.nan


@dataclasses.dataclass
class Measured:
  """All results of one protocol.

  Attributes:
    name: the metric; 'pr5k: recall' of a metric with several values.
    protocol: {dotted key: recorded value}.
    marks: the part of the protocol that tells it from others of this name.
    better: 'min', 'max' or '' (not known).
    values: {index of the run: results, by step}.
  """

  name: str
  protocol: dict[str, Any]
  better: str
  marks: dict[str, Any] = dataclasses.field(default_factory=dict)
  values: dict[int, list[Value]] = dataclasses.field(default_factory=dict)

  @property
  def label(self) -> str:
    """The name, with the marks."""
    return ', '.join([self.name, *(
        f'{key} {short(value)}' for key, value in self.marks.items())])

  def best(self, index: int) -> Value | None:
    """The best result of a run, where it is known what is better."""
    finite = [v for v in self.values.get(index, ())
              if math.isfinite(v.value)]
    if not finite or not self.better:
      return None
    return (min if self.better == 'min' else max)(
        finite, key=lambda v: v.value)


def collect(runs: list[run_lib.Run]) -> list[Measured]:
  """Sorts the results of runs by protocol, in the order they were asked."""
  found: dict[tuple[str, str], Measured] = {}
  for index, run in enumerate(runs):
    for result in run.results:
      facts = run_lib.flat(result)
      protocol = {key: value for key, value in facts.items()
                  if not _is_result(key)}
      identity = json.dumps(protocol, sort_keys=True)
      floor = result.get('floor')
      floor = floor if isinstance(floor, dict) else {}
      for part, value, std, first in _values(result):
        name = result['metric'] + (f': {part}' if part else '')
        measured = found.setdefault((name, identity), Measured(
            name, protocol, _better(result['metric']) if first else ''))
        # Of a step that was measured again, the newest counts.
        of_run = measured.values.setdefault(index, [])
        of_run[:] = [v for v in of_run if v.step != result['step']]
        of_run.append(Value(
            result['step'], run.kimg(result['step']), value, std,
            run_lib.number(floor.get('value')) if first else math.nan,
            _floor_note(floor) if first else '', _seconds(result)))
  for measured in found.values():
    for of_run in measured.values.values():
      of_run.sort(key=lambda v: v.step)
  _mark(list(found.values()))
  return list(found.values())


def short(value: Any) -> str:
  """A recorded value in a few characters."""
  text = value if isinstance(value, str) else json.dumps(value)
  return text if len(text) <= 24 else f'{text[:12]}…'


def _is_result(key: str) -> bool:
  return any(key == name or key.startswith(f'{name}.') for name in _RESULT)


def _values(result) -> list[tuple[str, float, float, bool]]:
  """(name, value, standard deviation, whether it is `value`) of a result.

  A metric of one value has no name but its own.
  """
  values = result.get('values')
  parts = {} if not isinstance(values, dict) else {
      name: run_lib.number(value) for name, value in values.items()}
  std = parts.pop('std', math.nan)
  main = run_lib.number(result.get('value'))
  if len(parts) < 2:
    return [('', main, std, True)]
  # Not the first of them: lines are written with their keys sorted.
  return [(name, value, std if value == main else math.nan, value == main)
          for name, value in parts.items()]


def _floor_note(floor: dict) -> str:
  note = floor.get('note')
  if isinstance(note, str):
    return note
  return '' if floor.get('same_counts', True) else 'of fewer images'


def _seconds(result) -> float:
  seconds = result.get('seconds')
  if isinstance(seconds, dict):
    return math.fsum(x for x in map(run_lib.number, seconds.values())
                     if math.isfinite(x))
  return run_lib.number(seconds)


@functools.cache
def _better(metric: str) -> str:
  """'min' or 'max', as the choice of the best checkpoint has it; or ''."""
  from gans_jax import evaluator

  if metric.startswith(f'{evaluator.MODES}/'):
    name, better = evaluator.best_metric((evaluator.MODES,))
    return better if metric == name else ''
  try:
    return evaluator.best_metric((metric,))[1]
  except errors.UserError:
    return ''


def _mark(found: list[Measured]) -> None:
  """Finds what tells protocols of one name apart."""
  of_name: dict[str, list[Measured]] = {}
  for measured in found:
    of_name.setdefault(measured.name, []).append(measured)
  for group in of_name.values():
    # How many images there are follows from which they are.
    for key in sorted({key for m in group for key in m.protocol}
                      - {'real.available'}):
      values = [m.protocol.get(key, _ABSENT) for m in group]
      if any(value != values[0] for value in values):
        for m, value in zip(group, values, strict=True):
          m.marks[key] = value
