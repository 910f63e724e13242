"""The conditional GAN: sizes, conditioning, independence of the mesh."""

import jax
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
from gans_jax.systems import cgan

FAST = {'xla_backend_optimization_level': 0}
CLASSES = 3
CONV = {'model.variant': 'conv', 'model.z_dim': 5, 'model.ch': 4,
        'model.fc': 8}
MLP = {'model.variant': 'mlp', 'model.z_dim': 5, 'model.width': 0.04}


def make(values=None, resolution=16, channels=3, classes=CLASSES):
  spec = spec_lib.image_spec(resolution=resolution, channels=channels,
                             num_examples=100, num_classes=classes, facts={})
  config = config_lib.base('cgan')
  config.total_steps = 10
  config.batch_size = 16
  config_lib.assign(config, values or {})
  return cgan.create(config, spec)


def make_batch(n_sub=1, n=16, resolution=16, channels=3, seed=0):
  draw = np.random.RandomState(seed)
  shape = (n_sub, n, resolution, resolution, channels)
  return {'image': draw.randint(0, 256, shape).astype(np.uint8),
          'label': draw.randint(0, CLASSES, (n_sub, n)).astype(np.int32)}


def one_step(system, batch, devices=1, d_scale=1.0):
  mesh = mesh_lib.make(devices=jax.devices()[:devices])
  shardings = mesh_lib.shardings(system_lib.abstract_state(system), mesh)
  with jax.set_mesh(mesh):
    state = jax.jit(system.init, out_shardings=shardings,
                    compiler_options=FAST)(jax.random.key(0))
    state = state.replace(params={**state.params, 'D': jax.tree.map(
        lambda x: d_scale * x, state.params['D'])})
    step = jax.jit(system.train_step, compiler_options=FAST)
    after, logs = step(state, mesh_lib.to_global(batch, mesh), {})
  return state, after, jax.tree.map(np.asarray, logs)


def first_moments(state, player):
  """Adam's first moments: the gradients of step 1, times 1 - b1."""
  found = []
  jax.tree.map(
      lambda x: found.append(x) if hasattr(x, 'mu') else None,
      state.opt[player], is_leaf=lambda x: hasattr(x, 'mu'))
  return jax.tree.map(np.asarray, found[0].mu)


def assert_same(a, b):
  # By norm: single elements are sums that cancel, in another order.
  def one(x, y):
    assert np.linalg.norm(x - y) < 1e-5 * np.linalg.norm(y)

  jax.tree.map(one, a, b)


@pytest.mark.parametrize('variant, resolution, channels, g, d', [
    # [110, 1024], [1034, 6272], 5x5x138x64, 5x5x74x1;
    # 5x5x11x64, 5x5x74x128, [6282, 1024], [1034, 1] (train_cond_dcgan.py).
    ('conv', 28, 1, 6_820_538, 6_688_202),
    # 64 px: 8x8x256 and three layers of stride 2, each with 10 labels.
    ('conv', 64, 3,
     110 * 1024 + 1034 * 8 * 8 * 256 + 25 * (266 * 128 + 138 * 64 + 74 * 3),
     25 * (13 * 64 + 74 * 128 + 138 * 256) + (8 * 8 * 256 + 10) * 1024 + 1034),
    # Sec. 4.1: 100 -> 200, 10 -> 1000, 1200 -> 1200 -> 784;
    # 784 -> 240 x 5, 10 -> 50 x 5, 290 -> 240 x 4 -> 1.
    ('mlp', 28, 1, 2_413_984, 1_224_351),
])
def test_parameter_counts(variant, resolution, channels, g, d):
  system = make({'model.variant': variant}, resolution, channels, 10)
  params = system_lib.abstract_state(system).params
  assert state_lib.count(params['G']) == g
  assert state_lib.count(params['D']) == d


@pytest.mark.parametrize('resolution, side, channels', [
    (16, 4, [4, 8]), (28, 7, [4, 8]), (32, 8, [4, 8]), (64, 8, [4, 8, 16]),
    (256, 8, [4, 8, 16, 16, 16])])
def test_layers(resolution, side, channels):
  assert cgan.layers(resolution, 4, 16) == (side, channels)


@pytest.mark.parametrize('resolution', [16, 28, 32, 64, 128])
def test_both_nets_have_the_shapes_of_the_data(resolution):
  system = make(CONV, resolution)
  state = system_lib.abstract_state(system)
  keys = jax.eval_shape(lambda: rng.from_seeds([0, 1]))
  label = jax.ShapeDtypeStruct([2], jnp.int32)
  x = jax.eval_shape(
      lambda s, k, y: system.generate(state_lib.variables(s), k,
                                      {'label': y}), state, keys, label)
  assert x.shape == (2, resolution, resolution, 3) and x.dtype == jnp.float32


@pytest.mark.parametrize('values, k', [(MLP, 1), (CONV, 2)])
def test_step_trains_both(values, k):
  system = make({**values, 'loss.k': k})
  assert system.batches_per_step == k
  before, after, logs = one_step(system, make_batch(k))
  assert int(after.step) == 1
  assert np.isfinite(list(logs.values())).all()
  for net in ('G', 'D'):
    for old, new in zip(jax.tree.leaves(before.params[net]),
                        jax.tree.leaves(after.params[net]), strict=True):
      assert np.any(old != new)
  # ema.decay is 0: the average is the live net, statistics included.
  live = state_lib.variables(after)['G']
  jax.tree.map(np.testing.assert_array_equal, after.ema['G'], live)
  if values is CONV:
    statistics = zip(jax.tree.leaves(before.mvars),
                     jax.tree.leaves(after.mvars), strict=True)
    assert all(np.any(old != new) for old, new in statistics)


@pytest.mark.slow
def test_eight_devices_change_nothing():
  batch = make_batch()
  # D stands still: Adam's first step would turn rounding into a sign, and G
  # would meet two different critics.
  values = {**CONV, 'loss.l2': 0.0, 'model.bn_epsilon': 1e-5,
            'optimizer.D.lr': 0.0}
  _, one, one_logs = one_step(make(values), batch)
  _, eight, eight_logs = one_step(make(values), batch, 8)
  for name, value in one_logs.items():
    np.testing.assert_allclose(eight_logs[name], value, rtol=1e-5,
                               err_msg=name)
  for player in ('G', 'D'):
    assert_same(first_moments(eight, player), first_moments(one, player))


@pytest.mark.slow
def test_microbatches_change_nothing_without_batch_norm():
  batch = make_batch()
  _, one, one_logs = one_step(make(MLP), batch, d_scale=40.0)
  _, two, two_logs = one_step(make({**MLP, 'microbatches': 2}), batch, 8,
                              d_scale=40.0)
  for name, value in one_logs.items():
    np.testing.assert_allclose(two_logs[name], value, rtol=1e-5, err_msg=name)
  for player in ('G', 'D'):
    assert_same(first_moments(two, player), first_moments(one, player))


def test_l2_is_added_to_the_gradient():
  batch = make_batch()
  state, plain, _ = one_step(make({**MLP, 'loss.l2': 0.0}), batch)
  _, decayed, _ = one_step(make({**MLP, 'loss.l2': 0.5}), batch)
  # Adam's first moment is (1 - b1) * gradient. D alone: G met another D.
  found = jax.tree.map(lambda a, b: (a - b) / 0.5,
                       first_moments(decayed, 'D'), first_moments(plain, 'D'))
  jax.tree.map(lambda x, w: np.testing.assert_allclose(
      x, 0.5 * w, rtol=1e-4, atol=1e-6), found, {'D': state.params['D']})


@pytest.mark.parametrize('values', [CONV, MLP])
def test_label_reaches_both_nets(values):
  system = make(values)
  state = jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))
  variables = state_lib.variables(state)
  keys = rng.from_seeds(np.zeros(CLASSES, np.uint32))  # one z for all
  generate = jax.jit(system.generate, compiler_options=FAST)
  x = np.asarray(generate(variables, keys, {'label': np.arange(CLASSES)}))
  for i in range(CLASSES):
    assert np.any(x[i] != x[i - 1])

  judge = jax.jit(lambda x, y: system.nets['D'].apply(
      variables['D'], x, y, False), compiler_options=FAST)
  same = np.broadcast_to(make_batch()['image'][0, :1] / 255.0,
                         (CLASSES, 16, 16, 3)).astype(np.float32)
  logits = judge(same, jnp.eye(CLASSES))
  assert len(np.unique(np.asarray(logits))) == CLASSES


def test_with_label_tiles_over_space():
  h = jnp.zeros([2, 3, 3, 4])
  found = cgan.with_label(h, jnp.eye(2))
  assert found.shape == (2, 3, 3, 6)
  np.testing.assert_array_equal(found[0, 1, 2], [0, 0, 0, 0, 1, 0])
  np.testing.assert_array_equal(found[1, 0, 0], [0, 0, 0, 0, 0, 1])
  np.testing.assert_array_equal(
      cgan.with_label(jnp.ones([2, 1]), jnp.eye(2)), [[1, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize('values', [CONV, MLP])
def test_generate_depends_on_each_key_and_label_alone(values):
  system = make(values)
  init = jax.jit(system.init, compiler_options=FAST)
  variables = state_lib.variables(init(jax.random.key(0)))
  generate = jax.jit(system.generate, compiler_options=FAST)
  keys, label = rng.from_seeds(np.arange(4)), np.array([0, 2, 1, 2])
  whole = np.asarray(generate(variables, keys, {'label': label}))
  assert whole.shape == (4, 16, 16, 3) and np.abs(whole).max() <= 1
  alone = generate(variables, keys[3:], {'label': label[3:]})
  np.testing.assert_allclose(alone[0], whole[3], rtol=1e-5, atol=1e-5)
  assert np.any(whole[1] != whole[3])
  given = generate(variables, keys[::-1],
                   {'label': label, 'z': system.latents(keys)})
  np.testing.assert_allclose(given, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind, low', [('symmetric', -1.0), ('unit', 0.0)])
def test_latents_fill_their_range(kind, low):
  z = np.asarray(make({'model.z': kind}).latents(
      rng.from_seeds(np.arange(100))))
  assert z.min() >= low and z.max() < 1
  assert z.min() < low + 0.01 and z.max() > 0.99


def test_unlabelled_data_are_refused():
  spec = spec_lib.image_spec(resolution=16, channels=3, num_examples=9,
                             facts={})
  config = config_lib.base('cgan')
  config.total_steps = 10
  with pytest.raises(errors.UserError, match='data.labels'):
    system_lib.create(config, spec)


@pytest.mark.parametrize('values, resolution, told', [
    ({'model.variant': 'cnn'}, 16, 'model.variant'),
    ({'model.z': 'normal'}, 16, 'model.z'),
    ({'model.kernel': 4}, 16, 'model.kernel'),
    ({'model.ch': 0}, 16, 'model.ch'),
    ({'model.keep': 1.5}, 16, 'model.keep'),
    ({'model.width': 0.001}, 16, 'model.width'),
    ({'loss.k': 0}, 16, 'loss.k'),
    ({'loss.l2': -1.0}, 16, 'loss.l2'),
    ({'loss.objective': 'hinged'}, 16, "'hinge'"),
    ({}, 24, '24'),
    ({}, 8, 'from 16'),
])
def test_bad_values_are_refused(values, resolution, told):
  with pytest.raises(errors.UserError, match=told):
    make(values, resolution)
