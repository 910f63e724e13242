"""SeFa against its definition: no direction changes the styles more."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.latent import sefa


@pytest.fixture
def kernels():
  r = np.random.default_rng(0)
  return [r.normal(size=(6, n)) for n in (5, 9)]


def test_eigenvectors(kernels):
  directions, strengths = sefa.factorize(kernels, normalize=False)
  a = np.concatenate(kernels, 1).T
  np.testing.assert_allclose(directions @ directions.T, np.eye(6), atol=1e-6)
  assert (np.diff(strengths) <= 0).all()
  for n, strength in zip(directions, strengths, strict=True):
    np.testing.assert_allclose(np.linalg.norm(a @ n)**2, strength, rtol=1e-5)
    np.testing.assert_allclose(a.T @ a @ n, strength * n, atol=1e-4)
    assert n[np.abs(n).argmax()] > 0
  # The strongest of all, and of all that are orthogonal to the first.
  r = np.random.default_rng(1)
  n = r.normal(size=(2000, 6))
  n /= np.linalg.norm(n, axis=1, keepdims=True)
  assert (np.linalg.norm(n @ a.T, axis=1)**2).max() <= strengths[0]
  n -= (n @ directions[0])[:, None] * directions[0]
  n /= np.linalg.norm(n, axis=1, keepdims=True)
  assert (np.linalg.norm(n @ a.T, axis=1)**2).max() <= strengths[1] + 1e-6


def test_channels_count_alike(kernels):
  """The authors' code: columns of [D, channels] of length 1, then eig."""
  weight = np.concatenate(kernels, 1)
  weight = weight / np.linalg.norm(weight, axis=0, keepdims=True)
  values, vectors = np.linalg.eig(weight @ weight.T)
  order = np.argsort(-values)
  directions, strengths = sefa.factorize(kernels)
  np.testing.assert_allclose(strengths, values[order], rtol=1e-5)
  cosines = np.sum(directions * vectors.T[order], 1)
  np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-5)
  scaled = [k * np.random.default_rng(2).uniform(1, 9, (1, k.shape[1]))
            for k in kernels]
  np.testing.assert_allclose(sefa.factorize(scaled)[0], directions, atol=1e-5)


def test_a_dead_channel(kernels):
  kernels[0][:, 2] = 0
  assert np.isfinite(sefa.factorize(kernels)[0]).all()


def style(value):
  return {'kernel': np.full((2, 3), value)}


def test_layers_of_stylegan2():
  synthesis = {
      'b16': {'conv0': {'affine': style(3)}, 'conv1': {'affine': style(4)},
              'torgb': {'affine': style(5)}},
      'b4': {'const': np.zeros((4, 4, 3)), 'conv1': {'affine': style(0)},
             'torgb': {'affine': style(-1)}},
      'b8': {'conv0': {'affine': style(1)}, 'conv1': {'affine': style(2)},
             'torgb': {'affine': style(-1)}}}
  found = sefa.style_kernels({'synthesis': synthesis})
  assert [k[0, 0] for k in found] == [0, 1, 2, 3, 4, 5]
  found = sefa.style_kernels({'synthesis': synthesis}, [5, 0])
  assert [k[0, 0] for k in found] == [5, 0]
  with pytest.raises(errors.UserError, match=r'\[6\].* has 6, 0 to 5'):
    sefa.style_kernels({'synthesis': synthesis}, [6])


def test_a_generator_without_styles():
  with pytest.raises(errors.UserError, match='no styles to factorize'):
    sefa.style_kernels({'conv_4': {'kernel': np.zeros((4, 4, 2, 2))}})
