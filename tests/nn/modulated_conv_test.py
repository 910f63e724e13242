"""Modulated convolutions, against a kernel for each example."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import hlo
from gans_jax.nn import conv
from gans_jax.nn import fir
from gans_jax.nn import modulated_conv

FAST = {'xla_backend_optimization_level': 0}
DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def fused(x, w, styles, demodulate, function):
  """Equations 1 to 3 as they stand."""
  outputs = []
  for image, s in zip(x, styles, strict=True):
    kernel = w * s.reshape(1, 1, -1, 1)
    if demodulate:
      kernel = kernel / jnp.sqrt(
          jnp.sum(jnp.square(kernel), (0, 1, 2), keepdims=True) + 1e-8)
    outputs.append(function(image[None], kernel)[0])
  return jnp.stack(outputs)


@pytest.mark.parametrize('demodulate', [True, False])
@pytest.mark.parametrize('function, k', [
    (conv.conv2d, 3), (conv.conv2d, 1), (fir.conv_up, 3), (fir.conv_down, 3)])
def test_one_kernel_does_for_all(function, k, demodulate):
  generator = np.random.default_rng(0)
  with jax.enable_x64(True):
    x = jnp.asarray(generator.normal(size=(3, 6, 4, 5)))
    w = jnp.asarray(generator.normal(size=(k, k, 5, 2)))
    styles = jnp.asarray(1 + generator.normal(size=(3, 5)))
    y = modulated_conv.modulated_conv2d(x, w, styles, demodulate, function)
    np.testing.assert_allclose(
        y, fused(x, w, styles, demodulate, function), atol=1e-12)


def start(layer, *inputs):
  """Parameters of a layer."""
  return jax.jit(layer.init, compiler_options=FAST)(
      jax.random.key(0), *inputs)['params']


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_demodulation_keeps_unit_variance():
  """Section 2.2: outputs of independent unit inputs have unit variance."""
  x, w = normal(8, 32, 32, 32), 7 * normal(3, 3, 32, 4, seed=1)
  styles = np.exp(2 * normal(8, 32, seed=2))
  y = modulated_conv.modulated_conv2d(x, w, styles)
  np.testing.assert_allclose(
      np.std(np.asarray(y)[:, 1:-1, 1:-1], (1, 2)), 1.0, atol=0.15)
  # A style of nothing gives nothing, not NaN.
  y = modulated_conv.modulated_conv2d(x, w, jnp.zeros((8, 32)))
  np.testing.assert_array_equal(y, 0.0)


def test_styled_convolution():
  """conv, + noise, + bias, leaky ReLU, sqrt(2), clamp: in this order."""
  layer = modulated_conv.StyledConv(4, clamp=1.5)
  x, w = normal(2, 5, 5, 3), normal(2, 6, seed=1)
  noise = normal(2, 5, 5, 1, seed=2)
  params = start(layer, x, w, None)
  # At first styles are about one, noise and biases nothing.
  np.testing.assert_array_equal(params['affine']['bias'], 1.0)
  assert params['noise_strength'].shape == ()
  assert params['noise_strength'] == 0
  params = {**params, 'noise_strength': jnp.float32(0.7),
            'bias': jnp.asarray([0.1, -0.2, 0.3, 0.0])}
  styles = (w @ params['affine']['kernel'] / np.float32(np.sqrt(6))
            + params['affine']['bias'].reshape(1, -1))
  y = modulated_conv.modulated_conv2d(x, params['kernel'], styles)
  y = y + 0.7 * noise + params['bias'].reshape(1, 1, 1, -1)
  expected = np.clip(np.sqrt(2) * np.where(y > 0, y, 0.2 * y), -1.5, 1.5)
  np.testing.assert_allclose(layer.apply({'params': params}, x, w, noise),
                             expected, atol=1e-5)
  without = layer.apply({'params': params}, x, w, None)
  assert np.abs(without - expected).max() > 0.1


def test_to_rgb_is_not_demodulated():
  layer = modulated_conv.ToRGB(3)
  x, w = normal(2, 5, 5, 16), np.zeros((2, 6), np.float32)
  params = start(layer, x, w)
  kernel = params['kernel']
  # Styles are one here; the equalized scale is that of 16 channels.
  expected = lax.conv_general_dilated(x, kernel / 4, (1, 1), 'SAME',
                                      dimension_numbers=DIMENSIONS)
  np.testing.assert_allclose(layer.apply({'params': params}, x, w), expected,
                             atol=1e-5)
  doubled = {**params, 'kernel': 2 * kernel}
  np.testing.assert_allclose(layer.apply({'params': doubled}, x, w),
                             2 * expected, atol=1e-5)


def test_types_of_bfloat16():
  """The convolution in bfloat16, styles and demodulation in float32."""
  layer = modulated_conv.StyledConv(4, up=True, dtype=jnp.bfloat16)
  x, w = jnp.ones((2, 4, 4, 3)), jnp.ones((2, 6))
  variables = jax.eval_shape(layer.init, jax.random.key(0), x, w, None)
  jaxpr = jax.make_jaxpr(layer.apply)(variables, x, w, None)
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16
  assert [str(t) for pair in hlo.conv_operand_dtypes(jaxpr)
          for t in pair] == ['bfloat16'] * 2
  products = [e for e in hlo.equations(jaxpr)
              if e.primitive.name == 'dot_general']
  assert len(products) == 2  # the styles, and the sum of equation 3
  assert {str(v.aval.dtype) for e in products for v in e.invars} == {'float32'}
