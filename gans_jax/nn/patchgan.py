"""The discriminator of patches (Isola et al. 2017, pix2pix, arXiv:1611.07004).

Convolutions 4x4, so that each logit judges one patch of the image: 70 x 70
pixels with three layers. As in pytorch-CycleGAN-and-pix2pix and in
taming-transformers.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import conv
from gans_jax.nn import norm

NORMS = ('batch', 'instance', 'none')
SLOPE = 0.2


class Discriminator(nn.Module):
  """Images [N, H, W, C] -> logits of patches [N, h, w, 1], float32.

  Attributes:
    ndf: channels of the first layer; later ones have ndf * min(2^n, 8).
    n_layers: layers of stride 2. A logit sees 16, 34, 70, 142, 286 pixels
      with 1 to 5 of them; 0 is the discriminator of single pixels.
    norm: 'batch' (convolutions before it have no bias), 'instance' (without
      affine parameters) or 'none'.
    bn_scope: whose statistics, see `norm.BatchNorm`.
    dtype: of the computation.
  """

  ndf: int = 64
  n_layers: int = 3
  norm: str = 'batch'
  bn_scope: str = 'global'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    size, padding = (1, 0) if self.n_layers == 0 else (4, 1)
    layer = functools.partial(
        conv.Conv, kernel_size=(size, size), padding=padding,
        kernel_init=nn.initializers.normal(0.02), dtype=self.dtype)

    def wide(n):
      return self.ndf * min(2**n, 8)

    def normalize(x, name):
      if self.norm == 'batch':
        return norm.BatchNorm(scale_init=norm.normal_scale(),
                              statistics=self.bn_scope, name=name)(x, train)
      return instance_norm(x) if self.norm == 'instance' else x

    x = x.astype(self.dtype)
    first = 2 if self.n_layers else 1
    x = nn.leaky_relu(layer(self.ndf, strides=first, name='conv_0')(x), SLOPE)
    last = max(self.n_layers, 1)
    for n in range(1, last + 1):
      x = layer(wide(n), strides=2 if n < last else 1,
                use_bias=self.norm != 'batch', name=f'conv_{n}')(x)
      x = nn.leaky_relu(normalize(x, f'norm_{n}'), SLOPE)
    # Of the pixels' net alone the last layer goes without a bias too.
    bias = self.norm != 'batch' or self.n_layers > 0
    x = layer(1, strides=1, use_bias=bias, name='conv_out')(x)
    return x.astype(jnp.float32)


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
  """Normalizes each channel of each image of x [N, H, W, C], in float32."""
  y = x.astype(jnp.float32)
  y = y - jnp.mean(y, (1, 2), keepdims=True)
  var = jnp.mean(jnp.square(y), (1, 2), keepdims=True)
  return (y * jax.lax.rsqrt(var + epsilon)).astype(x.dtype)


def receptive_field(n_layers: int) -> int:
  """Pixels, along an axis, that a logit depends on."""
  if n_layers == 0:
    return 1
  field = 4 + 3  # The last two layers, of stride 1.
  for _ in range(n_layers):
    field = 2 * field + 2
  return field
