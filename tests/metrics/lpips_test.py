"""LPIPS against the package lpips, on random trunks and its own heads."""

import functools
import types

import jax
import numpy as np
import official
import pytest
import torch

from gans_jax.convert import lpips as convert
from gans_jax.convert import published
from gans_jax.core import compilation
from gans_jax.metrics import lpips

# torchvision's number of each convolution: features and kernel.
CONVS = {
    'vgg': {index: (features, 3) for index, features in zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        (64, 64, 128, 128, 256, 256, 256) + (512,) * 6, strict=True)},
    'alex': {0: (64, 11), 3: (192, 5), 6: (384, 3), 8: (256, 3),
             10: (256, 3)},
}


def trunk_state(net):
  """The weights that the golden values below were taken with."""
  r, state, channels = np.random.RandomState(0), {}, 3
  for index, (features, k) in CONVS[net].items():
    scale = np.sqrt(2 / (channels * k * k))
    state[f'features.{index}.weight'] = (
        r.randn(features, channels, k, k) * scale).astype(np.float32)
    state[f'features.{index}.bias'] = (
        r.randn(features) * 0.05).astype(np.float32)
    channels = features
  return state, r


def pair(r):
  a = r.uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
  b = np.clip(a + 0.1 * r.randn(*a.shape).astype(np.float32), -1, 1)
  return a, b


def variables(net, trunk):
  file = convert.HEADS[net]
  heads = published.state_dict(published.find(file), file)
  return {'params': {'trunk': convert.fold_trunk(trunk, net, 'x'),
                     **convert.fold_heads(heads, net, 'x')}}


@pytest.mark.parametrize('net', ['vgg', 'alex'])
def test_distance_and_gradient_are_those_of_the_package(net, monkeypatch):
  trunk, r = trunk_state(net)
  a, b = pair(r)
  v = variables(net, trunk)

  def total(a, b, v):
    per_tap = lpips.LPIPS(net).apply(v, a, b, method='per_tap')
    return per_tap.sum(), per_tap

  (_, found), gradient = jax.jit(
      jax.value_and_grad(total, has_aux=True),
      compiler_options=compilation.options(0))(a, b, v)
  if net == 'vgg':
    # Of lpips 0.1.4, on another machine.
    np.testing.assert_allclose(
        found.sum(1), [0.0058171158, 0.0059729312], rtol=1e-5)
    np.testing.assert_allclose(
        found[0], [0.0028555566, 0.0011690087, 0.0007306981, 0.0006730200,
                   0.0003888323], rtol=1e-5)

  models = official.package('torchvision').models
  # Without its classifier: 124 million numbers that take no part.
  monkeypatch.setattr(
      models, 'vgg16', lambda pretrained: types.SimpleNamespace(
          features=models.vgg.make_layers(models.vgg.cfgs['D'])))
  model = official.package('lpips').LPIPS(
      net=net, pnet_rand=True, verbose=False)
  # Its slices keep torchvision's numbers: slice2.5.weight.
  own = {key.split('.', 1)[1]: x for key, x in model.net.state_dict().items()}
  assert {f'features.{key}' for key in own} == set(trunk)
  for key, x in own.items():
    x.copy_(torch.from_numpy(trunk[f'features.{key}']))
  ta, tb = (torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
            for x in (a, b))
  expected, taps = model(ta, tb, retPerLayer=True)
  assert expected.shape == (2, 1, 1, 1)
  np.testing.assert_allclose(
      found.sum(1), expected.detach().flatten(), rtol=1e-5)
  np.testing.assert_allclose(
      found, torch.stack([tap.detach().flatten() for tap in taps], -1),
      rtol=2e-5)
  expected.sum().backward()
  np.testing.assert_allclose(
      gradient, ta.grad.permute(0, 2, 3, 1), rtol=0,
      atol=2e-5 * float(ta.grad.abs().max()))


def test_identity_symmetry_and_sum():
  trunk, r = trunk_state('alex')
  v = variables('alex', trunk)
  a, b = pair(r)
  model = lpips.LPIPS('alex')
  jit = functools.partial(
      jax.jit, compiler_options=compilation.options(0))
  distance = jit(model.apply)
  per_tap = jit(lambda v, a, b: model.apply(v, a, b, method='per_tap'))
  d = distance(v, a, b)
  assert d.shape == (2,) and (d > 1e-3).all()
  np.testing.assert_allclose(d, per_tap(v, a, b).sum(1), rtol=1e-6)
  np.testing.assert_allclose(d, distance(v, b, a), rtol=1e-6)
  # What is left is the rounding of two places in one batch, squared.
  assert (distance(v, a, a) < 1e-12).all()
  gradient = jit(jax.grad(lambda a, b, v: model.apply(v, a, b).sum()))
  slope = np.abs(gradient(a, b, v)).max()
  assert slope > 1e-6 and np.abs(gradient(b, b, v)).max() < 1e-5 * slope
  # Features that are all zero: the norm has no slope there.
  dead = jax.tree.map(np.zeros_like, v)
  np.testing.assert_array_equal(gradient(a, b, dead), np.zeros_like(a))
