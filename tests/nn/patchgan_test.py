"""The discriminator of patches: sizes, fields, and the official one."""

import jax
import jax.numpy as jnp
import numpy as np
import official_vqgan
import pytest
import torch

from gans_jax.convert import taming as convert
from gans_jax.core import state as state_lib
from gans_jax.nn import patchgan

FAST = {'xla_backend_optimization_level': 0}


@pytest.mark.parametrize('n_layers, channels, norm, count', [
    (3, 3, 'batch', 2_765_633), (3, 6, 'batch', 2_768_705),
    (3, 3, 'instance', 2_764_737), (3, 6, 'instance', 2_767_809),
    (1, 3, 'instance', 136_385), (1, 6, 'batch', 139_585),
    (5, 3, 'instance', 11_154_369), (5, 6, 'batch', 11_159_361),
    (0, 3, 'instance', 8_705), (0, 3, 'batch', 8_832), (0, 6, 'batch', 9_024),
    (2, 3, 'batch', 663_361), (3, 1, 'batch', 2_763_585),
])
def test_parameter_counts(n_layers, channels, norm, count):
  net = patchgan.Discriminator(n_layers=n_layers, norm=norm)
  x = jax.ShapeDtypeStruct((1, 256, 256, channels), jnp.float32)
  y, variables = jax.eval_shape(
      lambda key, x: net.init_with_output(key, x, train=True),
      jax.random.key(0), x)
  assert state_lib.count(variables['params']) == count
  size = {0: 256, 1: 126, 2: 62, 3: 30, 5: 6}[n_layers]
  assert y.shape == (1, size, size, 1) and y.dtype == jnp.float32


@pytest.mark.parametrize('n_layers, field', [(0, 1), (1, 16), (2, 34), (3, 70)])
def test_receptive_field(n_layers, field):
  """Pixels with a gradient of the middle logit, without normalization."""
  assert patchgan.receptive_field(n_layers) == field
  net = patchgan.Discriminator(2, n_layers, norm='none')
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 96, 96, 1)),
                  jnp.float32)

  def middle(x):
    logits = net.init_with_output(jax.random.key(0), x, train=True)[0]
    return logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]

  gradient = jax.jit(jax.grad(middle), compiler_options=FAST)(x)[0, ..., 0]
  seen = np.argwhere(np.asarray(gradient) != 0)
  np.testing.assert_array_equal(seen.max(0) - seen.min(0) + 1, field)


def test_fields_of_the_largest():
  assert [patchgan.receptive_field(n) for n in (4, 5)] == [142, 286]


@pytest.mark.parametrize('n_layers', [2, 3])
def test_is_the_official_one(n_layers):
  """Logits, statistics that moved, logits by them; from seeded weights."""
  model = official_vqgan.patchgan(n_layers=n_layers)
  variables = convert.discriminator({
      f'loss.discriminator.{key}': value
      for key, value in official_vqgan.arrays(model).items()})
  net = patchgan.Discriminator(8, n_layers)
  x = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)

  def run(variables, x):
    train, moved = net.apply(variables, x, train=True,
                             mutable=['batch_stats'])
    return train, net.apply({**variables, **moved}, x, train=False)

  ours = jax.jit(run, compiler_options=FAST)(variables, x)
  with torch.no_grad():
    theirs = [official_vqgan.to_numpy(model.train(training)(
        official_vqgan.to_torch(x))) for training in (True, False)]
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_initializers():
  net = patchgan.Discriminator(32)
  params = jax.jit(lambda key: net.init(key, jnp.zeros((1, 32, 32, 3)),
                                        train=True),
                   compiler_options=FAST)(jax.random.key(0))['params']
  for name in ('conv_1', 'conv_3'):
    np.testing.assert_allclose(params[name]['kernel'].std(), 0.02, rtol=0.05)
    assert 'bias' not in params[name]
  np.testing.assert_allclose(params['norm_3']['scale'].mean(), 1, atol=0.01)
  np.testing.assert_allclose(params['norm_3']['scale'].std(), 0.02, rtol=0.2)
  for name in ('conv_0', 'conv_out'):
    np.testing.assert_array_equal(params[name]['bias'], 0)


def test_instance_norm_is_torchs():
  x = np.random.default_rng(0).normal(2, 3, (2, 5, 6, 4)).astype(np.float32)
  expected = torch.nn.InstanceNorm2d(4)(official_vqgan.to_torch(x))
  np.testing.assert_allclose(patchgan.instance_norm(jnp.asarray(x)),
                             official_vqgan.to_numpy(expected), rtol=1e-4,
                             atol=1e-5)
