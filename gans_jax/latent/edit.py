"""Moves latents along directions: the sheets of SeFa and GANSpace."""

from collections.abc import Sequence

import numpy as np


def along(w: np.ndarray, direction: np.ndarray, strengths: Sequence[float],
          layers: Sequence[int] | None = None) -> np.ndarray:
  """Moves latents along one direction, a step for every strength.

  Args:
    w: [N, num_ws, D].
    direction: [D].
    strengths: how far, in lengths of `direction`.
    layers: indices of the styles that move; all by default.

  Returns:
    [N * len(strengths), num_ws, D], the strengths of one latent in a row.
  """
  layers = range(w.shape[1]) if layers is None else layers
  moves = np.zeros((len(strengths), *w.shape[1:]), w.dtype)
  moves[:, list(layers)] = (
      np.asarray(strengths)[:, None, None] * direction[None, None])
  return (w[:, None] + moves[None]).reshape(-1, *w.shape[1:])
