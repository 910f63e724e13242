"""Conditional Generative Adversarial Nets (Mirza & Osindero 2014, 1411.1784).

Implemented: eq. 2, where both players see the condition y, with

  model.variant='mlp'   the nets of sec. 4.1 (figure 2: MNIST by digit), after
                        which table 1 (Parzen log-likelihood 132 +- 1.8) was
                        measured: experiments/gan's units and optimizer;
  model.variant='conv'  the conditional DCGAN of Newmu/dcgan_code
                        (mnist/train_cond_dcgan.py): y as a one-hot vector
                        beside the input of every layer, tiled over feature
                        maps. 28 x 28, or any power of two from 16 on.

There is no loss for a real image with a wrong label: D learns the condition
from (x, y) and (G(z, y), y) alone.

  G, conv (28 px):  [z, y] -> 1024 -> 7x7x128 -> 14x14x64 -> 28x28xC sigmoid
  D, conv (28 px):  x -> 14x14x64 -> 7x7x128 -> 1024 -> 1
  G, mlp:  z -> ReLU 200; y -> ReLU 1000; both -> ReLU 1200 -> sigmoid
  D, mlp:  x -> maxout 240x5; y -> maxout 50x5; both -> maxout 240x4 -> 1

Deviations:
1. The paper has no official code. Weight ranges and the halving of L_D of the
   mlp are those of the 2014 GAN, on which it builds; dropout acts on hidden
   layers, not on z, y or x.
2. The conv code trains either G or D on each minibatch. A step here does both:
   D on the minibatch (k of them), then G with new z and the labels of the
   last, so that a step is two of its updates.
3. The conv code's resolution is 28. Here n stride-2 layers lead from R / 2^n,
   the first size of at most 8, to R, with n >= 2; channels double from
   `model.ch` at the large end up to `model.ch_max`.
4. Samples are drawn with running statistics of the batch normalization, so
   that each depends on its own z and y alone; the code always normalizes with
   the batch at hand, as `generate_by_batch` (the command's
   --batch_norm=batch) does.
5. The learning rate is constant; the code's falls to 0 over the second half
   of its 200 epochs.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
import optax

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import generation
from gans_jax.core import images as images_lib
from gans_jax.core import mesh
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.data import spec as spec_lib
from gans_jax.losses import adversarial
from gans_jax.losses import regularizers as regularizers_lib
from gans_jax.nn import conv
from gans_jax.nn import dropout as dropout_lib
from gans_jax.nn import maxout
from gans_jax.nn import norm

VARIANTS = ('mlp', 'conv')
# mlp (sec. 4.1)
G_HIDDEN = (200, 1000, 1200)                  # of z, of y, of both
D_MAXOUT = ((240, 5), (50, 5), (240, 4))      # of x, of y, of both
G_RANGE, D_RANGE = 0.05, 0.005                # as in the 2014 GAN
D_SCALE = {'mlp': 0.5, 'conv': 1.0}           # of L_D
# conv
CONV_INIT = nn.initializers.normal(0.02)
SLOPE = 0.2
SMALLEST = 16


def with_label(h: jax.Array, y: jax.Array) -> jax.Array:
  """Appends y [N, K] to the channels of h [N, ..., C], tiled over space."""
  y = y.astype(h.dtype).reshape(y.shape[0], *[1] * (h.ndim - 2), y.shape[1])
  y = jnp.broadcast_to(y, (*h.shape[:-1], y.shape[-1]))
  return jnp.concatenate([h, y], axis=-1)


class MLPGenerator(nn.Module):
  """(z, y) -> pixels in [0, 1].

  Attributes:
    shape: (H, W, C).
    keep: probability that dropout keeps a hidden unit.
    width: multiplies the units of sec. 4.1.
    dtype: of the computation.
  """

  shape: tuple[int, int, int]
  keep: float = 0.5
  width: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z, y, train: bool, keys: jax.Array | None = None):
    """Maps [N, z_dim] and one-hot [N, K] to [N, H, W, C].

    Args:
      z: latents.
      y: one-hot labels.
      train: has no effect here; see `ConvGenerator`.
      keys: typed keys [N] that turn dropout on.
    """
    del train
    dense = lambda units: nn.Dense(  # noqa: E731
        units, kernel_init=maxout.symmetric_uniform(G_RANGE),
        dtype=self.dtype)
    of_z, of_y, of_both = (int(n * self.width) for n in G_HIDDEN)
    h = jnp.concatenate(
        [nn.relu(dense(of_z)(z)), nn.relu(dense(of_y)(y))], axis=1)
    h = dropout_lib.dropout(h, keys, self.keep, 0)
    h = dropout_lib.dropout(nn.relu(dense(of_both)(h)), keys, self.keep, 1)
    x = dense(int(np.prod(self.shape)))(h).astype(jnp.float32)
    return nn.sigmoid(x).reshape(-1, *self.shape)


class MLPDiscriminator(nn.Module):
  """(x, y) -> logit; attributes as in `MLPGenerator`."""

  keep: float = 0.5
  width: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, y, train: bool, keys: jax.Array | None = None):
    """Maps images [N, H, W, C] in [0, 1] and one-hot [N, K] to logits [N]."""
    del train
    init = maxout.symmetric_uniform(D_RANGE)
    of_x, of_y, of_both = (
        maxout.Maxout(max(1, int(units * self.width)), pieces, init,
                      self.dtype) for units, pieces in D_MAXOUT)
    h = jnp.concatenate(
        [of_x(x.reshape(x.shape[0], -1)), of_y(y)], axis=1)
    h = dropout_lib.dropout(h, keys, self.keep, 0)
    h = dropout_lib.dropout(of_both(h), keys, self.keep, 1)
    h = nn.Dense(1, kernel_init=init, dtype=self.dtype)(h)
    return h[:, 0].astype(jnp.float32)


def layers(resolution: int, ch: int, ch_max: int) -> tuple[int, list[int]]:
  """Returns the smallest side and the channels of D's strided layers.

  28 gives (7, [64, 128]), 64 gives (8, [64, 128, 256]); G has the reverse.
  """
  side, channels = resolution, []
  while side > 8 or len(channels) < 2:
    channels.append(min(ch * 2**len(channels), ch_max))
    side //= 2
  return side, channels


class ConvGenerator(nn.Module):
  """(z, y) -> images in [0, 1].

  Attributes:
    resolution: of the images.
    channels: of the images.
    ch: feature maps at half the resolution.
    ch_max: most feature maps of any layer.
    fc: units of the first layer.
    kernel: odd side of the kernels.
    bn_epsilon: of batch normalization, which has no affine part.
    dtype: of the computation.
  """

  resolution: int
  channels: int
  ch: int = 64
  ch_max: int = 512
  fc: int = 1024
  kernel: int = 5
  bn_epsilon: float = 1e-8
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z, y, train: bool, keys: jax.Array | None = None):
    """Maps [N, z_dim] and one-hot [N, K] to [N, R, R, C].

    Args:
      z: latents.
      y: one-hot labels.
      train: normalize with the batch's statistics.
      keys: have no effect here; see `MLPGenerator`.
    """
    del keys
    dense = lambda units: nn.Dense(  # noqa: E731
        units, use_bias=False, kernel_init=CONV_INIT, dtype=self.dtype)
    bn = lambda: norm.BatchNorm(  # noqa: E731
        epsilon=self.bn_epsilon, use_scale=False, use_bias=False)
    # Kernel 2p + 1, stride 2, padding p, output padding 1: exactly doubled.
    up = lambda features: conv.ConvTranspose(  # noqa: E731
        features, self.kernel, strides=2, padding=self.kernel // 2,
        output_padding=1, use_bias=False, kernel_init=CONV_INIT,
        dtype=self.dtype)
    side, features = layers(self.resolution, self.ch, self.ch_max)
    features = features[::-1]
    h = nn.relu(bn()(dense(self.fc)(with_label(z, y)), train))
    h = dense(side * side * features[0])(with_label(h, y))
    h = nn.relu(bn()(h, train)).reshape(-1, side, side, features[0])
    for n in features[1:]:
      h = nn.relu(bn()(up(n)(with_label(h, y)), train))
    x = up(self.channels)(with_label(h, y))
    return nn.sigmoid(x.astype(jnp.float32))


class ConvDiscriminator(nn.Module):
  """(x, y) -> logit; attributes as in `ConvGenerator`."""

  ch: int = 64
  ch_max: int = 512
  fc: int = 1024
  kernel: int = 5
  bn_epsilon: float = 1e-8
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, y, train: bool, keys: jax.Array | None = None):
    """Maps images [N, R, R, C] in [0, 1] and one-hot [N, K] to logits [N]."""
    del keys
    bn = lambda: norm.BatchNorm(  # noqa: E731
        epsilon=self.bn_epsilon, use_scale=False, use_bias=False)
    _, features = layers(x.shape[1], self.ch, self.ch_max)
    h = x.astype(self.dtype)
    for i, n in enumerate(features):
      h = conv.Conv(n, self.kernel, strides=2, padding=self.kernel // 2,
                    use_bias=False, kernel_init=CONV_INIT, dtype=self.dtype
                    )(with_label(h, y))
      h = nn.leaky_relu(bn()(h, train) if i else h, SLOPE)
    h = with_label(h.reshape(h.shape[0], -1), y)
    h = nn.Dense(self.fc, use_bias=False, kernel_init=CONV_INIT,
                 dtype=self.dtype)(h)
    h = with_label(nn.leaky_relu(bn()(h, train), SLOPE), y)
    h = nn.Dense(1, use_bias=False, kernel_init=CONV_INIT, dtype=self.dtype)(h)
    return h[:, 0].astype(jnp.float32)


def default_config() -> config_dict.ConfigDict:
  """The conv setting on MNIST; experiments/cgan/mnist.py has the paper's."""
  adam = dict(b1=0.5)
  return config_dict.ConfigDict(dict(
      model=dict(
          variant='conv',
          z_dim=100,
          z='symmetric',           # U(-1, 1); 'unit' is U(0, 1), the paper's
          ch=64,                   # conv ...
          ch_max=512,
          fc=1024,
          kernel=5,
          bn_epsilon=1e-8,
          keep=0.5,                # mlp: dropout keeps this share
          width=1.0,               # mlp: multiplies the paper's units
      ),
      loss=dict(
          objective='non_saturating',
          k=1,                     # discriminator steps
          l2=2.5e-5,               # l2 * weights is added to the gradient
          **regularizers_lib.loss_config(),
      ),
      augment=regularizers_lib.augment_config(),
      optimizer=dict(G=optimizers.default_config('adam', 2e-4, **adam),
                     D=optimizers.default_config('adam', 2e-4, **adam)),
      # Neither paper nor code keeps an average.
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: config_lib.ConfigDict, spec: spec_lib.DataSpec):
  """Builds the system; refuses settings that cannot work.

  Raises:
    UserError: naming the key.
  """
  model, loss = config.model, config.loss
  config_lib.check_choice(config, 'model.variant', VARIANTS)
  config_lib.check_choice(config, 'model.z', ('symmetric', 'unit'))
  config_lib.check_positive(config, 'model.z_dim', 'model.ch', 'model.ch_max',
                            'model.fc', 'loss.k')
  if model.kernel < 3 or model.kernel % 2 == 0:
    raise errors.UserError(
        f'config.model.kernel is {model.kernel}; the layers of the conv '
        'variant need an odd side of at least 3, such as 5 (the code) or 3.')
  if not 0.0 < model.keep <= 1.0:
    raise errors.UserError(
        f'config.model.keep is {model.keep}, the probability that dropout '
        'keeps a unit: it must be in (0, 1].')
  # Every joint layer of the mlp keeps at least one unit.
  if model.width * min(G_HIDDEN) < 1:
    raise errors.UserError(
        f'config.model.width is {model.width}; it multiplies layers of '
        f'{min(G_HIDDEN)} units and more, and must leave at least one.')
  if loss.l2 < 0:
    raise errors.UserError(f'config.loss.l2 is {loss.l2}, must be 0 or more.')
  objective = adversarial.get(loss.objective)
  if model.variant == 'conv':
    _check_resolution(spec.resolution)

  dtype = jnp.dtype(config.dtype)
  shape = (spec.resolution, spec.resolution, spec.channels)
  if model.variant == 'conv':
    sizes = dict(ch=model.ch, ch_max=model.ch_max, fc=model.fc,
                 kernel=model.kernel, bn_epsilon=model.bn_epsilon, dtype=dtype)
    generator = ConvGenerator(spec.resolution, spec.channels, **sizes)
    discriminator = ConvDiscriminator(**sizes)
  else:
    generator = MLPGenerator(shape, model.keep, model.width, dtype)
    discriminator = MLPDiscriminator(model.keep, model.width, dtype)
  steps = config_lib.total_steps(config)

  def tx(player, updates):
    made = optimizers.make(config.optimizer[player], updates)
    if not loss.l2:
      return made
    return optax.chain(optax.add_decayed_weights(loss.l2), made)

  return System(
      nets={'G': generator, 'D': discriminator},
      tx={'G': tx('G', steps), 'D': tx('D', steps * loss.k)},
      objective=objective, regularizers=regularizers_lib.create(config),
      shape=shape, num_classes=spec.num_classes,
      z_dim=model.z_dim, z_low=-1.0 if model.z == 'symmetric' else 0.0,
      d_scale=D_SCALE[model.variant], batches_per_step=loss.k,
      batch_size=config.batch_size, microbatches=config.microbatches,
      ema=config.ema)


def _check_resolution(resolution: int) -> None:
  power = resolution >= SMALLEST and resolution & (resolution - 1) == 0
  if resolution != 28 and not power:
    raise errors.UserError(
        "config.model.variant='conv' makes images of 28 pixels, or of a power "
        f'of two from {SMALLEST} on, but data.resolution is {resolution}. Set '
        '--config.data.resolution=32, or use --config.model.variant=mlp, '
        'which takes any.')


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """The conditional GAN; members as in core/system.py."""

  nets: dict[str, nn.Module]
  tx: dict[str, Any]
  objective: adversarial.Objective
  regularizers: regularizers_lib.Regularizers
  shape: tuple[int, int, int]
  num_classes: int
  z_dim: int
  z_low: float
  d_scale: float
  batches_per_step: int
  batch_size: int
  microbatches: int
  ema: Any

  players = {'G': ('G',), 'D': ('D',)}
  requires = ('image', 'label')
  conditions = ('label',)
  options = ()
  outputs = {}

  def frozen(self):
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z, y = jnp.zeros([2, self.z_dim]), jnp.zeros([2, self.num_classes])
    x = jnp.zeros([2, *self.shape])
    return state_lib.create(
        key,
        {'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, y, True),
         'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x, y, True)},
        self.players, self.tx, ema=('G',), aux=self.regularizers.init())

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], uniform."""
    return jax.vmap(lambda k: jax.random.uniform(
        k, [self.z_dim], minval=self.z_low, maxval=1.0))(keys)

  def generate(self, variables: Mapping[str, Any], keys: jax.Array,
               conditions: Mapping[str, jax.Array]) -> jax.Array:
    return self._apply_g(variables, keys, conditions, train=False)[0]

  def generate_by_batch(self, variables: Mapping[str, Any], keys: jax.Array,
                        conditions: Mapping[str, jax.Array]):
    return self._apply_g(variables, keys, conditions, train=True)

  def _apply_g(self, variables, keys, conditions, train: bool):
    x, changed = generation.apply_generator(
        self, variables, generation.latents(self, keys, conditions),
        self._one_hot(conditions['label']), train=train)
    return 2.0 * x - 1.0, changed

  def train_step(self, state, batch, frozen):
    del frozen
    batch = {'real': (images_lib.to_unit(batch['image']) + 1.0) / 2.0,
             'y': self._one_hot(batch['label'])}

    def d_update(state, batch, i):
      return self.regularizers.remember(
          *self._update(state, 'D', self._inputs(state, batch, 'd', i)))

    state, d_logs = step.scan_batches(d_update, state, batch)
    last = step.first_of(batch, -1)
    state, g_logs = self._update(
        state, 'G', self._inputs(state, last, 'g', 0))
    beta = schedules.ema_beta(self.ema, state.step, self.batch_size)
    return step.finish(state, beta), {**d_logs, **g_logs}

  def _one_hot(self, labels: jax.Array) -> jax.Array:
    return jax.nn.one_hot(labels, self.num_classes)

  def _inputs(self, state, batch, name: str, i):
    """Draws all that one update needs of each example."""
    count = batch['y'].shape[0]

    def keys(what):
      key = jax.random.fold_in(
          rng.named(state.key, state.step, f'{name}/{what}'), i)
      return mesh.shard_batch(rng.per_example(key, 0, count))

    return {**batch, 'z': self.latents(keys('z')),
            **self.regularizers.keys(state, name.upper(), count, i),
            **{f'{what}_keys': keys(f'dropout/{what}')
               for what in ('fake', 'd_real', 'd_fake')}}

  def _update(self, state, player: str, inputs):
    losses = {'D': self.d_loss, 'G': self.g_loss}

    def loss_fn(params, mvars, inputs):
      return losses[player](state, {**state.params, **params}, mvars, inputs)

    return step.update_player(state, player, self.players[player],
                              self.tx[player], loss_fn, inputs,
                              self.microbatches)

  def _net(self, name: str, params, mvars, x, inputs, keys: str):
    return state_lib.apply_net(
        self.nets[name], params[name], mvars[name], x, inputs['y'], True,
        inputs[keys])

  def _seen(self, inputs, kind: str, x: jax.Array) -> jax.Array:
    """What D sees of x in [0, 1]; augmentations are of [-1, 1]."""
    keys = inputs.get(f'augment_{kind}')
    if keys is None:
      return x
    return (self.regularizers.augment(keys, 2.0 * x - 1.0) + 1.0) / 2.0

  def d_loss(self, state, params, mvars, inputs):
    """E[-log D(x, y)] + E[-log(1 - D(G(z, y), y))] (eq. 2)."""
    fake, _ = self._net('G', params, mvars, inputs['z'], inputs, 'fake_keys')
    # Apart: real and generated images have statistics of their own.
    changed, judged = mvars['D'], {}
    for kind, x in (('real', inputs['real']), ('fake', fake)):
      judge = functools.partial(self._judge, params, mvars, inputs, kind)
      x = self._seen(inputs, kind, x)
      logits, changed = self._net(
          'D', params, {'D': changed}, x, inputs, f'd_{kind}_keys')
      judged[kind] = regularizers_lib.Judged(
          judge, x, logits, inputs.get(f'augment_{kind}'))
    real, fake = judged['real'].logits, judged['fake'].logits
    loss = self.d_scale * self.objective.d_loss(real, fake)
    terms = self.regularizers.terms(state, **judged)
    return sum(terms.values(), loss), (
        {'D': changed}, {'loss/d': loss, 'logits/real': jnp.mean(real),
                         'logits/fake': jnp.mean(fake), **terms})

  def _judge(self, params, mvars, inputs, kind: str, x):
    return self._net('D', params, mvars, x, inputs, f'd_{kind}_keys')[0]

  def g_loss(self, state, params, mvars, inputs):
    """E[-log D(G(z, y), y)]; or as `loss.objective` says."""
    fake, changed = self._net(
        'G', params, mvars, inputs['z'], inputs, 'fake_keys')
    fake = self._judge(params, mvars, inputs, 'fake',
                       self._seen(inputs, 'fake', fake))
    real = None
    if self.objective.g_uses_real:
      real = self._judge(params, mvars, inputs, 'real',
                         self._seen(inputs, 'real', inputs['real']))
    loss = self.objective.g_loss(real, fake)
    return loss, ({'G': changed}, {'loss/g': loss})
