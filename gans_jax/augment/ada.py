"""Augmentations of adaptive discriminator augmentation (ADA).

Karras, Aittala, Hellsten, Laine, Lehtinen, Aila 2020, Training Generative
Adversarial Networks with Limited Data, arXiv:2006.06676, appendix B and
figure 15, with the constants of NVlabs/stylegan2-ada-pytorch.

Every image goes through the same list of transformations, each of which is
applied with probability p times a multiplier:

  blit    mirroring, quarter turns, shifts by whole pixels
  geom    scaling, rotation, stretching, shifts by fractions of a pixel
  color   brightness, contrast, luma flip, hue, saturation
  filter  gains of four frequency bands
  noise   Gaussian noise
  cutout  a square of half the size, filled with 0 (mid-grey)

in two steps, `draw` and `apply`: what is drawn is a dict with an entry for
each transformation, and `apply` is a differentiable, linear (up to the terms
added) function of the images. All geometry is one affine map per image and
one resampling; all colour one affine map of RGB.

How it is computed, where the authors' code does the same otherwise:
1. The image is extended by reflection by its size less one, always. The
   code extends by what the batch needs, no further than that; what is not
   needed is not read, so the result is the same, and the shape is static.
2. Extension and upsampling are one matrix for each axis, downsampling and
   the band filters another: small dense products are faster than filters of
   12 and 43 taps on every platform, and compile at once.
3. The extended, upsampled line repeats itself but for its ends. Repeated
   rows are not stored: (4/6)^2 of the memory.
4. The product of colour matrices is written out: all of them act on the
   mean of the channels and on the rest separately.
5. Images of fewer than 22 pixels can be filtered: they are reflected again.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import rng

Draws = Mapping[str, jax.Array]

# Wavelets of low-pass filters: Daubechies' symlets 6 and 2.
SYM6 = (0.015404109327027373, 0.0034907120842174702, -0.11799011114819057,
        -0.048311742585633, 0.4910559419267466, 0.787641141030194,
        0.3379294217276218, -0.07263752278646252, -0.021060292512300564,
        0.04472490177066578, 0.0017677118642428036, -0.007800708325034148)
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469,
        0.48296291314469025)
# Expected power of the four bands of natural images, 1/f.
POWER = np.array([10.0, 1.0, 1.0, 1.0]) / 13.0
BANDS = 4

BLIT = ('xflip', 'rotate90', 'xint')
GEOM = ('scale', 'rotate', 'aniso', 'xfrac')
COLOR = ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation')
SETS = {
    'blit': BLIT, 'geom': GEOM, 'color': COLOR, 'filter': ('imgfilter',),
    'noise': ('noise',), 'cutout': ('cutout',),
    'bg': BLIT + GEOM,
    'bgc': BLIT + GEOM + COLOR,
    'bgcf': BLIT + GEOM + COLOR + ('imgfilter',),
    'bgcfn': BLIT + GEOM + COLOR + ('imgfilter', 'noise'),
    'bgcfnc': BLIT + GEOM + COLOR + ('imgfilter', 'noise', 'cutout'),
}


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """Which transformations there are, and how strong they are.

  The first group multiplies p, 0 leaves a transformation out; the second
  group is strengths.
  """

  xflip: float = 0.0
  rotate90: float = 0.0
  xint: float = 0.0
  scale: float = 0.0
  rotate: float = 0.0
  aniso: float = 0.0
  xfrac: float = 0.0
  brightness: float = 0.0
  contrast: float = 0.0
  lumaflip: float = 0.0
  hue: float = 0.0
  saturation: float = 0.0
  imgfilter: float = 0.0
  noise: float = 0.0
  cutout: float = 0.0

  xint_max: float = 0.125       # of the image's size
  scale_std: float = 0.2        # of log2
  rotate_max: float = 1.0       # 1: the whole circle
  aniso_std: float = 0.2        # of log2
  xfrac_std: float = 0.125      # of the image's size
  brightness_std: float = 0.2
  contrast_std: float = 0.5     # of log2
  hue_max: float = 1.0          # 1: the whole circle
  saturation_std: float = 1.0   # of log2
  imgfilter_bands: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # multiply p
  imgfilter_std: float = 1.0    # of log2
  noise_std: float = 0.1
  cutout_size: float = 0.5      # of the image's size


def pipeline(name: str, **strengths) -> Pipeline:
  """Returns a named set of transformations, of `SETS`, at their full p."""
  return Pipeline(**{kind: 1.0 for kind in SETS[name]}, **strengths)


def augment(keys: jax.Array, images: jax.Array, p: jax.Array | float,
            config: Pipeline) -> jax.Array:
  """Augments every image by transformations of its own.

  Args:
    keys: typed keys [N]; what happens to image i depends on keys[i] alone.
    images: [N, H, W, C] in [-1, 1], C is 1 or 3.
    p: probability of each transformation, a scalar, traced or not; above 1
      it is as 1.
    config: the transformations.

  Returns:
    [N, H, W, C], float32.
  """
  return apply(draw(keys, images.shape[1:], p, config), images)


# --- What is drawn ----------------------------------------------------------


def draw(keys: jax.Array, shape: tuple[int, int, int],
         p: jax.Array | float, config: Pipeline) -> dict[str, jax.Array]:
  """Draws the transformations of N images.

  One whose turn it is not, with probability 1 - p, has the neutral value.

  Args:
    keys: typed keys [N].
    shape: [H, W, C] of the images.
    p: a scalar.
    config: the transformations.

  Returns:
    Those of the following which the config has, the first axis N:
      xflip 0 or 1; rotate90 quarter turns; xint [N, 2] shift along x and y as
      a fraction of the size, to be rounded to pixels; scale; rotate [N, 2]
      angles before and after stretching; aniso, the stretch of x; xfrac
      [N, 2] shift as a fraction of the size; brightness, added; contrast, a
      factor; lumaflip 0 or 1; hue, an angle; saturation, a factor; imgfilter
      [N, 4] gains; sigma of the noise and noise [N, H, W, C] of deviation 1;
      cutout [N, 3] the square's size, and its centre x and y, as fractions.
  """
  n, channels = keys.shape[0], shape[2]
  p = jnp.asarray(p, jnp.float32)
  gates, uniform, normal = _random_numbers(keys)

  def gated(name, value, neutral, probability=None):
    """`value` [N, ...] with probability p, else the neutral one."""
    if probability is None:
      probability = getattr(config, name) * p
    opened = gates[name] < probability
    opened = opened.reshape(n, *[1] * (value.ndim - 1))
    return jnp.where(opened, value, jnp.full_like(value, neutral))

  def symmetric(name, bound):
    return bound * (2 * uniform[name] - 1)

  def power_of_two(name, std):
    return jnp.exp2(std * normal[name])

  draws = {}
  if config.xflip:
    draws['xflip'] = gated('xflip', jnp.floor(2 * uniform['xflip']), 0)
  if config.rotate90:
    turns = jnp.floor(4 * uniform['rotate90'])
    draws['rotate90'] = gated('rotate90', turns, 0)
  if config.xint:
    shift = [symmetric(f'xint/{i}', config.xint_max) for i in 'xy']
    draws['xint'] = gated('xint', jnp.stack(shift, 1), 0)
  if config.scale:
    draws['scale'] = gated('scale', power_of_two('scale', config.scale_std), 1)
  if config.rotate:
    # One of the two rotations or both take place with probability p.
    each = 1 - jnp.sqrt(jnp.clip(1 - config.rotate * p, 0, 1))
    draws['rotate'] = jnp.stack(
        [gated(name, symmetric(name, math.pi * config.rotate_max), 0, each)
         for name in ('rotate/before', 'rotate/after')], 1)
  if config.aniso:
    draws['aniso'] = gated('aniso', power_of_two('aniso', config.aniso_std), 1)
  if config.xfrac:
    shift = [config.xfrac_std * normal[f'xfrac/{i}'] for i in 'xy']
    draws['xfrac'] = gated('xfrac', jnp.stack(shift, 1), 0)

  if config.brightness:
    added = config.brightness_std * normal['brightness']
    draws['brightness'] = gated('brightness', added, 0)
  if config.contrast:
    factor = power_of_two('contrast', config.contrast_std)
    draws['contrast'] = gated('contrast', factor, 1)
  if config.lumaflip:
    flip = jnp.floor(2 * uniform['lumaflip'])
    draws['lumaflip'] = gated('lumaflip', flip, 0)
  if config.hue and channels > 1:
    angle = symmetric('hue', math.pi * config.hue_max)
    draws['hue'] = gated('hue', angle, 0)
  if config.saturation and channels > 1:
    factor = power_of_two('saturation', config.saturation_std)
    draws['saturation'] = gated('saturation', factor, 1)

  if config.imgfilter:
    gains = [gated(f'imgfilter/{i}',
                   power_of_two(f'imgfilter/{i}', config.imgfilter_std), 1,
                   config.imgfilter * multiplier * p)
             for i, multiplier in enumerate(config.imgfilter_bands)]
    draws['imgfilter'] = normalized_gains(jnp.stack(gains, 1))
  if config.noise:
    sigma = config.noise_std * jnp.abs(normal['sigma'])
    draws['sigma'] = gated('noise', sigma, 0)
    draws['noise'] = jax.vmap(lambda key: jax.random.normal(
        rng.named(key, 0, 'noise'), shape, jnp.float32))(keys)
  if config.cutout:
    size = gated('cutout', jnp.full((n,), config.cutout_size), 0)
    draws['cutout'] = jnp.stack(
        [size, uniform['cutout/x'], uniform['cutout/y']], 1)
  return draws


_GATES = ('xflip', 'rotate90', 'xint', 'scale', 'rotate/before',
          'rotate/after', 'aniso', 'xfrac', 'brightness', 'contrast',
          'lumaflip', 'hue', 'saturation', 'imgfilter/0', 'imgfilter/1',
          'imgfilter/2', 'imgfilter/3', 'noise', 'cutout')
_UNIFORM = ('xflip', 'rotate90', 'xint/x', 'xint/y', 'rotate/before',
            'rotate/after', 'lumaflip', 'hue', 'cutout/x', 'cutout/y')
_NORMAL = ('scale', 'aniso', 'xfrac/x', 'xfrac/y', 'brightness', 'contrast',
           'saturation', 'imgfilter/0', 'imgfilter/1', 'imgfilter/2',
           'imgfilter/3', 'sigma')


def _random_numbers(keys: jax.Array) -> list[dict[str, jax.Array]]:
  """Returns [N] float32 for each name: of gates and uniform in (0, 1), normal.

  They are the same whichever of them are used. One call of the generator
  compiles faster than one for each.
  """
  first, second = len(_GATES), len(_GATES) + len(_UNIFORM)
  signed = jax.vmap(lambda key: jax.random.uniform(
      rng.named(key, 0, 'draws'), (second + len(_NORMAL),), jnp.float32,
      minval=np.nextafter(np.float32(-1), np.float32(0)), maxval=1.0))(keys).T
  unit = 0.5 + 0.5 * signed[:second]
  normal = math.sqrt(2) * jax.lax.erf_inv(signed[second:])
  return [dict(zip(names, values, strict=True)) for names, values in (
      (_GATES, unit[:first]), (_UNIFORM, unit[first:]), (_NORMAL, normal))]


def normalized_gains(gains: jax.Array) -> jax.Array:
  """Gains [N, 4], drawn band by band -> those that are applied.

  After each band's turn all gains are divided by the square root of the
  expected power, which the other bands then have less of.
  """
  growth = 1 + jnp.asarray(POWER[None], gains.dtype) * (gains**2 - 1)
  return gains / jnp.sqrt(jnp.prod(growth, 1, keepdims=True))


# --- What is applied --------------------------------------------------------


def apply(draws: Draws, images: jax.Array) -> jax.Array:
  """Applies what `draw` has drawn.

  Args:
    draws: as from `draw`; what it lacks is left out.
    images: [N, H, W, C].

  Returns:
    [N, H, W, C], float32 (float64 for such images).
  """
  images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
  if any(name in draws for name in BLIT + GEOM):
    images = warp(images, *inverse_affine(draws, *images.shape[1:3]))
  if any(name in draws for name in COLOR):
    images = recolor(draws, images)
  if 'imgfilter' in draws:
    images = filter_bands(draws['imgfilter'], images)
  if 'noise' in draws:
    images = images + _per_image(draws['sigma']) * draws['noise']
  if 'cutout' in draws:
    images = cut_out(draws['cutout'], images)
  return images


def inverse_affine(draws: Draws, height: int,
                   width: int) -> tuple[jax.Array, jax.Array]:
  """Returns the map from pixels of the result to those of the image.

  With the origin at the centre of the image, x to the right and y down:
  source = linear @ (x, y) + offset. The transformations follow each other in
  the order of `draw`, hence their inverses multiply from the right.

  Args:
    draws: as from `draw`.
    height: in pixels.
    width: in pixels.

  Returns:
    (linear [N, 2, 2], offset [N, 2]).
  """
  size = jnp.asarray([[width, height]], jnp.float32)
  steps = []
  if 'xflip' in draws:
    flip = 1 - 2 * draws['xflip']
    steps.append(_diagonal(flip, jnp.ones_like(flip)))
  if 'rotate90' in draws:
    steps.append(_rotation(math.pi / 2 * draws['rotate90']))
  if 'xint' in draws:
    steps.append(-jnp.round(draws['xint'] * size))
  if 'scale' in draws:
    steps.append(_diagonal(1 / draws['scale'], 1 / draws['scale']))
  if 'rotate' in draws:
    steps.append(_rotation(draws['rotate'][:, 0]))
  if 'aniso' in draws:
    steps.append(_diagonal(1 / draws['aniso'], draws['aniso']))
  if 'rotate' in draws:
    steps.append(_rotation(draws['rotate'][:, 1]))
  if 'xfrac' in draws:
    steps.append(-draws['xfrac'] * size)
  n = steps[0].shape[0]
  linear = jnp.broadcast_to(jnp.eye(2), (n, 2, 2))
  offset = jnp.zeros((n, 2))
  for step in steps:
    if step.ndim == 2:
      offset = offset + jnp.sum(linear * step[:, None, :], 2)
    else:
      linear = jnp.sum(linear[:, :, :, None] * step[:, None, :, :], 2)
  return linear, offset


def warp(images: jax.Array, linear: jax.Array,
         offset: jax.Array) -> jax.Array:
  """Resamples images at the points of an affine map, without aliasing.

  Upsampling by 2 with the filter sym6, bilinear reading, downsampling by 2
  with the mirrored filter: the identity for the identity map.

  Args:
    images: [N, H, W, C], H and W at least 6.
    linear: [N, 2, 2] and
    offset: [N, 2], as from `inverse_affine`.

  Returns:
    [N, H, W, C].
  """
  n, height, width, channels = images.shape
  x = jnp.moveaxis(images, 3, 1)  # [N, C, H, W]: rows are contiguous
  x = _product(x, _upsampling(height), _upsampling(width))

  # Centres of the pixels to be read, 2 of them for a pixel of the image; the
  # filter shifts by half of one.
  points = [jnp.arange(2 * (s + _MARGIN)) - (s + _MARGIN - 1.0)
            for s in (width, height)]
  u, v = points[0].reshape(1, 1, -1), points[1].reshape(1, -1, 1)
  linear = linear.reshape(n, 2, 2, 1, 1)
  offset = offset.reshape(n, 2, 1, 1)
  u, v = (linear[:, i, 0] * u + linear[:, i, 1] * v + 2 * offset[:, i] - 0.5
          for i in (0, 1))  # [N, 2(H+6), 2(W+6)]
  x = _bilinear(x, u + (6 * width - 5) / 2, v + (6 * height - 5) / 2,
                height, width)
  x = _product(x, _downsampling(height), _downsampling(width))
  return jnp.moveaxis(x, 1, 3).reshape(n, height, width, channels)


def recolor(draws: Draws, images: jax.Array) -> jax.Array:
  """Brightness b, contrast c, luma flip, hue, saturation s, in this order.

  With m the mean of the channels, an image is m in every channel plus the
  rest, the chroma. Brightness adds to the mean; contrast scales both; the
  luma flip (a reflection along (1, 1, 1)) negates the mean; hue turns the
  chroma about that axis a, by Rodrigues' formula, and saturation scales it:

    y = +-c (m + b) + s c (cos(hue) (x - m) + sin(hue) a x x)

  A grey image has no chroma.

  Args:
    draws: as from `draw`.
    images: [N, H, W, 1 or 3].

  Returns:
    [N, H, W, 1 or 3].
  """
  n, _, _, channels = images.shape
  if channels not in (1, 3):
    raise ValueError('colour augmentation expects images of 1 or 3 channels, '
                     f'not {channels}')

  def value(name, neutral):
    if name in draws:
      return _per_image(draws[name].astype(images.dtype))
    return jnp.full((n, 1, 1, 1), neutral, images.dtype)

  contrast = value('contrast', 1)
  luma = (1 - 2 * value('lumaflip', 0)) * contrast
  added = luma * value('brightness', 0)
  if channels == 1:
    return luma * images + added
  chroma = value('saturation', 1) * contrast
  along = chroma * jnp.cos(value('hue', 0))
  across = chroma * jnp.sin(value('hue', 0)) / math.sqrt(3)
  mean = jnp.mean(images, 3, keepdims=True)
  turned = jnp.roll(images, 1, 3) - jnp.roll(images, -1, 3)
  return along * images + (luma - along) * mean + added + across * turned


def filter_bands(gains: jax.Array, images: jax.Array) -> jax.Array:
  """Multiplies the four bands of each image, along both axes, by gains [N, 4].
  """
  n = images.shape[0]
  x = jnp.moveaxis(images, 3, 1)

  def matrix(size):
    # The bands sum to the identity: neutral gains are exactly that.
    bands = jnp.asarray(_band_matrices(size), images.dtype)
    changed = jnp.einsum('nb,bpq->npq', (gains - 1).astype(images.dtype),
                         bands, precision=_EXACT)
    return jnp.eye(size, dtype=images.dtype)[None] + changed

  rows, columns = matrix(images.shape[1]), matrix(images.shape[2])
  x = jnp.einsum('nph,nchw->ncpw', rows, x, precision=_EXACT)
  x = jnp.einsum('nqw,ncpw->ncpq', columns, x, precision=_EXACT)
  return jnp.moveaxis(x, 1, 3).reshape(n, *images.shape[1:])


def cut_out(squares: jax.Array, images: jax.Array) -> jax.Array:
  """Fills the squares [N, 3] (size, centre x, centre y; fractions) with 0."""
  _, height, width, _ = images.shape
  size, x, y = (_per_image(squares[:, i]) for i in range(3))

  def outside(pixels, centre, axis):
    shape = [1, 1, 1, 1]
    shape[axis] = pixels
    at = (jnp.arange(pixels).reshape(shape) + 0.5) / pixels
    return jnp.abs(at - centre) >= size / 2

  kept = jnp.logical_or(outside(height, y, 1), outside(width, x, 2))
  return images * kept.astype(images.dtype)


# --- Resampling -------------------------------------------------------------

_EXACT = jax.lax.Precision.HIGHEST
# Pixels around the result that the downsampling filter reads, both sides.
_MARGIN = len(SYM6) // 2


def _per_image(x: jax.Array) -> jax.Array:
  """[N] -> [N, 1, 1, 1]."""
  return x.reshape(-1, 1, 1, 1)


def _diagonal(x: jax.Array, y: jax.Array) -> jax.Array:
  """[N], [N] -> [N, 2, 2]."""
  zero = jnp.zeros_like(x)
  return jnp.stack([x, zero, zero, y], 1).reshape(-1, 2, 2)


def _rotation(angle: jax.Array) -> jax.Array:
  """[N] -> [N, 2, 2]: x to y by the angle."""
  c, s = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([c, -s, s, c], 1).reshape(-1, 2, 2)


def _product(x: jax.Array, rows: np.ndarray,
             columns: np.ndarray) -> jax.Array:
  """[N, C, H, W] -> rows [P, H] times x times columns [Q, W] transposed."""
  rows, columns = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
  x = jnp.einsum('ph,nchw->ncpw', rows, x, precision=_EXACT)
  return jnp.einsum('qw,ncpw->ncpq', columns, x, precision=_EXACT)


@functools.cache
def _upsampling(size: int) -> np.ndarray:
  """Reflection to three times the size, then upsampling by 2 with sym6.

  Rows are those of the line of 6 size - 4 pixels which `_stored` keeps.

  Returns:
    [4 size + 8, size] float64.
  """
  if size < 6:
    raise ValueError(f'geometric augmentation expects images of at least 6 '
                     f'pixels, not {size}')
  taps = np.array(SYM6)[::-1] / sum(SYM6)
  extended = np.pad(np.eye(size), ((size - 1, size - 1), (0, 0)), 'reflect')
  line = np.zeros((2 * len(extended), size))
  line[::2] = extended
  line = np.pad(line, ((6, 5), (0, 0)))
  # The gain 2 makes up for the zeros.
  full = sum(2 * tap * line[k:k + 6 * size - 4] for k, tap in enumerate(taps))
  period = 4 * (size - 1)
  return np.concatenate([full[:period + 6], full[-6:]])


def _stored(i: jax.Array, size: int) -> jax.Array:
  """Where `_upsampling` keeps pixel i of the 6 size - 4 of its line.

  The line has the period 4 (size - 1), but for six pixels at each end, where
  the filter sees the zeros beyond.
  """
  period, length = 4 * (size - 1), 6 * size - 4
  return jnp.where(
      i < period + 6, i,
      jnp.where(i < length - 6, i - period, i - 2 * size + 12))


@functools.cache
def _downsampling(size: int) -> np.ndarray:
  """Downsampling by 2 with the mirrored sym6, without the margin.

  Returns:
    [size, 2 (size + 6)] float64.
  """
  taps = np.array(SYM6) / sum(SYM6)
  matrix = np.zeros((size, 2 * (size + _MARGIN)))
  for q in range(size):
    matrix[q, 2 * q + 1:2 * q + 1 + len(taps)] = taps
  return matrix


def _bilinear(x: jax.Array, u: jax.Array, v: jax.Array, height: int,
              width: int) -> jax.Array:
  """Reads points of extended, upsampled images; outside of them there is 0.

  Args:
    x: [N, C, 4 height + 8, 4 width + 8], rows and columns as stored.
    u: [N, P, Q] columns of the points, not as stored.
    v: [N, P, Q] rows.
    height: of the images that were upsampled.
    width: of them.

  Returns:
    [N, C, P, Q].
  """
  n, channels, _, stored_width = x.shape
  flat = jnp.moveaxis(x, 1, 3).reshape(n, -1, channels)

  def neighbours(points, size):
    """The two pixels beside each point: [(where stored, weight)]."""
    length = 6 * size - 4
    first = jnp.floor(points)
    fraction = points - first
    for i, weight in ((first, 1 - fraction), (first + 1, fraction)):
      inside = jnp.logical_and(i >= 0, i < length)
      stored = _stored(jnp.clip(i, 0, length - 1).astype(jnp.int32), size)
      yield stored, jnp.where(inside, weight, 0)

  rows, columns = list(neighbours(v, height)), list(neighbours(u, width))
  read = jax.vmap(lambda pixels, i: pixels.at[i].get(
      mode='promise_in_bounds'))
  y = 0.0
  for row, row_weight in rows:
    for column, column_weight in columns:
      weight = (row_weight * column_weight)[..., None].astype(x.dtype)
      y = y + weight * read(flat, row * stored_width + column)
  return jnp.moveaxis(y, 3, 1)


# --- Bands ------------------------------------------------------------------


@functools.cache
def filter_bank() -> np.ndarray:
  """Impulse responses of four bands, an octave each, low frequencies first.

  Appendix B's construction from the filter H(z) of sym2: a low-pass
  H(z) H(1/z) / 2 and its mirrored high-pass split the spectrum in two; band
  i is the high-pass of its octave, the first band what is left.

  Returns:
    [4, 43] float64, which sums over bands to an impulse.
  """
  low = np.array(SYM2)
  high = low * (-1.0) ** np.arange(len(low))
  low = np.convolve(low, low[::-1]) / 2
  high = np.convolve(high, high[::-1]) / 2
  bank = np.eye(BANDS, 1)
  for i in range(1, BANDS):
    spread = np.zeros((BANDS, 2 * bank.shape[1] - 1))
    spread[:, ::2] = bank
    bank = np.stack([np.convolve(band, low) for band in spread])
    start = (bank.shape[1] - len(high)) // 2
    bank[i, start:start + len(high)] += high
  return bank


@functools.cache
def _band_matrices(size: int) -> np.ndarray:
  """Filtering of a line, extended by reflection, for each band.

  Returns:
    [4, size, size] float64.
  """
  bank = filter_bank()
  reach = bank.shape[1] // 2
  extended = np.pad(np.eye(size), ((reach, reach), (0, 0)), 'reflect')
  return np.stack([
      sum(tap * extended[k:k + size] for k, tap in enumerate(band))
      for band in bank])
