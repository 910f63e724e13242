"""Pixelwise normalization, against its definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.nn import pixel_norm


@pytest.mark.parametrize('shape', [(3, 8), (2, 4, 4, 8)])
def test_definition(shape):
  x = 5 * np.random.default_rng(0).normal(size=shape)
  expected = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-8)
  y = pixel_norm.pixel_norm(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(y, expected, rtol=1e-5)
  np.testing.assert_allclose(np.mean(np.square(y), -1), 1.0, rtol=1e-5)


def test_mean_of_bfloat16_is_float32():
  """256 equal values: a bfloat16 sum would stop growing long before."""
  x = jnp.full((1, 4096), 3.0, jnp.bfloat16)
  y = pixel_norm.pixel_norm(x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y.astype(jnp.float32), 1.0)
  # Squares that overflow float16 and zero vectors are harmless.
  np.testing.assert_array_equal(pixel_norm.pixel_norm(jnp.zeros((1, 4))), 0)
