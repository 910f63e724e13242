"""Vector quantization against the sheet's figures and float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import mesh as mesh_lib
from gans_jax.nn import quantizer

CODES = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
Z = np.array([[0.9, 0.8]], np.float32)


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_nearest_is_the_argmin_of_distances():
  z, codes = draw(3, 5, 4, 6), draw(32, 6, seed=1)
  distance = np.sum((z[..., None, :].astype(np.float64) - codes)**2, -1)
  found = jax.jit(quantizer.nearest)(z, codes)
  assert found.shape == (3, 5, 4) and found.dtype == jnp.int32
  np.testing.assert_array_equal(found, distance.argmin(-1))
  np.testing.assert_array_equal(quantizer.embed(codes, found), codes[found])


def test_nearest_of_half_precision_vectors_is_exact():
  z = jnp.asarray(draw(512, 8), jnp.bfloat16)
  codes = 0.05 * draw(64, 8, seed=1)
  exact = np.asarray(z, np.float64)
  expected = np.sum((exact[:, None] - codes)**2, -1).argmin(-1)
  np.testing.assert_array_equal(quantizer.nearest(z, codes), expected)


def test_equally_near_codes_give_the_lowest_index():
  assert quantizer.nearest(Z, np.repeat(CODES, 2, axis=0))[0] == 2


def losses(z, codes, beta, legacy):
  indices = quantizer.nearest(z, codes)
  q = quantizer.embed(codes, indices)
  return quantizer.vq_loss(z, q, beta, legacy)


# The values of the official quantizer on this example (taming-transformers).
@pytest.mark.parametrize('legacy, dz, de', [
    (True, (-0.1, -0.2), (0.025, 0.05)),
    (False, (-0.025, -0.05), (0.1, 0.2))])
def test_official_example(legacy, dz, de):
  assert quantizer.nearest(Z, CODES)[0] == 1
  value, (z_grad, codes_grad) = jax.value_and_grad(losses, (0, 1))(
      Z, CODES, 0.25, legacy)
  np.testing.assert_allclose(value, 0.03125, rtol=1e-6)
  np.testing.assert_allclose(z_grad, [dz], rtol=1e-5)
  np.testing.assert_allclose(codes_grad, [(0, 0), de], rtol=1e-5)


def test_straight_through_hands_the_gradient_to_z():
  z, codes, weight = draw(4, 3, 6), draw(8, 6, seed=1), draw(4, 3, 6, seed=2)

  def value(z, codes):
    q = quantizer.embed(codes, quantizer.nearest(z, codes))
    return jnp.sum(weight * quantizer.straight_through(z, q)**2)

  q = codes[np.asarray(quantizer.nearest(z, codes))]
  np.testing.assert_array_equal(quantizer.straight_through(z, q), q)
  z_grad, codes_grad = jax.grad(value, (0, 1))(z, codes)
  np.testing.assert_allclose(z_grad, 2 * weight * q, rtol=1e-6)
  np.testing.assert_array_equal(codes_grad, 0)


def test_loss_gradients_are_those_of_the_paper():
  z, codes, beta = draw(7, 6), draw(8, 6, seed=1), 0.3
  indices = np.asarray(quantizer.nearest(z, codes))
  z_grad, codes_grad = jax.grad(losses, (0, 1))(z, codes, beta, False)
  np.testing.assert_allclose(
      z_grad, 2 * beta * (z - codes[indices]) / z.size, rtol=1e-5)
  expected = np.zeros_like(codes)
  np.add.at(expected, indices, 2 * (codes[indices] - z) / z.size)
  np.testing.assert_allclose(codes_grad, expected, rtol=1e-5, atol=1e-9)


def test_statistics():
  z, indices = draw(5, 7, 3), np.random.default_rng(1).integers(0, 6, (5, 7))
  n, m = jax.jit(quantizer.statistics, static_argnums=2)(z, indices, 9)
  np.testing.assert_array_equal(n, np.bincount(indices.ravel(), minlength=9))
  expected = np.zeros((9, 3))
  np.add.at(expected, indices.ravel(), z.reshape(-1, 3).astype(np.float64))
  np.testing.assert_allclose(m, expected, rtol=1e-5, atol=1e-6)


def test_both_ways_to_sum_agree():
  values, indices = draw(40, 3), np.random.default_rng(1).integers(0, 6, 40)
  expected = np.zeros((6, 3))
  np.add.at(expected, indices, values.astype(np.float64))
  found = quantizer._sum_by(values, indices, 6)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  # The form of GPUs and TPUs, which `_sum_by` leaves out on a CPU.
  traced = jax.jit(quantizer._sum_by, static_argnums=2).trace(
      values, indices, 6).lower(lowering_platforms=('cuda',)).as_text()
  assert 'dot_general' in traced and 'scatter' not in traced


def ema_by_hand(state, batches, decay, epsilon):
  """The paper's appendix A.1 in float64, with our start."""
  codes, count, total = (np.asarray(state[k], np.float64)
                         for k in ('codes', 'count', 'sum'))
  for z in batches:
    k = np.sum((z[:, None] - codes)**2, -1).argmin(-1)
    n = np.bincount(k, minlength=len(codes))
    m = np.zeros_like(codes)
    np.add.at(m, k, z)
    count = decay * count + (1 - decay) * n
    total = decay * total + (1 - decay) * m
    smooth = ((count + epsilon) / (count.sum() + len(codes) * epsilon)
              * count.sum())
    codes = np.where(n[:, None] > 0, total / smooth[:, None], codes)
  return codes, count, total


def ema_run(state, batches, decay=0.99, epsilon=1e-5):
  @jax.jit
  def one(state, z):
    indices = quantizer.nearest(z, state['codes'])
    n, m = quantizer.statistics(z, indices, len(state['codes']))
    return quantizer.ema_update(state, n, m, decay, epsilon)

  for z in batches:
    state = one(state, z)
  return state


def test_average_is_the_papers():
  state = quantizer.ema_start(draw(5, 3))
  batches = [draw(40, 3, seed=2 + i) + i % 3 for i in range(30)]
  found = ema_run(state, batches, 0.9, 1e-3)
  expected = ema_by_hand(state, batches, 0.9, 1e-3)
  for name, value in zip(('codes', 'count', 'sum'), expected, strict=True):
    np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6)


def test_codes_without_vectors_stay_where_they_are():
  codes = np.concatenate([draw(3, 2), np.full((2, 2), 50, np.float32)])
  state = ema_run(quantizer.ema_start(codes), [draw(64, 2, seed=2)] * 2000,
                  decay=0.9)
  np.testing.assert_array_equal(state['codes'][3:], codes[3:])
  assert np.all(state['count'][3:] < 1e-20)
  # ... and come back into use without a jump.
  state = ema_run(state, [np.full((4, 2), 49, np.float32)], decay=0.9)
  np.testing.assert_allclose(state['codes'][3], 49, rtol=1e-4)


def test_average_of_a_still_batch_is_its_mean():
  z = draw(64, 2)
  state = ema_run(quantizer.ema_start(np.zeros((1, 2), np.float32)),
                  [z] * 2000)
  np.testing.assert_allclose(state['codes'][0], z.mean(0), rtol=1e-3)
  np.testing.assert_allclose(state['count'], 64, rtol=1e-4)


def test_revival_replaces_the_unused_codes_alone():
  codes, pool = draw(6, 2), 10 + draw(4, 5, 2, seed=1)
  count = np.array([0.1, 3, 0.99, 1, 8, 0], np.float32)
  new, new_count, dead = quantizer.revive(codes, count, pool,
                                          jax.random.key(0), 1.0)
  np.testing.assert_array_equal(dead, count < 1)
  np.testing.assert_array_equal(new[~dead], codes[~dead])
  for row in np.asarray(new)[np.asarray(dead)]:
    assert np.any(np.all(row == pool.reshape(-1, 2), axis=1))
  np.testing.assert_array_equal(new_count, np.where(dead, 2, count))
  state = {'codes': jnp.asarray(codes), 'count': jnp.asarray(count),
           'sum': jnp.asarray(codes * count[:, None])}
  state = quantizer.revive_ema(state, pool, jax.random.key(0), 1.0)
  np.testing.assert_array_equal(state['codes'], new)
  np.testing.assert_allclose(
      state['sum'], state['codes'] * state['count'][:, None], rtol=1e-6)


@pytest.mark.parametrize('ema', [False, True])
def test_codebook_variables(ema):
  module = quantizer.Codebook(8, 4, ema)
  variables = module.init(jax.random.key(0))
  assert set(variables) == {'codebook' if ema else 'params'}
  codes = quantizer.codes(variables)
  np.testing.assert_array_equal(module.apply(variables), codes)
  assert codes.shape == (8, 4) and 0.1 < np.abs(codes).max() <= 1 / 8
  if ema:
    np.testing.assert_array_equal(variables['codebook']['count'], 1)
    np.testing.assert_array_equal(variables['codebook']['sum'], codes)


def test_one_device_and_eight_agree():
  z, codes = draw(16, 4, 3), draw(12, 3, seed=1)

  def one(z, codes):
    z = mesh_lib.shard_batch(z)
    state = quantizer.ema_start(codes)
    indices = quantizer.nearest(z, codes)
    n, m = quantizer.statistics(z, indices, 12)
    state = quantizer.ema_update(state, n, m, 0.9)
    return indices, n, quantizer.revive_ema(state, z, jax.random.key(3), 1.0)

  results = []
  for devices in (1, 8):
    with jax.set_mesh(mesh_lib.make(devices=jax.devices()[:devices])):
      results.append(jax.tree.map(np.asarray, jax.jit(one)(z, codes)))
  np.testing.assert_array_equal(results[0][0], results[1][0])
  np.testing.assert_array_equal(results[0][1], results[1][1])
  for name in results[0][2]:
    np.testing.assert_allclose(results[0][2][name], results[1][2][name],
                               rtol=1e-5, atol=1e-7)


def test_health():
  np.testing.assert_allclose(quantizer.perplexity(jnp.full([16], 3.0)), 16,
                             rtol=1e-5)
  np.testing.assert_allclose(
      quantizer.perplexity(jnp.array([1.0, 0, 0, 1])), 2, rtol=1e-5)
  np.testing.assert_allclose(quantizer.usage(jnp.array([1.0, 0, 0, 7])), 0.5)
