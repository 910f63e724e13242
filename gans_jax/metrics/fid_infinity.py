"""Metrics of infinitely many images, by extrapolation.

The expectation of a Frechet distance or an Inception Score of N images is a
straight line in 1/N, with a slope that depends on the generator, so that two
generators may change places between N = 5,000 and 50,000. The value where the
line meets 1/N = 0 has almost no bias:

  metric(N) = value + slope / N

Chong & Forsyth, Effectively Unbiased FID and Inception Score and Where to Find
Them, 2019, arXiv 1911.07023, section 4: fifteen sizes, evenly spaced from 5,000
to all images, each a fresh random subset; the real statistics stay fixed. The
paper's latents are of a scrambled Sobol sequence, for a lower variance.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from gans_jax.core import errors
from gans_jax.metrics import frechet
from gans_jax.metrics import inception_score as inception_score_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
  """A metric as a function of the number of images.

  Attributes:
    value: at infinity; a Frechet distance may come out negative.
    slope: what one image alone would add to it.
    sizes: int [points].
    measured: float64 [points], the metric at `sizes`.
  """

  value: float
  slope: float
  sizes: np.ndarray
  measured: np.ndarray


def frechet_distance(features: np.ndarray, reference: frechet.Gaussian, *,
                     smallest: int = 5000, points: int = 15, ddof: int = 1,
                     seed: int = 0) -> Line:
  """Frechet distance at infinity; FID_infinity on Inception features.

  Args:
    features: of generated images [n, d].
    reference: fitted to real images.
    smallest: size of the first subset, above d: the expectation is no line
      while covariances are singular.
    points: sizes to measure.
    ddof: covariances over size - ddof.
    seed: of the subsets.

  Raises:
    UserError: too few images, or a value that is not finite.
  """
  dim = np.shape(features)[-1]
  if smallest <= dim:
    raise errors.UserError(
        f'Frechet distances of features of {dim} dimensions are extrapolated '
        f'from subsets of {dim + 1} images or more; found {smallest}. Ask for '
        f'a larger smallest size; the published one is 5000.')
  return extrapolate(
      lambda rows: frechet.distance(reference, frechet.fit(rows, ddof)),
      features, smallest=smallest, points=points, seed=seed)


def inception_score(logits: np.ndarray, *, smallest: int = 5000,
                    points: int = 15, seed: int = 0) -> Line:
  """Inception Score at infinity of logits [n, classes]; one split.

  Raises:
    UserError: too few images, or a value that is not finite.
  """
  return extrapolate(
      lambda rows: inception_score_lib.from_logits(rows, splits=1)[0],
      logits, smallest=smallest, points=points, seed=seed)


def extrapolate(metric: Callable[[np.ndarray], float], rows: np.ndarray, *,
                smallest: int = 5000, points: int = 15, seed: int = 0) -> Line:
  """Fits metric(subset) = value + slope / size by least squares.

  Args:
    metric: of rows [size, d].
    rows: of generated images [n, d].
    smallest: size of the first subset.
    points: sizes, evenly spaced up to n.
    seed: of the subsets.

  Raises:
    UserError: fewer rows than `points` sizes need, or one not finite.
  """
  if points < 2:
    raise ValueError(f'{points} points determine no line')
  rows = np.asarray(rows)
  need = smallest + points - 1  # So that no two sizes are equal.
  if len(rows) < need:
    raise errors.UserError(
        f'An extrapolation from subsets of {smallest} images and more needs '
        f'{need} images at least (published ones have 50000), and there are '
        f'{len(rows)}.')
  if not np.isfinite(rows).all():
    raise errors.UserError(
        'What is to be extrapolated is of features that hold NaN or infinity.')
  random = np.random.default_rng(seed)
  sizes = np.linspace(smallest, len(rows), points).astype(int)
  measured = np.array([
      metric(rows[random.permutation(len(rows))[:size]]) for size in sizes])
  slope, value = np.polyfit(1 / sizes, measured, 1)
  return Line(float(value), float(slope), sizes, measured)
