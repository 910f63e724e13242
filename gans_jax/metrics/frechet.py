"""Frechet distance between Gaussians fitted to two sets of features.

  |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^1/2

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local
Nash Equilibrium, 2017, arXiv 1706.08500, equation 6. It is called FID only on
the features of one Inception network; elsewhere it is "FD".

The last term is computed without a matrix square root of a product, which is
not symmetric and goes complex. With any factors S = F^T F,

  tr (S1 S2)^1/2 = |F1 F2^T|_*   (nuclear norm: the sum of singular values).

Few samples: F are the centred features, and the SVD is of an n1 x n2 matrix,
exact where the covariances are singular. Many: F1 is a Cholesky factor of S1
(or its symmetric root, if it is singular), and the singular values are roots of
the eigenvalues of F1 S2 F1^T.
"""

import dataclasses

import numpy as np

from gans_jax.metrics import moments as moments_lib

_BLOCK = 4096  # Rows cast to float64 at a time.


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
  """A fitted Gaussian.

  Attributes:
    count: samples that it was fitted to.
    mean: float64 [d].
    covariance: float64 [d, d].
    factor: float64 [count, d] with factor^T factor = covariance; None when
      count >= d, where it would be larger than the covariance.
  """

  count: int
  mean: np.ndarray
  covariance: np.ndarray
  factor: np.ndarray | None = None


def fit(features: np.ndarray, ddof: int = 1) -> Gaussian:
  """Fits [n, d] features; covariance over n - ddof."""
  n, d = features.shape
  if n <= ddof:
    raise ValueError(f'{n} samples have no covariance with divisor n - {ddof}')
  moments = moments_lib.of_stream(
      features[i:i + _BLOCK] for i in range(0, n, _BLOCK))
  factor = None
  if n < d:
    factor = np.asarray(features, np.float64) - moments.mean
    factor /= np.sqrt(n - ddof)
  return Gaussian(n, moments.mean, moments.covariance(ddof), factor)


def of_moments(moments: moments_lib.Moments, ddof: int = 1) -> Gaussian:
  """As `fit`, from statistics of more vectors than dimensions."""
  return Gaussian(moments.count, moments.mean, moments.covariance(ddof))


def distance(a: Gaussian, b: Gaussian) -> float:
  """Squared Frechet (Wasserstein-2) distance; symmetric, >= 0."""
  delta = a.mean - b.mean
  value = float(delta @ delta + np.trace(a.covariance) +
                np.trace(b.covariance) - 2 * _trace_of_root(a, b))
  # Equal sets leave rounding of either sign, about 1e-12 of the traces.
  return max(value, 0.0)


def route(a: Gaussian, b: Gaussian) -> str:
  """Name of the method that `distance` uses: 'eigh' or 'nuclear'."""
  return 'eigh' if a.factor is None and b.factor is None else 'nuclear'


def _trace_of_root(a: Gaussian, b: Gaussian) -> float:
  if route(a, b) == 'eigh':
    try:
      root = np.linalg.cholesky(a.covariance)  # A tenth of the time.
    except np.linalg.LinAlgError:
      root = _symmetric_root(a.covariance)
    product = root.T @ b.covariance @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    return np.sqrt(np.maximum(eigenvalues, 0)).sum()
  factors = [_symmetric_root(g.covariance) if g.factor is None else g.factor
             for g in (a, b)]
  return np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()


def _symmetric_root(covariance: np.ndarray) -> np.ndarray:
  eigenvalues, vectors = np.linalg.eigh(covariance)
  return (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T
