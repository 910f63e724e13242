"""The way between classes, in the vectors that a generator looks up for them.

A conditional generator knows a class by rows of tables [classes, features]: a
shared embedding (BigGAN), or scales and offsets of its normalizations (SNGAN,
SAGAN). A class between classes is a weighted mean of their rows.
"""

from typing import Any

import jax
import numpy as np

# Flax names of tables, where they have two axes.
_NAMES = ('embedding', 'scale', 'bias')


def shares(stops: int, frames: int) -> np.ndarray:
  """Returns weights of the stops along a way, float32 [T, stops].

  T = (stops - 1) * frames + 1; rows add up to 1, and row i * frames is the
  stop i alone.
  """
  t = np.arange((stops - 1) * frames + 1) / frames
  return np.maximum(
      1 - np.abs(t[:, None] - np.arange(stops)[None]), 0).astype(np.float32)


def tables(params: Any, classes: int) -> list[tuple[Any, ...]]:
  """Returns the paths of the tables of a network's parameters."""
  return [path for path, x in jax.tree_util.tree_leaves_with_path(params)
          if x.ndim == 2 and x.shape[0] == classes
          and path[-1].key in _NAMES]


def replaced(params: Any, paths, weights: np.ndarray) -> Any:
  """Returns parameters whose first classes are means of the old ones.

  Args:
    params: of a generator.
    paths: of its tables.
    weights: [n, classes], n at most the number of classes.

  Returns:
    The same tree; in each table row i < n is weights[i] times the old rows.
  """
  def change(path, x):
    if path not in paths:
      return x
    return x.at[:len(weights)].set(
        np.asarray(weights, np.float64) @ np.asarray(x, np.float64))

  return jax.tree_util.tree_map_with_path(change, params)
