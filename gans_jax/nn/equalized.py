"""Layers with equalized learning rate (Karras et al. 2018, ProGAN, 4.1).

Weights are stored as N(0, 1) / m and multiplied at run time by

  gain * m / sqrt(fan_in),    fan_in = k * k * C_in

so that Adam, whose steps do not depend on the scale of a gradient, moves
every layer by the same fraction of its weights. m is the learning rate
multiplier (StyleGAN: 0.01 in the mapping network), which scales the steps;
biases are stored as they start and multiplied by m.

Two conventions of the same layer:
  ProGAN, StyleGAN: gain sqrt(2), and a plain leaky ReLU after it; gain 1
    where no activation follows.
  StyleGAN2: gain 1, and sqrt(2) after the leaky ReLU (`leaky_relu`).
"""

from collections.abc import Callable
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import conv

# (x [N, H, W, C], kernel [k, k, C, O]) -> [N, h, w, O].
Convolution = Callable[[jax.Array, jax.Array], jax.Array]

SLOPE = 0.2
SQRT2 = math.sqrt(2.0)


def leaky_relu(x: jax.Array, gain: float = SQRT2,
               clamp: float | None = None) -> jax.Array:
  """Leaky ReLU of slope 0.2, times `gain`, clipped to [-clamp, clamp].

  StyleGAN2's activation: sqrt(2) keeps the second moment of a normal input
  about as it was. `gain` 1 without `clamp` is ProGAN's.
  """
  x = nn.leaky_relu(x, SLOPE)
  x = x * gain if gain != 1 else x
  return x if clamp is None else jnp.clip(x, -clamp, clamp)


def normal(lr_multiplier: float = 1.0) -> nn.initializers.Initializer:
  """N(0, 1) / lr_multiplier: the stored weights."""
  return nn.initializers.normal(1.0 / lr_multiplier)


def kernel(layer: nn.Module, shape: tuple[int, ...], gain: float = 1.0,
           lr_multiplier: float = 1.0, equalized: bool = True) -> jax.Array:
  """Makes the parameter `kernel` of a layer; returns it scaled, in float32.

  Args:
    layer: the module that owns it.
    shape: [..., outputs].
    gain: of the weights.
    lr_multiplier: m of the module docstring.
    equalized: False stores the weights as they start, N(0, gain^2 / fan_in)
      (divided by m): He's initialization.
  """
  factor = scale(math.prod(shape[:-1]), gain, lr_multiplier)
  init = normal(lr_multiplier)
  if not equalized:
    init = nn.initializers.normal(factor / lr_multiplier**2)
    factor = lr_multiplier
  w = layer.param('kernel', init, shape, jnp.float32)
  return w if factor == 1 else w * factor


def scale(fan_in: int, gain: float = 1.0, lr_multiplier: float = 1.0) -> float:
  """The factor of stored weights, a Python float."""
  return float(gain) * float(lr_multiplier) / math.sqrt(fan_in)


class EqualizedDense(nn.Module):
  """Dense layer: params `kernel` [C, features] and `bias` [features].

  Attributes:
    features: outputs.
    gain: of the weights; sqrt(2) is He's for a plain ReLU.
    lr_multiplier: m of the module docstring.
    use_bias: adds a bias.
    bias_init: value at which the stored bias starts.
    dtype: of the computation and of the output; the input's if None.
    equalized: False: no equalized learning rate, see `kernel`.
  """

  features: int
  gain: float = 1.0
  lr_multiplier: float = 1.0
  use_bias: bool = True
  bias_init: float = 0.0
  dtype: Any = None
  equalized: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., C] -> [..., features]."""
    dtype = self.dtype or x.dtype
    w = kernel(self, (x.shape[-1], self.features), self.gain,
               self.lr_multiplier, self.equalized)
    y = x.astype(dtype) @ w.astype(dtype)
    return _add_bias(self, y) if self.use_bias else y


class EqualizedConv(nn.Module):
  """Convolution layer: params `kernel` [k, k, C, features] and `bias`.

  Attributes:
    features: output channels.
    kernel: height and width of the kernel.
    function: what is done with the image and the scaled kernel: by default
      the convolution that keeps the size, else one with resampling, such as
      `resample.upsample_conv3x3` or `fir.conv_down`.
    gain, lr_multiplier, use_bias, bias_init, dtype, equalized: as in
      `EqualizedDense`.
  """

  features: int
  kernel: int
  function: Convolution = conv.conv2d
  gain: float = 1.0
  lr_multiplier: float = 1.0
  use_bias: bool = True
  bias_init: float = 0.0
  dtype: Any = None
  equalized: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, h, w, features]."""
    dtype = self.dtype or x.dtype
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    w = kernel(self, shape, self.gain, self.lr_multiplier, self.equalized)
    y = self.function(x.astype(dtype), w.astype(dtype))
    return _add_bias(self, y) if self.use_bias else y


def _add_bias(layer: nn.Module, y: jax.Array) -> jax.Array:
  bias = layer.param('bias', nn.initializers.constant(layer.bias_init),
                     (layer.features,), jnp.float32)
  if layer.lr_multiplier != 1:
    bias = bias * layer.lr_multiplier
  return y + bias.reshape(*[1] * (y.ndim - 1), -1).astype(y.dtype)
