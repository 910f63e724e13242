"""A conditional generator small enough to be computed by hand, in float64."""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import state as state_lib
from gans_jax.nn import norm

CLASSES, Z_DIM, HIDDEN, SHAPE = 3, 4, 5, (2, 2, 3)
EPSILON = 1e-5


class Net(nn.Module):
  """(z, one-hot y) -> dense, norm, relu -> dense, norm, tanh."""

  @nn.compact
  def __call__(self, z, y, train: bool):
    h = nn.Dense(HIDDEN)(jnp.concatenate([z, y], axis=1))
    h = nn.relu(norm.BatchNorm(epsilon=EPSILON)(h, train))
    h = nn.Dense(int(np.prod(SHAPE)))(h).reshape(-1, *SHAPE)
    return nn.tanh(norm.BatchNorm(epsilon=EPSILON)(h, train))


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """As much of a System as sampling needs, with truncation as z * psi."""

  nets: Any = dataclasses.field(default_factory=lambda: {'G': Net()})

  players = {'G': ('G',)}
  conditions = ('label',)
  options = ('truncation',)

  def latents(self, keys):
    return jax.vmap(lambda k: jax.random.normal(k, (Z_DIM,)))(keys)

  def generate(self, variables, keys, conditions, *, truncation=1.0):
    return self._apply_g(variables, keys, conditions, truncation, False)[0]

  def generate_by_batch(self, variables, keys, conditions, *, truncation=1.0):
    return self._apply_g(variables, keys, conditions, truncation, True)

  def _apply_g(self, variables, keys, conditions, truncation, train):
    mvars = dict(variables['G'])
    x, changed = state_lib.apply_net(
        self.nets['G'], mvars.pop('params'), mvars,
        truncation * self.latents(keys),
        jax.nn.one_hot(conditions['label'], CLASSES), train=train)
    return x, {'G': changed}


def make():
  """Returns (system, variables), none of whose numbers is a default."""
  system, variables = _make()
  return system, jax.tree.map(np.copy, variables)


@functools.cache
def _make():
  system = System()
  variables = jax.tree.map(np.asarray, jax.jit(
      system.nets['G'].init, static_argnums=3)(
          jax.random.key(0), jnp.zeros((2, Z_DIM)), jnp.zeros((2, CLASSES)),
          True))
  draw = np.random.default_rng(0)
  variables = jax.tree.map(
      lambda x: draw.uniform(0.5, 1.5, x.shape).astype(np.float32)
      if x.ndim == 1 else x, variables)
  return system, {'G': variables}


def by_hand(variables, z, labels, moments=None):
  """The same network in float64.

  Args:
    variables: as `make` returns them.
    z: [N, Z_DIM], after truncation.
    labels: [N].
    moments: [(mean, variance)] to normalize by, those of the batch by default.

  Returns:
    (images, the moments of both layers; variances are biased).
  """
  p = jax.tree.map(lambda x: np.asarray(x, np.float64),
                   variables['G']['params'])
  used = []

  def batch_norm(h, name):
    axes = tuple(range(h.ndim - 1))
    mean, var = (h.mean(axes), h.var(axes)) if moments is None else (
        moments[len(used)])
    used.append((mean, var))
    return ((h - mean) / np.sqrt(var + EPSILON) * p[name]['scale']
            + p[name]['bias'])

  h = np.concatenate([np.asarray(z, np.float64), np.eye(CLASSES)[labels]], 1)
  h = h @ p['Dense_0']['kernel'] + p['Dense_0']['bias']
  h = np.maximum(batch_norm(h, 'BatchNorm_0'), 0)
  h = h @ p['Dense_1']['kernel'] + p['Dense_1']['bias']
  return np.tanh(batch_norm(h.reshape(-1, *SHAPE), 'BatchNorm_1')), used


def recorded(variables):
  """Returns the moments that `variables` hold."""
  stats = variables['G']['batch_stats']
  return [(np.asarray(stats[name]['mean']), np.asarray(stats[name]['var']))
          for name in ('BatchNorm_0', 'BatchNorm_1')]
