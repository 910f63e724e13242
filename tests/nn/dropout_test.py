"""Dropout by example: rates, scale, and what each row depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import rng
from gans_jax.nn import dropout


def keys(n, seed=0):
  return rng.per_example(jax.random.key(seed), 0, n)


@pytest.mark.parametrize('keep', [0.8, 0.5])
def test_rate_and_scale(keep):
  x = jnp.ones([100, 1000])
  y = np.asarray(dropout.dropout(x, keys(100), keep, 0))
  kept = y != 0
  np.testing.assert_allclose(y[kept], 1 / keep, rtol=1e-6)
  # 1e5 Bernoulli draws: four standard errors.
  assert abs(kept.mean() - keep) < 4 * (keep * (1 - keep) / 1e5) ** 0.5


def test_row_depends_on_its_key_alone():
  x = jnp.ones([4, 3, 5])
  whole = dropout.dropout(x, keys(4), 0.5, 1)
  np.testing.assert_array_equal(
      dropout.dropout(x[2:3], keys(4)[2:3], 0.5, 1), whole[2:3])
  again = dropout.dropout(x, keys(4), 0.5, 1)
  np.testing.assert_array_equal(again, whole)


def test_layers_rows_and_seeds_differ():
  x = jnp.ones([2, 200])
  first = dropout.dropout(x, keys(2), 0.5, 0)
  assert np.any(first != dropout.dropout(x, keys(2), 0.5, 1))
  assert np.any(first != dropout.dropout(x, keys(2, seed=1), 0.5, 0))
  assert np.any(first[0] != first[1])


def test_off_without_keys_or_with_keep_one():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(dropout.dropout(x, None, 0.5, 0), x)
  np.testing.assert_array_equal(dropout.dropout(x, keys(2), 1.0, 0), x)
