"""WGAN-GP: Improved Training of Wasserstein GANs.

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, arXiv:1704.00028.
Algorithm 1, equation 3, and the networks of the authors' code
(igul222/improved_wgan_training), as pairs model.G, model.D:

  'resnet'   CIFAR-10 ResNet, table 3 (gan_cifar_resnet.py). The default.
  'conv'     plain CIFAR-10 model (gan_cifar.py).
  'dcgan'    DCGAN of the robustness set, figure 2 (gan_64x64.py).
  'resnet_pyramid'  "for actually generating decent samples" (gan_64x64.py).
  'mlp'      4 layers of 512 ReLU units, G alone (figure 2).
  'constant' DCGAN without normalization, the same filters at every
             resolution, G alone (figure 2).
  'resnet101'  bottleneck ResNet of 101 layers (figure 2).

  Row                          Config
  table 3, unsupervised 7.86   default (with the images of section 5.4)
  table 3, supervised 8.42     model.conditional=True: conditional batch norm
                               in G, an AC-GAN head on the critic
  section 4, one-sided         loss.penalty='wgan_lp'
  figure 2, architectures      `ARCHITECTURES`
  figure 2, methods            `METHODS`

ResNet at other powers of two: one up block for each doubling from 4x4; the
critic halves down to 8x8 and ends in the two blocks at 8x8.

Deviations:
1. n_critic critic updates, then one of G; the code updates G first, except
   at iteration 0. The order of updates is the same from the first critic
   update on.
2. Batch normalization in G is over the global batch (the code: each of two
   GPUs). The code has no inference mode, and always samples by batch
   statistics; here `generate` uses running statistics, so that an image does
   not depend on its neighbours; `generate_by_batch` (the command's
   --batch_norm=batch) samples as the code does.
3. The learning rate decays at every update of its player, not once per
   iteration.
4. |grad| has no epsilon, as in the code, but its derivative at 0 is 0 rather
   than NaN.
5. Gated units take their two halves from the first and second half of the
   channels, not from even and odd ones: the same network, permuted.
6. Convolutions after nearest-neighbour upsampling and before mean pooling
   are computed at the lower resolution (nn/resample.py): the same function
   and weights, 4/9 of the work for 3x3, 1/4 for the 1x1 shortcuts.
7. Weights are drawn as in the code, uniform with the stated standard
   deviation.
8. The code's DCGAN and LSGAN baselines halve or double the losses of
   losses/adversarial; Adam and RMSProp do not see that.

Layer norm: statistics over height, width and channels, affine per channel.
Batch norm in the critic is refused with a gradient penalty: the penalty is on
the gradient of each example (section 4, "no critic batch normalization").
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
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.losses import adversarial
from gans_jax.losses import classification
from gans_jax.losses import penalties
from gans_jax.losses import regularizers as regularizers_lib
from gans_jax.nn import conv
from gans_jax.nn import norm
from gans_jax.nn import resample as resample_lib

ConfigDict = config_dict.ConfigDict

GENERATORS = ('resnet', 'conv', 'dcgan', 'resnet_pyramid', 'mlp', 'constant',
              'resnet101')
CRITICS = ('resnet', 'conv', 'dcgan', 'resnet_pyramid', 'resnet101')
# The 101 layers: bottleneck blocks at 4x4, 8x8, ..., and at the last size.
BLOCKS_101 = 6
BLOCKS_101_LAST = 5

_LSUN = {'model.z_dim': 128, 'model.dim_G': 64, 'model.dim_D': 64,
         'model.norm_D': 'layer', 'model.G': 'dcgan', 'model.D': 'dcgan',
         'loss.generator_batches': 1, 'loss.dequantize': False,
         'optimizer.G.lr': 1e-4, 'optimizer.D.lr': 1e-4,
         'optimizer.G.lr_schedule': 'constant',
         'optimizer.D.lr_schedule': 'constant'}

# Figure 2, in the paper's order: LSUN bedrooms, 64x64.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    'dcgan': {**_LSUN},
    'constant': {**_LSUN, 'model.G': 'constant'},
    'mlp': {**_LSUN, 'model.G': 'mlp', 'model.dim_G': 512},
    'no_norm': {**_LSUN, 'model.norm_G': 'none', 'model.norm_D': 'none'},
    'gated': {**_LSUN, 'model.activation_G': 'gated',
              'model.activation_D': 'gated'},
    'tanh': {**_LSUN, 'model.activation_G': 'tanh',
             'model.activation_D': 'tanh'},
    'resnet101': {**_LSUN, 'model.G': 'resnet101', 'model.D': 'resnet101'},
}

# Figure 2's columns. Those without a penalty have batch norm in the critic
# wherever WGAN-GP has layer norm; `method` replaces it.
METHODS: dict[str, dict[str, Any]] = {
    'dcgan': {'loss.objective': 'non_saturating', 'loss.penalty': 'none',
              'loss.n_critic': 1, 'optimizer.*.lr': 2e-4,
              'optimizer.*.b1': 0.5, 'optimizer.*.b2': 0.999},
    'lsgan': {'loss.objective': 'least_squares', 'loss.penalty': 'none',
              'loss.n_critic': 1, 'optimizer.*.name': 'rmsprop',
              'optimizer.*.lr': 1e-4, 'optimizer.*.decay': 0.9,
              'optimizer.*.eps': 1e-10},
    'wgan': {'loss.penalty': 'none', 'loss.clip': 0.01,
             'optimizer.*.name': 'rmsprop', 'optimizer.*.lr': 5e-5,
             'optimizer.*.decay': 0.9, 'optimizer.*.eps': 1e-10},
    'wgan_gp': {},
}


def method(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns an architecture's row as one of figure 2's methods trains it."""
  values = dict(row)
  if name != 'wgan_gp' and values.get('model.norm_D') == 'layer':
    values['model.norm_D'] = 'batch'
  for key, value in config_lib.row(METHODS, name).items():
    for player in ('G', 'D'):
      values[key.replace('*', player)] = value
  return values


# --- Initializers -----------------------------------------------------------


def uniform(std: float) -> nn.initializers.Initializer:
  """U(-sqrt(3) std, sqrt(3) std): all weights of the authors' code."""
  bound = math.sqrt(3.0) * std

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def conv_std(fan_in: float, fan_out: float, he: bool) -> float:
  """The code's He variant for layers before a ReLU, Glorot's for others."""
  return math.sqrt((4.0 if he else 2.0) / (fan_in + fan_out))


class ResampledConv(nn.Module):
  """Nearest upsampling, then convolution; or convolution, then mean pooling.

  Attributes:
    features: output channels.
    kernel: 1 or 3, with SAME padding.
    resample: 'up' or 'down', by 2.
    kernel_init: initializer of the weights.
    use_bias: adds a bias.
    dtype: of the computation.
  """

  features: int
  kernel: int
  resample: str
  kernel_init: nn.initializers.Initializer
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    w = self.param('kernel', self.kernel_init, shape, jnp.float32)
    function = {('up', 1): resample_lib.upsample_conv1x1,
                ('up', 3): resample_lib.upsample_conv3x3,
                ('down', 1): resample_lib.conv1x1_downsample,
                ('down', 3): resample_lib.conv3x3_downsample}[
                    self.resample, self.kernel]
    y = function(x.astype(self.dtype), w.astype(self.dtype))
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,),
                        jnp.float32)
      y = y + bias.reshape(1, 1, 1, -1).astype(self.dtype)
    return y


@dataclasses.dataclass(frozen=True)
class Layers:
  """What the networks are built of, with the authors' initializers.

  Each method adds a layer called `name` to the module that calls it.

  Attributes:
    std: if positive, every weight is uniform with this standard deviation
      instead of the rule of its layer.
    norm: 'none', 'batch', 'layer'.
    num_classes: of conditional batch normalization; 0 without.
    bn_scope: see `norm.BatchNorm`.
    activation: 'relu', 'leaky_relu' (0.2), 'tanh' or 'gated'
      (sigmoid(a) tanh(b) of two halves).
    dtype: of the computation.
  """

  std: float = 0.0
  norm: str = 'none'
  num_classes: int = 0
  bn_scope: str = 'global'
  activation: str = 'relu'
  dtype: Any = jnp.float32

  def conv(self, x, features, kernel, name, stride=1, he=True, bias=True,
           resample='none'):
    """SAME convolution; fan_out counts the outputs an input takes part in.

    'up' upsamples x before, 'down' pools the result after, both by 2.
    """
    fan_in = x.shape[-1] * kernel**2
    fan_out = features * kernel**2 / stride**2
    init = uniform(self.std or conv_std(fan_in, fan_out, he))
    if resample != 'none':
      return ResampledConv(features, kernel, resample, init, bias, self.dtype,
                           name=name)(x)
    return conv.Conv(
        features, (kernel, kernel), (stride, stride), 'SAME', use_bias=bias,
        kernel_init=init, dtype=self.dtype, name=name)(x)

  def deconv(self, x, features, kernel, name):
    """Doubles the resolution: the transpose of TensorFlow's SAME, stride 2."""
    fan_in = x.shape[-1] * kernel**2 / 4
    fan_out = features * kernel**2
    # SAME pads k - 2 in all, the smaller half first; torch's semantics, with
    # as much on both sides, then has k % 2 rows too many at the end.
    return conv.ConvTranspose(
        features, (kernel, kernel), (2, 2), padding=(kernel - 2) // 2,
        output_padding=-(kernel % 2),
        kernel_init=uniform(self.std or conv_std(fan_in, fan_out, True)),
        dtype=self.dtype, name=name)(x)

  def dense(self, x, features, name, he=False):
    """Dense layer, Glorot; `he`: sqrt(2 / fan_in)."""
    std = (math.sqrt(2.0 / x.shape[-1]) if he else
           math.sqrt(2.0 / (x.shape[-1] + features)))
    return nn.Dense(features, kernel_init=uniform(self.std or std),
                    dtype=self.dtype, name=name)(x)

  def normalize(self, x, name, train, labels=None):
    if self.norm == 'none':
      return x
    if self.norm == 'layer':
      return norm.LayerNorm(name=name)(x)
    if self.num_classes and labels is not None:
      conditional = norm.ConditionalBatchNorm(
          self.num_classes, statistics=self.bn_scope, name=name)
      return conditional(x, labels, train)
    return norm.BatchNorm(statistics=self.bn_scope, name=name)(x, train)

  def wide(self, features: int) -> int:
    """Channels to compute, so that `features` are left when activated."""
    return 2 * features if self.activation == 'gated' else features

  def activate(self, x):
    if self.activation == 'gated':
      a, b = jnp.split(x, 2, -1)
      return nn.sigmoid(a) * jnp.tanh(b)
    if self.activation == 'leaky_relu':
      return nn.leaky_relu(x, 0.2)
    return jnp.tanh(x) if self.activation == 'tanh' else nn.relu(x)

  def residual(self, x, features, name, train, resample='none', labels=None,
               first_bias=True):
    """Pre-activation block: norm, ReLU, conv, norm, ReLU, conv, + shortcut.

    'up' upsamples before the first 3x3 convolution, 'down' pools after the
    second. The shortcut is the identity where the shape stays, else 1x1.
    """
    hidden = x.shape[-1] if resample == 'down' else features
    up = 'up' if resample == 'up' else 'none'
    down = 'down' if resample == 'down' else 'none'
    h = nn.relu(self.normalize(x, f'{name}_norm1', train, labels))
    h = self.conv(h, hidden, 3, f'{name}_conv1', bias=first_bias, resample=up)
    h = nn.relu(self.normalize(h, f'{name}_norm2', train, labels))
    h = self.conv(h, features, 3, f'{name}_conv2', resample=down)
    if resample != 'none' or x.shape[-1] != features:
      x = self.conv(x, features, 1, f'{name}_shortcut', he=False,
                    resample=resample)
    return x + h

  def bottleneck(self, x, features, name, train, resample='none'):
    """ReLU, 1x1, ReLU, 3x3 (stride 2 down, transposed up), ReLU, 1x1, norm.

    The branch is scaled by 0.3.
    """
    h = self.conv(nn.relu(x), x.shape[-1] // 2, 1, f'{name}_conv1')
    h = nn.relu(h)
    if resample == 'up':
      h = self.deconv(h, features // 2, 3, f'{name}_conv1b')
    else:
      stride = 2 if resample == 'down' else 1
      h = self.conv(h, features // 2, 3, f'{name}_conv1b', stride)
    h = self.conv(nn.relu(h), features, 1, f'{name}_conv2', bias=False)
    h = self.normalize(h, f'{name}_norm', train)
    if resample == 'up':
      x = self.conv(x, 4 * features, 1, f'{name}_shortcut', he=False)
      x = depth_to_space(x)
    elif resample == 'down':
      x = self.conv(x, features, 1, f'{name}_shortcut', stride=2, he=False)
    elif x.shape[-1] != features:
      x = self.conv(x, features, 1, f'{name}_shortcut', he=False)
    return x + 0.3 * h


def depth_to_space(x: jax.Array) -> jax.Array:
  """[N, H, W, 4C] -> [N, 2H, 2W, C], the block's offset outermost in 4C."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, 2, 2, c // 4)
  return jnp.moveaxis(x, 3, 2).reshape(n, 2 * h, 2 * w, c // 4)


# --- Generators: z [N, z_dim] -> images [N, *image_shape] in [-1, 1] ---------


class Generator(nn.Module):
  """Every generator of the module; `net` names it.

  Attributes:
    layers: how layers are made.
    net: of `GENERATORS`.
    image_shape: (R, R, channels).
    dim: channels: of every layer ('resnet', 'constant'), or of the last one.
  """

  layers: Layers
  net: str = 'resnet'
  image_shape: tuple[int, int, int] = (32, 32, 3)
  dim: int = 128

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array | None,
               train: bool) -> jax.Array:
    z = z.astype(self.layers.dtype)
    x = getattr(self, f'_{self.net}')(z, labels, train)
    return jnp.tanh(x.astype(jnp.float32))

  def _start(self, z, features):
    x = self.layers.dense(z, 16 * features, 'dense_4')
    return x.reshape(-1, 4, 4, features)

  def _sizes(self):
    """8, 16, ..., R."""
    return [2**i for i in range(3, self.image_shape[0].bit_length())]

  def _width(self, size):
    return self.dim * self.image_shape[0] // (2 * size)

  def _resnet(self, z, labels, train):
    x = self._start(z, self.dim)
    for size in self._sizes():
      x = self.layers.residual(x, self.dim, f'up_{size}', train, 'up', labels)
    x = nn.relu(self.layers.normalize(x, 'norm_out', train))
    return self.layers.conv(x, self.image_shape[-1], 3, 'conv_out', he=False)

  def _resnet_pyramid(self, z, labels, train):
    del labels
    x = self._start(z, 8 * self.dim)
    for size in self._sizes():
      width = min(2 * self._width(size), 8 * self.dim)
      x = self.layers.residual(x, width, f'up_{size}', train, 'up',
                               first_bias=False)
    x = nn.relu(self.layers.normalize(x, 'norm_out', train))
    return self.layers.conv(x, self.image_shape[-1], 3, 'conv_out')

  def _dcgan(self, z, labels, train):
    del labels
    x = self._start(z, self.layers.wide(self._width(4)))
    x = self.layers.activate(self.layers.normalize(x, 'norm_4', train))
    return self._deconvs(x, train)

  def _conv(self, z, labels, train):
    del labels
    # Normalized before the reshape: each of the 16 x width units by itself.
    width = self.layers.wide(self._width(4))
    x = self.layers.dense(z, 16 * width, 'dense_4')
    x = self.layers.normalize(x, 'norm_4', train)
    x = self.layers.activate(x.reshape(-1, 4, 4, width))
    return self._deconvs(x, train)

  def _deconvs(self, x, train):
    *hidden, last = self._sizes()
    for size in hidden:
      width = self.layers.wide(self._width(size))
      x = self.layers.deconv(x, width, 5, f'deconv_{size}')
      x = self.layers.activate(self.layers.normalize(x, f'norm_{size}', train))
    return self.layers.deconv(x, self.image_shape[-1], 5, f'deconv_{last}')

  def _constant(self, z, labels, train):
    del labels, train
    x = nn.relu(self._start(z, self.dim))
    *hidden, last = self._sizes()
    for size in hidden:
      x = nn.relu(self.layers.deconv(x, self.dim, 5, f'deconv_{size}'))
    return self.layers.deconv(x, self.image_shape[-1], 5, f'deconv_{last}')

  def _mlp(self, z, labels, train):
    del labels, train
    x = z
    for i in range(4):
      x = nn.relu(self.layers.dense(x, self.dim, f'dense_{i}', he=True))
    x = self.layers.dense(x, math.prod(self.image_shape), 'dense_out')
    return x.reshape(-1, *self.image_shape)

  def _resnet101(self, z, labels, train):
    del labels
    x = self._start(z, self._width(4))
    for size in (4, *self._sizes()):
      width = self._width(size)
      if size > 4:
        x = self.layers.bottleneck(x, width, f'up_{size}', train, 'up')
      last = size == self.image_shape[0]
      for i in range(BLOCKS_101_LAST if last else BLOCKS_101):
        x = self.layers.bottleneck(x, width, f'block_{size}_{i}', train)
    x = self.layers.conv(x, self.image_shape[-1], 1, 'conv_out', he=False)
    return x / 5.0


# --- Critics: images [N, R, R, C] -> values [N], class logits or None --------


class Critic(nn.Module):
  """Every critic of the module; `net` names it.

  Attributes:
    layers: how layers are made.
    net: of `CRITICS`.
    dim: channels of every layer ('resnet') or of the first one.
    classes: outputs of the AC-GAN head; 0 without.
  """

  layers: Layers
  net: str = 'resnet'
  dim: int = 128
  classes: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, train: bool
               ) -> tuple[jax.Array, jax.Array | None]:
    features = getattr(self, f'_{self.net}')(x.astype(self.layers.dtype), train)
    values = self.layers.dense(features, 1, 'dense_out')
    if self.net == 'resnet101':
      values = values / 5.0
    logits = None
    if self.classes:
      logits = self.layers.dense(features, self.classes, 'dense_class')
      logits = logits.astype(jnp.float32)
    return values.astype(jnp.float32).reshape(-1), logits

  def _resnet(self, x, train):
    size = x.shape[1] // 2
    # The "optimised" first block has no activation before its first conv.
    h = self.layers.conv(x, self.dim, 3, f'down_{size}_conv1')
    h = self.layers.conv(nn.relu(h), self.dim, 3, f'down_{size}_conv2',
                         resample='down')
    x = h + self.layers.conv(x, self.dim, 1, f'down_{size}_shortcut',
                             he=False, resample='down')
    while size > 8:
      size //= 2
      x = self.layers.residual(x, self.dim, f'down_{size}', train, 'down')
    for i in range(2):
      x = self.layers.residual(x, self.dim, f'block_{i}', train)
    return jnp.mean(nn.relu(x), (1, 2))

  def _resnet_pyramid(self, x, train):
    size, width = x.shape[1], self.dim
    x = self.layers.conv(x, width, 3, 'conv_in', he=False)
    while size > 4:
      size, width = size // 2, min(2 * width, 8 * self.dim)
      x = self.layers.residual(x, width, f'down_{size}', train, 'down',
                               first_bias=False)
    return x.reshape(x.shape[0], -1)

  def _dcgan(self, x, train):
    size, width = x.shape[1], self.dim
    while size > 4:
      size //= 2
      x = self.layers.conv(x, self.layers.wide(width), 5, f'conv_{size}',
                           stride=2)
      if width > self.dim:
        x = self.layers.normalize(x, f'norm_{size}', train)
      x = self.layers.activate(x)
      width *= 2
    return x.reshape(x.shape[0], -1)

  _conv = _dcgan

  def _resnet101(self, x, train):
    resolution = size = x.shape[1]
    width = self.dim // 2
    x = self.layers.conv(x, width, 1, 'conv_in', he=False)
    while size >= 4:
      for i in range(BLOCKS_101_LAST if size == resolution else BLOCKS_101):
        x = self.layers.bottleneck(x, width, f'block_{size}_{i}', train)
      size //= 2
      if size >= 4:
        width *= 2
        x = self.layers.bottleneck(x, width, f'down_{size}', train, 'down')
    return x.reshape(x.shape[0], -1)


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: the CIFAR-10 ResNet."""
  adam = dict(b1=0.0, b2=0.9, lr_schedule='linear')
  return ConfigDict(dict(
      model=dict(
          G='resnet',
          D='resnet',
          z_dim=128,
          dim_G=128,
          dim_D=128,
          norm_G='batch',            # 'none'
          norm_D='none',             # 'layer', without penalty also 'batch'
          activation_G='relu',       # 'tanh', 'gated': 'dcgan' and 'conv'
          activation_D='leaky_relu',
          bn_scope='global',
          conditional=False,         # conditional batch norm, AC-GAN critic
      ),
      loss=dict(
          objective='wasserstein',
          n_critic=5,
          penalty='wgan_gp',         # 'wgan_lp' is one-sided; 'none'
          penalty_weight=10.0,
          penalty_form='grad',       # or 'jvp'
          clip=0.0,                  # WGAN's, after each update; 0 = off
          generator_batches=2,       # G's batch, in batches of the critic
          dequantize=True,           # 2 (x / 256 - 1/2) + U(0, 1/128)
          acgan_D=1.0,               # weight of the class loss on real images
          acgan_G=0.1,               # and of that on generated ones, in L_G
          **regularizers_lib.loss_config(),
      ),
      augment=regularizers_lib.augment_config(),
      optimizer=dict(
          G=optimizers.default_config('adam', 2e-4, **adam),
          D=optimizers.default_config('adam', 2e-4, **adam),
      ),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  system_lib.check_square_power_of_two('wgan_gp', spec, 16)
  model, loss = config.model, config.loss
  for key, choices in (
      ('model.G', GENERATORS), ('model.D', CRITICS),
      ('model.norm_G', ('none', 'batch')),
      ('model.norm_D', ('none', 'layer', 'batch')),
      ('model.activation_G', ('relu', 'tanh', 'gated')),
      ('model.activation_D', ('leaky_relu', 'tanh', 'gated')),
      ('loss.penalty', ('none', 'wgan_gp', 'wgan_lp')),
      ('loss.penalty_form', ('grad', 'jvp'))):
    config_lib.check_choice(config, key, choices)
  config_lib.check_positive(config, 'model.z_dim', 'model.dim_G', 'model.dim_D',
                       'loss.n_critic', 'loss.generator_batches')
  norm.check_scope('model.bn_scope', model.bn_scope)
  if model.norm_D == 'batch' and loss.penalty != 'none':
    raise errors.UserError(
        f"config.model.norm_D is 'batch' with loss.penalty={loss.penalty!r}. "
        'The penalty is on the gradient at each image, which batch '
        "normalization mixes: use model.norm_D='layer' or 'none'.")
  classes = 0
  if model.conditional:
    if model.G != 'resnet':
      raise errors.UserError(
          f'config.model.conditional is set with model.G={model.G!r}, but '
          "conditional batch normalization is that of 'resnet'.")
    classes = system_lib.num_classes(config, spec)

  def layers(net, normalization, activation, num_classes=0):
    # "DCGAN nets there use std 0.02"; the gated ones do not.
    std = 0.02 if net == 'dcgan' and activation != 'gated' else 0.0
    return Layers(std, normalization, num_classes, model.bn_scope, activation,
                  jnp.dtype(config.dtype))

  shape = (spec.resolution, spec.resolution, spec.channels)
  nets = {
      'G': Generator(layers(model.G, model.norm_G, model.activation_G,
                            classes), model.G, shape, model.dim_G),
      'D': Critic(layers(model.D, model.norm_D, model.activation_D),
                  model.D, model.dim_D, classes),
  }
  objective = adversarial.get(loss.objective)
  if objective.g_uses_real and loss.generator_batches != 1:
    raise errors.UserError(
        f'config.loss.objective={loss.objective!r} compares each generated '
        'image with a real one, but loss.generator_batches is '
        f'{loss.generator_batches}: set it to 1.')
  steps = config_lib.total_steps(config)
  tx = {'G': optimizers.make(config.optimizer.G, steps),
        'D': optimizers.make(config.optimizer.D, steps * loss.n_critic)}
  return System(config=config, nets=nets, tx=tx, classes=classes,
                objective=objective,
                regularizers=regularizers_lib.create(config),
                batches_per_step=loss.n_critic,
                image_shape=shape,
                requires=('image', 'label') if classes else ('image',),
                conditions=('label',) if classes else ())


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """WGAN-GP; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  classes: int
  objective: adversarial.Objective
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

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z = jnp.zeros((2, self.config.model.z_dim))
    x = jnp.zeros((2, *self.image_shape))
    labels = jnp.zeros((2,), jnp.int32) if self.classes else None
    nets = {
        'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, labels,
                                 train=True),
        'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x, train=True),
    }
    return state_lib.create(key, nets, self.players, self.tx, ema=('G',),
                            aux=self.regularizers.init())

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], normal, row i from keys[i]."""
    return rng.normals(keys, self.config.model.z_dim)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Returns images [N, R, R, C] in [-1, 1]; see core/system.py.

    Args:
      variables: {'G': variables}.
      keys: [N].
      conditions: may hold 'z' [N, z_dim], and 'label' [N] where the model is
        conditional; labels are drawn from the keys otherwise.
    """
    return self._apply_g(variables, keys, conditions, train=False)[0]

  def generate_by_batch(self, variables, keys: jax.Array, conditions=None):
    """As `generate`, by the batch's statistics; see core/system.py."""
    return self._apply_g(variables, keys, conditions, train=True)

  def _apply_g(self, variables, keys, conditions, train: bool):
    return generation.apply_generator(
        self, variables, generation.latents(self, keys, conditions),
        generation.labels(keys, conditions, self.classes), train=train)

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """Algorithm 1: n_critic critic updates, then the generator's."""
    del frozen
    loss, microbatches = self.config.loss, self.config.microbatches
    size = batch['image'].shape[1]

    def draw(sampler, name, i, *args, **kwargs):
      key = jax.random.fold_in(rng.named(state.key, state.step, name), i)
      return mesh.shard_batch(sampler(key, *args, **kwargs))

    def update_critic(state, sub, i):
      real = images.to_unit(sub['image'])
      if loss.dequantize:
        # 1/127.5 -> 1/128, and the width of a grey level filled.
        real = (real + 1.0) * (127.5 / 128.0) - 1.0
        real = real + draw(jax.random.uniform, 'dequantize', i, real.shape,
                           maxval=1.0 / 128.0)
      inputs = {
          'image': real,
          'z': draw(jax.random.normal, 'z/d', i,
                    (size, self.config.model.z_dim)),
          'eps': draw(jax.random.uniform, 'eps', i, (size,)),
          **self.regularizers.keys(state, 'D', size, i),
      }
      if self.classes:
        inputs['label'] = sub['label']
      state, logs = self.regularizers.remember(*step.update_player(
          state, 'D', self.players['D'], self.tx['D'],
          functools.partial(self.d_loss, state), inputs, microbatches))
      if loss.clip:
        state = state.replace(params={
            **state.params,
            'D': penalties.clip_weights(state.params['D'], loss.clip)})
      return state, logs

    state, d_logs = step.scan_batches(update_critic, state, batch)
    size = size * loss.generator_batches
    inputs = {'z': draw(jax.random.normal, 'z', 0,
                        (size, self.config.model.z_dim)),
              **self.regularizers.keys(state, 'G', size)}
    if self.objective.g_uses_real:
      inputs['image'] = images.to_unit(batch['image'][-1])
    if self.classes:
      inputs['label'] = draw(jax.random.randint, 'label', 0, (size,), 0,
                             self.classes)
    state, g_logs = step.update_player(
        state, 'G', self.players['G'], self.tx['G'],
        functools.partial(self.g_loss, state), inputs, microbatches)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step.finish(state, beta), {**d_logs, **g_logs}

  def d_loss(self, state, params, mvars, inputs):
    """Equation 3, plus the class loss on real images; G as in `state`."""
    loss = self.config.loss
    labels = inputs.get('label')
    g_params = mesh.replicate(state.params['G'])
    fake, _ = state_lib.apply_net(self.nets['G'], g_params, mvars['G'],
                                  inputs['z'], labels, train=True)
    fake, real = jax.lax.stop_gradient(fake), inputs['image']

    def critic(x, collections):
      return state_lib.apply_net(self.nets['D'], params['D'], collections, x,
                                 train=True)

    def judge(x):
      return critic(x, mvars['D'])[0][0]

    augment = self.regularizers.augment
    real_keys = inputs.get('augment_real')
    fake_keys = inputs.get('augment_fake')
    real_seen, fake_seen = augment(real_keys, real), augment(fake_keys, fake)
    (real_values, class_logits), changed = critic(real_seen, mvars['D'])
    (fake_values, _), changed = critic(fake_seen, changed)
    value = self.objective.d_loss(real_values, fake_values)
    terms = self.regularizers.terms(
        state,
        regularizers_lib.Judged(judge, real_seen, real_values, real_keys),
        regularizers_lib.Judged(judge, fake_seen, fake_values, fake_keys))
    logs = {'loss/d': value, 'logits/real': jnp.mean(real_values),
            'logits/fake': jnp.mean(fake_values), **terms}
    if loss.objective == 'wasserstein':
      logs['wasserstein'] = -value
    value = sum(terms.values(), value)
    if loss.penalty != 'none':
      function = (penalties.wgan_gp if loss.penalty == 'wgan_gp' else
                  penalties.wgan_lp)
      penalty = function(lambda x: judge(augment(real_keys, x)), real, fake,
                         inputs['eps'], loss.penalty_weight,
                         form=loss.penalty_form)
      logs[f'penalty/{loss.penalty}'] = penalty
      value = value + penalty
    if self.classes:
      class_loss = classification.cross_entropy(class_logits, labels)
      logs['loss/class_real'] = class_loss
      logs['accuracy/class_real'] = jnp.mean(
          (jnp.argmax(class_logits, -1) == labels).astype(jnp.float32))
      value = value + loss.acgan_D * class_loss
    return value, ({'D': changed}, logs)

  def g_loss(self, state, params, mvars, inputs):
    """-E f(G(z)), plus the class loss; the critic as in `state`."""
    labels = inputs.get('label')
    d_params = mesh.replicate(state.params['D'])
    fake, g_changed = state_lib.apply_net(
        self.nets['G'], params['G'], mvars['G'], inputs['z'], labels,
        train=True)

    def critic(x):
      return state_lib.apply_net(self.nets['D'], d_params, mvars['D'], x,
                                 train=True)

    augment = self.regularizers.augment
    (fake_values, class_logits), d_changed = critic(
        augment(inputs.get('augment_fake'), fake))
    real_values = None
    if self.objective.g_uses_real:
      real_values = critic(
          augment(inputs.get('augment_real'), inputs['image']))[0][0]
    value = self.objective.g_loss(real_values, fake_values)
    logs = {'loss/g': value}
    if self.classes:
      class_loss = classification.cross_entropy(class_logits, labels)
      logs['loss/class_fake'] = class_loss
      value = value + self.config.loss.acgan_G * class_loss
    return value, ({'G': g_changed, 'D': d_changed}, logs)
