"""Toy distributions: centres, widths, and points as a function of the index."""

import jax
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.data import mixtures


def _radii(name):
  return np.linalg.norm(mixtures.get(name).modes, axis=1)


@pytest.mark.parametrize('name, radius, std', [
    ('ring8', 1.0, 0.01), ('ring8_unrolled', 2.0, 0.02),
    ('ring8_wgan_gp', 2.0 / 1.414, 0.014144)])
def test_ring_has_eight_centres_evenly_on_its_circle(name, radius, std):
  mixture = mixtures.get(name)
  assert mixture.modes.shape == (8, 2)
  np.testing.assert_allclose(_radii(name), radius, rtol=1e-12)
  # Chords between neighbours: 2 r sin(pi / 8).
  chords = np.linalg.norm(
      mixture.modes - np.roll(mixture.modes, 1, axis=0), axis=1)
  np.testing.assert_allclose(chords, 2 * radius * np.sin(np.pi / 8))
  assert mixture.std == pytest.approx(std, rel=1e-4)


@pytest.mark.parametrize('name, ticks, std', [
    ('grid25', [-4, -2, 0, 2, 4], 0.05),
    ('grid25_wgan_gp', np.array([-4, -2, 0, 2, 4]) / 2.828, 0.01768)])
def test_grid_is_all_pairs_of_ticks(name, ticks, std):
  mixture = mixtures.get(name)
  expected = {(round(x, 9), round(y, 9)) for x in ticks for y in ticks}
  assert {tuple(c) for c in mixture.modes.round(9).tolist()} == expected
  assert len(mixture.modes) == 25
  assert mixture.std == pytest.approx(std, rel=1e-3)


def test_unrolled_notebook_has_seven_modes_one_of_double_mass():
  mixture = mixtures.get('ring8_unrolled_notebook')
  assert len(mixture.centres) == 8
  assert mixture.modes.shape == (7, 2)
  np.testing.assert_allclose(mixture.modes[0], [1.0, 0.0], atol=1e-12)
  angles = np.sort(np.arctan2(*mixture.modes.T[::-1]) % (2 * np.pi))
  np.testing.assert_allclose(np.diff(angles), 2 * np.pi / 7)
  _, labels = mixture.host_sample(np.random.default_rng(0), 80_000)
  shares = np.bincount(labels) / len(labels)
  np.testing.assert_allclose(shares, [2 / 8] + [1 / 8] * 6, atol=0.006)


@pytest.mark.parametrize('name', ['ring8', 'grid25', 'ring8_unrolled_notebook'])
@pytest.mark.parametrize('where', ['device', 'host'])
def test_points_are_gaussian_around_the_mode_of_their_label(name, where):
  mixture = mixtures.get(name)
  n = 20_000
  if where == 'device':
    points, labels = mixture.sample(jax.random.key(0), n)
  else:
    points, labels = mixture.host_sample(np.random.default_rng(0), n)
  assert points.dtype == np.float32 and labels.dtype == np.int32
  points, labels = np.asarray(points, np.float64), np.asarray(labels)
  noise = (points - mixture.modes[labels]) / mixture.std
  # Standard errors: mean 1 / sqrt(n), variance sqrt(2 / n); four of them.
  np.testing.assert_allclose(noise.mean(0), 0.0, atol=4 / np.sqrt(n))
  np.testing.assert_allclose(
      np.cov(noise.T), np.eye(2), atol=4 * np.sqrt(2 / n))
  weights = np.zeros(len(mixture.modes))
  for centre in mixture.centres:
    distance = np.linalg.norm(mixture.modes - np.array(centre), axis=1)
    weights[np.argmin(distance)] += 1 / len(mixture.centres)
  shares = np.bincount(labels, minlength=len(weights)) / n
  np.testing.assert_allclose(
      shares, weights, atol=4 * np.sqrt(weights.max() / n))


@pytest.mark.parametrize('where', ['device', 'host'])
def test_swissroll_lies_on_its_spiral(where):
  roll = mixtures.SwissRoll(noise=0.0)
  if where == 'device':
    points, labels = roll.sample(jax.random.key(0), 4000)
  else:
    points, labels = roll.host_sample(np.random.default_rng(0), 4000)
  assert points.dtype == np.float32 and not np.any(labels)
  x, y = np.asarray(points, np.float64).T * 7.5
  t = np.hypot(x, y)
  np.testing.assert_allclose(x, t * np.cos(t), atol=1e-4)
  np.testing.assert_allclose(y, t * np.sin(t), atol=1e-4)
  # t is uniform on [3 pi / 2, 9 pi / 2].
  assert t.min() > 1.5 * np.pi - 1e-4 and t.max() < 4.5 * np.pi + 1e-4
  assert t.mean() == pytest.approx(3 * np.pi, abs=4 * 3 * np.pi / 12**0.5 / 63)


def test_swissroll_noise_is_a_thirtieth():
  clean, _ = mixtures.SwissRoll(noise=0.0).sample(jax.random.key(3), 5000)
  noisy, _ = mixtures.get('swissroll').sample(jax.random.key(3), 5000)
  assert np.std(noisy - clean) == pytest.approx(0.25 / 7.5, rel=0.05)


@pytest.mark.parametrize('name', mixtures.names())
def test_source_is_a_function_of_name_seed_and_index(name):
  source = mixtures.create_source(name, 50, seed=1)
  longer = mixtures.create_source(name, 500, seed=1)
  other = mixtures.create_source(name, 50, seed=2)
  assert len(source) == 50 and len(longer) == 500
  for i in (49, 0, 7):
    example = source[i]
    assert example['point'].shape == (2,)
    assert example['point'].dtype == np.float32
    assert example['label'].dtype == np.int32
    np.testing.assert_array_equal(example['point'], longer[i]['point'])
    assert example['label'] == longer[np.int64(i)]['label']
    assert np.any(example['point'] != other[i]['point'])
  points = np.stack([source[i]['point'] for i in range(50)])
  assert len(np.unique(points, axis=0)) == 50


def test_source_has_the_statistics_of_its_mixture():
  source = mixtures.create_source('ring8', 4000)
  examples = [source[i] for i in range(4000)]
  labels = np.array([e['label'] for e in examples])
  points = np.array([e['point'] for e in examples], np.float64)
  mixture = mixtures.get('ring8')
  noise = (points - mixture.modes[labels]) / 0.01
  np.testing.assert_allclose(
      np.cov(noise.T), np.eye(2), atol=4 * np.sqrt(2 / 4000))
  np.testing.assert_allclose(
      np.bincount(labels) / 4000, 1 / 8, atol=4 * np.sqrt(7 / 64 / 4000))


def test_source_ends():
  source = mixtures.create_source('grid25', 3)
  for i in (-1, 3):
    with pytest.raises(IndexError):
      source[i]
  assert len(list(source)) == 3


def test_repr_is_stable():
  assert (repr(mixtures.create_source('ring8', 10, 4))
          == "MixtureSource(name='ring8', num_examples=10, seed=4)")


def test_unknown_name_names_the_nearest_and_all():
  with pytest.raises(errors.UserError) as error:
    mixtures.create_source('ring9')
  assert "nearest is 'ring8'" in str(error.value)
  assert all(name in str(error.value) for name in mixtures.names())


@pytest.mark.parametrize('num_examples, seed', [(0, 0), (5, -1)])
def test_bad_length_or_seed_is_refused(num_examples, seed):
  with pytest.raises(errors.UserError, match='mixture:ring8'):
    mixtures.create_source('ring8', num_examples, seed)
