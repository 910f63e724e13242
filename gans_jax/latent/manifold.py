"""Two latent numbers over all their values: a sheet of the learned manifold.

Kingma & Welling 2013, arXiv:1312.6114, figure 4: points spaced evenly on the
unit square go through the inverse of the Gaussian's distribution function, so
that every tile stands for an equal share of the prior.
"""

from collections.abc import Sequence

import numpy as np

from gans_jax.core import errors


def sheet(base: np.ndarray, dims: Sequence[int], side: int) -> np.ndarray:
  """Returns latents of a square sheet, row by row.

  Args:
    base: one latent [D]; its other numbers stay as they are.
    dims: the two that vary: down the rows, along the columns.
    side: tiles in a row.

  Returns:
    float32 [side * side, D].

  Raises:
    UserError: `dims` are not two different numbers of the latent.
  """
  from scipy import special  # It takes a third of a second.

  if base.ndim != 1 or len(set(dims)) != 2 or len(dims) != 2 or not all(
      0 <= d < base.size for d in dims):
    raise errors.UserError(
        f'--manifold is {",".join(map(str, dims))}; expected two different '
        f'places of the latent, whose shape is {list(base.shape)}, such as '
        "'0,1'.")
  values = special.ndtri((np.arange(side) + 0.5) / side)
  z = np.tile(np.asarray(base, np.float32), (side, side, 1))
  z[..., dims[0]] = values[:, None]
  z[..., dims[1]] = values[None, :]
  return z.reshape(side * side, -1)
