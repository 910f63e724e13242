"""Mode-collapse metrics: how many modes, how well, how evenly.

As in VEEGAN (arXiv:1705.07761, sec. 4.1) and PacGAN (arXiv:1712.04086, sec.
4.1), in float64. The papers use 2,500 samples per model for mixtures, 26,000
(VEEGAN's setting) or 25,600 (Unrolled GAN's) for stacked MNIST; report mean
and standard error over at least 10 trained models.

Perfect samples do not score perfectly: of the true two-dimensional mixture,
1 - exp(-9/2) = 98.89 % are of high quality, and the reverse KL of N samples
over K modes is about (K - 1) / 2N.
"""

import numpy as np


def mixture_modes(points: np.ndarray, centres: np.ndarray, std: float,
                  threshold: float = 3.0) -> dict[str, float]:
  """Compares samples with a mixture of isotropic Gaussians.

  Args:
    points: samples [N, D]. One that is not finite is of low quality.
    centres: distinct modes [K, D], such as `Mixture.modes`.
    std: standard deviation of every component.
    threshold: a sample is of high quality when its Mahalanobis distance to
      the nearest centre is below this; 3, or 10 in the 1200-dimensional task.

  Returns:
    modes: number of modes with at least one sample of high quality.
    high_quality: share of such samples, in [0, 1].
    reverse_kl: KL(their histogram over modes || uniform), in nats, in
      [0, log K]; NaN when there are none.
  """
  points = np.asarray(points, np.float64)
  centres = np.asarray(centres, np.float64)
  if (points.ndim != 2 or centres.ndim != 2 or not len(points)
      or points.shape[1] != centres.shape[1]):
    raise ValueError('Expected points [N, D] and centres [K, D], N > 0; '
                     f'found {points.shape} and {centres.shape}.')
  # One centre at a time: [N, K, D] would be large in 1200 dimensions.
  distances = np.stack(
      [np.linalg.norm(points - centre, axis=1) for centre in centres],
      axis=1) / std
  near = np.min(distances, axis=1) < threshold  # False for NaN
  counts = np.bincount(
      np.argmin(distances[near], axis=1), minlength=len(centres))
  return {
      'modes': float(np.count_nonzero(counts)),
      'high_quality': float(np.mean(near)),
      'reverse_kl': kl_to_uniform(counts),
  }


def stacked_modes(digits: np.ndarray,
                  num_classes: int = 10) -> dict[str, float]:
  """Counts the modes of stacked MNIST.

  Args:
    digits: class of each channel of each image, as a digit classifier sees
      it, integers [N, 3] in [0, num_classes).
    num_classes: classes of a channel.

  Returns:
    modes: number of distinct triples, at most num_classes ** 3 = 1000.
    kl: KL(histogram of triples || uniform), in nats, in [0, log 1000].
  """
  digits = np.asarray(digits)
  if digits.ndim != 2 or not len(digits) or digits.dtype.kind not in 'iu':
    raise ValueError('Expected integer digits [N, channels], N > 0; found '
                     f'{digits.dtype} {digits.shape}.')
  if digits.min() < 0 or digits.max() >= num_classes:
    raise ValueError(f'Digits must lie in [0, {num_classes}); found '
                     f'[{digits.min()}, {digits.max()}].')
  channels = digits.shape[1]
  triples = digits.astype(np.int64) @ (num_classes ** np.arange(channels))
  counts = np.bincount(triples, minlength=num_classes ** channels)
  return {'modes': float(np.count_nonzero(counts)),
          'kl': kl_to_uniform(counts)}


def kl_to_uniform(counts: np.ndarray) -> float:
  """Returns KL(counts / sum || uniform) = log K - H, in nats.

  Args:
    counts: non-negative [K]. NaN is returned if all are zero.
  """
  counts = np.asarray(counts, np.float64)
  total = np.sum(counts)
  if total == 0:
    return float('nan')
  p = counts[counts > 0] / total
  return float(np.sum(p * np.log(p * len(counts))))
