"""Standing statistics against float64, on any mesh; who has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_layers

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import label_distribution
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import standing_statistics
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import cgan
from gans_jax.systems import gan
from gans_jax.systems import wgan

PSI = 0.5
LABELS = np.array([0, 2, 2, 2, 1])


def mesh_of(devices):
  return mesh_lib.make(devices=jax.devices()[:devices])


def test_against_float64():
  """Plain averages over passes, each normalized by its own batch."""
  system, variables = two_layers.make()
  assert set(variables['G']) == {'params', 'batch_stats'}
  variables['G']['batch_stats']['other'] = np.ones(3)
  before = jax.tree.map(np.copy, variables)
  found = standing_statistics.accumulate(
      system, variables, mesh_of(1), passes=3, batch_size=6, seed=5,
      labels=LABELS, truncation=PSI)

  key = rng.named(jax.random.key(5), 0, 'standing_statistics')
  keys = rng.per_example(key, 0, 18)
  labels = label_distribution.draw(keys, LABELS)
  z = PSI * np.asarray(system.latents(keys), np.float64)
  passes = [two_layers.by_hand(variables, z[i:i + 6], labels[i:i + 6])[1]
            for i in (0, 6, 12)]
  for layer, (mean, var) in enumerate(two_layers.recorded(found)):
    np.testing.assert_allclose(
        mean, np.mean([p[layer][0] for p in passes], 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        var, np.mean([p[layer][1] for p in passes], 0), rtol=1e-5)
  # All else is as it was.
  jax.tree.map(np.testing.assert_array_equal, variables, before)
  assert jax.tree.structure(found) == jax.tree.structure(variables)
  np.testing.assert_array_equal(found['G']['batch_stats']['other'], 1)
  assert found['G']['params'] is variables['G']['params']

  # And images come from them.
  images = jax.jit(system.generate, static_argnames='truncation')(
      found, keys, {'label': labels}, truncation=PSI)
  expected, _ = two_layers.by_hand(variables, z, labels,
                                   two_layers.recorded(found))
  np.testing.assert_allclose(images, expected, atol=1e-5)


def test_seed_and_passes_matter():
  system, variables = two_layers.make()

  def means(**options):
    found = standing_statistics.accumulate(
        system, variables, mesh_of(1), labels=LABELS,
        **{'passes': 2, 'batch_size': 4, **options})
    return two_layers.recorded(found)[0][0]

  np.testing.assert_array_equal(means(), means())
  assert np.abs(means() - means(seed=1)).max() > 1e-3
  assert np.abs(means() - means(passes=1)).max() > 1e-3


@pytest.fixture(scope='module')
def conditional():
  """A conditional DCGAN, its variables and six labels."""
  spec = spec_lib.image_spec(resolution=16, channels=3, num_examples=100,
                             num_classes=3, facts={})
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'model.variant': 'conv', 'model.z_dim': 5, 'model.ch': 4,
      'model.fc': 8, 'total_steps': 1, 'batch_size': 16})
  return start(cgan.create(config, spec))


def start(system):
  """Returns the system and its first variables."""
  init = jax.jit(lambda key: state_lib.variables(system.init(key)),
                 compiler_options={'xla_backend_optimization_level': 0})
  return system, init(jax.random.key(0))


@pytest.mark.parametrize('batch_size', [16, 6])
def test_the_devices_do_not_matter(conditional, batch_size):
  """Batches of 16 are split over eight devices, those of 6 cannot be."""
  system, variables = conditional
  means = {}
  for devices in (1, 8):
    found = standing_statistics.accumulate(
        system, variables, mesh_of(devices), passes=2, batch_size=batch_size,
        labels=np.arange(3))
    means[devices] = jax.tree.map(np.asarray, found['G']['batch_stats'])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-6), means[8], means[1])
  jax.tree.map(lambda a, b: np.testing.assert_array_less(
      1e-3, np.abs(a - b).max()), means[1], variables['G']['batch_stats'])
  # D has batch normalization too; it does not sample.
  assert found['D'] is variables['D'] and 'batch_stats' in found['D']


def make(module, values):
  spec = spec_lib.image_spec(resolution=16, channels=3, num_examples=100,
                             num_classes=0, facts={})
  config = config_lib.base(module.__name__.rpartition('.')[2])
  config_lib.assign(config, {'total_steps': 1, **values})
  return start(module.create(config, spec))


@pytest.mark.parametrize('module,values', [
    # No such member; the member, but other nets (D has batch normalization).
    (gan, {'model.g_hidden': 4, 'model.d_units': 4}),
    (wgan, {'model.G': 'mlp', 'model.ngf': 4, 'model.ndf': 4})], ids=str)
def test_generators_without_it(module, values):
  system, variables = make(module, values)
  standing_statistics.check(system, variables, 'running')
  for text in ('batch', 'standing:2'):
    with pytest.raises(errors.UserError, match='has no batch normalization'):
      standing_statistics.check(system, variables, text)
  with pytest.raises(errors.UserError, match='no batch normalization'):
    standing_statistics.accumulate(system, variables, mesh_of(1))


def test_no_batch_normalization_but_other_statistics():
  """What else nets keep in 'batch_stats' is not mistaken for it."""
  system, variables = make(wgan, {'model.G': 'mlp', 'model.ngf': 4,
                                  'model.D': 'mlp', 'model.ndf': 4})
  variables['G'] = {**variables['G'], 'batch_stats': {'u': jnp.ones(2)}}
  with pytest.raises(errors.UserError, match='no batch normalization'):
    standing_statistics.accumulate(system, variables, mesh_of(1))


@pytest.mark.parametrize('text,expected', [
    ('running', ('running', 0)), ('batch', ('batch', 0)),
    ('standing', ('standing', 16)), ('standing:3', ('standing', 3))])
def test_parse(text, expected):
  assert standing_statistics.parse(text) == expected


def test_what_is_recorded():
  """All that a result depends on, and nothing else."""
  for text, expected in (
      ('running', 'running statistics'),
      ('batch', 'statistics of batches of 64'),
      ('standing', 'standing statistics of 16 batches of 8')):
    assert standing_statistics.describe(text, 64, 8) == expected


@pytest.mark.parametrize('text', ['', 'ema', 'standing:', 'standing:0',
                                  'standing:-1', 'standing:2.5', 'batch:8',
                                  'running:', 'Standing'])
def test_bad_values(text):
  with pytest.raises(errors.UserError, match='batch_norm is .*expected'):
    standing_statistics.parse(text)


@pytest.mark.parametrize('bad', [{'passes': 0}, {'batch_size': 0}])
def test_nothing_to_average(bad):
  system, variables = two_layers.make()
  with pytest.raises(errors.UserError, match='at least 1'):
    standing_statistics.accumulate(system, variables, mesh_of(1),
                                   labels=LABELS, **bad)
