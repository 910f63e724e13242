"""StyleGAN: A Style-Based Generator Architecture for Generative Adversarial
Networks.

Karras, Laine, Aila 2019, arXiv:1812.04948. Figure 1 and sections 2 and 3,
with the numbers of the authors' code (NVlabs/stylegan). It grows as ProGAN
does (systems/progan.py), from 8x8, and D is ProGAN's with a blur.

  Part                               Config
  mapping network, sec. 2            model.mapping_layers, model.mapping_lr
  AdaIN, eq. 1                       model.styles, model.instance_norm
  constant input                     model.const_input
  noise, sec. 3.2                    model.noise
  bilinear up and down, sec. 2       always: [1, 2, 1] blurs
  mixing regularization, sec. 3.1    loss.style_mixing
  truncation in W, app. B            generate(truncation=0.7)
  R1, sec. 2; WGAN-GP (CelebA-HQ)    loss.objective, loss.penalty; `WGAN_GP`
  tables 1, 2, 4                     `TABLE_1`, `TABLE_2`, `TABLE_4`

R1 is, as in ProGAN, on the gradient with respect to images of the last
resolution whose pixels repeat: at resolution r of R it is (r / R)^2 times
that of the native pixels.

Deviations:
1. Adam's epsilon, and the average of G's weights: ProGAN's 1 and 2.
2. One draw of the mixing cutoff is for the whole batch, there for each
   device's part.
3. Labels of G's step are those of the real batch, there drawn anew.
"""

from collections.abc import Mapping
import dataclasses
import functools
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
from gans_jax.losses import penalties
from gans_jax.losses import regularizers as regularizers_lib
from gans_jax.nn import conv
from gans_jax.nn import equalized
from gans_jax.nn import growing
from gans_jax.nn import minibatch
from gans_jax.nn import pixel_norm
from gans_jax.nn import resample
from gans_jax.nn import w_space
from gans_jax.systems import progan

ConfigDict = config_dict.ConfigDict

SQRT2 = equalized.SQRT2
BLUR = (1, 2, 1)
# From here on the authors' code fuses upsampling with its convolution, which
# stores the kernel flipped.
FUSED_FROM = 128
NOISE_MODES = ('random', 'const', 'none')

_RATES = ((128, 0.0015), (256, 0.002), (512, 0.003), (1024, 0.003))

# CelebA-HQ: ProGAN's loss, and rates that it stands.
WGAN_GP: dict[str, Any] = {
    'loss.objective': 'wasserstein', 'loss.penalty': 'wgan_gp',
    'growing.lr': tuple((r, min(rate, 0.002)) for r, rate in _RATES)}

_TRADITIONAL = {
    'model.styles': False, 'model.instance_norm': False,
    'model.pixel_norm': True, 'model.const_input': False,
    'model.noise': False, 'model.mapping_layers': 0, 'loss.style_mixing': 0.0}

# Table 1 without row A, which is ProGAN's system.
TABLE_1: dict[str, dict[str, Any]] = {
    'B': _TRADITIONAL,
    'C': {'model.const_input': False, 'model.noise': False,
          'loss.style_mixing': 0.0},
    'D': {'model.noise': False, 'loss.style_mixing': 0.0},
    'E': {'loss.style_mixing': 0.0},
    'F': {},
}
TABLE_2: dict[str, dict[str, Any]] = {
    f'mix{percent}': {'loss.style_mixing': percent / 100}
    for percent in (0, 50, 90, 100)}
TABLE_4: dict[str, dict[str, Any]] = {
    'traditional-0': _TRADITIONAL,
    'traditional-8': {**_TRADITIONAL, 'model.mapping_layers': 8},
    **{f'style-{n}': {'model.mapping_layers': n} for n in (0, 1, 2, 8)},
}

# Debug forms of the experiments: 8x8 and 16x16 in three stages of two steps.
TINY: dict[str, Any] = {
    'data.resolution': 16, 'model.fmap_base': 32, 'model.fmap_max': 8,
    'model.z_dim': 8, 'model.w_dim': 8, 'growing.repeats': 1,
    'growing.batch_sizes': (), 'growing.stable_kimg': 0.015,
    'growing.fade_kimg': 0.017}


# --- Networks ---------------------------------------------------------------


class LabelConcat(nn.Module):
  """Appends a learnt vector of the label to z, of its size."""

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array) -> jax.Array:
    """z [N, C], one-hot labels [N, L] -> [N, 2C]."""
    w = self.param('kernel', nn.initializers.normal(1.0),
                   (labels.shape[-1], z.shape[-1]), jnp.float32)
    return jnp.concatenate([z, labels @ w], -1)


class MappingNetwork(nn.Module):
  """z [N, C] and one-hot labels -> w [N, features], float32 (figure 1b).

  Attributes:
    features: of every layer and of w.
    layers: number of layers.
    lr_multiplier: of their learning rate.
  """

  features: int = 512
  layers: int = 8
  lr_multiplier: float = 0.01

  @nn.compact
  def __call__(self, z: jax.Array,
               labels: jax.Array | None = None) -> jax.Array:
    x = z.astype(jnp.float32)
    if labels is not None:
      x = LabelConcat(name='LabelConcat')(x, labels)
    x = pixel_norm.pixel_norm(x)
    for i in range(self.layers):
      x = equalized.EqualizedDense(
          self.features, SQRT2, self.lr_multiplier, name=f'Dense{i}')(x)
      x = nn.leaky_relu(x, 0.2)
    return x


@dataclasses.dataclass(frozen=True)
class Options:
  """What tables 1 and 4 switch in the synthesis network.

  Attributes:
    styles: AdaIN's scale and shift, made from w.
    instance_norm: AdaIN's normalization.
    pixel_norm: ProGAN's, instead.
    const_input: a learnt 4x4 constant; otherwise a dense layer of w.
    noise: adds noise.
    dtype: of the computation; normalization and images are float32.
  """

  styles: bool = True
  instance_norm: bool = True
  pixel_norm: bool = False
  const_input: bool = True
  noise: bool = True
  dtype: Any = jnp.float32


def instance_norm(x: jax.Array, epsilon: float = 1e-8) -> jax.Array:
  """(x - mean) / sqrt(var + epsilon) over height and width, no parameters."""
  y = x.astype(jnp.float32)
  y = y - jnp.mean(y, (1, 2), keepdims=True)
  y = y * jax.lax.rsqrt(
      jnp.mean(jnp.square(y), (1, 2), keepdims=True) + epsilon)
  return y.astype(x.dtype)


class Layer(nn.Module):
  """A map (constant, dense or convolution), noise, bias, activation, AdaIN.

  Params: `const` [4, 4, C] or `kernel`, `bias` [C], `noise_weight` [C], and
  `StyleMod`, a dense layer from w to scales and then shifts [2 C].

  Attributes:
    options: see `Options`.
    features: output channels C.
    kind: 'const', 'dense', 'conv', 'up' or 'fused_up' (kernel flipped).
  """

  options: Options
  features: int
  kind: str = 'conv'

  @nn.compact
  def __call__(self, x: jax.Array | None, w: jax.Array,
               noise: jax.Array | None) -> jax.Array:
    """Runs the layer.

    Args:
      x: [N, h, w, I]; None where w alone is the input.
      w: [N, D].
      noise: [N or 1, H, W, 1], or None.

    Returns:
      [N, H, W, features].
    """
    options, features = self.options, self.features
    x = self._map(x, w).astype(options.dtype)

    def per_channel(v):
      return v.reshape(-1, 1, 1, features).astype(x.dtype)

    if options.noise:
      weight = self.param('noise_weight', nn.initializers.zeros, (features,))
      if noise is not None:
        x = x + noise.astype(x.dtype) * per_channel(weight)
    x = x + per_channel(
        self.param('bias', nn.initializers.zeros, (features,)))
    x = nn.leaky_relu(x, 0.2)
    if options.pixel_norm:
      x = pixel_norm.pixel_norm(x)
    if options.instance_norm:
      x = instance_norm(x)
    if options.styles:
      style = equalized.EqualizedDense(2 * features, name='StyleMod')(w)
      scale, shift = jnp.split(style, 2, -1)
      x = x * per_channel(scale + 1.0) + per_channel(shift)
    return x

  def _map(self, x, w):
    options, features = self.options, self.features
    if self.kind == 'const':
      const = self.param('const', nn.initializers.ones, (4, 4, features))
      return jnp.broadcast_to(const, (w.shape[0], *const.shape))
    if self.kind == 'dense':
      # A quarter of the gain: as ProGAN's first layer.
      kernel = equalized.kernel(self, (w.shape[-1], 16 * features), SQRT2 / 4)
      return (w @ kernel).reshape(-1, 4, 4, features)
    kernel = equalized.kernel(self, (3, 3, x.shape[-1], features), SQRT2)
    kernel = kernel.astype(options.dtype)
    if self.kind == 'conv':
      return conv.conv2d(x, kernel)
    up = (progan.upsample_conv if self.kind == 'fused_up' else
          resample.upsample_conv3x3)
    return resample.blur(up(x, kernel), BLUR)


class SynthesisBlock(nn.Module):
  """Two layers at one resolution: x [N, r/2, r/2, C] -> [N, r, r, features].

  Attributes:
    options: see `Options`.
    features: output channels.
    resolution: r.
  """

  options: Options
  features: int
  resolution: int

  @nn.compact
  def __call__(self, x, ws, noise):
    """Runs both with iterators of [N, D] and of [N, r, r, 1] or None."""
    names = layer_names(self.resolution, self.options)
    for name, kind in zip(names, self._kinds(), strict=True):
      x = Layer(self.options, self.features, kind, name=name)(
          x, next(ws), next(noise))
    return x

  def _kinds(self):
    if self.resolution == 4:
      return ('const' if self.options.const_input else 'dense'), 'conv'
    return ('fused_up' if self.resolution >= FUSED_FROM else 'up'), 'conv'


def layer_names(resolution: int, options: Options) -> tuple[str, str]:
  """The authors' names of the layers of a block."""
  if resolution == 4:
    return ('Const' if options.const_input else 'Dense'), 'Conv'
  return 'Conv0_up', 'Conv1'


class Synthesis(nn.Module):
  """ws -> images, at every stage of growing (figure 1b, right).

  Attributes:
    options: see `Options`.
    image_shape: (R, R, channels).
    fmap_base, fmap_max: see `progan.channels`.
  """

  options: Options
  image_shape: tuple[int, int, int]
  fmap_base: int = 8192
  fmap_max: int = 512

  @nn.compact
  def __call__(self, ws: jax.Array, noise: jax.Array | None, lod: jax.Array,
               stage: stages_lib.Stage | None) -> jax.Array:
    """As `Generator.synthesize`."""
    size, colours = self.image_shape[0], self.image_shape[-1]
    rgb = growing.Blend(size, lod, stage)
    resolutions = growing.sizes(rgb.resolution)
    # Traditional networks have one w, which the dense layer takes.
    styles = (ws[:, min(i, ws.shape[1] - 1)]
              for i in range(2 * len(resolutions)))
    maps = _split(noise, resolutions)
    x = None
    for r in resolutions:
      features = progan.channels(r, self.fmap_base, self.fmap_max)
      x = SynthesisBlock(self.options, features, r, name=f'{r}x{r}')(
          x, styles, maps)
      if rgb.wants(r):
        rgb.add(r, equalized.EqualizedConv(
            colours, 1, name=f'ToRGB_lod{rgb.lod_of(r)}')(x).astype(
                jnp.float32))
    return rgb.image


def _split(noise, resolutions):
  start = 0
  for r in resolutions:
    for _ in range(2):
      if noise is None:
        yield None
      else:
        yield noise[:, start:start + r * r].reshape(-1, r, r, 1)
      start += r * r


def noise_size(resolution: int) -> int:
  """Pixels of the noise maps of all layers up to a resolution."""
  return sum(2 * r * r for r in growing.sizes(resolution))


class Generator(nn.Module):
  """Mapping and synthesis, with what is not trained.

  Collections: 'moving' {w_avg [C], lod}, the average w and how far growing
  is; 'noise' {'4x4': {Const: {noise_const [4, 4]}, ...}, ...}, fixed noise.

  Attributes:
    options, image_shape, fmap_base, fmap_max: as in `Synthesis`.
    w_dim, mapping_layers, lr_multiplier: as in `MappingNetwork`.
    first_lod: the lod of the untrained network.
  """

  options: Options
  image_shape: tuple[int, int, int]
  fmap_base: int = 8192
  fmap_max: int = 512
  w_dim: int = 512
  mapping_layers: int = 8
  lr_multiplier: float = 0.01
  first_lod: float = 0.0

  def setup(self):
    self.mapping = MappingNetwork(self.w_dim, self.mapping_layers,
                            self.lr_multiplier)
    self.synthesis = Synthesis(self.options, self.image_shape, self.fmap_base,
                               self.fmap_max)
    self.variable('moving', 'w_avg', jnp.zeros, (self.w_dim,))
    self.variable('moving', 'lod', lambda: jnp.float32(self.first_lod))
    if self.options.noise:
      for r in growing.sizes(self.image_shape[0]):
        self.variable('noise', f'{r}x{r}', self._draw_noise, r)

  def _draw_noise(self, r):
    return {name: {'noise_const': jax.random.normal(
        self.make_rng('params'), (r, r))}
            for name in layer_names(r, self.options)}

  @property
  def num_ws(self) -> int:
    """Layers that a style enters, two for each resolution."""
    return 2 * len(growing.sizes(self.image_shape[0]))

  def __call__(self, z: jax.Array, labels: jax.Array | None,
               noise: jax.Array | None) -> jax.Array:
    """z [N, C], one-hot labels, noise [N, P] -> images [N, R, R, channels]."""
    return self.synthesize(self.map(z, labels), noise)

  def map(self, z: jax.Array, labels: jax.Array | None) -> jax.Array:
    """z [N, C], one-hot labels [N, L] -> w [N, w_dim]."""
    return self.mapping(z, labels)

  def synthesize(self, ws: jax.Array, noise: jax.Array | None,
                 lod: jax.Array | None = None,
                 stage: stages_lib.Stage | None = None) -> jax.Array:
    """Makes images.

    Args:
      ws: [N, L, w_dim], or one w [N, w_dim] for all layers.
      noise: [N or 1, P], the maps of all layers one after the other, P of
        `noise_size`; None for none.
      lod: float32 scalar; `moving/lod` by default.
      stage: compute images of its resolution; None: of resolution R, where
        pixels repeat if lod is 1 or more, by all layers, whatever the lod.

    Returns:
      float32 [N, r, r, channels], about -1 to 1.
    """
    lod = self.get_variable('moving', 'lod') if lod is None else lod
    return self.synthesis(w_space.broadcast(ws, self.num_ws), noise, lod, stage)

  def constant_noise(self) -> jax.Array | None:
    """The fixed noise, [1, P]."""
    if not self.options.noise:
      return None
    return jnp.concatenate([
        self.get_variable('noise', f'{r}x{r}')[name]['noise_const'].reshape(
            1, -1)
        for r in growing.sizes(self.image_shape[0])
        for name in layer_names(r, self.options)], -1)


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: FFHQ on eight GPUs, row F."""
  adam = dict(b1=0.0, b2=0.99)
  return ConfigDict(dict(
      batch_size=32,             # where growing.batch_sizes has no other
      model=dict(
          fmap_base=8192,            # channels: see `progan.channels`
          fmap_max=512,
          z_dim=512,
          w_dim=512,
          mapping_layers=8,
          mapping_lr=0.01,
          styles=True,
          instance_norm=True,
          pixel_norm=False,
          const_input=True,
          noise=True,
          mbstd_group=4,             # 0 = no minibatch statistics
          mbstd_order='contiguous',  # or 'strided', as in the code
          conditional=False,         # by the class of data.labels
          w_avg_beta=0.995,
      ),
      growing=stages_lib.default_config(
          first_resolution=8, lr=_RATES,
          batch_sizes=((8, 256), (16, 128), (32, 64), (64, 32))),
      loss=dict(
          objective='non_saturating',  # or 'wasserstein', and others
          penalty='r1',              # 'wgan_gp', 'none'
          penalty_form='grad',       # or 'jvp'
          r1_gamma=10.0,
          penalty_weight=10.0,       # of WGAN-GP
          target=1.0,                # of WGAN-GP
          drift=0.001,               # with WGAN-GP
          style_mixing=0.9,          # probability
          **regularizers_lib.loss_config(),
      ),
      augment=regularizers_lib.augment_config(),
      optimizer=dict(
          G=optimizers.default_config('adam', 1e-3, **adam),
          D=optimizers.default_config('adam', 1e-3, **adam),
          rampup_kimg=0.0,           # as in systems/progan.py
      ),
      ema=dict(decay=0.0, start=0, kimg=10.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  system_lib.check_square_power_of_two('stylegan', spec, 8)
  model, loss = config.model, config.loss
  for key, choices in (
      ('model.mbstd_order', minibatch.ORDERS),
      ('loss.penalty', ('r1', 'wgan_gp', 'none')),
      ('loss.penalty_form', ('grad', 'jvp')),
      ('optimizer.G.lr_schedule', ('constant',)),
      ('optimizer.D.lr_schedule', ('constant',))):
    config_lib.check_choice(config, key, choices)
  config_lib.check_positive(config, 'model.fmap_base', 'model.fmap_max',
                            'model.z_dim', 'model.w_dim', 'loss.target')
  if not 0.0 <= loss.style_mixing <= 1.0:
    raise errors.UserError(
        f'config.loss.style_mixing is {loss.style_mixing}; expected a '
        'probability, 0 to 1.')
  if not model.styles and (model.const_input or loss.style_mixing):
    raise errors.UserError(
        'config.model.styles is off, but then w enters by a dense layer and '
        'there is one for all layers: set model.const_input=false and '
        'loss.style_mixing=0.')
  if not model.mapping_layers and model.w_dim != model.z_dim:
    raise errors.UserError(
        'config.model.mapping_layers is 0, so that w is z, but model.w_dim is '
        f'{model.w_dim} and model.z_dim {model.z_dim}: make them equal.')
  classes = system_lib.num_classes(config, spec)
  if classes and not model.mapping_layers:
    raise errors.UserError(
        'config.model.conditional needs a mapping network, which takes the '
        'labels, but model.mapping_layers is 0.')
  stages = stages_lib.growing(config, spec.resolution)
  progan.check_groups(config, stages, model.mbstd_group)
  shape = (spec.resolution, spec.resolution, spec.channels)
  dtype = jnp.dtype(config.dtype)
  nets = {
      'G': Generator(
          Options(model.styles, model.instance_norm, model.pixel_norm,
                  model.const_input, model.noise, dtype),
          shape, model.fmap_base, model.fmap_max, model.w_dim,
          model.mapping_layers, model.mapping_lr,
          progan.first_lod(stages, spec.resolution)),
      'D': progan.Discriminator(
          progan.Layers(blur=True, dtype=dtype), spec.resolution,
          model.fmap_base, model.fmap_max, max(classes, 1), model.mbstd_group,
          model.mbstd_order),
  }
  return System(config=config, nets=nets, stages=stages,
                stage=stages.parts[-1], classes=classes,
                objective=adversarial.get(loss.objective), image_shape=shape,
                regularizers=regularizers_lib.create(config),
                requires=('image', 'label') if classes else ('image',),
                conditions=('label', 'w') if classes else ('w',))


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """StyleGAN; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  stages: stages_lib.Stages
  stage: stages_lib.Stage
  classes: int
  objective: adversarial.Objective
  regularizers: regularizers_lib.Regularizers
  image_shape: tuple[int, int, int]
  requires: tuple[str, ...]
  conditions: tuple[str, ...]

  players = {'G': ('G',), 'D': ('D',)}
  options = ('truncation', 'truncation_cutoff', 'noise')
  batches_per_step = 1
  outputs = {}

  def frozen(self) -> dict:
    return {}

  def at_stage(self, stage: stages_lib.Stage) -> 'System':
    """Returns the same system with the train step of `stage`."""
    return dataclasses.replace(self, stage=stage)

  @property
  def tx(self) -> dict[str, optax.GradientTransformation]:
    return progan.make_optimizers(self.config, self.stage)

  @property
  def num_ws(self) -> int:
    """Layers that a w enters."""
    return self.nets['G'].num_ws

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z = jnp.zeros((2, self.config.model.z_dim))
    labels = jnp.zeros((2, self.classes)) if self.classes else None
    x = jnp.zeros((2, *self.image_shape))
    nets = {
        'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, labels, None),
        'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x),
    }
    return state_lib.create(key, nets, self.players, self.tx, ema=('G',),
                            aux=self.regularizers.init())

  # -- Sampling --

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], normal, row i from keys[i]."""
    return rng.normals(keys, self.config.model.z_dim)

  def map_latents(self, variables, z: jax.Array,
                  conditions=None) -> jax.Array:
    """Returns w [N, w_dim] of z, not truncated; see core/system.py.

    Args:
      variables: {'G': variables}.
      z: [N, z_dim].
      conditions: holds 'label' [N] where the model is conditional.
    """
    labels = (conditions or {}).get('label')
    return self.nets['G'].apply(variables['G'], z, self._one_hot(labels),
                                method='map')

  def generate(self, variables, keys: jax.Array, conditions=None, *,
               truncation: float = 1.0, truncation_cutoff: int | None = 8,
               noise: str = 'random') -> jax.Array:
    """Returns images [N, R, R, C]; see core/system.py.

    While the network grows, they repeat the pixels of its resolution.

    Args:
      variables: {'G': variables}.
      keys: [N].
      conditions: may hold 'z' [N, z_dim], 'w' [N, w_dim] or [N, num_ws, w_dim]
        and 'label' [N] where the model is conditional; labels are drawn from
        the keys otherwise.
      truncation: psi, 0.7 in the paper's figures; 1 for none.
      truncation_cutoff: layers that are truncated, counted from 4x4; None for
        all.
      noise: 'random' (image i's from keys[i]), 'const' (the fixed maps) or
        'none'.
    """
    if noise not in NOISE_MODES:
      raise errors.UserError(
          f'The sampling option noise is {noise!r}, expected one of: '
          f'{", ".join(NOISE_MODES)}.')
    ws = (conditions or {}).get('w')
    if ws is None:
      ws = self.map_latents(
          variables, generation.latents(self, keys, conditions),
          {'label': generation.labels(keys, conditions, self.classes)})
    ws = w_space.broadcast(ws, self.num_ws)
    if truncation != 1.0:
      ws = w_space.truncate(ws, variables['G']['moving']['w_avg'],
                            truncation, truncation_cutoff)
    maps = None
    if noise == 'random' and self.config.model.noise:
      size = noise_size(self.image_shape[0])
      maps = jax.vmap(lambda k: jax.random.normal(
          rng.named(k, 0, 'noise'), (size,)))(keys)
    elif noise == 'const':
      maps = self.nets['G'].apply(variables['G'], method='constant_noise')
    return self.nets['G'].apply(variables['G'], ws, maps, method='synthesize')

  def _one_hot(self, labels):
    return None if labels is None else jax.nn.one_hot(labels, self.classes)

  # -- Training --

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """D's update, then G's, at the resolution of the stage."""
    del frozen
    batch = step.first_of(batch)
    lod = growing.lod(self.image_shape[0], self.stage, state.step)
    state = growing.reset_optimizers(self.stage, state, self.players, self.tx)
    real = images.to_unit(batch['image'])
    if self.stage.fade_images:
      real = growing.fade_images(real, self.stage.fade(state.step))
    logs = {'lod': lod}
    for player, loss in (('D', self.d_loss), ('G', self.g_loss)):
      inputs, cutoff = self._draw(state, player, real.shape[0])
      if player == 'D' or self.objective.g_uses_real:
        inputs['image'] = real
      if self.classes:
        inputs['label'] = batch['label']
      inputs.update(self.regularizers.keys(state, player, real.shape[0]))
      state, more = step.update_player(
          state, player, self.players[player], self.tx[player],
          functools.partial(loss, state, lod, cutoff), inputs,
          self.config.microbatches)
      if player == 'D':
        state, more = self.regularizers.remember(state, more)
      logs.update(more)
    state = growing.keep_lod(state, lod)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.stage.batch_size)
    return growing.copy_collections(step.finish(state, beta)), logs

  def _draw(self, state, name: str, count: int):
    """Returns (what is random in `count` images, the cutoff of mixing)."""
    def draw(sampler, what, *shape):
      key = rng.named(state.key, state.step, f'{what}/{name}')
      return mesh.shard_batch(sampler(key, (count, *shape)))

    normal, z_dim = jax.random.normal, self.config.model.z_dim
    inputs = {'z': draw(normal, 'z', z_dim)}
    if self.config.model.noise:
      inputs['noise'] = draw(normal, 'noise',
                             noise_size(self.stage.resolution))
    if name == 'D' and self.config.loss.penalty == 'wgan_gp':
      inputs['eps'] = draw(jax.random.uniform, 'eps')
    mixing = self.config.loss.style_mixing
    if not mixing:
      return inputs, None
    inputs['z_mixed'] = draw(normal, 'z_mixed', z_dim)
    key = rng.named(state.key, state.step, f'mixing/{name}')
    # Layers above the stage are not there yet.
    layers = 2 * len(growing.sizes(self.stage.resolution))
    cutoff = jax.random.randint(key, (), 1, layers)
    mixed = jax.random.bernoulli(jax.random.fold_in(key, 1), mixing)
    return inputs, jnp.where(mixed, cutoff, layers)

  def _fake(self, params, mvars, inputs, lod, cutoff):
    """Returns (images, G's collections with the new average w)."""
    apply = functools.partial(self.nets['G'].apply, {'params': params, **mvars})
    labels = self._one_hot(inputs.get('label'))
    w = apply(inputs['z'], labels, method='map')
    average = mvars['moving']['w_avg']
    mean = jax.lax.stop_gradient(jnp.mean(w, 0))
    average = mean + self.config.model.w_avg_beta * (average - mean)
    ws = w_space.broadcast(w, self.num_ws)
    if cutoff is not None:
      layers = jnp.arange(self.num_ws).reshape(1, -1, 1)
      mixed = apply(inputs['z_mixed'], labels, method='map')
      ws = jnp.where(layers < cutoff, ws,
                     w_space.broadcast(mixed, self.num_ws))
    fake = apply(ws, inputs.get('noise'), lod, self.stage,
                 method='synthesize')
    moving = {**mvars['moving'], 'w_avg': average}
    return fake, {**mvars, 'moving': moving}

  def _logits(self, params, x, labels, lod):
    """Returns logits [N]: of a label's own output, where there are labels."""
    out = self.nets['D'].apply({'params': params}, x, lod, self.stage)
    if labels is None:
      return out[:, 0]
    return jnp.sum(out * self._one_hot(labels), -1)

  def d_loss(self, state, lod, cutoff, params, mvars, inputs):
    """The objective and its penalty; G as in `state`."""
    loss, labels = self.config.loss, inputs.get('label')
    fake, changed = self._fake(mesh.replicate(state.params['G']), mvars['G'],
                               inputs, lod, cutoff)
    fake, real = jax.lax.stop_gradient(fake), inputs['image']
    logits = functools.partial(self._logits, params['D'], labels=labels,
                               lod=lod)
    augment = self.regularizers.augment
    real_keys = inputs.get('augment_real')
    fake_keys = inputs.get('augment_fake')
    real_seen, fake_seen = augment(real_keys, real), augment(fake_keys, fake)
    real_logits, fake_logits = logits(real_seen), logits(fake_seen)
    value = self.objective.d_loss(real_logits, fake_logits)
    terms = self.regularizers.terms(
        state,
        regularizers_lib.Judged(logits, real_seen, real_logits, real_keys),
        regularizers_lib.Judged(logits, fake_seen, fake_logits, fake_keys))
    logs = {'loss/d': value, 'logits/real': jnp.mean(real_logits),
            'logits/fake': jnp.mean(fake_logits), **terms}
    value = sum(terms.values(), value)
    scale = growing.pixel_scale(self.image_shape[0], self.stage)

    def scaled(x):
      return logits(augment(real_keys, x)) * scale

    if loss.penalty == 'r1':
      penalty = penalties.r1(scaled, real, loss.r1_gamma,
                             form=loss.penalty_form)
      logs['penalty/r1'] = penalty
      value = value + penalty
    elif loss.penalty == 'wgan_gp':
      penalty = penalties.wgan_gp(scaled, real, fake, inputs['eps'],
                                  loss.penalty_weight, target=loss.target,
                                  form=loss.penalty_form)
      drift = loss.drift * jnp.mean(jnp.square(real_logits))
      logs['penalty/wgan_gp'], logs['penalty/drift'] = penalty, drift
      value = value + penalty + drift
    return value, ({'G': changed}, logs)

  def g_loss(self, state, lod, cutoff, params, mvars, inputs):
    """The objective of G; D as in `state`."""
    fake, changed = self._fake(params['G'], mvars['G'], inputs, lod, cutoff)
    logits = functools.partial(
        self._logits, mesh.replicate(state.params['D']),
        labels=inputs.get('label'), lod=lod)
    augment = self.regularizers.augment
    real_logits = None
    if self.objective.g_uses_real:
      real_logits = logits(augment(inputs.get('augment_real'), inputs['image']))
    fake_logits = logits(augment(inputs.get('augment_fake'), fake))
    value = self.objective.g_loss(real_logits, fake_logits)
    return value, ({'G': changed}, {'loss/g': value})
