"""Group normalization (Wu & He 2018, arXiv:1803.08494)."""

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


class GroupNorm(nn.Module):
  """Normalizes each example over height, width and groups of channels.

  Params `scale` [C] and `bias` [C], in float32, as are the statistics.

  Attributes:
    groups: of neighbouring channels; a net with fewer channels, or with a
      number of them that this does not divide, has the greatest common
      divisor of the two.
    epsilon: added to the variance (torch's default is 1e-5, Flax's 1e-6).
    dtype: of the output; that of the input by default.
  """

  groups: int = 32
  epsilon: float = 1e-6
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalizes x [N, H, W, C]."""
    n, h, w, c = x.shape
    groups = math.gcd(self.groups, c)
    scale = self.param('scale', nn.initializers.ones, (c,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (c,), jnp.float32)
    y = x.astype(jnp.float32)
    # Per channel first: a sum over the fast axes of the image as it lies in
    # memory; the groups meet on [N, C].
    first = jnp.sum(y, (1, 2)).reshape(n, groups, -1)
    mean = jnp.sum(first, -1) / (h * w * (c // groups))  # [N, groups]
    mean = jnp.repeat(mean, c // groups, 1)[:, None, None]
    second = jnp.sum(jnp.square(y - mean), (1, 2)).reshape(n, groups, -1)
    var = jnp.sum(second, -1) / (h * w * (c // groups))
    factor = jnp.repeat(jax.lax.rsqrt(var + self.epsilon), c // groups, 1)
    factor = (factor * scale[None])[:, None, None]
    y = (y - mean) * factor + bias[None, None, None]
    return y.astype(self.dtype or x.dtype)
