"""States of step 0 from NumPy: a system's own draws take longer to compile."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def normal(spread: float = 0.05, **spreads: float) -> Callable:
  """Draws of N(0, spread) about 0, and about 1 for scales.

  Args:
    spread: standard deviation.
    **spreads: of leaves of these names.
  """
  def fill(name, shape, draw):
    return float(name == 'scale') + draw.normal(
        0, spreads.get(name, spread), shape)

  return fill


def initial(system, fill: Callable | None = None, seed: int = 0):
  """Returns a TrainState whose averages are its parameters.

  Args:
    system: a System.
    fill: (name of a leaf, shape, generator) -> its values; `normal()` by
      default.
    seed: of the generator.
  """
  fill, draw = fill or normal(), np.random.default_rng(seed)

  def one(path, leaf):
    name = getattr(path[-1], 'key', '')
    return jnp.asarray(fill(name, leaf.shape, draw), leaf.dtype)

  abstract = jax.eval_shape(system.init, jax.random.key(0))
  params, mvars = (jax.tree_util.tree_map_with_path(one, tree)
                   for tree in (abstract.params, abstract.mvars))
  return abstract.replace(
      step=jnp.zeros([], jnp.int32), params=params, mvars=mvars,
      opt=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract.opt),
      ema={net: {'params': jax.tree.map(jnp.copy, params[net])}
           for net in abstract.ema}, key=jax.random.key(0))
