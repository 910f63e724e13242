"""Convolutions whose gradients of every order are again fast convolutions.

A convolution with image x [N, H, W, G*I], kernel w [kh, kw, I, G*O] and output
y [N, h, w, G*O] (G feature groups, stride s, low padding p) is the trilinear
form

  sum_{n,o,t} <x[n, s*o + t - p], w[t], y[n, o]>

and therefore comes with three bilinear maps, one for each array left out:

  F(x, w)[o] = sum_t x[s*o + t - p] w[t]          the convolution
  T(y, w)[s*o + t - p] += y[o] w[t]               F transposed in x
  W(x, y)[t] = sum_{n,o} x[n, s*o + t - p] y[n, o]  F transposed in w

The transposes of each map are the two others, so the triple is closed under
differentiation in both modes and at any order.  `lax` differentiates to the
same values, but XLA then exchanges the operands of any convolution whose
kernel is larger than its image and marks the result `rhs_reversal`; on CPU
such an op runs in a naive loop, about a hundred times slower, and the
up-layers of a generator and the R1 penalty of every discriminator are full of
them (jax#31662, openxla/xla#34273).  Here each map is emitted with its smaller
operand as the kernel, and no reversal is left for XLA to introduce.

The weight map is a convolution over other axes (the batch is summed).  XLA on
CPU brings such axes to the order that its fast path takes, but in the entry
computation alone: inside a loop or a condition (n_critic, microbatches, lazy
regularization) they too run in the naive loop.  There the transposes are
written out.  Of images of 16 x 16 and more the weight map on CPU is a product
of matrices instead: 8 images, 1.5 times as fast at 16 x 16, 3 to 4 times at
32 x 32, 5 times and more at 64 x 64.  A 1x1 convolution of stride 1 is one
product, 1 to 5 times as fast.  On a GPU, which never exchanges operands and
knows the three maps by their direct form, that form is emitted.

The idea is `conv2d_gradfix` of stylegan2-ada-pytorch, with forward mode added.
With more than one feature group the derivatives are closed and exact too, but
always in the direct form (XLA does not exchange the operands of those).
"""

from collections.abc import Sequence
import functools
import itertools
import math
from typing import Any

from flax import linen as nn
import jax
from jax import lax
from jax.extend import core as jex_core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir
import jax.numpy as jnp

Pair = tuple[int, int]
Padding = str | int | Sequence[Sequence[int]]

# Where `lax` finds (batch, feature, height, width) of an image, (output, input,
# height, width) of a kernel; the second pair reads the same arrays with their
# two channel axes exchanged.
_NHWC = (0, 3, 1, 2)
_HWIO = (3, 2, 0, 1)
_CHWN = (3, 0, 1, 2)
_HWOI = (2, 3, 0, 1)
# The only order of axes that XLA's fast path on CPU takes.
_PLAIN = (_NHWC, _HWIO, _NHWC)
# On CPU the gradient of a kernel of at most so many taps, from an output of at
# least so many pixels, is a product of matrices.
_MOST_TAPS = 16
_LARGE = 16 * 16


def _spatial(x: jax.Array) -> Pair:
  return x.shape[1:3]


def _reorder(x, found, wanted):
  """Transposes x from one order of (batch, feature, height, width)."""
  axes = [found[wanted.index(i)] for i in range(4)]
  return x if axes == [0, 1, 2, 3] else jnp.transpose(x, axes)


def _correlate(image, kernel, layouts, size, *, platform, low, stride=(1, 1),
               spread=(1, 1), dilation=(1, 1), groups=1, batch_groups=1,
               precision=None):
  """Convolution with given low padding and spatial output size.

  The high padding follows from the size, and is negative where trailing
  pixels of the image are never read.  `spread` dilates the image, `dilation`
  the kernel.
  """
  result = layouts[2]
  if platform == 'cpu':
    image = _reorder(image, layouts[0], _NHWC)
    kernel = _reorder(kernel, layouts[1], _HWIO)
    layouts = _PLAIN
    if (kernel.shape[:2] == stride == spread == (1, 1) and low == (0, 0)
        and _spatial(image) == size and groups == batch_groups == 1):
      y = lax.dot_general(image, kernel[0, 0], (((3,), (0,)), ((), ())),
                          precision=precision)
      return _reorder(y, layouts[2], result)
  dims = lax.ConvDimensionNumbers(*layouts)
  padding = []
  for axis in range(2):
    extent = (image.shape[dims.lhs_spec[2 + axis]] - 1) * spread[axis] + 1
    taps = (kernel.shape[dims.rhs_spec[2 + axis]] - 1) * dilation[axis] + 1
    reach = (size[axis] - 1) * stride[axis] + taps
    padding.append((low[axis], reach - extent - low[axis]))
  y = lax.conv_general_dilated(
      image, kernel, stride, padding, lhs_dilation=spread,
      rhs_dilation=dilation, dimension_numbers=dims,
      feature_group_count=groups, batch_group_count=batch_groups,
      precision=precision)
  return _reorder(y, layouts[2], result)


def _flip_low(stride: Pair, low: Pair, count: Pair) -> Pair:
  """Low padding of a correlation read backwards over `count` positions."""
  return tuple(s * (n - 1) - p for s, n, p in zip(stride, count, low,
                                                  strict=True))


def _exchange(kernel: Pair, image: Pair, groups: int, platform: str) -> bool:
  """Whether XLA would exchange (and reverse) these operands by itself."""
  return (platform != 'gpu' and groups == 1
          and math.prod(kernel) > math.prod(image))


def _forward(x, w, *, stride, low, size, groups, precision, platform):
  """F: image x, kernel w -> y of spatial size `size`."""
  if _exchange(w.shape[:2], _spatial(x), groups, platform):
    # x as the kernel sliding over w reads the outputs last to first.
    y = _correlate(w, x, (_HWIO, _NHWC, _HWIO), size, stride=stride,
                   low=_flip_low(stride, low, size), precision=precision,
                   platform=platform)
    return jnp.transpose(lax.rev(y, (0, 1)), (2, 0, 1, 3))
  return _correlate(x, w, (_NHWC, _HWIO, _NHWC), size, low=low, stride=stride,
                    groups=groups, precision=precision, platform=platform)


def _to_image(y, w, *, stride, low, size, groups, precision, platform):
  """T: output y, kernel w -> x of spatial size `size`."""
  kh, kw, in_channels, _ = w.shape
  if _exchange((kh, kw), _spatial(y), groups, platform):
    x = _correlate(w, lax.rev(y, (1, 2)), (_HWOI, _NHWC, _HWIO), size,
                   low=_flip_low(stride, low, _spatial(y)), dilation=stride,
                   precision=precision, platform=platform)
    return jnp.transpose(x, (2, 0, 1, 3))
  flipped = lax.rev(w, (0, 1))
  if groups > 1:
    # [kh, kw, I, G*O] -> [kh, kw, O, G*I].
    flipped = jnp.reshape(flipped, (kh, kw, in_channels, groups, -1))
    flipped = jnp.transpose(flipped, (0, 1, 4, 3, 2))
    flipped = jnp.reshape(flipped, (kh, kw, -1, groups * in_channels))
  else:
    flipped = jnp.swapaxes(flipped, 2, 3)
  return _correlate(y, flipped, (_NHWC, _HWIO, _NHWC), size, spread=stride,
                    low=(kh - 1 - low[0], kw - 1 - low[1]), groups=groups,
                    precision=precision, platform=platform)


def _to_kernel(x, y, *, stride, low, size, groups, precision, platform):
  """W: image x, output y -> kernel w of spatial size `size`."""
  if (platform == 'cpu' and groups == 1 and math.prod(size) <= _MOST_TAPS
      and math.prod(_spatial(y)) >= _LARGE):
    return _by_product(x, y, stride, low, size, precision)
  if _exchange(_spatial(y), _spatial(x), groups, platform):
    w = _correlate(y, x, (_CHWN, _CHWN, _HWIO), size,
                   low=(size[0] - 1 - low[0], size[1] - 1 - low[1]),
                   spread=stride, precision=precision, platform=platform)
    return lax.rev(w, (0, 1))
  return _correlate(x, y, (_CHWN, _CHWN, _HWOI), size, low=low,
                    dilation=stride, batch_groups=groups, precision=precision,
                    platform=platform)


def _by_product(x, y, stride, low, size, precision):
  """W as a product of matrices, over all positions of a grid.

  Where image and output are shifted against each other by a tap, their product
  is W at that tap. The taps of either axis are shifts of the image, side by
  side as channels, or (of stride 1) of the output: what copies least. Of a
  3x3 kernel the columns of one and the rows of the other make a product of
  three times as many channels on both sides, and of nine taps. XLA's matrix
  product on CPU cuts so long a sum in pieces that stay in the cache; its
  convolution with an image as the kernel does not.
  """
  reach = [(n - 1) * s + k
           for n, s, k in zip(_spatial(y), stride, size, strict=True)]
  x = _pad(x, [(p, r - n - p)
               for p, r, n in zip(low, reach, _spatial(x), strict=True)])
  of_x = _cheapest_shifts(stride, size, x.shape[3], y.shape[3])
  x_taps = [k if shift else 1 for k, shift in zip(size, of_x, strict=True)]
  y_taps = [k // n for k, n in zip(size, x_taps, strict=True)]
  grid = [n if shift else r
          for n, r, shift in zip(_spatial(y), reach, of_x, strict=True)]
  images = [
      lax.slice(x, (0, *tap, 0), (x.shape[0], *(
          t + s * (n - 1) + 1 for t, s, n in zip(tap, stride, grid,
                                                 strict=True)), x.shape[3]),
                (1, *stride, 1)) for tap in _taps(x_taps)]
  outputs = _columns([
      _pad(y, [(t, n - 1 - t) for t, n in zip(tap, y_taps, strict=True)])
      for tap in _taps(y_taps)])
  # Of a larger stride the taps share few pixels: shifts would be all copy.
  groups = [images] if max(stride) == 1 else [[image] for image in images]
  w = jnp.concatenate([
      lax.dot_general(_columns(group), outputs, (((0,), (0,)), ((), ())),
                      precision=precision) for group in groups])
  w = jnp.reshape(w, (*x_taps, x.shape[3], *y_taps, y.shape[3]))
  return jnp.reshape(jnp.transpose(w, (0, 3, 1, 4, 2, 5)),
                     (*size, x.shape[3], y.shape[3]))


def _taps(size):
  return list(itertools.product(*map(range, size)))


def _pad(x, spatial):
  """Pads height and width with zeros, by (low, high) of each."""
  return lax.pad(x, jnp.zeros((), x.dtype), [
      (0, 0, 0), *((low, high, 0) for low, high in spatial), (0, 0, 0)])


def _columns(arrays):
  """[N, h, w, C] side by side: [N h w, len(arrays) C]."""
  # A stack, for XLA writes a concatenation of channels number by number.
  return jnp.reshape(jnp.stack(arrays, 3),
                     (-1, len(arrays) * arrays[0].shape[3]))


def _cheapest_shifts(stride: Pair, size: Pair, in_channels: int,
                     out_channels: int) -> tuple[bool, bool]:
  """Whether each axis' taps shall be shifts of the image, not the output."""
  def copied(shifts):
    of_x = math.prod(k for k, shift in zip(size, shifts, strict=True) if shift)
    return in_channels * of_x + out_channels * math.prod(size) // of_x

  allowed = ((True, False) if s == 1 else (True,) for s in stride)
  return min(itertools.product(*allowed), key=copied)


def _primitive(name, emit):
  """A primitive known by what it emits: shapes, types and code come of it.

  Deriving the abstract value from the emitted `lax` ops, rather than writing
  it down, keeps shardings and manual axes right for every kind of mesh.
  """
  primitive = jex_core.Primitive(name)

  def abstract(a, b, **params):
    function = functools.partial(emit, **params, platform='any')
    return jax.make_jaxpr(function)(a, b).out_avals[0]

  primitive.def_abstract_eval(abstract)
  primitive.def_impl(jax.jit(primitive.bind, static_argnames=(
      'stride', 'low', 'size', 'groups', 'precision')))
  for platform in ('any', 'cpu', 'gpu'):
    mlir.register_lowering(
        primitive, mlir.lower_fun(functools.partial(emit, platform=platform),
                                  multiple_results=False),
        None if platform == 'any' else platform)
  return primitive


_forward_p = _primitive('conv2d', _forward)
_to_image_p = _primitive('conv2d_to_image', _to_image)
_to_kernel_p = _primitive('conv2d_to_kernel', _to_kernel)


def _bind(primitive, a, b, size, params):
  return primitive.bind(a, b, **{**params, 'size': tuple(size)})


# Transposes. `ad.defbilinear` calls the first rule with the first operand
# unknown (an object that only has an abstract value) and the second rule
# likewise; the jvp is the sum of two applications of the map itself.
ad.defbilinear(
    _forward_p,
    lambda y, x, w, **params: _bind(
        _to_image_p, y, w, _spatial(x.aval), params),
    lambda y, x, w, **params: _bind(
        _to_kernel_p, x, y, w.aval.shape[:2], params))
ad.defbilinear(
    _to_image_p,
    lambda x, y, w, **params: _bind(
        _forward_p, x, w, _spatial(y.aval), params),
    lambda x, y, w, **params: _bind(
        _to_kernel_p, x, y, w.aval.shape[:2], params))
ad.defbilinear(
    _to_kernel_p,
    lambda w, x, y, **params: _bind(
        _to_image_p, y, w, _spatial(x.aval), params),
    lambda w, x, y, **params: _bind(
        _forward_p, x, w, _spatial(y.aval), params))


# Batching. A batch axis of one operand joins the axis that this operand alone
# owns (N, I or O); a batch axis of both becomes feature groups.


def _fold(a, dim, axis):
  """Moves batch axis `dim` in front of `axis` of the rest and merges them."""
  a = jnp.moveaxis(a, dim, axis)
  return jnp.reshape(a, a.shape[:axis] + (-1,) + a.shape[axis + 2:])


def _unfold(a, size, axis):
  """Undoes `_fold`; the batch axis comes first."""
  shape = a.shape[:axis] + (size, a.shape[axis] // size) + a.shape[axis + 1:]
  return jnp.moveaxis(jnp.reshape(a, shape), axis, 0)


def _batching(primitive, first, second):
  """Batching rule of one map.

  Args:
    primitive: the map.
    first: (axis of the first operand, axis of the result) that takes a batch
      axis of the first operand alone.
    second: the same for the second operand.
  """

  def rule(args, dims, **params):
    (a, b), (a_dim, b_dim) = args, dims
    groups = params['groups']

    # With feature groups only N can take a batch axis: I and O are split.
    if b_dim is None and (groups == 1 or first[0] == 0):
      size = a.shape[a_dim]
      out = primitive.bind(_fold(a, a_dim, first[0]), b, **params)
      return _unfold(out, size, first[1]), 0
    if a_dim is None and groups == 1:
      size = b.shape[b_dim]
      out = primitive.bind(a, _fold(b, b_dim, second[0]), **params)
      return _unfold(out, size, second[1]), 0
    size = a.shape[a_dim] if a_dim is not None else b.shape[b_dim]
    if a_dim is None:
      a, a_dim = jnp.broadcast_to(a[None], (size, *a.shape)), 0
    if b_dim is None:
      b, b_dim = jnp.broadcast_to(b[None], (size, *b.shape)), 0
    out = primitive.bind(_fold(a, a_dim, 3), _fold(b, b_dim, 3),
                         **{**params, 'groups': groups * size})
    return _unfold(out, size, 3), 0

  batching.primitive_batchers[primitive] = rule


_batching(_forward_p, first=(0, 0), second=(3, 3))
_batching(_to_image_p, first=(0, 0), second=(2, 3))
_batching(_to_kernel_p, first=(3, 2), second=(3, 3))


def _pair(value: int | Sequence[int]) -> Pair:
  return (value, value) if isinstance(value, int) else tuple(value)


def explicit_padding(padding: Padding, size: Pair, kernel: Pair,
                     stride: Pair) -> tuple[Pair, Pair]:
  """Padding as ((low, high), (low, high)) over height and width.

  Args:
    padding: 'SAME' (TensorFlow's meaning: the output has ceil(size / stride)
      pixels and an odd total is padded one more at the high end), 'VALID', one
      int for all four sides (torch's meaning), or the pairs themselves.
    size: height and width of the image.
    kernel: height and width of the kernel.
    stride: stride over height and width.
  """
  if isinstance(padding, str):
    return tuple(lax.padtype_to_pads(size, kernel, stride, padding))
  if isinstance(padding, int):
    return ((padding, padding), (padding, padding))
  rows, columns = padding
  return (_pair(rows), _pair(columns))


def _prepare(x, w, channels, precision):
  """Checks two operands and lets them vary over the same manual mesh axes."""
  if x.ndim != 4 or w.ndim != 4:
    raise ValueError('a convolution takes x [N, H, W, C] and w [kh, kw, I, O], '
                     f'not {x.shape} and {w.shape}')
  if x.shape[3] != channels:
    raise ValueError(f'x {x.shape} has {x.shape[3]} channels, the kernel '
                     f'{w.shape} expects {channels}')
  if x.dtype != w.dtype:
    raise TypeError(f'x is {x.dtype}, the kernel {w.dtype}: cast one of them')
  # Inside shard_map a replicated kernel must be marked as varying before the
  # primitive sees it: the transpose of that mark sums its gradient.
  x_axes, w_axes = _varying(x), _varying(w)
  if w_axes - x_axes:
    x = lax.pcast(x, tuple(w_axes - x_axes), to='varying')
  if x_axes - w_axes:
    w = lax.pcast(w, tuple(x_axes - w_axes), to='varying')
  # Fixed here, so that a transpose built elsewhere keeps it.
  return x, w, precision or jax.config.jax_default_matmul_precision


def _varying(x) -> frozenset[str]:
  aval = jax.typeof(x)
  # Named `vma` before jax 0.10.
  manual = getattr(aval, 'manual_axis_type', None)
  return getattr(aval, 'vma', frozenset()) if manual is None else manual.varying


def conv2d(x: jax.Array, w: jax.Array, stride: int | Pair = 1,
           padding: Padding = 'SAME', *, groups: int = 1,
           precision: Any = None) -> jax.Array:
  """2-D convolution (cross-correlation, as in every deep-learning library).

  Differentiable in both modes at any order; see the module docstring.

  Args:
    x: [N, H, W, groups*I].
    w: [kh, kw, I, O] of the same type, O a multiple of `groups`.
    stride: of the output, in pixels of x; one int or one for each axis.
    padding: see `explicit_padding`; negative padding crops.
    groups: feature groups.
    precision: as in `lax.conv_general_dilated`.

  Returns:
    [N, h, w, O] with h = floor((H + low + high - kh) / stride) + 1.

  Raises:
    ValueError: shapes that do not fit, or an output without pixels.
    TypeError: operands of different types.
  """
  kh, kw, in_channels, out_channels = w.shape
  x, w, precision = _prepare(x, w, groups * in_channels, precision)
  if out_channels % groups:
    raise ValueError(f'{out_channels} output channels in {groups} groups')
  stride = _pair(stride)
  padding = explicit_padding(padding, _spatial(x), (kh, kw), stride)
  size = tuple(
      (n + low + high - k) // s + 1 for n, k, s, (low, high) in zip(
          _spatial(x), (kh, kw), stride, padding, strict=True))
  if min(size) < 1:
    raise ValueError(f'kernel {w.shape} with padding {padding} does not fit in '
                     f'the image {x.shape}')
  return _forward_p.bind(
      x, w, stride=stride, low=(padding[0][0], padding[1][0]), size=size,
      groups=groups, precision=precision)


def conv2d_transpose(x: jax.Array, w: jax.Array, stride: int | Pair = 1,
                     padding: int | Pair = 0,
                     output_padding: int | Pair = 0, *,
                     precision: Any = None) -> jax.Array:
  """Transposed convolution with the semantics of torch's ConvTranspose2d.

  y[n, stride*i + t - padding, o] += x[n, i, c] w[t, c, o], the transpose of a
  strided convolution; kernel/stride/padding 4/2/1 doubles an image exactly.

  Args:
    x: [N, H, W, I].
    w: [kh, kw, I, O] of the same type; torch's weight [I, O, kh, kw] with its
      axes moved and nothing flipped.
    stride: pixels of the output for one of x.
    padding: pixels cropped from every side of the full output.
    output_padding: rows and columns added at the high end.
    precision: as in `lax.conv_general_dilated`.

  Returns:
    [N, (H - 1)*stride - 2*padding + kh + output_padding, ..., O].

  Raises:
    ValueError: shapes that do not fit, or an output without pixels.
    TypeError: operands of different types.
  """
  kh, kw, in_channels, _ = w.shape
  x, w, precision = _prepare(x, w, in_channels, precision)
  stride, low = _pair(stride), _pair(padding)
  size = tuple(
      (n - 1) * s - 2 * p + k + extra for n, s, p, k, extra in zip(
          _spatial(x), stride, low, (kh, kw), _pair(output_padding),
          strict=True))
  if min(size) < 1:
    raise ValueError(f'padding {low} leaves nothing of the transposed '
                     f'convolution of {x.shape} with {w.shape}')
  return _to_image_p.bind(
      x, jnp.swapaxes(w, 2, 3), stride=stride, low=low, size=size, groups=1,
      precision=precision)


class Conv(nn.Module):
  """2-D convolution layer: params `kernel` [kh, kw, I, O] and `bias` [O].

  The parameters are those of `flax.linen.Conv`, in float32.

  Attributes:
    features: output channels O.
    kernel_size: height and width of the kernel.
    strides: one int or one for each axis.
    padding: see `explicit_padding`; beware that 'SAME' is TensorFlow's, which
      differs from torch's symmetric padding where the stride is above 1.
    use_bias: adds a bias.
    groups: feature groups.
    dtype: type of the computation and of the output; the input's if None.
    precision: as in `lax.conv_general_dilated`.
    kernel_init: initializer of the kernel.
    bias_init: initializer of the bias.
  """

  features: int
  kernel_size: int | Pair
  strides: int | Pair = 1
  padding: Padding = 'SAME'
  use_bias: bool = True
  groups: int = 1
  dtype: Any = None
  precision: Any = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, h, w, features]."""
    dtype = self.dtype or x.dtype
    shape = (*_pair(self.kernel_size), x.shape[-1] // self.groups,
             self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    y = conv2d(x.astype(dtype), kernel.astype(dtype), self.strides,
               self.padding, groups=self.groups, precision=self.precision)
    return _add_bias(self, y) if self.use_bias else y


class ConvTranspose(nn.Module):
  """Transposed convolution layer with torch's ConvTranspose2d semantics.

  Params `kernel` [kh, kw, I, O] (torch's [I, O, kh, kw], axes moved, nothing
  flipped) and `bias` [O], in float32.  See `conv2d_transpose`.

  Attributes:
    features: output channels O.
    kernel_size: height and width of the kernel.
    strides: pixels of the output for one of the input.
    padding: pixels cropped from every side of the full output.
    output_padding: rows and columns added at the high end.
    use_bias: adds a bias.
    dtype: type of the computation and of the output; the input's if None.
    precision: as in `lax.conv_general_dilated`.
    kernel_init: initializer of the kernel.
    bias_init: initializer of the bias.
  """

  features: int
  kernel_size: int | Pair
  strides: int | Pair = 1
  padding: int | Pair = 0
  output_padding: int | Pair = 0
  use_bias: bool = True
  dtype: Any = None
  precision: Any = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, (H-1)*s - 2*p + k + op, ..., features]."""
    dtype = self.dtype or x.dtype
    shape = (*_pair(self.kernel_size), x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    y = conv2d_transpose(x.astype(dtype), kernel.astype(dtype), self.strides,
                         self.padding, self.output_padding,
                         precision=self.precision)
    return _add_bias(self, y) if self.use_bias else y


def _add_bias(layer: nn.Module, y: jax.Array) -> jax.Array:
  bias = layer.param('bias', layer.bias_init, (y.shape[-1],), jnp.float32)
  return y + jnp.reshape(bias, (1, 1, 1, -1)).astype(y.dtype)
