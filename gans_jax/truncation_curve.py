"""Fidelity against variety: a generator's metrics over truncations.

BigGAN's figure 16 has FID over the Inception Score, a point for each
truncation; precision over recall shows the same. Standing statistics, if asked
for, are each truncation's own.
"""

from collections.abc import Callable
from collections.abc import Sequence
import io
import os
import re
from typing import Any

from gans_jax.core import errors
from gans_jax.core import files

RESULTS = 'truncation_curve.jsonl'
PICTURE = 'truncation_curve.png'
METRICS = ('fd5k_lite0', 'is5k_lite0', 'pr5k_lite0')

Result = dict[str, Any]


def measure(evaluate: Callable[[float], list[Result]],
            truncations: Sequence[float], workdir: str,
            report: Callable[[Result], None]) -> list[Result]:
  """Evaluates every truncation, and draws what there is.

  Args:
    evaluate: truncation -> results.
    truncations: at least two.
    workdir: where lines are added to truncation_curve.jsonl, and where
      truncation_curve.png is written.
    report: is given every result.

  Returns:
    All results.

  Raises:
    UserError: fewer truncations, or a place that cannot be written.
  """
  from gans_jax import evaluator

  if len(set(truncations)) < 2:
    raise errors.UserError(
        '--truncation_curve needs two truncations or more, such as '
        '2,1,0.5,0.04.')
  found = []
  for truncation in truncations:
    for result in evaluate(truncation):
      evaluator.append(os.path.join(workdir, RESULTS), result)
      report(result)
      found.append(result)
    # After each, for a long measurement may be broken off.
    files.write_atomic(os.path.join(workdir, PICTURE), plot(found))
  return found


def panels(results: Sequence[Result]
           ) -> list[tuple[str, str, list[tuple[float, float, float]]]]:
  """Returns what to draw: (name of x, name of y, [(truncation, x, y)]).

  A distance over an inception score, precision over recall; where there is
  neither, each metric over the truncation.
  """
  values: dict[str, dict[float, float]] = {}
  distances, scores, pairs = [], [], []
  for result in results:
    name, truncation = result['metric'], result['fake']['truncation']
    values.setdefault(name, {})[truncation] = result['value']
    if 'floor' in result and name not in distances:
      distances.append(name)
    if re.fullmatch(r'(\w+_)?is(inf)?\d+k?(_\w+)?', name) and (
        name not in scores):
      scores.append(name)
    if {'precision', 'recall'} <= result.get('values', {}).keys():
      pair = tuple(f'{key} ({name})' for key in ('recall', 'precision'))
      for key, long in zip(('recall', 'precision'), pair, strict=True):
        values.setdefault(long, {})[truncation] = result['values'][key]
      if pair not in pairs:
        pairs.append(pair)
  wanted = [(x, y) for y in distances for x in scores] + pairs
  if not wanted:
    return [('truncation', name, [(t, t, y) for t, y in sorted(ys.items())])
            for name, ys in values.items()]
  return [(x, y, [(t, values[x][t], values[y][t])
                  for t in sorted(values[x].keys() & values[y].keys())])
          for x, y in wanted]


def plot(results: Sequence[Result]) -> bytes:
  """Draws `panels`, a point for each truncation; returns a PNG."""
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  drawn = panels(results)
  sheet = figure.Figure(figsize=(5 * len(drawn), 4), layout='constrained')
  backend_agg.FigureCanvasAgg(sheet)
  for i, (name_x, name_y, points) in enumerate(drawn):
    axes = sheet.add_subplot(1, len(drawn), i + 1)
    axes.plot([x for _, x, _ in points], [y for _, _, y in points],
              marker='o', linewidth=1)
    for truncation, x, y in points:
      axes.annotate(f'{truncation:g}', (x, y), xytext=(5, 5),
                    textcoords='offset points', fontsize='small')
    axes.set_xlabel(name_x)
    axes.set_ylabel(name_y)
    axes.margins(0.12)  # room for the numbers beside the points
    axes.grid(alpha=0.3)
  stream = io.BytesIO()
  sheet.savefig(stream, format='png', dpi=90)
  return stream.getvalue()
