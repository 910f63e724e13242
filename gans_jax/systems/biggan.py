"""BigGAN: Large Scale GAN Training for High Fidelity Natural Image Synthesis.

Brock, Donahue, Simonyan 2019, arXiv:1809.11096: section 3, appendix B
(architectures), C (details), D (standing statistics). model.variant:

  'biggan' (figure 15): z is cut into equal chunks, the first for the first
     layer, one more for each block of G. A block's chunk and the shared
     embedding e(y) together give, by linear maps, the gain 1 + g(c) and the
     bias b(c) of its batch normalizations.
  'deep' (figure 16): c = (e(y), z) whole for the first layer and every block;
     bottleneck blocks, two for each size; where channels fall, the skip drops
     the last ones, where they rise (D) it is concatenated with a 1x1 map.

Both: self-attention at one size (auto: 64; 128 in BigGAN's G of 256 pixels, 32
at 64 pixels, none below), spectral normalization of every layer of G and D but
e(y), orthogonal initialization, projection discriminator, hinge loss, two
updates of D for one of G, batch normalization over the whole batch, average of
weights from step 20,000 on, modified orthogonal regularization of G
(losses/orthogonal.py).

Channels, in ch, of G's blocks and D's (* without pooling); of deep, stages:

  to 32  4 (from 4)                  4 4 4* 4*
  64     16 8 4 2 (from 16)          1 2 4 8 16*
  128    16 8 4 2 1                  1 2 4 8 16 16*
  256    16 8 8 4 2 1                1 2 4 8 8 16 16*
  512    16 8 8 4 2 1 1              1 1 2 4 8 8 16 16*

  Row (table 1)                Config
  shared embedding             model.shared (otherwise a table for each norm)
  skip-z                       model.hierarchical
  orthogonal regularization    loss.ortho_G
  rows by batch and channels   `TABLE_1`

Sampling: `truncation` t draws every component of z again until |z_i| <= t.
Here z is mapped to that law by its distribution function, so that an image
changes smoothly with t. `truncation_form='scale'` is the other convention, of
the published modules: t times a draw that is truncated at 2. The statistics of
batch normalization belong to a truncation (--batch_norm=standing:N).

Collapse (section 4) is foretold by singular values ('sigma/G/...' in the
logs; model.singular_values of them), D's accuracy on real images, and
|grad D(x)|^2 ('r1/real', loss.monitor_r1).

Steps, losses and power iteration are SNGAN's (systems/sngan.py). Deviations:
1. Its 2, 4 and 7.
2. With microbatches, spectral vectors move once an update, and running
   statistics once a microbatch. The statistics of a microbatch are its own,
   as in BigGAN-PyTorch (which gets to batches of 2048 so).
3. Biases start at zero (BigGAN-PyTorch: PyTorch's uniform ones).
4. 32 pixels and 64 are BigGAN-PyTorch's networks: the paper has none
   (model.layout='studiogan': PyTorch-StudioGAN's at 64).
   BigGAN-deep's D at 512 follows the pattern; nobody has published one.
5. The last batch normalization has the others' epsilon (BigGAN-PyTorch:
   always 1e-5).
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
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.losses import orthogonal
from gans_jax.losses import penalties
from gans_jax.nn import attention
from gans_jax.nn import gan_blocks
from gans_jax.nn import norm
from gans_jax.nn import resample
from gans_jax.nn import spectral_norm
from gans_jax.systems import sngan

ConfigDict = config_dict.ConfigDict

VARIANTS = ('biggan', 'deep')
INITIALIZERS = {
    'orthogonal': nn.initializers.orthogonal(),
    'normal': nn.initializers.normal(0.02),
    'glorot': nn.initializers.glorot_uniform(),
}
ORDERS = ('class_first', 'z_first')
TRUNCATION_FORMS = ('resample', 'scale')
BOTTLENECK = 4  # BigGAN-deep: hidden channels are a quarter

# Table 1: FID and IS at 128 pixels, thousands of steps; from memory.
_PLAIN = {'model.shared': False, 'model.hierarchical': False,
          'model.z_dim': 128, 'loss.ortho_G': 0.0}
_64 = {'model.ch_G': 64, 'model.ch_D': 64}
TABLE_1: dict[str, dict[str, Any]] = {
    'batch512': {**_PLAIN, **_64, 'batch_size': 512, 'total_steps': 1000_000,
                 'paper/fid': 15.30, 'paper/is': '58.77 +- 1.18'},
    'batch1024': {**_PLAIN, **_64, 'batch_size': 1024,
                  'total_steps': 1000_000, 'paper/fid': 14.88,
                  'paper/is': '63.03 +- 1.42'},
    'batch2048': {**_PLAIN, **_64, 'total_steps': 732_000,
                  'paper/fid': 12.39, 'paper/is': '76.85 +- 3.83'},
    'ch96': {**_PLAIN, 'total_steps': 295_000, 'paper/fid': '9.54 +- .62',
             'paper/is': '92.98 +- 4.27'},
    'shared': {'model.hierarchical': False, 'loss.ortho_G': 0.0,
               'total_steps': 185_000, 'paper/fid': '9.18 +- .13',
               'paper/is': '94.94 +- 1.32'},
    'skip_z': {'loss.ortho_G': 0.0, 'total_steps': 152_000,
               'paper/fid': '8.73 +- .45', 'paper/is': '98.76 +- 2.84'},
    'ortho': {'total_steps': 165_000, 'paper/fid': '8.51 +- .32',
              'paper/is': '99.31 +- 2.10'},
    'ch64': {**_64, 'total_steps': 371_000, 'paper/fid': '10.48 +- .10',
             'paper/is': '86.90 +- .61'},
}


# --- Channels ----------------------------------------------------------------

_G = {64: (16, (16, 8, 4, 2)), 128: (16, (16, 8, 4, 2, 1)),
      256: (16, (16, 8, 8, 4, 2, 1)), 512: (16, (16, 8, 8, 4, 2, 1, 1))}
_D = {64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16),
      256: (1, 2, 4, 8, 8, 16, 16), 512: (1, 1, 2, 4, 8, 8, 16, 16)}
SMALL = (8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Plan:
  """Channels of a pair of networks.

  Attributes:
    stem: channels of G's 4x4 map.
    g: output channels of G's blocks (stages), each of which doubles the size.
    d_stem: channels that D's first layer makes (deep).
    d: output channels of D's blocks (stages).
    pooled: how many of these halve the size, from the first on.
  """

  stem: int
  g: tuple[int, ...]
  d_stem: int
  d: tuple[int, ...]
  pooled: int


def plan(resolution: int, variant: str, ch_g: int, ch_d: int,
         layout: str = 'paper') -> Plan:
  """Returns the channels at a resolution; `layout` is of `sngan.LAYOUTS`.

  Raises:
    UserError: there are no networks for it.
  """
  if resolution in SMALL:
    stem, g = 4, (4,) * (int(math.log2(resolution)) - 2)
    d_stem, d = 4, (4,) * (3 if variant == 'deep' else 4)
    pooled = 2
  elif resolution in _G:
    (stem, g), d = _G[resolution], _D[resolution]
    d_stem, pooled = d[0], len(d) - 1
    if (layout, resolution) == ('studiogan', 64):
      g = (8, 4, 2, 1)
    if variant == 'deep':
      # The stem's channels, and then one stage for each halving.
      d = d[1:]
  else:
    raise errors.UserError(
        "The system 'biggan' supports the resolutions 8, 16, 32, 64, 128, 256 "
        f'and 512, but data.resolution is {resolution}. Set '
        '--config.data.resolution (28-pixel data sets: 32).')
  return Plan(stem * ch_g, tuple(n * ch_g for n in g), d_stem * ch_d,
              tuple(n * ch_d for n in d), pooled)


# --- Networks ----------------------------------------------------------------


class ConditionalNorm(nn.Module):
  """Batch normalization with gain 1 + g(c) and bias b(c).

  Attributes:
    layer: makes g and b, from their number of outputs.
    epsilon: added to the variance.
    statistics: see `norm.BatchNorm`.
  """

  layer: gan_blocks.Maker
  epsilon: float
  statistics: str = 'global'

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array,
               train: bool) -> jax.Array:
    """Normalizes x [N, H, W, C] by what `layer` takes, of N examples."""
    channels = x.shape[-1]
    y = norm.BatchNorm(epsilon=self.epsilon, use_scale=False, use_bias=False,
                       statistics=self.statistics, dtype=jnp.float32,
                       name='norm')(x, train)
    gain, bias = (
        self.layer(channels, name=name)(condition).astype(jnp.float32)
        .reshape(-1, 1, 1, channels) for name in ('gain', 'bias'))
    return (y * (1.0 + gain) + bias).astype(x.dtype)


class DeepGBlock(nn.Module):
  """BN, ReLU, 1x1; BN, ReLU, up, 3x3; BN, ReLU, 3x3; BN, ReLU, 1x1; + skip.

  Attributes:
    features: output channels, those of the input or fewer.
    up: doubles the size.
    norm: makes a normalization.
    conv: makes a convolution.
  """

  features: int
  up: bool
  norm: gan_blocks.Maker
  conv: gan_blocks.Maker

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array,
               train: bool) -> jax.Array:
    hidden = x.shape[-1] // BOTTLENECK

    def activate(h, name):
      return nn.relu(self.norm(name=name)(h, condition, train))

    h = self.conv(hidden, 1, name='conv1')(activate(x, 'bn1'))
    h = self.conv(hidden, 3, 'up' if self.up else 'none',
                  name='conv2')(activate(h, 'bn2'))
    h = self.conv(hidden, 3, name='conv3')(activate(h, 'bn3'))
    h = self.conv(self.features, 1, name='conv4')(activate(h, 'bn4'))
    x = x[..., :self.features]
    return h + (resample.nearest_upsample(x) if self.up else x)


class DeepDBlock(nn.Module):
  """ReLU, 1x1, ReLU, 3x3, ReLU, 3x3, ReLU, pool, 1x1; + skip.

  Attributes:
    features: output channels, those of the input or more.
    down: halves the size.
    conv: makes a convolution.
  """

  features: int
  down: bool
  conv: gan_blocks.Maker

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    hidden = self.features // BOTTLENECK
    h = self.conv(hidden, 1, name='conv1')(nn.relu(x))
    h = self.conv(hidden, 3, name='conv2')(nn.relu(h))
    h = nn.relu(self.conv(hidden, 3, name='conv3')(nn.relu(h)))
    if self.down:
      h, x = resample.average_pool(h), resample.average_pool(x)
    h = self.conv(self.features, 1, name='conv4')(h)
    if x.shape[-1] < self.features:
      more = self.conv(self.features - x.shape[-1], 1, name='conv_sc')(x)
      x = jnp.concatenate([x, more], -1)
    return h + x


class Generator(nn.Module):
  """(z [N, z_dim], labels [N]) -> images in [-1, 1].

  Attributes:
    variant: of `VARIANTS`.
    plan: channels.
    num_classes: number of classes.
    attention: sizes of the maps that have a block.
    channels: of the images.
    shared_dim: of the shared embedding; 0 for a table in each normalization.
    hierarchical: chunks of z for every block.
    order: of e(y) and z where both are an input ('class_first': the PyTorch
      code, 'z_first': the published modules).
    rgb_channels: outputs of the last layer, of which those after `channels`
      are dropped (the published deep modules); 0 for `channels`.
    rule: of spectral normalization.
    weight_init: of every weight.
    bn_epsilon: of batch normalization.
    bn_scope: whose statistics, see `norm.BatchNorm`.
    remat: compute blocks again in the backward pass, and keep no inside.
    dtype: of the computation; the image is float32.
  """

  variant: str
  plan: Plan
  num_classes: int
  attention: tuple[int, ...] = ()
  channels: int = 3
  shared_dim: int = 128
  hierarchical: bool = True
  order: str = 'class_first'
  rgb_channels: int = 0
  rule: spectral_norm.Rule = spectral_norm.RULES['tfhub']
  weight_init: nn.initializers.Initializer = INITIALIZERS['orthogonal']
  bn_epsilon: float = 1e-4
  bn_scope: str = 'global'
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array,
               train: bool) -> jax.Array:
    """Maps z [N, z_dim] and labels [N], or vectors e [N, shared_dim]."""
    layers = dict(rule=self.rule, kernel_init=self.weight_init,
                  dtype=self.dtype)
    conv = functools.partial(spectral_norm.Conv, **layers)
    dense = functools.partial(spectral_norm.Dense, **layers)
    first, conditions = self._inputs(z, labels)
    layer = functools.partial(dense, use_bias=False)
    if not self.shared_dim:
      layer = functools.partial(spectral_norm.Embed, self.num_classes,
                                embedding_init=self.weight_init)
    make_norm = functools.partial(ConditionalNorm, layer, self.bn_epsilon,
                                  self.bn_scope)
    lift = (functools.partial(nn.remat, static_argnums=(3,)) if self.remat
            else lambda block: block)
    g_block = lift(gan_blocks.GBlock)
    deep_block = lift(DeepGBlock)

    stem = self.plan.stem
    x = dense(16 * stem, name='dense')(first).reshape(-1, 4, 4, stem)
    size = 4
    for i, features in enumerate(self.plan.g):
      size, c = 2 * size, conditions[i]
      if self.variant == 'deep':
        x = deep_block(x.shape[-1], False, make_norm, conv,
                       name=f'up_{size}_a')(x, c, train)
        x = deep_block(features, True, make_norm, conv,
                       name=f'up_{size}_b')(x, c, train)
      else:
        x = g_block(features, make_norm, conv, conv,
                    name=f'up_{size}')(x, c, train)
      if size in self.attention:
        x = attention.SelfAttention(name=f'attention_{size}', **layers)(x)
    x = gan_blocks.Unconditional(epsilon=self.bn_epsilon, name='bn_out',
                                 statistics=self.bn_scope)(x, None, train)
    x = conv(self.rgb_channels or self.channels, 3, name='conv_out')(
        nn.relu(x))[..., :self.channels]
    return jnp.tanh(x.astype(jnp.float32))

  def _inputs(self, z, labels):
    """Returns the input of the first layer, and the condition of each block."""
    blocks = len(self.plan.g)
    if not self.shared_dim:
      return z, [labels] * blocks
    e = labels
    if not jnp.issubdtype(labels.dtype, jnp.floating):
      e = spectral_norm.Embed(self.num_classes, self.shared_dim,
                              embedding_init=self.weight_init,
                              name='shared')(labels)

    def join(chunk):
      pair = (e, chunk) if self.order == 'class_first' else (chunk, e)
      return jnp.concatenate(pair, -1)

    if self.variant == 'deep':
      return join(z), [join(z)] * blocks
    if not self.hierarchical:
      return z, [e] * blocks
    first, *rest = jnp.split(z, blocks + 1, -1)
    return first, [join(chunk) for chunk in rest]


class Discriminator(nn.Module):
  """(images, labels [N]) -> (logits [N], None).

  Attributes:
    variant, plan, num_classes, attention, rule, weight_init, remat, dtype: as
      of `Generator`.
    always_shortcut: as of `gan_blocks.DBlock`.
  """

  variant: str
  plan: Plan
  num_classes: int
  attention: tuple[int, ...] = ()
  rule: spectral_norm.Rule = spectral_norm.RULES['tfhub']
  weight_init: nn.initializers.Initializer = INITIALIZERS['orthogonal']
  always_shortcut: bool = True
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, labels: jax.Array):
    layers = dict(rule=self.rule, kernel_init=self.weight_init,
                  dtype=self.dtype)
    conv = functools.partial(spectral_norm.Conv, **layers)
    lift = nn.remat if self.remat else lambda block: block
    d_block, deep_block = lift(gan_blocks.DBlock), lift(DeepDBlock)

    x = x.astype(self.dtype)
    if self.variant == 'deep':
      x = conv(self.plan.d_stem, 3, name='conv_in')(x)
    for i, features in enumerate(self.plan.d):
      down = i < self.plan.pooled
      if self.variant == 'deep':
        x = deep_block(features, down, conv, name=f'block_{i}_a')(x)
        x = deep_block(features, False, conv, name=f'block_{i}_b')(x)
      else:
        x = d_block(features, features, conv, conv, i == 0, down,
                    self.always_shortcut, name=f'block_{i}')(x)
      size = x.shape[1]
      if down and size in self.attention:
        x = attention.SelfAttention(name=f'attention_{size}', **layers)(x)
    h = gan_blocks.sum_pool(x)
    logits = spectral_norm.Dense(1, self.rule, kernel_init=self.weight_init,
                                 name='dense')(h)[:, 0]
    e = spectral_norm.Embed(self.num_classes, self.plan.d[-1], self.rule,
                            self.weight_init, name='embed')(labels)
    return logits + gan_blocks.projection(h, e), None


# --- Latents -----------------------------------------------------------------


def truncate(z: jax.Array, threshold: float,
             form: str = 'resample') -> jax.Array:
  """Maps normal z to the law of a truncated normal, component by component.

  With F the normal distribution function, F(z) is uniform, and z' with
  F(z') - 1/2 = (F(z) - 1/2) (2 F(t) - 1) is normal given |z'| <= t: what
  drawing again gives. z' is continuous in z and t, and odd.

  Args:
    z: [N, z_dim], normal.
    threshold: t > 0.
    form: 'resample', or 'scale' for t times a normal truncated at 2.
  """
  if form == 'scale':
    return threshold * truncate(z, 2.0)
  root = math.sqrt(2.0)
  p = jax.lax.erf(z / root) * math.erf(threshold / root)
  return root * jax.lax.erf_inv(p)


# --- System ------------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: ImageNet at 128 pixels."""
  config = sngan.default_config()
  adam = dict(b1=0.0, b2=0.999)
  config.optimizer.G = optimizers.default_config('adam', 5e-5, **adam)
  config.optimizer.D = optimizers.default_config('adam', 2e-4, **adam)
  config.model.update(dict(
      variant='biggan',              # or 'deep'
      z_dim=120,
      ch_G=96,
      ch_D=96,
      shared=True,
      shared_dim=128,
      hierarchical=True,
      order='class_first',           # or 'z_first'
      attention_G='auto',            # sizes, '32_64', or 'none'
      attention_D='auto',
      init='orthogonal',             # 'normal' (0.02), 'glorot'
      bn_epsilon=1e-4,
      rgb_channels=0,
      always_shortcut=True,
      spectral_norm='tfhub',
      singular_values=1,             # how many of each weight are logged
      remat=False,
  ))
  config.loss.update(dict(
      n_critic=2, generator_batches=1, dequantize=False,
      ortho_G=1e-4, ortho_D=0.0,
      ortho_form='paper',            # 'pytorch': half of it
      monitor_r1=False,              # |grad D(x)|^2 in the logs
  ))
  config.ema = dict(decay=0.9999, start=20_000, kimg=0.0, rampup=0.0)
  return config


def attention_sizes(config: ConfigDict, net: str, resolution: int,
                    sizes: set[int]) -> tuple[int, ...]:
  """Parses model.attention_G or _D; `sizes` are those of the net's maps."""
  key = f'attention_{net}'
  text = config.model[key]
  if text == 'auto':
    if resolution in SMALL:
      return ()
    if resolution == 64:
      return (32,)
    wide = (net, resolution, config.model.variant) == ('G', 256, 'biggan')
    return (128 if wide else 64,)
  if text == 'none':
    return ()
  parts = text.split('_')
  if not all(part.isdecimal() and int(part) in sizes for part in parts):
    raise errors.UserError(
        f"config.model.{key} is {text!r}, expected 'auto', 'none' or sizes of "
        f'maps that {net} has ({", ".join(map(str, sorted(sizes)))}), joined '
        "by '_', such as '32_64'.")
  return tuple(int(part) for part in parts)


def _check(config: ConfigDict, spec: spec_lib.DataSpec, plan_: Plan) -> None:
  model, loss = config.model, config.loss
  for key, choices in (('model.variant', VARIANTS),
                       ('model.order', ORDERS),
                       ('model.init', tuple(INITIALIZERS)),
                       ('loss.ortho_form', orthogonal.FORMS)):
    config_lib.check_choice(config, key, choices)
  config_lib.check_positive(config, 'model.shared_dim', 'model.bn_epsilon',
                            'model.singular_values')
  for key in ('ortho_G', 'ortho_D'):
    if loss[key] < 0:
      raise errors.UserError(
          f'config.loss.{key} is {loss[key]}, must be 0 or more.')
  if model.conditioning != 'projection' or not spec.num_classes:
    raise errors.UserError(
        'BigGAN is conditional: it needs labels (--config.data.labels, such '
        "as 'class') and model.conditioning='projection', but the data have "
        f'{spec.num_classes} classes and model.conditioning is '
        f'{model.conditioning!r}. For data without labels use system '
        "'sagan' with model.conditioning=none.")
  if model.variant == 'deep' and not (model.shared and model.hierarchical):
    raise errors.UserError(
        "config.model.variant='deep' needs model.shared and "
        f'model.hierarchical, which are {model.shared} and '
        f'{model.hierarchical}: its conditions are (e(y), z) in every block.')
  if model.hierarchical and not model.shared:
    raise errors.UserError(
        'config.model.hierarchical is set without model.shared: chunks of z '
        'stand beside the shared embedding. Set both or neither.')
  slots = len(plan_.g) + 1
  if (model.variant == 'biggan' and model.hierarchical
      and model.z_dim % slots):
    raise errors.UserError(
        f'config.model.z_dim is {model.z_dim}, which does not divide into '
        f'{slots} chunks, one for the first layer and one for each of '
        f'{slots - 1} blocks. Set it to a multiple of {slots}, such as '
        f'{max(model.z_dim // slots, 1) * slots}.')
  if model.rgb_channels and model.rgb_channels < spec.channels:
    raise errors.UserError(
        f'config.model.rgb_channels is {model.rgb_channels}, fewer than the '
        f'{spec.channels} channels of the images.')


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  model, loss, dtype = config.model, config.loss, jnp.dtype(config.dtype)
  plan_ = plan(spec.resolution, model.variant, model.ch_G, model.ch_D,
               model.layout)
  _check(config, spec, plan_)
  sngan.check(config, spec)
  resolution = spec.resolution
  sizes = {
      'G': attention_sizes(config, 'G', resolution,
                           {8 << i for i in range(len(plan_.g))}),
      'D': attention_sizes(config, 'D', resolution,
                           {resolution >> (i + 1)
                            for i in range(plan_.pooled)})}
  narrowest = min(*plan_.g, *plan_.d)
  least = 8 if any(sizes.values()) else (
      BOTTLENECK if model.variant == 'deep' else 1)
  if narrowest < least:
    raise errors.UserError(
        f'With model.ch_G={model.ch_G} and model.ch_D={model.ch_D} the '
        f'narrowest maps have {narrowest} channels, but attention (or the '
        f'bottleneck of deep) needs {least}. Raise them, or turn attention '
        'off by --config.model.attention_G=none '
        '--config.model.attention_D=none.')
  rule = dataclasses.replace(sngan.spectral_rule(config),
                             number=model.singular_values)
  shared = dict(rule=rule, weight_init=INITIALIZERS[model.init],
                remat=model.remat, dtype=dtype)
  nets = {
      'G': Generator(
          model.variant, plan_, spec.num_classes, sizes['G'], spec.channels,
          model.shared_dim if model.shared else 0, model.hierarchical,
          model.order, model.rgb_channels, bn_epsilon=model.bn_epsilon,
          bn_scope=model.bn_scope, **shared),
      'D': Discriminator(
          model.variant, plan_, spec.num_classes, sizes['D'],
          always_shortcut=model.always_shortcut, **shared),
  }
  game = sngan.make(config, spec, nets, spec.num_classes, rule)
  tx = dict(game.tx)
  for player in ('G', 'D'):
    beta = loss[f'ortho_{player}']
    if beta:
      tx[player] = optax.chain(
          orthogonal.add_gradient(beta, is_shared, loss.ortho_form),
          tx[player])
  return System(dataclasses.replace(game, tx=tx))


def is_shared(path: str) -> bool:
  """Whether a path is of the shared embedding, which no norm is kept for."""
  return '/shared/' in f'/{path}'


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """BigGAN; the members are those of core/system.py.

  Attributes:
    game: the networks, optimizers and updates.
  """

  game: sngan.System

  players = {'G': ('G',), 'D': ('D',)}
  options = ('truncation', 'truncation_form')
  outputs = {}

  @property
  def config(self) -> ConfigDict:
    return self.game.config

  @property
  def nets(self) -> Mapping[str, nn.Module]:
    return self.game.nets

  @property
  def tx(self) -> Mapping[str, optax.GradientTransformation]:
    return self.game.tx

  @property
  def classes(self) -> int:
    return self.game.classes

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.game.image_shape

  @property
  def batches_per_step(self) -> int:
    return self.game.batches_per_step

  @property
  def requires(self) -> tuple[str, ...]:
    return self.game.requires

  @property
  def conditions(self) -> tuple[str, ...]:
    return self.game.conditions

  def frozen(self) -> dict:
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    return self.game.init(key)

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], normal, row i from keys[i]."""
    return self.game.latents(keys)

  def generate(self, variables, keys: jax.Array, conditions=None, *,
               truncation: float = 0.0,
               truncation_form: str = 'resample') -> jax.Array:
    """Returns images [N, R, R, C] in [-1, 1]; see core/system.py.

    Args:
      variables: {'G': variables}.
      keys: [N].
      conditions: may hold 'z' [N, z_dim] and 'label' [N]; a label may also be
        a vector [N, shared_dim] in place of e(y), such as one between two
        classes' (`embed`).
      truncation: threshold of |z_i|; 0 for none.
      truncation_form: see `truncate`.
    """
    return self.game.generate(
        variables, keys,
        self._truncated(keys, conditions, truncation, truncation_form))

  def generate_by_batch(self, variables, keys: jax.Array, conditions=None, *,
                        truncation: float = 0.0,
                        truncation_form: str = 'resample'):
    """As `generate`, by the batch's statistics; see core/system.py."""
    return self.game.generate_by_batch(
        variables, keys,
        self._truncated(keys, conditions, truncation, truncation_form))

  def attention_maps(self, variables, keys: jax.Array, conditions=None, *,
                     truncation: float = 0.0,
                     truncation_form: str = 'resample'):
    """Returns images and maps, see `sngan.System.attention_maps`."""
    return self.game.attention_maps(
        variables, keys,
        self._truncated(keys, conditions, truncation, truncation_form))

  def embed(self, variables, labels: jax.Array) -> jax.Array:
    """Returns e(y) [N, shared_dim] of labels [N]."""
    return variables['G']['params']['shared']['embedding'][labels]

  def _truncated(self, keys, conditions, truncation, form):
    if truncation < 0:
      raise errors.UserError(
          f'truncation is {truncation}; it is the largest |z_i|, such as 0.5 '
          '(0 for no truncation).')
    if form not in TRUNCATION_FORMS:
      raise errors.UserError(
          f'truncation_form is {form!r}, expected one of: '
          f'{", ".join(TRUNCATION_FORMS)}.')
    conditions = dict(conditions or {})
    if truncation:
      conditions['z'] = truncate(
          generation.latents(self, keys, conditions), truncation, form)
    return conditions

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """One step, and what foretells collapse; see core/system.py."""
    state, logs = self.game.train_step(state, batch, frozen)
    logs = {**logs, **self._spectra(state)}
    if self.config.loss.ortho_G:
      logs['penalty/ortho_G'] = self.config.loss.ortho_G * orthogonal.total(
          mesh.replicate(state.params['G']), is_shared)
    if self.config.loss.monitor_r1:
      logs['r1/real'] = self._r1(state, batch)
    return state, logs

  def _spectra(self, state) -> dict[str, jax.Array]:
    """Singular values of every weight, 'sigma/G/up_8/conv1' and so on."""
    logs = {}
    for net in ('G', 'D'):
      values = spectral_norm.spectrum(
          mesh.replicate(state.params[net]), state.mvars[net]['spectral'])
      for path, sigma in values.items():
        for i in range(sigma.shape[0]):
          name = f'sigma{i or ""}/{net}/{path}'
          logs[name] = sigma[i]
    return logs

  def _r1(self, state, batch) -> jax.Array:
    """E |grad_x D(x, y)|^2 over the last batch of real images."""
    variables = {'params': mesh.replicate(state.params['D']),
                 **state.mvars['D']}
    labels = batch['label'][-1]

    def logits(x):
      return self.nets['D'].apply(variables, x, labels)[0]

    return penalties.r1(logits, images.to_unit(batch['image'][-1]), 2.0)
