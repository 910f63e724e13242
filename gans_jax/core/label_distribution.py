"""Which classes a conditional generator is asked for.

A distribution is a pool of labels: of the data set's own ('empirical'), of
one of each class ('uniform'), or of a single class. Image i draws one of the
pool, by its key alone.
"""

import functools

import jax
import numpy as np

from gans_jax.core import errors
from gans_jax.core import rng


def pool(distribution: str, num_classes: int,
         empirical: np.ndarray | None = None) -> np.ndarray:
  """Returns the labels int32 [M] to draw from.

  Args:
    distribution: 'empirical', 'uniform', or the number of a class.
    num_classes: K; labels are 0 to K - 1.
    empirical: labels of the data set, or of a sample of it.

  Raises:
    UserError: no such class or distribution.
  """
  if distribution == 'empirical' and empirical is not None:
    return np.asarray(empirical, np.int32)
  if distribution == 'uniform':
    return np.arange(num_classes, dtype=np.int32)
  if str(distribution).isdecimal() and int(distribution) < num_classes:
    return np.asarray([int(distribution)], np.int32)
  known = ("'uniform'" if distribution == 'empirical' else
           "'empirical', 'uniform'")
  raise errors.UserError(
      f'The label distribution is {distribution!r}, expected {known} or the '
      f'number of a class, 0 to {num_classes - 1}.')


def draw(keys: jax.Array, labels: np.ndarray) -> np.ndarray:
  """Returns one of `labels` [M] for each of `keys` [N]: int32 [N]."""
  return np.asarray(labels, np.int32)[np.asarray(_draw(keys, len(labels)))]


@functools.partial(jax.jit, static_argnums=1)
def _draw(keys, count: int):
  return jax.vmap(lambda key: jax.random.randint(
      rng.named(key, 0, 'label'), (), 0, count))(keys)
