"""WGAN: clipping, the critic's schedule, the program."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import images as images_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.core import step as step_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import wgan

FAST = {'xla_backend_optimization_level': 0}
SMALL = {'model.ngf': 4, 'model.ndf': 4, 'model.z_dim': 6}
MLP = {'model.G': 'mlp', 'model.D': 'mlp'}


def make(resolution=16, channels=3, **values):
  config = config_lib.base('wgan')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': 8, **SMALL,
                             **values})
  spec = spec_lib.DataSpec(resolution, channels, 0, 100, ('image',))
  return wgan.create(config, spec)


def initial(system):
  return jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))


def batch_of(system, batch=8, seed=0):
  shape = (system.batches_per_step, batch, *system.image_shape)
  return {'image': np.random.default_rng(seed).integers(
      0, 256, shape, np.uint8)}


def run(system, steps=1, watch=lambda state, logs: None):
  state = initial(system)
  traces = []

  def train_step(state, batch):
    traces.append(1)
    return system.train_step(state, batch, {})

  step = jax.jit(train_step, compiler_options=FAST)
  for i in range(steps):
    state, logs = step(state, batch_of(system, seed=i))
    watch(state, logs)
  chex.assert_tree_all_finite(logs)
  assert len(traces) == 1
  return state, logs


def assert_close(a, b, tolerance):
  """Each array to `tolerance` of its largest element."""
  def one(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    np.testing.assert_allclose(x, y, rtol=0,
                               atol=tolerance * max(np.abs(y).max(), 1e-12))

  jax.tree.map(one, a, b)


@pytest.mark.parametrize('resolution, values, g, d', [
    (64, {'model.ngf': 64, 'model.ndf': 64}, 3_576_704, 2_765_568),
    (32, {'model.ngf': 64, 'model.ndf': 64}, 1_068_928, 663_296),
    (64, {**MLP, 'model.ngf': 512, 'model.ndf': 512}, 6_880_768, 6_817_793),
])
def test_parameter_counts(resolution, values, g, d):
  system = make(resolution, **{'model.z_dim': 100, **values})
  params = jax.eval_shape(system.init, jax.random.key(0)).params
  assert state_lib.count(params['G']) == g
  assert state_lib.count(params['D']) == d


def test_defaults_are_the_papers():
  config = wgan.default_config()
  for player in ('G', 'D'):
    optimizer = config.optimizer[player]
    assert (optimizer.name, optimizer.lr, optimizer.decay,
            optimizer.eps) == ('rmsprop', 5e-5, 0.99, 1e-8)
  assert (config.loss.n_critic, config.loss.clip) == (5, 0.01)


def test_critic_scan_is_the_loop():
  system = make(**{**MLP, 'loss.n_critic': 3, 'loss.critic_boost': 0,
                   'optimizer.D.lr': 1e-3})
  batch = batch_of(system)
  after, logs = run(system)

  state = start = initial(system)
  for i in range(3):
    clipped = jax.tree.map(lambda x: jnp.clip(x, -0.01, 0.01),
                           state.params['D'])
    state = state.replace(params={**state.params, 'D': clipped})
    key = jax.random.fold_in(rng.named(start.key, 0, 'z/d'), i)
    inputs = {'image': images_lib.to_unit(jnp.asarray(batch['image'][i])),
              'z': jax.random.normal(key, (8, 6))}
    state, d_logs = jax.jit(lambda state, inputs: step_lib.update_player(
        state, 'D', ('D',), system.tx['D'],
        functools.partial(system.d_loss, state), inputs),
                            compiler_options=FAST)(state, inputs)
  assert_close(after.params['D'], state.params['D'], 1e-4)
  # A mean over the batch of values of the size of the weights, 0.01.
  np.testing.assert_allclose(logs['loss/d'], d_logs['loss/d'], rtol=1e-3,
                             atol=1e-7)
  np.testing.assert_array_equal(logs['wasserstein'], -logs['loss/d'])


def test_clip():
  params = {'conv': {'kernel': np.array([-3.0, 0.005])},
            'bn_4': {'scale': np.array([1.0]), 'bias': np.array([0.5])}}
  clipped = make().clip(params)
  np.testing.assert_allclose(clipped['conv']['kernel'], [-0.01, 0.005])
  np.testing.assert_allclose(clipped['bn_4']['scale'], [0.01])
  exempt = make(**{'loss.clip_norm_scale': False}).clip(params)
  np.testing.assert_allclose(exempt['bn_4']['scale'], [1.0])
  np.testing.assert_allclose(exempt['bn_4']['bias'], [0.01])


def test_critic_is_clipped_before_its_update():
  state, _ = run(make(**MLP))
  largest = max(np.abs(x).max() for x in jax.tree.leaves(state.params['D']))
  # One RMSProp step of at most lr / sqrt(1 - 0.99) away from the box.
  assert 0.01 < largest <= 0.01 + 5e-5 / 0.1 + 1e-6


def official_schedule(updates, n_critic=5, boost=100, first=25, every=500):
  """Critic updates before each generator update, as in the code's loop."""
  return [boost if g < first or g % every == 0 else n_critic
          for g in range(updates)]


def test_schedule_is_the_official_one():
  system = make()
  aux = {'generator_updates': jnp.zeros([], jnp.int32),
         'critic_updates': jnp.zeros([], jnp.int32)}
  count = jax.jit(system.count)
  critic, found = 0, []
  while len(found) < 1002:
    ready, aux = count(aux)
    critic += 5
    if ready:
      found.append(critic)
      critic = 0
  assert found == official_schedule(1002)
  # The formula of the module's docstring.
  updates = 1002
  steps = sum(found) // 5
  assert steps == updates + 19 * (25 + (updates - 1) // 500)


def test_generator_waits_while_the_critic_is_boosted():
  system = make(**{**MLP, 'loss.n_critic': 2, 'loss.critic_boost': 5,
                   'loss.boost_first': 1, 'loss.boost_every': 100,
                   'ema.decay': 0.9})
  history = [initial(system)]
  _, logs = run(system, 5, lambda state, logs: history.append(state))
  # 5 critic updates are 3 rounds of 2; then every round.
  moved = []
  for old, new in zip(history, history[1:], strict=False):
    same = jax.tree.map(lambda a, b: bool((a == b).all()),
                        (old.params['G'], old.opt['G'], old.ema),
                        (new.params['G'], new.opt['G'], new.ema))
    moved.append(not all(jax.tree.leaves(same)))
    assert new.step == old.step + 1
  assert moved == [False, False, True, True, True]
  assert logs['schedule/generator_updates'] == 3


def test_mlp_images_are_in_range():
  system = make(**MLP)
  state = initial(system)
  variables = state_lib.variables(state)
  variables['G'] = jax.tree.map(lambda x: 50 * x, variables['G'])
  images = system.generate(variables, rng.from_seeds([1, 2]))
  assert images.shape == (2, 16, 16, 3)
  assert np.abs(images).max() == 1


@pytest.mark.parametrize('norm_g', ['batch', 'none'])
def test_images_depend_on_their_keys_alone(norm_g):
  system = make(**{'model.norm_G': norm_g})
  state = initial(system)
  assert bool(state.mvars['G']) == (norm_g == 'batch')
  variables = state_lib.variables(state)
  keys = rng.from_seeds(np.arange(5))
  images = system.generate(variables, keys)
  np.testing.assert_allclose(images[2:3],
                             system.generate(variables, keys[2:3]), atol=1e-6)


@pytest.fixture(scope='module')
def programs():
  """{devices: (compiled step, state, batch)} of one global batch of 16."""
  system = make(**{'loss.n_critic': 2, 'loss.critic_boost': 0})
  batch, result = batch_of(system, 16), {}
  for devices in (1, 8):
    mesh = mesh_lib.make(data=devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
      abstract = jax.eval_shape(system.init, jax.random.key(0))
      shardings = mesh_lib.shardings(abstract, mesh)
      state = jax.jit(system.init, out_shardings=shardings)(jax.random.key(0))
      placed = mesh_lib.to_global(batch, mesh)
      program = jax.jit(lambda s, b: system.train_step(s, b, {}),
                        out_shardings=(shardings, None)).lower(
                            state, placed).compile(compiler_options=FAST)
    result[devices] = program, state, placed
  return result


@pytest.mark.slow
def test_eight_devices_train_as_one(programs):
  results = {n: program(state, batch)
             for n, (program, state, batch) in programs.items()}
  # RMSProp's first step is the sign of the gradient, so that parameters tell
  # little: its moments are the gradients squared.
  for player, tolerance in (('D', 1e-4), ('G', 1e-4)):
    assert_close(results[8][0].opt[player], results[1][0].opt[player],
                 tolerance)
  for name, value in results[1][1].items():
    np.testing.assert_allclose(results[8][1][name], value, rtol=1e-5,
                               atol=1e-6)


@pytest.mark.slow
def test_program(programs):
  for program, *_ in programs.values():
    assert hlo.reversed_convolutions(program) == 0
  assert list(hlo.collectives(programs[8][0])) == ['all-reduce']


@pytest.mark.parametrize('values, words', [
    ({'model.G': 'resnet'}, ['model.G', 'mlp']),
    ({'model.norm_G': 'layer'}, ['model.norm_G', 'batch']),
    ({'loss.n_critic': 0}, ['loss.n_critic']),
    ({'loss.clip': -1.0}, ['loss.clip']),
    ({'loss.critic_boost': -1}, ['loss.critic_boost']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)
