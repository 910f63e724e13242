"""The convolutional encoder and decoder of VQGAN and of latent diffusion.

Esser, Rombach, Ommer 2021, "Taming Transformers", arXiv:2012.09841, table 7:
the halves of DDPM's U-Net without its skips and without time. Layers bear the
names of the official code, with '_' for its dots (down_0_block_1). Every
convolution has a bias and PyTorch's default initializer; nothing starts at 0.
"""

import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import conv
from gans_jax.nn import group_norm
from gans_jax.nn import resample

EPSILON = 1e-6


def torch_kernel() -> nn.initializers.Initializer:
  """PyTorch's default: U(-b, b) with b = 1 / sqrt(fan_in)."""
  return nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
  """PyTorch's default: U(-b, b) with b = 1 / sqrt(fan_in)."""
  def init(key, shape, dtype=jnp.float32):
    bound = 1.0 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def torch_conv(channels: int, features: int, size: int, dtype: Any = None,
               name: str | None = None) -> conv.Conv:
  """A layer that keeps height and width, initialized as by PyTorch."""
  return conv.Conv(
      features, (size, size), padding=size // 2, dtype=dtype,
      kernel_init=torch_kernel(),
      bias_init=torch_bias(size * size * channels), name=name)


def convolution(x: jax.Array, features: int, size: int, name: str,
                dtype: Any = None) -> jax.Array:
  """Applies such a layer to x [N, H, W, C]."""
  return torch_conv(x.shape[-1], features, size, dtype, name)(x)


class ResBlock(nn.Module):
  """x + conv(swish(norm(conv(swish(norm(x)))))), 3x3.

  A 1x1 convolution fits the shortcut where the channels change.

  Attributes:
    features: output channels.
    groups: of the normalization.
    dtype: of the computation.
  """

  features: int
  groups: int = 32
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, features]."""
    norm = functools.partial(group_norm.GroupNorm, self.groups, EPSILON,
                             swish=True)
    h = norm(name='norm1')(x)
    h = convolution(h, self.features, 3, 'conv1', self.dtype)
    h = norm(name='norm2')(h)
    h = convolution(h, self.features, 3, 'conv2', self.dtype)
    if x.shape[-1] != self.features:
      x = convolution(x, self.features, 1, 'nin_shortcut', self.dtype)
    return x + h


class AttnBlock(nn.Module):
  """x + self-attention of one head over all pixels."""

  groups: int = 32
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    n, height, width, c = x.shape
    h = group_norm.GroupNorm(self.groups, EPSILON, name='norm')(x)
    q, k, v = (
        convolution(h, c, 1, name, self.dtype).reshape(n, height * width, c)
        for name in 'qkv')
    logits = jnp.einsum('nic,njc->nij', q, k) * (c**-0.5)
    weights = jax.nn.softmax(logits.astype(jnp.float32), -1).astype(v.dtype)
    h = jnp.einsum('nij,njc->nic', weights, v).reshape(x.shape)
    return x + convolution(h, c, 1, 'proj_out', self.dtype)


class Downsample(nn.Module):
  """3x3 convolution of stride 2, padded at the bottom and the right alone."""

  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H/2, W/2, C]."""
    c = x.shape[-1]
    return conv.Conv(c, (3, 3), 2, ((0, 1), (0, 1)), dtype=self.dtype,
                     kernel_init=torch_kernel(), bias_init=torch_bias(9 * c),
                     name='conv')(x)


class Upsample(nn.Module):
  """Nearest upsampling and a 3x3 convolution."""

  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, 2H, 2W, C]."""
    c = x.shape[-1]
    return UpsampledConv(c, self.dtype, name='conv')(x)


class UpsampledConv(nn.Module):
  """The two layers of `Upsample` as one; the parameters of the second."""

  features: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = x.shape[-1]
    dtype = self.dtype or x.dtype
    kernel = self.param('kernel', torch_kernel(), (3, 3, c, self.features),
                        jnp.float32)
    bias = self.param('bias', torch_bias(9 * c), (self.features,), jnp.float32)
    y = resample.upsample_conv3x3(x.astype(dtype), kernel.astype(dtype))
    return y + bias[None, None, None].astype(dtype)


class Encoder(nn.Module):
  """Images [N, R, R, C] -> features [N, R/f, R/f, z_channels].

  The downsampling factor f is 2^(levels - 1).

  Attributes:
    ch: channels of the first level.
    ch_mult: channels of every level, as multiples of `ch`.
    num_res_blocks: residual blocks on each level.
    attn_resolutions: sizes of maps whose blocks are followed by attention.
    resolution: size of the images for which those are meant; others are
      taken, and then have attention on the same levels.
    z_channels: of the result.
    groups: of the normalization. Groups of a single channel forget its mean,
      and with it the colours: nets of fewer than 64 channels want fewer.
    dtype: of the computation; the result is float32.
  """

  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  attn_resolutions: tuple[int, ...]
  resolution: int
  z_channels: int
  groups: int = 32
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    size, last = self.resolution, len(self.ch_mult) - 1
    x = convolution(x.astype(self.dtype or x.dtype), self.ch, 3, 'conv_in')
    for i, multiple in enumerate(self.ch_mult):
      for j in range(self.num_res_blocks):
        x = ResBlock(self.ch * multiple, self.groups,
                     name=f'down_{i}_block_{j}')(x)
        if size in self.attn_resolutions:
          x = AttnBlock(self.groups, name=f'down_{i}_attn_{j}')(x)
      if i != last:
        x = Downsample(name=f'down_{i}_downsample')(x)
        size //= 2
    x = middle(x, self.groups)
    x = group_norm.GroupNorm(self.groups, EPSILON, swish=True,
                             name='norm_out')(x)
    x = convolution(x, self.z_channels, 3, 'conv_out')
    return x.astype(jnp.float32)


class Decoder(nn.Module):
  """Features [N, R/f, R/f, z_channels] -> (images, what their layer saw).

  The attributes are those of `Encoder`; levels are numbered as there, so
  that the last one of `ch_mult` comes first.

  Attributes:
    out_channels: of the images, which have no final nonlinearity.
  """

  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  attn_resolutions: tuple[int, ...]
  resolution: int
  out_channels: int
  groups: int = 32
  dtype: Any = None

  @nn.compact
  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (float32 [N, R, R, out_channels], the input of `conv_out`)."""
    size = self.resolution // 2**(len(self.ch_mult) - 1)
    x = convolution(z.astype(self.dtype or z.dtype),
                    self.ch * self.ch_mult[-1], 3, 'conv_in')
    x = middle(x, self.groups)
    for i in reversed(range(len(self.ch_mult))):
      for j in range(self.num_res_blocks + 1):
        x = ResBlock(self.ch * self.ch_mult[i], self.groups,
                     name=f'up_{i}_block_{j}')(x)
        if size in self.attn_resolutions:
          x = AttnBlock(self.groups, name=f'up_{i}_attn_{j}')(x)
      if i:
        x = Upsample(name=f'up_{i}_upsample')(x)
        size *= 2
    x = group_norm.GroupNorm(self.groups, EPSILON, swish=True,
                             name='norm_out')(x)
    image = convolution(x, self.out_channels, 3, 'conv_out')
    return image.astype(jnp.float32), x


def middle(x: jax.Array, groups: int) -> jax.Array:
  """Residual block, attention, residual block, on the smallest map."""
  x = ResBlock(x.shape[-1], groups, name='mid_block_1')(x)
  x = AttnBlock(groups, name='mid_attn_1')(x)
  return ResBlock(x.shape[-1], groups, name='mid_block_2')(x)
