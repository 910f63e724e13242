"""EffLP, a perceptual distance that needs no network.

As LPIPS (Zhang et al., 2018, arXiv 1801.03924, equation 1) without learned
heads, on taps of EfficientNet-Lite0, whose weights are installed with the
package:

  d(x, y) = mean_l mean_hw sum_c (x_lhwc/|x_lhw| - y_lhwc/|y_lhw|)^2

It orders noise, blur and compression by their strength and forgives small
shifts, as LPIPS does; like it, it hardly sees brightness. Its values do not
compare with LPIPS.
"""

import jax
from jax import lax
import jax.numpy as jnp

from gans_jax.metrics import efficientnet_lite

# Strides 2, 4, 8, 16 and 32.
TAPS = ('stem', 'block_2', 'block_4', 'block_10', 'block_15')
EPSILON = 1e-6


def distance(variables, x: jax.Array, y: jax.Array,
             depthwise_form: str = 'lax') -> jax.Array:
  """Returns the distances of pairs, float32 [N].

  Args:
    variables: of `efficientnet_lite.EfficientNetLite0`.
    x: float32 [N, H, W, 3] RGB in [-1, 1], at the size to be compared.
    y: the same.
    depthwise_form: 'shifted' on CPU; see `efficientnet_lite.DepthwiseConv`.
  """
  net = efficientnet_lite.EfficientNetLite0(depthwise_form)
  # Interleaved: pairs stay on their device when the batch is split.
  pairs = jnp.stack([x, y], 1).reshape(-1, *x.shape[1:])
  taps = net.apply(variables, 127.5 * (pairs + 1))
  found = []
  for name in TAPS:
    tap = taps[name]
    tap *= lax.rsqrt((tap * tap).sum(-1, keepdims=True) + EPSILON)
    tap = tap.reshape(-1, 2, *tap.shape[1:])
    found.append(((tap[:, 0] - tap[:, 1])**2).sum(-1).mean((1, 2)))
  return jnp.stack(found).mean(0)
