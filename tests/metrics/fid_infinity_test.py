"""Extrapolation: exact lines, and Gaussians whose distance is known."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import fid_infinity
from gans_jax.metrics import frechet
from gans_jax.metrics import inception_score


def test_a_line_is_found_exactly():
  line = fid_infinity.extrapolate(
      lambda rows: 3 + 7 / len(rows), np.zeros((50000, 1)))
  assert line.value == pytest.approx(3, abs=1e-9)
  assert line.slope == pytest.approx(7, rel=1e-6)
  # The sizes of the paper.
  assert len(line.sizes) == 15
  assert (line.sizes[0], line.sizes[1], line.sizes[-1]) == (5000, 8214, 50000)
  np.testing.assert_allclose(line.measured, 3 + 7 / line.sizes)


def test_subsets_are_fresh_without_repetition_and_seeded():
  seen = []

  def metric(rows):
    seen.append(rows[:, 0].copy())
    return 0.0

  rows = np.arange(40.0)[:, None]
  fid_infinity.extrapolate(metric, rows, smallest=10, points=4)
  first, seen = seen, []
  assert [len(set(s)) for s in first] == [10, 20, 30, 40]
  assert not np.array_equal(first[1][:10], first[0])
  fid_infinity.extrapolate(metric, rows, smallest=10, points=4)
  assert all(map(np.array_equal, first, seen))
  np.testing.assert_array_equal(rows[:, 0], np.arange(40))  # Not shuffled.


def test_bias_of_a_finite_sample_is_removed():
  # The distance of N(0, I) from N(0, I) is 0, and measured far above.
  r = np.random.RandomState(0)
  d, n = 16, 4000
  reference = frechet.Gaussian(10**9, np.zeros(d), np.eye(d))
  values, plain = [], []
  for seed in range(5):
    line = fid_infinity.frechet_distance(
        r.randn(n, d), reference, smallest=400, seed=seed)
    values.append(line.value)
    plain.append(line.measured[-1])
    assert line.slope > 0
  assert abs(np.mean(values)) < 0.2 * np.mean(plain)


def test_inception_score_of_one_split():
  logits = 2 * np.random.RandomState(1).randn(3000, 10)
  line = fid_infinity.inception_score(logits, smallest=300, points=5)
  whole, _ = inception_score.from_logits(logits, splits=1)
  assert line.measured[-1] == pytest.approx(whole, rel=1e-12)
  # A finite sample looks more varied than it is... to the marginal, less.
  assert line.value == pytest.approx(whole, rel=0.01)


def test_refusals():
  reference = frechet.Gaussian(1000, np.zeros(4), np.eye(4))
  with pytest.raises(errors.UserError, match='needs 5014 images .* are 600'):
    fid_infinity.frechet_distance(np.zeros((600, 4)), reference)
  with pytest.raises(errors.UserError, match='5 images or more; found 4'):
    fid_infinity.frechet_distance(np.zeros((600, 4)), reference, smallest=4)
  with pytest.raises(errors.UserError, match='NaN'):
    fid_infinity.inception_score(np.full((6000, 4), np.nan))
  with pytest.raises(ValueError, match='no line'):
    fid_infinity.inception_score(np.zeros((6000, 4)), points=1)
