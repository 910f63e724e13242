"""Self-attention over feature maps (SAGAN, Zhang et al. 2019, 1805.08318)."""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import spectral_norm


class SelfAttention(nn.Module):
  """The non-local block of the SAGAN code, which BigGAN has too.

    theta = f(x) [HW, C/8], phi = pool(g(x)) [HW/4, C/8],
    h = pool(h(x)) [HW/4, C/2], f, g, h 1x1 convolutions, pool max 2x2
    A = softmax(theta phi') over the HW/4 keys, without scaling
    y = x + gamma o(A h),  gamma a scalar that starts at 0

  No biases; all four convolutions are normalized. The paper's text has values
  of C/8 channels and pools nothing; published numbers are this code's.

  A of each block, [N, HW, HW/4], is left in the collection 'attention' where
  that is mutable.

  Attributes:
    rule: of spectral normalization; None for none.
    kernel_init: initializer of the convolutions.
    dtype: of the computation; the softmax is in float32.
  """

  rule: spectral_norm.Rule | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> the same, H and W even, C at least 8."""
    n, h, w, c = x.shape
    conv = functools.partial(
        spectral_norm.Conv, kernel_size=1, rule=self.rule, use_bias=False,
        kernel_init=self.kernel_init, dtype=self.dtype)

    def keys(y):
      y = nn.max_pool(y, (2, 2), (2, 2))
      return y.reshape(n, h * w // 4, y.shape[-1])

    theta = conv(c // 8, name='theta')(x).reshape(n, h * w, c // 8)
    phi = keys(conv(c // 8, name='phi')(x))
    value = keys(conv(c // 2, name='g')(x))
    scores = jnp.einsum('nqc,nkc->nqk', theta, phi)
    maps = nn.softmax(scores.astype(jnp.float32))
    if not self.is_initializing():  # they are no part of a network's state
      self.sow('attention', 'maps', maps)
    y = jnp.einsum('nqk,nkc->nqc', maps.astype(self.dtype), value)
    y = conv(c, name='o')(y.reshape(n, h, w, c // 2))
    gamma = self.param('gamma', nn.initializers.zeros, (), jnp.float32)
    return x + gamma.astype(self.dtype) * y
