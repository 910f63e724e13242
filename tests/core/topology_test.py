"""Compiling for devices that are not here: names, memory, the search.

The compiler of TPUs is not installed for these tests; what it says is known
text. The slow one asks it: pip install 'gans_jax[tpu]'.
"""

import importlib.util
import json
import math

import jax
import numpy as np
import pytest
import runs

from gans_jax import benchmark
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import system as system_lib
from gans_jax.core import topology
from gans_jax.data import spec as spec_lib

ABSENT = '''
"""A DCGAN on data that are not here."""
from gans_jax.core import config as config_lib


def get_config(arg=''):
  config_lib.parse_arg(arg)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/imagenet', 'data.resolution': 16,
      'model.ngf': 8, 'model.ndf': 8, 'model.z_dim': 8, 'batch_size': 16,
      'total_steps': 6})
  return config
'''


@pytest.mark.parametrize('name,generation,shape,devices', [
    ('v5e:4x8', 'v5e', (4, 8), 32),
    ('v5e:1x1', 'v5e', (1, 1), 1),
    ('v6e:16x16', 'v6e', (16, 16), 256),
    ('v3:4x4', 'v3', (4, 4), 32),       # a device is a core
    ('v4:2x2x1', 'v4', (2, 2, 1), 4),   # a device is a chip of two cores
    ('v5p:4x4x8', 'v5p', (4, 4, 8), 128),
    ('cpu:8', 'cpu', (8,), 8),
])
def test_names(name, generation, shape, devices):
  found = topology.parse(name)
  assert (found.generation, found.shape) == (generation, shape)
  assert found.chips * (found.chip.devices if found.chip else 1) == devices


@pytest.mark.parametrize('name,words', [
    ('v5e:3x5', ['v5e:2x2', 'v5e:4x8', 'v5e:16x16']),
    ('v5e:2x2x2', ['v5e:2x2', 'v5e:1x1']),
    ('v5e', ['v5e:2x2']),
    ('v4:4x4', ['v4:2x2x1', 'v4:4x4x4']),
    ('v5litepod-32', ['v5e:', 'v6e:', 'cpu:8']),
    ('v99:2x2', ['v2:', 'v5p:', 'cpu:8']),
    ('cpu:2x2', ['v5e:', 'cpu:8']),
    ('cpu:0', ['cpu:8']),
    ('', ['cpu:8']),
])
def test_unknown_names_list_the_known(name, words):
  with pytest.raises(errors.UserError) as error:
    topology.parse(name)
  assert repr(name) in str(error.value)
  for word in words:
    assert word in str(error.value)


def test_every_slice_that_is_listed_is_known():
  for generation, chip in topology.CHIPS.items():
    assert len(set(chip.slices)) == len(chip.slices)
    for shape in chip.slices:
      name = f'{generation}:{"x".join(map(str, shape))}'
      assert topology.parse(name).chips == math.prod(shape)
    # The compiler keeps a part of what is published, in GB or GiB.
    assert 0.9 < chip.available * chip.devices / chip.hbm < 1.01


@pytest.fixture
def no_libtpu(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return runs.write_config(tmp_path_factory.mktemp('config'), ABSENT)


def call(*options) -> int:
  return cli.call(benchmark.main, list(map(str, options)))


@pytest.mark.parametrize('options,words', [
    (['--topology=v3:2x2', '--num_classes=0'],
     ['--topology=v3:2x2', 'libtpu', "pip install 'gans_jax[tpu]'", 'cpu:8']),
    (['--topology=v3:2x3'], ['v3:2x2']),
    (['--topology=cpu:8'], ['data/imagenet', '--num_classes=N']),
    (['--topology=cpu:8', '--largest_batch'], ['memory of a TPU']),
    (['--topology=cpu:8', '--num_classes=0', '--config.batch_size=12'],
     ['batch_size is 12', 'multiple of 8']),
    (['--topology=cpu:100', '--num_classes=0'], ['JAX_NUM_CPU_DEVICES=100']),
    (['--num_classes=0'], ['--topology']),
], ids=str)
def test_bad_input(path, no_libtpu, capsys, options, words):
  runs.refused(capsys, call(f'--config={path}', *options), *words)


def states(model: int):
  config = config_lib.base('dcgan')
  config_lib.assign(config, {'model.ngf': 32, 'model.ndf': 32,
                             'total_steps': 6})
  spec = spec_lib.image_spec(resolution=16, channels=3, num_examples=1,
                             facts={})
  system, stage = topology.last_stage(config, spec)
  mesh = mesh_lib.make(-1, model)
  return (system_lib.abstract_state(system),
          topology.inputs(system, stage, spec, mesh))


def test_bytes_of_a_device():
  abstract, (state, batch, frozen) = states(1)
  parts = topology.parts(state, batch, frozen)
  whole = {name: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
           for name, tree in (('parameters', abstract.params),
                              ('optimizer', abstract.opt),
                              ('average', abstract.ema))}
  # Whole on every device.
  assert {name: parts[name] for name in whole} == whole
  # Adam: two moments, and two counts for each of the two players.
  assert whole['optimizer'] == 2 * whole['parameters'] + 4 * 4
  # Images are split over eight devices: 64 of them, 16 x 16 x 3 bytes.
  assert parts['batch'] == 64 * 16 * 16 * 3 // 8
  assert parts['constants'] == 0

  split = topology.parts(*states(2)[1])
  assert whole['parameters'] / 2 < split['parameters'] < whole['parameters']
  assert split['batch'] == 2 * parts['batch']


def test_result_of_virtual_devices(path, tmp_path, no_libtpu, capsys):
  out = tmp_path / 'fit.json'
  assert call(f'--config={path}', '--topology=cpu:4', '--num_classes=0',
              f'--json={out}') == cli.DONE
  printed = capsys.readouterr().out
  result = json.loads(out.read_text())
  assert (result['topology'], result['devices'], result['batch_size'],
          result['fits']) == ('cpu:4', 4, 16, None)
  assert result['mesh'] == dict(data=4, model=1)
  # Gradients of all parameters, once, and statistics of batches.
  parameters = sum(result['parameters'].values())
  assert set(result['collectives']) == {'all-reduce'}
  moved = result['collectives']['all-reduce']['bytes'] / 4
  assert parameters < moved < 1.2 * parameters + 2000
  assert result['flops'] > 0 and result['compile_s'] > 0
  assert result['arguments']['parameters'] == 4 * parameters
  assert 'batch 16 (4 on each row of the mesh)' in printed
  assert 'its compiler tells' in printed and 'all-reduce' in printed


class Program:
  """What the compiler says of a program, without one."""

  argument_size_in_bytes = 100
  output_size_in_bytes = 80
  alias_size_in_bytes = 79
  temp_size_in_bytes = 1000
  generated_code_size_in_bytes = 7

  def memory_analysis(self):
    return self


def test_needed():
  from gans_jax.core import compilation

  sizes = compilation.sizes(Program())
  assert topology.needed(sizes) == 100 + 1 + 1000 + 7


@pytest.mark.parametrize('message,size', [
    # Both as libtpu 0.0.42 words them.
    ('RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
     'for HLO temporaries (121.00G) exceeds available HBM (15.75G).',
     121 * 2**30 + 500),
    ('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G '
     'of 15.75G hbm. Exceeded hbm capacity by 4.75G.', int(20.5 * 2**30)),
    ('RESOURCE_EXHAUSTED: something else', 0),
])
def test_what_a_refused_program_needs(message, size):
  assert topology.refused(message, 500) == size


@pytest.mark.parametrize('first', [8, 64, 512, 4096])
@pytest.mark.parametrize('holds', [7, 8, 100, 1000])
def test_search(first, holds):
  """A device that holds a state of 10 and one for each of `holds` images."""
  seen = []

  def attempt(batch):
    seen.append(batch)
    return dict(fits=batch <= holds, needed=10 + batch)

  found = topology.search(attempt, 8, dict(
      batch_size=first, needed=10 + first, available=10 + holds,
      arguments=dict(parameters=10, batch=0)))
  best = max((8 * 2**k for k in range(20) if 8 * 2**k <= holds), default=0)
  assert found['batch_size'] == best
  assert found['too_large'] == (2 * best or 8)
  assert len(set(seen)) <= 2


def test_search_takes_the_line_of_two_results():
  """What neither state nor images take hides the slope at first."""
  seen = []

  def attempt(batch):
    seen.append(batch)
    return dict(fits=batch <= 100_000, needed=5000 + batch)

  found = topology.search(attempt, 8, dict(
      batch_size=16, needed=5016, available=105_000,
      arguments=dict(parameters=10, batch=0)))
  assert (found['batch_size'], found['too_large']) == (2**16, 2**17)
  assert found['needed'] == 5000 + 2**16 and len(seen) == 3


def test_search_with_a_poor_guess_and_without_one():
  def attempt(batch):
    return dict(fits=batch <= 256, needed=batch)

  for needed in (3, 100_000, 0):
    found = topology.search(attempt, 8, dict(
        batch_size=64, needed=needed, available=256,
        arguments=dict(parameters=1, batch=0)))
    assert (found['batch_size'], found['too_large']) == (256, 512)


def result(**more):
  gib = topology.GIB
  return {**dict(
      config=dict(system='biggan', data=dict(resolution=128), microbatches=1),
      topology='v5e:4x8', device='TPU v5 lite', chips=32, devices=32,
      mesh=dict(data=32, model=1), batch_size=2048,
      arguments=dict(parameters=gib, optimizer=2 * gib, batch=gib // 4),
      memory=dict(argument=4 * gib, output=3 * gib, alias=3 * gib,
                  temp=6 * gib, generated_code=gib // 2),
      needed=int(10.5 * gib), available=int(15.75 * gib), fits=True,
      effort=-1.0,
      flops=1.97e12, trace_s=1.0, compile_s=100.0,
      collectives={'all-reduce': dict(count=50, bytes=2**30)}), **more}


def test_table_of_what_fits():
  text = topology.table(result(largest=dict(
      batch_size=4096, needed=15 * topology.GIB, too_large=8192,
      too_large_needed=30 * topology.GIB, compilations=2)), peak=197e12)
  rows = {line.split()[0]: line for line in text.splitlines() if line}
  assert rows['padding'].endswith('768.0')
  assert rows['temporary'].endswith('6,144.0')
  assert rows['needed'].endswith('10,752.0')
  assert rows['fits:'].split()[1:4] == ['10.50', 'of', '15.75']
  assert '(67%)' in rows['fits:'] and '16 GiB of a chip' in rows['fits:']
  assert '10.0 ms at its bfloat16 peak' in text
  assert 'in 100.0 s with effort -1 (full: ' in text
  assert 'effort' not in topology.table(result(effort=0.0))
  assert 'fits: 4096 (15.00 GiB of a device); 8192 does not' in text


def test_table_of_what_does_not_fit():
  refused = result(fits=False, needed=20 * topology.GIB, refusal='...')
  del refused['memory'], refused['collectives'], refused['flops']
  text = topology.table({**refused, 'topology': 'v3:4x4', 'largest': dict(
      batch_size=0, needed=0, too_large=32, too_large_needed=0,
      compilations=1)})
  assert 'DOES NOT FIT: about 20.00 GiB' in text
  assert '16 GiB of a core' in text
  assert 'largest batch: none; not even 32 fits (1 more' in text


@pytest.mark.slow
def test_the_compiler_of_tpus(tmp_path):
  """In a process of its own: needs libtpu, and says so where it is missing."""
  config = runs.write_config(tmp_path, ABSENT)
  out = tmp_path / 'fit.json'
  process = runs.spawn(
      'benchmark', f'--config={config}', '--topology=v5e:2x2',
      '--num_classes=0', '--largest_batch', f'--json={out}',
      # Wide: the compiler takes minutes over each large batch of narrow nets.
      '--config.model.ngf=512', '--config.model.ndf=512')
  printed, said = process.communicate(timeout=1500)
  assert process.returncode == cli.DONE, said
  found = json.loads(out.read_text())
  assert found['fits'] and found['device'] == 'TPU v5 lite'
  assert found['effort'] == -1
  assert set(found['collectives']) == {'all-reduce'}
  assert found['memory']['argument'] >= sum(found['arguments'].values())
  assert found['largest']['batch_size'] > 2**14
  assert 'fits' in printed


@pytest.mark.slow
@pytest.mark.parametrize('generation', topology.CHIPS)
def test_memory_that_the_compiler_gives(generation):
  """Needs libtpu. A program that is too large is refused, with the size."""
  chip = topology.CHIPS[generation]
  shape = chip.slices[0 if chip.slices[0] != (1, 1) else 1]
  name = f'{generation}:{"x".join(map(str, shape))}'
  slice_of = topology.parse(name)
  topology.start(slice_of)
  devices = topology.devices(slice_of)
  assert len(devices) == slice_of.chips * chip.devices
  mesh = jax.sharding.Mesh(np.array(devices), ('data',))
  x = jax.ShapeDtypeStruct(
      (120, 2**20, 256), np.float32,
      sharding=jax.NamedSharding(mesh, jax.sharding.PartitionSpec()))
  with pytest.raises(jax.errors.JaxRuntimeError) as error:
    jax.jit(lambda x: (x + 1).sum(0)).lower(x).compile()
  assert f'available HBM ({chip.available:.2f}G)' in str(error.value)
  assert topology.refused(str(error.value), 0) > 100 * topology.GIB
