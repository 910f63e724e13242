"""Is one run better than another, or are its images luckier?

The paired bootstrap: image i of both runs comes from one latent (and label),
so that resamples take the same rows of both, and what the runs share leaves
the difference (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
chapters 8 and 13). It tells the noise of the sampled images alone: neither that
of the real ones, which stay as they are, nor that of training.

Resampled images repeat, which biases metrics of finite samples (and ruins those
of nearest neighbours). So intervals are the spread of the resampled differences
about their mean, laid around the measured difference.
"""

from collections.abc import Callable
import dataclasses
import time
from typing import Any

import numpy as np

from gans_jax.core import errors
from gans_jax.metrics import frechet

_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Interval:
  """Confidence interval of metric(a) - metric(b).

  Attributes:
    difference: as measured on all images.
    low: its lower end.
    high: its upper end; a difference is significant if 0 lies outside.
    level: its probability, such as 0.95.
    resamples: number of resamples.
  """

  difference: float
  low: float
  high: float
  level: float
  resamples: int


def paired(metric: Callable[[np.ndarray, Any], float], a: np.ndarray,
           b: np.ndarray, reference: Any, *, resamples: int = 1000,
           level: float = 0.95, seed: int = 0,
           progress: Callable[[int, int, float, float], None] | None = None,
           ) -> Interval:
  """Interval for any smooth metric, at 2 (resamples + 1) calls of it.

  Args:
    metric: (features [n, d], reference) -> value.
    a: features of the images of one run [n, d].
    b: of another run; row i from the latent of row i of `a`.
    reference: real images as the metric knows them.
    resamples: drawn with replacement; 1000 for ends that are stable to a few
      percent of the width.
    level: probability of the interval.
    seed: of the resamples.
    progress: called after each with resamples done, all of them, resamples
      per second, and seconds left.

  Raises:
    UserError: unequal or too few rows, or a value that is not finite.
  """
  a, b = _checked(a, b, need=2)
  random = np.random.default_rng(seed)
  differences = np.empty(resamples)
  start = time.perf_counter()
  for i in range(resamples):
    rows = random.integers(0, len(a), len(a))
    differences[i] = metric(a[rows], reference) - metric(b[rows], reference)
    if progress is not None:
      rate = (i + 1) / (time.perf_counter() - start)
      progress(i + 1, resamples, rate, (resamples - i - 1) / rate)
  return _interval(
      metric(a, reference) - metric(b, reference), differences, level)


def paired_frechet(a: np.ndarray, b: np.ndarray, reference: frechet.Gaussian,
                   *, resamples: int = 1000, level: float = 0.95,
                   seed: int = 0, ddof: int = 1) -> Interval:
  """Interval for the Frechet distance, at the cost of a few distances.

  A resample changes mean and covariance a little, and the distance by the sum
  of what its images contribute to first order: with T the optimal transport
  from the generated to the real Gaussian, T = R (R S R)^-1/2 R, R^2 = S_real,

    c(x) = 2 (mu - mu_real).(x - mu) + (x - mu)^T (I - T) (x - mu) - const

  (the infinitesimal jackknife). So each image is measured once, at n d^2
  multiplications, and a resample is a mean of n numbers.

  Args:
    a: features of the images of one run [n, d], n > d.
    b: of another run; row i from the latent of row i of `a`.
    reference: fitted to real images.
    resamples: drawn with replacement.
    level: probability of the interval.
    seed: of the resamples.
    ddof: covariances over n - ddof.

  Raises:
    UserError: unequal or too few rows, or a value that is not finite.
  """
  # The transport out of a singular covariance is not defined.
  a, b = _checked(a, b, need=np.shape(a)[-1] + 1)
  root = _power(reference.covariance, 0.5)
  (distance_a, share_a), (distance_b, share_b) = (
      _contributions(x, frechet.fit(x, ddof), reference, root) for x in (a, b))
  shares = share_a - share_b
  random = np.random.default_rng(seed)
  differences = np.array([
      shares[random.integers(0, len(shares), len(shares))].mean()
      for _ in range(resamples)])
  return _interval(distance_a - distance_b, differences, level)


def _contributions(features: np.ndarray, fake: frechet.Gaussian,
                   reference: frechet.Gaussian, root: np.ndarray
                   ) -> tuple[float, np.ndarray]:
  """The distance, and what each image adds to it, of mean zero [n]."""
  transport = root @ _power(root @ fake.covariance @ root, -0.5) @ root
  curvature = np.eye(len(root)) - transport
  slope = 2 * (fake.mean - reference.mean)
  shares = np.empty(len(features))
  for start in range(0, len(features), _BLOCK):
    block = slice(start, start + _BLOCK)
    delta = features[block] - fake.mean
    shares[block] = delta @ slope + np.einsum(
        'nd,nd->n', delta @ curvature, delta)
  return frechet.distance(reference, fake), shares - shares.mean()


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
  """Of a symmetric matrix >= 0; directions without variance stay so."""
  eigenvalues, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
  keep = eigenvalues > eigenvalues[-1] * len(matrix) * np.finfo(float).eps
  vectors = vectors[:, keep]
  return (vectors * eigenvalues[keep]**exponent) @ vectors.T


def _interval(difference: float, resampled: np.ndarray, level: float
              ) -> Interval:
  tail = (1 - level) / 2
  low, high = np.quantile(resampled - resampled.mean(), [tail, 1 - tail])
  return Interval(float(difference), float(difference + low),
                  float(difference + high), level, len(resampled))


def _checked(a: np.ndarray, b: np.ndarray, need: int
             ) -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(a), np.asarray(b)
  if a.ndim != 2 or a.shape != b.shape:
    raise errors.UserError(
        'A paired bootstrap compares as many images of both runs, made from '
        f'the same latents; found features {list(a.shape)} and '
        f'{list(b.shape)}.')
  if len(a) < need:
    raise errors.UserError(
        f'This bootstrap needs {need} images of each run at least, and there '
        f'are {len(a)}.')
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise errors.UserError(
        'What is to be resampled are features that hold NaN or infinity.')
  return a, b
