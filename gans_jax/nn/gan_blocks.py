"""Residual blocks that SNGAN, SAGAN and BigGAN share.

A network gives its layers as functions: `conv` makes those of a block's
residual path, `shortcut` that of its skip, `norm` a module called with
(x, condition, train).
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import norm as norm_lib
from gans_jax.nn import resample

Maker = Callable[..., nn.Module]


class Unconditional(nn.Module):
  """Batch normalization that is given a condition and ignores it."""

  momentum: float = 0.9
  epsilon: float = 1e-5
  statistics: str = 'global'

  @nn.compact
  def __call__(self, x: jax.Array, condition, train: bool) -> jax.Array:
    del condition
    return norm_lib.BatchNorm(self.momentum, self.epsilon, name='norm',
                              statistics=self.statistics)(x, train)


class GBlock(nn.Module):
  """BN, ReLU, up, 3x3, BN, ReLU, 3x3, plus up, 1x1 (SNGAN, figure 14).

  Attributes:
    features: output channels.
    norm: makes a normalization.
    conv: makes a 3x3 convolution.
    shortcut: makes the 1x1 convolution.
  """

  features: int
  norm: Maker
  conv: Maker
  shortcut: Maker

  @nn.compact
  def __call__(self, x: jax.Array, condition, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, 2H, 2W, features]."""
    h = nn.relu(self.norm(name='bn1')(x, condition, train))
    h = self.conv(self.features, 3, 'up', name='conv1')(h)
    h = nn.relu(self.norm(name='bn2')(h, condition, train))
    h = self.conv(self.features, 3, name='conv2')(h)
    return h + self.shortcut(self.features, 1, 'up', name='conv_sc')(x)


class DBlock(nn.Module):
  """ReLU, 3x3, ReLU, 3x3, mean pooling, plus 1x1, mean pooling.

  The first block of a discriminator has no ReLU before its first layer. The
  1x1 convolution is missing where channels stay and nothing is pooled.

  Attributes:
    features: output channels.
    hidden: channels between the two convolutions: those of the input ("thin",
      SNGAN) or of the output ("wide", SAGAN, BigGAN).
    conv: makes a 3x3 convolution.
    shortcut: makes the 1x1 convolution.
    first: the first block.
    down: halves the resolution.
    always_shortcut: with `down`, a 1x1 convolution also where channels stay
      (the papers' and the PyTorch code; compare_gan has none there).
  """

  features: int
  hidden: int
  conv: Maker
  shortcut: Maker
  first: bool = False
  down: bool = True
  always_shortcut: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H/2, W/2, features] (or H, W)."""
    scale = 'down' if self.down else 'none'
    h = x if self.first else nn.relu(x)
    h = self.conv(self.hidden, 3, name='conv1')(h)
    h = self.conv(self.features, 3, scale, name='conv2')(nn.relu(h))
    if x.shape[-1] != self.features or (self.down and self.always_shortcut):
      x = self.shortcut(self.features, 1, scale, name='conv_sc')(x)
    elif self.down:
      x = resample.average_pool(x)
    return h + x


def sum_pool(x: jax.Array) -> jax.Array:
  """ReLU, then the sum over positions: [N, H, W, C] -> [N, C] float32.

  The sum, not the mean, in every one of these papers.
  """
  return jnp.sum(nn.relu(x).astype(jnp.float32), (1, 2))


def projection(features: jax.Array, embedding: jax.Array) -> jax.Array:
  """<e(y), h> of each example (Miyato & Koyama 2018, equation 3): [N]."""
  return jnp.sum(features * embedding.astype(jnp.float32), -1)
