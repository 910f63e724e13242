"""DiffAugment: closed forms in NumPy, ranges of the draws, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.augment import diff_augment
from gans_jax.core import errors

FAST = {'xla_backend_optimization_level': 0}
ALL = 'color,translation,cutout'


def pictures(*shape):
  x = np.random.default_rng(0).uniform(-1, 1, shape)
  return x.astype(np.float32)


def keys(n):
  return jax.random.split(jax.random.key(0), n)


@functools.partial(jax.jit, static_argnums=2, compiler_options=FAST)
def applied(draws, x, policy):
  return diff_augment.apply(draws, x, policy)


@functools.partial(jax.jit, static_argnums=1, compiler_options=FAST)
def drawn(keys, size):
  return diff_augment.draw(keys, size)


def test_color():
  """Brightness added; chroma scaled; distance from the image's mean scaled."""
  x = pictures(2, 4, 6, 3)
  b, s, c = np.array([[0.2, -0.4], [1.5, 0.0], [0.7, 1.3]])
  draws = {'brightness': jnp.asarray(b), 'saturation': jnp.asarray(s),
           'contrast': jnp.asarray(c)}
  y = applied(draws, x, 'color')
  for i in range(2):
    z = x[i].astype(np.float64) + b[i]
    grey = z.mean(-1, keepdims=True)
    z = grey + s[i] * (z - grey)
    np.testing.assert_allclose(y[i], z.mean() + c[i] * (z - z.mean()),
                               rtol=0, atol=1e-6)


def test_translation_brings_in_zeros():
  x = pictures(3, 8, 12, 2)
  draws = {'translation': jnp.array([[1, -2], [0, 0], [-1, 1]])}
  y = np.asarray(applied(draws, x, 'translation'))
  expected = np.zeros_like(x)
  expected[0, 1:, :-2] = x[0, :-1, 2:]
  expected[1] = x[1]
  expected[2, :-1, 1:] = x[2, 1:, :-1]
  np.testing.assert_array_equal(y, expected)


def test_cutout_is_half_and_may_reach_beyond():
  x = np.ones((3, 8, 12, 1), np.float32)
  y = applied({'cutout': jnp.array([[4, 6], [0, 12], [8, 0]])}, x, 'cutout')
  expected = np.ones_like(x)
  expected[0, 2:6, 3:9] = 0
  expected[1, :2, 9:] = 0
  expected[2, 6:, :3] = 0
  np.testing.assert_array_equal(y, expected)


def test_draws_cover_their_ranges():
  draws = jax.tree.map(np.asarray, drawn(keys(20_000), (20, 9)))
  for name, low, high in (('brightness', -0.5, 0.5), ('saturation', 0, 2),
                          ('contrast', 0.5, 1.5)):
    values = (draws[name] - low) / (high - low)
    assert values.min() >= 0 and values.max() <= 1
    np.testing.assert_allclose(
        np.histogram(values, 4, (0, 1))[0] / 20_000, 0.25, atol=0.015)
  # 20 / 8 and 9 / 8, rounded half up: up to 3 and 1. Squares of 10 and of 5
  # have 21 and 9 centres.
  for name, axis, low, high in (
      ('translation', 0, -3, 3), ('translation', 1, -1, 1),
      ('cutout', 0, 0, 20), ('cutout', 1, 0, 8)):
    values, counts = np.unique(draws[name][:, axis], return_counts=True)
    np.testing.assert_array_equal(values, np.arange(low, high + 1))
    np.testing.assert_allclose(counts / 20_000, 1 / len(values), atol=0.015)


def test_an_image_depends_on_its_key_alone():
  x = pictures(6, 8, 8, 3)
  function = jax.jit(lambda k, x: diff_augment.augment(k, x, ALL),
                     compiler_options=FAST)
  whole = function(keys(6), x)
  order = np.array([5, 0, 2, 1, 4, 3])
  np.testing.assert_allclose(function(keys(6)[order], x[order]), whole[order],
                             atol=1e-6)
  assert np.abs(whole - x).max((1, 2, 3)).min() > 0.1


def test_gradient_equals_finite_differences():
  with jax.enable_x64(True):
    generator = np.random.default_rng(1)
    x, direction, weights = generator.standard_normal((3, 2, 8, 8, 3))
    draws = drawn(keys(2), (8, 8))

    def value(x):
      return jnp.sum(jnp.sin(diff_augment.apply(draws, x, ALL)) * weights)

    jitted = jax.jit(value, compiler_options=FAST)
    slope = (jitted(x + 1e-5 * direction) - jitted(x - 1e-5 * direction)) / 2e-5
    gradient = jax.jit(jax.grad(value), compiler_options=FAST)(x)
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-7)


def test_policies():
  assert diff_augment.parse('') == ()
  assert diff_augment.parse('translation,cutout') == ('translation', 'cutout')
  with pytest.raises(errors.UserError, match="'colour'.*translation"):
    diff_augment.parse('colour,cutout')
