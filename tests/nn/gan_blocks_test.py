"""Residual blocks as the papers' codes compute them, in PyTorch."""

import functools

import jax
import numpy as np
import pytest
import torch

from gans_jax.nn import gan_blocks
from gans_jax.nn import norm
from gans_jax.nn import spectral_norm

F = torch.nn.functional
FAST = {'xla_backend_optimization_level': 0}
RULE = spectral_norm.RULES['torch']
CONV = functools.partial(spectral_norm.Conv, rule=RULE)
SIZE, CHANNELS, FEATURES, HIDDEN, CLASSES = 4, 3, 5, 4, 7


def images(channels=CHANNELS):
  return np.random.default_rng(0).normal(
      size=(6, SIZE, SIZE, channels)).astype(np.float32)


def conv(variables, name, x):
  kernel = np.asarray(variables['params'][name]['kernel'])
  u, v = (np.asarray(variables['spectral'][name][n][0]) for n in 'uv')
  weight = kernel.transpose(3, 2, 0, 1) / (
      v @ kernel.reshape(-1, kernel.shape[-1]) @ u)
  return F.conv2d(x, torch.tensor(weight),
                  torch.tensor(np.asarray(variables['params'][name]['bias'])),
                  padding=weight.shape[-1] // 2)


@pytest.mark.parametrize('first, down, features, always', [
    (True, True, FEATURES, True), (False, True, FEATURES, True),
    (False, False, CHANNELS, True), (False, True, CHANNELS, False)])
def test_d_block(first, down, features, always):
  block = gan_blocks.DBlock(features, HIDDEN, CONV, CONV, first, down, always)
  x = images()
  variables = jax.jit(block.init, compiler_options=FAST)(jax.random.key(0), x)
  h = s = torch.tensor(x.transpose(0, 3, 1, 2))
  h = conv(variables, 'conv1', h if first else F.relu(h))
  assert h.shape[1] == HIDDEN
  h = conv(variables, 'conv2', F.relu(h))
  shortcut = 'conv_sc' in variables['params']
  assert shortcut == (features != CHANNELS or (down and always))
  # The first block pools before its 1x1, the others after: the same.
  if first:
    s = conv(variables, 'conv_sc', F.avg_pool2d(s, 2))
  else:
    s = conv(variables, 'conv_sc', s) if shortcut else s
    s = F.avg_pool2d(s, 2) if down else s
  h = F.avg_pool2d(h, 2) if down else h
  found = jax.jit(block.apply, compiler_options=FAST)(variables, x)
  np.testing.assert_allclose(found,
                             (h + s).numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_g_block():
  make_norm = functools.partial(norm.ConditionalBatchNorm, CLASSES)
  block = gan_blocks.GBlock(FEATURES, make_norm, CONV, CONV)
  x, labels = images(), np.array([0, 6, 3, 3, 1, 2])
  variables = jax.jit(block.init, static_argnums=3, compiler_options=FAST)(
      jax.random.key(0), x, labels, True)
  generator = np.random.default_rng(1)
  params = dict(variables['params'])
  for name in ('bn1', 'bn2'):
    params[name] = jax.tree.map(
        lambda p: generator.normal(size=p.shape).astype(np.float32),
        params[name])
  variables = {**variables, 'params': params}

  def batch_norm(name, x):
    y = F.batch_norm(x, None, None, training=True)
    scale, bias = (torch.tensor(params[name][key][labels])[:, :, None, None]
                   for key in ('scale', 'bias'))
    return F.relu(y * scale + bias)

  up = functools.partial(F.interpolate, scale_factor=2, mode='nearest')
  t = torch.tensor(x.transpose(0, 3, 1, 2))
  h = conv(variables, 'conv1', up(batch_norm('bn1', t)))
  h = conv(variables, 'conv2', batch_norm('bn2', h))
  h = h + conv(variables, 'conv_sc', up(t))
  found, _ = jax.jit(functools.partial(
      block.apply, train=True, mutable=['batch_stats']),
                     compiler_options=FAST)(variables, x, labels)
  np.testing.assert_allclose(found, h.numpy().transpose(0, 2, 3, 1),
                             atol=1e-4)


def test_head():
  """The sum over positions, and the inner product with the class."""
  x = images(4)
  h = np.maximum(x.astype(np.float64), 0).sum((1, 2))
  np.testing.assert_allclose(gan_blocks.sum_pool(x), h, rtol=1e-5)
  e = np.random.default_rng(2).normal(size=(6, 4))
  np.testing.assert_allclose(
      gan_blocks.projection(h.astype(np.float32), e.astype(np.float32)),
      (h * e).sum(1), rtol=1e-4)
