"""The benchmark: its table, its JSON, and the work it says a step takes."""

import json

import jax
import jax.numpy as jnp
import pytest
import runs

from gans_jax import benchmark
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import flops
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib

pytestmark = pytest.mark.usefixtures('compile_cache')

WGAN_GP = '''
"""A WGAN-GP of two critic updates a step."""
from gans_jax.core import config as config_lib


def get_config(arg=''):
  config_lib.parse_arg(arg)
  config = config_lib.base('wgan_gp')
  config_lib.assign(config, {
      'data.source': 'shapes', 'data.limit': 64, 'data.resolution': 16,
      'model.G': 'mlp', 'model.dim_G': 16, 'model.D': 'dcgan',
      'model.dim_D': 4, 'model.z_dim': 4, 'loss.n_critic': 2,
      'batch_size': 8, 'total_steps': 2, 'mesh.data': 1, 'compile.level': 0})
  return config
'''
PHASES = ['data', 'D', 'G (after D)', 'penalty wgan_gp', 'EMA', 'whole step']
KEYS = {'config', 'versions', 'device', 'platform', 'devices', 'mesh',
        'repeat', 'batch_size', 'peak_flops_per_device', 'peak_source',
        'peak_memory_bytes', 'parameters', 'phases'}


def call(*options: str) -> int:
  return cli.call(benchmark.main, list(map(str, options)))


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return runs.write_config(tmp_path_factory.mktemp('config'), WGAN_GP)


@pytest.fixture(scope='module', autouse=True)
def known_peak():
  """The 2048 x 2048 product takes seconds."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(benchmark, 'measured_matmul', lambda device: 1e12)
    yield


def step_flops(path: str, *players: str, **changes) -> float:
  """FLOPs of the step, or of what some players need of it."""
  config = config_lib.load(path)
  config_lib.assign(config, changes)
  system = system_lib.create(
      config, spec_lib.DataSpec(16, 3, 0, 64, ('image',)))
  batch = {'image': jax.ShapeDtypeStruct(
      (system.batches_per_step, config.batch_size, 16, 16, 3), jnp.uint8)}
  step = (benchmark.step_without_others(system, *players) if players
          else system.train_step)
  return flops.of(step, system_lib.abstract_state(system, 0), batch,
                  {**system.frozen(), **system_lib.loss_constants(system)})


@pytest.mark.parametrize('devices', [
    1, pytest.param(8, marks=pytest.mark.slow)])
def test_table_and_json(path, tmp_path, capsys, devices):
  out = tmp_path / 'step.json'
  assert call(f'--config={path}', f'--config.mesh.data={devices}',
              '--repeat=1', f'--json={out}') == cli.DONE
  printed = capsys.readouterr().out
  result = json.loads(out.read_text())
  assert printed == f'{benchmark.table(result)}\n{out}\n'
  lines = printed.splitlines()
  assert lines[0] == f'{devices} x cpu (cpu), batch 8, median of 1'
  assert lines[4].split()[0] == 'phase'
  for line, name in zip(lines[5:-1], PHASES, strict=True):
    assert line.startswith(name + '  ')

  assert set(result) == KEYS
  assert result['config']['loss']['n_critic'] == 2
  assert result['versions']['jax'] == jax.__version__
  assert (result['device'], result['devices']) == ('cpu', devices)
  assert result['peak_memory_bytes'] > 2**20
  assert set(result['parameters']) == {'G', 'D'}
  assert min(result['parameters'].values()) > 1000

  rows = {row['name']: row for row in result['phases']}
  assert list(rows) == PHASES
  for name in ('data', 'D', 'EMA', 'whole step'):
    row = rows[name]
    images = 16 if name == 'data' else 8
    assert 0 < row['min_s'] <= row['median_s'] <= row['max_s']
    assert row['images_per_second'] == pytest.approx(images / row['median_s'])
  for name in PHASES[1:]:
    assert {'flops', 'xla_flops', 'collectives', 'memory', 'trace_s',
            'compile_s'} <= set(rows[name])
    assert rows[name].get('on_top', False) == (name[0] in 'Gp')

  # Each device has its even part of the work.
  work = {name: row.get('flops') for name, row in rows.items()}
  assert work['whole step'] == step_flops(path) / devices
  assert work['D'] == step_flops(path, 'D') / devices
  assert work['D'] + work['G (after D)'] == step_flops(path, 'G') / devices
  assert work['D'] - work['penalty wgan_gp'] == step_flops(
      path, 'D', **{'loss.penalty': 'none'}) / devices
  assert work['EMA'] == 0
  whole = rows['whole step']
  assert whole['share_of_peak'] == pytest.approx(
      whole['flops'] / whole['median_s'] / 1e12)

  for name in ('D', 'G (after D)', 'whole step'):
    found = rows[name]['collectives']
    if devices == 1:
      assert found == {}
    else:
      assert found['all-reduce']['count'] > 0
      assert found['all-reduce']['bytes'] > 0
  assert rows['EMA']['collectives'] == {}


def test_work_grows_with_the_critic_updates(path):
  once, twice, five = (
      step_flops(path, 'D', **{'loss.n_critic': n}) for n in (1, 2, 5))
  assert twice == 2 * once and five == 5 * once
  # Of a step: G's part stays.
  one, five = (step_flops(path, **{'loss.n_critic': n}) for n in (1, 5))
  assert five - one == pytest.approx(4 * once, rel=0.02)
  # In pieces: the same work.
  assert step_flops(path, microbatches=2) == step_flops(path)


def part(work):
  seconds = dict(median_s=work, min_s=work, max_s=work)
  return dict(flops=float(work), xla_flops=float(work)), seconds


@pytest.mark.parametrize('d,g,both,names', [
    (60, 66, 66, ['D', 'G (after D)']),  # many critic updates, a cheap G
    (60, 6, 66, ['G', 'D']),             # simultaneous
    (6, 60, 66, ['D', 'G']),
    (6, 60, 64, ['D', 'G']),             # sharing the generated images
    (66, 6, 66, ['G', 'D (after G)']),   # G first
])
def test_updates_in_turn(d, g, both, names):
  rows = benchmark.in_turn({'D': part(d), 'G': part(g)}, lambda *_: both)
  assert list(rows) == names
  if 'after' in names[1]:
    found, seconds = rows[names[1]]
    assert found == dict(flops=abs(g - d), xla_flops=abs(g - d), on_top=True)
    assert seconds['median_s'] == abs(g - d)


@pytest.mark.parametrize('options,words', [
    (['--repeat=0'], ['--repeat', 'at least 1']),
    (['--config.loss.n_critics=2'], ["'loss.n_critics'", 'n_critic']),
    (['--config.mesh.data=3'], ['batch_size is 8', 'multiple of 3']),
], ids=str)
def test_bad_input(path, tmp_path, capsys, options, words):
  code = call(f'--config={path}', f'--json={tmp_path}/step.json', *options)
  runs.refused(capsys, code, *words)
  assert not (tmp_path / 'step.json').exists()
