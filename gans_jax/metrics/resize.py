"""The incompatible resizers of the published metrics, as matrices.

The same images, resized differently, move FID by 0.1 to 6.5 (Parmar et al.,
On Aliased Resizing and Surprising Subtleties in GAN Evaluation, 2021,
arXiv 2104.11222), so every metric names the one that it uses:

  tf1         TensorFlow 1 `resize_bilinear`: no half-pixel shift, no
              antialiasing. TTUR, and all of NVIDIA's papers.
  half_pixel  bilinear at half-pixel centres, no antialiasing. pytorch-fid.
  clean       Pillow's bicubic on float images: antialiased, a = -0.5, clipped
              to [0, 255] and not rounded. clean-fid.
  pillow_uint8  the same on the central square of uint8 images, rounded and
              clipped after each axis, to the very integers of Pillow. CMMD.

Each is linear (but for rounding) and separable: an [out, in] matrix per axis,
built in float64.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

MODES = ('tf1', 'half_pixel', 'clean', 'pillow_uint8')

# Pillow's weights of uint8 images are integers, over this power of two.
_PILLOW_BITS = 22


@functools.cache
def matrix(mode: str, size_in: int, size_out: int) -> np.ndarray:
  """Returns the float64 [size_out, size_in] weights of one axis."""
  if mode == 'tf1':
    # float32, as the original: it decides on which side `floor` falls.
    scale = np.float32(size_in) / np.float32(size_out)
    position = np.arange(size_out, dtype=np.float32) * scale
    return _lerp(position.astype(np.float64), size_in)
  if mode == 'half_pixel':
    position = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    return _lerp(np.maximum(position, 0), size_in)
  if mode in ('clean', 'pillow_uint8'):
    return _antialiased_cubic(size_in, size_out)
  raise ValueError(f'unknown resizer {mode!r}; expected one of {MODES}')


def resize(x: jax.Array, size: int, mode: str) -> jax.Array:
  """Resizes to squares.

  Args:
    x: [N, H, W, C], values 0..255 of any dtype; integers for 'pillow_uint8'.
    size: height and width of the result, in pixels.
    mode: one of `MODES`.

  Returns:
    float32 [N, size, size, C]; within [0, 255].
  """
  if mode == 'pillow_uint8':
    return _pillow_uint8(x, size)
  x = x.astype(jnp.float32)
  rows, columns = (
      jnp.asarray(matrix(mode, n, size), jnp.float32) for n in x.shape[1:3])
  # Horizontal first, as Pillow. HIGHEST: the default is bfloat16 on TPU.
  x = jnp.einsum('pw,nhwc->nhpc', columns, x, precision=lax.Precision.HIGHEST)
  x = jnp.einsum('oh,nhpc->nopc', rows, x, precision=lax.Precision.HIGHEST)
  # Bilinear weights are convex and need no clip; it removes rounding only.
  return jnp.clip(x, 0.0, 255.0)


def _pillow_uint8(x: jax.Array, size: int) -> jax.Array:
  """Centre crop and resize, in Pillow's fixed-point arithmetic."""
  height, width = x.shape[1:3]
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  x = x[:, top:top + side, left:left + side].astype(jnp.int32)
  if side == size:
    return x.astype(jnp.float32)
  weights = matrix('pillow_uint8', side, size) * 2**_PILLOW_BITS
  # Halves away from zero, as C rounds.
  weights = jnp.asarray(
      np.trunc(weights + np.copysign(0.5, weights)), jnp.int32)
  for axes in ('pw,nhwc->nhpc', 'oh,nhpc->nopc'):
    x = jnp.einsum(axes, weights, x) + 2**(_PILLOW_BITS - 1)
    x = jnp.clip(x >> _PILLOW_BITS, 0, 255)
  return x.astype(jnp.float32)


def _lerp(position: np.ndarray, size_in: int) -> np.ndarray:
  """Linear interpolation at `position`, in input pixels >= 0."""
  low = np.minimum(position.astype(int), size_in - 1)
  high = np.minimum(low + 1, size_in - 1)
  weight = position - low
  out = np.zeros((len(position), size_in))
  rows = np.arange(len(position))
  np.add.at(out, (rows, low), 1 - weight)
  np.add.at(out, (rows, high), weight)
  return out


def _antialiased_cubic(size_in: int, size_out: int) -> np.ndarray:
  """Pillow's windows: the kernel is stretched when the image shrinks."""
  scale = size_in / size_out
  stretch = max(scale, 1.0)
  out = np.zeros((size_out, size_in))
  for i in range(size_out):
    centre = (i + 0.5) * scale
    low = int(max(0, centre - 2 * stretch + 0.5))
    high = int(min(size_in, centre + 2 * stretch + 0.5))
    weights = _keys((np.arange(low, high) - centre + 0.5) / stretch)
    out[i, low:high] = weights / weights.sum()
  return out


def _keys(t: np.ndarray, a: float = -0.5) -> np.ndarray:
  """Keys' cubic kernel (1981, equation 4) with free parameter `a`."""
  t = np.abs(t)
  near = ((a + 2) * t - (a + 3)) * t * t + 1
  far = (((t - 5) * t + 8) * t - 4) * a
  return np.where(t < 1, near, np.where(t < 2, far, 0.0))
