"""Autoencoder (Hinton & Salakhutdinov 2006, Science 313), convolutional.

The baseline of this family: the nets of the VQ-VAE (systems/vqvae.py) with no
codebook between them, or the paper's idea of a narrow code.

  L = mean |x - x^|^p, p = `loss.power` 1 or 2, images in [-1, 1]

  model.code       h w D numbers, D = `model.code_dim` (`model.dense=0`), or
                   `model.dense` numbers behind a dense layer

Outputs: 'reconstruct', and 'encode' (the code, float32 [N, ...]).

Deviations:
1. Trained at once by gradient descent; the paper (2006) trains layer by layer.
2. An autoencoder has no distribution of codes. For `generate`, codes are drawn
   from a diagonal Gaussian with the mean and the variance that the codes have
   had in training (running averages of decay 0.99): what a VAE is better than.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import optax

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import images
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.data import spec as spec_lib
from gans_jax.systems import vqvae

ConfigDict = config_dict.ConfigDict
MOMENTS_DECAY = 0.99


class Encoder(nn.Module):
  """Images [N, H, W, C] -> code [N, h, w, D] or [N, dense].

  Attributes:
    blocks: a `vqvae.Encoder`.
    dense: numbers of the code; 0 for those of `blocks`.
  """

  blocks: nn.Module
  dense: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    code = self.blocks(x)
    if self.dense:
      code = nn.Dense(self.dense, name='code')(
          code.reshape(code.shape[0], -1))
    # What `generate` draws from.
    mean = self.variable('moments', 'mean', jnp.zeros, code.shape[1:])
    var = self.variable('moments', 'var', jnp.ones, code.shape[1:])
    if self.is_mutable_collection('moments') and not self.is_initializing():
      fixed = jax.lax.stop_gradient(code)
      for average, new in ((mean, jnp.mean(fixed, 0)),
                           (var, jnp.var(fixed, 0))):
        average.value = (MOMENTS_DECAY * average.value
                         + (1 - MOMENTS_DECAY) * new)
    return code


class Decoder(nn.Module):
  """Code -> images [N, H, W, C], unbounded; attributes as of `Encoder`.

  Attributes:
    blocks: a `vqvae.Decoder`.
    grid: (h, w, D), the shape that it takes.
    dense: as in `Encoder`.
  """

  blocks: nn.Module
  grid: tuple[int, int, int]
  dense: int = 0

  @nn.compact
  def __call__(self, code: jax.Array) -> jax.Array:
    if self.dense:
      h, w, features = self.grid
      code = nn.relu(nn.Dense(h * w * features, name='code')(code))
    return self.blocks(code.reshape(-1, *self.grid))


def default_config() -> ConfigDict:
  """Returns every key that this system reads."""
  return ConfigDict(dict(
      model=dict(
          variant='sonnet',          # of the blocks: 'sonnet' or 'paper'
          hidden=128,
          residual_hidden=32,
          residual_layers=2,
          downsamples=2,
          code_dim=64,               # D
          dense=0,                   # numbers of the code; 0: h w D
      ),
      loss=dict(power=2),            # p: 1 or 2
      optimizer=dict(AE=optimizers.default_config('adam', 3e-4)),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  model = config.model
  config_lib.check_choice(config, 'model.variant', vqvae.VARIANTS)
  config_lib.check_choice(config, 'loss.power', (1, 2))
  config_lib.check_positive(
      config, 'model.hidden', 'model.residual_hidden', 'model.downsamples',
      'model.code_dim')
  if model.dense < 0:
    raise errors.UserError(
        f'config.model.dense is {model.dense}; expected 0 (the code is a grid) '
        'or the numbers of a dense code.')
  vqvae.check_downsamples(config, spec)
  shared = dict(
      hidden=model.hidden, residual_hidden=model.residual_hidden,
      residual_layers=model.residual_layers, downsamples=model.downsamples,
      variant=model.variant, dtype=jnp.dtype(config.dtype))
  side = spec.resolution // 2**model.downsamples
  nets = {
      'E': Encoder(vqvae.Encoder(model.code_dim, **shared), model.dense),
      'G': Decoder(vqvae.Decoder(spec.channels, **shared),
                   (side, side, model.code_dim), model.dense),
  }
  tx = {'AE': optimizers.make(config.optimizer.AE,
                              config_lib.total_steps(config))}
  return System(config=config, nets=nets, tx=tx,
                code_shape=((model.dense,) if model.dense
                            else (side, side, model.code_dim)),
                image_shape=(spec.resolution, spec.resolution, spec.channels))


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """Autoencoder; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  code_shape: tuple[int, ...]
  image_shape: tuple[int, int, int]

  players = {'AE': ('E', 'G')}
  requires = ('image',)
  conditions = ()
  options = ()
  batches_per_step = 1

  @property
  def outputs(self):
    return {'reconstruct': self._reconstruct, 'encode': self._encode}

  def frozen(self) -> dict:
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    x = jnp.zeros((2, *self.image_shape))
    code = jnp.zeros((2, *self.code_shape))
    nets = {'E': self.nets['E'].init(rng.named(key, 0, 'init/E'), x),
            'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), code)}
    return state_lib.create(key, nets, self.players, self.tx, ema=('E', 'G'))

  def _encode(self, variables, batch, keys=None) -> jax.Array:
    del keys
    return self.nets['E'].apply(variables['E'],
                                images.to_unit(batch['image']))

  def _reconstruct(self, variables, batch, keys=None) -> jax.Array:
    code = self._encode(variables, batch, keys)
    return jnp.clip(self.nets['G'].apply(variables['G'], code), -1.0, 1.0)

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns N(0, 1) of the shape of a code; `generate` scales it."""
    return rng.normals(keys, *self.code_shape)

  def generate(self, variables, keys: jax.Array,
               conditions: Mapping[str, Any] | None = None) -> jax.Array:
    """Decodes codes with the moments of those of training; see the module."""
    z = (conditions or {}).get('z')
    z = self.latents(keys) if z is None else z
    moments = variables['E']['moments']
    code = moments['mean'][None] + jnp.sqrt(moments['var'])[None] * z
    return jnp.clip(self.nets['G'].apply(variables['G'], code), -1.0, 1.0)

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """One update of E and G; see core/system.py."""
    del frozen
    x = images.to_unit(step.first_of(batch)['image'])
    state, logs = step.update_player(
        state, 'AE', self.players['AE'], self.tx['AE'], self.loss,
        {'image': x}, self.config.microbatches)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step.finish(state, beta), logs

  def loss(self, params, mvars, inputs):
    """mean |x - x^|^p."""
    x = inputs['image']
    code, changed = state_lib.apply_net(self.nets['E'], params['E'],
                                        mvars['E'], x)
    x_hat = self.nets['G'].apply({'params': params['G']}, code)
    value = jnp.mean(jnp.abs(x - x_hat)**self.config.loss.power)
    return value, ({'E': changed}, {'loss/ae': value, 'loss/recon': value})
