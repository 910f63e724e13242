"""Streaming moments against NumPy on the whole array."""

import numpy as np
import pytest

from gans_jax.metrics import moments


def _features():
  # A mean far from zero, where raw sums of squares lose digits.
  x = np.random.RandomState(0).randn(1000, 12) @ np.diag(np.arange(1, 13))
  return (x + 100).astype(np.float32)


@pytest.mark.parametrize('batch', [1, 7, 64, 333, 1000, 4000])
def test_independent_of_the_batches(batch):
  x = _features()
  found = moments.of_stream(x[i:i + batch] for i in range(0, len(x), batch))
  exact = x.astype(np.float64)
  assert found.count == 1000
  np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
  for ddof in (0, 1):
    np.testing.assert_allclose(
        found.covariance(ddof), np.cov(exact, rowvar=False, ddof=ddof),
        rtol=1e-12, atol=1e-12 * 144)


def test_merge_commutes_and_skips_nothing():
  x = _features()
  parts = [moments.of(x[a:b]) for a, b in ((0, 3), (3, 700), (700, 1000))]
  left = moments.merge(moments.merge(parts[0], parts[1]), parts[2])
  right = moments.merge(parts[2], moments.merge(parts[1], parts[0]))
  assert left.count == right.count == 1000
  np.testing.assert_allclose(left.mean, right.mean, rtol=1e-13)
  np.testing.assert_allclose(left.scatter, right.scatter, rtol=1e-11,
                             atol=1e-9)


def test_merge_leaves_its_arguments_alone():
  a, b = moments.of(_features()[:5]), moments.of(_features()[5:9])
  before = a.scatter.copy(), b.mean.copy()
  moments.merge(a, b)
  np.testing.assert_array_equal(a.scatter, before[0])
  np.testing.assert_array_equal(b.mean, before[1])


def test_empty_batches_and_streams():
  x = _features()
  found = moments.of_stream([x[:0], x[:10], x[:0]])
  np.testing.assert_array_equal(found.mean, moments.of(x[:10]).mean)
  with pytest.raises(ValueError, match='empty'):
    moments.of_stream([x[:0]])
