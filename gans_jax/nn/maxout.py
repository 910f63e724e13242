"""Maxout units (Goodfellow et al. 2013, arXiv:1302.4389)."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


def largest_piece(x: jax.Array, pieces: int) -> jax.Array:
  """Returns the maximum over groups of `pieces` neighbouring channels.

  Args:
    x: [..., units * pieces]; unit i owns the channels i * pieces onwards, as
      in pylearn2.
    pieces: channels of one unit.

  Returns:
    [..., units].
  """
  return jnp.max(x.reshape(*x.shape[:-1], -1, pieces), axis=-1)


class Maxout(nn.Module):
  """Dense maxout layer: h_i = max_j (x W_ij + b_ij) (eq. 1).

  Attributes:
    units: outputs.
    pieces: linear functions that each output is the maximum of.
    kernel_init: initializer of the kernel [in, units * pieces].
    dtype: of the computation; parameters are float32.
  """

  units: int
  pieces: int
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, in] to [N, units]."""
    h = nn.Dense(self.units * self.pieces, kernel_init=self.kernel_init,
                 dtype=self.dtype, name='pieces')(x)
    return largest_piece(h, self.pieces)


def symmetric_uniform(limit: float) -> nn.initializers.Initializer:
  """Initializer U(-limit, limit), pylearn2's `irange`."""
  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init
