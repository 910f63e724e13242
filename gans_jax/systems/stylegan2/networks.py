"""StyleGAN2's networks: figure 2, figure 7, appendix B.

Names of parameters are those of stylegan2-ada-pytorch (`kernel` for `weight`,
in this project's order of axes).

Networks that grow (figure 2d; configs B to D of table 1) are of the
architecture 'orig' with conversions from and to colours at every resolution,
as 'skip' has them, and a lod that blends two of them (nn/growing.py).
"""

import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.core import stages as stages_lib
from gans_jax.nn import conv
from gans_jax.nn import equalized
from gans_jax.nn import fir
from gans_jax.nn import growing
from gans_jax.nn import minibatch
from gans_jax.nn import modulated_conv
from gans_jax.nn import pixel_norm
from gans_jax.nn import resample
from gans_jax.nn import w_space

ImageShape = tuple[int, int, int]

ARCHITECTURES = ('orig', 'skip', 'resnet')
SQRT_HALF = math.sqrt(0.5)


# --- Shapes -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pyramid:
  """The blocks of a network, named by the longer side of their maps.

  Attributes:
    image_shape: (H, W, channels), powers of two, neither more than four times
      the other, the longer at least 8.
    channel_base: channels of a block times its resolution.
    channel_max: most channels of a block.
    dtype: of the highest resolutions.
    low_blocks: how many have it; the others, and that of 4, are float32.
  """

  image_shape: ImageShape
  channel_base: int = 32768
  channel_max: int = 512
  dtype: Any = jnp.float32
  low_blocks: int = 4

  def resolutions(self) -> list[int]:
    """4, 8, ..., the longer side of the image."""
    top = max(self.image_shape[:2])
    return [2**i for i in range(2, top.bit_length())]

  def size(self, resolution: int) -> tuple[int, int]:
    """Height and width of the maps of a block."""
    height, width, _ = self.image_shape
    top = max(height, width)
    return resolution * height // top, resolution * width // top

  def channels(self, resolution: int) -> int:
    return min(self.channel_base // resolution, self.channel_max)

  def type_of(self, resolution: int):
    """Type of a block's computation."""
    top = max(self.image_shape[:2])
    low = max(2 * top // 2**self.low_blocks, 8)
    return self.dtype if resolution >= low else _full(self.dtype)


def _full(dtype):
  """float32, also for bfloat16; float64 stays."""
  return jnp.promote_types(dtype, jnp.float32)


# --- Mapping network ---------------------------------------------------------


class MappingNetwork(nn.Module):
  """Latents and labels -> w [N, features], float32 throughout.

  Attributes:
    features: of every layer and of w.
    layers: number of layers after the normalization.
    classes: of the label; 0 without.
    lr_multiplier: of the layers, not of the embedding.
  """

  features: int = 512
  layers: int = 8
  classes: int = 0
  lr_multiplier: float = 0.01

  @nn.compact
  def __call__(self, z: jax.Array | None,
               labels: jax.Array | None = None) -> jax.Array:
    """z [N, z_dim] or None, labels [N] -> [N, features]."""
    parts = []
    if z is not None:
      parts.append(pixel_norm.pixel_norm(z.astype(_full(z.dtype))))
    if self.classes:
      one_hot = jax.nn.one_hot(labels, self.classes, dtype=jnp.float32)
      embedded = equalized.EqualizedDense(self.features, name='embed')(one_hot)
      parts.append(pixel_norm.pixel_norm(embedded))
    x = jnp.concatenate(parts, -1)
    for i in range(self.layers):
      x = equalized.leaky_relu(equalized.EqualizedDense(
          self.features, lr_multiplier=self.lr_multiplier, name=f'fc{i}')(x))
    return x


# --- Synthesis network -------------------------------------------------------


class SynthesisBlock(nn.Module):
  """Two styled convolutions at one resolution (one at 4), perhaps ToRGB.

  Attributes:
    pyramid: shapes.
    resolution: of the block.
    architecture: 'skip', 'resnet' or 'orig'.
    clamp: bound of activations; None for none.
  """

  pyramid: Pyramid
  resolution: int
  architecture: str = 'skip'
  clamp: float | None = None

  @nn.compact
  def __call__(self, x, image, ws, noise, grown=None):
    """Runs the block.

    Args:
      x: [N, h, w, I] of the block before, or None.
      image: float32 of the blocks before, or None.
      ws: iterator of [N, C]: one for each convolution; the last, for ToRGB,
        is also the next block's first.
      noise: iterator of [N, h, w, 1] or None, for each convolution.
      grown: blends the images, of networks that grow; or None.
    """
    pyramid, resolution = self.pyramid, self.resolution
    features = pyramid.channels(resolution)
    dtype = pyramid.type_of(resolution)
    make = functools.partial(modulated_conv.StyledConv, features,
                             clamp=self.clamp, dtype=dtype)
    if x is None:
      const = self.param('const', nn.initializers.normal(1.0),
                         (*pyramid.size(resolution), features), jnp.float32)
      w = next(ws)
      x = jnp.broadcast_to(const.astype(dtype), (w.shape[0], *const.shape))
      x = make(name='conv1')(x, w, next(noise))
    else:
      x = x.astype(dtype)
      residual = self.architecture == 'resnet'
      if residual:
        skip = equalized.EqualizedConv(
            features, 1, fir.conv1x1_up, gain=SQRT_HALF, use_bias=False,
            name='skip')(x)
      x = make(up=True, name='conv0')(x, next(ws), next(noise))
      if residual:
        # sqrt(1/2) keeps the variance of the sum; bounds shrink with it.
        make = functools.partial(
            make, gain=1.0, clamp=self.clamp and self.clamp * SQRT_HALF)
      x = make(name='conv1')(x, next(ws), next(noise))
      x = skip + x if residual else x
    to_rgb = functools.partial(modulated_conv.ToRGB, pyramid.image_shape[2],
                               self.clamp, dtype, name='torgb')
    if grown is not None:
      if grown.wants(resolution):
        grown.add(resolution, to_rgb()(x, next(ws)))
      return x, grown.image
    if image is not None:
      image = resample.upsample_skip(image)
    if (self.architecture == 'skip'
        or resolution == pyramid.resolutions()[-1]):
      y = to_rgb()(x, next(ws))
      image = y if image is None else image + y
    return x, image


class Synthesis(nn.Module):
  """ws [N, L, C], noise -> images float32 [N, H, W, channels].

  Attributes:
    pyramid, architecture, clamp: as in `SynthesisBlock`.
  """

  pyramid: Pyramid
  architecture: str = 'skip'
  clamp: float | None = None

  @nn.compact
  def __call__(self, ws: jax.Array, noise: jax.Array | None,
               lod: jax.Array | None = None,
               stage: stages_lib.Stage | None = None) -> jax.Array:
    """Synthesizes.

    Layer l's w is ws[:, l]: b4 conv1 0, b4 torgb 1, b8 conv0 1, b8 conv1 2,
    b8 torgb 3, b16 conv0 3, ...

    Args:
      ws: [N, L, C], L of `num_ws`.
      noise: [N, P] or [1, P], the maps of all layers (`noise_maps`) one after
        the other, or None.
      lod, stage: of networks that grow, as in `Generator.synthesize`.
    """
    x = image = grown = None
    resolutions = self.pyramid.resolutions()
    if lod is not None:
      grown = growing.Blend(resolutions[-1], lod, stage)
      resolutions = growing.sizes(grown.resolution)
    index, maps = 0, self._split(noise)
    for resolution in resolutions:
      convolutions = 1 if resolution == 4 else 2
      x, image = SynthesisBlock(
          self.pyramid, resolution, self.architecture, self.clamp,
          name=f'b{resolution}')(
              x, image, (ws[:, i] for i in range(index, ws.shape[1])), maps,
              grown)
      index += convolutions
    return image

  def _split(self, noise):
    start = 0
    for _, _, (height, width) in noise_maps(self.pyramid):
      if noise is None:
        yield None
      else:
        stop = start + height * width
        yield noise[:, start:stop].reshape(-1, height, width, 1)
        start = stop


def num_ws(pyramid: Pyramid) -> int:
  """Layers that a w enters: convolutions, and the last ToRGB."""
  return 2 * len(pyramid.resolutions())


def noise_maps(pyramid: Pyramid) -> list[tuple[str, str, tuple[int, int]]]:
  """(block, layer, (height, width)) of every layer with noise, in order."""
  return [(f'b{r}', layer, pyramid.size(r)) for r in pyramid.resolutions()
          for layer in (('conv1',) if r == 4 else ('conv0', 'conv1'))]


def noise_size(pyramid: Pyramid) -> int:
  """Pixels of the noise maps of all layers."""
  return sum(math.prod(size) for _, _, size in noise_maps(pyramid))


class Generator(nn.Module):
  """Mapping and synthesis, with what is not trained.

  Collections: 'moving' {w_avg [C]}, the average w, and of networks that grow
  `lod`, how far they are; 'noise' {b8: {conv0: {noise_const [h, w]}}, ...},
  fixed noise.

  Attributes:
    pyramid, architecture, clamp: as in `SynthesisBlock`.
    w_dim, mapping_layers, classes, lr_multiplier: as in `MappingNetwork`.
    first_lod: the lod of the untrained network; None: it does not grow.
  """

  pyramid: Pyramid
  architecture: str = 'skip'
  clamp: float | None = None
  w_dim: int = 512
  mapping_layers: int = 8
  classes: int = 0
  lr_multiplier: float = 0.01
  first_lod: float | None = None

  def setup(self):
    self.mapping = MappingNetwork(self.w_dim, self.mapping_layers, self.classes,
                           self.lr_multiplier)
    self.synthesis = Synthesis(self.pyramid, self.architecture, self.clamp)
    self.variable('moving', 'w_avg', jnp.zeros, (self.w_dim,))
    if self.first_lod is not None:
      self.variable('moving', 'lod', lambda: jnp.float32(self.first_lod))
    for r in self.pyramid.resolutions():
      self.variable('noise', f'b{r}', self._draw_noise, f'b{r}')

  def _draw_noise(self, block):
    return {layer: {'noise_const': jax.random.normal(
        self.make_rng('params'), size)}
            for name, layer, size in noise_maps(self.pyramid) if name == block}

  def __call__(self, z: jax.Array, labels: jax.Array | None,
               noise: jax.Array | None) -> jax.Array:
    """z [N, z_dim], labels [N], noise [N, P] -> images [N, H, W, channels]."""
    return self.synthesize(self.map(z, labels), noise)

  def map(self, z: jax.Array, labels: jax.Array | None) -> jax.Array:
    """z [N, z_dim], labels [N] -> w [N, C]."""
    return self.mapping(z, labels)

  def synthesize(self, ws: jax.Array, noise: jax.Array | None,
                 lod: jax.Array | None = None,
                 stage: stages_lib.Stage | None = None) -> jax.Array:
    """Makes images.

    Args:
      ws: [N, L, C], or one w [N, C] for all layers.
      noise: as in `Synthesis`; the maps of the stage's layers suffice.
      lod: of networks that grow, float32 scalar; `moving/lod` by default.
      stage: of networks that grow: compute images of its resolution, by its
        layers. None: of the last resolution, where pixels repeat if lod is 1
        or more, by all layers.
    """
    if lod is None and self.first_lod is not None:
      lod = self.get_variable('moving', 'lod')
    return self.synthesis(w_space.broadcast(ws, num_ws(self.pyramid)), noise,
                          lod, stage)

  def constant_noise(self) -> jax.Array:
    """The fixed noise, [1, P]."""
    return jnp.concatenate([
        self.get_variable('noise', block)[layer]['noise_const'].reshape(1, -1)
        for block, layer, _ in noise_maps(self.pyramid)], -1)


# --- Discriminator -----------------------------------------------------------


def joins(x, architecture: str, grown, resolution: int) -> bool:
  """Whether a block of D takes an image, see `from_rgb`."""
  return (x is None or architecture == 'skip'
          or grown is not None and grown.wants(resolution))


def from_rgb(x, image, features: int, resolution: int, grown=None,
             clamp: float | None = None):
  """Features of an image, by the calling block's `fromrgb`, joined to x.

  Args:
    x: [N, h, w, features] of the blocks before, or None.
    image: [N, h, w, channels].
    features: channels of the result.
    resolution: of the block.
    grown: blends both, of networks that grow; None adds them.
    clamp: bound of the features of the image; None for none.
  """
  y = equalized.leaky_relu(
      equalized.EqualizedConv(features, 1, name='fromrgb')(image), clamp=clamp)
  if x is None:
    return y
  if grown is None:
    return x + y
  return growing.lerp(x, y, grown.weight(2 * resolution).astype(x.dtype))


class DiscriminatorBlock(nn.Module):
  """FromRGB where an image comes in, two convolutions, half the resolution.

  Attributes:
    pyramid, resolution, architecture, clamp: as in `SynthesisBlock`.
  """

  pyramid: Pyramid
  resolution: int
  architecture: str = 'resnet'
  clamp: float | None = None

  @nn.compact
  def __call__(self, x, image, grown=None):
    """x [N, h, w, I] or None, image or None -> those of half the size.

    `grown` is as in `from_rgb`.
    """
    features = self.pyramid.channels(self.resolution)
    narrower = self.pyramid.channels(self.resolution // 2)
    dtype = self.pyramid.type_of(self.resolution)
    x = None if x is None else x.astype(dtype)
    if joins(x, self.architecture, grown, self.resolution):
      x = from_rgb(x, image.astype(dtype), features, self.resolution, grown,
                   self.clamp)
    if grown is not None:
      image = resample.average_pool(image)
    else:
      image = (resample.downsample2d(image) if self.architecture == 'skip'
               else None)
    residual = self.architecture == 'resnet'
    h = equalized.leaky_relu(equalized.EqualizedConv(
        features, 3, name='conv0')(x), clamp=self.clamp)
    h = equalized.EqualizedConv(narrower, 3, fir.conv_down, name='conv1')(h)
    if not residual:
      return equalized.leaky_relu(h, clamp=self.clamp), image
    h = equalized.leaky_relu(h, 1.0, self.clamp and self.clamp * SQRT_HALF)
    skip = equalized.EqualizedConv(
        narrower, 1, fir.conv1x1_down, gain=SQRT_HALF, use_bias=False,
        name='skip')(x)
    return skip + h, image


class DiscriminatorEpilogue(nn.Module):
  """Minibatch standard deviation, 3x3 convolution, two dense layers; float32.

  Attributes:
    features: channels.
    outputs: 1, or the size of the mapped label.
    architecture, clamp: as in `SynthesisBlock`.
    mbstd_group, mbstd_channels, mbstd_order: see nn/minibatch.py; no channels:
      none.
  """

  features: int
  outputs: int = 1
  architecture: str = 'resnet'
  clamp: float | None = None
  mbstd_group: int = 4
  mbstd_channels: int = 1
  mbstd_order: str = 'contiguous'

  @nn.compact
  def __call__(self, x, image, grown=None):
    x = None if x is None else x.astype(_full(x.dtype))
    if joins(x, self.architecture, grown, 4):
      x = from_rgb(x, image, self.features, 4, grown)
    if self.mbstd_channels:
      x = minibatch.minibatch_stddev(x, self.mbstd_group, self.mbstd_channels,
                                     self.mbstd_order)
    x = equalized.leaky_relu(equalized.EqualizedConv(
        self.features, 3, conv.conv2d, name='conv')(x), clamp=self.clamp)
    x = x.reshape(x.shape[0], -1)
    x = equalized.leaky_relu(
        equalized.EqualizedDense(self.features, name='fc')(x))
    return equalized.EqualizedDense(self.outputs, name='out')(x)


class Discriminator(nn.Module):
  """Images float32 [N, H, W, channels], labels [N] -> logits [N], float32.

  Attributes:
    pyramid, architecture, clamp: as in `SynthesisBlock`.
    classes: of the label; 0 without.
    mapping_layers, lr_multiplier: of the label's mapping network.
    mbstd_group, mbstd_channels, mbstd_order: as in `DiscriminatorEpilogue`.
  """

  pyramid: Pyramid
  architecture: str = 'resnet'
  clamp: float | None = None
  classes: int = 0
  mapping_layers: int = 8
  lr_multiplier: float = 0.01
  mbstd_group: int = 4
  mbstd_channels: int = 1
  mbstd_order: str = 'contiguous'

  @nn.compact
  def __call__(self, image: jax.Array, labels: jax.Array | None = None,
               lod: jax.Array | None = None,
               stage: stages_lib.Stage | None = None) -> jax.Array:
    """Judges images.

    Args:
      image: [N, H, W, channels], at the resolution of the stage.
      labels: [N], of a conditional network.
      lod: of networks that grow, float32 scalar; None: it does not grow.
      stage: compute its layers alone; None: all, whatever the lod.
    """
    x = grown = None
    resolutions = self.pyramid.resolutions()
    if lod is not None:
      grown = growing.Blend(resolutions[-1], lod, stage)
      resolutions = growing.sizes(grown.resolution)
    for resolution in reversed(resolutions[1:]):
      x, image = DiscriminatorBlock(
          self.pyramid, resolution, self.architecture, self.clamp,
          name=f'b{resolution}')(x, image, grown)
    features = self.pyramid.channels(4)
    x = DiscriminatorEpilogue(
        features, features if self.classes else 1, self.architecture,
        self.clamp, self.mbstd_group, self.mbstd_channels, self.mbstd_order,
        name='b4')(x, image, grown)
    if not self.classes:
      return x.reshape(-1)
    mapped = MappingNetwork(features, self.mapping_layers, self.classes,
                     self.lr_multiplier, name='mapping')(None, labels)
    return jnp.sum(x * mapped, -1) / math.sqrt(features)
