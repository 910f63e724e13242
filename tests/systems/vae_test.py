"""VAE: the bound against closed forms, the nets, and any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import vae

FAST = {'xla_backend_optimization_level': 0}
TINY = (('model.z_dim', 3), ('model.hidden', 16))


def make(resolution=8, channels=1, values=()):
  spec = spec_lib.image_spec(resolution=resolution, channels=channels,
                             num_examples=100, facts={})
  config = config_lib.base('vae')
  config_lib.assign(config, {'total_steps': 10, 'batch_size': 16,
                             **dict(values)})
  return vae.create(config, spec)


def pictures(n=16, resolution=8, channels=1, seed=0):
  draw = np.random.default_rng(seed)
  return draw.integers(0, 256, (1, n, resolution, resolution, channels),
                       np.uint8)


@functools.cache
def one_step(values=TINY, devices=1, resolution=8, n=16):
  """Returns (system, state before, after, logs)."""
  system = make(resolution, values=values)
  mesh = mesh_lib.make(devices=jax.devices()[:devices])
  shardings = mesh_lib.shardings(system_lib.abstract_state(system), mesh)
  with jax.set_mesh(mesh):
    state = jax.jit(system.init, out_shardings=shardings,
                    compiler_options=FAST)(jax.random.key(0))
    after, logs = jax.jit(system.train_step, compiler_options=FAST)(
        state, mesh_lib.to_global(
            {'image': pictures(n, resolution)}, mesh), {})
  return system, state, after, jax.tree.map(np.asarray, logs)


def test_divergence():
  mu, logvar = jnp.array([[0.5, -1.0]]), jnp.array([[0.2, -0.3]])
  np.testing.assert_allclose(vae.divergence(mu, logvar), [0.6561105],
                             rtol=1e-6)
  assert vae.divergence(jnp.zeros((2, 5)), jnp.zeros((2, 5))).tolist() == [0, 0]
  # Against the integral: E_q [log q - log p] over 10^6 draws.
  draw = np.random.default_rng(0)
  std = np.exp(np.array([0.1, -0.15]))
  z = np.array([0.5, -1.0]) + std * draw.normal(size=(1_000_000, 2))
  q = scipy.stats.norm.logpdf(z, [0.5, -1.0], std) - scipy.stats.norm.logpdf(z)
  np.testing.assert_allclose(q.sum(1).mean(), 0.6561105, atol=5e-3)


@pytest.mark.parametrize('decoder', vae.DECODERS)
def test_log_likelihood(decoder):
  draw = np.random.default_rng(0)
  y = draw.normal(size=(5, 3, 4, 2 if decoder == 'gaussian_learned' else 1))
  if decoder == 'bernoulli':
    x = draw.integers(0, 2, (5, 3, 4, 1))
    expected = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-y)))
  else:
    x = draw.uniform(-1, 1, (5, 3, 4, 1))
    std = np.exp(y[..., 1:] / 2) if decoder == 'gaussian_learned' else 0.3
    expected = scipy.stats.norm.logpdf(x, np.tanh(y[..., :1]), std)
  found = vae.log_likelihood(decoder, jnp.asarray(y, jnp.float32),
                             jnp.asarray(x, jnp.float32), 0.3)
  np.testing.assert_allclose(found, expected.sum((1, 2, 3)), rtol=1e-5)


def torch_conv(channels, outputs, dim=256, z=128):
  """ritheshkumar95/pytorch-vqvae's VAE at 28 pixels, layer by layer."""
  nn = torch.nn
  encoder = nn.Sequential(
      nn.Conv2d(channels, dim, 4, 2, 1), nn.BatchNorm2d(dim),
      nn.Conv2d(dim, dim, 4, 2, 1), nn.BatchNorm2d(dim),
      nn.Conv2d(dim, dim, 5, 1, 0), nn.BatchNorm2d(dim),
      nn.Conv2d(dim, 2 * z, 3, 1, 0), nn.BatchNorm2d(2 * z))
  decoder = nn.Sequential(
      nn.ConvTranspose2d(z, dim, 3, 1, 0), nn.BatchNorm2d(dim),
      nn.ConvTranspose2d(dim, dim, 5, 1, 0), nn.BatchNorm2d(dim),
      nn.ConvTranspose2d(dim, dim, 4, 2, 1), nn.BatchNorm2d(dim),
      nn.ConvTranspose2d(dim, outputs, 4, 2, 1))
  encoder.eval(), decoder.eval()
  with torch.no_grad():
    h = encoder(torch.zeros(1, channels, 28, 28))
    assert decoder(h[:, :z]).shape == (1, outputs, 28, 28)
  return [sum(p.numel() for p in net.parameters())
          for net in (encoder, decoder)]


def test_parameter_counts():
  params = system_lib.abstract_state(make(28)).params
  assert state_lib.count(params['E']) == 784 * 500 + 500 + 500 * 40 + 40
  assert state_lib.count(params['G']) == 20 * 500 + 500 + 500 * 784 + 784
  system = make(28, 1, {'model.variant': 'conv', 'model.hidden': 256,
                        'model.z_dim': 128,
                        'loss.decoder': 'gaussian_learned'}.items())
  params = system_lib.abstract_state(system).params
  assert [state_lib.count(params[net]) for net in 'EG'] == torch_conv(1, 2)


@pytest.mark.parametrize('resolution, found', [
    (28, [28, 14, 7, 3, 1]), (32, [32, 16, 8, 4, 1]), (8, [8, 4, 1]),
    (64, [64, 32, 16, 8, 4, 1])])
def test_sides(resolution, found):
  assert vae.sides(resolution) == found
  system = make(resolution, 3, {'model.variant': 'conv',
                                'model.hidden': 8}.items())
  variables = state_lib.variables(system_lib.abstract_state(system))
  keys = jax.eval_shape(lambda: rng.from_seeds([0, 1]))
  out = jax.eval_shape(system.generate, variables, keys)
  assert out.shape == (2, resolution, resolution, 3)


def test_step_is_the_bound_by_hand():
  """With the noise of step 0, in float64."""
  system, before, after, logs = one_step()
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), before.params)
  x = pictures()[0].reshape(16, -1) / 255

  def dense(net, name, h):
    return h @ p[net][name]['kernel'] + p[net][name]['bias']

  mu, logvar = np.split(dense('E', 'moments', np.tanh(
      dense('E', 'hidden', x))), 2, axis=1)
  eps = jax.random.normal(rng.named(before.key, 0, 'eps'), (16, 3))
  y = dense('G', 'pixels', np.tanh(
      dense('G', 'hidden', mu + np.exp(logvar / 2) * np.asarray(eps))))
  recon = np.sum(x * np.log1p(np.exp(-y)) + (1 - x) * np.log1p(np.exp(y)), 1)
  kl = 0.5 * np.sum(mu**2 + np.exp(logvar) - 1 - logvar, 1)
  np.testing.assert_allclose(logs['loss/recon'], recon.mean(), rtol=1e-5)
  np.testing.assert_allclose(logs['loss/kl'], kl.mean(), rtol=1e-2, atol=1e-6)
  np.testing.assert_allclose(logs['elbo'], -(recon + kl).mean(), rtol=1e-5)
  np.testing.assert_allclose(
      logs['bits_per_dim'], (recon + kl).mean() / 64 / np.log(2), rtol=1e-5)
  assert int(after.step) == 1


def test_outputs_and_samples():
  system, before, _, _ = one_step()
  variables = state_lib.variables(before)
  keys = rng.from_seeds(np.arange(4))
  generate = jax.jit(system.generate, compiler_options=FAST)
  whole = np.asarray(generate(variables, keys))
  np.testing.assert_allclose(generate(variables, keys[2:3])[0], whole[2],
                             rtol=1e-5, atol=1e-6)
  assert whole.shape == (4, 8, 8, 1) and np.abs(whole).max() <= 1
  batch = {'image': pictures()[0][:4]}
  mu = system.outputs['encode'](variables, batch)
  np.testing.assert_allclose(
      system.outputs['reconstruct'](variables, batch),
      generate(variables, keys, {'z': mu}), rtol=1e-5, atol=1e-6)
  # The bound by its output agrees with the training loss, to the noise.
  elbo = system.outputs['elbo'](variables, {'image': pictures()[0]},
                                rng.from_seeds(np.arange(16)))
  np.testing.assert_allclose(np.mean(elbo), one_step()[3]['elbo'], rtol=1e-2)


@pytest.mark.slow
def test_eight_devices_and_microbatches_change_nothing():
  values = (*TINY, ('loss.decoder', 'gaussian_learned'),
            ('loss.dequantize', True))
  one = one_step(values)
  other = one_step((*values, ('microbatches', 2)), 8)
  for name, value in one[3].items():
    np.testing.assert_allclose(other[3][name], value, rtol=1e-4, err_msg=name)
  for a, b in zip(jax.tree.leaves(other[2].opt), jax.tree.leaves(one[2].opt),
                  strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())


def test_conv_variant_trains():
  values = (*TINY, ('model.variant', 'conv'), ('loss.decoder', 'gaussian'))
  _, before, after, logs = one_step(values)
  assert np.isfinite(list(logs.values())).all()
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after.params,
                       before.params)
  assert min(jax.tree.leaves(moved)) > 0


def test_bound_beats_independent_pixels():
  """After 400 steps on stripes; no model without latents can reach that."""
  draw = np.random.default_rng(0)
  rows = draw.integers(0, 2, (64, 8, 1, 1))
  columns = draw.integers(0, 2, (64, 1, 1, 1)) * np.ones((1, 1, 8, 1), int)
  batch = {'image': (255 * (rows ^ columns)).astype(np.uint8)[None]}
  mean = (batch['image'][0] / 255).mean(0)
  independent = np.sum(scipy.stats.bernoulli.entropy(mean))
  system = make(values={'model.z_dim': 8, 'model.hidden': 32,
                        'optimizer.AE.lr': 1e-2, 'batch_size': 64}.items())

  @functools.partial(jax.jit, compiler_options={
      'xla_backend_optimization_level': 1})
  def train(key):
    return jax.lax.scan(lambda s, _: system.train_step(s, batch, {}),
                        system.init(key), length=400)

  state, logs = train(jax.random.key(0))
  elbo = np.mean(system.outputs['elbo'](
      state_lib.variables(state), {'image': batch['image'][0]},
      rng.from_seeds(np.arange(64))))
  # 8 bits would say it all: 5.5 nats.
  assert -independent / 2 < elbo < -5.5, (elbo, independent)
  assert logs['elbo'][0] < -independent / 2


@pytest.mark.parametrize('resolution, values, told', [
    (8, {'model.variant': 'cnn'}, "'conv'"),
    (8, {'loss.decoder': 'normal'}, 'loss.decoder'),
    (8, {'loss.binarize': 'round'}, 'loss.binarize'),
    (8, {'loss.decoder': 'gaussian', 'loss.binarize': 'sample'},
     'binarize=none'),
    (8, {'loss.dequantize': True}, 'dequantize=false'),
    (8, {'model.z_dim': 0}, 'model.z_dim'),
    (8, {'loss.beta': -1.0}, 'loss.beta'),
    (10, {'model.variant': 'conv'}, 'data.resolution is 10'),
])
def test_bad_values_are_refused(resolution, values, told):
  with pytest.raises(errors.UserError, match=told):
    make(resolution, values=values.items())
