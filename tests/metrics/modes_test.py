"""Mode metrics: hand-made cases, and the ceilings of true samples."""

import math

import numpy as np
import pytest

from gans_jax.data import mixtures
from gans_jax.metrics import modes

CENTRES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def test_hand_made_samples():
  points = np.array([
      [0.0, 0.0], [0.0, 2.9], [2.0, 2.0],  # of the first mode
      [10.0, 3.1],                         # too far from the second
      [-2.9, 10.0],                        # of the third
      [5.0, 5.0], [np.nan, 0.0], [np.inf, 0.0]])
  found = modes.mixture_modes(points, CENTRES, std=1.0)
  expected_kl = math.log(4) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
  assert found['modes'] == 2
  assert found['high_quality'] == 4 / 8
  assert found['reverse_kl'] == pytest.approx(expected_kl, rel=1e-12)


def test_distance_is_strictly_below_the_threshold_in_units_of_std():
  points = np.array([[1.5, 0.0], [1.49, 0.0]])
  assert modes.mixture_modes(points, CENTRES, 0.5)['high_quality'] == 0.5
  assert modes.mixture_modes(points, CENTRES, 0.51)['high_quality'] == 1.0
  wide = modes.mixture_modes(points, CENTRES, 0.2, threshold=10.0)
  assert wide['high_quality'] == 1.0


def test_collapsed_generator_has_one_mode_and_the_largest_kl():
  rng = np.random.default_rng(0)
  points = CENTRES[1] + 0.01 * rng.standard_normal((100, 2))
  found = modes.mixture_modes(points, CENTRES, std=1.0)
  assert found['modes'] == 1
  assert found['high_quality'] == 1.0
  assert found['reverse_kl'] == pytest.approx(math.log(4), rel=1e-12)


def test_no_sample_of_high_quality():
  found = modes.mixture_modes(np.full((3, 2), 50.0), CENTRES, std=1.0)
  assert found['modes'] == 0 and found['high_quality'] == 0
  assert math.isnan(found['reverse_kl'])


def test_one_sample_at_each_centre_is_perfect():
  assert modes.mixture_modes(CENTRES, CENTRES, std=0.1) == {
      'modes': 4.0, 'high_quality': 1.0, 'reverse_kl': 0.0}


@pytest.mark.parametrize('name', ['ring8', 'grid25', 'ring8_wgan_gp',
                                  'grid25_wgan_gp', 'ring8_unrolled'])
def test_true_samples_reach_the_ceilings(name):
  mixture = mixtures.get(name)
  k, n, repeats = len(mixture.modes), 2500, 100
  rng = np.random.default_rng(1)
  found = [
      modes.mixture_modes(mixture.host_sample(rng, n)[0], mixture.modes,
                          mixture.std) for _ in range(repeats)]
  assert all(f['modes'] == k for f in found)
  share = 1 - math.exp(-4.5)  # 98.89 %
  error = math.sqrt(share * (1 - share) / (n * repeats))
  assert (np.mean([f['high_quality'] for f in found])
          == pytest.approx(share, abs=4 * error))
  # 2 N KL is chi-squared with K - 1 degrees of freedom, N = good samples.
  good = share * n
  error = math.sqrt(2 * (k - 1) / repeats) / (2 * good)
  assert (np.mean([f['reverse_kl'] for f in found])
          == pytest.approx((k - 1) / (2 * good), abs=4 * error))


def test_wrong_scale_of_a_rescaled_toy_is_visible():
  # WGAN-GP's ring divides by 1.414; its unscaled 0.02 would flatter.
  mixture = mixtures.get('ring8_wgan_gp')
  points, _ = mixture.host_sample(np.random.default_rng(0), 20_000)
  flattered = modes.mixture_modes(points, mixture.modes, 0.02)['high_quality']
  assert flattered > 1 - 3 * math.exp(-9.0)


def test_high_dimensional_modes_with_the_threshold_of_the_paper():
  rng = np.random.default_rng(0)
  centres = rng.standard_normal((10, 1200))
  points = centres.repeat(4, 0)
  noise = rng.standard_normal(points.shape)
  noise /= np.linalg.norm(noise, axis=1, keepdims=True)
  inside = modes.mixture_modes(points + 9.9 * 0.1 * noise, centres, 0.1, 10.0)
  outside = modes.mixture_modes(
      points + 10.1 * 0.1 * noise, centres, 0.1, 10.0)
  assert inside == {'modes': 10.0, 'high_quality': 1.0, 'reverse_kl': 0.0}
  assert outside['high_quality'] == 0.0


def test_shapes_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match=r'\(3, 3\)'):
    modes.mixture_modes(np.zeros((3, 3)), CENTRES, 1.0)
  with pytest.raises(ValueError, match='N > 0'):
    modes.mixture_modes(np.zeros((0, 2)), CENTRES, 1.0)


def test_stacked_modes_by_hand():
  digits = np.array([[1, 2, 3], [1, 2, 3], [3, 2, 1], [0, 0, 0]])
  found = modes.stacked_modes(digits)
  entropy = 1.5 * math.log(2)  # of (1/2, 1/4, 1/4)
  assert found['modes'] == 3
  assert found['kl'] == pytest.approx(math.log(1000) - entropy, rel=1e-12)


def test_every_triple_once_is_perfect():
  digits = np.stack(np.meshgrid(*[np.arange(10)] * 3), -1).reshape(-1, 3)
  found = modes.stacked_modes(digits)
  assert found['modes'] == 1000
  assert found['kl'] == pytest.approx(0.0, abs=1e-12)


def test_uniform_triples_reach_the_ceiling():
  n, repeats = 26_000, 20
  rng = np.random.default_rng(2)
  found = [modes.stacked_modes(rng.integers(10, size=(n, 3)))
           for _ in range(repeats)]
  assert all(f['modes'] == 1000 for f in found)
  # (K - 1) / 2N = 0.0192, then (K^2 - 1) / 12N^2: the next term of the
  # expected entropy of a uniform histogram.
  expected = 999 / (2 * n) + (1000**2 - 1) / (12 * n**2)
  error = math.sqrt(2 * 999 / repeats) / (2 * n)
  assert (np.mean([f['kl'] for f in found])
          == pytest.approx(expected, abs=4 * error))


@pytest.mark.parametrize('digits', [
    np.array([[1, 2, 10]]), np.array([[-1, 0, 0]]), np.zeros((2, 3)),
    np.zeros((0, 3), int)])
def test_bad_digits_are_refused(digits):
  with pytest.raises(ValueError):
    modes.stacked_modes(digits)
