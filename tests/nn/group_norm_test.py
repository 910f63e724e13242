"""Group normalization against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gans_jax.nn import group_norm


@pytest.mark.parametrize('channels, groups', [(64, 32), (12, 4)])
def test_value_and_gradient_are_torchs(channels, groups):
  draw = np.random.default_rng(0)
  x = draw.normal(3.0, 2.0, (2, 4, 6, channels)).astype(np.float32)
  scale, bias = draw.normal(size=(2, channels)).astype(np.float32)
  net = group_norm.GroupNorm()
  weight = draw.normal(size=x.shape).astype(np.float32)

  def loss(params, x):
    return jnp.sum(net.apply({'params': params}, x) * weight)

  params = {'scale': scale, 'bias': bias}
  y = net.apply({'params': params}, x)
  gradients = jax.grad(loss, (0, 1))(params, x)

  module = torch.nn.GroupNorm(groups, channels, eps=1e-6)
  with torch.no_grad():
    module.weight.copy_(torch.from_numpy(scale))
    module.bias.copy_(torch.from_numpy(bias))
  theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
  out = module(theirs)
  out.backward(torch.from_numpy(weight.transpose(0, 3, 1, 2).copy()))
  for ours, expected in (
      (y, out.detach().numpy().transpose(0, 2, 3, 1)),
      (gradients[1], theirs.grad.numpy().transpose(0, 2, 3, 1)),
      (gradients[0]['scale'], module.weight.grad.numpy()),
      (gradients[0]['bias'], module.bias.grad.numpy())):
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_large_mean_does_not_cancel():
  """Two moments would give a variance of 0 +- 60 here."""
  x = 1e4 + np.random.default_rng(0).normal(size=(1, 8, 8, 32))
  y = group_norm.GroupNorm(groups=8).apply(
      {'params': {'scale': np.ones(32), 'bias': np.zeros(32)}},
      jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(np.std(y), 1.0, rtol=1e-3)


def test_bfloat16_has_float32_statistics():
  x = jnp.asarray(np.random.default_rng(0).normal(5, 1, (1, 16, 16, 32)),
                  jnp.bfloat16)
  net = group_norm.GroupNorm()
  v = net.init(jax.random.key(0), x)
  y = net.apply(v, x)
  assert y.dtype == jnp.bfloat16
  full = net.apply(v, x.astype(jnp.float32))
  np.testing.assert_array_equal(
      np.asarray(y, np.float32),
      np.asarray(full.astype(jnp.bfloat16), np.float32))


@pytest.mark.parametrize('swish', [False, True])
def test_derivatives_are_those_of_the_formulas(swish):
  """Against `jax.grad` of what a reader would write, to the second order."""
  draw = np.random.default_rng(0)
  x = jnp.asarray(draw.normal(2.0, 3.0, (2, 3, 4, 12)), jnp.float32)
  params = {'scale': jnp.asarray(draw.normal(1, 0.3, 12), jnp.float32),
            'bias': jnp.asarray(draw.normal(size=12), jnp.float32)}
  weight = jnp.asarray(draw.normal(size=x.shape), jnp.float32)
  net = group_norm.GroupNorm(groups=4, swish=swish)

  def plain(params, x):
    y = x.reshape(2, 12, 4, 3)
    y = y - y.mean((1, 3), keepdims=True)
    y = y / jnp.sqrt(jnp.square(y).mean((1, 3), keepdims=True) + 1e-6)
    y = y.reshape(x.shape) * params['scale'][None, None, None]
    y = y + params['bias'][None, None, None]
    return y * jax.nn.sigmoid(y) if swish else y

  def derivatives(function):
    def loss(params, x):
      return jnp.sum(function(params, x) * weight)

    def penalty(x):
      return jnp.sum(jnp.square(jax.grad(loss, 1)(params, x)))

    return jax.jit(lambda: (function(params, x), jax.grad(loss, (0, 1))(
        params, x), jax.grad(penalty)(x)))()

  ours = derivatives(lambda params, x: net.apply({'params': params}, x))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5), ours, derivatives(plain))


def test_groups_of_one_channel_forget_its_mean():
  """Why narrow nets want few groups: a colour is means of channels."""
  x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
  colours = jax.random.normal(jax.random.key(1), (2, 1, 1, 8))
  images = x + colours
  apart = {}
  for groups in (8, 2):
    y, _ = group_norm.GroupNorm(groups).init_with_output(
        jax.random.key(2), images)
    apart[groups] = float(jnp.abs(y[0] - y[1]).mean())
  assert apart[8] < 1e-5 and apart[2] > 0.3
