"""GANSpace: directions in W from where w is.

Harkonen et al., GANSpace: Discovering Interpretable GAN Controls, NeurIPS
2020, arXiv 2004.02546, section 2.2: principal components of many samples w of
the mapping network. An edit moves w by x standard deviations along one of
them, in some layers only (section 2.3, E(v_i, layers)):

  w' = w + x sigma_i v_i

Deviation: the authors fit the components incrementally, because they also
fit feature maps; 512 dimensions fit into a covariance matrix, exactly.
"""

import dataclasses

import numpy as np

from gans_jax.core import errors
from gans_jax.latent import sefa


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
  """Principal components, the largest first.

  Attributes:
    mean: float32 [D].
    directions: float32 [K, D], one in a row, of length 1, orthogonal.
    deviations: float32 [K], standard deviation along each.
  """

  mean: np.ndarray
  directions: np.ndarray
  deviations: np.ndarray


def components(samples: np.ndarray) -> Components:
  """Returns the principal components of samples [N, D], in float64.

  Raises:
    UserError: fewer than two samples, or values that are not finite.
  """
  samples = np.asarray(samples, np.float64)
  if len(samples) < 2 or not np.isfinite(samples).all():
    raise errors.UserError(
        f'Principal components need two finite samples at least, and these '
        f'are {len(samples)}, or not finite.')
  mean = samples.mean(0)
  centred = samples - mean
  variances, vectors = np.linalg.eigh(
      centred.T @ centred / (len(samples) - 1))
  return Components(
      mean.astype(np.float32),
      sefa.signed(vectors.T[::-1]).astype(np.float32),
      np.sqrt(np.maximum(variances[::-1], 0)).astype(np.float32))
