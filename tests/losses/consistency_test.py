"""Consistency regularization: T in NumPy, its law, the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import rng
from gans_jax.losses import consistency

FAST = {'xla_backend_optimization_level': 0}


def pictures(*shape):
  x = np.random.default_rng(0).uniform(-1, 1, shape)
  return x.astype(np.float32)


@functools.partial(jax.jit, compiler_options=FAST)
def transformed(draws, x):
  return consistency.transform(draws, x)


@functools.partial(jax.jit, static_argnums=(1, 2, 3), compiler_options=FAST)
def drawn(keys, size, shift, flip):
  return consistency.draw(keys, size, shift, flip)


def test_flip_then_shift_with_a_mirrored_border():
  x = pictures(4, 8, 12, 2)
  flip = np.array([False, True, False, True])
  shift = np.array([[1, -2], [0, 0], [-3, 4], [3, -1]])
  y = transformed({'flip': flip, 'shift': shift}, x)
  for i in range(4):
    source = x[i, :, ::-1] if flip[i] else x[i]
    padded = np.pad(source, ((4, 4), (4, 4), (0, 0)), 'reflect')
    down, right = shift[i]
    expected = padded[4 - down:12 - down, 4 - right:16 - right]
    np.testing.assert_array_equal(y[i], expected)


def test_the_law_of_the_draws():
  """Half are flipped; shifts of up to an eighth, 2 of 20 and 1 of 9 pixels."""
  keys = rng.from_seeds(np.arange(4000))
  draws = jax.tree.map(np.asarray, drawn(keys, (20, 9), 0.125, True))
  np.testing.assert_allclose(draws['flip'].mean(), 0.5, atol=0.04)
  for axis, most in ((0, 2), (1, 1)):
    values, counts = np.unique(draws['shift'][:, axis], return_counts=True)
    np.testing.assert_array_equal(values, np.arange(-most, most + 1))
    np.testing.assert_allclose(counts / 4000, 1 / len(values), atol=0.04)
  # The paper's 4 pixels of 32.
  assert np.abs(drawn(keys, (32, 32), 0.125, False)['shift']).max() == 4
  assert not np.any(drawn(keys, (32, 32), 0.125, False)['flip'])
  # An example's draws are its key's.
  part = drawn(keys[7:9], (20, 9), 0.125, True)
  np.testing.assert_array_equal(part['shift'], draws['shift'][7:9])


def test_an_invariant_discriminator_pays_nothing():
  """A sum over pixels is that of the flipped image, a weighted one is not."""
  x = pictures(8, 4, 4, 3)
  draws = drawn(rng.from_seeds(np.arange(8)), (4, 4), 0.0, True)
  assert 0 < draws['flip'].sum() < 8
  y = transformed(draws, x)
  for weights, invariant in ((np.ones(4), True), (np.arange(4.0), False)):
    judge = lambda x: np.einsum('nhwc,w->n', x, weights)  # noqa: B023, E731
    value = consistency.loss(judge(x), judge(np.asarray(y)))
    assert (float(value) < 1e-10) == invariant


def test_loss():
  a, b = np.random.default_rng(1).normal(size=(2, 16)) * 10
  value = consistency.loss(jnp.asarray(a, 'float32'), jnp.asarray(b, 'float32'))
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, np.mean((a - b)**2), rtol=1e-6)
