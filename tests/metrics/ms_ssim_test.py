"""MS-SSIM: goldens of ProGAN's code, and its protocol of pairs."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import ms_ssim


def _golden_images():
  r = np.random.RandomState(0)
  a = np.kron(r.randint(0, 256, (4, 8, 8, 3)), np.ones((1, 16, 16, 1)))
  b = np.clip(a + r.randint(-40, 41, a.shape), 0, 255)
  return a.astype(np.uint8), b.astype(np.uint8)


def test_values_of_the_published_code():
  # tkarras/progressive_growing_of_gans, on float32 and by FFT.
  a, b = _golden_images()
  assert ms_ssim.ms_ssim(a, b).mean() == pytest.approx(0.9367856471, abs=1e-6)
  assert ms_ssim.diversity(a) == pytest.approx(0.0620092474, abs=1e-6)


def test_constants_in_closed_form():
  a = np.full((1, 256, 256, 3), 100, np.uint8)
  c1 = 2.55**2
  expected = ((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))**0.1333
  assert expected == pytest.approx(0.9893892, abs=1e-7)
  assert ms_ssim.ms_ssim(a, a + np.uint8(50))[0] == pytest.approx(
      expected, rel=1e-12)


def test_identical_images_and_opposite_ones():
  a, _ = _golden_images()
  np.testing.assert_allclose(ms_ssim.ms_ssim(a, a), 1, rtol=1e-13)
  # Negative correlations are cut at zero, where there are no NaNs.
  assert not ms_ssim.ms_ssim(a, 255 - a).any()


def test_pairs_are_neighbours_whatever_the_batches(monkeypatch):
  a, b = _golden_images()
  images = np.stack([a, b], 1).reshape(8, *a.shape[1:])
  expected = ms_ssim.ms_ssim(a, b).mean()
  for pairs in (1, 3, 100):
    monkeypatch.setattr(ms_ssim, '_PAIRS', pairs)
    assert ms_ssim.diversity(images) == pytest.approx(expected, rel=1e-13)


def test_refusals():
  a, b = _golden_images()
  with pytest.raises(errors.UserError, match='2 or more, and there are 3'):
    ms_ssim.diversity(a[:3])
  with pytest.raises(errors.UserError, match='2 or more, and there are 0'):
    ms_ssim.diversity(a[:0])
  with pytest.raises(errors.UserError, match='multiples of 16; found 28 x 28'):
    ms_ssim.ms_ssim(a[:, :28, :28], b[:, :28, :28])
  with pytest.raises(errors.UserError, match='NaN'):
    ms_ssim.diversity(np.full(a.shape, np.nan))
