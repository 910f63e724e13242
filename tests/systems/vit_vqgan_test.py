"""ViT-VQGAN: sizes, patches, codes on the sphere, logit-Laplace, its step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import states

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import vit_vqgan

FAST = {'xla_backend_optimization_level': 0}
TINY = {'model.encoder': '', 'model.decoder': '', 'model.layers': 2,
        'model.heads': 2, 'model.width': 16, 'model.patch': 4,
        'model.codebook_size': 16, 'model.code_dim': 4,
        'model.channel_base': 64, 'loss.perceptual': 'none',
        'optimizer.AE.warmup': 0, 'optimizer.D.warmup': 0,
        'optimizer.AE.lr': 3e-3, 'optimizer.AE.lr_schedule': 'constant'}


def make(resolution=16, **values):
  config = config_lib.base('vit_vqgan')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': 8, **values})
  return vit_vqgan.create(
      config, spec_lib.DataSpec(resolution, 3, 0, 100, ('image',)))


def batch_of(batch=8):
  return {'image': np.random.default_rng(0).integers(
      0, 256, (1, batch, 16, 16, 3), np.uint8)}


def initial(system):
  return states.initial(system, states.normal(0.05, codes=0.5))


@pytest.mark.parametrize('size', vit_vqgan.SIZES)
def test_parameter_counts(size):
  """Closed form of table 1's sizes; and StyleGAN2's D, 28,864,129."""
  system = make(256, **{'model.encoder': size, 'loss.perceptual': 'none'})
  params = jax.eval_shape(system.init, jax.random.key(0)).params
  layers, _, d = vit_vqgan.SIZES[size]
  block = 12 * d**2 + 13 * d
  outside = (192 * d + d) + 1024 * d + 2 * d + (8 * d**2 + 5 * d)
  assert state_lib.count(params['AE']['encoder']) == layers * block + outside
  assert state_lib.count(params['AE']['quantize']) == 8192 * 32
  assert state_lib.count(params['D']) == 28_864_129


def test_patches():
  x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  found = vit_vqgan.patches(jnp.asarray(x), 2)
  assert found.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(
      found[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
  np.testing.assert_array_equal(vit_vqgan.from_patches(found, 2), x)


def test_logit_laplace_is_a_density():
  """Over x' in (0, 1) it integrates to 1, whatever mu and b are."""
  squeezed = jnp.asarray((np.arange(200_000) + 0.5) / 200_000, jnp.float32)
  x = (squeezed - 0.1) / 0.4 - 1.0
  for mu, ln_b in ((0.3, -0.5), (-1.0, 0.2)):
    nll = jax.vmap(lambda x, mu=mu, ln_b=ln_b: vit_vqgan.logit_laplace(
        x[None], jnp.full(1, mu), jnp.full(1, ln_b)))(x)
    np.testing.assert_allclose(np.mean(np.exp(-np.asarray(nll, np.float64))),
                               1.0, rtol=2e-3)


def test_the_estimate_is_the_median():
  """logit-Laplace is least where sigmoid(mu) is x', the image x."""
  x = jnp.array([-0.7, 0.0, 0.9])
  squeezed = 0.4 * (x + 1) + 0.1
  mu = jnp.log(squeezed / (1 - squeezed))
  np.testing.assert_allclose(vit_vqgan.to_image(mu), x, atol=1e-5)
  gap = [vit_vqgan.logit_laplace(x, mu + d, jnp.zeros(3)) for d in (0, .1, -.1)]
  assert gap[0] < gap[1] and gap[0] < gap[2]


def test_codes_are_chosen_by_cosine():
  system = make(**TINY)
  params = initial(system).params['AE']
  x = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3))
  net = system.nets['AE']

  def run(params, x):
    q, indices, loss = net.apply({'params': params}, x, method='encode')
    z = net.apply({'params': params}, x, method=lambda net, x: net.to_code(
        net.encoder(vit_vqgan.patches(x, 4).reshape(2, 16, -1))))
    return q, indices, loss, z

  q, indices, loss, z = jax.jit(run, compiler_options=FAST)(
      params, jnp.asarray(x, jnp.float32))
  z = np.asarray(z, np.float64)
  z /= np.linalg.norm(z, axis=-1, keepdims=True)
  codes = np.asarray(params['quantize']['codes'], np.float64)
  codes /= np.linalg.norm(codes, axis=-1, keepdims=True)
  expected = np.argmax(z @ codes.T, -1)
  np.testing.assert_array_equal(indices.reshape(2, 16), expected)
  np.testing.assert_allclose(q.reshape(2, 16, 4), codes[expected], atol=1e-5)
  np.testing.assert_allclose(
      loss, 1.25 * np.mean((z - codes[expected])**2), rtol=1e-4)


@pytest.mark.slow
def test_trains():
  system = make(**TINY)
  first = state = initial(system)
  step = jax.jit(lambda s, b: system.train_step(s, b, {}),
                 compiler_options=FAST)
  losses = []
  for _ in range(6):
    state, logs = step(state, batch_of())
    chex.assert_tree_all_finite(logs)
    losses.append(float(logs['loss/l2']))
  assert losses[-1] < losses[0]
  assert float(logs['loss/d']) > 0 and 'penalty/r1' in logs
  for net in ('AE', 'D'):
    moved = [not np.array_equal(a, b) for a, b in zip(
        jax.tree.leaves(first.params[net]), jax.tree.leaves(state.params[net]),
        strict=True)]
    assert np.mean(moved) > 0.8


@pytest.mark.slow
def test_eight_devices_are_one():
  system = make(**{**TINY, 'batch_size': 32})
  state = initial(system)

  def train_step(state, batch):
    return system.train_step(state, batch, {})

  batch = batch_of(32)
  _, alone = jax.jit(train_step, compiler_options=FAST)(state, batch)
  mesh = mesh_lib.make(8, 1)
  with jax.set_mesh(mesh):
    _, split = jax.jit(train_step, compiler_options=FAST)(
        state, mesh_lib.to_global(batch, mesh))
  for name in alone:
    np.testing.assert_allclose(split[name], alone[name], rtol=1e-3, atol=1e-6,
                               err_msg=name)


def test_outputs():
  system = make(**TINY)
  variables = {'AE': {'params': initial(system).params['AE']}}
  image = batch_of(2)['image'][0]

  def run(variables):
    tokens = system.outputs['tokens'](variables, {'image': image})
    return (tokens, system.outputs['decode'](variables, {'tokens': tokens}),
            system.outputs['reconstruct'](variables, {'image': image}))

  tokens, decoded, found = jax.jit(run, compiler_options=FAST)(variables)
  assert tokens.shape == (2, 4, 4) and decoded.shape == (2, 16, 16, 3)
  np.testing.assert_allclose(decoded, found, atol=1e-5)


@pytest.mark.parametrize('values, words', [
    ({'model.encoder': 'huge'}, 'model.encoder'),
    ({'model.width': 15}, 'heads divide'), ({'model.patch': 3}, 'patch'),
    ({'resolution': 20}, 'powers of two'), ({'model.code_dim': 0}, 'code_dim')])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError, match=words):
    make(**{**TINY, **values})
