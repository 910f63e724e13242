"""Curves as the page's script draws them: panels of lines."""

import math
from typing import Any

import numpy as np

from gans_jax.reporting import measured as measured_lib
from gans_jax.reporting import run as run_lib

# Points of a line: twice the width of a panel, or so.
MOST = 1200
# Groups that stand first, and the one that stands last; others follow as they
# were logged.
_FIRST = ('metric', 'loss')
_LAST = 'perf'


def panels(runs: list[run_lib.Run], measured: list[measured_lib.Measured]
           ) -> list[dict[str, Any]]:
  """Returns what is drawn.

  Of one run, a panel is a group of names ('loss': d and g); of several, one
  name, and each run a line.

  Args:
    runs: of the page.
    measured: their results, of `measured.collect`.

  Returns:
    Panels: 'title', 'measured' (whether it is a metric), 'floors' (values of
    dashed lines), 'lines', each with
    'key' (lines of one key are shown and hidden together), 'label', 'colour'
    (a number), 'step', 'kimg' and 'y' (None for what is not finite).
  """
  several = len(runs) > 1
  found = []
  for one in measured:
    lines = [_line(
        runs[i].name if several else one.label, i if several else 0,
        f'run {i}' if several else f'metric {one.label}',
        [v.step for v in values], [v.kimg for v in values],
        [v.value for v in values]) for i, values in one.values.items()]
    floors = {v.floor for values in one.values.values() for v in values
              if math.isfinite(v.floor)}
    found.append({
        'title': one.label, 'measured': True, 'lines': lines,
        'floors': sorted(_round(floor) for floor in floors)})
  # Results hold what training has measured, and more.
  skip = 'metric' if measured else None
  groups: dict[str, dict[tuple[int, str], tuple]] = {}
  for i, run in enumerate(runs):
    for point in run.points:
      for name, value in point.items():
        group, _, curve = name.partition('/')
        if name in ('step', 'kimg') or group == skip:
          continue
        xs, ys = groups.setdefault(name if several else group, {}).setdefault(
            (i, curve or group), ([], []))
        xs.append(point['step'])
        ys.append(value)
  for title in sorted(groups, key=_rank):
    lines = []
    for n, ((i, curve), (xs, ys)) in enumerate(groups[title].items()):
      lines.append(_line(
          runs[i].name if several else curve, i if several else n,
          f'run {i}' if several else f'{title} {curve}',
          xs, [runs[i].kimg(x) for x in xs], ys))
    found.append({'title': title, 'measured': False, 'floors': [],
                  'lines': lines})
  return found


def last_values(runs: list[run_lib.Run]) -> list[tuple[str, list[str]]]:
  """Returns (name, its newest value in each run), for tables."""
  newest: dict[str, dict[int, float]] = {}
  for i, run in enumerate(runs):
    for point in run.points:
      for name, value in point.items():
        if name not in ('step', 'kimg'):
          newest.setdefault(name, {})[i] = value
  return [(name, [f'{newest[name][i]:.4g}' if i in newest[name] else ''
                  for i in range(len(runs))])
          for name in sorted(newest, key=_rank)]


def _rank(name: str) -> int:
  group = name.partition('/')[0]
  if group in _FIRST:
    return _FIRST.index(group)
  return len(_FIRST) + (group == _LAST)


def _line(label, colour, key, steps, kimg, ys) -> dict[str, Any]:
  kept = thin(np.asarray(ys, float), MOST)
  return {'label': label, 'colour': colour, 'key': key,
          'step': [steps[i] for i in kept],
          'kimg': [_round(kimg[i]) for i in kept],
          'y': [_round(ys[i]) for i in kept]}


def _round(value: float) -> float | None:
  return float(f'{value:.7g}') if math.isfinite(value) else None


def thin(y: np.ndarray, most: int) -> list[int]:
  """Returns indices of at most `most` points that keep a line's shape.

  Those of the least and the greatest value of each stretch, and both ends.

  Args:
    y: float [N]; of a stretch that is all NaN, the first is kept.
    most: 4 or more.
  """
  if len(y) <= most:
    return list(range(len(y)))
  kept = {0, len(y) - 1}
  edges = np.linspace(0, len(y), (most - 2) // 2 + 1).astype(int)
  for start, stop in zip(edges[:-1], edges[1:], strict=True):
    stretch = y[start:stop]
    if np.isfinite(stretch).any():
      kept |= {start + int(np.nanargmin(stretch)),
               start + int(np.nanargmax(stretch))}
    else:
      kept.add(int(start))
  return sorted(kept)
