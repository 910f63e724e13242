"""Convolutions with [1, 3, 3, 1] resampling: the official recipes."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.nn import fir
from gans_jax.nn import resample

FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64.0


def correlate(x, w, **options):
  return lax.conv_general_dilated(
      x, w, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      **{'window_strides': (1, 1), **options})


def depthwise(x, kernel, **options):
  channels = x.shape[-1]
  kernel = jnp.tile(jnp.asarray(kernel, x.dtype)[:, :, None, None],
                    (1, 1, 1, channels))
  return correlate(x, kernel, feature_group_count=channels, **options)


def pads(low, high):
  return {'padding': ((low, high), (low, high))}


def up_in_steps(x, w):
  y = correlate(x, w[::-1, ::-1], lhs_dilation=(2, 2), **pads(2, 2))
  return depthwise(y, 4 * FILTER, **pads(1, 1))


def down_in_steps(x, w):
  y = depthwise(x, FILTER, **pads(2, 2))
  return correlate(y, w, window_strides=(2, 2), **pads(0, 0))


def folded(w, kernel):
  """The full convolution of every 3x3 slice with a 4x4 filter, 6x6."""
  result = np.zeros((6, 6, *w.shape[2:]))
  for i in range(4):
    for j in range(4):
      result[i:i + 3, j:j + 3] += kernel[i, j] * np.asarray(w)
  return jnp.asarray(result)


def up_in_one_pass(x, w):
  kernel = folded(w, 4 * FILTER)[::-1, ::-1]
  return correlate(x, kernel, lhs_dilation=(2, 2), **pads(3, 3))


def down_in_one_pass(x, w):
  return correlate(x, folded(w, FILTER), window_strides=(2, 2), **pads(2, 2))


def skip_down(x, w):
  return correlate(depthwise(x, FILTER, window_strides=(2, 2), **pads(1, 1)),
                   w, **pads(0, 0))


def skip_up(x, w):
  return depthwise(correlate(x, w, **pads(0, 0)), 4 * FILTER,
                   lhs_dilation=(2, 2), **pads(2, 2))


@pytest.mark.parametrize('function, recipe, k', [
    (fir.conv_up, up_in_steps, 3), (fir.conv_up, up_in_one_pass, 3),
    (fir.conv_down, down_in_steps, 3), (fir.conv_down, down_in_one_pass, 3),
    (fir.conv1x1_down, skip_down, 1), (fir.conv1x1_up, skip_up, 1)])
def test_recipes(function, recipe, k):
  """In float64, the border included; the up-kernel is flipped (trap 2)."""
  generator = np.random.default_rng(0)
  with jax.enable_x64(True):
    x = jnp.asarray(generator.normal(size=(2, 6, 8, 3)))
    w = jnp.asarray(generator.normal(size=(k, k, 3, 5)))
    np.testing.assert_allclose(function(x, w), recipe(x, w), atol=1e-13)


@pytest.mark.parametrize('function, recipe', [
    (fir.conv_up, up_in_steps), (fir.conv_down, down_in_steps)])
def test_derivatives(function, recipe):
  """First and second gradients (R1, path length)."""
  generator = np.random.default_rng(0)
  x = jnp.asarray(generator.normal(size=(2, 4, 4, 3)), jnp.float32)
  w = jnp.asarray(generator.normal(size=(3, 3, 3, 2)), jnp.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def gradients(f, x, w):
    def inner(w):
      gx = jax.grad(lambda x: jnp.sum(jnp.sin(f(x, w))))(x)
      return jnp.sum(jnp.square(gx))

    return jax.grad(lambda w: jnp.sum(jnp.sin(f(x, w))))(w), jax.grad(inner)(w)

  for a, b in zip(gradients(function, x, w), gradients(recipe, x, w),
                  strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_doubling_and_halving_a_line():
  """Fixtures of the official operations, along one axis."""
  x = jnp.tile(jnp.reshape(jnp.asarray([1., 10., 100., 1000.]), (1, 1, 4, 1)),
               (1, 8, 1, 1))
  np.testing.assert_allclose(
      resample.upsample2d(x)[0, 8, :, 0],
      [.75, 3.25, 7.75, 32.5, 77.5, 325, 775, 750], rtol=1e-6)
  np.testing.assert_allclose(resample.downsample2d(x)[0, 2, :, 0],
                             [16.625, 413.75], rtol=1e-6)
