"""Runs the commands in this process, on nets that compile in seconds."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import types

import jax
import numpy as np

from gans_jax import main
from gans_jax import sample
from gans_jax.core import checkpoint
from gans_jax.core import cli
from gans_jax.core import state as state_lib

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 6

TINY = '''
"""A DCGAN of 7,000 parameters on 64 emoji."""
from gans_jax.core import config as config_lib


def get_config(arg=''):
  config_lib.parse_arg(arg)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'emoji:noto', 'data.limit': 64, 'data.resolution': 16,
      'model.ngf': 8, 'model.ndf': 8, 'model.z_dim': 8, 'batch_size': 8,
      'mesh.data': 1, 'total_steps': 6, 'log_every': 1, 'sample_every': 3,
      'checkpoint_every': 3, 'sample.rows': 2, 'sample.columns': 4,
      'ema.decay': 0.5, 'data.flip': True, 'compile.level': 0})
  return config
'''

CONDITIONAL = '''
"""A conditional GAN on 64 emoji of nine groups."""
from gans_jax.core import config as config_lib


def get_config(arg=''):
  config_lib.parse_arg(arg)
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'model.variant': 'conv', 'model.ch': 8, 'model.ch_max': 16,
      'model.fc': 16, 'model.z_dim': 8,
      'data.source': 'emoji:noto', 'data.limit': 64, 'data.resolution': 16,
      'data.labels': 'group', 'batch_size': 8, 'mesh.data': 1,
      'total_steps': 2, 'log_every': 1, 'sample_every': 2,
      'checkpoint_every': 1, 'sample.rows': 2, 'sample.columns': 4,
      'compile.level': 0})
  return config
'''

POINTS = '''
"""An MLP GAN on eight Gaussians."""
from gans_jax.core import config as config_lib


def get_config(arg=''):
  config_lib.parse_arg(arg)
  config = config_lib.base('toy')
  config_lib.assign(config, {
      'model.nets': 'wgan_gp', 'model.width': 32, 'model.d_width': 32,
      'data.source': 'mixture:ring8', 'batch_size': 64, 'mesh.data': 1,
      'total_steps': 3, 'log_every': 1, 'sample_every': 3,
      'checkpoint_every': 3, 'evaluate.metrics': ('modes',),
      'compile.level': 0})
  return config
'''


def script(name: str) -> types.ModuleType:
  """Returns launch/NAME.py as a module."""
  spec = importlib.util.spec_from_file_location(
      name, ROOT / 'launch' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # dataclasses look there
  spec.loader.exec_module(module)
  return module


def write_config(folder, text: str = TINY) -> str:
  """Writes a config file; returns its path."""
  path = pathlib.Path(folder) / 'tiny.py'
  path.write_text(textwrap.dedent(text))
  return str(path)


def train(config: str, workdir, *more: str) -> int:
  """Runs the command `main`; returns its exit code."""
  return cli.call(
      main.main, [f'--config={config}', f'--workdir={workdir}', *more])


def command(module: str, *arguments: str) -> list[str]:
  return [sys.executable, '-m', f'gans_jax.{module}', *map(str, arguments)]


def spawn(module: str, *arguments: str, through=()) -> subprocess.Popen:
  """Starts a command in a process of its own, with the devices of this one.

  Args:
    module: of gans_jax.
    *arguments: of the command.
    through: a command that execs the one it is given, with other rights.
  """
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT),
                 'JAX_NUM_CPU_DEVICES': '8'}
  return subprocess.Popen(
      [*through, *command(module, *arguments)], env=environment, cwd=ROOT,
      text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def records(workdir) -> list[dict]:
  """Returns the lines of metrics.jsonl without the measured times."""
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items()
           if not k.startswith('perf/')} for line in lines]


def arrays(workdir, step: int | None = None) -> dict[str, np.ndarray]:
  """Returns every array of a checkpoint by its path."""
  names = [f.name for f in dataclasses.fields(state_lib.TrainState)]
  with checkpoint.Checkpointer(str(workdir)) as checkpoints:
    state = checkpoints.restore_variables(step, names).state
  return {jax.tree_util.keystr(path): np.asarray(
              jax.random.key_data(x) if jax.dtypes.issubdtype(
                  x.dtype, jax.dtypes.prng_key) else x)
          for path, x in jax.tree_util.tree_leaves_with_path(state)}


def data_state(workdir, step: int) -> dict:
  """Returns the saved state of the data iterator."""
  path = pathlib.Path(workdir) / 'checkpoints' / str(step) / 'data/metadata'
  return json.loads(path.read_text())


def assert_same_run(a, b, step: int) -> None:
  """Asserts that two runs are in one state, bit for bit, and say the same."""
  first, second = arrays(a, step), arrays(b, step)
  assert first.keys() == second.keys() and len(first) > 20
  for name in first:
    np.testing.assert_array_equal(first[name], second[name], name)
  assert data_state(a, step) == data_state(b, step)
  assert data_state(a, step)['step'] == step
  assert records(a) == records(b)


def refused(capsys, code: int, *words: str) -> str:
  """Asserts that stderr is one paragraph with `words`; returns it."""
  out, err = capsys.readouterr()
  assert code == cli.BAD_INPUT, (code, out, err)
  errors = err[err.index('error:'):]
  assert err.count('error:') == 1 and 'Traceback' not in out + err, err
  assert '\n\n' not in errors.strip(), err
  text = ' '.join(err.split())
  for word in words:
    assert word in text, (word, err)
  return text


@contextlib.contextmanager
def compile_cache(folder):
  """Keeps all compiled programs in `folder`, also those of child processes."""
  from jax.experimental.compilation_cache import compilation_cache

  names = ('jax_compilation_cache_dir',
           'jax_persistent_cache_min_compile_time_secs')
  before = {name: getattr(jax.config, name) for name in names}
  environment = {'GANS_JAX_CACHE': str(folder),
                 'JAX_COMPILATION_CACHE_DIR': str(folder),
                 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  old = {name: os.environ.get(name) for name in environment}
  os.environ.update(environment)
  for name, value in zip(names, (str(folder), 0.0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    for name, value in old.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def generator(workdir, **options) -> sample.Generator:
  return sample.load(str(workdir), **options)
