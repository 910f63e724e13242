"""3x3 convolutions with [1, 3, 3, 1] resampling (StyleGAN2, appendix B).

Each is a strided convolution or its transpose, and a blur: exact at the
border, and its derivatives of every order are fast (nn/conv.py).
"""

import jax

from gans_jax.nn import conv
from gans_jax.nn import resample


def conv_up(x: jax.Array, w: jax.Array) -> jax.Array:
  """Doubles an image: transposed convolution of stride 2, then blur of gain 4.

  Equal to upsampling with zeros, a correlation with w flipped in height and
  width (the official networks store it so), and the filter.

  Args:
    x: [N, H, W, I].
    w: [3, 3, I, O].

  Returns:
    [N, 2H, 2W, O].
  """
  y = conv.conv2d_transpose(x, w, 2)  # [N, 2H + 1, 2W + 1, O]
  return resample.blur(y, resample.BINOMIAL, (1, 1), gain=4.0)


def conv_down(x: jax.Array, w: jax.Array) -> jax.Array:
  """Halves an image: blur, then convolution of stride 2.

  Args:
    x: [N, H, W, I].
    w: [3, 3, I, O].

  Returns:
    [N, H/2, W/2, O].
  """
  y = resample.blur(x, resample.BINOMIAL, (2, 2))  # [N, H + 1, W + 1, I]
  return conv.conv2d(y, w, 2, 'VALID')


def conv1x1_down(x: jax.Array, w: jax.Array) -> jax.Array:
  """Halves an image with the filter, then a 1x1 convolution.

  Args:
    x: [N, H, W, I].
    w: [1, 1, I, O].

  Returns:
    [N, H/2, W/2, O].
  """
  return conv.conv2d(resample.downsample2d(x), w)


def conv1x1_up(x: jax.Array, w: jax.Array) -> jax.Array:
  """1x1 convolution, then doubling with the filter.

  Args:
    x: [N, H, W, I].
    w: [1, 1, I, O].

  Returns:
    [N, 2H, 2W, O].
  """
  return resample.upsample2d(conv.conv2d(x, w))
