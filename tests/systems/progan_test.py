"""ProGAN: networks beside the sheet's in float64, losses, stages, program."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import progan_reference as reference
import pytest
import torch

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import stages as stages_lib
from gans_jax.core import state as state_lib
from gans_jax.data import pipeline
from gans_jax.data import spec as spec_lib
from gans_jax.nn import growing
from gans_jax.systems import progan

FAST = {'xla_backend_optimization_level': 0}
# 8 channels at 4x4 and 8x8, 4 at 16x16. Stages of 2 steps each.
TINY = {'model.fmap_base': 32, 'model.fmap_max': 8, 'model.z_dim': 6,
        'batch_size': 8, 'total_steps': 10, 'growing.repeats': 1,
        'growing.stable_kimg': 0.015, 'growing.fade_kimg': 0.017}
LODS = (2.0, 1.75, 1.0, 0.3125, 0.0)


def make(resolution=16, classes=0, **values):
  config = config_lib.base('progan')
  config_lib.assign(config, {**TINY, **values})
  keys = ('image', 'label') if classes else ('image',)
  return progan.create(
      config, spec_lib.DataSpec(resolution, 3, classes, 100, keys))


def initial(system):
  return jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))


def filled(tree, seed=0):
  """The same tree, of normal numbers: biases are not 0."""
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda x: draw.normal(size=x.shape).astype('f'), tree)


def batch_of(system, step=0):
  draw = np.random.default_rng(step)
  stage = system.stages.at(step)
  shape = (system.batches_per_step, stage.batch_size)
  images = draw.integers(0, 256, (*shape, *system.image_shape), np.uint8)
  batch = {'image': np.stack([
      pipeline.shrink(x, stage.resolution) for x in images])}
  if system.classes:
    batch['label'] = draw.integers(0, system.classes, shape, np.int32)
  return batch


def stage_at(system, lod):
  """A stage of the system at a level of detail."""
  size = system.image_shape[0] // 2 ** int(np.floor(lod))
  return stages_lib.Stage(0, 0, 4, 4, resolution=size,
                          fade_images=100 if lod % 1 else 0)


@functools.cache
def steps_of(*values):
  """[(state before, logs, state after)]: two steps at 4x4, two of the fade."""
  system = make(8, **dict(values))
  state, result = initial(system), []
  for stage in system.stages.parts[:2]:
    view = system.at_stage(stage)
    step = jax.jit(lambda s, b, view=view: view.train_step(s, b, {}),
                   compiler_options=FAST)
    for i in range(stage.first_step, stage.first_step + 2):
      after, logs = step(state, batch_of(system, i))
      chex.assert_tree_all_finite(logs)
      result.append((state, logs, after))
      state = after
    assert step._cache_size() == 1
  return system, result


# --- Networks ---------------------------------------------------------------

FULL = {'model.fmap_base': 8192, 'model.fmap_max': 512, 'model.z_dim': 512}


@pytest.mark.parametrize('resolution, values, g, d', [
    (1024, FULL, 23_079_115, 23_087_249),
    (256, FULL, 23_044_309, 23_052_353),
    (128, FULL, 22_933_394, 22_941_313),
    (128, {**FULL, 'model.fmap_base': 2048}, 13_629_810, 13_636_897),
    (128, {**FULL, 'model.fmap_base': 2048, 'model.z_dim': 128}, 10_484_082,
     13_636_897),
    (32, {**progan.CIFAR10, 'total_steps': 0}, 1_296_908, 1_298_689),
])
def test_parameter_counts(resolution, values, g, d):
  params = jax.eval_shape(make(resolution, **values).init,
                          jax.random.key(0)).params
  assert state_lib.count(params['G']) == g
  assert state_lib.count(params['D']) == d


def test_names_and_initial_weights():
  system = make()
  params = jax.eval_shape(system.init, jax.random.key(0)).params
  assert sorted(params['G']) == ['16x16', '4x4', '8x8', 'ToRGB_lod0',
                                 'ToRGB_lod1', 'ToRGB_lod2']
  assert sorted(params['D']['4x4']) == ['Conv', 'Dense0', 'Dense1']
  assert params['G']['4x4']['Dense']['bias'].shape == (8,)
  assert params['D']['16x16']['Conv1_down']['kernel'].shape == (3, 3, 4, 8)
  for is_equalized in (True, False):
    block = progan.GeneratorBlock(
        progan.Layers(equalized=is_equalized), 32, 4)
    p = block.init(jax.random.key(0), jnp.zeros((1, 24)), False)['params']
    for name, std in (('Conv', np.sqrt(2 / 288)),
                      ('Dense', np.sqrt(2 / 24) / 4)):
      np.testing.assert_allclose(np.asarray(p[name]['kernel']).std(),
                                 1 if is_equalized else std, rtol=0.05)


@pytest.mark.parametrize('values', [
    {}, {'model.fused_scale': False, 'model.pixel_norm': False,
         'model.activation_G': 'relu', 'model.tanh': True,
         'model.normalize_latents': False}], ids=['tf', 'theano'])
def test_networks_are_the_authors(values):
  """Whole networks at every kind of lod, in float64 (progan_reference)."""
  system = make(classes=3, **{'model.conditional': True,
                              'model.mbstd_group': 2,
                              'model.mbstd_order': 'strided', **values})
  params = filled(initial(system).params)
  draw = np.random.default_rng(1)
  z = draw.normal(size=(4, 6)).astype('f')
  labels = np.eye(3, dtype='f')[[0, 2, 1, 1]]
  g, d = system.nets['G'], system.nets['D']
  whole_g = jax.jit(lambda lod: g.apply(
      {'params': params['G'], 'moving': {'lod': lod}}, z, labels),
                    compiler_options=FAST)
  whole_d = jax.jit(lambda x, lod: d.apply({'params': params['D']}, x, lod),
                    compiler_options=FAST)
  for lod in LODS[1::2] if values else LODS:
    stage, f = stage_at(system, lod), 2 ** int(np.floor(lod))
    expected = reference.generator(params['G'], z, labels, lod, 16, values)
    found, _ = jax.jit(lambda stage=stage, lod=lod: g.apply(
        {'params': params['G'], 'moving': {'lod': 0.0}}, z, labels,
        lod=jnp.float32(lod), stage=stage, mutable=['moving']),
                       compiler_options=FAST)()
    assert found.shape == (4, 16 // f, 16 // f, 3)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected[:, ::f, ::f], atol=2e-5 * scale)
    np.testing.assert_allclose(whole_g(jnp.float32(lod)), expected,
                               atol=2e-5 * scale)
    x = draw.uniform(-1, 1, (4, 16 // f, 16 // f, 3)).astype('f')
    repeated = x.repeat(f, 1).repeat(f, 2)
    expected = reference.discriminator(params['D'], repeated, lod, 16, values)
    found = jax.jit(lambda stage=stage, lod=lod, x=x: d.apply(
        {'params': params['D']}, x, jnp.float32(lod), stage),
                    compiler_options=FAST)()
    assert found.shape == (4, 4)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=2e-5 * scale)
    np.testing.assert_allclose(whole_d(repeated, lod), expected,
                               atol=2e-5 * scale)


def test_fused_up_convolution_is_the_flipped_kernel():
  """Trap 2: the authors' transposed convolution with its 4x4 kernel of sums."""
  draw = np.random.default_rng(0)
  x, w = draw.normal(size=(2, 5, 5, 3)), draw.normal(size=(3, 3, 3, 4))
  padded = np.pad(w, ((1, 1), (1, 1), (0, 0), (0, 0)))
  four = (padded[1:, 1:] + padded[:-1, 1:] + padded[1:, :-1]
          + padded[:-1, :-1])
  expected = torch.nn.functional.conv_transpose2d(
      torch.tensor(x.transpose(0, 3, 1, 2)),
      torch.tensor(four.transpose(2, 3, 0, 1)), stride=2, padding=1)
  y = progan.upsample_conv(jnp.asarray(x, jnp.float32),
                           jnp.asarray(w, jnp.float32))
  np.testing.assert_allclose(y, expected.numpy().transpose(0, 2, 3, 1),
                             atol=1e-5)
  plain = progan.resample.upsample_conv3x3(jnp.asarray(x, jnp.float32),
                                           jnp.asarray(w, jnp.float32))
  assert np.abs(plain - y).max() > 1


def test_ends_of_a_fade():
  """It starts as the smaller network and ends as the larger one."""
  system = make()
  params = filled(initial(system).params)
  z = np.random.default_rng(0).normal(size=(4, 6)).astype('f')

  @functools.partial(jax.jit, static_argnames='stage', compiler_options=FAST)
  def run(lod, stage):
    x, _ = system.nets['G'].apply(
        {'params': params['G'], 'moving': {'lod': 0.0}}, z, lod=lod,
        stage=stage, mutable=['moving'])
    return x, system.nets['D'].apply({'params': params['D']}, x, lod, stage)

  fading = stage_at(system, 1.5)
  (small, d_small), (start, d_start), (end, d_end), (large, d_large) = (
      run(2.0, stage_at(system, 2)), run(2.0, fading), run(1.0, fading),
      run(1.0, stage_at(system, 1)))
  assert large.shape == (4, 8, 8, 3)
  np.testing.assert_allclose(
      start, np.repeat(np.repeat(small, 2, 1), 2, 2), rtol=1e-5)
  np.testing.assert_allclose(d_start, d_small, rtol=1e-4)
  np.testing.assert_allclose(end, large, rtol=1e-5)
  np.testing.assert_allclose(d_end, d_large, rtol=1e-4)
  middle, _ = run(1.75, fading)
  np.testing.assert_allclose(middle, 0.75 * start + 0.25 * end, rtol=1e-4,
                             atol=1e-5)
  x = np.arange(16, dtype='f').reshape(1, 4, 4, 1)
  faded = growing.fade_images(jnp.asarray(x), 0.25)
  assert faded[0, 0, 0, 0] == 0.25 * np.mean([0, 1, 4, 5])
  assert faded[0, 3, 3, 0] == 0.75 * 15 + 0.25 * np.mean([10, 11, 14, 15])


# --- Losses -----------------------------------------------------------------


@pytest.mark.parametrize('lod', [
    1.75, *(pytest.param(lod, marks=pytest.mark.slow) for lod in (2.0, 0.0))])
def test_losses_are_the_authors(lod):
  """L_D with the penalty on repeated pixels (trap 1), target and labels."""
  system = make(classes=3, **{
      'model.conditional': True, 'loss.target': 2.0, 'loss.drift': 0.1,
      'loss.acgan': 0.5, 'model.mbstd_group': 0})
  system = system.at_stage(stage_at(system, lod))
  state = initial(system)
  state = state.replace(params=filled(state.params))
  draw, f = np.random.default_rng(2), 2 ** int(np.floor(lod))
  size, labels = 16 // f, np.array([0, 2, 1, 1])
  inputs = {'image': draw.uniform(-1, 1, (4, size, size, 3)).astype('f'),
            'z': draw.normal(size=(4, 6)).astype('f'), 'label': labels,
            'eps': draw.uniform(size=4).astype('f')}
  run = jax.jit(lambda method: getattr(system, method)(
      state, jnp.float32(lod), state.params, state.mvars, inputs),
                static_argnums=0, compiler_options=FAST)
  value, (_, logs) = run('d_loss')

  one_hot = np.eye(3)[labels]
  fake = torch.tensor(reference.generator(
      state.params['G'], inputs['z'], one_hot, lod, 16))
  real = torch.tensor(np.float64(inputs['image']).repeat(f, 1).repeat(f, 2))
  critic = functools.partial(reference.discriminator_torch,
                             reference.to_torch(state.params['D']), lod=lod,
                             last=16)

  def classes(out):
    return -torch.log_softmax(out[:, 1:], 1)[torch.arange(4), labels].mean()

  eps = torch.tensor(np.float64(inputs['eps'])).reshape(-1, 1, 1, 1)
  mixed = (eps * real + (1 - eps) * fake).requires_grad_()
  grad, = torch.autograd.grad(critic(mixed)[:, 0].sum(), mixed)
  norms = grad.square().sum((1, 2, 3)).sqrt()
  penalty = 10 / 4 * (norms - 2).square().mean()
  out_real, out_fake = critic(real), critic(fake)
  drift = 0.1 * out_real[:, 0].square().mean()
  np.testing.assert_allclose(logs['penalty/wgan_gp'], penalty.item(),
                             rtol=1e-3)
  np.testing.assert_allclose(logs['penalty/drift'], drift.item(), rtol=1e-4)
  expected = (out_fake[:, 0].mean() - out_real[:, 0].mean() + penalty + drift
              + 0.5 * (classes(out_real) + classes(out_fake)))
  np.testing.assert_allclose(value, expected.item(), rtol=1e-3)
  value, _ = run('g_loss')
  expected = -out_fake[:, 0].mean() + 0.5 * classes(out_fake)
  np.testing.assert_allclose(value, expected.item(), rtol=1e-3)


def test_gradients_shrink_with_repeated_pixels():
  """|grad|^2 is exactly 4 and 16 times smaller on pixels that repeat."""
  params = reference.to_torch(filled(initial(make(
      **{'model.mbstd_group': 0})).params['D']))
  for lod, ratio in ((1, 4), (2, 16)):
    x = torch.randn(4, 16 // 2**lod, 16 // 2**lod, 3, dtype=torch.float64)
    squares = []
    for start in (x, x.repeat_interleave(2**lod, 1).repeat_interleave(
        2**lod, 2)):
      leaf = start.clone().requires_grad_()
      full = leaf.repeat_interleave(16 // leaf.shape[1], 1).repeat_interleave(
          16 // leaf.shape[1], 2)
      out = reference.discriminator_torch(params, full, lod=lod, last=16)
      squares.append(torch.autograd.grad(out.sum(), leaf)[0].square().sum())
    np.testing.assert_allclose(squares[0] / squares[1], ratio)
    stage = stages_lib.Stage(0, 0, 4, 4, resolution=16 // 2**lod)
    assert growing.pixel_scale(16, stage) ** 2 == 1 / ratio


# --- Stages -----------------------------------------------------------------


@pytest.mark.slow
def test_optimizers_start_anew_at_every_stage():
  system, steps = steps_of()
  assert [s.first_step for s in system.stages.parts] == [0, 2, 4]
  for i, (_, logs, after) in enumerate(steps):
    stage = system.stages.at(i)
    for player in ('G', 'D'):
      assert after.opt[player][0].count == i - stage.first_step + 1, i
    np.testing.assert_allclose(
        logs['lod'], np.log2(8 / stage.resolution) + stage.fade(i))
    # Adam's first step: nu = 0.01 g^2, whatever came before.
    if i == stage.first_step:
      nu = after.opt['D'][0].nu['D']
      total = sum(np.sum(x) for x in jax.tree.leaves(nu))
      np.testing.assert_allclose(total, 0.01 * logs['grad_norm/D'] ** 2,
                                 rtol=1e-3)


@pytest.mark.slow
def test_only_layers_of_the_stage_are_trained():
  """Gradients of the others are zero; with b1 = 0 Adam leaves them alone."""
  system, steps = steps_of()
  used = {
      4: {'4x4', 'ToRGB_lod1', 'FromRGB_lod1'},
      8: {'4x4', '8x8', 'ToRGB_lod0', 'FromRGB_lod0'}}
  for i, (before, _, after) in enumerate(steps):
    stage = system.stages.at(i)
    names = set(used[stage.resolution])
    if stage.fade_images:
      names |= {n for n in used[stage.resolution // 2] if 'RGB' in n}
    for net in ('G', 'D'):
      for name, tree in after.params[net].items():
        moved = [bool((x != y).any()) for x, y in zip(
            jax.tree.leaves(tree), jax.tree.leaves(before.params[net][name]),
            strict=True)]
        # At the fade's first step the new layers' weight may be zero.
        assert any(moved) <= (name in names), (i, name)
        if stage.fade(i) < 1:
          assert any(moved) == (name in names), (i, name)
    for name, tree in after.ema['G']['params'].items():
      if name not in used[stage.resolution] and i < 2:
        chex.assert_trees_all_equal(tree, steps[0][0].params['G'][name])


def test_samples_show_the_stage():
  """The average has the lod of the last step, and repeats its pixels."""
  system, steps = steps_of()
  generate = jax.jit(lambda v, k: system.generate(v, k),
                     compiler_options=FAST)
  keys = rng.from_seeds(np.arange(4))
  for i in (1, 3):
    _, logs, after = steps[i]
    assert after.ema['G']['moving']['lod'] == logs['lod']
    variables = {'G': after.ema['G']}
    x = generate(variables, keys)
    assert x.shape == (4, 8, 8, 3) and x.dtype == jnp.float32
    repeats = np.abs(x - np.repeat(np.repeat(x[:, ::2, ::2], 2, 1), 2, 2))
    assert (repeats.max() < 1e-5) == (i < 2) and np.ptp(x[0]) > 0.1
    np.testing.assert_allclose(generate(variables, keys[2:])[0], x[2],
                               atol=1e-5)
  assert steps[0][0].mvars['G']['moving']['lod'] == 1.0
  assert make(8).nets['G'].first_lod == 1.0
  assert make(8, **{'growing.first_resolution': 8}).nets['G'].first_lod == 0.0


def test_average_is_of_each_step():
  system, steps = steps_of()
  assert system.config.ema.decay == 0.999
  before, _, after = steps[1]
  for name in ('4x4', 'ToRGB_lod1'):
    jax.tree.map(lambda old, new, average: np.testing.assert_allclose(
        average, 0.999 * old + 0.001 * new, rtol=1e-6, atol=1e-7),
                 before.ema['G']['params'][name],
                 after.params['G'][name], after.ema['G']['params'][name])


def test_rates_by_resolution_and_ramp():
  """Adam's first step is the rate; Theano's ramp exp(-5 (1 - t)^2)."""
  system = make(8, **{'growing.lr': ((8, 0.002),), 'optimizer.D.lr': 0.0005,
                      'optimizer.rampup_kimg': 0.04})

  def first_step(stage, player):
    tx = progan.make_optimizers(system.config, stage)[player]
    step, _ = tx.update({'w': jnp.ones(1)}, tx.init({'w': jnp.zeros(1)}))
    return -float(step['w'][0])

  small, fading, large = system.stages.parts
  assert [s.first_image for s in system.stages.parts] == [0, 16, 32]
  for stage, player, rate in (
      (small, 'G', 0.001 * np.exp(-5)), (small, 'D', 0.0005 * np.exp(-5)),
      (fading, 'D', 0.002 * np.exp(-5 * 0.6**2)),
      (large, 'G', 0.002 * np.exp(-5 * 0.2**2))):
    np.testing.assert_allclose(first_step(stage, player), rate, rtol=1e-4)


@pytest.mark.slow
def test_simultaneous_updates_see_the_old_weights():
  values = {'model.mbstd_group': 0, 'loss.penalty_weight': 1.0}
  both = make(8, **{**values, 'loss.simultaneous': True})
  both = both.at_stage(both.stages.parts[0])
  state, batch = initial(both), batch_of(both)
  state = state.replace(params=filled(state.params))
  after, _ = jax.jit(lambda s, b: both.train_step(s, b, {}),
                     compiler_options=FAST)(state, batch)
  z = jax.random.normal(jax.random.fold_in(
      rng.named(state.key, 0, 'z'), 0), (8, 6))
  grads = jax.jit(jax.grad(lambda p: both.g_loss(
      state, jnp.float32(1.0), {'G': p}, state.mvars, {'z': z})[0]),
                  compiler_options=FAST)(state.params['G'])
  for name in ('4x4', 'ToRGB_lod1'):
    jax.tree.map(lambda nu, g: np.testing.assert_allclose(
        nu, 0.01 * np.square(g), rtol=2e-2,
        atol=1e-4 * float(np.square(g).max())),
                 after.opt['G'][0].nu['G'][name], grads[name])


# --- Table 1 ----------------------------------------------------------------


def test_rows_of_table_1():
  """The settings of the Theano config, each row on the one before."""
  rows = progan.TABLE_1
  assert list(rows) == ['a', 'b', 'c', 'd', 'e*', 'e', 'f', 'g', 'h']

  def added(name, before):
    return {k: v for k, v in rows[name].items()
            if rows[before].get(k, '-') != v}

  assert added('b', 'a') == {'growing.stable_kimg': 800.0,
                             'growing.fade_kimg': 800.0}
  assert added('c', 'b') == {'batch_size': 16, 'ema.decay': 0.999**5}
  assert added('d', 'c') == {
      'model.z_dim': 512, 'model.normalize_latents': True,
      'model.norm_G': 'none', 'model.norm_D': 'none', 'model.tanh': False,
      'model.activation_G': 'lrelu', 'loss.n_critic': 1, 'loss.drift': 0.001,
      'optimizer.G.b2': 0.99, 'optimizer.D.b2': 0.99, 'ema.decay': 0.999}
  assert added('e*', 'd') == {'model.mb_kernels': 100}
  assert added('e', 'd') == {'model.mbstd_group': 16}
  assert added('f', 'e') == {'model.equalized': True, 'optimizer.G.lr': 1e-3,
                             'optimizer.D.lr': 1e-3}
  assert added('g', 'f') == {'model.pixel_norm': True}
  assert rows['b']['ema.decay'] == 0.999**20
  for name, values in rows.items():
    system = make(128, **{**values, 'total_steps': 0})
    state = jax.eval_shape(system.init, jax.random.key(0))
    assert ('batch_stats' in state.mvars['G']) == (name in 'abc')
    assert ('MinibatchDiscrimination' in state.params['D']['4x4']) == (
        name == 'e*')
    assert len(system.stages.parts) == (1 if name == 'a' else 11)
    # 10 million images shown, of which one step of rows a, b has 320.
    shown = system.stages.parts[0].images_per_step
    assert shown == {'a': 320, 'b': 320, 'c': 80}.get(name, 16)


@pytest.mark.slow
def test_row_with_batch_and_layer_norm_trains():
  values = {k: v for k, v in progan.TABLE_1['c'].items()
            if k.startswith('model.norm') or k in (
                'model.tanh', 'model.activation_G', 'model.equalized',
                'model.pixel_norm', 'model.fused_scale', 'model.mbstd_group')}
  system = make(8, **{**values, 'loss.n_critic': 2,
                      'growing.stable_kimg': 0.031,
                      'growing.fade_kimg': 0.033})
  assert [s.first_image for s in system.stages.parts] == [0, 32, 64]
  system = system.at_stage(system.stages.parts[1])
  first = initial(system).replace(step=jnp.int32(3))  # within the fade
  last, logs = jax.jit(lambda s, b: system.train_step(s, b, {}),
                       compiler_options=FAST)(first, batch_of(system, 3))
  chex.assert_tree_all_finite(logs)
  assert last.opt['D'][0].count == 2 and last.opt['G'][0].count == 1
  stats = last.ema['G']['batch_stats']
  chex.assert_trees_all_equal(stats, last.mvars['G']['batch_stats'])
  moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), stats,
                       first.mvars['G']['batch_stats'])
  assert all(x > 0 for x in jax.tree.leaves(moved))
  images, changed = jax.jit(lambda v, k: system.generate_by_batch(v, k),
                            compiler_options=FAST)(
      {'G': last.ema['G']}, rng.from_seeds(np.arange(4)))
  assert np.abs(images).max() <= 1 and 'batch_stats' in changed['G']


@pytest.mark.parametrize('preset', list(progan.PRESETS))
def test_presets(preset):
  """The table of the sheet: minibatch by resolution."""
  sizes = {
      'v1': [16, 16, 16, 16, 16, 16, 14, 6, 3],
      'v2-1gpu': [128, 128, 128, 64, 32, 16, 8, 4, 4],
      'v2-2gpus': [256, 256, 128, 64, 32, 16, 8, 8, 8],
      'v2-4gpus': [512, 256, 128, 64, 32, 16, 16, 16, 16],
      'v2-8gpus': [512, 256, 128, 64, 32, 32, 32, 32, 32]}[preset]
  system = make(1024, **{**FULL, 'growing.stable_kimg': 600.0,
                         'growing.fade_kimg': 600.0, 'growing.repeats': 4,
                         **progan.PRESETS[preset], 'total_steps': 0})
  found = [s.batch_size for s in system.stages.parts if not s.fade_images]
  assert found == sizes
  # A little late: at the block after the border.
  stable = {'v1': 12_800_000}.get(preset, 9_600_000)
  assert stable <= system.stages.parts[-1].first_image < stable + 10_000


@pytest.mark.parametrize('values, words', [
    ({'model.norm_G': 'layer'}, ['model.norm_G', 'batch']),
    ({'model.norm_D': 'batch'}, ['model.norm_D', 'layer']),
    ({'model.conditional': True}, ['data.labels']),
    ({'loss.n_critic': 0}, ['loss.n_critic']),
    ({'loss.n_critic': 2, 'loss.simultaneous': True}, ['simultaneous']),
    ({'model.mbstd_order': 'random'}, ['mbstd_order', 'strided']),
    ({'growing.batch_sizes': ((8, 6),)}, ['resolution 8 is 6', 'mbstd_group']),
    ({'optimizer.G.lr_schedule': 'linear'}, ['lr_schedule', 'constant']),
    ({'growing.first_resolution': 32}, ['first_resolution', '16']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)


def test_bfloat16_is_of_activations_alone():
  """State, images and losses stay float32; so does the last block of D."""
  system = make(**{'dtype': 'bfloat16'})
  system = system.at_stage(system.stages.parts[1])
  state = jax.eval_shape(system.init, jax.random.key(0))
  images = jax.ShapeDtypeStruct((1, 8, 8, 8, 3), jnp.uint8)
  traced, (after, logs) = jax.make_jaxpr(
      lambda s, b: system.train_step(s, b, {}), return_shape=True)(
          state, {'image': images})
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  assert {x.dtype for x in logs.values()} == {jnp.dtype('float32')}
  assert 'bf16' in str(traced)


# --- The program ------------------------------------------------------------


@pytest.fixture(scope='module', params=[
    'stable', pytest.param('fading', marks=pytest.mark.slow)])
def programs(request):
  """{devices: (compiled step, state, batch)} at 4x4 and inside a fade."""
  system = make(8, **{'batch_size': 32, 'growing.stable_kimg': 0.0,
                      'growing.fade_kimg': 0.2})
  stage = dataclasses.replace(
      system.stages.parts[request.param == 'fading'], first_step=0)
  assert (0.1 < stage.fade(0) < 0.9) == (request.param == 'fading')
  system = dataclasses.replace(
      system.at_stage(stage), stages=stages_lib.Stages((stage,)))
  batch, result = batch_of(system), {}
  for devices in (1, 8):
    mesh = mesh_lib.make(data=devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
      abstract = jax.eval_shape(system.init, jax.random.key(0))
      shardings = mesh_lib.shardings(abstract, mesh)
      state = jax.jit(system.init, out_shardings=shardings,
                      compiler_options=FAST)(jax.random.key(0))
      placed = mesh_lib.to_global(batch, mesh)
      program = jax.jit(lambda s, b: system.train_step(s, b, {}),
                        out_shardings=(shardings, None)).lower(
                            state, placed).compile(compiler_options=FAST)
    result[devices] = program, state, placed
  return result


def test_eight_devices_train_as_one(programs):
  results = {n: program(state, batch)
             for n, (program, state, batch) in programs.items()}
  for name, value in results[1][1].items():
    np.testing.assert_allclose(results[8][1][name], value, rtol=1e-4,
                               atol=1e-6, err_msg=name)
  for x, y in zip(jax.tree.leaves(results[8][0].opt),
                  jax.tree.leaves(results[1][0].opt), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3,
                               atol=1e-4 * max(np.abs(y).max(), 1e-12))


def test_no_convolution_is_reversed(programs):
  for program, *_ in programs.values():
    assert hlo.reversed_convolutions(program) == 0


def test_work_is_shared(programs):
  assert list(hlo.collectives(programs[8][0])) == ['all-reduce']
