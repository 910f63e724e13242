"""Sliced Wasserstein distance: pyramid goldens, and closed forms."""

import math

import numpy as np
import pytest
from scipy import ndimage

from gans_jax.core import errors
from gans_jax.metrics import swd


def _golden_images():
  r = np.random.RandomState(0)
  return np.kron(r.randint(0, 256, (4, 8, 8, 3)),
                 np.ones((1, 16, 16, 1))).astype(np.uint8)


def test_pyramid_of_the_published_code():
  levels = swd.pyramid(_golden_images(), 4)
  assert [level.shape[1] for level in levels] == [128, 64, 32, 16]
  # tkarras/progressive_growing_of_gans.
  np.testing.assert_allclose(
      [abs(np.asarray(level)).mean() for level in levels],
      [9.43834, 12.76256, 19.22505, 123.98698], atol=1e-4)
  np.testing.assert_allclose(
      swd.reconstruct(levels), _golden_images(), atol=1e-4)


def test_edges_are_those_of_scipy():
  x = np.random.RandomState(1).uniform(0, 255, (2, 16, 32, 3))
  binomial = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
  kernel = binomial[None, :, :, None]
  down = ndimage.convolve(x, kernel, mode='mirror')[:, ::2, ::2]
  spread = np.zeros_like(x)
  spread[:, ::2, ::2] = down
  up = ndimage.convolve(spread, 4 * kernel, mode='mirror')
  fine, coarse = swd.pyramid(x.astype(np.float32), 2)
  np.testing.assert_allclose(coarse, down, atol=1e-4)
  np.testing.assert_allclose(fine, x - up, atol=2e-4)


def test_a_shift_in_closed_form():
  # c sqrt(147) E |first coordinate of a random unit vector|.
  a = np.random.RandomState(2).randn(500, 147).astype(np.float32)
  expected = math.sqrt(147 / math.pi) * math.exp(
      math.lgamma(73.5) - math.lgamma(74))
  assert expected == pytest.approx(0.79924, abs=1e-5)
  # The standard deviation of 512 directions is 0.6 / sqrt(512) = 0.027.
  values = [swd.sliced_distance(a, a + 2, seed) / 2 for seed in range(4)]
  assert np.mean(values) == pytest.approx(expected, abs=0.04)
  assert swd.sliced_distance(a, a, 0) == 0
  assert swd.sliced_distance(a, a[::-1], 0) == pytest.approx(0, abs=1e-6)


def test_descriptors_are_normalised_patches():
  images = _golden_images()
  found = swd.descriptors(images, 1, seed=3)
  assert found.shape == (4 * 128, 147) and found.dtype == np.float32
  channels = found.reshape(-1, 3, 49)
  np.testing.assert_allclose(channels.mean((0, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(channels.std((0, 2)), 1, atol=1e-5)
  np.testing.assert_array_equal(swd.descriptors(images, 1, seed=3), found)
  assert not np.array_equal(swd.descriptors(images, 1, seed=4), found)


def test_patches_are_windows_of_their_own_image():
  # Pixel = 1000 n + 20 y + x: each patch tells where it is from.
  y, x = np.mgrid[:16, :16]
  images = (1000 * np.arange(5)[:, None, None] + 20 * y + x)[..., None]
  found = swd.descriptors(images.astype(np.float32), 0, seed=0)
  found = found * images_std(found, images) + 0
  offsets = found - found[:, :1]
  expected = (20 * y[:7, :7] + x[:7, :7]).reshape(1, 49)
  np.testing.assert_allclose(offsets, np.repeat(expected, len(found), 0),
                             atol=0.05)


def images_std(found, images):
  """Undoes the normalisation, from the known step of one pixel."""
  del images
  return 1 / np.median(found[:, 1] - found[:, 0])


def test_batches_do_not_show(monkeypatch):
  images = _golden_images()
  whole = swd.descriptors(images, 0, seed=0)
  monkeypatch.setattr(swd, '_IMAGES', 3)
  np.testing.assert_allclose(
      swd.descriptors(images, 0, seed=0), whole, atol=1e-5)


def test_brightness_and_contrast_do_not_count_and_blur_does():
  r = np.random.RandomState(4)
  real, other = r.uniform(0, 200, (2, 64, 32, 32, 3)).astype(np.float32)
  floor = swd.swd(real, other)
  assert list(floor) == ['32', '16', 'average']
  assert floor['average'] == pytest.approx((floor['32'] + floor['16']) / 2)
  tinted = swd.swd(real, 0.5 * other + np.float32([1, 20, 40]))
  assert tinted == pytest.approx(floor, rel=1e-3)
  blurred = swd.swd(real, ndimage.uniform_filter(other, (1, 3, 3, 1)))
  assert blurred['32'] > 2 * floor['32']


def test_refusals():
  images = _golden_images()
  with pytest.raises(errors.UserError, match='as many .* 16384'):
    swd.swd(images, images[:3])
  with pytest.raises(errors.UserError, match='1 of each'):
    swd.swd(images[:0], images[:0])
  for size in (8, 33, 100):
    small = np.zeros((2, size, size, 3))
    with pytest.raises(errors.UserError, match=f'{size} x {size}.*powers'):
      swd.swd(small, small)
  with pytest.raises(errors.UserError, match='NaN'):
    swd.swd(np.full((2, 16, 16, 1), np.nan), np.zeros((2, 16, 16, 1)))
  with pytest.raises(errors.UserError, match='no variance'):
    swd.swd(np.zeros((2, 16, 16, 1)), np.zeros((2, 16, 16, 1)))
