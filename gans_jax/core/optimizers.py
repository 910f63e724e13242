"""Optimizers from the config, with the papers' conventions."""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import optax

from gans_jax.core import errors


def default_config(name: str = 'adam', lr: float = 2e-4,
                   **values) -> config_dict.ConfigDict:
  """Returns the keys of one player's optimizer.

  Args:
    name: 'adam', 'rmsprop' or 'sgd'.
    lr: learning rate.
    **values: further keys of the dict below.
  """
  config = config_dict.ConfigDict(dict(
      name=name,
      lr=lr,
      b1=0.9, b2=0.999, eps=1e-8,      # adam
      decay=0.99,                      # rmsprop: PyTorch's alpha
      momentum=0.0,                    # sgd
      momentum_end=0.0,                # sgd: reached after momentum_ramp
      momentum_ramp=0,                 # sgd: updates; 0 keeps `momentum`
      lr_decay=1.0,                    # the rate is divided by it per update
      lr_min=0.0,
      lr_schedule='constant',          # 'linear' (to 0), 'cosine' (to lr_min)
      lr_linear_from=0.0,              # linear: share of the run before it
      clip_norm=0.0,                   # of the player's gradient; 0 = off
      weight_decay=0.0,                # adam: decoupled from it (AdamW)
      warmup=0,                        # updates of a linear rise of the rate
  ))
  config.update(values)
  return config


def make(config, total_updates: int,
         decays: Callable[[optax.Params], object] | None = None
         ) -> optax.GradientTransformation:
  """Builds an optimizer.

  Args:
    config: as `default_config`.
    total_updates: updates of this player in the whole run, where a 'linear'
      schedule reaches 0.
    decays: parameters -> tree of bool: what weight_decay applies to; all by
      default.

  Raises:
    UserError: unknown name or schedule.
  """
  rate = _rate(config, total_updates)
  if config.name == 'adam':
    if config.weight_decay:
      tx = optax.adamw(rate, b1=config.b1, b2=config.b2, eps=config.eps,
                       weight_decay=config.weight_decay, mask=decays)
    else:
      tx = optax.adam(rate, b1=config.b1, b2=config.b2, eps=config.eps)
  elif config.name == 'rmsprop':
    # PyTorch's form: epsilon outside the root, no debiasing.
    tx = optax.rmsprop(rate, decay=config.decay, eps=config.eps,
                       eps_in_sqrt=False)
  elif config.name == 'sgd':
    tx = momentum_sgd(rate, _momentum(config))
  else:
    raise errors.UserError(
        f"optimizer name {config.name!r} is not known: use 'adam', "
        "'rmsprop' or 'sgd'.")
  if config.clip_norm > 0:
    tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
  return tx


def _rate(config, total_updates: int) -> Callable[[jax.Array], jax.Array]:
  if config.lr_schedule not in ('constant', 'linear', 'cosine'):
    raise errors.UserError(
        f'optimizer lr_schedule {config.lr_schedule!r} is not known: use '
        "'constant', 'linear' or 'cosine'.")
  if not 0.0 <= config.lr_linear_from < 1.0:
    raise errors.UserError(
        f'optimizer lr_linear_from is {config.lr_linear_from}: the share of '
        'the run before a linear decay begins must be in [0, 1).')

  def rate(count):
    count = jnp.asarray(count, jnp.float32)
    lr = config.lr * jnp.exp(-count * math.log(config.lr_decay))
    lr = jnp.maximum(lr, config.lr_min)
    if config.lr_schedule == 'linear':
      left = (1.0 - count / total_updates) / (1.0 - config.lr_linear_from)
      lr = lr * jnp.clip(left, 0.0, 1.0)
    if config.lr_schedule == 'cosine':
      done = jnp.clip((count - config.warmup)
                      / max(total_updates - config.warmup, 1), 0.0, 1.0)
      lr = config.lr_min + (lr - config.lr_min) * 0.5 * (
          1.0 + jnp.cos(jnp.pi * done))
    if config.warmup:
      lr = lr * jnp.minimum((count + 1.0) / config.warmup, 1.0)
    return lr

  if config.lr_decay == 1.0 and config.lr_schedule == 'constant' and (
      not config.warmup):
    return lambda count: config.lr
  return rate


def _momentum(config) -> Callable[[jax.Array], jax.Array]:
  if not config.momentum_ramp:
    return lambda count: jnp.asarray(config.momentum, jnp.float32)
  return optax.linear_schedule(config.momentum, config.momentum_end,
                               config.momentum_ramp)


class MomentumState(NamedTuple):
  count: jax.Array
  velocity: optax.Updates


def momentum_sgd(rate: Callable[[jax.Array], jax.Array],
                 momentum: Callable[[jax.Array], jax.Array]
                 ) -> optax.GradientTransformation:
  """Classical momentum v <- m v - lr g, theta <- theta + v (pylearn2's).

  Unlike `optax.sgd` the rate is inside the velocity, which matters when rate
  and momentum change, as in the 2014 GAN.
  """
  def init(params):
    return MomentumState(jnp.zeros([], jnp.int32),
                         jax.tree.map(jnp.zeros_like, params))

  def update(grads, state, params=None):
    del params
    m, lr = momentum(state.count), rate(state.count)
    velocity = jax.tree.map(lambda v, g: m * v - lr * g,
                            state.velocity, grads)
    return velocity, MomentumState(state.count + 1, velocity)

  return optax.GradientTransformation(init, update)


def lazy_correction(config, every: int) -> config_dict.ConfigDict:
  """Corrects Adam for a penalty applied at every k-th step.

  lr' = c lr, b1' = b1^c, b2' = b2^c with c = k / (k + 1) (Karras et al.
  2020, StyleGAN2, appendix B). For k = 1, no lazy regularization, the
  settings stay as they are.
  """
  config = config_dict.ConfigDict(config.to_dict())
  if every > 1:
    c = every / (every + 1)
    config.lr = config.lr * c
    config.b1 = config.b1**c
    config.b2 = config.b2**c
  return config
