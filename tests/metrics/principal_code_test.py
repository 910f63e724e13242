"""The code of principal components against an exact decomposition."""

import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import principal_code


@pytest.fixture(scope='module')
def pictures():
  """Smooth pictures, whose variance falls as that of photographs does."""
  draw = np.random.default_rng(0)
  waves = np.cos(np.pi * np.arange(12)[:, None] * (np.arange(12) + 0.5) / 12)
  scale = 1 / (1 + np.add.outer(np.arange(12), np.arange(12)))**1.5
  spectrum = draw.normal(size=(300, 12, 12, 3)) * scale[None, ..., None]
  found = np.einsum('nijc,ix,jy->nxyc', spectrum, waves, waves)
  return np.clip(128 + 60 * found, 0, 255).astype(np.uint8)


def exact(pictures, count):
  flat = pictures.reshape(len(pictures), -1).astype(float)
  mean = flat.mean(0)
  _, _, axes = np.linalg.svd(flat - mean, full_matrices=False)
  axes = axes[:count]
  return (flat - mean) @ axes.T @ axes + mean


@pytest.mark.parametrize('count', [1, 10, 60])
def test_as_good_as_an_exact_decomposition(pictures, count):
  code = principal_code.fit(pictures, count, 16)
  assert code.axes.shape == (432, count)
  np.testing.assert_allclose(code.axes.T @ code.axes, np.eye(count), atol=1e-5)
  flat = pictures.reshape(300, -1).astype(float)
  found = np.asarray(principal_code.coded(code, jnp.asarray(pictures)))
  assert found.dtype == np.uint8 and found.shape == pictures.shape
  best = np.square(exact(pictures, count) - flat).sum()
  ours = np.square(found.reshape(300, -1) - flat).sum()
  # Rounding to 8-bit pixels adds 1/12 to each.
  assert 0.99 * best < ours < 1.01 * best + flat.size / 12
  total = np.square(flat - flat.mean(0)).sum()
  np.testing.assert_allclose(code.explained, 1 - best / total, rtol=1e-3)


def test_bits(pictures):
  """One bit: every number is the smallest or the largest of the set."""
  errors_of = []
  for bits in (1, 2, 4, 8):
    code = principal_code.fit(pictures, 20, bits)
    assert code.bits == bits
    rows = pictures.reshape(300, -1) - code.mean
    numbers = rows @ code.axes
    np.testing.assert_allclose(code.low, numbers.min(0), atol=0.02)
    np.testing.assert_allclose(code.low + code.step * (2**bits - 1),
                               numbers.max(0), atol=0.02)
    found = np.asarray(principal_code.coded(code, jnp.asarray(pictures)))
    if bits == 1:
      nearest = np.where(numbers - code.low < code.step / 2, 0, 1)
      by_hand = (code.low + nearest * code.step) @ code.axes.T + code.mean
      np.testing.assert_allclose(found.reshape(300, -1),
                                 np.clip(by_hand, 0, 255), atol=0.51)
    errors_of.append(np.square(found.astype(float) - pictures).mean())
  assert errors_of == sorted(errors_of, reverse=True)


def test_few_pictures_have_few_components(pictures):
  code = principal_code.fit(pictures[:5], 30)
  assert code.axes.shape == (432, 5)
  found = np.asarray(principal_code.coded(code, jnp.asarray(pictures[:5])))
  np.testing.assert_allclose(found, pictures[:5].astype(float), atol=3)


@pytest.mark.parametrize('count, bits, number', [
    (0, 8, 9), (4, 0, 9), (4, 17, 9), (4, 8, 1)])
def test_refuses(pictures, count, bits, number):
  with pytest.raises(errors.UserError, match='cannot be'):
    principal_code.fit(pictures[:number], count, bits)
