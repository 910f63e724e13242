"""Normalization of feature maps: batch, conditional batch, layer.

Statistics, running averages and parameters are float32 whatever the network
computes in.
"""

from collections.abc import Callable
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.core import errors

Initializer = Callable[..., jax.Array]


def normal_scale(stddev: float = 0.02) -> Initializer:
  """Initializer N(1, stddev^2) of scales (DCGAN's reference codes)."""
  def init(key, shape, dtype=jnp.float32):
    return 1.0 + stddev * jax.random.normal(key, shape, dtype)

  return init


def check_scope(key: str, scope: str) -> None:
  """Refuses a value of `BatchNorm.statistics`; `key` is the config's."""
  kind, _, size = scope.partition(':')
  if scope in ('global', 'device') or (
      kind == 'group' and size.isdigit() and int(size) > 0):
    return
  raise errors.UserError(
      f"config.{key} is {scope!r}, expected 'global' (statistics over the "
      "whole batch), 'device' (over each device's part) or 'group:K' (over "
      'groups of K examples).')


class BatchNorm(nn.Module):
  """Batch normalization (Ioffe & Szegedy 2015), PyTorch's conventions.

  Over a batch that is split over devices, the statistics are those of the
  whole batch: one all-reduce of the two moments. `statistics` asks for less.

  The running variance is the unbiased one, as in PyTorch; Flax's is biased.

  Where the collection 'moments' is mutable, `train` also leaves there, under
  the names of 'batch_stats', the mean and the biased variance that it has
  normalized by (core/standing_statistics.py).

  Attributes:
    momentum: weight of the old running average (PyTorch's is the other one:
      its 0.1 is 0.9 here).
    epsilon: added to the variance.
    use_scale: learn a scale per channel.
    use_bias: learn an offset per channel.
    scale_init: initializer of the scale.
    statistics: 'global', 'device', or 'group:K' for groups of K examples of
      successive rows (cross-replica groups when a device holds fewer).
      Running averages take the mean over the groups.
    dtype: of the output; that of the input by default.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  scale_init: Initializer = nn.initializers.ones
  statistics: str = 'global'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalizes the last axis of x [N, ..., C].

    Args:
      x: activations.
      train: use the statistics of x, and move the running averages (when the
        collection 'batch_stats' is mutable); otherwise use the latter.
    """
    channels = x.shape[-1]
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,))
    running_var = self.variable('batch_stats', 'var', jnp.ones, (channels,))
    y = x.astype(jnp.float32)
    if train:
      groups = self._groups(x.shape[0])
      y = y.reshape(groups, x.shape[0] // groups, *x.shape[1:])
      axes = tuple(range(1, y.ndim - 1))
      # Two moments rather than a mean and then deviations from it: across
      # devices that would be two all-reduces, one after the other.
      mean = jnp.mean(y, axes)
      var = jnp.maximum(jnp.mean(jnp.square(y), axes) - jnp.square(mean), 0.0)
      if self.is_mutable_collection('batch_stats') and (
          not self.is_initializing()):
        count = math.prod(y.shape[1:-1])
        unbiased = var * (count / max(count - 1, 1))
        for average, new in ((running_mean, mean), (running_var, unbiased)):
          average.value = (self.momentum * average.value
                           + (1 - self.momentum) * jnp.mean(new, 0))
      if self.is_mutable_collection('moments') and not self.is_initializing():
        self.put_variable('moments', 'mean', jnp.mean(mean, 0))
        self.put_variable('moments', 'var', jnp.mean(var, 0))
    else:
      mean, var = running_mean.value, running_var.value
    shape = (-1, *[1] * (y.ndim - 2), channels) if train else (
        *[1] * (y.ndim - 1), channels)
    factor = jax.lax.rsqrt(var + self.epsilon)
    if self.use_scale:
      scale = self.param('scale', self.scale_init, (channels,), jnp.float32)
      factor = factor * jnp.broadcast_to(scale, factor.shape)
    y = (y - mean.reshape(shape)) * factor.reshape(shape)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (channels,),
                        jnp.float32)
      y = y + bias.reshape(*[1] * (y.ndim - 1), channels)
    return y.reshape(x.shape).astype(self.dtype or x.dtype)

  def _groups(self, batch: int) -> int:
    if self.statistics == 'global' or self.is_initializing():
      return 1
    if self.statistics == 'device':
      mesh = jax.sharding.get_abstract_mesh()
      groups = 1 if mesh.empty else mesh.shape.get('data', 1)
    else:
      size = int(self.statistics.partition(':')[2])
      groups = batch // size if batch % size == 0 else 0
    if groups < 1 or batch % groups:
      raise errors.UserError(
          f'Batch normalization with bn_scope={self.statistics!r} cannot split '
          f'{batch} examples into equal groups. Change bn_scope, the batch '
          'size or the microbatches.')
    return groups


class ConditionalBatchNorm(nn.Module):
  """Batch normalization with a scale and an offset for each class.

  Dumoulin et al. 2017, "A Learned Representation for Artistic Style".

  Attributes:
    num_classes: rows of the two tables; scales start at 1, offsets at 0.
    momentum, epsilon, statistics, dtype: as in `BatchNorm`.
  """

  num_classes: int
  momentum: float = 0.9
  epsilon: float = 1e-5
  statistics: str = 'global'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, labels: jax.Array,
               train: bool) -> jax.Array:
    """Normalizes x [N, ..., C] by labels [N] in 0..num_classes-1."""
    channels = x.shape[-1]
    y = BatchNorm(self.momentum, self.epsilon, use_scale=False,
                  use_bias=False, statistics=self.statistics, dtype=jnp.float32,
                  name='norm')(x, train)
    tables = [self.param(name, init, (self.num_classes, channels), jnp.float32)
              for name, init in (('scale', nn.initializers.ones),
                                 ('bias', nn.initializers.zeros))]
    scale, bias = (t[labels].reshape(-1, *[1] * (x.ndim - 2), channels)
                   for t in tables)
    return (y * scale + bias).astype(self.dtype or x.dtype)


class LayerNorm(nn.Module):
  """Layer normalization of feature maps (Ba et al. 2016), as WGAN-GP uses it.

  Statistics of each example over height, width and channels; the affine part
  is per channel. Examples do not meet, so a gradient penalty per example
  keeps its meaning.

  Attributes:
    epsilon: added to the variance; Flax's own default is 1e-6.
    dtype: of the output; that of the input by default.
  """

  epsilon: float = 1e-5
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalizes x [N, ..., C]."""
    channels = x.shape[-1]
    shape = (*[1] * (x.ndim - 1), channels)
    axes = tuple(range(1, x.ndim))
    scale = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axes, keepdims=True)
    var = jnp.mean(jnp.square(y), axes, keepdims=True)
    y = y * jax.lax.rsqrt(var + self.epsilon)
    y = y * scale.reshape(shape) + bias.reshape(shape)
    return y.astype(self.dtype or x.dtype)
