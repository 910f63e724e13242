"""Train steps as they are compiled for a mesh of eight devices.

What a pod does beyond the work of one device is counted in the compiled
program: all-reduces of batch statistics and gradients, nothing else. Programs
are compiled once for all tests of a system, at the backend's level 0.
"""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import sampler as sampler_lib
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib

FAST = {'xla_backend_optimization_level': 0}
RESOLUTION, BATCH = 16, 64
# Adam with a large epsilon is smooth: with the usual one the first update has
# the size of the rate even where the gradient is nothing but rounding.
SMOOTH = {'optimizer.G.eps': 1e-2, 'optimizer.D.eps': 1e-2}
# Wide enough for its largest kernels to be split over the axis 'model'.
DCGAN = {'system': 'dcgan', 'model.ngf': 32, 'model.ndf': 32,
         'model.z_dim': 6, 'ema.decay': 0.5, **SMOOTH}
WGAN_GP = {'system': 'wgan_gp', 'model.G': 'dcgan', 'model.D': 'dcgan',
           'model.dim_G': 4, 'model.dim_D': 4, 'model.z_dim': 6,
           'model.norm_D': 'layer', 'loss.n_critic': 2, **SMOOTH}
# Without batch statistics.
ALONE = {**WGAN_GP, 'model.norm_G': 'none', 'loss.n_critic': 1}


def make(values, **more):
  values = {**values, **more}
  config = config_lib.base(values.pop('system'))
  config_lib.assign(
      config, {'total_steps': 100, 'batch_size': BATCH, **values})
  spec = spec_lib.DataSpec(RESOLUTION, 3, 0, 100, ('image',))
  return system_lib.create(config, spec)


@dataclasses.dataclass(frozen=True)
class Program:
  """The train step of a system for a mesh, as train.py compiles it.

  Attributes:
    system: the System.
    mesh: data x model devices.
    shardings: of the state.
    compiled: the executable.
    abstract: shapes of the state.
  """

  system: Any
  mesh: jax.sharding.Mesh
  shardings: Any
  compiled: Any
  abstract: Any

  def run(self, steps: int = 1):
    """Returns the (state, logs) of step `steps`, on the host."""
    state = jax.device_put(initial(self.system), self.shardings)
    for i in range(steps):
      images = np.random.default_rng(i).integers(
          0, 256, (self.system.batches_per_step, BATCH, *[RESOLUTION] * 2, 3),
          np.uint8)
      batch = mesh_lib.to_global({'image': images}, self.mesh)
      state, logs = self.compiled(state, batch, {})
    return state, logs


@functools.cache
def _initial(system):
  return jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))


def initial(system):
  """The state of step 0, in buffers of its own, to be donated."""
  return jax.tree.map(jnp.copy, _initial(system))


def build(system, data: int, model: int = 1) -> Program:
  mesh = mesh_lib.make(data, model, jax.devices()[:data * model])
  abstract = system_lib.abstract_state(system)
  with jax.set_mesh(mesh):
    shardings = mesh_lib.shardings(abstract, mesh)
    replicated = jax.sharding.NamedSharding(mesh, mesh_lib.P())
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract, shardings)
    image = jax.ShapeDtypeStruct(
        (system.batches_per_step, BATCH, RESOLUTION, RESOLUTION, 3), np.uint8,
        sharding=mesh_lib.batch_sharding(mesh, 1))
    compiled = jax.jit(
        system.train_step, donate_argnums=0,
        out_shardings=(shardings, replicated),
    ).lower(placed, {'image': image}, {}).compile(
        compiler_options=FAST)
  return Program(system, mesh, shardings, compiled, abstract)


@pytest.fixture(scope='module')
def dcgan():
  """{number of devices: Program}."""
  system = make(DCGAN)
  return {devices: build(system, devices) for devices in (1, 8)}


@pytest.fixture(scope='module')
def split(dcgan):
  """The same on data 4 x model 2."""
  return build(dcgan[1].system, 4, 2)


@pytest.fixture(scope='module')
def wgan_gp():
  system = make(WGAN_GP)
  return {devices: build(system, devices) for devices in (1, 8)}


def assert_close(a, b, tolerance):
  """Each array to `tolerance` of its largest element.

  The gradient of a bias before batch normalization is zero but for rounding,
  of sums over the whole batch.
  """
  def one(path, x, y):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    name = mesh_lib.path_name(path)
    floor = 1e-7 if name.endswith('bias') else 1e-12
    np.testing.assert_allclose(
        x, y, rtol=0, atol=max(tolerance * np.abs(y).max(), floor),
        err_msg=name)

  jax.tree_util.tree_map_with_path(one, a, b)


def reduced(compiled) -> list[tuple[int, ...]]:
  """Returns the shape of every array that an all-reduce gives."""
  shapes = []
  for line in compiled.as_text().splitlines():
    match = re.search(r' = (.*?) all-reduce(-done)?\(', line)
    if match:
      shapes += [tuple(map(int, dims.split(','))) if dims else ()
                 for dims in re.findall(r'f32\[([\d,]*)\]', match.group(1))]
  return shapes


def kernels(params) -> int:
  """Elements of the kernels, which are all that has two axes or more."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params)
             if len(x.shape) > 1)


def statistics(mvars) -> tuple[int, int]:
  """(batch normalizations, channels of all of them) of a net."""
  means = [x.size for path, x in jax.tree_util.tree_leaves_with_path(mvars)
           if mesh_lib.path_name(path).endswith('mean')]
  return len(means), sum(means)


# --- Collectives (performance.md 10.7) --------------------------------------


def test_collectives_of_dcgan(dcgan):
  program = dcgan[8]
  found = hlo.collectives(program.compiled)
  g, g_channels = statistics(program.abstract.mvars['G'])
  d, d_channels = statistics(program.abstract.mvars['D'])
  assert (g, d) == (2, 1)
  # One for the moments of each layer forward, one for their gradient
  # backward, and one for the gradient of each player:
  #   fakes             g
  #   D of real, fake   2 d, backward 2 d, gradient 1
  #   G through D       d, backward d and g, gradient 1
  # The compiler may merge some.
  assert set(found) == {'all-reduce'}
  count, size = found['all-reduce']
  assert count <= 2 * g + 6 * d + 2

  # G's kernels travel once; D's twice, for real and for fake images, because
  # the partitioner sums over devices before it sums over uses (performance.md
  # section 7, the same on TPU). MEASURED
  params = program.abstract.params
  travelled = sum(math.prod(s) for s in reduced(program.compiled)
                  if len(s) > 2)
  assert travelled == kernels(params['G']) + 2 * kernels(params['D'])
  # What else there is are statistics: at most four numbers a channel in each
  # of a layer's passes, forward and backward; and a handful of scalars.
  passes = 2 * g_channels + 6 * d_channels
  assert size <= 4 * (travelled + 4 * passes + 20)


def test_collectives_of_wgan_gp(wgan_gp):
  program = wgan_gp[8]
  found = hlo.collectives(program.compiled)
  g, _ = statistics(program.abstract.mvars['G'])
  assert g == 2 and statistics(program.abstract.mvars['D'])[0] == 0
  # Critic: fakes g, gradient 1. Generator: g forward, g backward, gradient 1.
  # An instruction in the loop over critic updates counts once.
  assert set(found) == {'all-reduce'}
  assert found['all-reduce'][0] <= 3 * g + 2
  # The critic's kernels: real, fake, and the two halves of the penalty's
  # second derivative (both meet each kernel but that of the first layer, of
  # which one half is zero).
  params = program.abstract.params
  travelled = sum(math.prod(s) for s in reduced(program.compiled)
                  if len(s) > 1)
  assert travelled <= kernels(params['G']) + 4 * kernels(params['D'])


# --- Work (10.8), losses ----------------------------------------------------


@pytest.mark.parametrize('name', ['dcgan', 'wgan_gp'])
def test_each_device_does_an_eighth(name, request):
  programs = request.getfixturevalue(name)
  one, eight = (programs[n].compiled.cost_analysis()['flops']
                for n in (1, 8))
  # Updates of the parameters are done by all, everything else is split.
  assert 8 * eight == pytest.approx(one, rel=0.05)


@pytest.mark.parametrize('name', ['dcgan', 'wgan_gp'])
def test_eight_devices_train_as_one(name, request):
  programs = request.getfixturevalue(name)
  (state, logs), (state_8, logs_8) = (programs[n].run() for n in (1, 8))
  assert_close(logs_8, logs, 1e-5)
  assert_close(state_8, state, 1e-5)


# --- Convolutions (10.3, 10.10) ---------------------------------------------


@pytest.mark.parametrize('name', ['dcgan', 'wgan_gp'])
def test_no_reversed_convolution(name, request):
  for program in request.getfixturevalue(name).values():
    assert hlo.reversed_convolutions(program.compiled) == 0


@pytest.mark.parametrize('values', [DCGAN, WGAN_GP])
def test_bfloat16_reaches_every_convolution(values):
  system = make(values, dtype='bfloat16')
  state = system_lib.abstract_state(system)
  batch = {'image': jax.ShapeDtypeStruct(
      (system.batches_per_step, BATCH, RESOLUTION, RESOLUTION, 3), np.uint8)}
  jaxpr = jax.make_jaxpr(system.train_step)(state, batch, {})
  found = hlo.conv_operand_dtypes(jaxpr)
  # Seven or eight layers, forward and backward.
  assert len(found) > 16
  assert {str(x) for pair in found for x in pair} == {'bfloat16'}
  assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {'float32'}
  assert {str(x.dtype) for x in jax.tree.leaves(jaxpr.out_avals)
          if jnp.issubdtype(x.dtype, jnp.floating)} == {'float32'}


# --- The axis 'model' -------------------------------------------------------


def test_split_parameters_give_the_same_step(dcgan, split):
  (state, logs), (state_8, logs_8) = dcgan[1].run(), split.run()
  assert_close(logs_8, logs, 1e-5)
  assert_close(state_8, state, 1e-5)

  # The large ones really are halves, with their moments and averages.
  large = {x.shape for x in jax.tree.leaves(state.params) if x.size >= 2**14}
  halves = {'params': 2, 'opt': 4, 'ema': 1}  # G, D; mu, nu of both; G's
  for field, count in halves.items():
    found = [x for x in jax.tree.leaves(getattr(state_8, field))
             if x.shape in large]
    assert len(found) == count, field
    for x in found:
      assert {s.data.size for s in x.addressable_shards} == {x.size // 2}
  small = [x for x in jax.tree.leaves(state_8.params)
           if x.shape not in large]
  assert all(x.is_fully_replicated for x in small)


def test_split_parameters_move_no_activations(split):
  found = hlo.collectives(split.compiled)
  assert set(found) <= {'all-reduce', 'all-gather', 'reduce-scatter'}
  params = {tuple(x.shape) for x in jax.tree.leaves(split.abstract.params)}
  gathered = []
  for line in split.compiled.as_text().splitlines():
    match = re.search(r' = (.*?) all-gather(-done)?\(', line)
    if match:
      gathered += re.findall(r'[a-z]\w*\[([\d,]*)\]', match.group(1))
  assert gathered
  for dims in gathered:
    shape = tuple(map(int, dims.split(',')))
    # A gather may see the axes of a kernel merged or in another order.
    assert any(sorted(shape) == sorted(p) for p in params), shape


# --- Microbatches -----------------------------------------------------------


def test_microbatches_on_the_mesh_are_the_whole_batch():
  whole = build(make(ALONE), 8)
  pieces = build(make(ALONE, microbatches=2), 8)
  (state, logs), (state_2, logs_2) = whole.run(), pieces.run()
  assert_close(logs_2, logs, 1e-5)
  assert_close(state_2, state, 1e-5)
  # Each device keeps the images it has.
  assert set(hlo.collectives(pieces.compiled)) == {'all-reduce'}


# --- Samples ----------------------------------------------------------------


def test_samples_do_not_depend_on_devices():
  system = make(DCGAN)
  variables = state_lib.variables(initial(system))
  # Of the untrained net all are grey; these have every level.
  variables['G']['params'] = jax.tree.map(
      lambda x: 8 * x, variables['G']['params'])
  keys = rng.from_seeds(np.arange(24))
  images = {}
  for devices in (1, 8):
    mesh = mesh_lib.make(devices, devices=jax.devices()[:devices])
    images[devices] = sampler_lib.Sampler(system, mesh, 16)(variables, keys)
  assert images[1].shape == (24, RESOLUTION, RESOLUTION, 3)
  assert images[1].std() > 40
  difference = np.abs(images[1].astype(int) - images[8].astype(int))
  assert difference.max() <= 1


# --- Which process feeds which rows -----------------------------------------


@dataclasses.dataclass(frozen=True)
class Chip:
  """As much of a TPU's device as a mesh is arranged by."""

  id: int
  process_index: int
  coords: tuple[int, int, int]
  core_on_chip: int = 0
  platform: str = 'tpu'
  device_kind: str = 'TPU v5 lite'
  slice_index: int = 0


def slice_of(nx: int, ny: int) -> list[Chip]:
  """A v5e slice of nx x ny chips whose hosts have 2 x 4 each."""
  places = [(x, y) for y in range(ny) for x in range(nx)]
  return [Chip(i, (x // 2) + (nx // 2) * (y // 4), (x, y, 0))
          for i, (x, y) in enumerate(places)]


@pytest.mark.parametrize('data, model, parts', [
    (32, 1, [0, 1, 2, 3]),
    (16, 2, [0, 1, 2, 3]),
    (4, 8, [0, 0, 1, 1]),    # a row takes two hosts, which feed the same
])
def test_parts_of_the_batch_on_a_slice(data, model, parts):
  chips = slice_of(4, 8)
  mesh = FakeMesh(mesh_lib.arrange(chips, data, model))
  assert {chip.id for chip in mesh.devices.flat} == set(range(32))
  found = [mesh_lib.batch_part(mesh, process) for process in range(4)]
  assert sorted(found) == [(part, len(set(parts))) for part in parts]
  # The examples that a process reads are those that its chips work on.
  for process, (part, count) in enumerate(found):
    rows = [i for i, row in enumerate(mesh.devices)
            if process in {chip.process_index for chip in row}]
    each = data // count
    assert rows == list(range(part * each, (part + 1) * each))


def test_rows_that_two_processes_share_in_part_are_refused():
  grid = np.asarray([Chip(i, i // 3, (i, 0, 0)) for i in range(6)])
  mesh = FakeMesh(grid.reshape(3, 2))
  with pytest.raises(errors.UserError, match='mesh.model is 2'):
    mesh_lib.batch_part(mesh, 0)


@dataclasses.dataclass
class FakeMesh:
  devices: np.ndarray
