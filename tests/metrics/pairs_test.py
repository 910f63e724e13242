"""Metrics of pairs: means over all pairs, of the right ones."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import pairs


def _images(n=10, seed=0, channels=3):
  return np.random.RandomState(seed).randint(
      0, 256, (n, 32, 32, channels)).astype(np.uint8)


def _stream(x, batch, pad=0):
  for i in range(0, len(x), batch):
    part = x[i:i + batch]
    valid = np.arange(len(part) + pad) < len(part)
    yield np.concatenate([part, x[:pad]]), valid


def _psnr(a, b):
  error = ((a.astype(float) - b)**2).mean((1, 2, 3))
  return 10 * np.log10(255**2 / error)


def test_every_pair_counts_once():
  a, b = _images(), _images(seed=1)
  results = pairs.compute(['psnr', 'ssim'], _stream(a, 4, pad=2),
                          _stream(b, 4, pad=2), 9)
  psnr, ssim = results
  expected = _psnr(a, b)[:9]
  assert psnr['value'] == pytest.approx(expected.mean(), rel=1e-12)
  assert psnr['values']['std'] == pytest.approx(expected.std(), rel=1e-12)
  assert (psnr['metric'], psnr['pairs']) == ('psnr', 9)
  assert -0.1 < ssim['value'] < 0.1  # Of noise and other noise.


@pytest.mark.parametrize('channels', [1, 3])
def test_equal_images(channels):
  a = _images(4, channels=channels)
  psnr, ssim, lpips = pairs.compute(
      ['psnr', 'ssim', 'lpips_lite0'], _stream(a, 4), _stream(a, 4), 4)
  assert psnr['value'] == np.inf
  assert [ssim['value'], lpips['value']] == pytest.approx([1, 0], abs=1e-12)


def test_bad_pairs():
  a = _images()
  with pytest.raises(errors.UserError, match=r'\[4, 32, 32, 3\] and \[4, 16'):
    pairs.compute(['psnr'], _stream(a, 4), _stream(a[:, ::2, ::2], 4), 10)
  with pytest.raises(errors.UserError, match='10 pairs .* there are 8'):
    pairs.compute(['psnr'], _stream(a, 4), _stream(a[:8], 4), 10)
