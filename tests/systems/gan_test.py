"""The 2014 GAN: sizes, both games, and independence of the mesh."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import gan

LR = 0.1  # the default of both players
FAST = {'xla_backend_optimization_level': 0}
TINY = {'model.z_dim': 5, 'model.g_hidden': 16, 'model.d_units': 6,
        'model.d_pieces': 2}


def make(resolution=8, channels=1, batch_size=16, values=None):
  spec = spec_lib.image_spec(resolution=resolution, channels=channels,
                             num_examples=100, facts={})
  config = config_lib.base('gan')
  config.total_steps = 10
  config.batch_size = batch_size
  config_lib.assign(config, values or {})
  return gan.create(config, spec)


def images(n_sub=1, n=16, resolution=8, channels=1, seed=0):
  draw = np.random.RandomState(seed)
  shape = (n_sub, n, resolution, resolution, channels)
  return {'image': draw.randint(0, 256, shape).astype(np.uint8)}


def one_step(system, batch, devices=1, d_scale=1.0):
  """Returns (state, state after a step, logs); D's start is scaled."""
  mesh = mesh_lib.make(devices=jax.devices()[:devices])
  abstract = system_lib.abstract_state(system)
  shardings = mesh_lib.shardings(abstract, mesh)
  with jax.set_mesh(mesh):
    state = jax.jit(system.init, out_shardings=shardings,
                    compiler_options=FAST)(jax.random.key(0))
    state = state.replace(params={**state.params, 'D': jax.tree.map(
        lambda x: d_scale * x, state.params['D'])})
    step = jax.jit(system.train_step, compiler_options=FAST)
    after, logs = step(state, mesh_lib.to_global(batch, mesh), {})
  return state, after, jax.tree.map(np.asarray, logs)


def velocities(state):
  """The gradients of step 1, times -lr: momentum starts from nothing."""
  return jax.tree.map(np.asarray, {name: opt.velocity
                                   for name, opt in state.opt.items()})


def assert_same(a, b, rtol=1e-5):
  # Sums that cancel are as exact as what they are sums of.
  atol = 1e-6 * max(np.abs(y).max() for y in jax.tree.leaves(b))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize('variant, shape, sizes, g, d', [
    ('mnist', (28, 1), {}, 2_503_984, 1_231_441),
    ('cifar_mlp', (32, 3), {'model.g_hidden': 8000, 'model.d_units': 1600},
     89_395_072, 37_393_601),
    ('cifar_conv', (32, 3), {'model.g_hidden': 8000}, 64_825_072, 12_454_073),
])
def test_parameter_counts(variant, shape, sizes, g, d):
  system = make(*shape, values={'model.variant': variant, **sizes})
  params = system_lib.abstract_state(system).params
  assert state_lib.count(params['G']) == g
  assert state_lib.count(params['D']) == d


@pytest.mark.parametrize('simultaneous, k', [(True, 1), (False, 1),
                                             (False, 3)])
def test_step_trains_both(simultaneous, k):
  system = make(values={**TINY, 'loss.simultaneous': simultaneous,
                        'loss.k': k})
  assert system.batches_per_step == k
  before, after, logs = one_step(system, images(k))
  assert int(after.step) == 1
  # Weights of +-0.005 give G steps below the rounding of its own weights.
  for leaf in jax.tree.leaves(velocities(after)):
    assert np.any(leaf != 0)
  assert any(np.any(old != new) for old, new in zip(
      jax.tree.leaves(before.params), jax.tree.leaves(after.params),
      strict=True))
  # Of weights in +-0.005 the logits are near 0, and each term near log 2.
  np.testing.assert_allclose(logs['loss/d'], np.log(2), rtol=1e-2)
  np.testing.assert_allclose(logs['loss/g'], np.log(2), rtol=1e-2)
  assert int(after.opt['D'].count) == k and int(after.opt['G'].count) == 1


@pytest.mark.slow
def test_conv_variant_trains():
  system = make(32, 3, 2, {'model.variant': 'cifar_conv', 'model.z_dim': 4,
                           'model.g_hidden': 8})
  before, after, logs = one_step(system, images(1, 2, 32, 3))
  assert np.isfinite(list(logs.values())).all()
  flat = before.params['D']['Maxout_0']['pieces']['kernel']
  assert flat.shape == (5 * 5 * 192, 500 * 5)
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(velocities(after)))
  found = jax.eval_shape(
      lambda s, k: system.generate(state_lib.variables(s), k), after,
      rng.from_seeds([0, 1, 2]))
  assert found.shape == (3, 32, 32, 3)


def gradient_of_g(system, state, batch, params_d, name):
  """G's gradient against a given D, written down without core.step."""
  key = rng.named(state.key, state.step, f'{name}/z')
  draw = rng.per_example(jax.random.fold_in(key, 0), 0, 16)
  key = rng.named(state.key, state.step, f'{name}/dropout/fake')
  masks = rng.per_example(jax.random.fold_in(key, 0), 0, 16)

  def loss(params):
    x = system.nets['G'].apply({'params': params}, system.latents(draw))
    logits = system.nets['D'].apply({'params': params_d}, x, masks)
    return -jnp.mean(jnp.log(jax.nn.sigmoid(logits)))

  return jax.grad(loss)(state.params['G'])


@pytest.mark.slow
def test_simultaneous_g_meets_the_old_d_and_alternating_the_new():
  batch = images()
  for simultaneous, name in ((True, 'd'), (False, 'g')):
    system = make(values={**TINY, 'loss.simultaneous': simultaneous,
                          'optimizer.D.lr': 5.0})
    before, after, _ = one_step(system, batch)
    met = before if simultaneous else after
    other = after if simultaneous else before
    found = jax.tree.map(lambda v: -v / LR, velocities(after)['G']['G'])
    expected = gradient_of_g(system, before, batch, met.params['D'], name)
    assert_same(found, jax.tree.map(np.asarray, expected), rtol=1e-4)
    wrong = gradient_of_g(system, before, batch, other.params['D'], name)
    kernel = found['Dense_2']['kernel']
    assert np.abs(kernel - wrong['Dense_2']['kernel']).max() > (
        1e-2 * np.abs(kernel).max())


def test_minimax_has_the_other_gradient():
  """d log(1 - D) / d -log D = D / (1 - D): at D = 1/2 the two agree."""
  batch = images()
  gradients = {}
  for objective in ('minimax', 'non_saturating'):
    system = make(values={**TINY, 'loss.objective': objective})
    _, after, logs = one_step(system, batch)
    gradients[objective] = velocities(after)['G']
    expected = {'minimax': -np.log(2), 'non_saturating': np.log(2)}
    np.testing.assert_allclose(logs['loss/g'], expected[objective], rtol=1e-2)
  a, b = (jax.flatten_util.ravel_pytree(gradients[name])[0]
          for name in ('minimax', 'non_saturating'))
  np.testing.assert_allclose(
      np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), 1.0, atol=1e-2)
  assert np.any(a != b)


@pytest.mark.parametrize('k', [1, 2])
def test_eight_devices_and_microbatches_change_nothing(k):
  values = {**TINY, 'loss.simultaneous': k == 1, 'loss.k': k}
  batch = images(k)
  # Weights of +-0.2 rather than 0.005: logits that are not all rounding.
  one, one_logs = one_step(make(values=values), batch, d_scale=40.0)[1:]
  eight, eight_logs = one_step(make(values=values), batch, 8, 40.0)[1:]
  others = [(eight, eight_logs)]
  if k == 1:
    others.append(one_step(make(values={**values, 'microbatches': 2}), batch,
                           d_scale=40.0)[1:])
  for other, logs in others:
    for name, value in one_logs.items():
      np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)
    for player in ('G', 'D'):
      assert_same(velocities(other)[player], velocities(one)[player])


def test_dropout_is_a_function_of_seed_and_step():
  system, batch = make(values=TINY), images()
  state, after, logs = one_step(system, batch)
  _, again, _ = one_step(system, batch)
  jax.tree.map(np.testing.assert_array_equal, velocities(again),
               velocities(after))
  step = jax.jit(system.train_step, compiler_options=FAST)
  later = state.replace(step=jnp.asarray(1, jnp.int32))
  _, other = step(later, jax.tree.map(jnp.asarray, batch), {})
  # Same parameters and images, other noise and masks.
  assert float(other['logits/real']) != float(logs['logits/real'])


def test_generate_depends_on_each_key_alone():
  system = make(values=TINY)
  init = jax.jit(system.init, compiler_options=FAST)
  variables = state_lib.variables(init(jax.random.key(0)))
  keys = rng.from_seeds(np.arange(5))
  generate = jax.jit(system.generate, compiler_options=FAST)
  whole = np.asarray(generate(variables, keys))
  assert whole.shape == (5, 8, 8, 1) and np.abs(whole).max() <= 1
  alone = generate(variables, keys[3:4])
  np.testing.assert_allclose(alone[0], whole[3], rtol=1e-6, atol=1e-6)
  assert np.any(whole[0] != whole[1])
  given = generate(variables, keys, {'z': system.latents(keys)})
  np.testing.assert_allclose(given, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('kind', ['uniform', 'normal'])
def test_latents_have_unit_variance(kind):
  system = make(values={'model.z': kind})
  z = np.asarray(system.latents(rng.from_seeds(np.arange(1000))))
  np.testing.assert_allclose(z.std(), 1.0, rtol=0.02)
  if kind == 'uniform':
    assert np.abs(z).max() <= 3**0.5


def test_marginals_are_what_an_untrained_bias_gives(tmp_path):
  means = np.random.RandomState(0).uniform(0.01, 0.99, (8, 8, 1))
  path = tmp_path / 'means.npy'
  np.save(path, means)
  system = make(values={**TINY, 'model.marginals': str(path)})
  state = system.init(jax.random.key(0))
  variables = {'G': {'params': jax.tree.map(jnp.zeros_like,
                                            state.params['G'])}}
  variables['G']['params']['Dense_2']['bias'] = (
      state.params['G']['Dense_2']['bias'])
  x = system.generate(variables, rng.from_seeds([0]))
  np.testing.assert_allclose(x[0], 2 * means - 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('values, told', [
    ({'model.variant': 'mnits'}, "'mnist'"),
    ({'model.z': 'gaussian'}, 'model.z'),
    ({'loss.objective': 'hinge'}, 'loss.objective'),
    ({'loss.k': 0}, 'loss.k'),
    ({'loss.k': 2}, 'simultaneous'),
    ({'model.keep_input': 0.0}, 'keep_input'),
    ({'model.d_units': 0}, 'd_units'),
    ({'model.variant': 'cifar_conv'}, '32'),
    ({'model.marginals': '/nowhere/means.npy'}, '/nowhere/means.npy'),
    ({'optimizer.G.name': 'lion'}, 'lion'),
])
def test_bad_values_are_refused(values, told):
  with pytest.raises(errors.UserError, match=told):
    make(values=values)


def test_marginals_of_another_shape_are_refused(tmp_path):
  path = tmp_path / 'means.npy'
  np.save(path, np.zeros((28, 28)))
  with pytest.raises(errors.UserError, match='28, 28'):
    make(values={'model.marginals': str(path)})
