"""Configs B to D of StyleGAN2: networks that grow, and their step.

The networks of one resolution, 'orig', are those of the official PyTorch code
(networks_test). Those that grow are, in the official TensorFlow code, these
at a whole lod and blends of two of them between.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import stylegan2_weights

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import stages as stages_lib
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.losses import penalties
from gans_jax.nn import resample
from gans_jax.systems import stylegan2
from gans_jax.systems.stylegan2 import networks

FAST = {'xla_backend_optimization_level': 0}
TINY = {'model.channel_base': 32, 'model.channel_max': 8, 'model.z_dim': 6,
        'model.w_dim': 8, 'model.mapping_layers': 1, 'batch_size': 8,
        'growing.batch_sizes': (), 'growing.repeats': 1,
        'growing.stable_kimg': 0.015, 'growing.fade_kimg': 0.033}


def make(resolution=16, row=stylegan2.CONFIG_D, shape=None, **values):
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {'total_steps': 10, **row, **values})
  shapes = (('image', shape, 'uint8'),) if shape else ()
  return stylegan2.create(config, spec_lib.DataSpec(
      resolution, 3, 0, 100, ('image',), shapes))


def stage_at(resolution, fading=False):
  return stages_lib.Stage(0, 0, 4, 4, resolution=resolution,
                          fade_images=100 if fading else 0)


# --- Networks ---------------------------------------------------------------


@pytest.mark.parametrize('name', ['B', 'C', 'D'])
def test_full_size(name):
  """Of the sheet: G as config E's, D as StyleGAN's; rates; penalties."""
  row = {'B': stylegan2.CONFIG_B, 'C': stylegan2.CONFIG_C,
         'D': stylegan2.CONFIG_D}[name]
  system = make(1024, row)
  params = jax.eval_shape(system.init, jax.random.key(0)).params
  assert state_lib.count(params['G']['mapping']) == 2_101_248
  assert state_lib.count(params['G']['synthesis']) == 22_799_516
  assert state_lib.count(params['D']) == 23_087_249
  first, *_, last = system.stages.parts
  assert (first.resolution, first.batch_size) == (8, 256)
  assert (last.resolution, last.batch_size) == (1024, 32)
  # 1024 without fading from 8400 kimg on: seven phases of 1200.
  assert 8_400_000 <= last.first_image < 8_400_000 + 4 * 32
  ratio = {'B': (1, 1)}.get(name, (4 / 5, 16 / 17))
  for stage, rate in ((first, 0.001), (last, 0.003)):
    tx = system.at_stage(stage).tx
    for player, c in zip(('G', 'D'), ratio, strict=True):
      updates, _ = tx[player].update({'x': jnp.ones(1)},
                                     tx[player].init({'x': jnp.ones(1)}))
      np.testing.assert_allclose(updates['x'], -rate * c, rtol=1e-5)
  loss = system.config.loss
  assert loss.r1_gamma == 10
  assert loss.pl_weight == (2 if name == 'D' else 0)
  assert system._lazy('D') == (name != 'B')
  assert system._with_penalty('D') == (name == 'B')


PYRAMID = networks.Pyramid((16, 16, 3), 64, 8)


def sized(r):
  return dataclasses.replace(PYRAMID, image_shape=(r, r, 3))


@pytest.fixture(scope='module')
def generators():
  """{name: images}, of networks with one set of weights."""
  generator = functools.partial(networks.Generator, architecture='orig',
                                w_dim=12, mapping_layers=1)
  grown = generator(PYRAMID, first_lod=1.0)
  ws = stylegan2_weights.draw('ws', (2, 6, 12))
  noise = stylegan2_weights.draw('maps', (2, networks.noise_size(PYRAMID)))

  def weights(net):
    abstract = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 5)),
                              None, None)
    variables = stylegan2_weights.tree(abstract)
    variables['moving']['lod'] = np.float32(1.0)
    return variables

  @functools.partial(jax.jit, compiler_options=FAST)
  def run():
    found = {}
    for r in (8, 16):
      part = noise[:, :networks.noise_size(sized(r))]
      net = generator(sized(r))
      found[f'orig{r}'] = net.apply(weights(net), ws[:, :2 * int(np.log2(r))
                                                     - 2], part,
                                    method='synthesize')
      found[f'stage{r}'] = grown.apply(
          weights(grown), ws, part, jnp.float32(np.log2(16 / r)),
          stage_at(r), method='synthesize')
    for name, lod, stage in (('fading', 0.25, stage_at(16, True)),
                             ('whole', 0.25, None), ('own lod', None, None)):
      found[name] = grown.apply(
          weights(grown), ws, noise, lod and jnp.float32(lod), stage,
          method='synthesize')
    return found

  return {name: np.asarray(x) for name, x in run().items()}


def close(found, expected):
  np.testing.assert_allclose(found, expected, rtol=1e-4,
                             atol=2e-5 * np.abs(expected).max())


def repeated(x, factor=2):
  return np.repeat(np.repeat(x, factor, 1), factor, 2)


def test_generator_that_grows(generators):
  """A whole lod is a network of that resolution; between, a blend of two."""
  small, large = generators['orig8'], generators['orig16']
  close(generators['stage8'], small)
  close(generators['stage16'], large)
  blend = 0.75 * large + 0.25 * repeated(small)
  close(generators['fading'], blend)
  # Without a stage every layer runs, and the lod says what is seen: here the
  # network's own, 1.
  close(generators['whole'], blend)
  close(generators['own lod'], repeated(small))


def test_discriminator_that_grows():
  """Whole lods, and a fade between features of 8x8 and an image of 4x4."""
  settings = dict(architecture='orig', mbstd_group=2)
  grown = networks.Discriminator(PYRAMID, **settings)
  x = {r: stylegan2_weights.draw(f'x{r}', (4, r, r, 3)) for r in (4, 8, 16)}
  lod = jnp.float32

  def weights(net, r, *arguments):
    abstract = jax.eval_shape(net.init, jax.random.key(0), x[r], None,
                              *arguments)
    return {'params': stylegan2_weights.tree(abstract['params'], 8)}

  variables = weights(grown, 16, 0.0)
  assert all('fromrgb' in variables['params'][f'b{r}'] for r in (4, 8, 16))

  @functools.partial(jax.jit, compiler_options=FAST)
  def run():
    apply = functools.partial(grown.apply, variables)
    found = {'stage16': apply(x[16], None, lod(0), stage_at(16)),
             'stage8': apply(x[8], None, lod(1), stage_at(8)),
             'fading': apply(x[8], None, lod(1.25), stage_at(8, True)),
             'whole': apply(x[16], None, lod(0))}
    for r in (8, 16):
      net = networks.Discriminator(sized(r), **settings)
      found[f'orig{r}'], captured = net.apply(
          weights(net, r), x[r], None, capture_intermediates=lambda m, _: (
              isinstance(m, networks.DiscriminatorBlock)))
      if r == 8:
        features = captured['intermediates']['b8']['__call__'][0][0]
    # The image of 4x4 by its own conversion, lrelu(0.2) and sqrt(2).
    convert = variables['params']['b4']['fromrgb']
    y = resample.average_pool(x[8]) @ convert['kernel'][0, 0] / np.sqrt(3)
    y = y + convert['bias'].reshape(1, 1, 1, -1)
    y = jnp.where(y < 0, 0.2 * y, y) * np.sqrt(2)
    parts = {k: v for k, v in variables['params']['b4'].items()
             if k != 'fromrgb'}
    end = networks.DiscriminatorEpilogue(8, architecture='orig', mbstd_group=2)
    found['by hand'] = end.apply({'params': parts},
                                 0.75 * features + 0.25 * y, None)[:, 0]
    return found

  found = run()
  close(found['stage16'], found['orig16'])
  close(found['whole'], found['orig16'])
  close(found['stage8'], found['orig8'])
  close(found['fading'], found['by hand'])
  assert np.abs(found['fading'] - found['stage8']).max() > 1e-3


def test_types_of_bfloat16():
  """The blended image and the logits are float32."""
  pyramid = dataclasses.replace(PYRAMID, dtype=jnp.bfloat16, low_blocks=1)
  g = networks.Generator(pyramid, 'orig', w_dim=12, mapping_layers=1,
                         first_lod=0.0)
  d = networks.Discriminator(pyramid, 'orig')
  lod, stage = jnp.float32(0.25), stage_at(16, True)
  z, noise = jnp.ones((2, 5)), jnp.ones((2, networks.noise_size(PYRAMID)))
  ws, x = jnp.ones((2, 6, 12)), jnp.ones((2, 16, 16, 3))
  variables = {
      'G': jax.eval_shape(g.init, jax.random.key(0), z, None, None),
      'D': jax.eval_shape(d.init, jax.random.key(0), x, None, 0.0)}
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
      jnp.dtype('float32')}
  traced, shapes = jax.make_jaxpr(lambda v: (
      g.apply(v['G'], ws, noise, lod, stage, method='synthesize'),
      d.apply(v['D'], x, None, lod, stage)), return_shape=True)(variables)
  assert [(y.shape, y.dtype) for y in shapes] == [
      ((2, 16, 16, 3), jnp.float32), ((2,), jnp.float32)]
  assert 'bf16' in str(traced)


# --- Training ---------------------------------------------------------------


def test_r1_is_on_repeated_pixels():
  """Trap 1: at resolution r of R, (r / R)^2 of the native penalty."""
  system = make(**TINY, **{'model.mbstd_channels': 0})
  system = system.at_stage(stage_at(8))
  abstract = jax.eval_shape(system.init, jax.random.key(0))
  params = stylegan2_weights.tree(abstract.params['D'], 8)
  state = state_lib.TrainState(step=0, params={}, mvars={}, opt={}, ema={},
                               aux={}, key=jax.random.key(0))
  x = stylegan2_weights.draw('real', (2, 8, 8, 3))

  def full(x):
    return system.nets['D'].apply({'params': params}, resample.average_pool(x),
                                  None, jnp.float32(1), system.stage)

  @functools.partial(jax.jit, compiler_options=FAST)
  def run():
    return (system._r1(params, {'image': x}, None, state),
            penalties.r1(full, repeated(x), 10.0))

  found, expected = run()
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert expected > 0


def test_mixing_draws_among_the_layers_of_the_stage():
  system = make(32, **TINY)
  real = {'image': jnp.zeros((4, 1))}
  for resolution, layers in ((8, 4), (32, 8)):
    view = system.at_stage(stage_at(resolution))

    def draw(i, view=view):
      # Of a state, the draw reads key and step alone.
      state = state_lib.TrainState(
          step=i, params={}, mvars={}, opt={}, ema={}, aux={},
          key=jax.random.key(0))
      inputs, cutoff = view._draw(state, 'g', real, 1)
      return inputs['noise'], cutoff

    noise, cutoffs = jax.jit(jax.vmap(draw), compiler_options=FAST)(
        jnp.arange(500))
    assert noise.shape[-1] == {8: 16 + 2 * 64}.get(
        resolution, 16 + 2 * (64 + 256 + 1024))
    counts = np.bincount(cutoffs, minlength=layers + 1) / 500
    np.testing.assert_allclose(
        counts, [0, *[0.9 / (layers - 1)] * (layers - 1), 0.1], atol=0.07)


def updates(state):
  """How many each optimizer has made."""
  def is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)

  return [int(x.count) for x in jax.tree.leaves(state.opt, is_leaf=is_adam)
          if is_adam(x)]


@pytest.mark.slow
def test_a_step_in_a_fade():
  """lod, average, Adam that starts anew, and a penalty's own update."""
  system = make(**TINY)
  fade = system.stages.parts[1]
  system = system.at_stage(fade)
  state = jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))
  state = state.replace(
      step=jnp.int32(fade.first_step), opt=jax.tree.map(
          lambda x: x + jnp.ones_like(x), state.opt))
  batch = {'image': np.random.default_rng(0).integers(
      0, 256, (1, 8, 16, 16, 3), np.uint8)}
  train = jax.jit(lambda s, b: system.train_step(s, b, {}),
                  compiler_options=FAST)
  assert fade.first_step == 2
  after, logs = train(state, batch)
  # 16 images at first, the fade begins at 15 and takes 33.
  np.testing.assert_allclose(logs['lod'], 1 - 1 / 33, rtol=1e-6)
  for tree in (after.mvars['G'], after.ema['G']):
    np.testing.assert_allclose(tree['moving']['lod'], logs['lod'])
    assert np.abs(tree['moving']['w_avg']).max() > 0
  # Reset, and one update: neither path length nor R1 is due at step 2.
  assert updates(after) == [1, 1]
  assert logs['penalty/r1'] == 0
  later, logs = train(after.replace(step=jnp.int32(16)), batch)
  assert updates(later) == [3, 3]
  for name in ('penalty/r1', 'penalty/path_length', 'grad_norm/G_reg'):
    assert np.isfinite(logs[name]) and logs[name] > 0
  # Half of the difference is forgotten in 10,000 images.
  beta = 0.5 ** (8 / 10_000)
  for old, new, mean in zip(*map(jax.tree.leaves, (
      state.ema['G']['params'], after.params['G'],
      after.ema['G']['params'])), strict=True):
    np.testing.assert_allclose(mean, new + beta * (old - new), atol=1e-6)


@pytest.mark.parametrize('values, words', [
    ({'model.G': 'skip'}, ['model.G', 'orig']),
    ({'model.D': 'resnet'}, ['model.D', 'orig']),
    ({'augment.kind': 'ada'}, ['augment.kind', 'none']),
    ({'optimizer.G.lr_schedule': 'linear'}, ['lr_schedule', 'constant']),
    ({'growing.first_resolution': 12}, ['first_resolution', 'power of two']),
    ({'growing.batch_sizes': ((8, 6),)}, ['mbstd_group', '6 examples']),
    ({'growing.batch_sizes': ((16, 3),)}, ['batch_size is 3', 'shrink']),
    ({'shape': (16, 8, 3)}, ['16 x 8', 'first_resolution=0']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**{**TINY, **values})
  for word in words:
    assert word in str(error.value)
