"""Step helpers against loops written out by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gans_jax.core import mesh as mesh_lib
from gans_jax.core import state as state_lib
from gans_jax.core import step as step_lib


class Net(nn.Module):
  """A dense layer, with a counter of calls as its mutable collection."""

  @nn.compact
  def __call__(self, x):
    calls = self.variable('stats', 'calls', lambda: jnp.zeros([]))
    if not self.is_initializing():
      calls.value = calls.value + 1.0
    return jnp.tanh(nn.Dense(3)(x)).sum(-1)


NET = Net()
TX = optax.sgd(0.1, momentum=0.9)


def make_state(ema=()):
  variables = NET.init(jax.random.key(0), jnp.zeros([1, 4]))
  return state_lib.create(
      jax.random.key(1), {'D': variables}, {'D': ('D',)}, {'D': TX}, ema)


def loss_fn(params, mvars, inputs):
  out, changed = state_lib.apply_net(
      NET, params['D'], mvars['D'], inputs['x'])
  loss = jnp.mean((out - inputs['y'])**2)
  return loss, ({'D': changed}, {'loss/d': loss})


def make_inputs(n=8, seed=0):
  r = np.random.RandomState(seed)
  return {'x': jnp.asarray(r.randn(n, 4), jnp.float32),
          'y': jnp.asarray(r.randn(n), jnp.float32)}


def close(a, b, rtol=1e-6):
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7),
      a, b)


def test_update_player_is_a_plain_gradient_step():
  state, inputs = make_state(), make_inputs()
  after, logs = step_lib.update_player(state, 'D', ('D',), TX, loss_fn, inputs)

  def plain(p):
    out = NET.apply({'params': p, **state.mvars['D']}, inputs['x'],
                    mutable=['stats'])[0]
    return jnp.mean((out - inputs['y'])**2)

  loss, grads = jax.value_and_grad(plain)(state.params['D'])
  close(after.params['D'], jax.tree.map(lambda p, g: p - 0.1 * g,
                                        state.params['D'], grads))
  assert float(logs['loss/d']) == pytest.approx(float(loss))
  squares = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads))
  assert float(logs['grad_norm/D']) == pytest.approx(squares**0.5, rel=1e-5)
  assert float(after.mvars['D']['stats']['calls']) == 1
  assert int(after.step) == 0


@pytest.mark.parametrize('pieces', [2, 4])
def test_microbatches_give_the_same_update(pieces):
  state, inputs = make_state(), make_inputs()
  whole, logs = step_lib.update_player(
      state, 'D', ('D',), TX, loss_fn, inputs)
  parts, part_logs = step_lib.update_player(
      state, 'D', ('D',), TX, loss_fn, inputs, microbatches=pieces)
  close(whole.params, parts.params)
  close(whole.opt, parts.opt)
  assert float(logs['loss/d']) == pytest.approx(
      float(part_logs['loss/d']), rel=1e-6)
  assert float(parts.mvars['D']['stats']['calls']) == pieces


def test_split_microbatches_keeps_every_example_once():
  x = jnp.arange(12)
  parts = step_lib.split_microbatches({'x': x}, 3)['x']
  assert parts.shape == (3, 4)
  assert sorted(parts.ravel().tolist()) == list(range(12))
  np.testing.assert_array_equal(parts[1], [1, 4, 7, 10])


def test_split_microbatches_moves_nothing_between_devices():
  from gans_jax.core import hlo

  mesh = mesh_lib.make()
  with jax.set_mesh(mesh):
    x = jax.device_put(jnp.zeros([32, 5]), mesh_lib.batch_sharding(mesh))
    compiled = jax.jit(
        lambda x: step_lib.split_microbatches(x, 2) * 2).lower(x).compile()
  assert hlo.collectives(compiled) == {}


@pytest.mark.parametrize('number', [1, 3])
def test_scan_batches_is_a_loop(number):
  batches = jax.tree.map(lambda *x: jnp.stack(x),
                         *[make_inputs(seed=i) for i in range(number)])

  def update(state, batch, i):
    state, logs = step_lib.update_player(
        state, 'D', ('D',), TX, loss_fn, batch)
    return state, {**logs, 'i': i}

  scanned, logs = step_lib.scan_batches(update, make_state(), batches)
  looped = make_state()
  for i in range(number):
    looped, last = update(looped, step_lib.first_of(batches, i), i)
  close(scanned.params, looped.params)
  close(scanned.opt, looped.opt)
  assert int(logs['i']) == number - 1
  assert float(logs['loss/d']) == pytest.approx(float(last['loss/d']))


def test_lazily_acts_at_every_kth_step_with_k_times_the_weight():
  def penalised(w, step):
    return step_lib.lazily(step, 4, lambda w: w**2, w)

  gradient = jax.jit(jax.grad(penalised))
  found = [float(gradient(3.0, jnp.int32(i))) for i in range(9)]
  assert found == [24.0, 0, 0, 0, 24.0, 0, 0, 0, 24.0]
  # On average over k steps it is the penalty of every step.
  assert sum(found[:4]) / 4 == 6.0
  assert float(jax.grad(
      lambda w: step_lib.lazily(jnp.int32(1), 1, lambda w: w**2, w))(3.)) == 6


def test_finish_counts_and_averages():
  state = make_state(ema=('D',))
  moved = state.replace(
      params=jax.tree.map(lambda x: x + 1.0, state.params))
  after = step_lib.finish(moved, 0.75)
  assert int(after.step) == 1
  close(after.ema['D']['params'], jax.tree.map(
      lambda x: x + 0.25, state.params['D']))


def test_ema_of_step_zero_is_the_initial_net_in_its_own_buffers():
  state = make_state(ema=('D',))
  close(state.ema['D']['params'], state.params['D'])
  donated = jax.jit(lambda s: step_lib.finish(s, 0.5), donate_argnums=0)
  assert int(donated(state).step) == 1


def test_ema_stays_float32_and_follows_counters():
  average = {'w': jnp.ones([2], jnp.float32), 'n': jnp.int32(1)}
  live = {'w': jnp.zeros([2], jnp.bfloat16), 'n': jnp.int32(7)}
  out = state_lib.ema_update(average, live, 0.999)
  assert out['w'].dtype == jnp.float32 and int(out['n']) == 7
  np.testing.assert_allclose(out['w'], 0.999, rtol=1e-6)
