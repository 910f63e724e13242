"""BigGAN: counts, latents, conditioning, regularization, monitors, a step."""

import dataclasses

import class_conditional
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import standing_statistics
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.losses import orthogonal
from gans_jax.nn import spectral_norm
from gans_jax.systems import biggan

SMALL = {'model.ch_G': 2, 'model.ch_D': 2, 'model.shared_dim': 5,
         'model.z_dim': 6, 'loss.n_critic': 1}
DEEP = {'model.variant': 'deep'}
TABLES = {'model.shared': False, 'model.hierarchical': False}
DEEP_128 = {**DEEP, 'model.ch_G': 128, 'model.ch_D': 128, 'model.z_dim': 128}
# compare_gan's D has no 1x1 where channels stay.
COMPARE_GAN = {'model.always_shortcut': False}


def make(classes=3, **values):
  return class_conditional.make('biggan', 8, classes, **{**SMALL, **values})


# --- Counts ------------------------------------------------------------------


@pytest.mark.parametrize('resolution, classes, values, g, d', [
    (32, 10, {**TABLES, 'model.ch_G': 64, 'model.ch_D': 64,
              'model.z_dim': 128}, 4_304_387, 4_207_361),
    (64, 1000, {'model.attention_G': '64', 'model.attention_D': 'none'},
     70_239_108, 45_500_449),
    (64, 1000, {'model.z_dim': 100}, 70_222_212, 45_511_970),
    (128, 1000, {}, 70_433_988, 87_982_370),
    (256, 1000, {'model.z_dim': 140}, 82_097_604, 99_225_890),
    (256, 1000, {'model.z_dim': 140, 'model.attention_G': '64',
                 **COMPARE_GAN}, 82_235_844, 98_635_298),
    (512, 1000, {'model.z_dim': 128}, 82_296_804, None),
    (512, 1000, {'model.z_dim': 160, **COMPARE_GAN}, 82_468_068, 98_801_378),
    (64, 1000, DEEP_128, 49_829_636, 20_951_554),
    (128, 1000, DEEP_128, 50_244_484, 34_590_210),
    (256, 1000, DEEP_128, 55_736_708, 38_247_426),
    # The published modules' last layer has 128 outputs, of which 3 are used.
    (128, 1000, {**DEEP_128, 'model.rgb_channels': 128}, 50_388_609, None),
    (256, 1000, {**DEEP_128, 'model.rgb_channels': 128}, 55_880_833, None),
    (512, 1000, {**DEEP_128, 'model.rgb_channels': 128}, 56_163_905, None),
])
def test_parameter_counts(resolution, classes, values, g, d):
  found = class_conditional.counts('biggan', resolution, classes, **values)
  assert found[0] == g
  assert d is None or found[1] == d


@pytest.mark.parametrize('row, millions', [
    ('batch2048', 81.5), ('ch96', 173.5), ('shared', 160.6),
    ('skip_z', 158.4), ('ch64', 71.4)])
def test_rows_of_table_1(row, millions):
  """G and D together; 158.3 is printed for 158.4."""
  values = {k: v for k, v in biggan.TABLE_1[row].items()
            if k.startswith('model.')}
  found = class_conditional.counts('biggan', 128, 1000, **values)
  assert round(sum(found) / 1e6, 1) == millions


# --- Latents -----------------------------------------------------------------


@pytest.mark.parametrize('threshold', [2.0, 1.0, 0.5, 0.04])
def test_truncation_is_drawing_again(threshold):
  z = jax.random.normal(jax.random.key(0), (400, 50))
  found = np.asarray(biggan.truncate(z, threshold)).reshape(-1)
  assert np.abs(found).max() <= threshold * (1 + 1e-6)
  law = stats.truncnorm(-threshold, threshold)
  assert stats.kstest(found, law.cdf).pvalue > 1e-3
  # As of every other truncation: these samples are no other law's.
  assert stats.kstest(found, stats.truncnorm(
      -1.2 * threshold, 1.2 * threshold).cdf).pvalue < 1e-3
  np.testing.assert_allclose(biggan.truncate(-z, threshold).reshape(-1),
                             -found, atol=1e-6)
  scaled = biggan.truncate(z, threshold, 'scale').reshape(-1) / threshold
  assert stats.kstest(np.asarray(scaled),
                      stats.truncnorm(-2, 2).cdf).pvalue > 1e-3


def test_a_wide_truncation_changes_nothing():
  z = jax.random.normal(jax.random.key(0), (100, 6))
  np.testing.assert_allclose(biggan.truncate(z, 8.0), z, atol=1e-3)


def state_with_moved_statistics(system):
  """A state whose tables, gammas and statistics are no defaults."""
  state = class_conditional.initial(system)
  generator = np.random.default_rng(0)

  def one(path, x):
    name = mesh_lib.path_name(path)
    if name.endswith(('mean', 'gamma')):
      return jnp.asarray(0.3 * generator.normal(size=x.shape), jnp.float32)
    return x

  return state.replace(
      params=jax.tree_util.tree_map_with_path(one, state.params),
      mvars=jax.tree_util.tree_map_with_path(one, state.mvars))


@pytest.fixture(scope='module')
def sampled():
  """(system, variables, compiled generate)."""
  system = make()
  variables = state_lib.variables(state_with_moved_statistics(system))
  return system, variables, jax.jit(
      system.generate, compiler_options=class_conditional.FAST,
      static_argnames=('truncation', 'truncation_form'))


def test_each_chunk_is_for_its_layer(sampled):
  """Of six numbers three are the first layer's, three the block's."""
  system, variables, _ = sampled
  params = variables['G']['params']
  assert params['dense']['kernel'].shape == (3, 16 * 8)
  # e(y) and the chunk.
  assert params['up_8']['bn1']['gain']['kernel'].shape == (5 + 3, 8)
  deep = system_lib.abstract_state(make(**DEEP)).params['G']
  assert deep['dense']['kernel'].shape == (5 + 6, 16 * 8)
  assert deep['up_8_b']['bn4']['gain']['kernel'].shape == (5 + 6, 2)
  flat = system_lib.abstract_state(
      make(**{'model.hierarchical': False})).params['G']
  assert flat['dense']['kernel'].shape == (6, 16 * 8)
  assert flat['up_8']['bn1']['gain']['kernel'].shape == (5, 8)
  tables = system_lib.abstract_state(make(**TABLES)).params['G']
  assert 'shared' not in tables
  assert tables['up_8']['bn1']['gain']['embedding'].shape == (3, 8)


def test_samples(sampled):
  system, variables, generate = sampled
  keys = rng.from_seeds(np.arange(4))
  conditions = {'label': np.array([0, 1, 2, 0])}
  images = generate(variables, keys, conditions)
  assert images.shape == (4, 8, 8, 3) and images.dtype == jnp.float32
  np.testing.assert_allclose(
      generate(variables, keys[2:3], {'label': np.array([2])}), images[2:3],
      atol=1e-5)
  # A vector in place of the class's own.
  vectors = system.embed(variables, conditions['label'])
  np.testing.assert_allclose(generate(variables, keys, {'label': vectors}),
                             images, atol=1e-5)
  # Truncation is that of the latents, given or drawn.
  z = biggan.truncate(system.latents(keys), 0.5)
  expected = generate(variables, keys, {**conditions, 'z': z})
  np.testing.assert_allclose(
      generate(variables, keys, conditions, truncation=0.5), expected,
      atol=1e-5)
  assert np.abs(expected - images).max() > 1e-3


def test_standing_statistics_belong_to_a_truncation(sampled):
  system, variables, _ = sampled
  found = [standing_statistics.accumulate(
      system, variables, mesh_lib.make(1, devices=jax.devices()[:1]),
      passes=1, batch_size=8, labels=np.arange(3), **options)
           for options in ({}, {'truncation': 0.1})]
  means = [np.asarray(v['G']['batch_stats']['up_8']['bn2']['norm']['var'])
           for v in found]
  assert np.abs(means[0] - means[1]).max() > 1e-3


def test_conditional_norm():
  """(1 + g(c)) x^ + b(c), in float64."""
  def layer(features, name):
    return spectral_norm.Dense(features, use_bias=False, name=name)

  module = biggan.ConditionalNorm(layer, 1e-4)
  draw = np.random.default_rng(0)
  x = draw.normal(size=(4, 2, 2, 3)).astype(np.float32)
  c = draw.normal(size=(4, 5)).astype(np.float32)
  variables = module.init(jax.random.key(0), x, c, True)
  y, _ = module.apply(variables, x, c, True, mutable=['batch_stats'])
  gain, bias = (c.astype(np.float64) @ np.asarray(
      variables['params'][name]['kernel'], np.float64)
                for name in ('gain', 'bias'))
  hat = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-4)
  expected = hat * (1 + gain)[:, None, None] + bias[:, None, None]
  np.testing.assert_allclose(y, expected, atol=1e-4)


def test_initialization_is_orthogonal():
  params = class_conditional.initial(make()).params
  for net, path in (('G', ('up_8', 'conv1')), ('D', ('block_1', 'conv2')),
                    ('G', ('up_8', 'bn1', 'gain'))):
    layer = params[net]
    for name in path:
      layer = layer[name]
    kernel = np.asarray(layer['kernel'])
    w = kernel.reshape(-1, kernel.shape[-1])
    np.testing.assert_allclose(w.T @ w, np.eye(w.shape[1]), atol=1e-5)


# --- The step ----------------------------------------------------------------


@pytest.fixture(scope='module')
def stepped():
  """(system, state before, state after, logs) of one step on one device."""
  system = make(**{'loss.ortho_G': 0.1, 'ema.start': 0, 'ema.decay': 0.5,
                   'model.singular_values': 2, 'loss.monitor_r1': True})
  program = class_conditional.program(system, 1, 8)
  return (system, program.state, *program.run())


def test_what_foretells_collapse(stepped):
  system, before, after, logs = stepped
  for net in ('G', 'D'):
    weights = spectral_norm.spectrum(after.params[net],
                                     after.mvars[net]['spectral'])
    assert len(weights) > 5
    for path in weights:
      tree = after.params[net]
      for name in path.split('/'):
        tree = tree[name]
      true = np.linalg.svd(np.asarray(spectral_norm.as_matrix(tree)))[1]
      np.testing.assert_allclose(logs[f'sigma/{net}/{path}'], true[0],
                                 rtol=0.05)
      if len(true) > 1:
        assert logs[f'sigma1/{net}/{path}'] <= true[0] * (1 + 1e-4)
  assert not any('shared' in name for name in logs)
  for name in ('grad_norm/G', 'grad_norm/D', 'logits/real', 'logits/fake',
               'accuracy/real', 'accuracy/fake'):
    assert np.isfinite(logs[name])

  batch = class_conditional.batch_of(system)
  x = batch['image'][0].astype(np.float32) / 127.5 - 1
  variables = state_lib.variables(after)['D']
  grad = class_conditional.compiled(jax.grad(lambda x: jnp.sum(
      system.nets['D'].apply(variables, x, batch['label'][0])[0])))(x)
  np.testing.assert_allclose(
      logs['r1/real'], np.square(grad).sum((1, 2, 3)).mean(), rtol=1e-3)
  np.testing.assert_allclose(
      logs['penalty/ortho_G'],
      0.1 * orthogonal.total(after.params['G'], biggan.is_shared), rtol=1e-4)


def test_average_has_vectors_of_its_own(stepped):
  """Unit vectors, and sigma of the averaged weights."""
  _, _, after, _ = stepped
  average = after.ema['G']
  for path, values in spectral_norm.spectrum(
      average['params'], average['spectral']).items():
    tree, vectors = average['params'], average['spectral']
    for name in path.split('/'):
      tree, vectors = tree[name], vectors[name]
    true = np.linalg.svd(np.asarray(spectral_norm.as_matrix(tree)))[1][0]
    np.testing.assert_allclose(values[0], true, rtol=0.05)
    np.testing.assert_allclose(np.linalg.norm(vectors['u'][0]), 1, atol=1e-4)


def test_regularization_of_all_but_the_shared_embedding():
  """Zero gradients: what is left is the closed form, in front of Adam."""
  system = make(**{'loss.ortho_G': 0.1, 'optimizer.G.name': 'sgd',
                   'optimizer.G.lr': 1.0})
  state = class_conditional.initial(system)
  params = {'G': jax.tree.map(lambda x: x + 0.1, state.params['G'])}
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = system.tx['G'].update(zeros, system.tx['G'].init(params),
                                     params)
  kernel = params['G']['up_8']['bn1']['gain']['kernel']
  np.testing.assert_allclose(updates['G']['up_8']['bn1']['gain']['kernel'],
                             -0.1 * orthogonal.gradient(kernel), atol=1e-6)
  assert np.abs(updates['G']['shared']['embedding']).max() == 0
  assert np.abs(updates['G']['dense']['bias']).max() == 0


@pytest.mark.slow
@pytest.mark.parametrize('values', [{}, DEEP])
def test_eight_devices_train_as_one(values):
  system = make(batch=16, **values)
  programs = {n: class_conditional.program(system, n, 16) for n in (1, 8)}
  (one, logs), (eight, logs_8) = (programs[n].run() for n in (1, 8))
  for name, value in logs.items():
    np.testing.assert_allclose(logs_8[name], value, rtol=1e-4, atol=1e-5,
                               err_msg=name)
  class_conditional.assert_close(eight.opt, one.opt, 1e-3)
  # Batch statistics, the conditional ones among them, are global.
  class_conditional.assert_close(eight.mvars, one.mvars, 1e-4)
  assert list(hlo.collectives(programs[8].compiled)) == ['all-reduce']


@pytest.mark.slow
def test_microbatches_without_batch_norm():
  """The regularization and the vectors once an update, not once a piece."""
  values = {'loss.ortho_G': 0.1}
  found = {}
  for pieces, devices in ((1, 1), (4, 8)):
    system = make(batch=64, microbatches=pieces, **values)
    game = dataclasses.replace(
        system.game, nets=class_conditional.without_batch_norm(
            system.game).nets)
    found[pieces] = class_conditional.program(
        biggan.System(game), devices, 64).run()
  for field in ('opt', 'mvars'):
    class_conditional.assert_close(getattr(found[4][0], field),
                                   getattr(found[1][0], field), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('values', [{}, DEEP])
def test_remat_changes_nothing(values):
  found = [class_conditional.program(
      make(**{'model.remat': remat, **values}), 1, 8).run()[0]
           for remat in (False, True)]
  class_conditional.assert_close(found[1].opt, found[0].opt, 1e-4)
  class_conditional.assert_close(found[1].mvars, found[0].mvars, 1e-4)


# --- Refusals ----------------------------------------------------------------


@pytest.mark.parametrize('values, words', [
    ({'model.z_dim': 7}, ['model.z_dim', '2 chunks', '6']),
    ({'model.variant': 'deeper'}, ['model.variant', 'deep']),
    ({**DEEP, **TABLES}, ['model.shared', 'deep']),
    ({'model.shared': False}, ['model.hierarchical', 'model.shared']),
    ({'model.attention_G': '8', 'model.ch_G': 1}, ['channels', 'attention']),
    ({'model.attention_D': '5'}, ['model.attention_D', "'auto'"]),
    ({'model.init': 'xavier'}, ['model.init', 'glorot']),
    ({'loss.ortho_form': 'half'}, ['loss.ortho_form', 'paper']),
    ({'loss.ortho_G': -1.0}, ['loss.ortho_G', '0 or more']),
    ({'model.conditioning': 'none'}, ['labels', 'sagan']),
    ({'model.rgb_channels': 2}, ['rgb_channels', '3 channels']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)


def test_bad_data_and_options_are_refused(sampled):
  with pytest.raises(errors.UserError, match='data.labels'):
    make(classes=0)
  with pytest.raises(errors.UserError, match='data.resolution is 48'):
    biggan.plan(48, 'biggan', 64, 64)
  system, variables, _ = sampled
  for options in ({'truncation': -1.0},
                  {'truncation': 1.0, 'truncation_form': 'shrink'}):
    with pytest.raises(errors.UserError, match='truncation'):
      system.generate(variables, rng.from_seeds([1]), **options)
