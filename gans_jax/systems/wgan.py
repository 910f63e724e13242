"""WGAN: Wasserstein GAN, with weight clipping.

Arjovsky, Chintala, Bottou 2017, arXiv:1701.07875.
Algorithm 1, figures 3 and 5 to 7:

  Figure 5 (DCGAN nets)         model.G='dcgan',  model.D='dcgan'
  Figure 6 (no batch norm in G, constant number of filters)
                                model.norm_G='none' (as the code has it: the
                                filters still double)
  Figure 7 (MLP with ReLU as G) model.G='mlp', model.ngf=512
  Figure 3 bottom (both MLP)    model.G='mlp', model.D='mlp', 512 both

Critic updates per generator update follow the authors' code: loss.n_critic,
but loss.critic_boost for each of the first loss.boost_first generator updates
and whenever their number is a multiple of loss.boost_every (100, 25, 500), so
that the critic is near its optimum before the generator trusts it.

A step here is a round of n_critic critic updates, each on its own minibatch,
and then an update of the generator, unless the critic is being boosted: then
the generator waits, for 20 rounds of 5 when the boost is 100. Every critic
update thus sees fresh images, exactly the official schedule, while all steps
have one shape. `schedule/generator_updates` in the logs counts the updates;
with the official numbers, T of them take T + 19 (25 + (T - 1) // 500) steps
for T > 25 (so total_steps=110_000 is 105,516 updates).

Deviations:
1. Sign: we follow the paper, the critic is high on real images
   (L_critic = E f(G(z)) - E f(x)). The code has the opposite sign; converted
   critics are negated in their last layer.
2. critic_boost is rounded up to a multiple of n_critic.
3. While it waits, the generator's gradient is computed and not applied (a
   conditional would put collectives into a branch): 4% of the work of a run.
4. The logs hold the estimate of the last critic update; the paper's curves
   are smoothed by a median filter of 101.
5. Running statistics of G move in its update alone, not in the critic's.
6. The MLP's output is unbounded, as in the code; `generate` clips it.

As in the code, clipping comes before each critic update, so that the
generator meets a critic one update away from the box, and takes every
parameter: scales of batch normalization are forced below 0.01.
loss.clip_norm_scale=False exempts them; their users report worse training.
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
from gans_jax.losses import penalties
from gans_jax.losses import regularizers as regularizers_lib
from gans_jax.nn import norm
from gans_jax.systems import dcgan

ConfigDict = config_dict.ConfigDict

NETS = ('dcgan', 'mlp')
WASSERSTEIN = adversarial.get('wasserstein')


# --- Networks ---------------------------------------------------------------

# PyTorch's default of nn.Linear, which the code leaves as it is: weights and
# biases uniform on +-1/sqrt(fan_in).
LINEAR_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def _linear(features: int, x: jax.Array, name: str) -> jax.Array:
  bound = 1 / math.sqrt(x.shape[-1])

  def bias_init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return nn.Dense(features, kernel_init=LINEAR_INIT, bias_init=bias_init,
                  dtype=x.dtype, name=name)(x)


class MLPGenerator(nn.Module):
  """z [N, z_dim] -> three ReLU layers of ngf -> [N, *image_shape], linear."""

  image_shape: tuple[int, int, int]
  ngf: int = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    del train
    x = z.astype(self.dtype)
    for i in range(3):
      x = nn.relu(_linear(self.ngf, x, f'linear_{i}'))
    x = _linear(math.prod(self.image_shape), x, 'linear_3')
    return x.astype(jnp.float32).reshape(-1, *self.image_shape)


class MLPCritic(nn.Module):
  """Images [N, ...] -> three ReLU layers of ndf -> critic values [N]."""

  ndf: int = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    del train
    x = x.astype(self.dtype).reshape(x.shape[0], -1)
    for i in range(3):
      x = nn.relu(_linear(self.ndf, x, f'linear_{i}'))
    return _linear(1, x, 'linear_3').astype(jnp.float32).reshape(-1)


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: the authors' code's values."""
  return ConfigDict(dict(
      model=dict(
          G='dcgan',                 # or 'mlp'
          D='dcgan',
          z_dim=100,
          ngf=64,                    # units of each hidden layer of the MLP
          ndf=64,
          norm_G='batch',            # 'none' is the code's --noBN
          bn_epsilon=1e-5,
          bn_scope='global',
      ),
      loss=dict(
          n_critic=5,
          critic_boost=100,          # 0: n_critic always
          boost_first=25,
          boost_every=500,
          clip=0.01,
          clip_norm_scale=True,
          **regularizers_lib.loss_config(),
      ),
      augment=regularizers_lib.augment_config(),
      optimizer=dict(
          G=optimizers.default_config('rmsprop', 5e-5, b1=0.5),
          D=optimizers.default_config('rmsprop', 5e-5, b1=0.5),
      ),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  if 'dcgan' in (config.model.G, config.model.D):
    system_lib.check_square_power_of_two('wgan', spec, 16)
  config_lib.check_choice(config, 'model.G', NETS)
  config_lib.check_choice(config, 'model.D', NETS)
  config_lib.check_choice(config, 'model.norm_G', ('batch', 'none'))
  config_lib.check_positive(config, 'model.z_dim', 'model.ngf', 'model.ndf',
                       'model.bn_epsilon', 'loss.n_critic', 'loss.clip',
                       'loss.boost_every')
  norm.check_scope('model.bn_scope', config.model.bn_scope)
  for key in ('critic_boost', 'boost_first'):
    if config.loss[key] < 0:
      raise errors.UserError(
          f'config.loss.{key} is {config.loss[key]}, must be 0 or more.')
  model = config.model
  shape = (spec.resolution, spec.resolution, spec.channels)
  dtype = jnp.dtype(config.dtype)
  shared = dict(bn_epsilon=model.bn_epsilon, bn_scope=model.bn_scope,
                dtype=dtype)
  nets = {
      'G': (MLPGenerator(shape, model.ngf, dtype) if model.G == 'mlp' else
            dcgan.Generator(spec.resolution, spec.channels, model.ngf,
                            norm=model.norm_G, **shared)),
      'D': (MLPCritic(model.ndf, dtype) if model.D == 'mlp' else
            dcgan.Discriminator(spec.resolution, model.ndf, **shared)),
  }
  steps = config_lib.total_steps(config)
  tx = {'G': optimizers.make(config.optimizer.G, steps),
        'D': optimizers.make(config.optimizer.D,
                             steps * config.loss.n_critic)}
  return System(config=config, nets=nets, tx=tx, image_shape=shape,
                regularizers=regularizers_lib.create(config),
                batches_per_step=config.loss.n_critic)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """WGAN; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  image_shape: tuple[int, int, int]
  regularizers: regularizers_lib.Regularizers
  batches_per_step: int

  players = {'G': ('G',), 'D': ('D',)}
  requires = ('image',)
  conditions = ()
  options = ()
  outputs = {}

  def frozen(self) -> dict:
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z = jnp.zeros((2, self.config.model.z_dim))
    x = jnp.zeros((2, *self.image_shape))
    nets = {
        'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, train=True),
        'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x, train=True),
    }
    aux = {'generator_updates': jnp.zeros([], jnp.int32),
           'critic_updates': jnp.zeros([], jnp.int32),
           **self.regularizers.init()}
    return state_lib.create(key, nets, self.players, self.tx, ema=('G',),
                            aux=aux)

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], normal, row i from keys[i]."""
    return rng.normals(keys, self.config.model.z_dim)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Returns images [N, R, R, C] in [-1, 1]; see `dcgan.System.generate`."""
    return self._apply_g(variables, keys, conditions, train=False)[0]

  def generate_by_batch(self, variables, keys: jax.Array, conditions=None):
    """As `generate`, by the batch's statistics; see core/system.py."""
    return self._apply_g(variables, keys, conditions, train=True)

  def _apply_g(self, variables, keys, conditions, train: bool):
    x, changed = generation.apply_generator(
        self, variables, generation.latents(self, keys, conditions),
        train=train)
    return jnp.clip(x, -1.0, 1.0), changed

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """A round of Algorithm 1, lines 2 to 11; see the module docstring."""
    del frozen
    microbatches = self.config.microbatches
    size = batch['image'].shape[1]

    def latents(name, i=0):
      key = jax.random.fold_in(rng.named(state.key, state.step, name), i)
      z = jax.random.normal(key, (size, self.config.model.z_dim))
      return mesh.shard_batch(z)

    def update_critic(state, sub, i):
      # As the code, not line 7: before the update.
      state = state.replace(params={
          **state.params, 'D': self.clip(state.params['D'])})
      inputs = {'image': images.to_unit(sub['image']),
                'z': latents('z/d', i),
                **self.regularizers.keys(state, 'D', size, i)}
      return self.regularizers.remember(*step.update_player(
          state, 'D', self.players['D'], self.tx['D'],
          functools.partial(self.d_loss, state), inputs, microbatches))

    state, d_logs = step.scan_batches(update_critic, state, batch)
    new, g_logs = step.update_player(
        state, 'G', self.players['G'], self.tx['G'],
        functools.partial(self.g_loss, state),
        {'z': latents('z'), **self.regularizers.keys(state, 'G', size)},
        microbatches)
    ready, counts = self.count(state.aux)
    aux = {**state.aux, **counts}
    state = jax.tree.map(lambda a, b: jnp.where(ready, a, b),
                         new.replace(key=None), state.replace(key=None)
                         ).replace(key=state.key, aux=aux)
    beta = schedules.ema_beta(self.config.ema, aux['generator_updates'],
                              self.config.batch_size)
    state = step.finish(state, jnp.where(ready, beta, 1.0))
    logs = {**d_logs, **g_logs, 'schedule/generator_updates':
            aux['generator_updates'].astype(jnp.float32)}
    return state, logs

  def count(self, aux):
    """Decides whether the generator moves, after n_critic critic updates.

    Args:
      aux: 'generator_updates' done, 'critic_updates' since the last of them.

    Returns:
      (bool scalar, the new counts).
    """
    loss = self.config.loss
    done, critic = aux['generator_updates'], aux['critic_updates']
    critic = critic + loss.n_critic
    wanted = loss.n_critic
    if loss.critic_boost:
      boosted = (done < loss.boost_first) | (done % loss.boost_every == 0)
      wanted = jnp.where(boosted, loss.critic_boost, loss.n_critic)
    ready = critic >= wanted
    return ready, {
        'generator_updates': done + ready.astype(jnp.int32),
        'critic_updates': jnp.where(ready, 0, critic)}

  def clip(self, params):
    """Clips the critic's parameters to +-loss.clip."""
    loss = self.config.loss
    exempt = () if loss.clip_norm_scale else ('scale',)
    return penalties.clip_weights(params, loss.clip, exempt)

  def d_loss(self, state, params, mvars, inputs):
    """L_critic = E f(G(z)) - E f(x), with G as it is in `state`."""
    g_params = mesh.replicate(state.params['G'])
    fake, _ = state_lib.apply_net(self.nets['G'], g_params, mvars['G'],
                                  inputs['z'], train=True)
    apply_d = functools.partial(state_lib.apply_net, self.nets['D'],
                                params['D'], train=True)

    def judge(x):
      return apply_d(mvars['D'], x)[0]

    augment = self.regularizers.augment
    real_keys = inputs.get('augment_real')
    fake_keys = inputs.get('augment_fake')
    real_seen = augment(real_keys, inputs['image'])
    fake_seen = augment(fake_keys, jax.lax.stop_gradient(fake))
    real_values, changed = apply_d(mvars['D'], real_seen)
    fake_values, changed = apply_d(changed, fake_seen)
    value = WASSERSTEIN.d_loss(real_values, fake_values)
    terms = self.regularizers.terms(
        state,
        regularizers_lib.Judged(judge, real_seen, real_values, real_keys),
        regularizers_lib.Judged(judge, fake_seen, fake_values, fake_keys))
    return sum(terms.values(), value), ({'D': changed}, {
        'loss/d': value, 'wasserstein': -value,
        'logits/real': jnp.mean(real_values),
        'logits/fake': jnp.mean(fake_values), **terms})

  def g_loss(self, state, params, mvars, inputs):
    """L_G = -E f(G(z)), with the critic as it is in `state`."""
    d_params = mesh.replicate(state.params['D'])
    fake, g_changed = state_lib.apply_net(
        self.nets['G'], params['G'], mvars['G'], inputs['z'], train=True)
    fake = self.regularizers.augment(inputs.get('augment_fake'), fake)
    fake_values, d_changed = state_lib.apply_net(
        self.nets['D'], d_params, mvars['D'], fake, train=True)
    value = WASSERSTEIN.g_loss(None, fake_values)
    return value, ({'G': g_changed, 'D': d_changed}, {'loss/g': value})
