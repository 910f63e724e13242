"""DCGAN: Unsupervised Representation Learning with Deep Convolutional GANs.

Radford, Metz, Chintala 2015, arXiv:1511.06434. Figure 1 and section 3, in the
two forms that exist:

  model.variant='pytorch': 4x4 kernels, convolutions throughout, z normal.
    The network of pytorch/examples, dcgan.torch and the WGAN repository,
    by which the field knows DCGAN. The default.
  model.variant='paper': 5x5 kernels, a dense layer at either end, twice the
    channels: figure 1, and the authors' Theano code (Newmu/dcgan_code). The
    constants that go with it are `PAPER` below.

At 64x64 they have 3,576,704 + 2,765,568 and 18,885,760 + 17,232,768
parameters. Other resolutions are those of the WGAN repository: the 4x4 map
always comes first, and each halving of the resolution takes the widest layer
away.

loss.schedule tells which game of alternating updates is played:
  'pytorch': D's update, then G's on the same fakes through the new D.
  'torch': the same fakes, but through the D from before its update
    (dcgan.torch computes both gradients at once).
  'paper': D's update, then G's on fresh fakes (each minibatch trains one of
    the two, turn by turn).

Row <-> config, beyond the paper: loss.objective any of losses/adversarial;
loss.penalty any of `PENALTIES`, at every loss.penalty_every-th step.

Deviations:
1. schedule='paper': the authors' code reads a minibatch of images for G's
   turn too, and discards it. Ours reads none: 25 epochs of theirs are 12.5
   epochs of data here, with as many updates.
2. Statistics of batch normalization are over the global batch, on any number
   of devices; model.bn_scope='device' gives the per-device ones of
   PyTorch's DataParallel.
3. The discriminator ends in a logit; the sigmoid is in the loss.
4. Weight decay 1e-5 of the authors' code (loss.l2) is added to the gradient,
   as there; the paper does not mention it.
5. Running statistics of G move in G's update alone (in the reference codes
   they move whenever G runs). With schedule 'pytorch' and 'torch', where the
   fakes are shared, this is the same.
"""

from collections.abc import Callable
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
from gans_jax.nn import conv
from gans_jax.nn import norm

ConfigDict = config_dict.ConfigDict

VARIANTS = ('pytorch', 'paper')
SCHEDULES = ('pytorch', 'torch', 'paper')
PENALTIES = ('none', 'r1', 'r2', 'wgan_gp', 'wgan_lp', 'zero_centred',
             'dragan')
INIT = nn.initializers.normal(0.02)  # section 4: all weights N(0, 0.02)
LRELU_SLOPE = 0.2  # section 4

# The paper's and its code's constants, for experiment files.
PAPER: dict[str, Any] = {
    'model.variant': 'paper',
    'model.ngf': 128,
    'model.ndf': 128,
    'model.z_distribution': 'uniform',
    'model.bn_epsilon': 1e-8,
    'loss.schedule': 'paper',
    'loss.l2': 1e-5,
    'batch_size': 128,
}


# --- Networks ---------------------------------------------------------------


class Generator(nn.Module):
  """z [N, z_dim] -> images [N, R, R, channels] in [-1, 1].

  Attributes:
    resolution: R, a power of two from 8 on.
    channels: of the images.
    ngf: channels of the layer before the image; doubled at every halving.
    variant: 'pytorch' or 'paper', see the module.
    norm: 'batch' or 'none'.
    bn_epsilon: of batch normalization.
    bn_scope: whose statistics, see `norm.BatchNorm`.
    dtype: of the computation; the image is float32.
  """

  resolution: int
  channels: int = 3
  ngf: int = 64
  variant: str = 'pytorch'
  norm: str = 'batch'
  bn_epsilon: float = 1e-5
  bn_scope: str = 'global'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    up = functools.partial(conv.ConvTranspose, use_bias=False,
                           kernel_init=INIT, dtype=self.dtype)

    def width(size):
      return self.ngf * self.resolution // (2 * size)

    def activate(x, size):
      if self.norm == 'batch':
        x = norm.BatchNorm(epsilon=self.bn_epsilon, statistics=self.bn_scope,
                           scale_init=norm.normal_scale(),
                           name=f'bn_{size}')(x, train)
      return nn.relu(x)

    if self.variant == 'pytorch':
      step_up = dict(kernel_size=(4, 4), strides=(2, 2), padding=1)
      x = z[:, None, None, :].astype(self.dtype)
      x = up(width(4), kernel_size=(4, 4), strides=(1, 1), padding=0,
             name='convt_4')(x)
      x = activate(x, 4)
    else:
      step_up = dict(kernel_size=(5, 5), strides=(2, 2), padding=2,
                     output_padding=1)
      # The authors normalize each of the 4 * 4 * width units by itself.
      x = nn.Dense(16 * width(4), use_bias=False, kernel_init=INIT,
                   dtype=self.dtype, name='dense_4')(z)
      x = activate(x, 4).reshape(-1, 4, 4, width(4))
    size = 8
    while size < self.resolution:
      x = up(width(size), **step_up, name=f'convt_{size}')(x)
      x = activate(x, size)  # [N, size, size, width(size)]
      size *= 2
    x = up(self.channels, **step_up, name=f'convt_{size}')(x)
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """Images [N, R, R, channels] -> logits [N], float32.

  The attributes mirror those of `Generator`.
  """

  resolution: int
  ndf: int = 64
  variant: str = 'pytorch'
  norm: str = 'batch'
  bn_epsilon: float = 1e-5
  bn_scope: str = 'global'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    if self.variant == 'pytorch':
      kernel, pad = (4, 4), ((1, 1), (1, 1))
    else:
      kernel, pad = (5, 5), ((2, 2), (2, 2))
    down = functools.partial(conv.Conv, use_bias=False, kernel_init=INIT,
                             dtype=self.dtype)
    x = x.astype(self.dtype)
    size = self.resolution // 2
    while size >= 4:
      width = self.ndf * self.resolution // (2 * size)
      x = down(width, kernel, (2, 2), pad, name=f'conv_{size}')(x)
      # No normalization at D's input, nor at G's output (section 3).
      if self.norm == 'batch' and size < self.resolution // 2:
        x = norm.BatchNorm(epsilon=self.bn_epsilon, statistics=self.bn_scope,
                           scale_init=norm.normal_scale(),
                           name=f'bn_{size}')(x, train)
      x = nn.leaky_relu(x, LRELU_SLOPE)  # [N, size, size, width]
      size //= 2
    if self.variant == 'pytorch':
      x = down(1, (4, 4), (1, 1), ((0, 0), (0, 0)), name='conv_1')(x)
    else:
      x = nn.Dense(1, use_bias=False, kernel_init=INIT, dtype=self.dtype,
                   name='dense_1')(x.reshape(x.shape[0], -1))
    return x.astype(jnp.float32).reshape(-1)


# --- Latents and penalties ---------------------------------------------------


def draw(key: jax.Array, shape: tuple[int, ...],
         distribution: str) -> jax.Array:
  """Draws z: 'normal' N(0, 1) or 'uniform' on [-1, 1)."""
  if distribution == 'normal':
    return jax.random.normal(key, shape)
  return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def penalty_inputs(name: str, key: jax.Array,
                   real: jax.Array) -> dict[str, jax.Array]:
  """Returns what a penalty needs for each example, drawn for all at once."""
  eps = mesh.shard_batch(jax.random.uniform(key, real.shape[:1]))
  if name in ('wgan_gp', 'wgan_lp', 'zero_centred'):
    return {'eps': eps}
  if name == 'dragan':
    noise_key = jax.random.fold_in(key, 1)
    noise = mesh.shard_batch(jax.random.uniform(noise_key, real.shape))
    return {'points': penalties.perturb(real, noise, 'notebook', eps=eps)}
  return {}


def penalize(loss: ConfigDict, logits_fn: penalties.LogitsFn,
             inputs: Mapping[str, jax.Array], fake: jax.Array) -> jax.Array:
  """Returns the penalty `loss.penalty` of weight `loss.penalty_weight`.

  Args:
    loss: the keys penalty, penalty_weight and penalty_form.
    logits_fn: images -> logits.
    inputs: 'image' and what `penalty_inputs` returned.
    fake: generated images.
  """
  weight, form = loss.penalty_weight, loss.penalty_form
  if loss.penalty == 'r1':
    return penalties.r1(logits_fn, inputs['image'], weight, form)
  if loss.penalty == 'r2':
    return penalties.r2(logits_fn, fake, weight, form)
  if loss.penalty == 'dragan':
    return penalties.dragan(logits_fn, inputs['points'], weight, form=form)
  between = (logits_fn, inputs['image'], fake, inputs['eps'], weight)
  if loss.penalty == 'zero_centred':
    return penalties.zero_centred(*between, form=form)
  if loss.penalty == 'wgan_lp':
    return penalties.wgan_lp(*between, form=form)
  return penalties.wgan_gp(*between, form=form)


@dataclasses.dataclass(frozen=True)
class Replay:
  """A generator that has run: its images, and its gradient for any loss.

  D's update needs the images, G's the same images and the way back from
  them. Written as two runs, the compiler merges them on one device, but not
  the collectives of batch normalization on several.

  Attributes:
    fake: images [N, ...].
    pull: cotangent of the images -> (gradient of the parameters,).
    changed: G's collections after the run.
  """

  fake: jax.Array
  pull: Callable[[jax.Array], tuple[Any]]
  changed: Mapping[str, Any]

  def __call__(self, params) -> jax.Array:
    """Returns the images as a function of the parameters they came from."""
    @jax.custom_vjp
    def run(params):
      del params
      return self.fake

    run.defvjp(lambda params: (run(params), None),
               lambda _, cotangent: self.pull(cotangent))
    return run(params)


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: pytorch/examples' values."""
  return ConfigDict(dict(
      model=dict(
          variant='pytorch',         # or 'paper'
          z_dim=100,
          z_distribution='normal',   # or 'uniform' on [-1, 1]
          ngf=64,
          ndf=64,
          bn_epsilon=1e-5,
          bn_scope='global',         # 'device', 'group:K'
      ),
      loss=dict(
          objective='non_saturating',
          schedule='pytorch',        # 'torch', 'paper': see the module
          l2=0.0,                    # weight decay added to the gradient
          penalty='none',
          penalty_weight=10.0,       # gamma of R1, lambda of the others
          penalty_every=1,           # lazy regularization
          penalty_form='grad',       # or 'jvp'
          **regularizers_lib.loss_config(),
      ),
      augment=regularizers_lib.augment_config(),
      optimizer=dict(
          G=optimizers.default_config('adam', 2e-4, b1=0.5),
          D=optimizers.default_config('adam', 2e-4, b1=0.5),
      ),
      # The paper samples the weights as they are: an average of weight 0.
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  system_lib.check_square_power_of_two('dcgan', spec, 16)
  config_lib.check_choice(config, 'model.variant', VARIANTS)
  config_lib.check_choice(config, 'model.z_distribution', ('normal', 'uniform'))
  config_lib.check_choice(config, 'loss.schedule', SCHEDULES)
  config_lib.check_choice(config, 'loss.penalty', PENALTIES)
  config_lib.check_choice(config, 'loss.penalty_form', ('grad', 'jvp'))
  config_lib.check_positive(config, 'model.z_dim', 'model.ngf', 'model.ndf',
                 'model.bn_epsilon', 'loss.penalty_every')
  norm.check_scope('model.bn_scope', config.model.bn_scope)
  model = config.model
  shared = dict(variant=model.variant, bn_epsilon=model.bn_epsilon,
                bn_scope=model.bn_scope, dtype=jnp.dtype(config.dtype))
  nets = {
      'G': Generator(spec.resolution, spec.channels, model.ngf, **shared),
      'D': Discriminator(spec.resolution, model.ndf, **shared),
  }
  updates = config_lib.total_steps(config)
  every = (config.loss.penalty_every if config.loss.penalty != 'none' else 1)
  settings = {
      'G': config.optimizer.G,
      'D': optimizers.lazy_correction(config.optimizer.D, every),
  }
  tx = {}
  for player, setting in settings.items():
    tx[player] = optimizers.make(setting, updates)
    if config.loss.l2:
      tx[player] = optax.chain(optax.add_decayed_weights(config.loss.l2),
                               tx[player])
  return System(config=config, nets=nets, tx=tx,
                objective=adversarial.get(config.loss.objective),
                regularizers=regularizers_lib.create(config),
                image_shape=(spec.resolution, spec.resolution, spec.channels))


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """DCGAN; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  objective: adversarial.Objective
  regularizers: regularizers_lib.Regularizers
  image_shape: tuple[int, int, int]

  players = {'G': ('G',), 'D': ('D',)}
  requires = ('image',)
  conditions = ()
  options = ()
  batches_per_step = 1
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
    return state_lib.create(key, nets, self.players, self.tx, ema=('G',),
                            aux=self.regularizers.init())

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], row i from keys[i]."""
    model = self.config.model
    return jax.vmap(
        lambda k: draw(k, (model.z_dim,), model.z_distribution))(keys)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Returns images [N, R, R, C] in [-1, 1]; see core/system.py.

    Args:
      variables: {'G': variables}.
      keys: [N].
      conditions: may hold 'z' [N, z_dim].
    """
    return self._apply_g(variables, keys, conditions, train=False)[0]

  def generate_by_batch(self, variables, keys: jax.Array, conditions=None):
    """As `generate`, by the batch's statistics; see core/system.py."""
    return self._apply_g(variables, keys, conditions, train=True)

  def _apply_g(self, variables, keys, conditions, train: bool):
    return generation.apply_generator(
        self, variables, generation.latents(self, keys, conditions),
        train=train)

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """Updates D, then G, by `loss.schedule`; see core/system.py."""
    del frozen
    loss, microbatches = self.config.loss, self.config.microbatches
    real = images.to_unit(step.first_of(batch)['image'])

    def latents(name):
      model = self.config.model
      z = draw(rng.named(state.key, state.step, name),
               (real.shape[0], model.z_dim), model.z_distribution)
      return mesh.shard_batch(z)

    before = state
    z = latents('z')
    # Shared fakes are computed once, where all of them fit in memory.
    shared = loss.schedule != 'paper' and microbatches == 1
    replay = self._generate_once(state, z) if shared else None
    inputs = {'image': real, **penalty_inputs(
        loss.penalty, rng.named(state.key, state.step, 'penalty'), real)}
    inputs.update({'fake': replay.fake} if shared else {'z': z})
    inputs.update(self.regularizers.keys(state, 'D', real.shape[0]))
    state, d_logs = self.regularizers.remember(*step.update_player(
        state, 'D', self.players['D'], self.tx['D'],
        functools.partial(self.d_loss, state), inputs, microbatches))
    opponent = before if loss.schedule == 'torch' else state
    if loss.schedule == 'paper':
      z = latents('z/g')
    state, g_logs = step.update_player(
        state, 'G', self.players['G'], self.tx['G'],
        functools.partial(self.g_loss, opponent, replay),
        {'image': real, 'z': z,
         **self.regularizers.keys(state, 'G', real.shape[0])}, microbatches)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step.finish(state, beta), {**d_logs, **g_logs}

  def _generate_once(self, state, z: jax.Array) -> 'Replay':
    fake, pull, changed = jax.vjp(
        lambda params: state_lib.apply_net(
            self.nets['G'], params, state.mvars['G'], z, train=True),
        mesh.replicate(state.params['G']), has_aux=True)
    return Replay(fake, pull, changed)

  def d_loss(self, state, params, mvars, inputs):
    """L_D, with G as it is in `state`, on 'fake' or on fakes from 'z'."""
    loss = self.config.loss
    if 'fake' in inputs:
      fake = inputs['fake']
    else:
      g_params = mesh.replicate(state.params['G'])
      fake, _ = state_lib.apply_net(self.nets['G'], g_params, mvars['G'],
                                    inputs['z'], train=True)
      fake = jax.lax.stop_gradient(fake)
    apply_d = functools.partial(state_lib.apply_net, self.nets['D'],
                                params['D'], train=True)
    augment = self.regularizers.augment
    real_keys = inputs.get('augment_real')
    fake_keys = inputs.get('augment_fake')
    real_seen = augment(real_keys, inputs['image'])
    fake_seen = augment(fake_keys, fake)
    # Two batches: statistics of real and of generated images do not mix.
    real_logits, changed = apply_d(mvars['D'], real_seen)
    fake_logits, changed = apply_d(changed, fake_seen)
    value = self.objective.d_loss(real_logits, fake_logits)

    def judge(x):
      return apply_d(mvars['D'], x)[0]

    terms = self.regularizers.terms(
        state,
        regularizers_lib.Judged(judge, real_seen, real_logits, real_keys),
        regularizers_lib.Judged(judge, fake_seen, fake_logits, fake_keys))
    logs = {'loss/d': value, **logit_logs(real_logits, fake_logits), **terms}
    value = sum(terms.values(), value)
    if loss.penalty != 'none':
      penalty = step.lazily(
          state.step, loss.penalty_every,
          lambda: penalize(loss, lambda x: judge(augment(real_keys, x)),
                           inputs, fake))
      logs[f'penalty/{loss.penalty}'] = penalty
      value = value + penalty
    return value, ({'D': changed}, logs)

  def g_loss(self, state, replay, params, mvars, inputs):
    """L_G, with D as it is in `state`, on fakes from 'z' or on `replay`'s."""
    d_params = mesh.replicate(state.params['D'])
    if replay is not None:
      fake, g_changed = replay(params['G']), replay.changed
    else:
      fake, g_changed = state_lib.apply_net(
          self.nets['G'], params['G'], mvars['G'], inputs['z'], train=True)
    apply_d = functools.partial(state_lib.apply_net, self.nets['D'], d_params,
                                train=True)
    augment = self.regularizers.augment
    fake_logits, d_changed = apply_d(
        mvars['D'], augment(inputs.get('augment_fake'), fake))
    real_logits = None
    if self.objective.g_uses_real:
      real_logits, _ = apply_d(
          mvars['D'], augment(inputs.get('augment_real'), inputs['image']))
    value = self.objective.g_loss(real_logits, fake_logits)
    return value, ({'G': g_changed, 'D': d_changed}, {'loss/g': value})


def logit_logs(real_logits: jax.Array,
               fake_logits: jax.Array) -> dict[str, jax.Array]:
  """Health of the game: mean logits, and how often D is right."""
  return {
      'logits/real': jnp.mean(real_logits),
      'logits/fake': jnp.mean(fake_logits),
      'accuracy/real': jnp.mean((real_logits > 0).astype(jnp.float32)),
      'accuracy/fake': jnp.mean((fake_logits < 0).astype(jnp.float32)),
  }
