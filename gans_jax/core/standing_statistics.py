"""What batch normalization uses when a generator is sampled.

'running': the averages that training has kept, which are in the checkpoint.
'batch': the statistics of the batch of samples itself (`core/sampler.py`).
'standing:N': the plain averages over N batches of fresh latents and labels in
  training mode, which replace the running ones (BigGAN, Brock, Donahue,
  Simonyan 2019, appendix D; the authors' code takes 16 batches). They belong
  to the weights in use, averaged ones among them, and to the options of
  sampling: each truncation has its own.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import errors
from gans_jax.core import label_distribution
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import sampler

PASSES = 16  # The authors' num_standing_accumulations.


def parse(text: str) -> tuple[str, int]:
  """Parses 'running', 'batch' or 'standing[:N]'.

  Returns:
    (kind, passes); passes is 0 unless kind is 'standing'.

  Raises:
    UserError: anything else.
  """
  kind, colon, number = str(text).partition(':')
  if kind in ('running', 'batch') and not colon:
    return kind, 0
  if kind == 'standing':
    if not colon:
      return kind, PASSES
    if number.isdecimal() and int(number) > 0:
      return kind, int(number)
  raise errors.UserError(
      f"batch_norm is {text!r}, expected 'running' (the averages kept in "
      "training), 'batch' (the statistics of each batch of samples) or "
      f"'standing:N' (averages over N batches; N is {PASSES} by default).")


def check(system, variables, batch_norm: str) -> None:
  """Refuses a value of `parse`, or statistics that a generator has not.

  Args:
    system: a System.
    variables: {net: flax variables}.
    batch_norm: what `parse` takes.
  """
  kind, _ = parse(batch_norm)
  if kind != 'running' and not any(
      'batch_stats' in variables[net] for net in system.players.get('G', ())):
    raise _without(system, batch_norm)


def _without(system, batch_norm: str) -> errors.UserError:
  name = type(system).__module__.rpartition('.')[2]
  return errors.UserError(
      f'batch_norm is {batch_norm!r}, but the generator of this run (system '
      f'{name!r}) has no batch normalization, so that there are no statistics '
      "to choose: leave the option out, or set it to 'running'.")


def training_batch(config) -> int:
  """Returns how many examples a network sees at a time in training."""
  return config.batch_size // config.microbatches


def describe(batch_norm: str, sampled: int, trained: int) -> str:
  """Returns `batch_norm` in full, to be recorded with a result.

  Args:
    batch_norm: what `parse` takes.
    sampled: the sampler's batch size, which matters to 'batch' alone.
    trained: `training_batch`, which matters to 'standing' alone.
  """
  kind, passes = parse(batch_norm)
  return {'running': 'running statistics',
          'batch': f'statistics of batches of {sampled}',
          'standing': f'standing statistics of {passes} batches of {trained}',
          }[kind]


def accumulate(system, variables, mesh: jax.sharding.Mesh, *,
               passes: int = PASSES, batch_size: int = 64, seed: int = 0,
               labels: np.ndarray | None = None, **options: Any):
  """Returns `variables` with standing statistics.

  The variance is the biased one within each batch, as in the authors' code
  and in compare_gan. The sums are float64.

  Args:
    system: a System.
    variables: {net: flax variables}; they are not changed.
    mesh: devices to work on; the result does not depend on them.
    passes: batches.
    batch_size: samples in each; `training_batch` is what the network knows.
    seed: of the latents and the labels.
    labels: int [M], those that each sample draws its own from
      (`label_distribution.pool`), for a conditional system.
    **options: keyword arguments of `system.generate`.

  Raises:
    UserError: there is no batch normalization.
  """
  if passes < 1 or batch_size < 1:
    raise errors.UserError(
        f'Standing statistics over {passes} batches of {batch_size} were '
        'asked for: both must be at least 1.')
  check(system, variables, f'standing:{passes}')
  if 'label' in system.conditions and labels is None:
    raise ValueError('A conditional system needs `labels` to draw from.')
  key = rng.named(jax.random.key(seed), 0, 'standing_statistics')
  keys = rng.per_example(key, 0, passes * batch_size)
  total = None
  for i in range(passes):
    part = keys[np.arange(i * batch_size, (i + 1) * batch_size)]
    conditions = {}
    if 'label' in system.conditions:
      conditions['label'] = jnp.asarray(label_distribution.draw(part, labels))
    with jax.set_mesh(mesh):
      found = _moments(system, tuple(sorted(options.items())), variables,
                       part, conditions)
    found = jax.tree.map(lambda x: x.astype(np.float64),
                         mesh_lib.to_host(found))
    total = found if total is None else jax.tree.map(np.add, total, found)
  if not total:
    raise _without(system, f'standing:{passes}')
  return {**variables, **{
      net: {**variables[net], 'batch_stats': _replace(
          variables[net]['batch_stats'],
          jax.tree.map(lambda x: x / passes, tree))}
      for net, tree in total.items()}}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _moments(system, options, variables, keys, conditions):
  """Returns {net: the moments that one batch is normalized by}."""
  keys, conditions = sampler.place((keys, conditions))
  probed = {net: {**tree, 'moments': {}} if 'batch_stats' in tree else tree
            for net, tree in variables.items()}
  _, changed = system.generate_by_batch(probed, keys, conditions,
                                        **dict(options))
  return mesh_lib.replicate({net: tree['moments']
                             for net, tree in changed.items()
                             if tree.get('moments')})


def _replace(old: Mapping[str, Any], new: Mapping[str, Any]):
  """Returns the tree `old` with the leaves that `new` has."""
  return {**old, **{
      name: _replace(old[name], value) if isinstance(value, Mapping) else
            jnp.asarray(value, jnp.float32)
      for name, value in new.items()}}
