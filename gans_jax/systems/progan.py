"""ProGAN: Progressive Growing of GANs for Improved Quality, Stability, and
Variation.

Karras, Aila, Laine, Lehtinen 2018, arXiv:1710.10196. Networks of table 2,
growing of section 2 and figure 2, and the numbers of the authors' codes
(tkarras/progressive_growing_of_gans: `master`, in TensorFlow, and
`original-theano-version`, which made the paper's results).

  Part                              Config
  minibatch stddev, sec. 3          model.mbstd_group (whole batch: 16)
  equalized learning rate, sec. 4.1 model.equalized
  pixelwise normalization, sec. 4.2 model.pixel_norm
  WGAN-GP with drift, app. A.1      loss.*
  AC-GAN labels (of the code)       model.conditional
  batch and rate by resolution      growing.*, `PRESETS`
  table 1, rows a to h              `TABLE_1`
  CIFAR-10, app. B                  `CIFAR10`

Resolutions are those of the stage (core/stages.py): a network of resolution R
that is at resolution r works on images of r pixels, where the authors' takes
images of R pixels that repeat their r (and D begins by averaging). Their
gradient penalty is on the gradient with respect to the R^2 repeated pixels,
whose norm is R / r times smaller; `d_loss` divides by it. (Native gradients
without that factor make another game.)

Deviations:
1. Adam's epsilon is added as in the paper on Adam; TensorFlow's is multiplied
   by a factor that goes from 0.1 to 1 over the first hundreds of updates.
2. The average of G takes the weights after G's update; there, before it.
3. AC-GAN labels of generated images are those of the real batch, in G's step
   too, where the code draws them from the data set anew.
4. The blended reals are not rounded to bytes (Theano's are, TensorFlow's are
   not).
5. Rows a to c: batch normalization samples by running statistics;
   `generate_by_batch` (the command's --batch_norm=batch) by the batch's, as
   the Theano code always does.
6. Row e*: see nn/minibatch_discrimination.py.

Labels are concatenated to z before both are normalized, as in TensorFlow.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import optax

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import generation
from gans_jax.core import images
from gans_jax.core import mesh
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import stages as stages_lib
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.losses import adversarial
from gans_jax.losses import classification
from gans_jax.losses import penalties
from gans_jax.losses import regularizers as regularizers_lib
from gans_jax.nn import conv
from gans_jax.nn import equalized
from gans_jax.nn import growing
from gans_jax.nn import minibatch
from gans_jax.nn import minibatch_discrimination
from gans_jax.nn import norm
from gans_jax.nn import pixel_norm as pixel_norm_lib
from gans_jax.nn import resample

ConfigDict = config_dict.ConfigDict

SQRT2 = equalized.SQRT2

# The code's config.py: batch and learning rate by resolution, for so many
# GPUs; the rates of 'v1' are the paper's.
PRESETS: dict[str, dict[str, Any]] = {
    'v1': {
        'batch_size': 16, 'total_kimg': 19_000.0, 'model.mbstd_group': 16,
        'growing.stable_kimg': 800.0, 'growing.fade_kimg': 800.0,
        'growing.batch_sizes': ((256, 14), (512, 6), (1024, 3))},
    'v2-1gpu': {
        'batch_size': 4, 'total_kimg': 12_000.0,
        'growing.batch_sizes': (
            (4, 128), (8, 128), (16, 128), (32, 64), (64, 32), (128, 16),
            (256, 8), (512, 4)),
        'growing.lr': ((1024, 0.0015),)},
    'v2-2gpus': {
        'batch_size': 8, 'total_kimg': 12_000.0,
        'growing.batch_sizes': (
            (4, 256), (8, 256), (16, 128), (32, 64), (64, 32), (128, 16),
            (256, 8)),
        'growing.lr': ((512, 0.0015), (1024, 0.002))},
    'v2-4gpus': {
        'batch_size': 16, 'total_kimg': 12_000.0,
        'growing.batch_sizes': (
            (4, 512), (8, 256), (16, 128), (32, 64), (64, 32), (128, 16)),
        'growing.lr': ((256, 0.0015), (512, 0.002), (1024, 0.003))},
    'v2-8gpus': {
        'batch_size': 32, 'total_kimg': 12_000.0,
        'growing.batch_sizes': (
            (4, 512), (8, 256), (16, 128), (32, 64), (64, 32)),
        'growing.lr': ((128, 0.0015), (256, 0.002), (512, 0.003),
                       (1024, 0.003))},
}

_GULRAJANI = {
    'total_kimg': 10_000.0, 'batch_size': 64,
    'growing.stable_kimg': 800.0, 'growing.fade_kimg': 800.0,
    'growing.repeats': 1,
    'model.fmap_base': 2048, 'model.z_dim': 128,
    'model.normalize_latents': False, 'model.equalized': False,
    'model.pixel_norm': False, 'model.mbstd_group': 0,
    'model.fused_scale': False,  # the Theano code pools after the activation
    'model.norm_G': 'batch', 'model.norm_D': 'layer',
    'model.activation_G': 'relu', 'model.tanh': True,
    'loss.n_critic': 5, 'loss.drift': 0.0,
    'optimizer.G.lr': 1e-4, 'optimizer.D.lr': 1e-4,
    'optimizer.G.b2': 0.9, 'optimizer.D.b2': 0.9,
    'ema.decay': 0.999**20}
_SMALL = {**_GULRAJANI, 'batch_size': 16, 'ema.decay': 0.999**5}
_REVISED = {
    **_SMALL, 'model.z_dim': 512, 'model.normalize_latents': True,
    'model.norm_G': 'none', 'model.norm_D': 'none',
    'model.activation_G': 'lrelu', 'model.tanh': False,
    'loss.n_critic': 1, 'loss.drift': 0.001,
    'optimizer.G.b2': 0.99, 'optimizer.D.b2': 0.99, 'ema.decay': 0.999}
_STDDEV = {**_REVISED, 'model.mbstd_group': 16}
_EQUALIZED = {**_STDDEV, 'model.equalized': True,
              'optimizer.G.lr': 1e-3, 'optimizer.D.lr': 1e-3}
_PIXELNORM = {**_EQUALIZED, 'model.pixel_norm': True}

# Table 1, at 128x128, each row on top of the one before (e* beside e).
TABLE_1: dict[str, dict[str, Any]] = {
    'a': {**_GULRAJANI, 'growing.first_resolution': 128,
          'growing.stable_kimg': 0.0, 'growing.fade_kimg': 0.0},
    'b': _GULRAJANI,
    'c': _SMALL,
    'd': _REVISED,
    'e*': {**_REVISED, 'model.mb_kernels': 100},
    'e': _STDDEV,
    'f': _EQUALIZED,
    'g': _PIXELNORM,
    # "Converged": full capacity, trained for longer.
    'h': {**_PIXELNORM, 'model.fmap_base': 8192, 'total_kimg': 15_000.0},
}

CIFAR10: dict[str, Any] = {
    'batch_size': 16, 'total_kimg': 20_000.0, 'growing.repeats': 1,
    'growing.stable_kimg': 400.0, 'growing.fade_kimg': 400.0,
    'model.fmap_base': 4096, 'model.fmap_max': 128, 'model.z_dim': 128,
    'model.mbstd_group': 16, 'model.fused_scale': False,
    'loss.target': 750.0, 'loss.simultaneous': True}

# Debug forms of the experiments: 4x4 and 8x8 in three stages of two steps.
TINY: dict[str, Any] = {
    'data.resolution': 8, 'model.fmap_base': 32, 'model.fmap_max': 8,
    'model.z_dim': 8, 'growing.repeats': 1, 'growing.batch_sizes': (),
    'growing.stable_kimg': 0.015, 'growing.fade_kimg': 0.017}


# --- Networks ---------------------------------------------------------------


def channels(resolution: int, base: int, most: int) -> int:
  """Feature maps at a resolution: min(2 base / resolution, most)."""
  return min(2 * base // resolution, most)


class ScalarLayerNorm(nn.Module):
  """Layer norm of the Theano code: one gain for all, a bias per channel."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    gain = self.param('gain', nn.initializers.ones, ())
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    axes = tuple(range(1, x.ndim))
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axes, keepdims=True)
    var = jnp.mean(jnp.square(y), axes, keepdims=True)
    y = y * jax.lax.rsqrt(var + 1e-4) * gain
    return (y + bias.reshape(*[1] * (y.ndim - 1), -1)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Layers:
  """How a layer is made: weights, then norm, activation, pixel norm.

  The methods add layers called `name` to the module that calls them.

  Attributes:
    equalized: equalized learning rate (section 4.1).
    pixel_norm: after each activation (section 4.2).
    norm: 'none', 'batch' or 'layer', before the activation.
    bn_scope: see `norm.BatchNorm`.
    activation: 'lrelu' (0.2) or 'relu'.
    fused: resampling is one operation with its convolution: D pools before
      bias and activation, G's kernels are stored flipped.
    blur: [1, 2, 1] before D's pooling convolutions (StyleGAN).
    dtype: of the computation.
  """

  equalized: bool = True
  pixel_norm: bool = False
  norm: str = 'none'
  bn_scope: str = 'global'
  activation: str = 'lrelu'
  fused: bool = True
  blur: bool = False
  dtype: Any = jnp.float32

  def conv(self, x, features, kernel, name, train=False,
           function=conv.conv2d):
    x = equalized.EqualizedConv(
        features, kernel, function, SQRT2, use_bias=self.norm == 'none',
        equalized=self.equalized, dtype=self.dtype, name=name)(x)
    return self.finish(x, name, train)

  def dense(self, x, features, name, gain=SQRT2):
    return equalized.EqualizedDense(
        features, gain, equalized=self.equalized, dtype=self.dtype,
        use_bias=self.norm == 'none', name=name)(x)

  def finish(self, x, name, train=False):
    """What follows the weights: normalization, activation, pixel norm."""
    if self.norm == 'batch':
      x = norm.BatchNorm(epsilon=1e-4, statistics=self.bn_scope,
                         name=f'{name}_norm')(x, train)
    elif self.norm == 'layer':
      x = ScalarLayerNorm(name=f'{name}_norm')(x)
    x = nn.relu(x) if self.activation == 'relu' else nn.leaky_relu(x, 0.2)
    return pixel_norm_lib.pixel_norm(x) if self.pixel_norm else x

  def to_rgb(self, x, features, name):
    """1x1 convolution of gain 1, no activation, float32 out."""
    return equalized.EqualizedConv(
        features, 1, gain=1.0, equalized=self.equalized, dtype=self.dtype,
        name=name)(x).astype(jnp.float32)

  def from_rgb(self, x, features, name):
    """1x1 convolution and activation."""
    x = equalized.EqualizedConv(
        features, 1, gain=SQRT2, equalized=self.equalized, dtype=self.dtype,
        name=name)(x)
    return nn.leaky_relu(x, 0.2)


def upsample_conv(x: jax.Array, w: jax.Array) -> jax.Array:
  """Nearest upsampling and a 3x3 convolution with w flipped.

  That is what the fused form of the authors' code, a transposed convolution
  with the sum of w's four shifted copies, computes.
  """
  return resample.upsample_conv3x3(x, w[::-1, ::-1])


def blur_conv_downsample(x: jax.Array, w: jax.Array) -> jax.Array:
  """[1, 2, 1] blur, 3x3 convolution, mean of 2x2 (StyleGAN)."""
  return resample.conv3x3_downsample(resample.blur(x, (1, 2, 1)), w)


class GeneratorBlock(nn.Module):
  """Two layers at one resolution: x [N, r/2, r/2, C] -> [N, r, r, features].

  At 4x4 x is [N, C]: the first layer is a dense one, its gain a quarter of
  the others' as in the Theano code, which counts outputs in its fan-in.
  """

  layers: Layers
  features: int
  resolution: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    layers, features = self.layers, self.features
    if self.resolution == 4:
      x = DenseToMap(layers, features, name='Dense')(x)
      x = layers.finish(x, 'Dense', train)
      return layers.conv(x, features, 3, 'Conv', train)
    up = upsample_conv if layers.fused else resample.upsample_conv3x3
    name = 'Conv0_up' if layers.fused else 'Conv0'
    x = layers.conv(x, features, 3, name, train, up)
    return layers.conv(x, features, 3, 'Conv1', train)


class DenseToMap(nn.Module):
  """Dense layer to 4x4 pixels, with one bias per channel.

  Params `kernel` [C, 16 features] (rows, columns, channels) and `bias`.
  """

  layers: Layers
  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, C] -> [N, 4, 4, features]."""
    layers = self.layers
    y = equalized.kernel(self, (x.shape[-1], 16 * self.features), SQRT2 / 4,
                         equalized=layers.equalized)
    y = x.astype(layers.dtype) @ y.astype(layers.dtype)
    y = y.reshape(-1, 4, 4, self.features)
    if layers.norm == 'none':
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      y = y + bias.reshape(1, 1, 1, -1).astype(y.dtype)
    return y


class Generator(nn.Module):
  """Latents to images (table 2, left), at every stage of growing.

  Params, by the authors' names: '4x4' {Dense, Conv}, '8x8' {Conv0_up, Conv1},
  ..., and ToRGB_lod0 (at the last resolution), ToRGB_lod1, ... Collection
  'moving' holds `lod`, how far growing is, for sampling.

  Attributes:
    layers: how layers are made.
    image_shape: (R, R, channels).
    fmap_base: see `channels`.
    fmap_max: see `channels`.
    normalize_latents: pixel norm of the input.
    tanh: at the end.
    first_lod: the lod of the untrained network.
  """

  layers: Layers
  image_shape: tuple[int, int, int]
  fmap_base: int = 8192
  fmap_max: int = 512
  normalize_latents: bool = True
  tanh: bool = False
  first_lod: float = 0.0

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array | None = None,
               train: bool = False, lod: jax.Array | None = None,
               stage: stages_lib.Stage | None = None) -> jax.Array:
    """Makes images.

    Args:
      z: [N, C].
      labels: one-hot [N, L], or None.
      train: batch statistics, where there is batch normalization.
      lod: float32 scalar; `moving/lod` by default.
      stage: compute images of its resolution; None: of resolution R, where
        pixels repeat if lod is 1 or more, by all layers, whatever the lod.

    Returns:
      [N, r, r, channels], about -1 to 1.
    """
    kept = self.variable('moving', 'lod',
                         lambda: jnp.float32(self.first_lod))
    lod = kept.value if lod is None else lod
    size, colours = self.image_shape[0], self.image_shape[-1]
    x = z if labels is None else jnp.concatenate([z, labels], -1)
    if self.normalize_latents:
      x = pixel_norm_lib.pixel_norm(x)
    rgb = growing.Blend(size, lod, stage)
    for r in growing.sizes(rgb.resolution):
      features = channels(r, self.fmap_base, self.fmap_max)
      x = GeneratorBlock(self.layers, features, r, name=f'{r}x{r}')(x, train)
      if rgb.wants(r):
        rgb.add(r, self.layers.to_rgb(x, colours, f'ToRGB_lod{rgb.lod_of(r)}'))
    return jnp.tanh(rgb.image) if self.tanh else rgb.image


class DiscriminatorBlock(nn.Module):
  """Two layers at one resolution: x [N, r, r, C] -> [N, r/2, r/2, features].

  At 4x4: minibatch statistics, a convolution and the dense layers, to
  [N, outputs].
  """

  layers: Layers
  inside: int
  features: int
  outputs: int = 0
  mbstd_group: int = 0
  mbstd_order: str = 'contiguous'
  mb_kernels: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    layers = self.layers
    if x.shape[1] > 4:
      x = layers.conv(x, self.inside, 3, 'Conv0')
      if not layers.fused:
        x = layers.conv(x, self.features, 3, 'Conv1')
        return resample.average_pool(x)
      down = (blur_conv_downsample if layers.blur else
              resample.conv3x3_downsample)
      return layers.conv(x, self.features, 3, 'Conv1_down', function=down)
    layers = dataclasses.replace(layers, dtype=jnp.float32)
    x = x.astype(jnp.float32)
    if self.mbstd_group > 1:
      x = minibatch.minibatch_stddev(x, self.mbstd_group,
                                     order=self.mbstd_order)
    x = layers.conv(x, self.inside, 3, 'Conv')
    x = layers.dense(x.reshape(x.shape[0], -1), self.features, 'Dense0')
    x = layers.finish(x, 'Dense0')
    if self.mb_kernels:
      x = minibatch_discrimination.MinibatchDiscrimination(
          self.mb_kernels, name='MinibatchDiscrimination')(x)
    return equalized.EqualizedDense(
        self.outputs, 1.0, equalized=layers.equalized, name='Dense1')(x)


class Discriminator(nn.Module):
  """Images to values (table 2, right), at every stage of growing.

  Params: FromRGB_lod{k}, '{r}x{r}' {Conv0, Conv1_down}, '4x4' {Conv, Dense0,
  Dense1}.

  Attributes:
    layers: how layers are made.
    resolution: R, where growing ends.
    fmap_base: see `channels`.
    fmap_max: see `channels`.
    outputs: values for each image.
    mbstd_group: examples of a group of the minibatch statistics; 0 = off.
    mbstd_order: which examples, see nn/minibatch.py.
    mb_kernels: kernels of minibatch discrimination; 0 = off.
  """

  layers: Layers
  resolution: int
  fmap_base: int = 8192
  fmap_max: int = 512
  outputs: int = 1
  mbstd_group: int = 4
  mbstd_order: str = 'contiguous'
  mb_kernels: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, lod: jax.Array | float = 0.0,
               stage: stages_lib.Stage | None = None) -> jax.Array:
    """Judges images.

    Args:
      x: [N, r, r, C]; r is the stage's resolution, R without one.
      lod: float32 scalar.
      stage: compute its layers alone; None: all of them, whatever the lod.

    Returns:
      float32 [N, outputs].
    """
    def features(r):
      return channels(r, self.fmap_base, self.fmap_max)

    def from_rgb(image):
      r = image.shape[1]
      return self.layers.from_rgb(image, features(r),
                                  f'FromRGB_lod{lods.lod_of(r)}')

    lods = growing.Blend(self.resolution, lod, stage)
    image, x = x, None
    for r in reversed(growing.sizes(lods.resolution)):
      x = from_rgb(image) if x is None else x
      x = DiscriminatorBlock(
          self.layers, features(r), features(max(r // 2, 2)), self.outputs,
          self.mbstd_group, self.mbstd_order, self.mb_kernels,
          name=f'{r}x{r}')(x)
      if r > 4 and lods.wants(r // 2):
        image = resample.average_pool(image)
        x = growing.lerp(x, from_rgb(image), lods.weight(r).astype(x.dtype))
    return x


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: CelebA-HQ, table 1's row h."""
  adam = dict(b1=0.0, b2=0.99)
  return ConfigDict(dict(
      batch_size=16,             # where growing.batch_sizes has no other
      model=dict(
          fmap_base=8192,            # channels: see `channels`
          fmap_max=512,
          z_dim=512,
          normalize_latents=True,
          equalized=True,
          pixel_norm=True,
          norm_G='none',             # 'batch'
          norm_D='none',             # 'layer'
          bn_scope='global',
          activation_G='lrelu',      # 'relu'
          tanh=False,
          fused_scale=True,          # False: D pools after the activation
          mbstd_group=4,             # 0 = no minibatch statistics
          mbstd_order='contiguous',  # or 'strided', as in the code
          mb_kernels=0,              # of minibatch discrimination; 0 = off
          conditional=False,         # AC-GAN, by the class of data.labels
      ),
      growing=stages_lib.default_config(),
      loss=dict(
          n_critic=1,
          penalty='wgan_gp',         # 'none'
          penalty_weight=10.0,
          penalty_form='grad',       # or 'jvp'
          target=1.0,                # gamma of appendix A.1; CIFAR-10: 750
          drift=0.001,
          acgan=1.0,                 # weight of the class losses
          simultaneous=False,        # G and D from the same weights (Theano)
          **regularizers_lib.loss_config(),
      ),
      augment=regularizers_lib.augment_config(),
      optimizer=dict(
          G=optimizers.default_config('adam', 1e-3, **adam),
          D=optimizers.default_config('adam', 1e-3, **adam),
          rampup_kimg=0.0,           # Theano: 40, lr exp(-5 (1 - t)^2)
      ),
      ema=dict(decay=0.999, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  system_lib.check_square_power_of_two('progan', spec, 4)
  model, loss = config.model, config.loss
  for key, choices in (
      ('model.norm_G', ('none', 'batch')), ('model.norm_D', ('none', 'layer')),
      ('model.activation_G', ('lrelu', 'relu')),
      ('model.mbstd_order', minibatch.ORDERS),
      ('loss.penalty', ('wgan_gp', 'none')),
      ('loss.penalty_form', ('grad', 'jvp')),
      ('optimizer.G.lr_schedule', ('constant',)),
      ('optimizer.D.lr_schedule', ('constant',))):
    config_lib.check_choice(config, key, choices)
  config_lib.check_positive(config, 'model.fmap_base', 'model.fmap_max',
                            'model.z_dim', 'loss.n_critic', 'loss.target')
  norm.check_scope('model.bn_scope', model.bn_scope)
  if loss.simultaneous and loss.n_critic > 1:
    raise errors.UserError(
        'config.loss.simultaneous updates both networks once a step, but '
        f'loss.n_critic is {loss.n_critic}: set it to 1.')
  classes = system_lib.num_classes(config, spec)
  stages = stages_lib.growing(config, spec.resolution, loss.n_critic)
  check_groups(config, stages, model.mbstd_group)
  shape = (spec.resolution, spec.resolution, spec.channels)
  common = dict(equalized=model.equalized, fused=model.fused_scale,
                dtype=jnp.dtype(config.dtype))
  nets = {
      'G': Generator(
          Layers(pixel_norm=model.pixel_norm, norm=model.norm_G,
                 bn_scope=model.bn_scope, activation=model.activation_G,
                 **common),
          shape, model.fmap_base, model.fmap_max, model.normalize_latents,
          model.tanh, first_lod(stages, spec.resolution)),
      'D': Discriminator(
          Layers(norm=model.norm_D, **common), spec.resolution,
          model.fmap_base, model.fmap_max, 1 + classes, model.mbstd_group,
          model.mbstd_order, model.mb_kernels),
  }
  return System(config=config, nets=nets, stages=stages,
                stage=stages.parts[-1], classes=classes,
                regularizers=regularizers_lib.create(config),
                batches_per_step=loss.n_critic, image_shape=shape,
                requires=('image', 'label') if classes else ('image',),
                conditions=('label',) if classes else ())


def first_lod(stages: stages_lib.Stages, resolution: int) -> float:
  """lod of a network of `resolution` before its first step."""
  first = stages.parts[0]
  return float(math.log2(resolution // first.resolution)) + float(
      first.fade(0))


def check_groups(config: ConfigDict, stages: stages_lib.Stages,
                 group: int) -> None:
  """Refuses batches that do not divide into groups of minibatch statistics."""
  for stage in stages.parts:
    part = stage.batch_size // config.microbatches
    if group > 1 and part % min(group, part or 1):
      raise errors.UserError(
          f'The batch size at resolution {stage.resolution} is '
          f'{stage.batch_size} in {config.microbatches} microbatch(es), which '
          f'does not divide into groups of model.mbstd_group={group}. Set '
          '--config.growing.batch_sizes or --config.model.mbstd_group.')


def make_optimizers(config: ConfigDict, stage: stages_lib.Stage
                    ) -> dict[str, optax.GradientTransformation]:
  """Returns {player: optimizer} of one stage; their states have one shape.

  The optimizer's count starts anew at each stage.
  """
  tx = {}
  for player, updates in (('G', 1), ('D', config.loss.get('n_critic', 1))):
    values = config_dict.ConfigDict(config.optimizer[player].to_dict())
    values.lr = stages_lib.at_resolution(config.growing.lr, stage.resolution,
                                         values.lr)
    tx[player] = optimizers.make(values, total_updates=1)
    rampup = config.optimizer.rampup_kimg * 1000
    if rampup:
      def ramp(count, updates=updates, rampup=rampup):
        shown = stage.first_image + count // updates * stage.images_per_step
        t = jnp.minimum(shown / rampup, 1.0)
        return jnp.exp(-5.0 * jnp.square(1.0 - t))

      tx[player] = optax.chain(tx[player], optax.scale_by_schedule(ramp))
  return tx


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """ProGAN; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  stages: stages_lib.Stages
  stage: stages_lib.Stage
  classes: int
  regularizers: regularizers_lib.Regularizers
  batches_per_step: int
  image_shape: tuple[int, int, int]
  requires: tuple[str, ...]
  conditions: tuple[str, ...]

  players = {'G': ('G',), 'D': ('D',)}
  options = ()
  outputs = {}

  def frozen(self) -> dict:
    return {}

  def at_stage(self, stage: stages_lib.Stage) -> 'System':
    """Returns the same system with the train step of `stage`."""
    return dataclasses.replace(self, stage=stage)

  @property
  def tx(self) -> dict[str, optax.GradientTransformation]:
    return make_optimizers(self.config, self.stage)

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z = jnp.zeros((2, self.config.model.z_dim))
    labels = jnp.zeros((2, self.classes)) if self.classes else None
    x = jnp.zeros((2, *self.image_shape))
    nets = {
        'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, labels,
                                 train=True),
        'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x),
    }
    return state_lib.create(key, nets, self.players, self.tx, ema=('G',),
                            aux=self.regularizers.init())

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], normal, row i from keys[i]."""
    return rng.normals(keys, self.config.model.z_dim)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Returns images [N, R, R, C]; see core/system.py.

    While the network grows, they repeat the pixels of its resolution.

    Args:
      variables: {'G': variables}.
      keys: [N].
      conditions: may hold 'z' [N, z_dim], and 'label' [N] where the model is
        conditional; labels are drawn from the keys otherwise.
    """
    return self._sample(variables, keys, conditions, train=False)[0]

  def generate_by_batch(self, variables, keys: jax.Array, conditions=None):
    """As `generate`, by the batch's statistics; see core/system.py."""
    return self._sample(variables, keys, conditions, train=True)

  def _sample(self, variables, keys, conditions, train: bool):
    labels = generation.labels(keys, conditions, self.classes)
    return generation.apply_generator(
        self, variables, generation.latents(self, keys, conditions),
        self._one_hot(labels), train=train)

  def _one_hot(self, labels):
    return None if labels is None else jax.nn.one_hot(labels, self.classes)

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """n_critic updates of D, then G's, at the resolution of the stage."""
    del frozen
    lod = growing.lod(self.image_shape[0], self.stage, state.step)
    state = growing.reset_optimizers(self.stage, state, self.players, self.tx)
    before = state

    def draw(sampler, name, i, *shape):
      key = jax.random.fold_in(rng.named(state.key, state.step, name), i)
      return mesh.shard_batch(sampler(key, shape))

    def latents(name, i):
      return draw(jax.random.normal, name, i, batch['image'].shape[1],
                  self.config.model.z_dim)

    def update_critic(state, sub, i):
      real = images.to_unit(sub['image'])
      if self.stage.fade_images:
        real = growing.fade_images(real, self.stage.fade(state.step))
      inputs = {'image': real, 'z': latents('z', i),
                'eps': draw(jax.random.uniform, 'eps', i, real.shape[0]),
                **self.regularizers.keys(state, 'D', real.shape[0], i)}
      if self.classes:
        inputs['label'] = sub['label']
      return self.regularizers.remember(*step.update_player(
          state, 'D', self.players['D'], self.tx['D'],
          functools.partial(self.d_loss, state, lod), inputs,
          self.config.microbatches))

    state, d_logs = step.scan_batches(update_critic, state, batch)
    if self.config.loss.simultaneous:
      # One batch of generated images serves both.
      inputs, seen = {'z': latents('z', 0)}, before
    else:
      inputs, seen = {'z': latents('z/g', 0)}, state
    if self.classes:
      inputs['label'] = batch['label'][-1]
    inputs.update(self.regularizers.keys(state, 'G', inputs['z'].shape[0]))
    state, g_logs = step.update_player(
        state, 'G', self.players['G'], self.tx['G'],
        functools.partial(self.g_loss, seen, lod), inputs,
        self.config.microbatches)
    state = growing.keep_lod(state, lod)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.stage.batch_size)
    state = growing.copy_collections(step.finish(state, beta))
    return state, {**d_logs, **g_logs, 'lod': lod}

  def _fake(self, params, mvars, inputs, lod):
    return state_lib.apply_net(
        self.nets['G'], params, mvars, inputs['z'],
        self._one_hot(inputs.get('label')), train=True, lod=lod,
        stage=self.stage)

  def _critic(self, params, x, lod):
    """Returns values [N] and class logits [N, L]."""
    out = self.nets['D'].apply({'params': params}, x, lod, self.stage)
    return out[:, 0], out[:, 1:]

  def d_loss(self, state, lod, params, mvars, inputs):
    """WGAN-GP with drift (appendix A.1), and class losses; G as in `state`."""
    loss = self.config.loss
    fake, _ = self._fake(mesh.replicate(state.params['G']), mvars['G'],
                         inputs, lod)
    fake, real = jax.lax.stop_gradient(fake), inputs['image']

    def judge(x):
      return self._critic(params['D'], x, lod)[0]

    augment = self.regularizers.augment
    real_keys = inputs.get('augment_real')
    fake_keys = inputs.get('augment_fake')
    real_seen, fake_seen = augment(real_keys, real), augment(fake_keys, fake)
    real_values, real_classes = self._critic(params['D'], real_seen, lod)
    fake_values, fake_classes = self._critic(params['D'], fake_seen, lod)
    value = adversarial.wasserstein().d_loss(real_values, fake_values)
    drift = loss.drift * jnp.mean(jnp.square(real_values))
    terms = self.regularizers.terms(
        state,
        regularizers_lib.Judged(judge, real_seen, real_values, real_keys),
        regularizers_lib.Judged(judge, fake_seen, fake_values, fake_keys))
    logs = {'loss/d': value, 'logits/real': jnp.mean(real_values),
            'logits/fake': jnp.mean(fake_values), 'wasserstein': -value,
            'penalty/drift': drift, **terms}
    value = sum(terms.values(), value + drift)
    if loss.penalty == 'wgan_gp':
      scale = growing.pixel_scale(self.image_shape[0], self.stage)
      penalty = penalties.wgan_gp(
          lambda x: judge(augment(real_keys, x)) * scale, real, fake,
          inputs['eps'], loss.penalty_weight, target=loss.target,
          form=loss.penalty_form)
      logs['penalty/wgan_gp'] = penalty
      value = value + penalty
    if self.classes:
      for kind, logits in (('real', real_classes), ('fake', fake_classes)):
        class_loss = classification.cross_entropy(logits, inputs['label'])
        logs[f'loss/d_class_{kind}'] = class_loss
        value = value + loss.acgan * class_loss
    return value, ({}, logs)

  def g_loss(self, state, lod, params, mvars, inputs):
    """-E D(G(z)), and the class loss; D as in `state`."""
    fake, changed = self._fake(params['G'], mvars['G'], inputs, lod)
    fake = self.regularizers.augment(inputs.get('augment_fake'), fake)
    values, classes = self._critic(mesh.replicate(state.params['D']), fake,
                                   lod)
    value = adversarial.wasserstein().g_loss(None, values)
    logs = {'loss/g': value}
    if self.classes:
      class_loss = classification.cross_entropy(classes, inputs['label'])
      logs['loss/g_class'] = class_loss
      value = value + self.config.loss.acgan * class_loss
    return value, ({'G': changed}, logs)
