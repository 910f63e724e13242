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
      lr_schedule='constant',          # 'constant' or 'linear' (to 0)
      clip_norm=0.0,                   # of the player's gradient; 0 = off
  ))
  config.update(values)
  return config


def make(config, total_updates: int) -> optax.GradientTransformation:
  """Builds an optimizer.

  Args:
    config: as `default_config`.
    total_updates: updates of this player in the whole run, where a 'linear'
      schedule reaches 0.

  Raises:
    UserError: unknown name or schedule.
  """
  rate = _rate(config, total_updates)
  if config.name == 'adam':
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
  if config.lr_schedule not in ('constant', 'linear'):
    raise errors.UserError(
        f'optimizer lr_schedule {config.lr_schedule!r} is not known: use '
        "'constant' or 'linear'.")

  def rate(count):
    count = jnp.asarray(count, jnp.float32)
    lr = config.lr * jnp.exp(-count * math.log(config.lr_decay))
    lr = jnp.maximum(lr, config.lr_min)
    if config.lr_schedule == 'linear':
      lr = lr * jnp.maximum(1.0 - count / total_updates, 0.0)
    return lr

  if config.lr_decay == 1.0 and config.lr_schedule == 'constant':
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
