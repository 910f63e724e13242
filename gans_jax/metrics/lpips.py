"""LPIPS, the perceptual distance between two images.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric, 2018, arXiv 1801.03924, version 0.1 with linear heads:

  d(x, y) = sum_l mean_hw sum_c w_lc (x_lhwc/|x_lhw| - y_lhwc/|y_lhw|)^2

over the taps l of a frozen trunk. The paper and most reports use AlexNet;
losses, PPL and the StyleGAN papers use VGG16. The two do not compare: results
name the trunk.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gans_jax.metrics import alexnet
from gans_jax.metrics import vgg

TRUNKS = {'vgg': vgg.Trunk, 'alex': alexnet.Trunk}

_EPSILON = 1e-10


class LPIPS(nn.Module):
  """The distance; weights come from `convert.lpips.load_lpips`.

  Attributes:
    trunk: 'vgg' or 'alex'.
  """

  trunk: str

  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the distances of pairs, float32 [N].

    Differentiable everywhere, equal images and dead features included.

    Args:
      x: float32 [N, H, W, 3] RGB in [-1, 1], at the size to be compared.
      y: the same.
    """
    return self.per_tap(x, y).sum(-1)

  @nn.compact
  def per_tap(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns what each of the five taps adds, float32 [N, 5]."""
    mean, std = (jnp.array(v)[None, None, None] for v in (vgg.MEAN, vgg.STD))
    # Interleaved: pairs stay on their device when the batch is split.
    pairs = jnp.stack([x, y], 1).reshape(-1, *x.shape[1:])
    taps = TRUNKS[self.trunk](name='trunk')(((pairs + 1) / 2 - mean) / std)
    found = []
    for i, tap in enumerate(taps):
      w = self.param(f'head_{i}', nn.initializers.ones, tap.shape[-1:])
      tap = unit(tap).reshape(-1, 2, *tap.shape[1:])
      squared = (tap[:, 0] - tap[:, 1]) ** 2
      found.append((squared * w[None, None, None]).sum(-1).mean((1, 2)))
    return jnp.stack(found, -1)


def unit(x: jax.Array) -> jax.Array:
  """x / (|x| + epsilon) over channels, with a gradient of 0 at x = 0."""
  squared = (x * x).sum(-1, keepdims=True)
  # Twice `where`: the root's infinite slope at 0 must not meet a zero.
  positive = squared > 0
  norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
  return x / (norm + _EPSILON)
