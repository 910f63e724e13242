"""The regularization: closed form, differentiation, the PyTorch code's half."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gans_jax.losses import orthogonal

# Fewer columns than rows, and more: two ways of computing.
SHAPES = [(8, 3), (3, 8), (3, 3, 2, 5), (1, 1, 2, 7)]


def by_hand(w):
  """(R, dR / dW) in float64, from the definition."""
  m = np.asarray(w, np.float64).reshape(-1, w.shape[-1])
  off = m.T @ m * (1 - np.eye(m.shape[1]))
  return (off**2).sum(), (4 * m @ off).reshape(w.shape)


@pytest.mark.parametrize('shape', SHAPES)
def test_value_and_gradient(shape):
  w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  value, gradient = by_hand(w)
  np.testing.assert_allclose(orthogonal.penalty(w), value, rtol=1e-4)
  np.testing.assert_allclose(orthogonal.gradient(jnp.asarray(w)), gradient,
                             rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(jax.grad(orthogonal.penalty)(jnp.asarray(w)),
                             gradient, rtol=1e-4, atol=1e-4)


def test_orthogonal_filters_of_any_length_cost_nothing():
  w = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 4)))[0]
  w = w * np.array([0.1, 1, 2, 5])
  np.testing.assert_allclose(orthogonal.penalty(jnp.asarray(w)), 0, atol=1e-9)
  np.testing.assert_allclose(orthogonal.gradient(jnp.asarray(w)), 0,
                             atol=1e-5)


def params():
  draw = np.random.default_rng(0)
  return {'G': {
      'conv': {'kernel': draw.normal(size=(3, 3, 2, 5)).astype(np.float32),
               'bias': np.ones(5, np.float32)},
      'shared': {'embedding': draw.normal(size=(4, 3)).astype(np.float32)},
      'gain': {'embedding': draw.normal(size=(4, 3)).astype(np.float32)}}}


def is_shared(path):
  return '/shared/' in path


def test_total_is_of_every_weight_but_those_left_out():
  tree = params()['G']
  expected = (by_hand(tree['conv']['kernel'])[0]
              + by_hand(tree['gain']['embedding'].T)[0])
  np.testing.assert_allclose(orthogonal.total(params(), is_shared), expected,
                             rtol=1e-5)


@pytest.mark.parametrize('form, share', [('paper', 1.0), ('pytorch', 0.5)])
def test_transformation_adds_the_gradient(form, share):
  """BigGAN-PyTorch: 2 beta ((W W') o (1 - I)) W, W [out, in]; half."""
  tree, beta = params(), 0.3
  tx = optax.chain(orthogonal.add_gradient(beta, is_shared, form),
                   optax.identity())
  grads = jax.tree.map(np.ones_like, tree)
  updates, _ = tx.update(grads, tx.init(tree), tree)
  found = updates['G']
  added = beta * share * by_hand(tree['G']['conv']['kernel'])[1]
  np.testing.assert_allclose(found['conv']['kernel'], 1 + added, rtol=1e-4,
                             atol=1e-4)
  table = tree['G']['gain']['embedding']
  if form == 'pytorch':
    # Their formula, word for word: rows are filters.
    w = table.astype(np.float64)
    added = beta * 2 * ((w @ w.T) * (1 - np.eye(4))) @ w
  else:
    added = beta * by_hand(table.T)[1].T
  np.testing.assert_allclose(found['gain']['embedding'], 1 + added, rtol=1e-4,
                             atol=1e-4)
  np.testing.assert_array_equal(found['shared']['embedding'], 1)
  np.testing.assert_array_equal(found['conv']['bias'], 1)


def test_bad_form():
  with pytest.raises(ValueError, match='form'):
    orthogonal.add_gradient(1e-4, form='half')
