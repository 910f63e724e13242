"""Parts that a train step is composed of.

A step is written in its paper's module from these functions: an update of one
player, several critic updates by `lax.scan`, penalties at every k-th step,
the average of weights.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gans_jax.core import mesh
from gans_jax.core import state as state_lib

TrainState = state_lib.TrainState
Logs = dict[str, jax.Array]
# (params {net: tree}, mvars {net: collections}, inputs) ->
#     (loss, (changed mvars, logs)); a mean over the examples of `inputs`.
LossFn = Callable[[Any, Any, Any], tuple[jax.Array, tuple[Any, Logs]]]


def split_microbatches(inputs, microbatches: int):
  """Splits arrays [B, ...] into [m, B / m, ...].

  Microbatch j takes the examples j, j + m, j + 2m, ...: every device then
  keeps the examples it has, where contiguous pieces would move them.
  """
  def one(x):
    x = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
    return jnp.moveaxis(x, 1, 0)

  return mesh.shard_batch(jax.tree.map(one, inputs), axis=1)


def gradient(loss_fn: LossFn, params, mvars, inputs, microbatches: int = 1):
  """Returns ((loss, (mvars, logs)), gradients), accumulated if asked for.

  With m microbatches, gradients and logs are the means over m pieces of the
  batch, computed one after the other: equal to the whole batch's (to float
  order) when the loss is a mean over examples. Batch statistics, and losses
  that compare examples, see B / m examples at a time; their running values
  are threaded through the pieces.
  """
  gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
  # Split parameters are gathered whole before use: left to itself, the
  # partitioner keeps convolutions split and moves activations instead.
  params = mesh.replicate(params)
  if microbatches == 1:
    return gradient_fn(params, mvars, inputs)
  parts = split_microbatches(inputs, microbatches)

  def accumulate(carry, part):
    mvars, total = carry
    (loss, (changed, logs)), grads = gradient_fn(params, mvars, part)
    total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, grads)
    return ({**mvars, **changed}, total), (loss, logs)

  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
  (mvars, total), (losses, logs) = jax.lax.scan(
      accumulate, (mvars, zeros), parts)
  grads = jax.tree.map(lambda g: g / microbatches, total)
  logs = jax.tree.map(lambda x: jnp.mean(x, 0), logs)
  return (jnp.mean(losses), (mvars, logs)), grads


def update_player(state: TrainState, player: str, nets: Sequence[str],
                  tx: optax.GradientTransformation, loss_fn: LossFn, inputs,
                  microbatches: int = 1) -> tuple[TrainState, Logs]:
  """Does one optimizer step of one player.

  Args:
    state: the state.
    player: key of its optimizer state, such as 'D'.
    nets: the nets it updates.
    tx: its optimizer.
    loss_fn: (params {net: tree of this player}, mvars {net: collections of
      every net}, inputs) -> (loss, (changed mvars {net: ...}, logs)).
    inputs: tree of arrays [B, ...], all that is per example: images, labels,
      latents. Microbatches split it.
    microbatches: pieces in which the gradient is accumulated.

  Returns:
    The new state (same step number) and the logs, `grad_norm/<player>` added.
  """
  params = {net: state.params[net] for net in nets}
  (_, (changed, logs)), grads = gradient(
      loss_fn, params, state.mvars, inputs, microbatches)
  updates, opt = tx.update(grads, state.opt[player], params)
  params = optax.apply_updates(params, updates)
  logs = {**logs, f'grad_norm/{player}': optax.global_norm(grads)}
  return state.replace(
      params={**state.params, **params}, mvars={**state.mvars, **changed},
      opt={**state.opt, player: opt}), logs


def scan_batches(
    update: Callable[[TrainState, Any, jax.Array], tuple[TrainState, Logs]],
    state: TrainState, batches) -> tuple[TrainState, Logs]:
  """Runs `update(state, batch, i)` over the leading axis (n_critic).

  Returns:
    The last state, and the logs of the last update: those of the critic that
    the generator will meet.
  """
  number = jax.tree.leaves(batches)[0].shape[0]
  if number == 1:
    first = jax.tree.map(lambda x: x[0], batches)
    return update(state, first, jnp.zeros([], jnp.int32))

  def body(state, xs):
    return update(state, *xs)

  state, logs = jax.lax.scan(body, state, (batches, jnp.arange(number)))
  return state, jax.tree.map(lambda x: x[-1], logs)


def lazily(step: jax.Array, every: int, penalty: Callable[..., jax.Array],
           *args) -> jax.Array:
  """Lazy regularization: `every * penalty(*args)` at every k-th step, else 0.

  The optimizer must be corrected with `optimizers.lazy_correction` (Karras et
  al. 2020, StyleGAN2, appendix B).
  """
  if every == 1:
    return penalty(*args)
  return jax.lax.cond(
      step % every == 0, lambda *a: every * penalty(*a),
      lambda *a: jnp.zeros([], jnp.float32), *args)


def finish(state: TrainState, beta: jax.Array | float) -> TrainState:
  """Ends a step: averages the weights of `state.ema`, counts the step.

  Args:
    state: the state after the players' updates.
    beta: weight of the old average, from `schedules.ema_beta`.
  """
  live = state_lib.variables(state)
  ema = {net: state_lib.ema_update(average, live[net], beta)
         for net, average in state.ema.items()}
  return state.replace(step=state.step + 1, ema=ema)


def first_of(batch: Mapping[str, jax.Array], i: int = 0):
  """Returns the i-th of the batches [n_sub, B, ...] of a step."""
  return {name: x[i] for name, x in batch.items()}
