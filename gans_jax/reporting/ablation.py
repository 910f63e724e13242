"""Rows of an experiment: the paper's published figures, and runs beside them.

`ROWS` of a file in experiments/ has the figures, under keys that start with
'paper/' (`config.row`). Which row a run is, the command in its config.json
tells. Only files of this source tree's experiments/ are run, or the one that
the user names: the command in a stranger's workdir decides nothing.
"""

import dataclasses
import fnmatch
import json
import os
from typing import Any

import gans_jax
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.reporting import run as run_lib

_FIGURE = 'paper/'
# Keys that do not decide what is trained; one run of a row may differ.
_HOW = ('seed', '*_every', 'keep', 'evaluate.*', 'sample.*', 'alarms.*',
        'compile.*', 'mesh.*', 'data.workers', 'data.prefetch',
        'data.data_dir', 'data.skip_corrupt')


@dataclasses.dataclass
class Row:
  """One row of an experiment.

  Attributes:
    name: as in `row=NAME`.
    published: {figure: text}, of the paper.
    runs: (index of the run, {key: (the row's value, the run's)}).
  """

  name: str
  published: dict[str, str]
  runs: list[tuple[int, dict[str, tuple[Any, Any]]]] = dataclasses.field(
      default_factory=list)


@dataclasses.dataclass
class Experiment:
  """A config file and the runs of the page that are of it.

  Attributes:
    file: 'experiments/P/F.py'.
    description: its docstring: what is published, and how sure that is.
    rows: in the paper's order; one without a name where it has no ROWS.
    notes: what could not be found out.
  """

  file: str
  description: str
  rows: list[Row]
  notes: list[str] = dataclasses.field(default_factory=list)

  @property
  def figures(self) -> list[str]:
    return list(dict.fromkeys(f for row in self.rows for f in row.published))


def collect(runs: list[run_lib.Run], given: str = '') -> list[Experiment]:
  """Finds the experiments that runs are of.

  Args:
    runs: of the page.
    given: a config file to take for all of them.

  Raises:
    UserError: `given` is not a config file.
  """
  found: dict[str, Experiment] = {}
  modules = {}
  for index, run in enumerate(runs):
    spec, _, arg = _spec(run).partition(':')
    path = given or _ours(spec)
    if path not in modules:
      try:
        modules[path] = config_lib.load_module(path) if path else None
      except errors.UserError:
        if given:
          raise
        modules[path] = None
    module = modules[path]
    if module is None:
      continue
    experiment = found.setdefault(path, Experiment(
        given or spec[spec.rindex('experiments'):],
        (module.__doc__ or '').strip(), _rows(module)))
    try:
      name, values = _which(module, arg)
    except (errors.UserError, AttributeError, KeyError, TypeError) as error:
      experiment.notes.append(
          f'{run.name}: its arguments {arg!r} are not of this file today '
          f'({error}).')
      continue
    if name not in [row.name for row in experiment.rows]:
      experiment.notes.append(f'{run.name}: it is of no row.')
      continue
    row = next(row for row in experiment.rows if row.name == name)
    row.runs.append((index, differences(values, run.config)))
  return list(found.values())


def differences(row: dict[str, Any], run: dict[str, Any]
                ) -> dict[str, tuple[Any, Any]]:
  """Returns {key: (row's, run's)} of what decides what is trained.

  A key that only one of them has is of another version, and says nothing.
  """
  return {key: pair for key, pair in config_lib.diff(row, run).items()
          if key in row and key in run
          and not any(fnmatch.fnmatchcase(key, how) for how in _HOW)}


def _spec(run: run_lib.Run) -> str:
  """The value of --config in the run's command; or ''."""
  command = run.record.get('command')
  if not isinstance(command, list):
    return ''
  words = [word for word in command if isinstance(word, str)]
  for i, word in enumerate(words):
    if word.startswith('--config='):
      return word.removeprefix('--config=')
    if word == '--config' and i + 1 < len(words):
      return words[i + 1]
  return ''


def _ours(path: str) -> str:
  """Returns where a config file lies in this source tree; '' if nowhere."""
  parts = path.split('/')
  if 'experiments' not in parts:
    return ''
  last = len(parts) - 1 - parts[::-1].index('experiments')
  folder = os.path.realpath(os.path.join(
      os.path.dirname(os.path.dirname(gans_jax.__file__)), 'experiments'))
  found = os.path.realpath(os.path.join(folder, *parts[last + 1:]))
  inside = os.path.commonpath([folder, found]) == folder
  return found if inside and os.path.isfile(found) else ''


def _rows(module) -> list[Row]:
  rows = getattr(module, 'ROWS', {})
  return [Row(name, {key.removeprefix(_FIGURE): _text(value)
                     for key, value in values.items()
                     if key.startswith(_FIGURE)})
          for name, values in rows.items()] or [Row('', {})]


def _text(value: Any) -> str:
  if isinstance(value, (tuple, list)):
    return ' / '.join(map(_text, value))
  return value if isinstance(value, str) else json.dumps(value)


def _which(module, arg: str) -> tuple[str, dict[str, Any]]:
  """Returns the row that arguments mean, and that row's config, flat.

  Flags (debug, cpu) are left out: what they change is a difference.
  """
  items = [item for item in arg.split(',') if '=' in item]
  values = _config(module, items)
  rows = getattr(module, 'ROWS', {})
  named = [item.removeprefix('row=') for item in items
           if item.startswith('row=')]
  if named or not rows:
    return (named or [''])[-1], values
  for name in rows:
    if _config(module, [*items, f'row={name}']) == values:
      return name, values
  return '', values


def _config(module, items: list[str]) -> dict[str, Any]:
  config = module.get_config(','.join(items))
  return run_lib.flat(config_lib.to_json(config))
