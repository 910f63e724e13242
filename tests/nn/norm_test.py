"""Normalization against PyTorch and against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib
from gans_jax.nn import norm


def data(*shape, seed=0):
  return np.random.default_rng(seed).normal(
      0.5, 2.0, shape).astype(np.float32)


@pytest.mark.parametrize('shape', [(6, 4, 4, 3), (6, 3)])
def test_batch_norm_is_pytorchs(shape):
  layer = (torch.nn.BatchNorm2d if len(shape) == 4 else
           torch.nn.BatchNorm1d)(3)
  with torch.no_grad():
    layer.weight.copy_(torch.tensor(data(3, seed=1)))
    layer.bias.copy_(torch.tensor(data(3, seed=2)))
  module = norm.BatchNorm()
  variables = {
      'params': {'scale': data(3, seed=1), 'bias': data(3, seed=2)},
      'batch_stats': {'mean': np.zeros(3, 'f'), 'var': np.ones(3, 'f')}}

  def expected(x):
    x = torch.tensor(np.moveaxis(x, -1, 1))
    return np.moveaxis(layer(x).detach().numpy(), 1, -1)

  for seed in (3, 4):
    x = data(*shape, seed=seed)
    y, changed = module.apply(variables, x, train=True,
                              mutable=['batch_stats'])
    np.testing.assert_allclose(y, expected(x), atol=2e-6)
    variables = {**variables, **changed}
  # The running variance is unbiased: with 6 rows of 3 it shows.
  np.testing.assert_allclose(variables['batch_stats']['mean'],
                             layer.running_mean, rtol=1e-5)
  np.testing.assert_allclose(variables['batch_stats']['var'],
                             layer.running_var, rtol=1e-5)
  layer.eval()
  x = data(*shape, seed=5)
  np.testing.assert_allclose(module.apply(variables, x, train=False),
                             expected(x), atol=2e-6)


def test_batch_norm_starts_as_pytorchs():
  x = data(4, 2, 2, 3)
  variables = norm.BatchNorm().init(jax.random.key(0), x, train=True)
  for (collection, name), value in {
      ('params', 'scale'): 1, ('params', 'bias'): 0,
      ('batch_stats', 'mean'): 0, ('batch_stats', 'var'): 1}.items():
    np.testing.assert_array_equal(variables[collection][name],
                                  np.full(3, value))


def test_normal_scale():
  scale = norm.normal_scale(0.02)(jax.random.key(0), (20_000,))
  np.testing.assert_allclose(scale.mean(), 1, atol=1e-3)
  np.testing.assert_allclose(scale.std(), 0.02, rtol=0.03)


def test_groups_are_batches_of_their_own():
  x = data(8, 2, 2, 3)
  variables = norm.BatchNorm().init(jax.random.key(0), x, train=True)
  y, changed = norm.BatchNorm(statistics='group:2').apply(
      variables, x, train=True, mutable=['batch_stats'])
  parts = [norm.BatchNorm().apply(variables, x[i:i + 2], train=True,
                                  mutable=['batch_stats'])
           for i in range(0, 8, 2)]
  np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]),
                             atol=1e-6)
  for name in ('mean', 'var'):
    np.testing.assert_allclose(
        changed['batch_stats'][name],
        np.mean([p[1]['batch_stats'][name] for p in parts], 0), rtol=1e-5)


@pytest.mark.parametrize('statistics, groups, collectives', [
    ('global', 1, 1), ('device', 8, 0), ('group:8', 2, 1)])
def test_batch_norm_over_eight_devices(statistics, groups, collectives):
  x = data(16, 2, 2, 3)
  module = norm.BatchNorm(statistics=statistics)
  variables = module.init(jax.random.key(0), x, train=True)
  mesh = mesh_lib.make(data=8, devices=jax.devices())
  with jax.set_mesh(mesh):
    placed = jax.device_put(x, mesh_lib.batch_sharding(mesh))
    program = jax.jit(lambda v, x: mesh_lib.shard_batch(
        module.apply(v, x, train=True))).lower(variables, placed).compile()
    y = program(variables, placed)
  parts = x.reshape(groups, -1, 2, 2, 3)
  expected = (parts - parts.mean((1, 2, 3), keepdims=True)) / np.sqrt(
      parts.var((1, 2, 3), keepdims=True) + 1e-5)
  np.testing.assert_allclose(y, expected.reshape(x.shape), atol=1e-5)
  found = hlo.collectives(program)
  # Both moments of a layer travel together; device statistics stay at home.
  if statistics != 'group:8':
    assert found.get('all-reduce', (0, 0))[0] == collectives
    assert set(found) <= {'all-reduce'}


def test_unequal_groups_are_refused():
  x = data(6, 2, 2, 3)
  module = norm.BatchNorm(statistics='group:4')
  variables = module.init(jax.random.key(0), x, train=True)
  with pytest.raises(errors.UserError, match='bn_scope'):
    module.apply(variables, x, train=True)


@pytest.mark.parametrize('scope, good', [
    ('global', True), ('device', True), ('group:4', True), ('group:0', False),
    ('group', False), ('local', False), ('group:x', False)])
def test_check_scope(scope, good):
  if good:
    norm.check_scope('model.bn_scope', scope)
  else:
    with pytest.raises(errors.UserError, match='model.bn_scope'):
      norm.check_scope('model.bn_scope', scope)


def test_conditional_batch_norm():
  x, labels = data(6, 2, 2, 3), np.array([0, 1, 2, 1, 0, 2])
  module = norm.ConditionalBatchNorm(3)
  variables = module.init(jax.random.key(0), x, labels, train=True)
  params = {'scale': data(3, 3, seed=1), 'bias': data(3, 3, seed=2)}
  y = module.apply({**variables, 'params': params}, x, labels, train=True)
  normal = (x - x.mean((0, 1, 2))[None, None, None]) / np.sqrt(
      x.var((0, 1, 2)) + 1e-5)[None, None, None]
  expected = (normal * params['scale'][labels][:, None, None]
              + params['bias'][labels][:, None, None])
  np.testing.assert_allclose(y, expected, atol=1e-5)
  # It starts as batch normalization without an affine part.
  plain = module.apply(variables, x, labels, train=True)
  np.testing.assert_allclose(plain, normal, atol=1e-5)


@pytest.mark.parametrize('shape', [(4, 5, 6, 3), (4, 7)])
def test_layer_norm(shape):
  x = data(*shape)
  params = {'scale': data(shape[-1], seed=1), 'bias': data(shape[-1], seed=2)}
  y = norm.LayerNorm().apply({'params': params}, x)
  plain = torch.nn.functional.layer_norm(torch.tensor(x), shape[1:]).numpy()
  affine = (1,) * (len(shape) - 1) + (shape[-1],)
  np.testing.assert_allclose(
      y, plain * params['scale'].reshape(affine)
      + params['bias'].reshape(affine), atol=1e-5)


def test_bfloat16_in_and_out_float32_inside():
  x = jnp.asarray(data(64, 4, 4, 3)) + 100.0
  variables = norm.BatchNorm().init(jax.random.key(0), x, train=True)
  assert variables['params']['scale'].dtype == jnp.float32
  x16 = x.astype(jnp.bfloat16)
  y, changed = norm.BatchNorm().apply(variables, x16, train=True,
                                      mutable=['batch_stats'])
  assert y.dtype == jnp.bfloat16
  assert changed['batch_stats']['mean'].dtype == jnp.float32
  # In bfloat16 a mean near 100 could not be told to better than 0.5.
  np.testing.assert_allclose(
      changed['batch_stats']['mean'],
      0.1 * np.asarray(x16, np.float32).mean((0, 1, 2)), rtol=1e-5)
