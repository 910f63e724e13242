"""What the generator of a system is given: conditions, or draws from keys."""

from collections.abc import Mapping
from typing import Any

import jax

from gans_jax.core import rng
from gans_jax.core import state as state_lib

Conditions = Mapping[str, jax.Array] | None


def latents(system, keys: jax.Array, conditions: Conditions) -> jax.Array:
  """Returns the condition 'z', or the system's latents of keys [N]."""
  z = (conditions or {}).get('z')
  return system.latents(keys) if z is None else z


def labels(keys: jax.Array, conditions: Conditions,
           classes: int) -> jax.Array | None:
  """Returns the condition 'label' [N], or labels drawn from keys [N].

  Args:
    keys: [N].
    conditions: of `generate`.
    classes: 0 of a system that is not conditional, whose labels are None.
  """
  if not classes:
    return None
  given = (conditions or {}).get('label')
  return rng.labels(keys, classes) if given is None else given


def apply_generator(system, variables: Mapping[str, Any], *inputs,
                    train: bool) -> tuple[jax.Array, dict[str, Any]]:
  """Applies the net 'G' with its variables.

  Args:
    system: of core/system.py.
    variables: {'G': variables}.
    *inputs: of the net.
    train: normalize by the batch.

  Returns:
    (output, {'G': the collections that changed}), as `generate_by_batch`.
  """
  mvars = dict(variables['G'])
  x, changed = state_lib.apply_net(
      system.nets['G'], mvars.pop('params'), mvars, *inputs, train=train)
  return x, {'G': changed}
