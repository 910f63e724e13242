"""Bootstrap intervals, against known variances and exact resamples."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import bootstrap
from gans_jax.metrics import frechet


def _mean(features, reference):
  return features.mean() - reference


def _frechet(features, reference):
  return frechet.distance(reference, frechet.fit(features))


def _runs(r, n, d, b_scale=1.05):
  """Features of two runs on shared latents, and a reference."""
  z = r.randn(n, d)
  a = z + 0.3 * r.randn(n, d) + 0.1
  return a, b_scale * z + 0.3 * r.randn(n, d) + 0.12


def _reference(d):
  r = np.random.RandomState(9)
  return frechet.fit(r.randn(5000, d) @ (np.eye(d) + 0.05 * r.randn(d, d)))


def test_interval_of_a_mean_in_closed_form():
  r = np.random.RandomState(0)
  n = 2000
  shared = 10 * r.randn(n, 1)
  a, b = shared + r.randn(n, 1), shared + r.randn(n, 1) + 0.2
  found = bootstrap.paired(_mean, a, b, 5.0, resamples=2000)
  assert found.difference == pytest.approx(a.mean() - b.mean(), rel=1e-9)
  # What the runs share cancels: the width is of a - b.
  half = 1.95996 * np.std(a - b) / np.sqrt(n)
  assert found.high - found.difference == pytest.approx(half, rel=0.1)
  assert found.difference - found.low == pytest.approx(half, rel=0.1)
  assert (found.level, found.resamples) == (0.95, 2000)
  narrow = bootstrap.paired(_mean, a, b, 5.0, level=0.5)
  assert narrow.high - narrow.difference == pytest.approx(
      half * 0.67449 / 1.95996, rel=0.15)


def test_contributions_are_the_derivative_of_the_distance():
  r = np.random.RandomState(1)
  d = 6
  x, _ = _runs(r, 300, d)
  reference = _reference(d)
  root = bootstrap._power(reference.covariance, 0.5)
  value, shares = bootstrap._contributions(
      x, frechet.fit(x, 0), reference, root)
  uniform = np.full(len(x), 1 / len(x))
  assert value == pytest.approx(
      _weighted_distance(x, uniform, reference), rel=1e-12)
  assert abs(shares.mean()) < 1e-12
  step = 1e-4
  for i in (0, 17, 123):
    towards = np.eye(len(x))[i] - uniform
    change = (_weighted_distance(x, uniform + step * towards, reference) -
              _weighted_distance(x, uniform - step * towards, reference))
    assert change / (2 * step) == pytest.approx(shares[i], rel=1e-5)


def _weighted_distance(features, weights, reference):
  mean = weights @ features
  delta = features - mean
  return frechet.distance(reference, frechet.Gaussian(
      len(features), mean, (delta * weights[:, None]).T @ delta))


def test_frechet_interval_is_that_of_exact_resamples():
  r = np.random.RandomState(2)
  a, b = _runs(r, 1000, 8)
  reference = _reference(8)
  fast = bootstrap.paired_frechet(a, b, reference)
  exact = bootstrap.paired(_frechet, a, b, reference, resamples=600)
  assert fast.difference == pytest.approx(exact.difference, rel=1e-9)
  assert fast.high - fast.low == pytest.approx(
      exact.high - exact.low, rel=0.15)


def test_frechet_interval_covers_as_often_as_it_says():
  r = np.random.RandomState(3)
  reference = _reference(8)
  found = [bootstrap.paired_frechet(*_runs(r, 400, 8), reference,
                                    resamples=200) for _ in range(200)]
  centre = np.mean([i.difference for i in found])
  share = np.mean([i.low <= centre <= i.high for i in found])
  assert 0.9 <= share <= 0.99
  spread = np.std([i.difference for i in found]) * 2 * 1.96
  assert np.mean([i.high - i.low for i in found]) == pytest.approx(
      spread, rel=0.15)


def test_pairing_narrows_the_interval():
  r = np.random.RandomState(4)
  a, b = _runs(r, 1000, 8)
  reference = _reference(8)
  paired = bootstrap.paired_frechet(a, b, reference)
  shuffled = bootstrap.paired_frechet(a, r.permutation(b), reference)
  assert paired.difference == pytest.approx(shuffled.difference, abs=1e-9)
  assert paired.high - paired.low < 0.7 * (shuffled.high - shuffled.low)


def test_a_run_and_itself():
  a, _ = _runs(np.random.RandomState(5), 200, 4)
  found = bootstrap.paired_frechet(a, a.copy(), _reference(4))
  assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_a_feature_that_is_always_zero():
  r = np.random.RandomState(6)
  a, b = _runs(r, 500, 8)
  reference = _reference(8)
  a[:, 3] = b[:, 3] = 0
  fast = bootstrap.paired_frechet(a, b, reference)
  exact = bootstrap.paired(_frechet, a, b, reference, resamples=300)
  assert fast.high - fast.low == pytest.approx(exact.high - exact.low, rel=0.2)


def test_seeds_and_symmetry():
  a, b = _runs(np.random.RandomState(7), 300, 4)
  reference = _reference(4)
  first = bootstrap.paired_frechet(a, b, reference, seed=1)
  assert bootstrap.paired_frechet(a, b, reference, seed=1) == first
  assert bootstrap.paired_frechet(a, b, reference, seed=2) != first
  mirrored = bootstrap.paired_frechet(b, a, reference, seed=1)
  assert (mirrored.difference, mirrored.low, mirrored.high) == pytest.approx(
      (-first.difference, -first.high, -first.low), rel=1e-9)


def test_refusals():
  a, b = _runs(np.random.RandomState(8), 300, 4)
  reference = _reference(4)
  with pytest.raises(errors.UserError, match='5 images .* there are 4'):
    bootstrap.paired_frechet(a[:4], b[:4], reference)
  with pytest.raises(errors.UserError, match='2 images .* there are 1'):
    bootstrap.paired(_mean, a[:1], b[:1], 0.0)
  with pytest.raises(errors.UserError, match='same latents'):
    bootstrap.paired_frechet(a, b[:-1], reference)
  a[5, 2] = np.nan
  with pytest.raises(errors.UserError, match='NaN'):
    bootstrap.paired_frechet(a, b, reference)
