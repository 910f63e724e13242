"""Self-attention against the block in float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.nn import attention
from gans_jax.nn import spectral_norm

RULE = spectral_norm.RULES['sagan']
C = 16
FAST = {'xla_backend_optimization_level': 0}


def block():
  x = np.random.default_rng(0).normal(size=(2, 4, 6, C)).astype(np.float32)
  layer = attention.SelfAttention(RULE)
  variables = jax.jit(layer.init, compiler_options=FAST)(jax.random.key(0), x)
  variables = {**variables, 'params': {**variables['params'],
                                       'gamma': jnp.float32(0.7)}}
  return layer, {k: variables[k] for k in ('params', 'spectral')}, x


def by_hand(variables, x):
  x = x.astype(np.float64)

  def conv(name, x):
    kernel = np.asarray(variables['params'][name]['kernel'],
                        np.float64)[0, 0]
    vectors = variables['spectral'][name]
    sigma = np.asarray(vectors['v'][0]) @ kernel @ np.asarray(vectors['u'][0])
    return x @ (kernel / sigma)

  def keys(y):
    n, h, w, c = y.shape
    y = y.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    return y.reshape(n, -1, c)

  n, h, w, c = x.shape
  theta = conv('theta', x).reshape(n, h * w, -1)
  phi, g = keys(conv('phi', x)), keys(conv('g', x))
  assert theta.shape[-1] == phi.shape[-1] == c // 8
  assert g.shape[-1] == c // 2
  scores = theta @ phi.transpose(0, 2, 1)
  maps = np.exp(scores - scores.max(-1, keepdims=True))
  maps /= maps.sum(-1, keepdims=True)
  y = conv('o', (maps @ g).reshape(n, h, w, -1))
  return x + 0.7 * y, maps


def test_block_and_maps():
  layer, variables, x = block()
  y, state = jax.jit(functools.partial(
      layer.apply, mutable=['attention']), compiler_options=FAST)(
          variables, x)
  expected, maps = by_hand(variables, x)
  np.testing.assert_allclose(y, expected, atol=1e-5)
  np.testing.assert_allclose(state['attention']['maps'][0], maps, atol=1e-6)
  # Where nobody asks, nothing is kept.
  assert not isinstance(jax.eval_shape(layer.apply, variables, x), tuple)


def test_it_starts_as_the_identity():
  layer, variables, x = block()
  fresh = jax.jit(layer.init, compiler_options=FAST)(jax.random.key(0), x)
  assert fresh['params']['gamma'] == 0
  assert set(fresh) == {'params', 'spectral'}
  np.testing.assert_array_equal(layer.apply(
      {**variables, 'params': fresh['params']}, x), x)
  # 2 C^2 / 8 + 2 C^2 / 2, and gamma.
  count = sum(p.size for p in jax.tree.leaves(fresh['params']))
  assert count == 5 * C * C // 4 + 1
