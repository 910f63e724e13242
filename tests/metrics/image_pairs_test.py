"""PSNR and SSIM: closed forms, and a golden of the published code."""

import numpy as np
import pytest
from scipy import signal

from gans_jax.core import errors
from gans_jax.metrics import image_pairs


def _golden_images():
  r = np.random.RandomState(0)
  a = np.kron(r.randint(0, 256, (4, 8, 8, 3)), np.ones((1, 16, 16, 1)))
  b = np.clip(a + r.randint(-40, 41, a.shape), 0, 255)
  return a.astype(np.uint8), b.astype(np.uint8)


def test_psnr_in_closed_form():
  a = np.full((3, 8, 8, 3), 100, np.uint8)
  b = a + np.array([1, 10, 0], np.uint8)[:, None, None, None]
  expected = [20 * np.log10(255), 20 * np.log10(25.5), np.inf]
  np.testing.assert_allclose(image_pairs.psnr(a, b), expected, rtol=1e-14)
  np.testing.assert_allclose(
      image_pairs.psnr(a / 255, b / 255, peak=1.0)[:2], expected[:2])


def _ssim_by_fft(a, b):
  x = np.arange(11) - 5
  w = np.exp(-(x[:, None]**2 + x[None]**2) / 4.5)
  w = (w / w.sum())[None, ..., None]

  def blur(image):
    return signal.fftconvolve(image, w, mode='valid')

  mean_a, mean_b = blur(a), blur(b)
  variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
  covariance = blur(a * b) - mean_a * mean_b
  c1, c2 = 2.55**2, 7.65**2
  similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2) /
                ((mean_a**2 + mean_b**2 + c1) * (variances + c2)))
  return similarity.mean((1, 2, 3))


def test_ssim_of_the_published_code():
  # First scale of ProGAN's MS-SSIM, which is by FFT and in float32: that is
  # 2e-6 from what the formula gives in float64.
  published = [0.455913, 0.484900, 0.470584, 0.465532]
  a, b = _golden_images()
  np.testing.assert_allclose(
      _ssim_by_fft(a.astype(np.float32), b.astype(np.float32)), published,
      atol=6e-7)
  found = image_pairs.ssim(a, b)
  np.testing.assert_allclose(
      found, _ssim_by_fft(a.astype(float), b.astype(float)), atol=1e-12)
  np.testing.assert_allclose(found, published, atol=2e-6)


def test_ssim_of_constants_in_closed_form():
  a, b = np.full((1, 16, 20, 1), 100.0), np.full((1, 16, 20, 1), 150.0)
  c1 = 2.55**2
  expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
  assert image_pairs.ssim(a, b)[0] == pytest.approx(expected, rel=1e-12)


def test_ssim_against_a_plain_sum_over_one_window():
  r = np.random.RandomState(1)
  a, b = r.uniform(0, 255, (2, 1, 11, 11, 1))
  x = np.arange(11) - 5
  w = np.exp(-(x[:, None]**2 + x[None]**2) / 4.5)
  w /= w.sum()
  p, q = a[0, ..., 0], b[0, ..., 0]
  mp, mq = (w * p).sum(), (w * q).sum()
  vp, vq = (w * (p - mp)**2).sum(), (w * (q - mq)**2).sum()
  cov = (w * (p - mp) * (q - mq)).sum()
  c1, c2 = 2.55**2, 7.65**2
  expected = ((2 * mp * mq + c1) * (2 * cov + c2) /
              ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
  assert image_pairs.ssim(a, b)[0] == pytest.approx(expected, rel=1e-12)


def test_identity_symmetry_and_range():
  a, b = _golden_images()
  np.testing.assert_allclose(image_pairs.ssim(a, a), 1, rtol=1e-14)
  for metric in (image_pairs.ssim, image_pairs.psnr):
    np.testing.assert_allclose(metric(a, b), metric(b, a), rtol=1e-13)
    np.testing.assert_allclose(
        metric(a / 255, b / 255, peak=1.0), metric(a, b), rtol=1e-10)
    # Each pair stands alone.
    np.testing.assert_allclose(metric(a[2:3], b[2:3]), metric(a, b)[2:3])


@pytest.mark.parametrize('metric', [image_pairs.psnr, image_pairs.ssim])
def test_refusals(metric):
  a, b = _golden_images()
  with pytest.raises(errors.UserError, match='one by one'):
    metric(a, b[:3])
  with pytest.raises(errors.UserError, match='n > 0'):
    metric(a[:0], b[:0])
  with pytest.raises(errors.UserError, match='NaN'):
    metric(a, np.full(a.shape, np.nan))
