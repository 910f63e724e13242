"""VQ-VAE: sizes, the loss by hand, the codebook's step, and any mesh."""

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
from gans_jax.nn import quantizer
from gans_jax.systems import vqvae

FAST = {'xla_backend_optimization_level': 0}
REVIVE = (('loss.revive_threshold', 1.0),)
TINY = {'model.hidden': 8, 'model.residual_hidden': 4,
        'model.residual_layers': 1, 'model.codes': 16, 'model.code_dim': 4}


def make(resolution=8, channels=3, values=None):
  spec = spec_lib.image_spec(resolution=resolution, channels=channels,
                             num_examples=100, facts={})
  config = config_lib.base('vqvae')
  config_lib.assign(config, {'total_steps': 10, 'batch_size': 8,
                             **(values or {})})
  return vqvae.create(config, spec)


def pictures(n=8, resolution=8, seed=0):
  draw = np.random.default_rng(seed)
  return draw.integers(0, 256, (1, n, resolution, resolution, 3), np.uint8)


@functools.cache
def initial(codebook='ema'):
  system = make(values={**TINY, 'loss.codebook': codebook})
  return system, jax.jit(system.init, compiler_options=FAST)(
      jax.random.key(0))


@functools.cache
def one_step(values=(), devices=1):
  """Returns (system, the state before, after, logs)."""
  system = make(values={**TINY, **dict(values)})
  _, state = initial()
  mesh = mesh_lib.make(devices=jax.devices()[:devices])
  with jax.set_mesh(mesh):
    shardings = mesh_lib.shardings(system_lib.abstract_state(system), mesh)
    placed = jax.device_put(jax.tree.map(jnp.copy, state), shardings)
    after, logs = jax.jit(system.train_step, compiler_options=FAST)(
        placed, mesh_lib.to_global({'image': pictures(16)}, mesh), {})
  return system, state, *jax.tree.map(np.asarray, (
      after.replace(key=jax.random.key_data(after.key)), logs))


# 695,491 and 662,723: counts of the authors' example, layer by layer.
@pytest.mark.parametrize('codebook, total', [('gradient', 695_491),
                                             ('ema', 662_723)])
def test_parameter_counts(codebook, total):
  system = make(32, values={'loss.codebook': codebook})
  params = system_lib.abstract_state(system).params
  assert state_lib.count(params['E']) == 364_160 + 8_256
  assert state_lib.count(params['G']) == 290_307
  assert state_lib.count(params['VQ']) == total - 662_723
  assert state_lib.count(params) == total


@pytest.mark.parametrize('values, grid', [
    ({'model.variant': 'paper', 'model.hidden': 256,
      'model.codes_per_position': 10}, (8, 8, 10)),
    ({'model.downsamples': 3}, (4, 4)),
    ({}, (8, 8))])
def test_shapes_of_tokens_and_images(values, grid):
  system = make(32, values=values)
  variables = state_lib.variables(system_lib.abstract_state(system))
  batch = {'image': jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.uint8)}
  tokens = jax.eval_shape(system.outputs['tokens'], variables, batch)
  assert tokens.shape == (3, *grid) and tokens.dtype == jnp.int32
  found = jax.eval_shape(system.outputs['decode'], variables,
                         {'tokens': tokens})
  assert found.shape == (3, 32, 32, 3)
  keys = jax.eval_shape(lambda: rng.from_seeds([0, 1, 2]))
  assert jax.eval_shape(system.latents, keys).shape == tokens.shape
  assert jax.eval_shape(system.generate, variables, keys) == found


def test_outputs_agree():
  system, state = initial()
  variables = state_lib.variables(state)
  batch = {'image': pictures()[0]}
  run = functools.partial(jax.jit, compiler_options=FAST)
  tokens = run(system.outputs['tokens'])(variables, batch)
  whole = run(system.outputs['reconstruct'])(variables, batch)
  decoded = run(system.outputs['decode'])(variables, {'tokens': tokens})
  np.testing.assert_allclose(decoded, whole, rtol=1e-5, atol=1e-5)
  given = run(system.generate)(variables, rng.from_seeds(np.arange(8)),
                               {'z': tokens})
  np.testing.assert_allclose(given, whole, rtol=1e-5, atol=1e-5)
  assert np.abs(whole).max() <= 1 and len(np.unique(tokens)) > 1


@pytest.mark.parametrize('codebook', ['gradient', 'ema'])
def test_loss_is_equation_3(codebook):
  system, state = initial(codebook)
  x = pictures()[0].astype(np.float32) / 255 - 0.5
  variables = state_lib.variables(state)
  z = np.asarray(system._encode(variables['E'], x), np.float64)
  codes = np.asarray(quantizer.codes(variables['VQ']), np.float64)
  k = np.sum((z[..., None, :] - codes)**2, -1).argmin(-1)
  q = codes[k]
  x_hat = np.asarray(system._generate(variables['G'], q.astype(np.float32)))
  recon = np.mean((x_hat - x)**2) / 0.0632704
  distance = np.mean((q - z)**2)
  (total, (_, logs)), grads = jax.jit(
      jax.value_and_grad(system.loss, has_aux=True), compiler_options=FAST)(
          state.params, state.mvars, {'image': x})
  terms = 1.25 if codebook == 'gradient' else 0.25
  np.testing.assert_allclose(logs['loss/recon'], recon, rtol=1e-5)
  np.testing.assert_allclose(logs['loss/commitment'], distance, rtol=1e-4)
  np.testing.assert_allclose(total, recon + terms * distance, rtol=1e-5)
  np.testing.assert_array_equal(logs['codebook/n'],
                                np.bincount(k.ravel(), minlength=16))
  # The encoder hears of the picture through the codes.
  assert np.abs(grads['E']['down_0']['kernel']).max() > 0
  if codebook == 'gradient':
    expected = np.zeros_like(codes)
    np.add.at(expected, k.ravel(), (2 * (q - z) / z.size).reshape(-1, 4))
    np.testing.assert_allclose(grads['VQ']['codes'], expected, rtol=1e-3,
                               atol=1e-7)
  else:
    assert not grads['VQ']


def test_step_moves_the_averaged_codebook():
  system, before, after, logs = one_step()
  x = pictures(16)[0].astype(np.float32) / 255 - 0.5
  entries = before.mvars['VQ']['codebook']
  z = system._encode({'params': before.params['E']}, x)
  k = quantizer.nearest(z, entries['codes'])
  n, m = quantizer.statistics(z, k, 16)
  expected = quantizer.ema_update(entries, n, m, 0.99, 1e-5)
  for name, value in expected.items():
    np.testing.assert_allclose(after.mvars['VQ']['codebook'][name], value,
                               rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(logs['codebook/perplexity'],
                             quantizer.perplexity(n), rtol=1e-5)
  assert 'codebook/n' not in logs and 0 < logs['codebook/usage'] <= 1
  assert int(after.step) == 1


def test_eight_devices_and_microbatches_change_nothing():
  one = one_step(REVIVE)
  other = one_step((*REVIVE, ('microbatches', 2)), devices=8)
  for name, value in one[3].items():
    np.testing.assert_allclose(other[3][name], value, rtol=1e-4, err_msg=name)
  for a, b in zip(jax.tree.leaves((other[2].opt, other[2].mvars)),
                  jax.tree.leaves((one[2].opt, one[2].mvars)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3,
                               atol=1e-5 * (np.abs(b).max() + 1e-3))


def test_revival_takes_encodings_of_the_batch():
  system, _, after, logs = one_step(REVIVE)
  count = np.asarray(after.mvars['VQ']['codebook']['count'])
  assert 0 < logs['codebook/revived'] < 16
  assert np.sum(count == 2.0) == logs['codebook/revived'] and count.min() >= 1
  x = pictures(16)[0].astype(np.float32) / 255 - 0.5
  z = np.asarray(system._encode({'params': after.params['E']}, x))
  for code in after.mvars['VQ']['codebook']['codes'][count == 2.0]:
    assert np.abs(z.reshape(-1, 4) - code).max(1).min() < 1e-5


@pytest.mark.slow
def test_a_few_pictures_are_learned():
  """Better than one colour for each picture, through four tokens each."""
  draw = np.random.default_rng(0)
  batch = np.zeros((1, 8, 8, 8, 3), np.uint8)
  batch += draw.integers(0, 256, (1, 8, 1, 1, 3), np.uint8)
  batch[:, :, 2:6, 2:6] = draw.integers(0, 256, (1, 8, 1, 1, 3), np.uint8)
  system, state = initial()
  system = make(values={**TINY, 'optimizer.AE.lr': 1e-2,
                        'loss.revive_threshold': 0.1})

  def train(state):
    return jax.lax.scan(
        lambda s, _: system.train_step(s, {'image': batch}, {}), state,
        length=250)

  _, logs = jax.jit(train, compiler_options={
      'xla_backend_optimization_level': 1})(state)
  x = batch / 255
  blind = np.mean((x - x.mean((2, 3), keepdims=True))**2) / 0.0632704
  recon = np.asarray(logs['loss/recon'])
  assert recon[-1] < 0.75 * blind < recon[0], (recon[::50], blind)


@pytest.mark.parametrize('resolution, values, told', [
    (8, {'model.variant': 'sonet'}, "'sonnet'"),
    (8, {'loss.codebook': 'average'}, 'loss.codebook'),
    (10, {}, 'multiple of 4'),
    (8, {'model.downsamples': 3}, 'twice it at least'),
    (8, {'model.codes': 0}, 'model.codes'),
    (8, {'loss.ema_decay': 1.0}, 'ema_decay'),
    (8, {'loss.codebook': 'gradient', 'loss.revive_threshold': 1.0},
     'loss.codebook=ema'),
    (8, {'loss.data_variance': 0.0}, 'data_variance'),
])
def test_bad_values_are_refused(resolution, values, told):
  with pytest.raises(errors.UserError, match=told):
    make(resolution, values=values)
