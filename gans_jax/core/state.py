"""The state of a run: arrays only, so that it checkpoints as a plain tree."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any


@flax.struct.dataclass
class TrainState:
  """Everything that a train step reads and writes.

  Attributes:
    step: int32 scalar, generator updates done.
    params: {net: parameters}.
    mvars: {net: {collection: tree}}, what a net changes without gradients
      (batch statistics, spectral vectors); {} for a net without.
    opt: {player: optimizer state}.
    ema: {net: flax variables}, averaged weights with the statistics that
      matter at sampling.
    aux: {name: array}, memory across steps (path-length mean, ADA's p).
    key: typed PRNG key of the run; never changed, see `rng.named`.
  """

  step: jax.Array
  params: dict[str, Tree]
  mvars: dict[str, dict[str, Tree]]
  opt: dict[str, Tree]
  ema: dict[str, dict[str, Tree]]
  aux: dict[str, Tree]
  key: jax.Array


def create(key: jax.Array, nets: Mapping[str, Mapping[str, Tree]],
           players: Mapping[str, Sequence[str]],
           tx: Mapping[str, optax.GradientTransformation],
           ema: Sequence[str] = (),
           aux: Mapping[str, Tree] | None = None) -> TrainState:
  """Makes the state of step 0.

  Args:
    key: typed PRNG key of the run.
    nets: {net: variables from `module.init`}.
    players: {player: its nets}; a player is what one optimizer updates.
    tx: {player: optimizer}.
    ema: nets that keep averaged weights.
    aux: further arrays.
  """
  params = {net: dict(v)['params'] for net, v in nets.items()}
  mvars = {net: {c: t for c, t in dict(v).items() if c != 'params'}
           for net, v in nets.items()}
  # Copies: state and average must not share buffers, or donation fails.
  averaged = {net: jax.tree.map(jnp.copy, {'params': params[net],
                                           **mvars[net]}) for net in ema}
  return TrainState(
      step=jnp.zeros([], jnp.int32), params=params, mvars=mvars,
      opt={name: tx[name].init({net: params[net] for net in members})
           for name, members in players.items()},
      ema=averaged, aux=dict(aux or {}), key=key)


def variables(state: TrainState) -> dict[str, dict[str, Tree]]:
  """Returns the live weights as {net: flax variables}."""
  return {net: {'params': params, **state.mvars.get(net, {})}
          for net, params in state.params.items()}


def apply_net(module, params: Tree, mvars: Mapping[str, Tree], *args,
              **kwargs):
  """Applies a net and returns (output, its changed collections).

  Args:
    module: linen module.
    params: its parameters.
    mvars: its other collections, all of which it may change.
    *args: inputs.
    **kwargs: keyword inputs, `rngs` among them.
  """
  if not mvars:
    return module.apply({'params': params}, *args, **kwargs), {}
  return module.apply({'params': params, **mvars}, *args,
                      mutable=list(mvars), **kwargs)


def ema_update(average: Tree, live: Tree, beta: jax.Array | float) -> Tree:
  """Returns beta * average + (1 - beta) * live, in float32.

  Integers (counters) are taken from `live`.
  """
  def one(a, x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return x
    a32, x32 = a.astype(jnp.float32), x.astype(jnp.float32)
    return (x32 + (a32 - x32) * beta).astype(a.dtype)

  return jax.tree.map(one, average, live)


def count(tree: Tree) -> int:
  """Returns the number of elements of a tree of arrays or shapes."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def parameter_table(params: Mapping[str, Tree]) -> str:
  """Returns a table of every parameter: name, shape, number, and totals."""
  from gans_jax.core import mesh

  rows = []
  for net, tree in params.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      shape = ' x '.join(map(str, leaf.shape)) or 'scalar'
      rows.append((f'{net}/{mesh.path_name(path)}', shape,
                   f'{int(np.prod(leaf.shape)):,}'))
    rows.append((f'{net} total', '', f'{count(tree):,}'))
  widths = [max(len(row[i]) for row in rows) for i in range(3)]
  return '\n'.join(
      f'{name:<{widths[0]}}  {shape:<{widths[1]}}  {number:>{widths[2]}}'
      for name, shape, number in rows)
