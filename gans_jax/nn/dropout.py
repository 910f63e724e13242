"""Dropout whose mask belongs to the example, not to the batch."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, keys: jax.Array | None, keep: float,
            layer: int) -> jax.Array:
  """Zeroes elements with probability 1 - keep, and divides the rest by keep.

  Row i is a function of x[i] and keys[i] alone, so that microbatches and
  devices do not change it (Srivastava et al. 2014, in its "inverted" form:
  nothing is scaled at test time).

  Args:
    x: [N, ...].
    keys: typed keys [N], shared by the layers of one pass; None turns
      dropout off.
    keep: probability in (0, 1] that an element is kept.
    layer: number of this use among those of the pass.
  """
  if keys is None or keep == 1.0:
    return x

  def one(row, key):
    mask = jax.random.bernoulli(jax.random.fold_in(key, layer), keep,
                                row.shape)
    return jnp.where(mask, row / keep, jnp.zeros_like(row))

  return jax.vmap(one)(x, keys)
