"""Toys: sizes of three papers, packing, unrolling, and that it learns."""

import functools

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
from gans_jax.data import mixtures
from gans_jax.data import spec as spec_lib
from gans_jax.systems import toy

FAST = {'xla_backend_optimization_level': 0}
SPEC = spec_lib.DataSpec(resolution=0, channels=0, num_classes=0,
                         num_examples=1000, keys=('point',))
TINY = {'model.nets': 'unrolled', 'model.z_dim': 3, 'model.width': 8,
        'model.d_width': 8}


def make(values=None):
  config = config_lib.base('toy')
  config.total_steps = 10
  config.batch_size = 16
  config.data.source = 'mixture:ring8'
  config_lib.assign(config, values or {})
  return toy.create(config, SPEC)


def start(system):
  return jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))


def points(n_sub, n=16, seed=0):
  draw = np.random.default_rng(seed)
  drawn, _ = mixtures.get('ring8').host_sample(draw, n_sub * n)
  return {'point': drawn.reshape(n_sub, n, 2)}


def one_step(system, batch, devices=1):
  mesh = mesh_lib.make(devices=jax.devices()[:devices])
  shardings = mesh_lib.shardings(system_lib.abstract_state(system), mesh)
  with jax.set_mesh(mesh):
    state = jax.jit(system.init, out_shardings=shardings,
                    compiler_options=FAST)(jax.random.key(0))
    step = jax.jit(system.train_step, compiler_options=FAST)
    after, logs = step(state, mesh_lib.to_global(batch, mesh), {})
  return state, after, jax.tree.map(np.asarray, logs)


def first_moments(state):
  """Adam's first moments: the gradients of step 1, times 1 - b1."""
  return jax.tree.map(np.asarray, {
      player: opt[0].mu for player, opt in state.opt.items()})


@pytest.mark.parametrize('nets, packing, g, d', [
    ('pacgan', 1, 484_802, 405_201),
    ('pacgan', 2, 484_802, 407_201),
    ('pacgan', 4, 484_802, 411_201),
    ('wgan_gp', 1, 527_874, 527_361),
    # tanh 256 -> 128 -> 128 -> 2 and 2 -> 128 -> 128 -> 1, with biases.
    ('unrolled', 1, 49_666, 17_025),
])
def test_parameter_counts(nets, packing, g, d):
  system = make({'model.nets': nets, 'model.packing': packing})
  params = system_lib.abstract_state(system).params
  assert state_lib.count(params['G']) == g
  assert state_lib.count(params['D']) == d


@pytest.mark.parametrize('values, batches', [
    ({}, 1),
    ({'loss.simultaneous': False, 'loss.n_critic': 3, 'loss.clip': 0.05,
      'loss.objective': 'wasserstein'}, 3),
    ({'model.packing': 3}, 3),
    ({'model.packing': 2, 'loss.simultaneous': False, 'loss.n_critic': 2,
      'loss.penalty': 'wgan_gp'}, 4),
    ({'model.unroll': 2, 'loss.objective': 'minimax'}, 1),
])
def test_step_trains_both(values, batches):
  system = make({**TINY, **values})
  assert system.batches_per_step == batches
  before, after, logs = one_step(system, points(batches))
  assert int(after.step) == 1
  assert np.isfinite(list(logs.values())).all()
  for net in ('G', 'D'):
    # Kernels: a critic's last bias cancels in E f(fake) - E f(real).
    assert all(np.any(old != new) for old, new in zip(
        jax.tree.leaves(before.params[net]),
        jax.tree.leaves(after.params[net]), strict=True) if old.ndim == 2)
  if system.clip:
    assert max(jnp.abs(w).max() for w in jax.tree.leaves(
        after.params['D'])) == pytest.approx(0.05)


@pytest.mark.parametrize('penalty', toy.PENALTIES[1:])
def test_penalties_are_added_and_logged(penalty):
  batch = jax.tree.map(jnp.asarray, points(1))
  values = {**TINY, 'loss.penalty': penalty, 'loss.penalty_weight': 2.0}
  system = make(values)

  @functools.partial(jax.jit, compiler_options=FAST)
  def losses(key):
    state = system.init(key)
    inputs = system._inputs(state, batch['point'][0], 'd', 0)
    loss, logs = system.d_loss(state.params, state.mvars, inputs)
    bare, _ = make(TINY).d_loss(state.params, state.mvars, inputs)
    return loss, bare, logs[f'penalty/{penalty}']

  loss, bare, extra = losses(jax.random.key(0))
  assert extra > 0
  np.testing.assert_allclose(loss - bare, extra, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('values', [
    {**TINY, 'loss.penalty': 'wgan_gp', 'loss.objective': 'wasserstein',
     'model.packing': 2},
    {**TINY, 'loss.penalty': 'dragan'},
])
@pytest.mark.slow
def test_devices_and_microbatches_change_nothing(values):
  batch = points(2 if values.get('model.packing') else 1)
  _, one, one_logs = one_step(make(values), batch)
  _, other, logs = one_step(make({**values, 'microbatches': 2}), batch, 8)
  for name, value in one_logs.items():
    # Means over points on both sides of the origin cancel.
    np.testing.assert_allclose(logs[name], value, rtol=1e-5, atol=1e-6,
                               err_msg=name)
  for player in ('G', 'D'):
    a, b = first_moments(other)[player], first_moments(one)[player]
    atol = 1e-6 * max(np.abs(y).max() for y in jax.tree.leaves(b))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5,
                                   atol=atol), a, b)


def test_batch_statistics_are_those_of_the_whole_batch():
  values = {'model.nets': 'pacgan', 'model.width': 8, 'model.d_width': 8}
  _, one, _ = one_step(make(values), points(1))
  _, eight, _ = one_step(make(values), points(1), 8)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5,
                                 atol=1e-7), eight.mvars['G'], one.mvars['G'])
  # Of D's and G's turn, G's alone moves the running averages.
  mean = one.mvars['G']['batch_stats']['BatchNorm_0']['mean']
  assert np.any(mean != 0)


def test_packs_join_rows_of_successive_batches():
  system = make({**TINY, 'model.packing': 2, 'loss.simultaneous': False,
                 'loss.n_critic': 3})
  batch = jnp.arange(6 * 4 * 2.0).reshape(6, 4, 2)
  packs = system._packs(batch)
  assert packs.shape == (3, 4, 4)
  for critic in range(3):
    for row in range(4):
      np.testing.assert_array_equal(packs[critic, row, :2],
                                    batch[2 * critic, row])
      np.testing.assert_array_equal(packs[critic, row, 2:],
                                    batch[2 * critic + 1, row])


def test_generated_packs_are_independent_points():
  system = make({**TINY, 'model.packing': 2})
  state = start(system)
  z = jax.random.normal(jax.random.key(1), (5, 2, 3))
  packs, _ = system.fake(state.params, state.mvars, z)
  for i in range(2):
    alone = system.nets['G'].apply({'params': state.params['G']}, z[:, i],
                                   True)
    np.testing.assert_allclose(packs[:, 2 * i:2 * i + 2], alone, rtol=1e-5,
                               atol=1e-6)


# --- unrolling --------------------------------------------------------------


def unrolled_problem(system, dtype=np.float64):
  """Parameters, D's optimizer state (not at rest), inputs; in float64."""
  state = start(system)
  draw = np.random.RandomState(0)
  opt = jax.tree.map(np.asarray, state.opt['D'])
  if hasattr(opt[0], 'mu'):
    # As after some steps, of gradients of about 0.1.
    opt = (opt[0]._replace(
        count=np.int32(3),
        mu=jax.tree.map(lambda x: 0.1 * draw.randn(*x.shape), opt[0].mu),
        nu=jax.tree.map(lambda x: 1e-2 * draw.rand(*x.shape), opt[0].nu)),
           *opt[1:])
  inputs = {'real': points(1, seed=1)['point'][0].astype(dtype),
            'z': draw.randn(16, 1, system.z_dim).astype(dtype),
            'eps': draw.rand(16).astype(dtype),
            'noise': draw.randn(16, 2).astype(dtype)}

  def cast(tree):
    return jax.tree.map(
        lambda x: np.asarray(x).astype(dtype) if jnp.issubdtype(
            x.dtype, jnp.floating) else np.asarray(x), tree)

  return cast(state.params), cast(opt), inputs


@pytest.mark.parametrize('values', [
    {'loss.objective': 'minimax'},
    {'loss.objective': 'non_saturating', 'optimizer.D.name': 'sgd',
     'optimizer.D.momentum': 0.5},
    {'loss.objective': 'wasserstein', 'loss.penalty': 'wgan_gp'},
])
def test_unrolled_gradient_against_finite_differences(values):
  system = make({**TINY, 'model.unroll': 3, 'optimizer.D.lr': 0.05, **values})
  params, opt, inputs = unrolled_problem(system)
  with jax.enable_x64(True):
    def loss(g):
      return system.g_loss({'G': g, 'D': params['D']}, {}, opt, inputs)[0]

    draw = np.random.RandomState(1)
    direction = jax.tree.map(lambda x: draw.randn(*x.shape), params['G'])
    h = 1e-5

    def moved(sign):
      return jax.tree.map(lambda x, v: x + sign * h * v, params['G'],
                          direction)

    fn = jax.jit(loss, compiler_options=FAST)
    expected = (float(fn(moved(1))) - float(fn(moved(-1)))) / (2 * h)
    gradient = jax.jit(jax.grad(loss), compiler_options=FAST)(params['G'])
    found = sum(float(np.vdot(a, b)) for a, b in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))

    @functools.partial(jax.jit, compiler_options=FAST)
    def gradient_with_steps_given(g):
      fake, _ = system.fake({**params, 'G': g}, {}, inputs['z'])
      theta = system.look_ahead(params, opt, fake, inputs)
      return jax.grad(lambda g: make({**TINY, **values}).g_loss(
          {'G': g, 'D': theta['D']}, {}, opt, inputs)[0])(g)

    frozen = gradient_with_steps_given(params['G'])
    without = sum(float(np.vdot(a, b)) for a, b in zip(
        jax.tree.leaves(frozen), jax.tree.leaves(direction), strict=True))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert abs(without - found) > 1e-3 * abs(found)


@pytest.mark.parametrize('name', ['adam', 'sgd'])
def test_one_step_ahead_is_the_step_that_d_takes(name):
  system = make({**TINY, 'model.unroll': 1, 'optimizer.D.name': name})

  @functools.partial(jax.jit, compiler_options=FAST)
  def both(state, real):
    inputs = system._inputs(state, real, 'd', 0)
    moved, _ = system._update_d(state, inputs)
    fake, _ = system.fake(state.params, state.mvars, inputs['z'])
    return moved, system.look_ahead(state.params, state.opt['D'], fake,
                                    inputs)

  moved, ahead = both(start(system), jnp.asarray(points(1)['point'][0]))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4,
                                 atol=1e-7), ahead['D'], moved.params['D'])


def test_unrolling_changes_g_and_leaves_d():
  values = {**TINY, 'loss.objective': 'minimax', 'optimizer.D.lr': 0.05}
  _, plain, _ = one_step(make(values), points(1))
  _, ahead, _ = one_step(make({**values, 'model.unroll': 3}), points(1))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6),
               ahead.params['D'], plain.params['D'])
  a, b = (first_moments(s)['G']['G']['Dense_2']['kernel']
          for s in (plain, ahead))
  assert np.abs(a - b).max() > 1e-2 * np.abs(a).max()


def test_dead_units_have_finite_unrolled_gradients():
  system = make({'model.nets': 'wgan_gp', 'model.width': 8, 'model.d_width': 8,
                 'model.unroll': 2})
  state = start(system)
  # All units of D's second layer off: zero gradients, and Adam at rest.
  d = state.params['D']
  d = {**d, 'Dense_1': {**d['Dense_1'], 'bias': jnp.full([8], -100.0)}}
  state = state.replace(params={**state.params, 'D': d})
  _, logs = jax.jit(system.train_step, compiler_options=FAST)(
      state, jax.tree.map(jnp.asarray, points(1)), {})
  assert np.isfinite(float(logs['grad_norm/G']))


# --- samples ----------------------------------------------------------------


@pytest.mark.parametrize('nets', list(toy.SETTINGS))
def test_generate_depends_on_each_key_alone(nets):
  system = make({'model.nets': nets, 'model.width': 8})
  variables = state_lib.variables(start(system))
  keys = rng.from_seeds(np.arange(4))
  generate = jax.jit(system.generate)
  whole = np.asarray(generate(variables, keys))
  assert whole.shape == (4, 2) and whole.dtype == np.float32
  np.testing.assert_allclose(generate(variables, keys[2:3])[0], whole[2],
                             rtol=1e-5, atol=1e-7)
  given = generate(variables, keys, {'z': system.latents(keys)})
  np.testing.assert_allclose(given, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name, count, kl', [('ring8', 8, 0.0014),
                                             ('grid25', 25, 0.0048)])
def test_the_true_mixture_hits_the_ceiling(name, count, kl):
  system = make({'data.source': f'mixture:{name}'})
  drawn, _ = mixtures.get(name).host_sample(np.random.default_rng(0), 2500)
  found = system.point_metrics(drawn)
  assert found['modes/covered'] == count
  # 1 - exp(-9/2), four standard errors of 2,500 draws.
  assert abs(found['modes/high_quality'] - 0.98889) < 4 * 0.0021
  assert 0 < found['modes/reverse_kl'] < 3 * kl


def test_metrics_of_collapse_and_of_nothing():
  system = make()
  one = np.tile(mixtures.get('ring8').modes[:1], (100, 1))
  found = system.point_metrics(one)
  assert found['modes/covered'] == 1 and found['modes/high_quality'] == 1
  np.testing.assert_allclose(found['modes/reverse_kl'], np.log(8))
  assert system.point_metrics(np.zeros([100, 2])) == {
      'modes/covered': 0.0, 'modes/high_quality': 0.0}
  assert make({'data.source': 'mixture:swissroll'}).point_metrics(one) == {}


def test_a_stabilised_objective_covers_the_ring():
  """Two points to a pack, R1, averaged weights: 8 of 8 modes for four seeds."""
  system = make({
      'batch_size': 256, 'model.nets': 'wgan_gp', 'model.width': 64,
      'model.d_width': 64, 'model.packing': 2, 'loss.penalty': 'r1',
      'loss.penalty_weight': 0.02, 'ema.decay': 0.99,
      **{f'optimizer.{p}.{k}': v for p in 'GD'
         for k, v in (('lr', 1e-3), ('b1', 0.5), ('b2', 0.99))}})
  ring = mixtures.get('ring8')

  def train(state):
    def one(state, _):
      key = rng.named(state.key, state.step, 'data')
      drawn, _ = ring.sample(key, 512)
      return system.train_step(
          state, {'point': drawn.reshape(2, 256, 2)}, {})[0], None

    return jax.lax.scan(one, state, None, length=2000)[0]

  keys = rng.from_seeds(np.arange(2500))
  generate = jax.jit(system.generate)
  state = jax.jit(system.init)(jax.random.key(1))
  before = system.point_metrics(generate(state.ema, keys))
  state = jax.jit(train)(state)
  after = system.point_metrics(generate(state.ema, keys))
  # Untrained points lie anywhere; a few of 2,500 hit a mode by chance. Four
  # seeds ended between 0.59 and 0.81; without the average rounding alone moves
  # the last step's share between 0.06 and 0.42.
  assert before['modes/high_quality'] < 0.01, before
  assert after['modes/high_quality'] > 0.3, after
  assert after['modes/covered'] >= 6, after


@pytest.mark.parametrize('values, told', [
    ({'model.nets': 'pacgann'}, "'pacgan'"),
    ({'loss.penalty': 'gp'}, 'wgan_gp'),
    ({'loss.objective': 'hing'}, "'hinge'"),
    ({'model.packing': 0}, 'model.packing'),
    ({'model.unroll': -1}, 'model.unroll'),
    ({'loss.n_critic': 0}, 'loss.n_critic'),
    ({'loss.n_critic': 2}, 'simultaneous'),
    ({'loss.clip': -0.1}, 'loss.clip'),
    ({'model.unroll': 2, 'microbatches': 2}, 'microbatches'),
    ({'model.unroll': 2, 'optimizer.D.name': 'rmsprop'}, 'rmsprop'),
    ({'model.unroll': 2, 'optimizer.D.lr_schedule': 'linear'}, 'constant'),
    ({'dtype': 'bfloat16'}, 'float32'),
])
def test_bad_values_are_refused(values, told):
  with pytest.raises(errors.UserError, match=told):
    make(values)


def test_images_are_refused():
  config = config_lib.base('toy')
  config.total_steps = 10
  spec = spec_lib.image_spec(resolution=8, channels=3, num_examples=9,
                             facts={})
  with pytest.raises(errors.UserError, match='point'):
    system_lib.create(config, spec)
