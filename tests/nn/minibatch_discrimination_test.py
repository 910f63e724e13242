"""Minibatch discrimination: the formula, in float64, example by example."""

import jax
import numpy as np

from gans_jax.core import state as state_lib
from gans_jax.nn import minibatch_discrimination


def test_by_hand():
  draw = np.random.default_rng(0)
  x = draw.normal(size=(5, 4)).astype(np.float32)
  layer = minibatch_discrimination.MinibatchDiscrimination(3, 2)
  params = layer.init(jax.random.key(0), x)['params']
  assert state_lib.count(params) == 4 * 3 * 2 + 3 * 2 + 3
  np.testing.assert_array_equal(params['bias'], -1)
  np.testing.assert_array_equal(params['log_scale'], 0)
  params = jax.tree.map(lambda p: draw.normal(size=p.shape), params)
  t, s, b = params['theta'], params['log_scale'], params['bias']
  t = t * np.exp(s) / np.sqrt((t**2).sum(0))
  expected = np.zeros((5, 3))
  for i in range(5):
    for k in range(3):
      expected[i, k] = b[k] + sum(
          np.exp(-np.abs(x[i] @ t[:, k] - x[j] @ t[:, k]).sum())
          for j in range(5) if j != i)
  params = jax.tree.map(np.float32, params)
  y = layer.apply({'params': params}, x)
  np.testing.assert_array_equal(y[:, :4], x)
  np.testing.assert_allclose(y[:, 4:], expected, rtol=1e-5, atol=1e-6)


def test_a_kernel_is_100_by_5():
  layer = minibatch_discrimination.MinibatchDiscrimination()
  params = jax.eval_shape(layer.init, jax.random.key(0), np.zeros((2, 512)))
  assert state_lib.count(params) == 512 * 500 + 500 + 100
