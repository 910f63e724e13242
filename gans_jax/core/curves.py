"""Pictures of numbers: a run's curves, a cloud of points."""

import io
import math
import os

import numpy as np

from gans_jax.core import files
from gans_jax.core import logging as logging_lib

CURVES = 'curves.png'
# How generated images were sampled, as results record it.
_OPTIONS = ('weights', 'batch_norm', 'truncation', 'labels', 'seed')


def plot(workdir: str, out: str | None = None) -> str | None:
  """Draws metrics.jsonl and evaluations.jsonl, over kimg.

  One panel for each group of names.

  Args:
    workdir: of the run.
    out: the PNG; curves.png in the workdir by default.

  Returns:
    The path of the picture; None if there is nothing to draw.

  Raises:
    UserError: the picture cannot be written.
  """
  records = logging_lib.read_metrics(workdir)
  measured = evaluations(workdir)
  if measured:  # They hold what training has measured, and more.
    records = [{name: value for name, value in record.items()
                if not name.startswith('metric/')} for record in records]
  groups = series([*records, *measured])
  if not groups:
    return None
  # The classes themselves: pyplot would pick a window system and keep state.
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  columns = min(3, len(groups))
  rows = math.ceil(len(groups) / columns)
  sheet = figure.Figure(figsize=(5 * columns, 3.4 * rows),
                        layout='constrained')
  backend_agg.FigureCanvasAgg(sheet)
  for i, (group, curves) in enumerate(groups.items()):
    axes = sheet.add_subplot(rows, columns, i + 1)
    for name, (x, y) in curves.items():
      lonely = np.isfinite(y).sum() == 1
      axes.plot(x, y, label=name, linewidth=1, marker='o' if lonely else None)
    axes.set_title(group)
    axes.set_xlabel('thousand images')
    axes.grid(alpha=0.3)
    if len(curves) <= 12:
      axes.legend(fontsize='small')
  stream = io.BytesIO()
  sheet.savefig(stream, format='png', dpi=90)
  out = out or os.path.join(workdir, CURVES)
  files.write_atomic(out, stream.getvalue())
  return out


def evaluations(workdir: str) -> list[dict]:
  """Returns results of evaluations.jsonl as records of metrics.jsonl.

  A metric measured otherwise than at first (truncated, of other weights, ...)
  is a curve of its own, which says so.
  """
  # A process that was killed may have left half a line.
  results, _ = files.read_json_lines(
      os.path.join(workdir, 'evaluations.jsonl'))
  # Others may have written there too: what is no result is passed over.
  results = [r for r in results if isinstance(r.get('metric'), str)
             and isinstance(r.get('step'), int)
             and isinstance(r.get('fake', {}), dict)
             and logging_lib.is_number(r.get('value'))
             and logging_lib.is_number(
                 r.get('fake', {}).get('images_seen', 0))
             and isinstance(r.get('fake', {}).get('options', {}), dict)]
  found = {}
  for result in results:
    fake, first = (r.get('fake', {}) for r in (result, results[0]))
    marks = [f'{name} {fake[name]}' for name in _OPTIONS
             if name in fake and fake[name] != first.get(name)]
    marks += [f'{name} {value}' for name, value in
              fake.get('options', {}).items()]
    name = ', '.join([result['metric'], *marks])
    # The newest of a step counts.
    found[result['step'], name] = {
        'step': result['step'], 'kimg': fake.get('images_seen', 0) / 1000,
        f'metric/{name}': result['value']}
  return [found[key] for key in sorted(found)]


def series(records: list[dict]) -> dict[str, dict[str, tuple]]:
  """Sorts records into curves.

  Args:
    records: of `logging.read_metrics`.

  Returns:
    {group: {name: (x, y)}}: float arrays of equal length, x in kimg (steps
    where that is missing), NaN where the record has null. 'loss/d' is curve
    'd' of group 'loss'; a name without a slash is a group of its own.
  """
  groups = {}
  for record in records:
    x = record.get('kimg', record['step'])
    for name, value in record.items():
      if name in ('step', 'kimg'):
        continue
      group, _, curve = name.partition('/')
      xs, ys = groups.setdefault(group, {}).setdefault(
          curve or group, ([], []))
      xs.append(x)
      ys.append(math.nan if value is None else value)
  return {
      group: {name: (np.asarray(xs, float), np.asarray(ys, float))
              for name, (xs, ys) in curves.items()}
      for group, curves in groups.items()
  }


def scatter(points: np.ndarray, limit: float | None = None,
            size: int = 512) -> np.ndarray:
  """Draws points of the plane, the darker the denser.

  Args:
    points: floats [N, 2]; those that are not finite are left out.
    limit: the picture shows [-limit, limit] in both directions; by default
      the least of 1, 2, 3, 4, 5, 6, 8, 10 times a power of ten that holds 99 %
      of the points with some room, so that pictures of a run are alike.
    size: pixels.

  Returns:
    uint8 [size, size, 3], the second coordinate upwards.
  """
  points = np.asarray(points, np.float64).reshape(-1, 2)
  points = points[np.isfinite(points).all(1)]
  if limit is None:
    limit = _round_up(
        1.1 * np.quantile(np.abs(points).max(1), 0.99) if len(points) else 1.)
  inside = np.abs(points).max(1, initial=0.) <= limit
  column, row = ((points[inside] * [1, -1] / limit + 1) / 2
                 * (size - 1)).round().astype(int).T
  counts = np.zeros((size, size))
  # A dot is a square of 3 pixels: one alone would not be seen.
  for dy in (-1, 0, 1):
    for dx in (-1, 0, 1):
      np.add.at(counts, ((row + dy).clip(0, size - 1),
                         (column + dx).clip(0, size - 1)), 1)
  ink = 1 - 0.6 ** counts[..., None]
  sheet = np.full((size, size, 3), 255.)
  sheet[size // 2] = sheet[:, size // 2] = 225.
  sheet = sheet * (1 - ink) + np.array([31., 81., 158.]) * ink
  return sheet.round().astype(np.uint8)


def _round_up(x: float) -> float:
  if not x > 0:
    return 1.
  power = 10. ** math.floor(math.log10(x))
  return next((m * power for m in (1, 2, 3, 4, 5, 6, 8) if m * power >= x),
              10 * power)
