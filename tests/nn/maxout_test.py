"""Maxout against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.nn import maxout


def test_largest_piece_takes_neighbouring_channels():
  x = jnp.array([[3.0, 1.0, -5.0, -4.0, 0.0, 9.0]])
  np.testing.assert_array_equal(
      maxout.largest_piece(x, 2), [[3.0, -4.0, 9.0]])
  np.testing.assert_array_equal(maxout.largest_piece(x, 3), [[3.0, 9.0]])


def test_largest_piece_keeps_leading_axes():
  x = np.random.RandomState(0).randn(2, 3, 4, 10).astype(np.float32)
  expected = x.reshape(2, 3, 4, 5, 2).max(-1)
  np.testing.assert_array_equal(maxout.largest_piece(x, 2), expected)


def test_layer_is_the_maximum_of_linear_functions():
  layer = maxout.Maxout(units=4, pieces=3)
  x = np.random.RandomState(1).randn(5, 7)
  params = layer.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
  kernel = np.random.RandomState(2).randn(7, 12)
  bias = np.random.RandomState(3).randn(12)
  params = {'params': {'pieces': {
      'kernel': jnp.asarray(kernel, jnp.float32),
      'bias': jnp.asarray(bias, jnp.float32)}}}
  expected = np.stack(
      [np.max([x @ kernel[:, 3 * i + j] + bias[3 * i + j] for j in range(3)],
              axis=0) for i in range(4)], axis=1)
  found = layer.apply(params, jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_two_pieces_of_opposite_sign_are_the_absolute_value():
  layer = maxout.Maxout(units=1, pieces=2)
  params = {'params': {'pieces': {'kernel': jnp.array([[1.0, -1.0]]),
                                  'bias': jnp.zeros(2)}}}
  x = jnp.array([[-2.0], [0.0], [3.0]])
  np.testing.assert_array_equal(layer.apply(params, x),
                                [[2.0], [0.0], [3.0]])


@pytest.mark.parametrize('limit', [0.05, 0.005])
def test_symmetric_uniform_fills_its_range(limit):
  w = np.asarray(maxout.symmetric_uniform(limit)(
      jax.random.key(0), (100, 1000)))
  assert np.abs(w).max() <= limit
  assert w.min() < -0.999 * limit and w.max() > 0.999 * limit
  # Standard deviation of the uniform: limit / sqrt(3), +- 4 s.e.
  np.testing.assert_allclose(w.std(), limit / 3**0.5, rtol=0.01)
  assert abs(w.mean()) < 4 * limit / 3**0.5 / 1e5**0.5
