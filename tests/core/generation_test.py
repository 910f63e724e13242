"""core/generation.py: what is given is taken, what is not is drawn."""

import types

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import generation
from gans_jax.core import rng

KEYS = rng.from_seeds([3, 4, 5])


class Net(nn.Module):
  """z normalized by the batch, plus one number for each class."""

  @nn.compact
  def __call__(self, z, labels, train):
    z = nn.BatchNorm(use_running_average=not train, use_scale=False)(z)
    return z + nn.Embed(4, 1)(labels)


SYSTEM = types.SimpleNamespace(
    nets={'G': Net()}, latents=lambda keys: rng.normals(keys, 2))


def test_latents():
  drawn = generation.latents(SYSTEM, KEYS, None)
  np.testing.assert_array_equal(drawn, rng.normals(KEYS, 2))
  np.testing.assert_array_equal(
      drawn, generation.latents(SYSTEM, KEYS, {'label': jnp.zeros(3)}))
  z = jnp.ones((3, 2))
  assert generation.latents(SYSTEM, KEYS, {'z': z}) is z


def test_labels():
  assert generation.labels(KEYS, {'label': jnp.zeros(3)}, 0) is None
  given = jnp.arange(3)
  assert generation.labels(KEYS, {'label': given}, 4) is given
  drawn = generation.labels(KEYS, {'z': jnp.ones((3, 2))}, 4)
  np.testing.assert_array_equal(drawn, rng.labels(KEYS, 4))
  # Each of its own key, whatever stands beside it.
  np.testing.assert_array_equal(drawn[1:], generation.labels(KEYS[1:], {}, 4))


def test_generator_and_what_it_changes():
  z, labels = generation.latents(SYSTEM, KEYS, None), jnp.array([0, 1, 3])
  variables = {'G': SYSTEM.nets['G'].init(jax.random.key(0), z, labels,
                                          train=True)}
  added = variables['G']['params']['Embed_0']['embedding'][labels]
  x, changed = generation.apply_generator(SYSTEM, variables, z, labels,
                                          train=False)
  np.testing.assert_allclose(x - added, z, rtol=1e-4)
  np.testing.assert_array_equal(
      changed['G']['batch_stats']['BatchNorm_0']['mean'], np.zeros(2))
  x, changed = generation.apply_generator(SYSTEM, variables, z, labels,
                                          train=True)
  np.testing.assert_allclose((x - added).mean(0), np.zeros(2), atol=1e-6)
  np.testing.assert_allclose(
      changed['G']['batch_stats']['BatchNorm_0']['mean'], 0.01 * z.mean(0),
      rtol=1e-4)
