"""Multi-scale structural similarity, and the lack of diversity it shows.

  MS-SSIM = ssim_5^.1333 cs_1^.0448 cs_2^.2856 cs_3^.3001 cs_4^.2363

at the resolutions 1, 1/2, ... 1/16, where cs is SSIM without luminance: Wang et
al., Multi-scale Structural Similarity for Image Quality Assessment, 2003,
equation 7. As a diversity score (Odena et al., 2017, arXiv 1610.09585, section
4.2; Karras et al., 2018, arXiv 1710.10196, section 5) it is the mean over pairs
of generated images, of one class if there are classes: lower is more diverse,
and it says nothing of quality.
"""

import numpy as np

from gans_jax.core import errors
from gans_jax.metrics import image_pairs

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_MULTIPLE = 2**(len(_WEIGHTS) - 1)
_PAIRS = 16  # In float64 at a time.


def check_size(height: int, width: int) -> None:
  """Refuses images that cannot be halved four times (UserError)."""
  if height % _MULTIPLE or width % _MULTIPLE:
    raise errors.UserError(
        f'MS-SSIM halves images four times, so that their sides must be '
        f'multiples of {_MULTIPLE}; found {height} x {width}.')


def ms_ssim(a: np.ndarray, b: np.ndarray, peak: float = 255.0) -> np.ndarray:
  """MS-SSIM of each pair, in [0, 1], float64 [n].

  Args:
    a: images [n, H, W, C] in [0, peak]; H and W are multiples of 16.
    b: likewise.
    peak: width of the range: 255 for uint8.

  Raises:
    UserError: other shapes, or a value that is not finite.
  """
  a, b = image_pairs.checked('MS-SSIM', a, b)
  check_size(*a.shape[1:3])
  value = np.ones(len(a))
  # A negative factor has no such power.
  for weight in _WEIGHTS[:-1]:
    _, contrast = image_pairs.similarity(a, b, peak)
    value *= np.maximum(contrast, 0)**weight
    a, b = _halved(a), _halved(b)
  ssim, _ = image_pairs.similarity(a, b, peak)
  return value * np.maximum(ssim, 0)**_WEIGHTS[-1]


def diversity(images: np.ndarray, peak: float = 255.0) -> float:
  """Mean MS-SSIM of the pairs (0, 1), (2, 3), ... of [n, H, W, C].

  Published values are of 20,000 images: 10,000 pairs.

  Raises:
    UserError: no pair, an odd number of images, or ones that `ms_ssim`
      refuses.
  """
  n = len(images)
  if n < 2 or n % 2:
    raise errors.UserError(
        f'MS-SSIM diversity needs pairs of images, so an even number of 2 or '
        f'more, and there are {n}.')
  total = sum(
      ms_ssim(images[i:i + 2 * _PAIRS:2], images[i + 1:i + 2 * _PAIRS:2],
              peak).sum()
      for i in range(0, n, 2 * _PAIRS))
  return float(total / (n // 2))


def _halved(x: np.ndarray) -> np.ndarray:
  n, h, w, c = x.shape
  return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
