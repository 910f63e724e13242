"""Mode-collapse benchmarks on 2-D mixtures.

Three papers use the same toys (data/mixtures.py) with nets and training of
their own, and everything that claims to stabilise a GAN can be put on them:

  model.nets   paper, code                               ring    grid
  pacgan       PacGAN (Lin et al. 2018, 1712.04086,      ring8   grid25
               fjxmlzn/PacGAN), following VEEGAN
               (Srivastava et al. 2017, 1705.07761)
  wgan_gp      WGAN-GP (Gulrajani et al. 2017,           ring8_  grid25_
               1704.00028, gan_toy.py)                   wgan_gp wgan_gp
  unrolled     Unrolled GAN (Metz et al. 2017,           ring8
               1611.02163, poolio/unrolled_gan)

Implemented: any objective of losses/adversarial.py; the gradient penalties of
losses/penalties.py; weight clipping; packing (PacGAN, sec. 2: D judges m
points at once, m random ones of the data or m generated ones); unrolling
(Unrolled GAN, eq. 7-9: G descends the loss after n more steps of D, and the
gradient flows through those steps, while D itself takes one ordinary step).

  rows of experiments/toy    model.packing, model.unroll, loss.objective, ...
  PacGAN, tables 1 and 2     experiments/toy/{ring,grid}.py:row=pac2,...

Deviations:
1. PacGAN's real packs are drawn with replacement from 100,000 points; here
   pack i joins row i of `packing` successive batches of the shuffled stream.
2. PacGAN's generator loss also holds the real term, which has no gradient for
   G; here only where the objective needs it (relativistic ones, unrolling).
3. Samples are made with running statistics of the batch normalization
   (`pacgan` alone has it), as in PacGAN's evaluation, decay 0.95.
4. For the Adam steps inside the unrolling, 1e-16 is added under the root, so
   that a zero gradient has a finite derivative.
5. `unrolled` G's loss is -L_D(theta_D^n), real term included, as in the
   notebook, for the zero-sum objectives (minimax, wasserstein); for others it
   is their own generator loss at theta_D^n.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
import optax

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.data import mixtures
from gans_jax.data import spec as spec_lib
from gans_jax.losses import adversarial
from gans_jax.losses import penalties
from gans_jax.metrics import modes
from gans_jax.nn import maxout
from gans_jax.nn import norm

DIM = 2
PENALTIES = ('none', 'wgan_gp', 'wgan_lp', 'zero_centred', 'dragan', 'r1',
             'r2', 'r1_r2')
# What G minimises is minus what D does.
ZERO_SUM = ('minimax', 'wasserstein')
ADAM_EPS_ROOT = 1e-16


@dataclasses.dataclass(frozen=True)
class Setting:
  """Nets of one paper.

  Attributes:
    z_dim: of the latents, N(0, I).
    width: of G's hidden layers.
    depth: number of them.
    d_width: of D's.
    d_depth: number of them.
  """

  z_dim: int
  width: int
  depth: int
  d_width: int
  d_depth: int


SETTINGS = {
    'pacgan': Setting(2, 400, 4, 200, 3),
    'wgan_gp': Setting(2, 512, 3, 512, 3),
    'unrolled': Setting(256, 128, 2, 128, 2),
}
PACGAN_PIECES = 5
PACGAN_INIT = nn.initializers.normal(0.02)
UNROLLED_INIT = nn.initializers.orthogonal(1.4)
# WGAN-GP's 'he' is uniform, with the variance of He et al.; its last layers
# are Glorot.
HE_UNIFORM = nn.initializers.variance_scaling(2.0, 'fan_in', 'uniform')
GLOROT_UNIFORM = nn.initializers.glorot_uniform()


class Generator(nn.Module):
  """z -> point.

  Attributes:
    nets: key of `SETTINGS`.
    width: of the hidden layers.
    depth: number of them.
  """

  nets: str
  width: int
  depth: int

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    """Maps [N, z_dim] to [N, 2]; `train`: normalize with the batch."""
    h = z
    for _ in range(self.depth):
      if self.nets == 'pacgan':
        h = nn.Dense(self.width, use_bias=False, kernel_init=PACGAN_INIT)(h)
        h = nn.relu(norm.BatchNorm(momentum=0.95, epsilon=1e-4)(h, train))
      elif self.nets == 'wgan_gp':
        h = nn.relu(nn.Dense(self.width, kernel_init=HE_UNIFORM)(h))
      else:
        h = nn.tanh(nn.Dense(self.width, kernel_init=UNROLLED_INIT)(h))
    return nn.Dense(DIM, kernel_init=_last_init(self.nets))(h)


class Discriminator(nn.Module):
  """Pack of points -> logit; attributes as in `Generator`."""

  nets: str
  width: int
  depth: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, packing * 2] to [N]."""
    h = x
    for _ in range(self.depth):
      if self.nets == 'pacgan':
        h = maxout.Maxout(self.width, PACGAN_PIECES, PACGAN_INIT,
                          dtype=h.dtype)(h)
      elif self.nets == 'wgan_gp':
        h = nn.relu(nn.Dense(self.width, kernel_init=HE_UNIFORM)(h))
      else:
        h = nn.tanh(nn.Dense(self.width, kernel_init=UNROLLED_INIT)(h))
    return nn.Dense(1, kernel_init=_last_init(self.nets))(h)[:, 0]


def _last_init(nets: str) -> nn.initializers.Initializer:
  return {'pacgan': PACGAN_INIT, 'wgan_gp': GLOROT_UNIFORM,
          'unrolled': UNROLLED_INIT}[nets]


def default_config() -> config_dict.ConfigDict:
  """PacGAN's setting, without packing: its baseline GAN."""
  adam = dict(b1=0.8)
  return config_dict.ConfigDict(dict(
      model=dict(
          nets='pacgan',
          z_dim=0,                 # 0 here and below: as the paper of `nets`
          width=0,
          depth=0,
          d_width=0,
          d_depth=0,
          packing=1,               # m: points that D sees at once
          unroll=0,                # n: steps of D that G looks ahead
      ),
      loss=dict(
          objective='non_saturating',
          penalty='none',
          penalty_weight=1.0,      # lambda; gamma of r1, r2
          dragan_scale=0.1,        # standard deviation of DRAGAN's noise
          clip=0.0,                # weight clipping after D's steps; 0 = off
          n_critic=1,              # steps of D for each of G
          simultaneous=True,       # G's gradient at the old D
      ),
      optimizer=dict(G=optimizers.default_config('adam', 1e-4, **adam),
                     D=optimizers.default_config('adam', 1e-4, **adam)),
      # None of the papers keeps an average.
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: config_lib.ConfigDict, spec: spec_lib.DataSpec):
  """Builds the system; refuses settings that cannot work.

  Raises:
    UserError: naming the key.
  """
  model, loss = config.model, config.loss
  config_lib.check_choice(config, 'model.nets', tuple(SETTINGS))
  config_lib.check_choice(config, 'loss.penalty', PENALTIES)
  for group, key, least in (
      (model, 'z_dim', 0), (model, 'width', 0), (model, 'depth', 0),
      (model, 'd_width', 0), (model, 'd_depth', 0), (model, 'unroll', 0),
      (model, 'packing', 1), (loss, 'n_critic', 1), (loss, 'clip', 0),
      (loss, 'penalty_weight', 0), (loss, 'dragan_scale', 0)):
    if group[key] < least:
      name = 'model' if group is model else 'loss'
      raise errors.UserError(
          f'config.{name}.{key} is {group[key]}, must be at least {least}.')
  objective = adversarial.get(loss.objective)
  if loss.simultaneous and loss.n_critic > 1:
    raise errors.UserError(
        f'config.loss.n_critic is {loss.n_critic}, but players that move at '
        'the same parameters take one step each. Set '
        '--config.loss.simultaneous=false.')
  if model.unroll:
    d = config.optimizer.D
    if config.microbatches > 1:
      raise errors.UserError(
          f'config.model.unroll is {model.unroll} and config.microbatches '
          f'{config.microbatches}: the steps that are looked ahead are taken '
          'on the whole batch. Set --config.microbatches=1.')
    if d.name not in ('adam', 'sgd') or d.clip_norm or d.lr_decay != 1.0 or (
        d.lr_schedule != 'constant'):
      raise errors.UserError(
          'config.model.unroll differentiates through steps of D: '
          'config.optimizer.D must be adam or sgd with a constant rate and '
          f'without clip_norm; found {d.name!r}, lr_schedule '
          f'{d.lr_schedule!r}, lr_decay {d.lr_decay}, clip_norm '
          f'{d.clip_norm}.')
  if config.dtype != 'float32':
    raise errors.UserError(
        f'config.dtype is {config.dtype!r}; points a hundredth apart need '
        "'float32'.")

  setting = SETTINGS[model.nets]
  sizes = {key: model[key] or getattr(setting, key)
           for key in ('z_dim', 'width', 'depth', 'd_width', 'd_depth')}
  steps = config_lib.total_steps(config)
  source = config.data.source.partition(':')
  known = source[0] == 'mixture' and source[2] in mixtures.names()
  return System(
      nets={'G': Generator(model.nets, sizes['width'], sizes['depth']),
            'D': Discriminator(model.nets, sizes['d_width'],
                               sizes['d_depth'])},
      tx={'G': optimizers.make(config.optimizer.G, steps),
          'D': optimizers.make(config.optimizer.D, steps * loss.n_critic)},
      lookahead_tx=lookahead_optimizer(config.optimizer.D, steps),
      objective=objective, z_dim=sizes['z_dim'], packing=model.packing,
      unroll=model.unroll, penalty=loss.penalty,
      penalty_weight=loss.penalty_weight, dragan_scale=loss.dragan_scale,
      clip=loss.clip, simultaneous=loss.simultaneous,
      batches_per_step=loss.n_critic * model.packing,
      batch_size=config.batch_size, microbatches=config.microbatches,
      ema=config.ema, mixture=mixtures.get(source[2]) if known else None)


def lookahead_optimizer(config, total_updates: int
                        ) -> optax.GradientTransformation:
  """Returns D's optimizer with finite derivatives, and the same state."""
  if config.name != 'adam':
    return optimizers.make(config, total_updates)
  return optax.adam(lambda count: config.lr, config.b1, config.b2,
                    config.eps, eps_root=ADAM_EPS_ROOT)


def evaluate_points(points: np.ndarray, mixture) -> dict[str, float]:
  """Compares samples with a mixture (metrics/modes.py).

  Args:
    points: [N, 2]; the papers take 2,500.
    mixture: of data/mixtures.py.

  Returns:
    modes/covered, modes/high_quality in [0, 1], modes/reverse_kl in nats
    (left out when no sample is near a mode); {} for what has no modes.
  """
  if not isinstance(mixture, mixtures.Mixture):
    return {}
  found = modes.mixture_modes(np.asarray(points), mixture.modes, mixture.std)
  result = {'modes/covered': found['modes'],
            'modes/high_quality': found['high_quality']}
  if found['modes']:
    result['modes/reverse_kl'] = found['reverse_kl']
  return result


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """A GAN of points; members as in core/system.py, and `point_metrics`."""

  nets: dict[str, nn.Module]
  tx: dict[str, Any]
  lookahead_tx: optax.GradientTransformation
  objective: adversarial.Objective
  z_dim: int
  packing: int
  unroll: int
  penalty: str
  penalty_weight: float
  dragan_scale: float
  clip: float
  simultaneous: bool
  batches_per_step: int     # n_critic * packing
  batch_size: int
  microbatches: int
  ema: Any
  mixture: Any              # None when the data are not a known mixture

  players = {'G': ('G',), 'D': ('D',)}
  requires = ('point',)
  conditions = ()
  options = ()
  outputs = {}

  def frozen(self):
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z = jnp.zeros([2, self.z_dim])
    x = jnp.zeros([2, self.packing * DIM])
    return state_lib.create(
        key, {'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, True),
              'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x)},
        self.players, self.tx, ema=('G',))

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], N(0, I)."""
    return rng.normals(keys, self.z_dim)

  def generate(self, variables: Mapping[str, Any], keys: jax.Array,
               conditions: Mapping[str, jax.Array] | None = None
               ) -> jax.Array:
    """Returns points [N, 2], in the units of the data."""
    return self._apply_g(variables, keys, conditions, train=False)[0]

  def generate_by_batch(self, variables: Mapping[str, Any], keys: jax.Array,
                        conditions: Mapping[str, jax.Array] | None = None):
    return self._apply_g(variables, keys, conditions, train=True)

  def _apply_g(self, variables, keys, conditions, train: bool):
    z = (conditions or {}).get('z')
    mvars = dict(variables['G'])
    x, changed = state_lib.apply_net(
        self.nets['G'], mvars.pop('params'), mvars,
        self.latents(keys) if z is None else z, train=train)
    return x, {'G': changed}

  def point_metrics(self, points: np.ndarray) -> dict[str, float]:
    """Scores samples [N, 2] against the mixture of the data."""
    return evaluate_points(points, self.mixture)

  def train_step(self, state, batch, frozen):
    del frozen
    real = self._packs(batch['point'])
    if self.simultaneous:
      inputs = self._inputs(state, real[0], 'd', 0)
      moved_d, d_logs = self._update_d(state, inputs)
      moved_g, g_logs = self._update_g(state, inputs)
      state = moved_g.replace(
          params={**moved_g.params, 'D': moved_d.params['D']},
          opt={**moved_g.opt, 'D': moved_d.opt['D']})
    else:
      def d_update(state, real, i):
        return self._update_d(state, self._inputs(state, real, 'd', i))

      state, d_logs = step.scan_batches(d_update, state, real)
      state, g_logs = self._update_g(
          state, self._inputs(state, real[-1], 'g', 0))
    beta = schedules.ema_beta(self.ema, state.step, self.batch_size)
    return step.finish(state, beta), {**d_logs, **g_logs}

  def _packs(self, points: jax.Array) -> jax.Array:
    """Joins [n_critic * m, B, 2] to packs [n_critic, B, m * 2]."""
    _, batch, dim = points.shape
    packs = points.reshape(-1, self.packing, batch, dim)
    return jnp.moveaxis(packs, 1, 2).reshape(-1, batch, self.packing * dim)

  def _inputs(self, state, real, name: str, i):
    """Draws all that one update needs of each pack."""
    count = real.shape[0]

    def draw(what, sampler, shape):
      key = jax.random.fold_in(
          rng.named(state.key, state.step, f'{name}/{what}'), i)
      return mesh.shard_batch(sampler(key, shape))

    return {'real': real,
            'z': draw('z', jax.random.normal,
                      (count, self.packing, self.z_dim)),
            'eps': draw('eps', jax.random.uniform, (count,)),
            'noise': draw('noise', jax.random.normal, real.shape)}

  def _update_d(self, state, inputs):
    def loss_fn(params, mvars, inputs):
      loss, logs = self.d_loss({**state.params, **params}, mvars, inputs)
      return loss, ({}, logs)

    state, logs = step.update_player(
        state, 'D', ('D',), self.tx['D'], loss_fn, inputs, self.microbatches)
    if self.clip:
      state = state.replace(params={
          **state.params,
          'D': penalties.clip_weights(state.params['D'], self.clip)})
    return state, logs

  def _update_g(self, state, inputs):
    def loss_fn(params, mvars, inputs):
      return self.g_loss({**state.params, **params}, mvars, state.opt['D'],
                         inputs)

    return step.update_player(
        state, 'G', ('G',), self.tx['G'], loss_fn, inputs, self.microbatches)

  def fake(self, params, mvars, z: jax.Array):
    """Returns packs [N, m * 2] of z [N, m, z_dim], and G's statistics."""
    x, changed = state_lib.apply_net(
        self.nets['G'], params['G'], mvars.get('G', {}),
        z.reshape(-1, self.z_dim), True)
    return x.reshape(z.shape[0], -1), changed

  def _logits(self, params, x: jax.Array) -> jax.Array:
    return self.nets['D'].apply({'params': params['D']}, x)

  def _d_loss_of(self, params, real, fake, inputs):
    """L_D with its penalty, of real and generated packs."""
    l_real, l_fake = self._logits(params, real), self._logits(params, fake)
    penalty = self._penalty(params, real, fake, inputs)
    loss = self.objective.d_loss(l_real, l_fake) + penalty
    return loss, {'loss/d': loss, 'logits/real': jnp.mean(l_real),
                  'logits/fake': jnp.mean(l_fake),
                  **({f'penalty/{self.penalty}': penalty}
                     if self.penalty != 'none' else {})}

  def _penalty(self, params, real, fake, inputs) -> jax.Array:
    def logits(x):
      return self._logits(params, x)

    weight = self.penalty_weight
    if self.penalty in ('wgan_gp', 'wgan_lp', 'zero_centred'):
      return getattr(penalties, self.penalty)(
          logits, real, fake, inputs['eps'], weight)
    if self.penalty == 'dragan':
      near = penalties.perturb(real, inputs['noise'], 'paper',
                               scale=self.dragan_scale)
      return penalties.dragan(logits, near, weight)
    total = jnp.zeros([], real.dtype)
    if self.penalty in ('r1', 'r1_r2'):
      total += penalties.r1(logits, real, weight)
    if self.penalty in ('r2', 'r1_r2'):
      total += penalties.r2(logits, fake, weight)
    return total

  def d_loss(self, params, mvars, inputs):
    fake, _ = self.fake(params, mvars, inputs['z'])
    return self._d_loss_of(params, inputs['real'], fake, inputs)

  def look_ahead(self, params, opt_d, fake, inputs):
    """Returns D's parameters after `unroll` steps, differentiable in `fake`.

    theta_D^{k+1} = theta_D^k - Adam(dL_D / dtheta_D^k) (eq. 7), all on the
    same minibatch.
    """
    def one(carry, _):
      theta, opt = carry
      grads = jax.grad(lambda theta: self._d_loss_of(
          {'D': theta['D']}, inputs['real'], fake, inputs)[0])(theta)
      updates, opt = self.lookahead_tx.update(grads, opt, theta)
      theta = optax.apply_updates(theta, updates)
      if self.clip:
        theta = penalties.clip_weights(theta, self.clip)
      return (theta, opt), None

    (theta, _), _ = jax.lax.scan(one, ({'D': params['D']}, opt_d), None,
                                 length=self.unroll)
    return theta

  def g_loss(self, params, mvars, opt_d, inputs):
    fake, changed = self.fake(params, mvars, inputs['z'])
    theta = params
    if self.unroll:
      theta = self.look_ahead(params, opt_d, fake, inputs)
    l_real = self._logits(theta, inputs['real'])
    l_fake = self._logits(theta, fake)
    if self.unroll and self.objective.name in ZERO_SUM:
      loss = -self.objective.d_loss(l_real, l_fake)
    else:
      loss = self.objective.g_loss(l_real, l_fake)
    return loss, ({'G': changed}, {'loss/g': loss})
