"""Resampling with FIR filters, and exact cheaper forms of two common layers.

`upfirdn2d` is the operation of that name in stylegan2-ada-pytorch for
separable filters: insert zeros, pad, convolve, decimate.  Three equal
implementations serve platforms that want opposite things:

  'shift'  weighted sums of strided slices, polyphase where it upsamples: no
           convolution at all.  Tens of times faster than a depthwise
           convolution on CPU, and one fused loop on GPU.
  'dw1d'   two 1-D depthwise convolutions: the cheapest on TPU.
  'mm'     two products with a banded matrix: close to it on TPU.

'auto' takes 'dw1d' on TPU and 'shift' elsewhere.  All filters are Python
floats: a NumPy float64 constant would turn bfloat16 images to float32.
"""

from collections.abc import Sequence
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import mesh
from gans_jax.nn import conv

Taps = Sequence[float]
Pair = tuple[int, int]

IMPLEMENTATIONS = ('auto', 'shift', 'dw1d', 'mm')

# The binomial filter of StyleGAN and StyleGAN2, before normalization.
BINOMIAL = (1.0, 3.0, 3.0, 1.0)


def normalized(taps: Taps) -> tuple[float, ...]:
  """Taps divided by their sum, as Python floats."""
  total = float(sum(taps))
  return tuple(float(tap) / total for tap in taps)


def choose(implementation: str = 'auto') -> str:
  """The implementation that 'auto' stands for on the current platform.

  The platform is that of the mesh in force (`jax.set_mesh`), which may be of
  a machine that is only compiled for, else that of the default backend.

  Raises:
    ValueError: an unknown name.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'implementation {implementation!r} is none of '
                     f'{", ".join(IMPLEMENTATIONS)}')
  if implementation != 'auto':
    return implementation
  return 'dw1d' if mesh.platform() == 'tpu' else 'shift'


def upfirdn2d(x: jax.Array, filter1d: Taps | tuple[Taps, Taps],
              up: int | Pair = 1, down: int | Pair = 1,
              padding: int | Sequence[Sequence[int]] | Pair = 0,
              gain: float = 1.0, implementation: str = 'auto') -> jax.Array:
  """Upsamples with zeros, pads, convolves with a separable filter, decimates.

  Along each axis, with L pixels, K taps f and padding (low, high): pixel m of
  x goes to position low + up*m of a line of zeros of length
  up*L + low + high, and

    y[q] = sum_j f[j] line[q*down + K - 1 - j]     (f is flipped: convolution)

  Args:
    x: [N, H, W, C] float.
    filter1d: taps for both axes, or a pair (taps along H, taps along W); used
      as given, not normalized.
    up: zeros are inserted to this factor; one int or one for each axis.
    down: keeps every `down`-th pixel, the first one included.
    padding: zeros around the upsampled image: an int, (low, high) for both
      axes, or ((low, high), (low, high)).  Negative padding crops.
    gain: multiplies the result.
    implementation: 'auto', 'shift', 'dw1d' or 'mm'.

  Returns:
    [N, h, w, C] in the type of x, h = floor((up*H + low + high - K)/down) + 1.

  Raises:
    ValueError: an unknown implementation, or a result without pixels.
  """
  implementation = choose(implementation)
  rows, columns = (filter1d if isinstance(filter1d[0], Sequence | np.ndarray)
                   else (filter1d, filter1d))
  ups, downs = _pair(up), _pair(down)
  pads = ((padding, padding) if isinstance(padding, int) else tuple(padding))
  if isinstance(pads[0], int):
    pads = (pads, pads)
  # The gain goes into one filter, where it costs nothing.
  plans = [(1, tuple(float(tap) * float(gain) for tap in rows)),
           (2, tuple(float(tap) for tap in columns))]
  for axis, taps in plans:
    s, d, (low, high) = ups[axis - 1], downs[axis - 1], pads[axis - 1]
    size = (s * x.shape[axis] + low + high - len(taps)) // d + 1
    if size < 1:
      raise ValueError(f'{len(taps)} taps do not fit in {x.shape} along axis '
                       f'{axis} with up {s} and padding {(low, high)}')
    x = _AXIS[implementation](x, axis, taps, s, d, low, size)
  return x


def _pair(value: int | Pair) -> Pair:
  return (value, value) if isinstance(value, int) else tuple(value)


def _shift(x, axis, taps, up, down, low, size):
  """Polyphase sum of slices.

  y[q] reads x at (q*down + K-1-j - low)/up for the taps j where that is whole.
  With q = phases*m + a this is m*stride + a constant of the phase a and of j.
  """
  common = math.gcd(up, down)
  phases, stride = up // common, down // common
  count = -(-size // phases)
  # For each phase: (offset in x, tap).
  reads = [[] for _ in range(phases)]
  for a in range(phases):
    for j, tap in enumerate(taps):
      offset, rest = divmod(a * down + len(taps) - 1 - j - low, up)
      if rest == 0 and tap:
        reads[a].append((offset, tap))
  offsets = [offset for read in reads for offset, _ in read] or [0]
  first = min(offsets)
  span = max(offsets) - first + (count - 1) * stride + 1
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (-first, span + first - x.shape[axis], 0)
  x = lax.pad(x, jnp.zeros((), x.dtype), config)

  def read_phase(read):
    total = None
    for offset, tap in read:
      start = offset - first
      piece = tap * lax.slice_in_dim(
          x, start, start + (count - 1) * stride + 1, stride, axis)
      total = piece if total is None else total + piece
    if total is None:
      shape = x.shape[:axis] + (count,) + x.shape[axis + 1:]
      return jnp.zeros(shape, x.dtype)
    return total

  if phases == 1:
    return read_phase(reads[0])
  y = jnp.stack([read_phase(read) for read in reads], axis + 1)
  y = jnp.reshape(y, y.shape[:axis] + (count * phases,) + y.shape[axis + 2:])
  return lax.slice_in_dim(y, 0, size, axis=axis)


def _depthwise(x, axis, taps, up, down, low, size):
  """1-D depthwise convolution."""
  channels = x.shape[-1]
  # `lax` correlates, hence the flip.
  shape = (-1, 1, 1, 1) if axis == 1 else (1, -1, 1, 1)
  kernel = np.repeat(np.reshape(taps[::-1], shape), channels, axis=3)
  kernel = jnp.asarray(kernel, x.dtype)
  high = (size - 1) * down + len(taps) - (x.shape[axis] - 1) * up - 1 - low

  def along(value, other):
    return (value, other) if axis == 1 else (other, value)

  return lax.conv_general_dilated(
      x, kernel, along(down, 1), along((low, high), (0, 0)),
      lhs_dilation=along(up, 1), dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=channels)


def _matmul(x, axis, taps, up, down, low, size):
  """Product with the banded matrix of the whole operation."""
  matrix = np.zeros((size, x.shape[axis]))
  for q in range(size):
    for j, tap in enumerate(taps):
      m, rest = divmod(q * down + len(taps) - 1 - j - low, up)
      if rest == 0 and 0 <= m < x.shape[axis]:
        matrix[q, m] = tap
  subscripts = 'oh,nhwc->nowc' if axis == 1 else 'ow,nhwc->nhoc'
  return jnp.einsum(subscripts, jnp.asarray(matrix, x.dtype), x)


_AXIS = {'shift': _shift, 'dw1d': _depthwise, 'mm': _matmul}


def blur(x: jax.Array, filter1d: Taps, padding: int | Pair | None = None,
         gain: float = 1.0, implementation: str = 'auto') -> jax.Array:
  """Low-pass filter with normalized taps.

  Args:
    x: [N, H, W, C].
    filter1d: taps; divided by their sum.
    padding: as in `upfirdn2d`; None keeps the size, the odd pixel of an even
      filter padded at the low end as in the official code.
    gain: multiplies the result.
    implementation: as in `upfirdn2d`.
  """
  taps = normalized(filter1d)
  if padding is None:
    padding = (len(taps) // 2, (len(taps) - 1) // 2)
  return upfirdn2d(x, taps, padding=padding, gain=gain,
                   implementation=implementation)


def upsample2d(x: jax.Array, filter1d: Taps = BINOMIAL, factor: int = 2,
               gain: float = 1.0, implementation: str = 'auto') -> jax.Array:
  """Upsamples so that a constant image stays constant (borders aside).

  As `upsample2d` of stylegan2-ada-pytorch with padding 0.

  Args:
    x: [N, H, W, C].
    filter1d: taps; divided by their sum.
    factor: enlargement.
    gain: multiplies the result, on top of the factor**2 that makes up for the
      inserted zeros.
    implementation: as in `upfirdn2d`.

  Returns:
    [N, factor*H, factor*W, C].
  """
  taps = normalized(filter1d)
  padding = ((len(taps) + factor - 1) // 2, (len(taps) - factor) // 2)
  return upfirdn2d(x, taps, up=factor, padding=padding,
                   gain=gain * factor**2, implementation=implementation)


def downsample2d(x: jax.Array, filter1d: Taps = BINOMIAL, factor: int = 2,
                 gain: float = 1.0, implementation: str = 'auto') -> jax.Array:
  """Filters and keeps every `factor`-th pixel.

  As `downsample2d` of stylegan2-ada-pytorch with padding 0.

  Args:
    x: [N, H, W, C].
    filter1d: taps; divided by their sum.
    factor: reduction.
    gain: multiplies the result.
    implementation: as in `upfirdn2d`.

  Returns:
    [N, H/factor, W/factor, C].
  """
  taps = normalized(filter1d)
  padding = ((len(taps) - factor + 1) // 2, (len(taps) - factor) // 2)
  return upfirdn2d(x, taps, down=factor, padding=padding, gain=gain,
                   implementation=implementation)


def upsample_skip(x: jax.Array) -> jax.Array:
  """Doubles an image with [1, 3, 3, 1]: the RGB skip path of StyleGAN2.

  Along each axis, with zeros outside the image,

    y[2q] = x[q-1]/4 + 3 x[q]/4,    y[2q+1] = 3 x[q]/4 + x[q+1]/4

  Equal to `upsample2d`, but polyphase on every platform: three channels are
  too few for a depthwise convolution anywhere.

  Args:
    x: [N, H, W, C].

  Returns:
    [N, 2H, 2W, C].
  """
  return upsample2d(x, BINOMIAL, implementation='shift')


def nearest_upsample(x: jax.Array, factor: int = 2) -> jax.Array:
  """Repeats pixels: [N, H, W, C] -> [N, factor*H, factor*W, C]."""
  n, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None, :], (n, h, factor, w, factor, c))
  return jnp.reshape(x, (n, factor * h, factor * w, c))


def average_pool(x: jax.Array, factor: int = 2) -> jax.Array:
  """Mean over blocks of pixels: [N, H, W, C] -> [N, H/factor, W/factor, C].

  Raises:
    ValueError: H or W is not a multiple of the factor.
  """
  n, h, w, c = x.shape
  _check_multiple(x, factor)
  x = jnp.reshape(x, (n, h // factor, factor, w // factor, factor, c))
  return jnp.mean(x, (2, 4))


def _check_multiple(x, factor):
  if x.shape[1] % factor or x.shape[2] % factor:
    raise ValueError(f'height and width of {x.shape} are not multiples of '
                     f'{factor}')


def _check_kernel(w, size):
  if w.shape[:2] != (size, size):
    raise ValueError(f'a kernel [{size}, {size}, I, O] was expected, not '
                     f'{w.shape}')


def upsample_conv3x3(x: jax.Array, w: jax.Array,
                     precision: lax.PrecisionLike = None) -> jax.Array:
  """Nearest upsampling by 2 and a 3x3 convolution, in 4/9 of the FLOPs.

  Three neighbouring taps on a doubled image see two pixels of the small one,
  so each of the 2x2 phases of the result is a 2x2 convolution on the small
  image whose taps are sums: along one axis

    y[2q]   = w[0] x[q-1] + (w[1] + w[2]) x[q]
    y[2q+1] = (w[0] + w[1]) x[q] + w[2] x[q+1]

  Exact up to rounding, borders included (padding 1 on the large image).

  Args:
    x: [N, H, W, I].
    w: [3, 3, I, O], the kernel of the plain form.
    precision: as in `lax.conv_general_dilated`.

  Returns:
    [N, 2H, 2W, O].
  """
  _check_kernel(w, 3)
  # Kernels of even and odd pixels reach one pixel back and one ahead.
  reach = ((1, 0), (0, 1))
  rows = []
  for a, half in enumerate(_phase_kernels(w, 0)):
    row = [conv.conv2d(x, kernel, 1, (reach[a], reach[b]), precision=precision)
           for b, kernel in enumerate(_phase_kernels(half, 1))]
    rows.append(jnp.stack(row, 3))  # [N, H, W, 2, O]
  n, h, width, _, c = rows[0].shape
  return jnp.reshape(jnp.stack(rows, 2), (n, 2 * h, 2 * width, c))


def _phase_kernels(w, axis):
  """Kernels of the even and of the odd pixels along one axis, of two taps."""
  first, middle, last = jnp.split(w, 3, axis)
  return (jnp.concatenate([first, middle + last], axis),
          jnp.concatenate([first + middle, last], axis))


def conv3x3_downsample(x: jax.Array, w: jax.Array,
                       precision: lax.PrecisionLike = None) -> jax.Array:
  """3x3 convolution and average pooling by 2, in 4/9 of the FLOPs.

  The mean of four neighbouring outputs is one 4x4 convolution of stride 2,
  with the mean of the kernel's four shifted copies as its kernel.  Exact up to
  rounding, borders included (padding 1 before pooling).

  Args:
    x: [N, H, W, I], H and W even.
    w: [3, 3, I, O], the kernel of the plain form.
    precision: as in `lax.conv_general_dilated`.

  Returns:
    [N, H/2, W/2, O].

  Raises:
    ValueError: odd height or width, or a kernel that is not 3x3.
  """
  _check_kernel(w, 3)
  _check_multiple(x, 2)
  for axis in (0, 1):
    before = [(0, 0)] * 4
    after = [(0, 0)] * 4
    before[axis], after[axis] = (1, 0), (0, 1)
    w = 0.5 * (jnp.pad(w, before) + jnp.pad(w, after))
  return conv.conv2d(x, w, 2, 1, precision=precision)


def upsample_conv1x1(x: jax.Array, w: jax.Array,
                     precision: lax.PrecisionLike = None) -> jax.Array:
  """Nearest upsampling by 2 and a 1x1 convolution, in 1/4 of the FLOPs.

  Args:
    x: [N, H, W, I].
    w: [1, 1, I, O].
    precision: as in `lax.conv_general_dilated`.

  Returns:
    [N, 2H, 2W, O].
  """
  _check_kernel(w, 1)
  return nearest_upsample(conv.conv2d(x, w, precision=precision))


def conv1x1_downsample(x: jax.Array, w: jax.Array,
                       precision: lax.PrecisionLike = None) -> jax.Array:
  """1x1 convolution and average pooling by 2, in 1/4 of the FLOPs.

  Args:
    x: [N, H, W, I], H and W even.
    w: [1, 1, I, O].
    precision: as in `lax.conv_general_dilated`.

  Returns:
    [N, H/2, W/2, O].
  """
  _check_kernel(w, 1)
  return conv.conv2d(average_pool(x), w, precision=precision)
