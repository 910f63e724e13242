"""Layers with equalized learning rate, against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gans_jax.nn import conv
from gans_jax.nn import equalized
from gans_jax.nn import resample


def data(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('gain, m', [(1.0, 1.0), (np.sqrt(2), 1.0),
                                     (1.0, 0.01)])
def test_dense(gain, m):
  layer = equalized.EqualizedDense(5, float(gain), m)
  params = {'kernel': data(8, 5, seed=1), 'bias': data(5, seed=2)}
  x = data(3, 8)
  expected = (x @ params['kernel'].astype(np.float64) * gain * m / np.sqrt(8)
              + m * params['bias'])
  np.testing.assert_allclose(layer.apply({'params': params}, x), expected,
                             rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('gain', [1.0, np.sqrt(2)])
def test_conv_is_pytorchs_with_scaled_weights(gain):
  layer = equalized.EqualizedConv(5, 3, gain=float(gain))
  params = {'kernel': data(3, 3, 4, 5, seed=1), 'bias': data(5, seed=2)}
  x = data(2, 6, 7, 4)
  expected = torch.nn.functional.conv2d(
      torch.tensor(np.moveaxis(x, -1, 1)),
      torch.tensor(params['kernel'].transpose(3, 2, 0, 1)) * gain / 6.0,
      torch.tensor(params['bias']), padding=1).numpy()
  np.testing.assert_allclose(layer.apply({'params': params}, x),
                             np.moveaxis(expected, 1, -1), atol=1e-5)


def test_conv_with_resampling():
  layer = equalized.EqualizedConv(5, 3, resample.upsample_conv3x3,
                                  use_bias=False)
  x = data(2, 4, 4, 3)
  variables = layer.init(jax.random.key(0), x)
  assert list(variables['params']) == ['kernel']
  w = variables['params']['kernel'] / np.float32(np.sqrt(27))
  np.testing.assert_allclose(
      layer.apply(variables, x),
      conv.conv2d(resample.nearest_upsample(x), w), atol=1e-5)


@pytest.mark.parametrize('m', [1.0, 0.01])
def test_stored_weights_are_normal_and_outputs_have_the_scale_of_inputs(m):
  x = data(256, 400)
  layer = equalized.EqualizedDense(300, 1.0, m, bias_init=3.0)
  y, variables = layer.init_with_output(jax.random.key(0), x)
  params = variables['params']
  np.testing.assert_allclose(np.std(params['kernel']), 1 / m, rtol=0.01)
  np.testing.assert_array_equal(params['bias'], 3.0)
  # The bias too is multiplied at run time.
  np.testing.assert_allclose(np.mean(y), 3 * m, atol=0.02)
  np.testing.assert_allclose(np.std(y), 1.0, rtol=0.03)


def test_multiplier_scales_the_step_of_adam():
  """A step of size lr on a stored weight moves the used one by m lr."""
  x = jnp.ones((1, 4))
  moves = []
  for m in (1.0, 0.01):
    layer = equalized.EqualizedDense(1, 1.0, m)
    variables = layer.init(jax.random.key(0), x)
    moved = jax.tree.map(lambda p: p + 0.1, variables)
    moves.append(layer.apply(moved, x) - layer.apply(variables, x))
  np.testing.assert_allclose(moves[1], 0.01 * moves[0], rtol=1e-3)
  np.testing.assert_allclose(moves[0], 0.1 * (4 / 2 + 1), rtol=1e-4)


def test_activation():
  x = jnp.asarray([-10.0, -1.0, 0.0, 1.0, 10.0])
  np.testing.assert_allclose(equalized.leaky_relu(x, 1.0),
                             [-2, -0.2, 0, 1, 10], rtol=1e-6)
  np.testing.assert_allclose(
      equalized.leaky_relu(x, clamp=4.0),
      [-2 * np.sqrt(2), -0.2 * np.sqrt(2), 0, np.sqrt(2), 4], rtol=1e-6)
  # A normal input keeps its second moment to within a few per cent.
  y = equalized.leaky_relu(jnp.asarray(data(100_000)))
  np.testing.assert_allclose(np.mean(np.square(y)), 1.04, atol=0.02)


@pytest.mark.parametrize('layer', [
    equalized.EqualizedDense(3), equalized.EqualizedConv(3, 3),
    equalized.EqualizedDense(3, 1.0, 0.01),
    equalized.EqualizedDense(3, dtype=jnp.bfloat16)])
def test_type_of_the_computation(layer):
  shape = (2, 4, 4, 4)
  x = jnp.ones(shape, jnp.float32 if layer.dtype else jnp.bfloat16)
  y, variables = layer.init_with_output(jax.random.key(0), x)
  assert equalized.leaky_relu(y, clamp=256.0).dtype == jnp.bfloat16
  assert {p.dtype for p in jax.tree.leaves(variables)} == {
      jnp.dtype('float32')}
