"""Encoder and decoder of MaskGIT's tokenizer (google-research/maskgit).

Convolutions alone: no attention, average pooling down, nearest upsampling and
a convolution up. Residual blocks have no biases, and where their channels
change, the 1x1 convolution of the shortcut is applied to the block's result,
not to its input, so that the input is lost there: so the code has it, and the
published weights need it.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import conv
from gans_jax.nn import group_norm
from gans_jax.nn import resample
from gans_jax.nn import vqgan_blocks


class ResBlock(nn.Module):
  """[N, H, W, C] -> [N, H, W, features]; see the module."""

  features: int
  groups: int = 32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = x
    for i in (1, 2):
      h = group_norm.GroupNorm(self.groups, swish=True, name=f'norm{i}')(h)
      h = conv.Conv(self.features, (3, 3), use_bias=False, name=f'conv{i}')(h)
    if x.shape[-1] != self.features:
      x = conv.Conv(self.features, (1, 1), use_bias=False, name='shortcut')(h)
    return x + h


class Encoder(nn.Module):
  """Images [N, R, R, C] in [0, 1] -> features [N, R/f, R/f, embed_dim].

  Attributes:
    ch: channels of the first level.
    ch_mult: channels of every level, as multiples of `ch`.
    num_res_blocks: on each level, and after the last.
    embed_dim: of the result, which is float32.
    groups: of the normalization.
    dtype: of the computation.
  """

  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  embed_dim: int
  groups: int = 32
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = conv.Conv(self.ch, (3, 3), use_bias=False, name='conv_in')(
        x.astype(self.dtype or x.dtype))
    for i, multiple in enumerate(self.ch_mult):
      for j in range(self.num_res_blocks):
        x = ResBlock(self.ch * multiple, self.groups,
                     name=f'down_{i}_block_{j}')(x)
      if i < len(self.ch_mult) - 1:
        x = resample.average_pool(x)
    for j in range(self.num_res_blocks):
      x = ResBlock(x.shape[-1], self.groups, name=f'mid_block_{j}')(x)
    x = group_norm.GroupNorm(self.groups, swish=True, name='norm_out')(x)
    x = conv.Conv(self.embed_dim, (1, 1), name='conv_out')(x)
    return x.astype(jnp.float32)


class Decoder(nn.Module):
  """Codes [N, h, w, D] -> (images in [0, 1] or beyond, their layer's input).

  The attributes are those of `Encoder`.

  Attributes:
    out_channels: of the images.
  """

  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  out_channels: int
  groups: int = 32
  dtype: Any = None

  @nn.compact
  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (float32 [N, R, R, out_channels], the input of `conv_out`)."""
    x = conv.Conv(self.ch * self.ch_mult[-1], (3, 3), name='conv_in')(
        z.astype(self.dtype or z.dtype))
    for j in range(self.num_res_blocks):
      x = ResBlock(x.shape[-1], self.groups, name=f'mid_block_{j}')(x)
    for i in reversed(range(len(self.ch_mult))):
      for j in range(self.num_res_blocks):
        x = ResBlock(self.ch * self.ch_mult[i], self.groups,
                     name=f'up_{i}_block_{j}')(x)
      if i:
        x = vqgan_blocks.UpsampledConv(x.shape[-1], name=f'up_{i}_conv')(x)
    x = group_norm.GroupNorm(self.groups, swish=True, name='norm_out')(x)
    image = conv.Conv(self.out_channels, (3, 3), name='conv_out')(x)
    return image.astype(jnp.float32), x
