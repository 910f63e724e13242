"""Closed forms, and the value that the published tools give."""

import numpy as np
import pytest

from gans_jax.metrics import frechet


def _gaussian(mean, covariance):
  return frechet.Gaussian(
      1000, np.asarray(mean, np.float64), np.asarray(covariance, np.float64))


def _golden_features():
  r = np.random.RandomState(0)
  x = r.randn(600, 16).astype(np.float32)
  return x, (r.randn(500, 16) * 1.2 + 0.3).astype(np.float32)


@pytest.mark.parametrize('ddof, expected', [
    (1, 2.861792099058519),  # pytorch-fid 0.3.0
    (0, 2.8588454813804987),  # NVIDIA's divisor
])
def test_value_of_the_published_tools(ddof, expected):
  x, y = (frechet.fit(f, ddof) for f in _golden_features())
  assert frechet.route(x, y) == 'eigh'
  assert frechet.distance(x, y) == pytest.approx(expected, abs=1e-11)
  assert frechet.distance(y, x) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize('a, b, expected', [
    (([0] * 4, np.eye(4)), ([2] * 4, np.eye(4)), 16),
    (([0] * 4, np.eye(4)), ([0] * 4, 9 * np.eye(4)), 16),
    (([0] * 4, np.diag([1, 4, 9, 16])), ([0] * 4, np.diag([4, 1, 1, 1])), 15),
    # Non-commuting; for 2x2, tr sqrt M = sqrt(tr M + 2 sqrt det M).
    (([0, 0], [[2, 1], [1, 2]]), ([0, 0], np.diag([2, 1])),
     7 - 2 * np.sqrt(6 + 2 * np.sqrt(6))),
])
def test_closed_forms(a, b, expected):
  assert frechet.distance(_gaussian(*a), _gaussian(*b)) == pytest.approx(
      expected, abs=1e-12)


def test_rank_one_covariances_in_closed_form():
  # Two samples +-u: S = 2 u u^T (divisor 1), tr (S1 S2)^1/2 = 2 |u.v|.
  u, v = np.random.RandomState(0).randn(2, 50)
  a, b = frechet.fit(np.stack([u, -u])), frechet.fit(np.stack([v, -v]))
  assert frechet.route(a, b) == 'nuclear'
  expected = 2 * u @ u + 2 * v @ v - 4 * abs(u @ v)
  assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-13)
  whole = _gaussian(np.zeros(50), 2 * np.outer(v, v))
  assert frechet.route(a, whole) == 'nuclear'
  # The root of a singular covariance keeps half of the digits.
  assert frechet.distance(a, whole) == pytest.approx(expected, rel=1e-6)


def test_routes_agree():
  r = np.random.RandomState(1)
  mix = r.randn(24, 24)
  x, y = r.randn(20, 24) @ mix, r.randn(40, 24) @ mix + 0.1
  few, many = frechet.fit(x), frechet.fit(y)
  assert few.factor is not None and many.factor is None
  np.testing.assert_allclose(few.factor.T @ few.factor, few.covariance,
                             rtol=1e-10, atol=1e-10)
  bare = frechet.Gaussian(few.count, few.mean, few.covariance)
  assert frechet.distance(few, many) == pytest.approx(
      frechet.distance(bare, many), rel=1e-6)


@pytest.mark.parametrize('n', [10, 300])  # Either route.
def test_a_set_and_itself(n):
  x = np.random.RandomState(0).randn(n, 32)
  assert 0 <= frechet.distance(frechet.fit(x), frechet.fit(x)) < 1e-10


@pytest.mark.parametrize('n', [10, 300])
def test_invariances(n):
  r = np.random.RandomState(0)
  x, y = r.randn(n, 32), r.randn(n + 5, 32) * 1.5 + 0.2
  value = frechet.distance(frechet.fit(x), frechet.fit(y))
  rotation = np.linalg.qr(r.randn(32, 32))[0]
  moved = frechet.distance(
      frechet.fit(x @ rotation + 3), frechet.fit(y @ rotation + 3))
  scaled = frechet.distance(frechet.fit(x * 7), frechet.fit(y * 7))
  assert moved == pytest.approx(value, rel=1e-10)
  assert scaled == pytest.approx(49 * value, rel=1e-10)


def test_blocks_do_not_show(monkeypatch):
  x, _ = _golden_features()
  whole = frechet.fit(x)
  monkeypatch.setattr(frechet, '_BLOCK', 37)
  parts = frechet.fit(x)
  np.testing.assert_allclose(parts.covariance, whole.covariance, atol=1e-13)


def test_one_sample_has_no_covariance():
  with pytest.raises(ValueError, match='1 samples'):
    frechet.fit(np.zeros((1, 3)))
