"""How far two images are from one another, pixel by pixel or window by window.

PSNR, and SSIM of Wang et al., Image Quality Assessment: From Error Visibility
to Structural Similarity, 2004, equations 13 to 16: a Gaussian window of 11 by
11 pixels with sigma 1.5, within the image, K1 = 0.01, K2 = 0.03; per channel,
mean over windows and channels. (The default of scikit-image is another SSIM: a
flat window of 7 by 7, and covariances over n - 1.)

In float64: a variance is here a small difference of two squares.
"""

import numpy as np

from gans_jax.core import errors

_WINDOW = 11
_SIGMA = 1.5
_K1 = 0.01
_K2 = 0.03


def psnr(a: np.ndarray, b: np.ndarray, peak: float = 255.0) -> np.ndarray:
  """Peak signal-to-noise ratio of each pair.

  Args:
    a: images [n, H, W, C], in [0, peak].
    b: likewise; swapping the two changes nothing.
    peak: width of the range: 255 for uint8, 1 for [0, 1], 2 for [-1, 1].

  Returns:
    10 log10(peak^2 / mean squared error), in decibels, float64 [n]; infinite
    where a pair is equal.
  """
  a, b = checked('PSNR', a, b)
  error = np.mean((a - b)**2, axis=(1, 2, 3))
  with np.errstate(divide='ignore'):
    return 10 * np.log10(peak**2 / error)


def ssim(a: np.ndarray, b: np.ndarray, peak: float = 255.0) -> np.ndarray:
  """Structural similarity of each pair [n, H, W, C], in [-1, 1], float64 [n].

  The constants are shares of `peak`, and means are compared with them: images
  in [-1, 1] are to be moved to [0, 1] first.
  """
  return similarity(*checked('SSIM', a, b), peak)[0]


def similarity(a: np.ndarray, b: np.ndarray, peak: float
               ) -> tuple[np.ndarray, np.ndarray]:
  """SSIM and its factor without luminance, of float64 images [n, H, W, C].

  Returns:
    Both float64 [n]. In images smaller than the window, it is as large as
    they are, and sigma shrinks in proportion.
  """
  size = min(_WINDOW, *a.shape[1:3])
  window = _gaussian(size, _SIGMA * size / _WINDOW)
  mean_a, mean_b = _blur(a, window), _blur(b, window)
  variances = (_blur(a * a, window) - mean_a**2 +
               _blur(b * b, window) - mean_b**2)
  covariance = _blur(a * b, window) - mean_a * mean_b
  c1, c2 = (_K1 * peak)**2, (_K2 * peak)**2
  luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  structure = (2 * covariance + c2) / (variances + c2)
  return (np.mean(luminance * structure, axis=(1, 2, 3)),
          np.mean(structure, axis=(1, 2, 3)))


def checked(metric: str, a: np.ndarray, b: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray]:
  """Both in float64.

  Raises:
    UserError: no pairs, other shapes, or a value that is not finite.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 4 or a.shape != b.shape or not a.size:
    raise errors.UserError(
        f'{metric} compares images [n, H, W, C], n > 0, one by one; found '
        f'{list(a.shape)} and {list(b.shape)}.')
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise errors.UserError(f'{metric}: the images hold NaN or infinity.')
  return a, b


def _gaussian(size: int, sigma: float) -> np.ndarray:
  x = np.arange(size) - (size - 1) / 2
  weights = np.exp(-x**2 / (2 * sigma**2))
  return weights / weights.sum()


def _blur(x: np.ndarray, window: np.ndarray) -> np.ndarray:
  """Means within every window that lies inside [n, H, W, C]."""
  size = len(window)
  h, w = x.shape[1] - size + 1, x.shape[2] - size + 1
  x = sum(weight * x[:, i:i + h] for i, weight in enumerate(window))
  return sum(weight * x[:, :, i:i + w] for i, weight in enumerate(window))
