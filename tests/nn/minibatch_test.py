"""Minibatch standard deviation, against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib
from gans_jax.nn import minibatch


def by_definition(x, groups, parts=1):
  """float64 NumPy; `groups` lists the examples of each group."""
  x = np.asarray(x, np.float64)
  n, h, w, c = x.shape
  maps = np.zeros((n, h, w, parts))
  for members in groups:
    std = np.sqrt(np.var(x[members], axis=0) + 1e-8)
    for part in range(parts):
      piece = std[..., part * c // parts:(part + 1) * c // parts]
      for i in members:
        maps[i, :, :, part] = piece.mean()
  return np.concatenate([x, maps], -1)


def test_groups_are_strided():
  """Trap 3: the batch 0, 1, 2, 3 in groups of 2 gives 1, not 0.5."""
  x = np.arange(4.0, dtype=np.float32).reshape(4, 1, 1, 1)
  y = minibatch.minibatch_stddev(x, 2)
  np.testing.assert_allclose(y[..., 1].ravel(), 1.0, rtol=1e-6)
  y = minibatch.minibatch_stddev(x, 2, order='contiguous')
  np.testing.assert_allclose(y[..., 1].ravel(), 0.5, rtol=1e-6)


@pytest.mark.parametrize('order, size, parts, groups', [
    ('strided', 4, 1, [[0, 2, 4, 6], [1, 3, 5, 7]]),
    ('strided', 2, 3, [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ('contiguous', 4, 1, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ('contiguous', 16, 2, [[0, 1, 2, 3, 4, 5, 6, 7]]),
])
def test_definition(order, size, parts, groups):
  x = np.random.default_rng(0).normal(size=(8, 3, 4, 6)).astype(np.float32)
  y = minibatch.minibatch_stddev(x, size, parts, order)
  np.testing.assert_allclose(y, by_definition(x, groups, parts), rtol=1e-5)


def test_statistic_of_bfloat16_is_float32():
  """Differences of 1 at 256, which bfloat16 holds but cannot sum."""
  x = jnp.asarray(np.tile(np.reshape([256, 258], (2, 1, 1, 1)), (1, 8, 8, 64)),
                  jnp.bfloat16)
  y = minibatch.minibatch_stddev(x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y[..., -1].astype(jnp.float32), 1.0)


def test_equal_examples_have_finite_gradients():
  def function(x):
    return jnp.sum(minibatch.minibatch_stddev(x)[..., -1])

  gradient = jax.grad(function)(jnp.ones((4, 2, 2, 3)))
  np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize('order, communicates', [
    ('strided', True), ('contiguous', False)])
def test_over_devices(order, communicates):
  """The same values on 8 devices, and what they cost."""
  x = np.random.default_rng(0).normal(size=(32, 2, 2, 3)).astype(np.float32)
  function = functools.partial(minibatch.minibatch_stddev, order=order)
  mesh = mesh_lib.make(data=8)
  with jax.set_mesh(mesh):
    placed = jax.device_put(x, mesh_lib.batch_sharding(mesh))

    def loss(x):
      return jax.grad(lambda x: jnp.sum(jnp.square(function(x))))(x)

    value, gradient = jax.jit(function), jax.jit(loss)
    programs = [f.lower(placed).compile() for f in (value, gradient)]
    np.testing.assert_allclose(programs[0](placed), function(x), rtol=1e-5)
    for program in programs:
      assert bool(hlo.collectives(program)) == communicates


@pytest.mark.parametrize('arguments', [
    dict(group_size=4), dict(group_size=3, num_channels=2),
    dict(group_size=3, order='random')])
def test_refused(arguments):
  with pytest.raises(ValueError):
    minibatch.minibatch_stddev(jnp.ones((6, 2, 2, 3)), **arguments)
