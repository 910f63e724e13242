"""ADA's controller: closed forms of p, and what it refuses."""

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
import pytest

from gans_jax.augment import controller
from gans_jax.core import errors
from gans_jax.data import spec as spec_lib


def make(batch_size=64, channels=3, **values):
  config = config_dict.ConfigDict({
      'batch_size': batch_size, 'augment': controller.default_config()})
  config.augment.update(values)
  spec = spec_lib.DataSpec(16, channels, 0, 100, ('image',))
  return controller.create(config, spec)


def play(c, statistics, first_step=0):
  """Runs the controller over dicts of statistics; returns p after each."""
  update = jax.jit(c.update)
  memory, path = c.init(), []
  for i, values in enumerate(statistics):
    values = {k: jnp.float32(v) for k, v in values.items()}
    memory = update(memory, values, jnp.int32(first_step + i))
    path.append(float(memory['p']))
  return memory, path


def signs(*values):
  return [{'signs/real': v} for v in values]


def test_p_moves_by_batch_times_interval_over_kimg():
  """+-64 * 4 / 500,000, at every fourth iteration, by the mean of the four."""
  step = 64 * 4 / 500_000
  c = make(kind='ada')
  # Means 0.75 (above 0.6), 0.55, 0.625.
  _, path = play(c, signs(1, 1, 0, 1, 0.2, 0.2, 0.9, 0.9, 0.7, 0.5, 0.7, 0.6))
  np.testing.assert_allclose(
      path, [0, 0, 0, step, step, step, step, 0, 0, 0, 0, step], atol=1e-9)


def test_an_equal_mean_leaves_p():
  """sign(0) = 0."""
  c = make(kind='ada', target=0.5, p=0.3)
  memory, path = play(c, signs(1, 0, 1, 0))
  np.testing.assert_allclose(path, 0.3, rtol=1e-6)
  assert float(memory['r']) == 0.5


def test_kimg_is_the_way_from_0_to_1():
  """10 kimg at batch 250: 10 adjustments of 4 steps. Then on beyond 1."""
  c = make(batch_size=250, kind='ada', kimg=10.0)
  _, path = play(c, signs(*[1] * 48))
  np.testing.assert_allclose(path[39], 1.0, rtol=1e-6)
  np.testing.assert_allclose(path[47], 1.2, rtol=1e-6)


def test_p_is_clamped_at_0_and_by_the_cap():
  c = make(batch_size=250, kind='ada', kimg=10.0, p=0.05)
  _, path = play(c, signs(*[-1] * 8))
  np.testing.assert_allclose(path[3:], 0.0, atol=0)
  c = make(batch_size=250, kind='ada', kimg=10.0, cap=0.85)
  _, path = play(c, signs(*[1] * 48))
  np.testing.assert_allclose(path[-1], 0.85, rtol=1e-6)


def test_it_goes_on_from_the_memory():
  """A run cut after 6 of 8 iterations ends where the whole run does."""
  values = signs(1, 1, 1, 1, 0.9, -0.4, 0.9, 0.9)
  c = make(kind='ada')
  whole, _ = play(c, values)
  memory, _ = play(c, values[:6])
  for i in (6, 7):
    memory = c.update(memory, {'signs/real': jnp.float32(
        values[i]['signs/real'])}, jnp.int32(i))
  jax.tree.map(np.testing.assert_array_equal, memory, whole)


def test_adarv_compares_with_validation_images():
  """r_v = (E real - E valid) / (E real - E fake); target 0.5."""
  step = 64 * 4 / 500_000
  c = make(kind='adarv', p=0.1)
  assert c.target == 0.5

  def rv(valid, real=3.0, fake=-1.0):
    return [{'logits/real': real, 'logits/fake': fake, 'logits/valid': valid}]

  memory, path = play(c, 4 * rv(0.0))
  np.testing.assert_allclose(memory['r'], 3 / 4)
  np.testing.assert_allclose(path[-1], 0.1 + step, rtol=1e-6)
  memory, path = play(c, 2 * rv(3.0) + 2 * rv(2.0))
  np.testing.assert_allclose(memory['r'], 0.5 / 4)
  np.testing.assert_allclose(path[-1], 0.1 - step, rtol=1e-6)
  # D prefers generated images: the division stays finite.
  memory, _ = play(c, 4 * rv(0.0, real=-1.0, fake=2.0))
  assert np.isfinite(memory['r']) and memory['r'] < 0


def test_fixed_and_none():
  x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
  keys = jax.random.split(jax.random.key(0), 2)
  none = make()
  assert none.init() == {} and none.update({}, {}, 0) == {}
  assert none.augment(keys, x, {}) is x and none.logs({}) == {}
  fixed = make(kind='fixed', p=1.0, pipeline='color')
  memory = fixed.init()
  assert fixed.update(memory, {}, 3) == memory
  assert fixed.logs(memory) == {'augment/p': 1.0}
  changed = np.abs(fixed.augment(keys, x, memory) - x).max((1, 2, 3))
  assert np.all(changed > 0.05)


def test_logs_show_p_and_the_heuristic():
  c = make(kind='ada', p=0.25)
  memory, _ = play(c, signs(0.5, 0.5, 0.25, 0.25))
  logs = c.logs(memory)
  assert set(logs) == {'augment/p', 'augment/r'}
  np.testing.assert_allclose(logs['augment/r'], 0.375)


@pytest.mark.parametrize('values, words', [
    ({'kind': 'adda'}, ['augment.kind', 'adda', "'ada'"]),
    ({'pipeline': 'bcg'}, ['augment.pipeline', 'bcg', 'bgc']),
    ({'kind': 'fixed'}, ['augment.p', 'fixed', '0.0']),
    ({'kind': 'fixed', 'p': 1.5}, ['augment.p', '1.5']),
    ({'p': -0.1}, ['augment.p', '-0.1']),
    ({'cap': float('nan')}, ['augment.cap', 'nan']),
    ({'target': 1.2}, ['augment.target', '1.2', '-1']),
    ({'kimg': 0.0}, ['augment.kimg', '0.0']),
    ({'every': 0}, ['augment.every', '0']),
    ({'kind': 'ada', 'channels': 4}, ['augment.pipeline', '4 channels', 'bg']),
])
def test_refuses(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)


def test_four_channels_take_geometry_alone():
  assert make(kind='ada', pipeline='bg', channels=4).pipeline.scale == 1
