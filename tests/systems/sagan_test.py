"""SAGAN: counts, where attention is, what is normalized; one step."""

import class_conditional
import jax
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.systems import sagan

SMALL = {'model.ch_G': 8, 'model.ch_D': 8, 'model.z_dim': 6,
         'model.attention': '8'}


def make(resolution=16, classes=3, **values):
  return class_conditional.make('sagan', resolution, classes,
                                **{**SMALL, **values})


@pytest.mark.parametrize('attention, g, d', [
    ('32', 42_078_852, 39_463_618), ('64', 42_017_412, 39_448_258),
    # SNGAN's G, and D with wide blocks.
    ('none', 41_996_931, 39_448_258 - 5 * 64**2 // 4 - 1)])
def test_parameter_counts(attention, g, d):
  found = class_conditional.counts(
      'sagan', 128, 1000, **{'model.attention': attention})
  assert found == (g, d)


@pytest.mark.parametrize('row', list(sagan.ATTENTION))
def test_attention_is_where_maps_have_its_size(row):
  values = {k: v for k, v in sagan.ATTENTION[row].items()
            if not k.startswith('paper/')}
  system = class_conditional.make('sagan', 128, 1000, **values)
  params = system_lib.abstract_state(system).params
  size = row.removeprefix('feat')
  for net, channels in (('G', {8: 1024, 16: 512, 32: 256, 64: 128}),
                        ('D', {64: 64, 32: 128, 16: 256, 8: 512})):
    found = [name for name in params[net] if name.startswith('attention')]
    if row == 'none':
      assert not found
      continue
    assert found == [f'attention_{size}']
    assert params[net][found[0]]['o']['kernel'].shape[-1] == (
        channels[int(size)])


def test_everything_is_normalized_but_the_tables():
  state = system_lib.abstract_state(make())
  for net in ('G', 'D'):
    weights = [x for path, x in
               jax.tree_util.tree_leaves_with_path(state.params[net])
               if x.ndim > 1 and '/bn' not in jax.tree_util.keystr(
                   path, simple=True, separator='/')]
    assert len(jax.tree.leaves(state.mvars[net]['spectral'])) == (
        2 * len(weights))
  plain = system_lib.abstract_state(make(**{'model.spectral_G': False}))
  assert set(plain.mvars['G']) == {'batch_stats'}
  assert set(plain.mvars['D']) == {'spectral'}


def test_stabilization_rows():
  rates = {}
  for row, values in sagan.STABILIZATION.items():
    values = {k: v for k, v in values.items() if not k.startswith('paper/')}
    system = make(**values)
    assert not [n for n in system_lib.abstract_state(system).params['G']
                if n.startswith('attention')]
    rates[row] = [system.config.optimizer[player].lr for player in 'GD']
  assert rates == {'sn_d': [2e-4, 2e-4], 'sn_gd': [2e-4, 2e-4],
                   'sn_gd_ttur': [1e-4, 4e-4]}
  config = make().config
  assert config.loss.n_critic == 1 and config.loss.objective == 'hinge'


@pytest.mark.slow
def test_eight_devices_train_as_one():
  system = make(16, batch=16)
  (one, logs), (eight, logs_8) = (
      class_conditional.program(system, n, 16).run() for n in (1, 8))
  for name, value in logs.items():
    np.testing.assert_allclose(logs_8[name], value, rtol=1e-4, atol=1e-6)
  class_conditional.assert_close(eight.opt, one.opt, 1e-4)
  class_conditional.assert_close(eight.mvars, one.mvars, 1e-4)


def test_attention_maps():
  system = make()
  variables = state_lib.variables(class_conditional.initial(system))
  keys = rng.from_seeds([1, 2])
  images, maps = class_conditional.compiled(system.attention_maps)(
      variables, keys)
  assert images.shape == (2, 16, 16, 3)
  assert {name: x.shape for name, x in maps.items()} == {
      'attention_8': (2, 64, 16)}
  np.testing.assert_allclose(maps['attention_8'].sum(-1), 1, rtol=1e-5)
  np.testing.assert_allclose(
      images, class_conditional.compiled(system.generate)(variables, keys),
      atol=1e-5)


def test_decay_of_running_averages():
  """After one batch: (1 - decay) of its mean, and of its variance beside 1."""
  z = jax.random.normal(jax.random.key(0), (8, 6))
  labels = np.arange(8) % 3

  def averages(**values):
    net = make(**values).nets['G']
    variables = net.init(jax.random.key(1), z, labels, True)
    _, moved = net.apply(variables, z, labels, True, mutable=['batch_stats'])
    return moved['batch_stats']

  batch = averages(**{'model.bn_decay': 0.0, 'model.bn_decay_out': 0.0})
  for values, first, last in (
      ({}, 0.999, 0.9999),
      ({'model.bn_decay': 0.75, 'model.bn_decay_out': 0.5}, 0.75, 0.5)):
    for path, found in jax.tree_util.tree_leaves_with_path(averages(**values)):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      decay = last if name.startswith('bn_out') else first
      start = 1.0 if name.endswith('var') else 0.0
      [measured] = [x for p, x in jax.tree_util.tree_leaves_with_path(batch)
                    if p == path]
      np.testing.assert_allclose(
          found, decay * start + (1 - decay) * measured, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('values, words', [
    ({'model.bn_decay_out': 1.0}, ['model.bn_decay_out', '[0, 1)']),
    ({'model.attention': '7'}, ['model.attention', '8', 'none']),
    ({'model.attention': '16'}, ['both networks', '8']),
    ({'model.ch_D': 4}, ['4 channels', 'none']),
    ({'model.conditioning': 'acgan'}, ['model.conditioning', 'projection']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)
