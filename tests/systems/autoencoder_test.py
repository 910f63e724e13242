"""The autoencoder: sizes, its loss, its codes, and any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import autoencoder

FAST = {'xla_backend_optimization_level': 0}
TINY = (('model.hidden', 8), ('model.residual_hidden', 4),
        ('model.residual_layers', 1), ('model.code_dim', 4))


def make(resolution=8, values=()):
  spec = spec_lib.image_spec(resolution=resolution, channels=3,
                             num_examples=100, facts={})
  config = config_lib.base('autoencoder')
  config_lib.assign(config, {'total_steps': 10, 'batch_size': 8,
                             **dict(values)})
  return autoencoder.create(config, spec)


def pictures():
  return np.random.default_rng(0).integers(0, 256, (1, 8, 8, 8, 3), np.uint8)


@functools.cache
def one_step(values=TINY, devices=1):
  system = make(values=values)
  mesh = mesh_lib.make(devices=jax.devices()[:devices])
  shardings = mesh_lib.shardings(system_lib.abstract_state(system), mesh)
  with jax.set_mesh(mesh):
    state = jax.jit(system.init, out_shardings=shardings,
                    compiler_options=FAST)(jax.random.key(0))
    after, logs = jax.jit(system.train_step, compiler_options=FAST)(
        state, mesh_lib.to_global({'image': pictures()}, mesh), {})
  return system, state, after, jax.tree.map(np.asarray, logs)


def test_parameter_counts():
  """The VQ-VAE's, without its codebook (systems/vqvae_test.py)."""
  params = system_lib.abstract_state(make(32)).params
  assert state_lib.count(params) == 662_723
  dense = system_lib.abstract_state(
      make(32, (('model.dense', 30),))).params
  assert state_lib.count(dense) - 662_723 == 2 * 4096 * 30 + 30 + 4096


def test_loss_and_moments():
  system, before, after, logs = one_step()
  x = pictures()[0] / 127.5 - 1
  code = system.nets['E'].apply(state_lib.variables(before)['E'],
                                jnp.asarray(x, jnp.float32))
  x_hat = system.nets['G'].apply(state_lib.variables(before)['G'], code)
  np.testing.assert_allclose(logs['loss/ae'], np.mean((x_hat - x)**2),
                             rtol=1e-5)
  assert code.shape == (8, 2, 2, 4)
  moments = after.mvars['E']['moments']
  np.testing.assert_allclose(moments['mean'], 0.01 * code.mean(0), rtol=1e-3,
                             atol=1e-6)
  np.testing.assert_allclose(moments['var'], 0.99 + 0.01 * code.var(0),
                             rtol=1e-4)


def test_samples_have_the_moments_of_codes():
  system, before, _, _ = one_step()
  variables = state_lib.variables(before)
  keys = rng.from_seeds([3, 4])
  z = system.latents(keys)
  shifted = {'mean': jnp.full((2, 2, 4), 0.5), 'var': jnp.full((2, 2, 4), 4.0)}
  variables = {**variables, 'E': {**variables['E'], 'moments': shifted}}
  expected = jnp.clip(
      system.nets['G'].apply(variables['G'], 0.5 + 2 * z), -1, 1)
  np.testing.assert_allclose(system.generate(variables, keys), expected,
                             rtol=1e-5, atol=1e-6)
  batch = {'image': pictures()[0]}
  code = system.outputs['encode'](variables, batch)
  np.testing.assert_allclose(
      system.outputs['reconstruct'](variables, batch),
      jnp.clip(system.nets['G'].apply(variables['G'], code), -1, 1),
      rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_eight_devices_change_nothing():
  one = one_step()
  eight = one_step(TINY, 8)
  for name, value in one[3].items():
    np.testing.assert_allclose(eight[3][name], value, rtol=1e-4)
  for a, b in zip(jax.tree.leaves((eight[2].opt, eight[2].mvars)),
                  jax.tree.leaves((one[2].opt, one[2].mvars)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3,
                               atol=1e-5 * (np.abs(b).max() + 1e-3))


@pytest.mark.parametrize('resolution, values, told', [
    (8, {'model.variant': 'vae'}, 'model.variant'),
    (8, {'loss.power': 3}, 'loss.power'),
    (8, {'model.dense': -1}, 'model.dense'),
    (8, {'model.code_dim': 0}, 'model.code_dim'),
    (6, {}, 'multiple of 4'),
])
def test_bad_values_are_refused(resolution, values, told):
  with pytest.raises(errors.UserError, match=told):
    make(resolution, values.items())
