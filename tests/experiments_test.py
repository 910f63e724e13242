"""Every experiment file loads, validates in debug form, and says what it is."""

import ast
import dataclasses
import importlib.util
import re
import shlex

import pytest
import runs

from gans_jax import evaluator
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import system as system_lib
from gans_jax.core import tokenizer
from gans_jax.data import pipeline
from gans_jax.data import spec as spec_lib
from gans_jax.data import transforms

pytestmark = pytest.mark.usefixtures('compile_cache')

FOLDER = runs.ROOT / 'experiments'
FILES = sorted(str(path.relative_to(runs.ROOT))
               for path in FOLDER.rglob('*.py'))
# One of each paper.
FIRST = tuple({path.rpartition('/')[0]: path for path in FILES[::-1]}.values())
# Trained in debug form by every test run; the others with `pytest -m slow`.
TRAINED = ('experiments/quickstart.py', 'experiments/toy/ring.py')


def module(path: str):
  spec = importlib.util.spec_from_file_location('experiment', path)
  result = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(result)
  return result


def rows(path: str) -> list[str]:
  return list(getattr(module(runs.ROOT / path), 'ROWS', {}))


ROWS = [(path, row) for path in FILES for row in rows(path)]


def test_there_are_experiments():
  assert set(TRAINED) <= set(FILES)
  assert {path.split('/')[1] for path in FILES} >= {
      'quickstart.py', 'gan', 'cgan', 'dcgan', 'wgan', 'wgan_gp', 'toy'}
  assert len(ROWS) > 20


@pytest.mark.parametrize('path', FILES)
def test_docstring_is_the_record(path):
  text = ast.get_docstring(ast.parse((runs.ROOT / path).read_text()))
  assert re.search(r'\b(19|20)\d\d\b', text), 'the paper and its year'
  for key in ('Command: ', 'Hardware: ', 'Metric: '):
    assert f'\n{key}' in text, key
  # The command is one that works: of this file, with arguments that it has.
  command = re.search(r'Command: ((?:.*\\\n)*.*)', text)[1]
  words = shlex.split(command.replace('\\\n', ' '))
  assert words[:3] == ['python', '-m', 'gans_jax.main']
  named = dict(word.split('=', 1) for word in words[3:])
  assert named['--config'].partition(':')[0] == path
  assert named['--workdir'].startswith('runs/')
  config = config_lib.load(str(runs.ROOT / named['--config']))
  overrides, _ = config_lib.split_overrides(words[3:])
  config_lib.validate(config_lib.apply_overrides(config, overrides))
  for name in re.findall(r'--filter=(\w+)', text):
    assert name in transforms.FILTERS


@pytest.mark.parametrize('path', FILES)
def test_full_form_validates(path):
  check(config_lib.load(str(runs.ROOT / path)))


@pytest.mark.parametrize('path,row', ROWS)
def test_row_is_a_valid_config(path, row):
  config = config_lib.load(f'{runs.ROOT / path}:row={row}')
  check(config)


@pytest.mark.slow
@pytest.mark.parametrize('path,row', [(path, '') for path in FILES] + ROWS)
def test_full_form_makes_its_networks(path, row):
  arg = f':row={row}' if row else ''
  system = check(config_lib.load(f'{runs.ROOT / path}{arg}'))
  assert system_lib.abstract_state(system).params


def check(config):
  """Checks what `main` checks, with data of the kind that is named.

  Returns:
    The system.
  """
  config_lib.validate(config)
  config_lib.total_steps(config)
  mesh_lib.check_batch(config.batch_size, config.microbatches,
                       mesh_lib.make(1, 1))
  data = config_lib.ConfigDict(config.data.to_dict())
  keys = [key for key, name in tokenizer.CONFIG_KEYS.items() if data[name]]
  data.tokenizer = data.cond_tokenizer = ''
  if data.source.startswith(('emoji', 'mixture', 'shapes', 'scenes')):
    spec = pipeline.open_dataset(data).spec
  else:
    spec = spec_lib.image_spec(
        resolution=data.resolution, channels=data.channels,
        num_classes=0 if data.labels == 'none' else 10,
        num_examples=60_000, facts={})
  # Of a second stage, as if the first one had been trained.
  shapes = tuple((key, (16, 16), 'int32') for key in keys)
  spec = dataclasses.replace(
      spec, keys=(*spec.keys, *keys), shapes=(*spec.shapes, *shapes),
      tokenizers=tuple((key, 'first@1', 1024) for key in keys))
  system = system_lib.create(config, spec)
  if config.evaluate_every:
    evaluator.check(config.evaluate.metrics, system, spec, config.evaluate.num)
  return system


@pytest.mark.parametrize('path', FILES)
def test_unknown_row_is_refused(path, tmp_path, capsys):
  names = rows(path)
  if not names:
    return
  code = runs.train(f'{runs.ROOT / path}:row={names[0]}x', tmp_path / 'run')
  runs.refused(capsys, code, 'There is no row', names[0])


def debug_forms(path: str) -> list[str]:
  return [f'debug,row={row}' for row in rows(path)] or ['debug']


@pytest.mark.parametrize('path', FILES)
def test_debug_form_is_short(path):
  """Several checkpoints in a few dozen steps, whatever the row."""
  for arg in debug_forms(path):
    config = config_lib.load(f'{runs.ROOT / path}:{arg}')
    steps = config_lib.total_steps(config)
    assert 2 <= steps <= 48
    assert 1 <= config.checkpoint_every <= steps / 2


def dry_run(path: str, arg: str, folder, capsys) -> None:
  code = runs.train(f'{runs.ROOT / path}:{arg}', folder / 'run',
                    '--dry_run', '--config.mesh.data=1')
  out, err = capsys.readouterr()
  assert code == cli.DONE, (arg, err)
  assert 'nothing was trained' in out
  assert not (folder / 'run').exists()


@pytest.mark.parametrize('path', FIRST)
def test_debug_form_validates(path, tmp_path, capsys):
  """On shipped data."""
  dry_run(path, debug_forms(path)[0], tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize('path', FILES)
def test_debug_form_of_every_row_validates(path, tmp_path, capsys):
  for arg in debug_forms(path):
    dry_run(path, arg, tmp_path, capsys)


def train_and_resume(path: str, tmp_path) -> None:
  """Trains the debug form halfway, then to its end."""
  spec = f'{runs.ROOT / path}:debug'
  steps = config_lib.total_steps(config_lib.load(spec))
  one = '--config.mesh.data=1'
  for total in (steps // 2, steps):
    assert runs.train(spec, tmp_path / 'run', one, '--config.total_kimg=0',
                      f'--config.total_steps={total}') == cli.DONE
  assert runs.records(tmp_path / 'run')[-1]['step'] == steps
  assert (tmp_path / 'run' / 'curves.png').exists()
  generator = runs.generator(tmp_path / 'run')
  # Of images that are made from others there is a grid of the data's.
  if set(generator.system.conditions) <= {'label'}:
    assert generator([0, 1]).shape[0] == 2


@pytest.mark.parametrize('path', TRAINED)
def test_debug_form_trains(path, tmp_path):
  train_and_resume(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    'path', [path for path in FILES if path not in TRAINED])
def test_every_debug_form_trains(path, tmp_path):
  train_and_resume(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('path,row', ROWS)
def test_every_row_trains(path, row, tmp_path):
  assert runs.train(f'{runs.ROOT / path}:debug,row={row}', tmp_path / 'run',
                    '--config.mesh.data=1') == cli.DONE
