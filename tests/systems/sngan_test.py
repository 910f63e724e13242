"""SNGAN: counts, conditioning, the step, devices and microbatches."""

import dataclasses
import functools

import class_conditional
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.core import step as step_lib
from gans_jax.core import system as system_lib
from gans_jax.nn import spectral_norm
from gans_jax.systems import sngan

FAST = class_conditional.FAST
SMALL = {'model.ch_G': 4, 'model.ch_D': 4, 'model.z_dim': 6,
         'loss.n_critic': 2}
CH64 = {'model.ch_G': 64, 'model.ch_D': 64}
NONE = {'model.conditioning': 'none'}


def make(classes=3, **values):
  return class_conditional.make('sngan', 8, classes, **{**SMALL, **values})


# --- Networks ----------------------------------------------------------------


@pytest.mark.parametrize('resolution, classes, values, g, d', [
    (32, 10, {}, 4_304_387, 1_055_104),
    (32, 0, NONE, 4_276_739, 1_053_824),
    (64, 1000, CH64, 17_974_915, 11_165_441),
    (128, 1000, CH64, 41_996_931, 30_041_857),
    (128, 1000, {**CH64, 'model.conditioning': 'concat'}, 41_996_931,
     30_538_625),
    (128, 0, {**CH64, **NONE}, None, 29_017_857),
])
def test_parameter_counts(resolution, classes, values, g, d):
  """Those of the authors' networks (and of others who rebuilt them)."""
  found = class_conditional.counts('sngan', resolution, classes, **values)
  assert found[1] == d
  assert g is None or found[0] == g


@pytest.mark.parametrize('resolution', [16, 48, 256])
def test_other_resolutions(resolution):
  system = class_conditional.make('sngan', resolution, **SMALL)
  state = system_lib.abstract_state(system)
  images = jax.eval_shape(
      lambda v, k: system.generate(v, k), state_lib.variables(state),
      jax.eval_shape(lambda: rng.from_seeds([1, 2])))
  assert images.shape == (2, resolution, resolution, 3)


def test_initializers():
  """Glorot-uniform: gain sqrt(2) for 3x3 layers of blocks, 1 elsewhere."""
  system = make(**{'model.ch_G': 64, 'model.ch_D': 64})
  params = class_conditional.initial(system).params
  for layer, gain, fans in (
      (params['G']['up_8']['conv1'], 2.0, 2 * 9 * 64),
      (params['G']['up_8']['conv_sc'], 1.0, 2 * 64),
      (params['G']['conv_out'], 1.0, 9 * 67),
      (params['D']['block_1']['conv2'], 2.0, 2 * 9 * 64),
      (params['D']['block_1']['conv_sc'], 1.0, 2 * 64)):
    kernel = np.asarray(layer['kernel'])
    bound = np.sqrt(6 * gain / fans)
    assert bound * 0.98 < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.05)
    np.testing.assert_array_equal(layer['bias'], 0)
  tables = params['G']['up_8']['bn1']
  assert tables['scale'].shape == (3, 64)
  np.testing.assert_array_equal(tables['scale'], 1)
  np.testing.assert_array_equal(tables['bias'], 0)


def test_only_d_is_normalized():
  state = system_lib.abstract_state(make())
  assert set(state.mvars['G']) == {'batch_stats'}
  assert set(state.mvars['D']) == {'spectral'}
  # A pair of vectors for every weight: 2 x 3 + 2 x 2 convolutions, with a
  # shortcut in the two blocks that pool, the dense layer and the embedding.
  kernels = [x for x in jax.tree.leaves(state.params['D']) if x.ndim > 1]
  assert len(jax.tree.leaves(state.mvars['D'])) == 2 * len(kernels) == 24


# --- Conditioning ------------------------------------------------------------


def initial_with_tables(system):
  """The state of step 0, its tables no longer the same for all classes."""
  state = class_conditional.initial(system)
  generator = np.random.default_rng(0)

  def one(path, x):
    if x.shape[:1] != (3,) or 'scale' not in str(path):
      return x
    return jnp.asarray(generator.normal(size=x.shape), jnp.float32)

  return state.replace(
      params=jax.tree_util.tree_map_with_path(one, state.params))


def test_projection():
  """Logits of one image by class: <e(y), h> + a constant, h of 4 channels.

  Nine classes are nine equations for five unknowns, h and the constant.
  """
  system = make(9)
  variables = state_lib.variables(class_conditional.initial(system))
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
  logits, _ = class_conditional.judge(
      system, variables, np.repeat(x, 9, 0), np.tile(np.arange(9), 4))
  table = np.asarray(variables['D']['params']['embed']['embedding'],
                     np.float64)
  found = np.linalg.lstsq(np.concatenate([table, np.ones((9, 1))], 1),
                          np.reshape(logits, (4, 9)).T, rcond=None)
  h, residual, rank, _ = found
  assert rank == 5
  np.testing.assert_allclose(residual, 0, atol=1e-9)
  # A sum after a ReLU, times what the normalization of e multiplies by.
  assert h[:4].min() > -1e-4 and h[:4].max() > 0.1


@pytest.mark.parametrize('conditioning', [
    'concat', pytest.param('projection', marks=pytest.mark.slow),
    pytest.param('acgan', marks=pytest.mark.slow)])
def test_labels_reach_both_networks(conditioning):
  system = make(**{'model.conditioning': conditioning})
  assert system.requires == ('image', 'label')
  assert system.conditions == ('label',)
  state = initial_with_tables(system)
  variables, keys = state_lib.variables(state), rng.from_seeds([5, 5])
  pair = class_conditional.compiled(system.generate)(
      variables, keys, {'label': np.array([1, 2])})
  assert np.abs(pair[0] - pair[1]).max() > 1e-3
  x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  outputs = [class_conditional.judge(system, variables, x, np.full(2, y))
             for y in (0, 1)]
  differ = np.abs(outputs[0][0] - outputs[1][0]).max() > 1e-4
  assert differ == (conditioning != 'acgan')
  assert (outputs[0][1] is not None) == (conditioning == 'acgan')


def test_acgan_losses():
  """The class losses by hand, with their weights."""
  values = {'model.conditioning': 'acgan', 'loss.acgan_D': 0.5,
            'loss.acgan_G': 0.25}
  system = make(**values)
  state = class_conditional.initial(system)
  generator = np.random.default_rng(0)
  inputs = {'image': generator.normal(size=(4, 8, 8, 3)).astype('f'),
            'label': np.array([0, 1, 2, 1]),
            'z': generator.normal(size=(4, 6)).astype('f'),
            'z_label': np.array([2, 2, 0, 1])}
  fake, _ = class_conditional.compiled(system.generate_by_batch)(
      state_lib.variables(state), rng.from_seeds(range(4)),
      {'z': inputs['z'], 'label': inputs['z_label']})

  def judged(x, labels):
    logits, classes = class_conditional.judge(
        system, state_lib.variables(state), x, None)
    classes = np.asarray(classes, np.float64)
    log_p = classes - np.log(np.exp(classes).sum(1, keepdims=True))
    return np.asarray(logits, np.float64), -log_p[np.arange(4), labels].mean()

  real, real_class = judged(inputs['image'], inputs['label'])
  fakes, fake_class = judged(fake, inputs['z_label'])
  hinge = np.maximum(1 - real, 0).mean() + np.maximum(1 + fakes, 0).mean()
  for fake_too, expected in ((True, real_class + fake_class),
                             (False, real_class)):
    one = make(**{**values, 'loss.acgan_fake': fake_too})
    value, _ = class_conditional.compiled(one.d_loss)(
        state, state.params, state.mvars, inputs)
    np.testing.assert_allclose(value, hinge + 0.5 * expected, rtol=1e-5)
  value, _ = class_conditional.compiled(system.g_loss)(
      state, state.params, state.mvars, inputs)
  np.testing.assert_allclose(value, -fakes.mean() + 0.25 * fake_class,
                             rtol=1e-5)


def test_unconditional_ignores_labels():
  system = make(**NONE)
  assert system.requires == ('image',) and system.conditions == ()
  params = system_lib.abstract_state(system).params
  assert 'embed' not in params['D']
  assert params['G']['up_8']['bn1']['norm']['scale'].shape == (4,)


# --- The step ----------------------------------------------------------------


@pytest.fixture(scope='module')
def programs():
  """{devices: program}, of one global batch of 16."""
  system = make(batch=16)
  return system, {devices: class_conditional.program(system, devices, 16)
                  for devices in (1, 8)}


@pytest.mark.slow
def test_step_is_the_algorithm(programs):
  """The draws, the iterations and the order of updates, one by one."""
  system, compiled = programs
  after, logs = compiled[1].run()
  batch = class_conditional.batch_of(system, 16)
  state = start = class_conditional.initial(system)

  def key(name, i):
    return jax.random.fold_in(rng.named(start.key, 0, name), i)

  def iterate(state):
    vectors = spectral_norm.advance(
        state.params['D'], state.mvars['D']['spectral'], system.rule)
    return state.replace(
        mvars={**state.mvars, 'D': {'spectral': vectors}})

  def update(state, player, loss, inputs):
    return step_lib.update_player(
        state, player, (player,), system.tx[player],
        functools.partial(loss, state), inputs)

  for i in range(2):
    real = batch['image'][i].astype(np.float32) / 128 - 1
    noise = jax.random.uniform(key('dequantize', i), real.shape,
                               maxval=1 / 128)
    inputs = {'image': real + noise, 'label': batch['label'][i],
              'z': jax.random.normal(key('z/d', i), (16, 6)),
              'z_label': jax.random.randint(key('label/d', i), (16,), 0, 3)}
    state, d_logs = jax.jit(
        lambda s, inputs: update(iterate(s), 'D', system.d_loss, inputs),
        compiler_options=FAST)(state, inputs)
  # G's batch is twice D's.
  inputs = {'z': jax.random.normal(key('z/g', 0), (32, 6)),
            'z_label': jax.random.randint(key('label/g', 0), (32,), 0, 3)}
  state, g_logs = jax.jit(
      lambda s, inputs: update(iterate(s), 'G', system.g_loss, inputs),
      compiler_options=FAST)(state, inputs)
  class_conditional.assert_close(after.opt, state.opt, 1e-3)
  class_conditional.assert_close(after.mvars, state.mvars, 1e-3)
  for name, value in {**d_logs, **g_logs}.items():
    np.testing.assert_allclose(logs[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_hinge_logs(programs):
  _, logs = programs[1][1].run()
  assert 0 <= logs['accuracy/real'] <= 1 and 0 <= logs['accuracy/fake'] <= 1
  # Near 0 at first, where the loss is 1 - l_r + 1 + l_f.
  np.testing.assert_allclose(
      logs['loss/d'], 2 - logs['logits/real'] + logs['logits/fake'],
      atol=0.3)


@pytest.mark.slow
def test_eight_devices_train_as_one(programs):
  _, compiled = programs
  (one, logs), (eight, logs_8) = (compiled[n].run() for n in (1, 8))
  for name, value in logs.items():
    np.testing.assert_allclose(logs_8[name], value, rtol=1e-4, atol=1e-6)
  class_conditional.assert_close(eight.opt, one.opt, 1e-4)
  class_conditional.assert_close(eight.mvars, one.mvars, 1e-4)


@pytest.mark.slow
def test_work_is_shared(programs):
  _, compiled = programs
  one, eight = (compiled[n].compiled.cost_analysis()['flops']
                for n in (1, 8))
  # The power iterations are done by all; of these tiny nets they are much.
  assert eight * 8 < one * 1.5
  assert list(hlo.collectives(compiled[8].compiled)) == ['all-reduce']
  for program in compiled.values():
    assert hlo.reversed_convolutions(program.compiled) == 0


@pytest.mark.slow
def test_microbatches_and_devices_without_batch_norm():
  """64 on one device, and on eight in four pieces: one and the same step.

  Batch normalization alone makes a microbatch another thing; the vectors of
  spectral normalization move once a step, however many pieces there are.
  """
  values = {'loss.n_critic': 1, 'loss.generator_batches': 1, 'ema.decay': 0.9}
  systems = {pieces: class_conditional.without_batch_norm(
      make(batch=64, microbatches=pieces, **values)) for pieces in (1, 4)}
  expected, logs = class_conditional.program(systems[1], 1, 64).run()
  found, found_logs = class_conditional.program(systems[4], 8, 64).run()
  for field in ('opt', 'mvars', 'ema'):
    class_conditional.assert_close(
        getattr(found, field), getattr(expected, field), 1e-4)
  for name, value in logs.items():
    np.testing.assert_allclose(found_logs[name], value, rtol=1e-4, atol=1e-6)


def test_iterations_of_the_config():
  assert make().rule == spectral_norm.RULES['sngan']
  assert make(**{'model.spectral_iterations': 5}).rule.iterations == 5


# --- Sampling, refusals ------------------------------------------------------


def test_images_depend_on_their_keys_alone():
  system = make()
  variables = state_lib.variables(initial_with_tables(system))
  keys = rng.from_seeds(np.arange(4))
  generate = class_conditional.compiled(system.generate)
  images = generate(variables, keys)
  assert images.shape == (4, 8, 8, 3) and images.dtype == jnp.float32
  np.testing.assert_allclose(images[2:3],
                             generate(variables, keys[2:3]), atol=1e-5)
  mixed, changed = class_conditional.compiled(system.generate_by_batch)(
      variables, keys)
  assert np.abs(mixed - images).max() > 1e-3
  assert 'batch_stats' in changed['G']


def test_bfloat16_reaches_every_convolution():
  system = make(dtype='bfloat16')
  state = system_lib.abstract_state(system)
  batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in
           class_conditional.batch_of(system).items()}
  jaxpr = jax.make_jaxpr(system.train_step)(state, batch, {})
  found = hlo.conv_operand_dtypes(jaxpr)
  assert len(found) > 16
  assert {str(x) for pair in found for x in pair} == {'bfloat16'}
  assert {str(x.dtype) for x in jax.tree.leaves(jaxpr.out_avals)
          if jnp.issubdtype(x.dtype, jnp.floating)} == {'float32'}


@pytest.mark.parametrize('classes, values, words', [
    (0, {}, ['conditioning', 'data.labels', 'none']),
    (3, {'model.conditioning': 'projected'}, ['model.conditioning',
                                              'projection']),
    (3, {'model.spectral_norm': 'chainer'}, ['model.spectral_norm', 'sngan']),
    (3, {'loss.objective': 'relativistic'}, ['loss.objective', 'hinge']),
    (3, {'model.bn_scope': 'local'}, ['bn_scope', 'global']),
    (3, {'loss.n_critic': 0}, ['loss.n_critic']),
])
def test_bad_values_are_refused(classes, values, words):
  with pytest.raises(errors.UserError) as error:
    make(classes, **values)
  for word in words:
    assert word in str(error.value)


def test_bad_resolution_is_refused():
  with pytest.raises(errors.UserError, match='data.resolution is 28'):
    sngan.plan('sngan', 28, 64, 64)
  assert dataclasses.astuple(sngan.plan('sngan', 128, 2, 1))[1:3] == (
      32, (32, 16, 8, 4, 2))
