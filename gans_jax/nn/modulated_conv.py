"""Convolutions modulated by a style (Karras et al. 2020, StyleGAN2, 2.2).

Equations 1 to 3 make a kernel for each example,

  w'_ijk = s_i w_ijk,    w''_ijk = w'_ijk / sqrt(sum_ik w'_ijk^2 + 1e-8),

s_i the style of input channel i. One kernel for the whole batch does the same:
inputs are multiplied by s_i, outputs by the demodulation d_j, the inverse
root. This is 3 to 20 times faster than a kernel each. Styles and demodulation
are float32 whatever the convolution computes in.
"""

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import conv
from gans_jax.nn import equalized
from gans_jax.nn import fir


def demodulation(w: jax.Array, styles: jax.Array,
                 epsilon: float = 1e-8) -> jax.Array:
  """Returns d [N, O] = (sum_ik (s_i w_ijk)^2 + epsilon)^(-1/2), eq. 3.

  Args:
    w: [k, k, I, O].
    styles: [N, I].
    epsilon: keeps a dead style finite.
  """
  energy = jnp.square(styles) @ jnp.sum(jnp.square(w), (0, 1))
  return jax.lax.rsqrt(energy + epsilon)


def modulated_conv2d(x: jax.Array, w: jax.Array, styles: jax.Array,
                     demodulate: bool = True,
                     function: equalized.Convolution = conv.conv2d
                     ) -> jax.Array:
  """Convolution with a kernel scaled by each example's style.

  Args:
    x: [N, H, W, I]; its type is that of the computation.
    w: [k, k, I, O] float32. Demodulated, its scale does not matter.
    styles: [N, I] float32.
    demodulate: normalize the kernels (equation 3).
    function: the convolution, perhaps one that resamples.

  Returns:
    [N, h, w, O].
  """
  def per_channel(scales):
    return scales[:, None, None, :].astype(x.dtype)

  y = function(x * per_channel(styles), w.astype(x.dtype))
  return y * per_channel(demodulation(w, styles)) if demodulate else y


class StyledConv(nn.Module):
  """Modulated 3x3 convolution, noise, bias, leaky ReLU (figure 2c).

  Params `kernel` [3, 3, I, features], `bias`, `noise_strength` [], and the
  dense layer `affine` from w to the styles. The kernel has no run-time scale:
  demodulation would cancel it.

  Attributes:
    features: output channels.
    up: doubles the resolution.
    gain: of the activation, sqrt(2) by itself.
    clamp: bound of the outputs; None for none.
    dtype: of the convolution and of the output.
  """

  features: int
  up: bool = False
  gain: float = equalized.SQRT2
  clamp: float | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, w: jax.Array,
               noise: jax.Array | None) -> jax.Array:
    """x [N, H, W, I], w [N, C], noise [N, h, w, 1] -> [N, h, w, features]."""
    channels = x.shape[-1]
    styles = equalized.EqualizedDense(channels, bias_init=1.0,
                                      name='affine')(w)
    kernel = self.param('kernel', equalized.normal(),
                        (3, 3, channels, self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,),
                      jnp.float32)
    strength = self.param('noise_strength', nn.initializers.zeros, (),
                          jnp.float32)
    x = modulated_conv2d(x.astype(self.dtype), kernel, styles,
                         function=fir.conv_up if self.up else conv.conv2d)
    if noise is not None:
      x = x + (noise * strength).astype(self.dtype)
    x = x + bias.reshape(1, 1, 1, -1).astype(self.dtype)
    return equalized.leaky_relu(x, self.gain, self.clamp)


class ToRGB(nn.Module):
  """Modulated 1x1 convolution without demodulation, and a bias; linear.

  Params `kernel` [1, 1, I, features], `bias`, `affine`. Equalized: the scale
  1/sqrt(I) is applied to the styles.

  Attributes:
    features: channels of the image.
    clamp: bound of the outputs; None for none.
    dtype: of the convolution; the output is float32.
  """

  features: int
  clamp: float | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
    """x [N, H, W, I], w [N, C] -> float32 [N, H, W, features]."""
    channels = x.shape[-1]
    styles = equalized.EqualizedDense(channels, bias_init=1.0,
                                      name='affine')(w)
    kernel = self.param('kernel', equalized.normal(),
                        (1, 1, channels, self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,),
                      jnp.float32)
    x = modulated_conv2d(x.astype(self.dtype), kernel,
                         styles / math.sqrt(channels), demodulate=False)
    x = x + bias.reshape(1, 1, 1, -1).astype(self.dtype)
    if self.clamp is not None:
      x = jnp.clip(x, -self.clamp, self.clamp)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
