"""Generative Adversarial Networks (Goodfellow et al. 2014, arXiv:1406.2661).

Implemented: the value function (eq. 1), Algorithm 1 with k discriminator
steps, the non-saturating generator loss (end of sec. 3), and the nets of the
released settings (github.com/goodfeli/adversarial): MNIST (its TFD net is
pretrained and not built), CIFAR-10 fully connected (figure 2c) and
CIFAR-10 convolutional (figure 2d).

  table 1 (Parzen window log-likelihood), figure 2a: experiments/gan/mnist.py
  figure 2c: model.variant='cifar_mlp'
  figure 2d: model.variant='cifar_conv'

  model.variant            mnist        cifar_mlp     cifar_conv
  G hidden                 ReLU, ReLU   ReLU, sigmoid ReLU, sigmoid, deconv
  G output                 sigmoid      linear        linear
  D                        2 maxout     2 maxout      3 maxout conv, 1 maxout
  D dropout: kept          0.8 at the input, 0.5 before every later layer,
                           also while G learns (model.keep_input, keep_hidden)

Deviations:
1. The released settings update both players at the same parameters
   (`loss.simultaneous=true`, the default) where Algorithm 1 lets G meet the D
   just updated, with fresh noise (`loss.simultaneous=false`). Both are here.
2. The output bias of the MNIST generator starts, in the released code, at the
   logits of the pixels' marginals. Give them as `model.marginals`, the path
   of an .npy file of means in [0, 1], [H, W, C]; without it the bias is 0.
3. Momentum rises with every update rather than after every epoch.
4. The CIFAR settings train on images after global contrast normalization,
   which cannot be undone for a generated image. Here their data are
   2 x, x in [-1, 1]: close to the same spread (one unit), and invertible.
   Samples are clipped to [-1, 1] on the way out.
5. L_D is halved as in the released code; in eq. 1 it is not.
"""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from gans_jax.core import archives
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
from gans_jax.nn import conv
from gans_jax.nn import dropout as dropout_lib
from gans_jax.nn import maxout

VARIANTS = ('mnist', 'cifar_mlp', 'cifar_conv')
Z_LIMIT = 3.0 ** 0.5      # uniform noise of unit variance
G_RANGE = 0.05            # weights U(-0.05, 0.05) ...
G_LINEAR_RANGE = 0.5      # ... but for the linear output of cifar_mlp
D_RANGE = 0.005
CIFAR_SCALE = 2.0         # [-1, 1] -> about unit variance
# MaxoutConvC01B layers: units, pieces, kernel, padding, pool, pool stride.
CONV_LAYERS = ((32, 2, 8, 4, 4, 2), (32, 2, 8, 3, 4, 2), (192, 2, 5, 3, 2, 2))
CONV_DENSE = (500, 5)
DECONV_GRID = (10, 80)    # 10 x 10 x 80 -> 5x5, stride 3 -> 32 x 32


class MLPGenerator(nn.Module):
  """z -> pixels, flat; mnist and cifar_mlp.

  Attributes:
    hidden: units of both hidden layers.
    pixels: outputs, H * W * C.
    variant: 'mnist' or 'cifar_mlp'.
    output_bias: start of the output's bias, [pixels], or None for 0.
    dtype: of the computation.
  """

  hidden: int
  pixels: int
  variant: str = 'mnist'
  output_bias: np.ndarray | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Maps [N, z_dim] to [N, pixels], in the units of `Discriminator`."""
    init = maxout.symmetric_uniform(G_RANGE)
    h = nn.relu(nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype)(z))
    h = nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype)(h)
    if self.variant == 'cifar_mlp':
      wide = maxout.symmetric_uniform(G_LINEAR_RANGE)
      h = nn.Dense(self.pixels, kernel_init=wide, dtype=self.dtype)(
          nn.sigmoid(h))
      return h.astype(jnp.float32)

    def bias(key, shape, dtype=jnp.float32):
      if self.output_bias is None:
        return jnp.zeros(shape, dtype)
      return jnp.asarray(self.output_bias, dtype)

    h = nn.Dense(self.pixels, kernel_init=init, bias_init=bias,
                 dtype=self.dtype)(nn.relu(h))
    return nn.sigmoid(h.astype(jnp.float32))


class MLPDiscriminator(nn.Module):
  """Pixels, flat -> logit: two maxout layers.

  Attributes:
    units: of each maxout layer.
    pieces: of each unit.
    keep_input: probability that dropout keeps a pixel.
    keep_hidden: the same for hidden units.
    dtype: of the computation.
  """

  units: int
  pieces: int
  keep_input: float = 0.8
  keep_hidden: float = 0.5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, keys: jax.Array | None = None
               ) -> jax.Array:
    """Maps [N, pixels] to logits [N]; `keys` [N] turn dropout on."""
    init = maxout.symmetric_uniform(D_RANGE)
    h = dropout_lib.dropout(x, keys, self.keep_input, 0)
    h = maxout.Maxout(self.units, self.pieces, init, self.dtype)(h)
    h = dropout_lib.dropout(h, keys, self.keep_hidden, 1)
    h = maxout.Maxout(self.units, self.pieces, init, self.dtype)(h)
    h = dropout_lib.dropout(h, keys, self.keep_hidden, 2)
    h = nn.Dense(1, kernel_init=init, dtype=self.dtype)(h)
    return h[:, 0].astype(jnp.float32)


class ConvGenerator(nn.Module):
  """cifar_conv: z -> ReLU -> sigmoid, as 10 x 10 x 80 -> deconvolution."""

  hidden: int
  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Maps [N, z_dim] to [N, 32 * 32 * channels]."""
    init = maxout.symmetric_uniform(G_RANGE)
    side, depth = DECONV_GRID
    h = nn.relu(nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype)(z))
    h = nn.sigmoid(nn.Dense(side * side * depth, kernel_init=init,
                            dtype=self.dtype)(h))
    h = h.reshape(-1, side, side, depth)
    # (10 - 1) * 3 + 5 = 32: nothing is cropped.
    x = conv.ConvTranspose(
        self.channels, 5, strides=3, use_bias=False, kernel_init=init,
        dtype=self.dtype)(h)
    # tied_b: 0, a bias for each pixel.
    bias = self.param('bias', nn.initializers.zeros, x.shape[1:])
    x = x.astype(jnp.float32) + bias[None]
    return x.reshape(x.shape[0], -1)


class ConvDiscriminator(nn.Module):
  """cifar_conv: three maxout convolutions, maxout, logit."""

  channels: int
  keep_input: float = 0.8
  keep_hidden: float = 0.5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, keys: jax.Array | None = None
               ) -> jax.Array:
    """Maps [N, 32 * 32 * channels] to logits [N]."""
    init = maxout.symmetric_uniform(D_RANGE)
    h = x.reshape(x.shape[0], 32, 32, self.channels)
    keep = self.keep_input
    for i, (units, pieces, kernel, pad, pool, stride) in enumerate(
        CONV_LAYERS):
      h = dropout_lib.dropout(h, keys, keep, i)
      h = conv.Conv(units * pieces, kernel, padding=pad, kernel_init=init,
                    dtype=self.dtype)(h)
      h = maxout.largest_piece(h, pieces)
      # cuda-convnet pools a last, partial window too: 33 -> 16, 15 -> 7,
      # 9 -> 5.
      h = nn.max_pool(h, (pool, pool), (stride, stride), ((0, 1), (0, 1)))
      keep = self.keep_hidden
    h = h.reshape(h.shape[0], -1)  # [N, 5 * 5 * 192]
    h = dropout_lib.dropout(h, keys, keep, len(CONV_LAYERS))
    h = maxout.Maxout(*CONV_DENSE, init, self.dtype)(h)
    h = dropout_lib.dropout(h, keys, keep, len(CONV_LAYERS) + 1)
    h = nn.Dense(1, kernel_init=init, dtype=self.dtype)(h)
    return h[:, 0].astype(jnp.float32)


def default_config() -> config_dict.ConfigDict:
  """The MNIST setting."""
  sgd = dict(momentum=0.5, momentum_end=0.7,
             momentum_ramp=125_000,  # 250 epochs of 500 updates
             lr_decay=1.000004, lr_min=1e-6)
  return config_dict.ConfigDict(dict(
      model=dict(
          variant='mnist',
          z_dim=100,
          z='uniform',             # 'uniform' (unit variance) or 'normal'
          g_hidden=1200,
          d_units=240,             # of the MLP variants
          d_pieces=5,
          keep_input=0.8,
          keep_hidden=0.5,
          marginals='',            # .npy of pixel means in [0, 1], or none
      ),
      loss=dict(
          objective='non_saturating',  # or 'minimax'
          k=1,                     # discriminator steps, Algorithm 1
          simultaneous=True,
      ),
      optimizer=dict(G=optimizers.default_config('sgd', 0.1, **sgd),
                     D=optimizers.default_config('sgd', 0.1, **sgd)),
      # The paper keeps no average.
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: config_lib.ConfigDict, spec: spec_lib.DataSpec):
  """Builds the system; refuses settings that cannot work.

  Raises:
    UserError: naming the key.
  """
  model, loss = config.model, config.loss
  for key, choices in (
      ('model.variant', VARIANTS), ('model.z', ('uniform', 'normal')),
      ('loss.objective', ('non_saturating', 'minimax'))):
    config_lib.check_choice(config, key, choices)
  config_lib.check_positive(
      config, 'model.z_dim', 'model.g_hidden', 'model.d_units',
      'model.d_pieces', 'loss.k')
  for key in ('keep_input', 'keep_hidden'):
    if not 0.0 < model[key] <= 1.0:
      raise errors.UserError(
          f'config.model.{key} is {model[key]}, the probability that dropout '
          'keeps a unit: it must be in (0, 1].')
  if loss.simultaneous and loss.k > 1:
    raise errors.UserError(
        f'config.loss.k is {loss.k}, but players that move at the same '
        'parameters take one step each. Set --config.loss.simultaneous=false '
        '(Algorithm 1) for more discriminator steps.')
  if model.variant == 'cifar_conv' and spec.resolution != 32:
    raise errors.UserError(
        "config.model.variant='cifar_conv' makes images of 32 x 32 pixels, "
        f'but data.resolution is {spec.resolution}. Set '
        "--config.data.resolution=32, or use the variant 'cifar_mlp'.")

  dtype = jnp.dtype(config.dtype)
  shape = (spec.resolution, spec.resolution, spec.channels)
  pixels = int(np.prod(shape))
  keep = dict(keep_input=model.keep_input, keep_hidden=model.keep_hidden)
  if model.variant == 'cifar_conv':
    generator = ConvGenerator(model.g_hidden, spec.channels, dtype)
    discriminator = ConvDiscriminator(spec.channels, **keep, dtype=dtype)
  else:
    generator = MLPGenerator(
        model.g_hidden, pixels, model.variant,
        _marginal_logits(model.marginals, shape), dtype)
    discriminator = MLPDiscriminator(
        model.d_units, model.d_pieces, **keep, dtype=dtype)
  steps = config_lib.total_steps(config)
  return System(
      nets={'G': generator, 'D': discriminator},
      tx={'G': optimizers.make(config.optimizer.G, steps),
          'D': optimizers.make(config.optimizer.D, steps * loss.k)},
      objective=adversarial.get(loss.objective), shape=shape,
      unit_interval=model.variant == 'mnist', z_dim=model.z_dim,
      z_kind=model.z, simultaneous=loss.simultaneous,
      batches_per_step=loss.k, batch_size=config.batch_size,
      microbatches=config.microbatches, ema=config.ema)


def _marginal_logits(path: str, shape) -> np.ndarray | None:
  """Returns pylearn2's init_sigmoid_bias_from_marginals, flat, or None."""
  if not path:
    return None
  if not os.path.isfile(path):
    raise errors.UserError(
        f'config.model.marginals is {path!r}, but there is no such file. It '
        f'must be an .npy of pixel means in [0, 1], of shape {shape}.')
  try:
    with open(path, 'rb') as file:
      means = archives.parse_npy(bytearray(file.read()), path)
  except (OSError, ValueError) as error:
    raise errors.UserError(
        f'config.model.marginals: {path} is not an .npy file of numbers '
        f'({error}). Expected pixel means in [0, 1], of shape {shape}.'
    ) from error
  if means.shape != shape or means.dtype.kind not in 'fiu' or not (
      (means >= 0) & (means <= 1)).all():
    raise errors.UserError(
        f'config.model.marginals: {path} holds {means.dtype} of shape '
        f'{means.shape}, or values outside of [0, 1]; '
        f'expected pixel means in [0, 1], of shape {shape}.')
  means = np.clip(means.astype(np.float64), 1e-7, 1 - 1e-7)
  return np.log(means / (1 - means)).astype(np.float32).reshape(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """The 2014 GAN; members as in core/system.py."""

  nets: dict[str, nn.Module]
  tx: dict[str, Any]
  objective: adversarial.Objective
  shape: tuple[int, int, int]
  unit_interval: bool       # nets see [0, 1], else 2 x
  z_dim: int
  z_kind: str
  simultaneous: bool
  batches_per_step: int
  batch_size: int
  microbatches: int
  ema: Any

  players = {'G': ('G',), 'D': ('D',)}
  requires = ('image',)
  conditions = ()
  options = ()
  outputs = {}

  def frozen(self):
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z = jnp.zeros([2, self.z_dim])
    x = jnp.zeros([2, int(np.prod(self.shape))])
    return state_lib.create(
        key, {'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z),
              'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x)},
        self.players, self.tx, ema=('G',))

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim] of unit variance."""
    if self.z_kind == 'normal':
      return rng.normals(keys, self.z_dim)
    return jax.vmap(lambda k: jax.random.uniform(
        k, [self.z_dim], minval=-Z_LIMIT, maxval=Z_LIMIT))(keys)

  def generate(self, variables: Mapping[str, Any], keys: jax.Array,
               conditions: Mapping[str, jax.Array] | None = None
               ) -> jax.Array:
    x = self.nets['G'].apply(
        variables['G'], generation.latents(self, keys, conditions))
    x = 2.0 * x - 1.0 if self.unit_interval else x / CIFAR_SCALE
    return jnp.clip(x, -1.0, 1.0).reshape(-1, *self.shape)

  def train_step(self, state, batch, frozen):
    del frozen
    real = images_lib.to_unit(batch['image'])
    real = real.reshape(*real.shape[:2], -1)
    real = (real + 1.0) / 2.0 if self.unit_interval else real * CIFAR_SCALE

    if self.simultaneous:
      # Both gradients at the same parameters, for the same samples and masks.
      inputs = self._inputs(state, real[0], 'd', 0)
      moved_d, d_logs = self._update(state, 'D', inputs)
      moved_g, g_logs = self._update(state, 'G', inputs)
      state = moved_d.replace(
          params={**moved_d.params, 'G': moved_g.params['G']},
          opt={**moved_d.opt, 'G': moved_g.opt['G']})
    else:
      # Algorithm 1: k steps of D, then one of G with new noise.
      def d_update(state, real, i):
        return self._update(state, 'D', self._inputs(state, real, 'd', i))

      state, d_logs = step.scan_batches(d_update, state, real)
      state, g_logs = self._update(
          state, 'G', self._inputs(state, real[-1], 'g', 0))
    beta = schedules.ema_beta(self.ema, state.step, self.batch_size)
    return step.finish(state, beta), {**d_logs, **g_logs}

  def _inputs(self, state, real, name: str, i):
    """Draws all that one update needs of each example."""
    count = real.shape[0]

    def keys(what):
      key = jax.random.fold_in(
          rng.named(state.key, state.step, f'{name}/{what}'), i)
      return mesh.shard_batch(rng.per_example(key, 0, count))

    return {'real': real, 'z': self.latents(keys('z')),
            'real_mask': keys('dropout/real'),
            'fake_mask': keys('dropout/fake')}

  def _update(self, state, player: str, inputs):
    losses = {'D': self.d_loss, 'G': self.g_loss}

    def loss_fn(params, mvars, inputs):
      del mvars
      loss, logs = losses[player]({**state.params, **params}, inputs)
      return loss, ({}, logs)

    return step.update_player(state, player, self.players[player],
                              self.tx[player], loss_fn, inputs,
                              self.microbatches)

  def _fake_logits(self, params, inputs):
    fake = self.nets['G'].apply({'params': params['G']}, inputs['z'])
    return self.nets['D'].apply({'params': params['D']}, fake,
                                inputs['fake_mask'])

  def d_loss(self, params, inputs):
    """1/2 E[-log D(x)] + 1/2 E[-log(1 - D(G(z)))]."""
    real = self.nets['D'].apply({'params': params['D']}, inputs['real'],
                                inputs['real_mask'])
    fake = self._fake_logits(params, inputs)
    loss = 0.5 * self.objective.d_loss(real, fake)
    return loss, {'loss/d': loss, 'logits/real': jnp.mean(real),
                  'logits/fake': jnp.mean(fake)}

  def g_loss(self, params, inputs):
    """E log(1 - D(G(z))) (eq. 1), or E[-log D(G(z))]."""
    loss = self.objective.g_loss(None, self._fake_logits(params, inputs))
    return loss, {'loss/g': loss}
