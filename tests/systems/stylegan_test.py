"""StyleGAN: networks beside the sheet's in float64, losses, W, program."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stylegan_reference as reference
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
from gans_jax.nn import w_space
from gans_jax.systems import progan
from gans_jax.systems import stylegan

FAST = {'xla_backend_optimization_level': 0}
TINY = {'model.fmap_base': 32, 'model.fmap_max': 8, 'model.z_dim': 6,
        'model.w_dim': 6, 'model.mapping_layers': 2, 'batch_size': 8,
        'total_steps': 10, 'growing.batch_sizes': (), 'growing.repeats': 1,
        'growing.stable_kimg': 0.015, 'growing.fade_kimg': 0.033}


def make(resolution=16, classes=0, **values):
  config = config_lib.base('stylegan')
  config_lib.assign(config, {**TINY, **values})
  keys = ('image', 'label') if classes else ('image',)
  return stylegan.create(
      config, spec_lib.DataSpec(resolution, 3, classes, 100, keys))


def initial(system):
  return jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))


def filled(tree, seed=0):
  """The same tree, of normal numbers; stored weights of the mapping stay."""
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda x: (
      draw.normal(size=x.shape) * max(float(jnp.std(x)), 1)).astype('f'), tree)


def stage_at(system, lod):
  size = system.image_shape[0] // 2 ** int(np.floor(lod))
  return stages_lib.Stage(0, 0, 4, 4, resolution=size,
                          fade_images=100 if lod % 1 else 0)


# --- Networks ---------------------------------------------------------------


FULL = {'model.fmap_base': 8192, 'model.fmap_max': 512, 'model.z_dim': 512,
        'model.w_dim': 512, 'model.mapping_layers': 8}


def test_parameter_counts():
  for resolution, g, d in ((1024, 26_219_627, 23_087_249),
                           (256, 26_086_229, 23_052_353)):
    params = jax.eval_shape(make(resolution, **FULL).init,
                            jax.random.key(0)).params
    assert state_lib.count(params['G']) == g
    assert state_lib.count(params['G']['mapping']) == 2_101_248
    assert state_lib.count(params['D']) == d


def test_rows_of_the_tables():
  """Row B is ProGAN's generator but for names; the others add to it."""
  counts = {}
  for name, values in {**stylegan.TABLE_1, **stylegan.TABLE_4}.items():
    system = make(64, **{**FULL, **values})
    params = jax.eval_shape(system.init, jax.random.key(0)).params['G']
    counts[name] = state_lib.count(params)
    assert ('mapping' in params) == bool(system.config.model.mapping_layers)
    const = name not in ('B', 'C', 'traditional-0', 'traditional-8')
    assert ('Const' in params['synthesis']['4x4']) == const
  config = config_lib.base('progan')
  config_lib.assign(config, {'total_steps': 1})
  base = state_lib.count(jax.eval_shape(progan.create(
      config, spec_lib.DataSpec(64, 3, 0, 100, ('image',))).init,
                                        jax.random.key(0)).params['G'])
  channels = [512] * 8 + [256] * 2
  mapping = 8 * (512 * 512 + 512)
  styles = sum(513 * 2 * c for c in channels)
  assert counts['B'] == counts['traditional-0'] == base
  assert counts['C'] == base + mapping + styles
  assert counts['D'] == counts['C'] - 512 * 16 * 512 + 16 * 512
  assert counts['E'] == counts['F'] == counts['D'] + sum(channels)
  assert counts['traditional-8'] == base + mapping
  assert counts['style-1'] == counts['F'] - 7 * mapping // 8
  assert [v['loss.style_mixing'] for v in stylegan.TABLE_2.values()] == [
      0.0, 0.5, 0.9, 1.0]


@pytest.mark.parametrize('row', [
    'F', pytest.param('B', marks=pytest.mark.slow)])
def test_networks_are_the_authors(row, monkeypatch):
  """Whole networks, layer by layer in float64 (stylegan_reference)."""
  monkeypatch.setattr(stylegan, 'FUSED_FROM', 16)
  classes = 3 if row == 'F' else 0
  system = make(classes=classes, **{
      'model.conditional': bool(classes), 'model.mbstd_group': 0,
      **stylegan.TABLE_1[row]})
  state = initial(system)
  params, net = filled(state.params), system.nets['G']
  draw = np.random.default_rng(1)
  z = draw.normal(size=(4, 6)).astype('f')
  labels = np.eye(3, dtype='f')[[0, 2, 1, 1]] if classes else None
  variables = {'params': params['G'], **state.mvars['G']}
  layers = system.config.model.mapping_layers
  w = reference.mapping(params['G'].get('mapping', {}), z, labels, layers)
  np.testing.assert_allclose(net.apply(variables, z, labels, method='map'), w,
                             rtol=1e-4, atol=1e-5)
  # A w of its own for every layer.
  ws = (w[:, None] * draw.normal(size=(1, 6, 1))).astype('f')
  ws = ws if row == 'F' else ws[:, :1]
  maps = noise = None
  if row == 'F':
    assert stylegan.noise_size(16) == 2 * (16 + 64 + 256)
    maps = draw.normal(size=(4, 672)).astype('f')
    edges = np.cumsum([16, 16, 64, 64, 256])
    noise = [m.reshape(4, 1, int(m.shape[1]**0.5), -1)
             for m in np.split(maps, edges, 1)]
  synthesize = functools.partial(net.apply, variables, method='synthesize')
  for lod in (1.0, 0.25):
    f = 2 ** int(lod)
    expected = reference.synthesis(params['G']['synthesis'], ws, noise, lod,
                                   16, row == 'F', fused_from=16)
    scale = np.abs(expected).max()
    known = ws if row == 'F' else ws[:, 0]
    for stage in (stage_at(system, lod), None):
      images = jax.jit(lambda stage=stage, lod=lod, known=known: synthesize(
          known, maps, jnp.float32(lod), stage), compiler_options=FAST)()
      np.testing.assert_allclose(
          images, expected[:, ::f, ::f] if stage else expected,
          atol=3e-5 * scale)
    x = draw.uniform(-1, 1, (4, 16 // f, 16 // f, 3)).astype('f')
    expected = reference.discriminator(
        params['D'], x.repeat(f, 1).repeat(f, 2), lod, 16)
    found = jax.jit(lambda lod=lod, x=x: system.nets['D'].apply(
        {'params': params['D']}, x, jnp.float32(lod), stage_at(system, lod)),
                    compiler_options=FAST)()
    assert found.shape == (4, max(classes, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_initial_weights():
  state = initial(make(8, **{'model.mapping_layers': 8, 'model.z_dim': 32,
                             'model.w_dim': 32}))
  g = state.params['G']
  np.testing.assert_allclose(g['mapping']['Dense3']['kernel'].std(), 100,
                             rtol=0.1)
  const = g['synthesis']['4x4']['Const']
  np.testing.assert_array_equal(const['const'], 1)
  np.testing.assert_array_equal(const['noise_weight'], 0)
  np.testing.assert_array_equal(const['StyleMod']['bias'], 0)
  assert const['StyleMod']['kernel'].shape == (32, 16)
  assert sorted(state.mvars['G']) == ['moving', 'noise']
  assert state.mvars['G']['noise']['8x8']['Conv0_up'][
      'noise_const'].shape == (8, 8)
  assert state.mvars['G']['moving']['lod'] == 0


# --- Training ---------------------------------------------------------------


def batch_of(stage, classes=0, seed=0):
  draw = np.random.default_rng(seed)
  images = draw.integers(0, 256, (stage.batch_size, 16, 16, 3), np.uint8)
  batch = {'image': pipeline.shrink(images, stage.resolution)[None]}
  if classes:
    batch['label'] = draw.integers(0, classes, (1, stage.batch_size), np.int32)
  return batch


@functools.cache
def program_on(devices):
  """(compiled step, state, batch, system) at 8x8."""
  system = make(8, **{'batch_size': 32})
  stage = system.stage
  mesh = mesh_lib.make(data=devices, devices=jax.devices()[:devices])
  with jax.set_mesh(mesh):
    shardings = mesh_lib.shardings(
        jax.eval_shape(system.init, jax.random.key(0)), mesh)
    state = jax.jit(system.init, out_shardings=shardings,
                    compiler_options=FAST)(jax.random.key(0))
    # Trained a little: constant maps have no standard deviation to divide
    # by, and gradients of rounding errors.
    state = state.replace(params=jax.device_put(
        filled(state.params), shardings.params))
    batch = mesh_lib.to_global(batch_of(stage), mesh)
    program = jax.jit(lambda s, b: system.train_step(s, b, {}),
                      out_shardings=(shardings, None)).lower(
                          state, batch).compile(compiler_options=FAST)
  return program, state, batch, system


@pytest.mark.slow
def test_a_step():
  """The average w, lod and noise of the average G; its half-life."""
  program, state, batch, system = program_on(1)
  after, logs = program(state, batch)
  chex.assert_tree_all_finite(logs)
  assert logs['lod'] == 0
  assert {'penalty/r1', 'loss/d', 'loss/g', 'grad_norm/G'} <= logs.keys()
  # w_avg has met two batches: 0.995^2 of what it was, which is 0.
  average = 0.0
  for player, params in (('D', state.params), ('G', state.params)):
    inputs, cutoff = system._draw(state, player, 32)
    w = system.map_latents({'G': {'params': params['G'], **state.mvars['G']}},
                           inputs['z'])
    average = 0.995 * average + 0.005 * np.mean(w, 0)
    assert 1 <= int(cutoff) <= 4
  moving = after.ema['G']['moving']
  np.testing.assert_allclose(moving['w_avg'], average, rtol=1e-4, atol=1e-7)
  assert moving['lod'] == logs['lod']
  chex.assert_trees_all_equal(after.ema['G']['noise'],
                              state.mvars['G']['noise'])
  beta = 0.5 ** (32 / 10_000)
  name = 'ToRGB_lod0'
  for leaf in ('kernel', 'bias'):
    old, new, mean = (np.asarray(tree['synthesis'][name][leaf]) for tree in (
        state.ema['G']['params'], after.params['G'],
        after.ema['G']['params']))
    assert (old != new).any()
    np.testing.assert_allclose(mean, beta * old + (1 - beta) * new, rtol=1e-5,
                               atol=1e-7)
  assert after.opt['G'][0].count == after.opt['D'][0].count == 1


@pytest.mark.slow
def test_eight_devices_train_as_one():
  results = {}
  for devices in (1, 8):
    program, state, batch, _ = program_on(devices)
    results[devices] = program(state, batch)
  for name, value in results[1][1].items():
    np.testing.assert_allclose(results[8][1][name], value, rtol=1e-4,
                               atol=1e-6, err_msg=name)
  for x, y in zip(jax.tree.leaves(results[8][0].opt),
                  jax.tree.leaves(results[1][0].opt), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3,
                               atol=1e-4 * max(np.abs(y).max(), 1e-12))
  assert hlo.reversed_convolutions(program) == 0
  assert list(hlo.collectives(program)) == ['all-reduce']


@pytest.mark.parametrize('values, lod', [
    ({}, 1.0), pytest.param({}, 0.25, marks=pytest.mark.slow),
    pytest.param(stylegan.WGAN_GP, 1.0, marks=pytest.mark.slow)],
    ids=['r1', 'r1_fading', 'wgan_gp'])
def test_losses_are_the_authors(values, lod):
  """With the penalty on repeated pixels: trap 1."""
  system = make(classes=3, **{'model.conditional': True,
                              'model.mbstd_group': 0, **values})
  system = system.at_stage(stage_at(system, lod))
  state = initial(system)
  state = state.replace(params=filled(state.params))
  draw, f = np.random.default_rng(2), 2 ** int(lod)
  size, labels = 16 // f, np.array([0, 2, 1, 1])
  inputs = {'image': draw.uniform(-1, 1, (4, size, size, 3)).astype('f'),
            'z': draw.normal(size=(4, 6)).astype('f'), 'label': labels,
            'eps': draw.uniform(size=4).astype('f'),
            'noise': draw.normal(size=(4, stylegan.noise_size(size)))}
  inputs['noise'] = inputs['noise'].astype('f')
  value, (_, logs) = jax.jit(lambda: system.d_loss(
      state, jnp.float32(lod), None, state.params, state.mvars, inputs),
                             compiler_options=FAST)()
  fake, _ = jax.jit(lambda: system._fake(
      state.params['G'], state.mvars['G'], inputs, jnp.float32(lod), None),
                    compiler_options=FAST)()

  def repeated(x):
    return torch.tensor(np.float64(x).repeat(f, 1).repeat(f, 2))

  def logits(x):
    out = reference.discriminator(state.params['D'], x, lod, 16)
    return out[torch.arange(4), labels]

  real, fake = repeated(inputs['image']), repeated(fake)
  if values:
    eps = torch.tensor(np.float64(inputs['eps'])).reshape(-1, 1, 1, 1)
    x = (eps * real + (1 - eps) * fake).requires_grad_()
  else:
    x = real.clone().requires_grad_()
  grad, = torch.autograd.grad(logits(x).sum(), x)
  squares = grad.square().sum((1, 2, 3))
  if values:
    drift = 0.001 * logits(real).square().mean()
    penalty = 10 * (squares.sqrt() - 1).square().mean()
    expected = logits(fake).mean() - logits(real).mean() + penalty + drift
    np.testing.assert_allclose(logs['penalty/drift'], drift.item(), rtol=1e-3)
  else:
    penalty = 5 * squares.mean()
    expected = torch.nn.functional.softplus(logits(fake)).mean() + (
        torch.nn.functional.softplus(-logits(real)).mean()) + penalty
  name = 'penalty/wgan_gp' if values else 'penalty/r1'
  np.testing.assert_allclose(logs[name], penalty.item(), rtol=1e-3)
  np.testing.assert_allclose(value, expected.item(), rtol=1e-3)


def test_mixing_draws_among_the_layers_of_the_stage():
  system = make(32, **{'loss.style_mixing': 0.9})
  for lod, layers in ((2.0, 4), (0.5, 8)):
    view = system.at_stage(stage_at(system, lod))

    def cutoff(i, view=view):
      # Of a state, the draw reads key and step alone.
      state = state_lib.TrainState(
          step=i, params={}, mvars={}, opt={}, ema={}, aux={},
          key=jax.random.key(0))
      return view._draw(state, 'G', 4)[1]

    found = np.asarray(jax.jit(jax.vmap(cutoff))(jnp.arange(2000)))
    counts = np.bincount(found, minlength=layers + 1)
    assert len(counts) == layers + 1 and counts[0] == 0
    # One in ten is not mixed; the others are uniform in 1 ... layers - 1.
    np.testing.assert_allclose(counts[layers] / 2000, 0.1, atol=0.03)
    np.testing.assert_allclose(counts[1:layers] / 2000, 0.9 / (layers - 1),
                               atol=0.05)


@pytest.mark.slow
def test_mixing_takes_the_upper_layers_from_the_second_latent():
  system = make(8)
  state = initial(system)
  params, mvars = filled(state.params)['G'], state.mvars['G']
  draw = np.random.default_rng(0)
  inputs = {name: draw.normal(size=(2, 6)).astype('f')
            for name in ('z', 'z_mixed')}

  @functools.partial(jax.jit, compiler_options=FAST)
  def run():
    fake, _ = system._fake(params, mvars, inputs, jnp.float32(0), 3)
    variables = {'params': params, **mvars}
    w, other = (system.map_latents({'G': variables}, inputs[name])
                for name in ('z', 'z_mixed'))
    return fake, system.nets['G'].apply(
        variables, jnp.stack([w, w, w, other], 1), None, method='synthesize')

  mixed, expected = run()
  np.testing.assert_allclose(mixed, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_of_activations_alone():
  """State, images and losses stay float32; so does the last block of D."""
  system = make(**{'dtype': 'bfloat16'})
  system = system.at_stage(system.stages.parts[1])
  state = jax.eval_shape(system.init, jax.random.key(0))
  images = jax.ShapeDtypeStruct((1, 8, 16, 16, 3), jnp.uint8)
  traced, (after, logs) = jax.make_jaxpr(
      lambda s, b: system.train_step(s, b, {}), return_shape=True)(
          state, {'image': images})
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  assert {x.dtype for x in logs.values()} == {jnp.dtype('float32')}
  assert 'bf16' in str(traced)


# --- Sampling ---------------------------------------------------------------


def test_sampling():
  system = make(8, classes=3, **{'model.conditional': True})
  state = initial(system)
  variables = {'G': {'params': filled(state.params)['G'], **state.mvars['G']}}
  variables['G']['moving'] = {'w_avg': np.arange(6, dtype='f') / 6,
                              'lod': np.float32(0)}
  keys = rng.from_seeds(np.arange(4))
  label = np.array([0, 1, 2, 0])
  generate = jax.jit(system.generate, compiler_options=FAST, static_argnames=(
      'truncation', 'truncation_cutoff', 'noise'))
  images = generate(variables, keys)
  assert images.shape == (4, 8, 8, 3) and images.dtype == jnp.float32
  scale = np.abs(images).max()
  np.testing.assert_allclose(generate(variables, keys[::-1])[::-1], images,
                             atol=1e-4 * scale)

  @functools.partial(jax.jit, compiler_options=FAST)
  def by_hand():
    net, values = system.nets['G'], variables['G']
    w = system.map_latents(variables, system.latents(keys), {'label': label})
    fixed = net.apply(values, method='constant_noise')
    return w, fixed, *(net.apply(values, w, noise, method='synthesize')
                       for noise in (fixed, None))

  w, fixed, plain, none = by_hand()
  assert fixed.shape == (1, stylegan.noise_size(8))
  np.testing.assert_allclose(
      generate(variables, keys, {'label': label}, noise='const'), plain,
      atol=1e-4 * scale)
  np.testing.assert_allclose(
      generate(variables, keys, {'label': label, 'w': w}, noise='none'), none,
      atol=1e-4 * scale)
  assert np.abs(none - plain).max() > 1e-3 * scale
  ws = w_space.broadcast(w, 18)
  average = variables['G']['moving']['w_avg']
  pulled = w_space.truncate(ws, average, 0.7, 8)
  np.testing.assert_allclose(pulled[:, :8], w_space.broadcast(
      average[None] + 0.7 * (w - average[None]), 8), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(pulled[:, 8:], ws[:, 8:])
  # 8x8 has four layers: all are pulled, to one image.
  same = generate(variables, keys, {'label': label}, truncation=0.0,
                  noise='none')
  np.testing.assert_allclose(same[1:], same[:3], atol=1e-4 * scale)
  with pytest.raises(errors.UserError, match='random'):
    system.generate(variables, keys, noise='fixed')


def test_growing_follows_the_code():
  """25,000 kimg on eight GPUs: 1024x1024 from 8400 kimg."""
  config = config_lib.base('stylegan')
  config.total_kimg = 25_000.0
  system = stylegan.create(
      config, spec_lib.DataSpec(1024, 3, 0, 100, ('image',)))
  stable = [s for s in system.stages.parts if not s.fade_images]
  assert [s.resolution for s in stable] == [8, 16, 32, 64, 128, 256, 512, 1024]
  assert [s.batch_size for s in stable] == [256, 128, 64, 32, 32, 32, 32, 32]
  assert 8_400_000 <= stable[-1].first_image < 8_401_000
  rates = [stages_lib.at_resolution(config.growing.lr, s.resolution,
                                    config.optimizer.G.lr) for s in stable]
  assert rates == [0.001] * 4 + [0.0015, 0.002, 0.003, 0.003]
  assert [r for _, r in stylegan.WGAN_GP['growing.lr']] == [
      0.0015, 0.002, 0.002, 0.002]


@pytest.mark.parametrize('values, words', [
    ({'loss.penalty': 'gp'}, ['loss.penalty', 'wgan_gp']),
    ({'loss.style_mixing': 1.5}, ['style_mixing', 'probability']),
    ({'model.styles': False}, ['model.styles', 'const_input']),
    ({'model.mapping_layers': 0, 'model.w_dim': 8}, ['w_dim is 8']),
    ({'model.conditional': True}, ['data.labels']),
    ({'growing.batch_sizes': ((16, 6),)}, ['resolution 16 is 6']),
    ({'loss.objective': 'logit'}, ['logit', 'logistic']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)


def test_resolution_is_refused():
  with pytest.raises(errors.UserError, match='powers of two from 8'):
    make(4)
