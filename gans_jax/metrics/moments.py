"""Mean and covariance of a stream, in float64, whatever its batches."""

from collections.abc import Iterable
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
  """Sufficient statistics of a Gaussian.

  Attributes:
    count: number of vectors.
    mean: float64 [d].
    scatter: float64 [d, d], sum of outer products about the mean.
  """

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  def covariance(self, ddof: int) -> np.ndarray:
    """Scatter over count - ddof: 1 in most tools, 0 in NVIDIA's."""
    return self.scatter / (self.count - ddof)


def of(x: np.ndarray) -> Moments:
  """Moments of the rows of `x` [n, d], of any float dtype."""
  x = np.asarray(x, np.float64)
  mean = x.mean(0)
  x = x - mean
  return Moments(len(x), mean, x.T @ x)


def merge(a: Moments, b: Moments) -> Moments:
  """Moments of the union (Chan, Golub, LeVeque 1979, equations 1.3)."""
  count = a.count + b.count
  delta = b.mean - a.mean
  scatter = a.scatter + b.scatter
  scatter += np.outer(delta, delta) * (a.count * b.count / count)
  return Moments(count, a.mean + delta * (b.count / count), scatter)


def of_stream(batches: Iterable[np.ndarray]) -> Moments:
  """Moments of all rows of all [n_i, d] batches; needs one row at least.

  Memory does not grow with the stream, and the result does not depend on how
  it is cut, to about 1e-14 relative.
  """
  total = None
  for batch in batches:
    if len(batch):
      total = of(batch) if total is None else merge(total, of(batch))
  if total is None:
    raise ValueError('moments of an empty stream')
  return total
