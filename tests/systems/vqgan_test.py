"""VQGAN: sizes, the official losses and lambda, its step, what it makes."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import official_vqgan
import pytest
import states
import torch

from gans_jax.convert import taming as convert
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import vqgan

FAST = {'xla_backend_optimization_level': 0}
TINY = {
    'model.ch': 8, 'model.ch_mult': (1, 2), 'model.num_res_blocks': 1,
    'model.attn_resolutions': (8,), 'model.z_channels': 8,
    'model.embed_dim': 8, 'model.codebook_size': 16, 'model.ndf': 4,
    'model.n_layers': 2, 'loss.perceptual': 'none', 'loss.disc_start': 0}
GUMBEL = {'model.quantizer': 'gumbel', 'loss.temperature_end': 0.5,
          'loss.temperature_steps': 10}
STYLEGAN = {'model.D': 'stylegan2', 'model.channel_base': 64, 'loss.r1': 1.0,
            'loss.r1_every': 2}
LABELS = {'model.key': 'label_map', 'model.num_labels': 5}


def make(resolution=16, channels=3, **values):
  config = config_lib.base('vqgan')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': 8, **values})
  keys, extra = ('image',), ()
  if config.model.key == 'label_map':
    keys = ('image', 'label_map')
    extra = (('label_map', (resolution, resolution), 'int32'),)
  spec = spec_lib.DataSpec(resolution, channels, 0, 100, keys, extra)
  return vqgan.create(config, spec)


def batch_of(system, batch=8, seed=0):
  draw = np.random.default_rng(seed)
  size = system.image_shape[0]
  if system.requires == ('label_map',):
    return {'label_map': draw.integers(0, 5, (1, batch, size, size), np.int32)}
  return {'image': draw.integers(0, 256, (1, batch, *system.image_shape),
                                 np.uint8)}


def initial(system):
  def fill(name, shape, draw):
    if name in ('scale', 'var'):
      return np.ones(shape)
    if name in ('kernel', 'codes'):
      std = np.sqrt(1 / np.prod(shape[:-1])) if name == 'kernel' else 0.5
      return draw.normal(0, std, shape)
    return np.zeros(shape)

  return states.initial(system, fill)


@functools.cache
def compiled(**values):
  """(system, state of step 0, jitted step)."""
  system = make(**{**TINY, **values})
  return system, initial(system), jax.jit(
      lambda state, batch: system.train_step(state, batch, {}),
      compiler_options=FAST)


# --- Networks ---------------------------------------------------------------


F8 = {'model.attn_resolutions': (32,), 'model.ch_mult': (1, 2, 2, 4)}


@pytest.mark.parametrize('values, count', [
    ({}, 72_141_699),
    ({'model.codebook_size': 4096}, 72_928_131),
    ({'model.codebook_size': 8192}, 73_976_707),
    ({'model.codebook_size': 16384}, 76_073_859),
    ({'model.quantizer': 'gumbel', 'model.codebook_size': 8192,
      'model.ch_mult': (1, 1, 2, 4), 'model.attn_resolutions': (32,)},
     68_995_971),
    ({**F8, 'model.codebook_size': 16384, 'model.z_channels': 4,
      'model.embed_dim': 4}, 67_717_295),
    ({'model.ch_mult': (1, 2, 4), 'model.attn_resolutions': (),
      'model.codebook_size': 8192, 'model.z_channels': 3,
      'model.embed_dim': 3}, 55_322_782),
    ({'model.key': 'label_map', 'model.num_labels': 183}, 72_556_599),
    ({'model.key': 'label_map', 'model.num_labels': 182}, 72_554_294),
])
def test_parameter_counts(values, count):
  params = jax.eval_shape(make(256, **{'loss.perceptual': 'none', **values})
                          .init, jax.random.key(0)).params
  assert state_lib.count(params['AE']) == count
  if 'model.key' in values:
    assert params.keys() == {'AE'}
  else:
    assert state_lib.count(params['D']) == 2_765_633


def test_depth_maps_have_one_channel():
  params = jax.eval_shape(make(256, 1, **{'loss.perceptual': 'none'}).init,
                          jax.random.key(0)).params
  assert state_lib.count(params['AE']) == 72_137_089
  assert state_lib.count(params['D']) == 2_763_585


# --- Against the official code ----------------------------------------------


OFFICIAL = {
    'model.ch': 32, 'model.ch_mult': (1, 2, 2), 'model.num_res_blocks': 1,
    'model.attn_resolutions': (4,), 'model.z_channels': 8,
    'model.embed_dim': official_vqgan.EMBED_DIM,
    'model.codebook_size': official_vqgan.CODES, 'model.ndf': 8}


@functools.cache
def against_official(legacy=True):
  """(ours, theirs) on seeded weights: one step's losses and gradients."""
  model = official_vqgan.vqgan()
  disc = official_vqgan.patchgan()
  system = make(**{**TINY, **OFFICIAL, 'loss.legacy_beta': legacy})
  d_variables = convert.discriminator({
      f'loss.discriminator.{key}': value
      for key, value in official_vqgan.arrays(disc).items()})
  ae = convert.autoencoder(official_vqgan.arrays(model))
  batch = batch_of(system, 4)
  x = batch['image'][0] / np.float32(127.5) - 1

  def run(ae, d):
    state = types.SimpleNamespace(
        step=jnp.zeros([], jnp.int32), params={'D': d['params']})
    mvars = {'AE': {}, 'D': {'batch_stats': d['batch_stats']}}
    inputs = {'x': jnp.asarray(x)}
    (_, (changed, logs)), gradients = jax.value_and_grad(
        functools.partial(system.ae_loss, state, {}), has_aux=True)(
            {'AE': ae['params']}, mvars, inputs)
    variables = {'AE': ae}
    return dict(
        logs=logs, gradients=gradients['AE'],
        statistics=changed['D']['batch_stats'],
        tokens=system.outputs['tokens'](variables,
                                        {'image': batch['image'][0]}),
        reconstruction=system.nets['AE'].apply(ae, x)[0])

  ours = jax.jit(run, compiler_options=FAST)(ae, d_variables)

  tx = official_vqgan.to_torch(x)
  x_hat, vq, indices = model(tx)
  nll = torch.abs(tx - x_hat).mean()
  g = -torch.mean(disc(x_hat))
  losses = official_vqgan.module('losses.vqperceptual')
  weight = losses.VQLPIPSWithDiscriminator.calculate_adaptive_weight(
      types.SimpleNamespace(discriminator_weight=0.8), nll, g,
      last_layer=model.decoder.conv_out.weight)
  (nll + weight * g + vq).backward()
  gradients = convert.autoencoder({
      name: value.grad.numpy() for name, value in model.named_parameters()})
  theirs = dict(nll=nll, g=g, vq=vq, weight=weight, indices=indices,
                reconstruction=official_vqgan.to_numpy(x_hat),
                gradients=gradients['params'],
                statistics=convert.discriminator({
                    f'loss.discriminator.{key}': value for key, value in
                    official_vqgan.arrays(disc).items()})['batch_stats'])
  return ours, theirs


def test_tokens_and_reconstruction_are_the_official_ones():
  ours, theirs = against_official()
  indices = theirs['indices'].numpy().reshape(4, 4, 4)
  assert len(np.unique(indices)) > 4
  np.testing.assert_array_equal(ours['tokens'], indices)
  np.testing.assert_allclose(ours['reconstruction'], theirs['reconstruction'],
                             rtol=1e-4, atol=3e-5)


def test_losses_and_lambda_are_the_official_ones():
  ours, theirs = against_official()
  for name, key in (('loss/nll', 'nll'), ('loss/g', 'g'), ('loss/vq', 'vq'),
                    ('lambda', 'weight')):
    np.testing.assert_allclose(ours['logs'][name], theirs[key].detach(),
                               rtol=2e-4, err_msg=name)
  nll, vq, weight, g = (float(theirs[key].detach())
                        for key in ('nll', 'vq', 'weight', 'g'))
  total = nll + vq + weight * g
  np.testing.assert_allclose(ours['logs']['loss/ae'], total, rtol=1e-4)


def test_gradients_of_the_whole_step_are_the_official_ones():
  """Of every weight: legacy beta, straight-through, lambda held constant."""
  ours, theirs = against_official()

  def close(path, a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * max(
        np.abs(b).max(), 1e-3), err_msg=str(path))

  jax.tree_util.tree_map_with_path(close, ours['gradients'],
                                   theirs['gradients'])
  jax.tree_util.tree_map_with_path(close, ours['statistics'],
                                   theirs['statistics'])


def test_discriminator_losses():
  """The fixtures of the sheet, and the official functions."""
  losses = official_vqgan.module('losses.vqperceptual')
  real, fake = np.array([2.0, 0.5]), np.array([-2.0, 0.5])
  for name, value, official in (('hinge', 0.5, losses.hinge_d_loss),
                                ('vanilla', 0.4255025, losses.vanilla_d_loss)):
    ours = vqgan.d_objective(name, jnp.asarray(real), jnp.asarray(fake))
    np.testing.assert_allclose(ours, value, rtol=1e-6)
    np.testing.assert_allclose(
        ours, official(torch.from_numpy(real), torch.from_numpy(fake)),
        rtol=1e-6)


def test_adaptive_weight_by_hand():
  """x^ = h w for one pixel with padding: d L / d w = h v at the middle tap."""
  h = jnp.full((1, 1, 1, 1), 2.0)
  v, v_g = jnp.full((1, 1, 1, 1), 3.0), jnp.full((1, 1, 1, 1), 0.5)
  kernel = jnp.ones((3, 3, 1, 1))
  found = vqgan.adaptive_weight(h, kernel, v, v_g, 0.8)
  np.testing.assert_allclose(
      found, [0.8 * 6.0 / (1.0 + 1e-4), 6.0, 1.0], rtol=1e-6)
  largest = vqgan.adaptive_weight(h, kernel, v, 0.0 * v_g, 0.8)[0]
  np.testing.assert_allclose(largest, 0.8 * 1e4, rtol=1e-6)


@pytest.mark.parametrize('legacy', [True, False])
def test_gradients_of_the_quantizer(legacy):
  """The sheet's fixture: codes (0, 0), (1, 1) and z = (.9, .8)."""
  net = vqgan.Autoencoder(
      ch=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), resolution=1,
      z_channels=2, channels=1, codebook_size=2, embed_dim=2, legacy=legacy)

  def quantize(z, codes):
    from gans_jax.nn import quantizer
    q = quantizer.embed(codes, quantizer.nearest(z, codes))
    return quantizer.vq_loss(z, q, net.beta, net.legacy)

  z, codes = jnp.array([[0.9, 0.8]]), jnp.array([[0.0, 0.0], [1.0, 1.0]])
  value, (dz, de) = jax.value_and_grad(quantize, (0, 1))(z, codes)
  np.testing.assert_allclose(value, 0.03125, rtol=1e-5)
  moved, still = (4, 1) if legacy else (1, 4)
  np.testing.assert_allclose(dz[0], moved * np.array([-.025, -.05]), rtol=1e-5)
  np.testing.assert_allclose(de[1], still * np.array([.025, .05]), rtol=1e-5)
  np.testing.assert_array_equal(de[0], 0)


# --- The step ---------------------------------------------------------------


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


# D trains from step 1 on, and counts from step 2 on.
LATE = {'loss.disc_start': 2, 'loss.disc_lead': 1}


@pytest.mark.slow
def test_trains_and_the_discriminator_starts_when_it_should():
  system, state, step = compiled(**LATE)
  seen, logs = [state], []
  for _ in range(3):
    state, found = step(state, batch_of(system))
    chex.assert_tree_all_finite(found)
    seen.append(state)
    logs.append(found)
  assert int(state.step) == 3
  assert_same(seen[1].params['D'], seen[0].params['D'])
  assert_same(seen[1].mvars['D'], seen[0].mvars['D'])
  for i, trains, counts in ((0, False, False), (1, True, False),
                            (2, True, True)):
    assert (float(logs[i]['loss/d']) > 0) == trains
    assert (float(logs[i]['lambda']) > 0) == counts
    assert (float(logs[i]['grad_norm/D']) > 0) == trains
  assert float(logs[2]['loss/nll']) < float(logs[0]['loss/nll'])
  assert 1 <= float(logs[2]['codebook/perplexity']) <= 16
  assert 0 < float(logs[2]['codebook/usage']) <= 1
  assert_moved(seen[0], state)


def assert_moved(first, state):
  """Nearly every array: some codes, or biases before a norm, may stay."""
  for net in state.params:
    moved = [not np.array_equal(a, b) for a, b in zip(
        jax.tree.leaves(first.params[net]), jax.tree.leaves(state.params[net]),
        strict=True)]
    assert np.mean(moved) > 0.8


def test_ramp():
  system = make(**{**TINY, 'loss.disc_start': 10, 'loss.disc_ramp': 4})
  found = [float(system.g_factor(jnp.asarray(step)))
           for step in (0, 10, 11, 12, 14, 99)]
  assert found == [0, 0, 0.25, 0.5, 1, 1]
  system = make(**{**TINY, 'loss.disc_start': 10})
  assert [float(system.g_factor(jnp.asarray(s))) for s in (9, 10)] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize('values', [
    GUMBEL, {}, LABELS, {'loss.adversarial': 'none'},
    {'loss.adversarial': 'vanilla', 'loss.adaptive': False}, STYLEGAN,
    {'model.nets': 'maskgit', 'loss.entropy_weight': 0.1}],
    ids=['gumbel', 'vq', 'labels', 'no_gan', 'vanilla', 'stylegan2',
         'maskgit'])
def test_trains(values):
  system, state, step = compiled(**values)
  first, losses = state, []
  for _ in range(3):
    state, logs = step(state, batch_of(system))
    chex.assert_tree_all_finite(logs)
    losses.append(float(logs['loss/nll']))
  assert_moved(first, state)
  assert ('loss/d' in logs) == ('D' in system.nets)
  if 'D' not in system.nets:
    assert losses[2] < losses[0]
  if values == GUMBEL:
    np.testing.assert_allclose(
        logs['temperature'], 0.75 + 0.25 * np.cos(np.pi * 0.2), rtol=1e-5)


def test_perceptual_distance_is_named_and_counts():
  system = make(**{**TINY, 'loss.perceptual': 'lite0', 'model.groups': 2})
  assert system.notes == ('perceptual loss: lite0',)
  x, y = (jnp.full((1, 4, 4, 3), value) for value in (0.0, 0.5))
  fixed = types.SimpleNamespace(
      name='lite0', distance=lambda weights, x, target: weights + x[:, 0, 0, 0])
  system = vqgan.dataclasses.replace(system, perceptual=fixed)
  value, logs = system.nll({'perceptual': 3.0}, y, x)
  np.testing.assert_allclose(value, 0.5 + 3.5)
  np.testing.assert_allclose(logs['loss/lite0'], 3.5)


@pytest.mark.slow
@pytest.mark.parametrize('values', [LATE, GUMBEL], ids=['vq', 'gumbel'])
def test_eight_devices_are_one(values):
  """Loss and gradient norms; batch norm and codes of the global batch."""
  system, state, step = compiled(**values)
  state = state.replace(step=jnp.asarray(5, jnp.int32))
  batch = batch_of(system)
  _, alone = step(state, batch)
  mesh = mesh_lib.make(8, 1)
  with jax.set_mesh(mesh):
    _, split = jax.jit(
        lambda state, batch: system.train_step(state, batch, {}),
        compiler_options=FAST)(state, mesh_lib.to_global(batch, mesh))
  assert alone.keys() == split.keys()
  for name in alone:
    np.testing.assert_allclose(split[name], alone[name], rtol=2e-4, atol=1e-6,
                               err_msg=name)


# --- What it makes ----------------------------------------------------------


def test_outputs():
  system, state, _ = compiled(**LATE)
  variables = state_lib.variables(state)
  image = batch_of(system, 3)['image'][0]

  keys = jax.random.split(jax.random.key(0), 3)

  def run(variables, image):
    tokens = system.outputs['tokens'](variables, {'image': image})
    return (tokens, system.outputs['decode'](variables, {'tokens': tokens}),
            system.outputs['reconstruct'](variables, {'image': image}),
            system.generate(variables, keys, {'z': tokens}))

  tokens, decoded, reconstructed, generated = jax.jit(
      run, compiler_options=FAST)(variables, image)
  assert tokens.shape == (3, 8, 8) == (3, *system.token_shape)
  assert tokens.dtype == jnp.int32 and tokens.max() < system.codebook_size
  np.testing.assert_allclose(decoded, reconstructed, atol=1e-5)
  assert decoded.shape == (3, 16, 16, 3) and np.abs(decoded).max() <= 1
  np.testing.assert_array_equal(generated, decoded)
  z = system.latents(keys)
  assert z.shape == (3, 8, 8) and 0 <= z.min() and z.max() < 16
  np.testing.assert_array_equal(z[1:], system.latents(keys[1:]))


def test_label_maps_are_shown_in_colours():
  system = make(**{**TINY, **LABELS})
  assert system.outputs.keys() == {'tokens', 'decode'}
  colours = np.asarray(vqgan.label_colours(jnp.arange(200)))
  assert len(np.unique(colours.round(6), axis=0)) == 200
  assert colours.min() >= -1 and colours.max() <= 1
  # Sure of the right class everywhere: no loss.
  x = system.prepare(batch_of(system)['label_map'][0])
  value = vqgan.label_map_loss(40.0 * x - 20.0, x)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(vqgan.label_map_loss(0 * x, x), np.log(2),
                             rtol=1e-5)


@pytest.mark.parametrize('channels, groups, said', [
    (8, 32, True), (32, 32, True), (64, 32, False), (8, 2, False)])
@pytest.mark.parametrize('nets', ['taming', 'maskgit'])
def test_groups_of_one_channel_are_spoken_of(channels, groups, said, nets):
  system = make(**{**TINY, 'model.nets': nets, 'model.ch': channels,
                   'model.groups': groups})
  assert any('loses colours' in note for note in system.notes) == said


@pytest.mark.parametrize('values, limit', [
    ({}, 1 / 64), ({'model.nets': 'maskgit'}, (3 / 64)**0.5),
    ({'model.codes_limit': 0.5}, 0.5),
    ({'model.nets': 'maskgit', 'model.codes_limit': 0.5}, 0.5)])
def test_where_codes_start(values, limit):
  """Uniform within the authors' limit, or that of the config."""
  system = make(**{**TINY, 'model.codebook_size': 64, **values})
  state = jax.jit(system.init)(jax.random.key(0))
  codes = np.abs(state.params['AE']['quantize']['codes'])
  assert 0.9 * limit < codes.max() <= limit
  np.testing.assert_allclose(codes.mean(), limit / 2, rtol=0.15)


@pytest.mark.parametrize('values, words', [
    ({'model.ch_mult': (1, 1, 1, 1, 1, 1)}, 'no multiple'),
    ({'model.ch_mult': ()}, 'ch_mult'),
    ({'model.quantizer': 'vqq'}, "Did you mean 'vq'"),
    ({'loss.adversarial': 'wasserstein'}, 'loss.adversarial'),
    ({'loss.perceptual': 'vgg'}, 'loss.perceptual'),
    ({'loss.disc_start': -1}, 'disc_start'),
    ({'model.n_layers': 4}, '64 pixels'),
    ({'model.D': 'stylegan2', 'resolution': 12}, 'powers of two'),
    ({'model.nets': 'maskgit', 'model.quantizer': 'gumbel'}, "'maskgit'"),
    ({'model.num_labels': 4}, 'num_labels'),
    ({'model.key': 'label_map'}, 'num_labels'),
    ({'model.quantizer': 'gumbel', 'model.embed_dim': 4}, 'embed_dim'),
    ({'model.codebook_size': 0}, 'codebook_size'),
    ({'model.codes_limit': -0.1}, 'codes_limit'),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError, match=words):
    make(**{**TINY, **values})
