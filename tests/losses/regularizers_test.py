"""DiffAugment, consistency and LeCam in every system that takes them."""

import dataclasses
import functools

import class_conditional
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.augment import diff_augment
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.losses import consistency
from gans_jax.losses import lecam
from gans_jax.losses import regularizers

FAST = {'xla_backend_optimization_level': 0}
DIFFAUGMENT = {'augment.kind': 'diffaugment'}
ALL = {**DIFFAUGMENT, 'loss.consistency.real': 10.0,
       'loss.consistency.fake': 5.0, 'loss.lecam.weight': 0.3}
_WIDTHS = {'model.ch_G': 4, 'model.ch_D': 4, 'model.z_dim': 6}
_GROWS = {'total_steps': 0, 'total_kimg': 1.0, 'model.z_dim': 4,
          'model.fmap_base': 32, 'model.fmap_max': 4}
_MAPS = {'model.w_dim': 4, 'model.mapping_layers': 1}
# By system: config; how often D's update, then G's, shows D images of A(x).
SYSTEMS = {
    'dcgan': ({'model.ngf': 4, 'model.ndf': 4, 'model.z_dim': 6,
               'loss.penalty': 'r1'}, 4),
    'progan': (_GROWS, 4),
}
MORE = {
    'sngan': (_WIDTHS, 3),
    'cgan': ({'model.ch': 4, 'model.fc': 8, 'model.z_dim': 6}, 3),
    'stylegan2': ({'model.channel_base': 32, 'model.channel_max': 8,
                   'model.z_dim': 6, 'loss.pl_weight': 0.0,
                   'loss.style_mixing': 0.0, **_MAPS}, 4),
    'wgan': ({'model.ngf': 4, 'model.ndf': 4, 'model.z_dim': 6}, 3),
    'wgan_gp': ({'model.dim_G': 4, 'model.dim_D': 4, 'model.z_dim': 6}, 4),
    'stylegan': ({**_GROWS, **_MAPS}, 4),
    'sagan': ({**_WIDTHS, 'model.attention': 'none'}, 3),
    'biggan': ({**_WIDTHS, 'model.shared_dim': 4}, 3),
}
BATCH = 8


def make(name, **values):
  config = config_lib.base(name)
  config_lib.assign(config, {'total_steps': 100, 'batch_size': BATCH,
                             **{**SYSTEMS, **MORE}[name][0], **values})
  return system_lib.create(
      config, spec_lib.DataSpec(16, 3, 3, 100, ('image', 'label')))


def config_of(**values):
  """A config of these options alone."""
  config = config_lib.ConfigDict({
      'augment': regularizers.augment_config(),
      'loss': regularizers.loss_config()})
  config_lib.assign(config, values)
  return config


def state_at(step, **aux):
  return state_lib.TrainState(
      step=jnp.int32(step), params={}, mvars={}, opt={}, ema={}, aux=aux,
      key=jax.random.key(3))


def pictures(*shape, seed=0):
  x = np.random.default_rng(seed).uniform(-1, 1, shape)
  return x.astype(np.float32)


# --- The options by themselves -----------------------------------------------


def test_off_leaves_no_trace():
  found = regularizers.create(config_of())
  assert found.init() == {}
  state, images = state_at(5), jnp.zeros((2, 8, 8, 3))
  for player in 'DG':
    assert found.keys(state, player, 2) == {}
  assert found.augment(None, images) is images
  judged = regularizers.Judged(None, images, jnp.zeros(2), None)
  assert found.terms(state, judged, judged) == {}
  logs = {'logits/real': 1.0}
  same, same_logs = found.remember(state, logs)
  assert same is state and same_logs is logs


def test_keys_are_of_the_player_the_kind_and_the_update():
  state = state_at(2)
  both = regularizers.create(config_of(**DIFFAUGMENT))
  keys = [both.keys(state, *where)[f'augment_{kind}']
          for where in (('D', 4, 0), ('D', 4, 1), ('G', 4))
          for kind in ('real', 'fake')]
  data = np.concatenate([jax.random.key_data(k) for k in keys])
  assert len(np.unique(data, axis=0)) == 24
  # Those of a larger batch go on from a smaller one's.
  np.testing.assert_array_equal(
      jax.random.key_data(both.keys(state, 'D', 6)['augment_real'])[:4],
      jax.random.key_data(keys[0]))
  # Consistency and LeCam are D's affair.
  consistent = regularizers.create(config_of(**{'loss.consistency.fake': 1.0}))
  assert consistent.keys(state, 'D', 2) and not consistent.keys(state, 'G', 2)
  of_lecam = regularizers.create(config_of(**{'loss.lecam.weight': 1.0}))
  assert not of_lecam.keys(state, 'D', 2)


@pytest.mark.parametrize('step', [4, 5])
def test_terms(step):
  """Weights, the transformed images that D meets, LeCam from its start on."""
  found = regularizers.create(config_of(**{
      **ALL, 'loss.lecam.start': 5, 'loss.consistency.shift': 0.25}))
  averages = {'real': jnp.float32(0.2), 'fake': jnp.float32(-0.1)}
  state = state_at(step, lecam=averages)
  weights = np.random.default_rng(0).normal(size=(8, 8, 3))
  judge = lambda x: jnp.tensordot(x, jnp.float32(weights), 3)  # noqa: E731
  keys = found.keys(state, 'D', 4)
  judged, expected = {}, {}
  for kind, weight in (('real', 10), ('fake', 5)):
    x = pictures(4, 8, 8, 3, seed=len(kind) + weight)
    judged[kind] = regularizers.Judged(
        judge, x, judge(x), keys[f'augment_{kind}'])
    draws = consistency.draw(
        jax.vmap(lambda k: rng.named(k, 0, 'consistency'))(
            keys[f'augment_{kind}']), (8, 8), 0.25)
    y = np.asarray(consistency.transform(draws, x), np.float64)
    assert np.abs(y - x).max() > 0.5
    difference = np.tensordot(x - y, weights, 3)
    expected[f'penalty/consistency_{kind}'] = weight * np.mean(difference**2)
  real, fake = (np.tensordot(judged[k].images.astype('f8'), weights, 3)
                for k in ('real', 'fake'))
  expected['penalty/lecam'] = (step >= 5) * 0.3 * (
      np.mean(np.maximum(real + 0.1, 0)**2)
      + np.mean(np.maximum(0.2 - fake, 0)**2))
  terms = found.terms(state, judged['real'], judged['fake'])
  assert terms.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-4)


def test_averages_over_steps():
  """The last means until the start, then a moving average; the logs say it."""
  found = regularizers.create(config_of(**{
      'loss.lecam.weight': 1.0, 'loss.lecam.start': 3,
      'loss.lecam.decay': 0.8}))
  state = state_at(0, **found.init())
  means = np.random.default_rng(0).normal(size=(6, 2))
  expected = np.zeros(2)
  for step, (real, fake) in enumerate(means):
    decay = 0.0 if step < 3 else 0.8
    expected = decay * expected + (1 - decay) * means[step]
    state, logs = found.remember(
        state.replace(step=jnp.int32(step)),
        {'logits/real': jnp.float32(real), 'logits/fake': jnp.float32(fake)})
    for i, kind in enumerate(('real', 'fake')):
      np.testing.assert_allclose(state.aux['lecam'][kind], expected[i],
                                 atol=1e-6)
      assert logs[f'lecam/{kind}'] == state.aux['lecam'][kind]


# --- Refusals ----------------------------------------------------------------


@pytest.mark.parametrize('values, words', [
    ({'augment.kind': 'ada'}, ['augment.kind', 'diffaugment']),
    ({**DIFFAUGMENT, 'augment.policy': 'colour'},
     ['config.augment.policy', "'colour'", 'color']),
    ({**DIFFAUGMENT, 'augment.policy': ''},
     ['augment.policy is empty', 'translation']),
    ({'loss.consistency.real': -1.0}, ['loss.consistency.real', '0 or more']),
    ({'loss.consistency.shift': 0.5}, ['loss.consistency.shift', 'below 0.5']),
    ({'loss.lecam.weight': -0.3}, ['loss.lecam.weight', '0 or more']),
    ({'loss.lecam.decay': 1.0}, ['loss.lecam.decay', 'below 1']),
    ({'loss.lecam.weight': 1.0, 'loss.lecam.start': 0},
     ['loss.lecam.start', 'above 0']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    regularizers.create(config_of(**values))
  for word in words:
    assert word in str(error.value)


@pytest.mark.parametrize('name', ['toy', 'vae', 'pixelcnn'])
def test_systems_without_a_discriminator_of_images_have_no_such_key(name):
  for key, value in (('augment.kind', 'diffaugment'),
                     ('loss.consistency.real', 10.0),
                     ('loss.lecam.weight', 0.3)):
    with pytest.raises(errors.UserError, match=f"no key '{key[:4]}"):
      config_lib.assign(config_lib.base(name), {key: value})


# --- The systems -------------------------------------------------------------


class Spy(regularizers.Regularizers):
  """Remembers what it was asked to augment."""

  seen = []

  def augment(self, keys, images):
    self.seen.append((keys.shape, images.shape))
    return super().augment(keys, images)


@pytest.mark.parametrize('name', [
    *SYSTEMS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_every_system_takes_them(name):
  """All that D sees is augmented; terms and averages are in logs and state."""
  system = make(name, **ALL)
  game = getattr(system, 'game', system)
  spy = Spy(**vars(game.regularizers))
  spy.seen.clear()
  game = dataclasses.replace(game, regularizers=spy)
  system = (dataclasses.replace(system, game=game) if name == 'biggan'
            else game)
  size, count = 16, BATCH
  if getattr(system, 'stages', None):
    system = system.at_stage(system.stages.parts[0])
    size, count = system.stage.resolution, system.stage.batch_size
  state = system_lib.abstract_state(system)
  shape = (system.batches_per_step, count)
  batch = {'image': jax.ShapeDtypeStruct((*shape, size, size, 3), 'uint8'),
           'label': jax.ShapeDtypeStruct(shape, 'int32')}
  after, logs = jax.eval_shape(
      lambda s, b: system.train_step(s, b, {}), state, batch)
  assert len(spy.seen) == {**SYSTEMS, **MORE}[name][1]
  for keys, images in spy.seen:
    assert keys == images[:1] and images[1:] == (size, size, 3)
  assert {'penalty/consistency_real', 'penalty/consistency_fake',
          'penalty/lecam', 'lecam/real', 'lecam/fake'} <= set(logs)
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)  # noqa: E731
  assert shapes(after) == shapes(state)
  assert set(after.aux['lecam']) == {'real', 'fake'}


@pytest.fixture(scope='module')
def dcgan():
  """(system with all options, state, inputs of its losses)."""
  system = make('dcgan', **{**ALL, 'augment.policy': 'cutout'})
  generator = np.random.default_rng(0)

  def draw(path, x):
    # As at the start, without compiling it.
    mean = float(mesh.path_name(path).endswith('scale'))
    return jnp.asarray(generator.normal(mean, 0.02, x.shape), 'float32')

  abstract = system_lib.abstract_state(system)
  params, mvars = (jax.tree_util.tree_map_with_path(draw, tree)
                   for tree in (abstract.params, abstract.mvars))
  state = state_at(2000, lecam={
      'real': jnp.float32(0.2), 'fake': jnp.float32(-0.1)}).replace(
          params=params, mvars=mvars)
  inputs = {'image': pictures(BATCH, 16, 16, 3),
            'z': np.random.default_rng(1).normal(size=(BATCH, 6)).astype('f'),
            **system.regularizers.keys(state, 'D', BATCH)}
  return system, state, inputs


def test_d_loss_is_of_augmented_images(dcgan):
  """Each term by hand; R1 is of the images before: 0 where they are cut."""
  system, state, inputs = dcgan
  value, (_, logs) = jax.jit(
      system.d_loss, compiler_options=FAST)(
          state, state.params, state.mvars, inputs)

  @functools.partial(jax.jit, compiler_options=FAST)
  def by_hand(inputs):
    fake, _ = state_lib.apply_net(system.nets['G'], state.params['G'],
                                  state.mvars['G'], inputs['z'], train=True)
    judge = lambda x: state_lib.apply_net(  # noqa: E731
        system.nets['D'], state.params['D'], state.mvars['D'], x,
        train=True)[0]
    seen, logits, terms = {}, {}, {}
    for kind, x in (('real', inputs['image']), ('fake', fake)):
      keys = inputs[f'augment_{kind}']
      seen[kind] = diff_augment.augment(keys, x, 'cutout')
      logits[kind] = judge(seen[kind])
      draws = consistency.draw(jax.vmap(
          lambda k: rng.named(k, 0, 'consistency'))(keys), (16, 16))
      again = judge(consistency.transform(draws, seen[kind]))
      terms[kind] = jnp.mean((again - logits[kind])**2)
    gradient = jax.grad(lambda x: jnp.sum(judge(x)))(seen['real'])
    kept = seen['real'] == inputs['image']
    r1 = 5 * jnp.mean(jnp.sum((gradient * kept)**2, (1, 2, 3)))
    elsewhere = 5 * jnp.mean(jnp.sum(gradient**2, (1, 2, 3)))
    penalty = lecam.regularizer(logits['real'], logits['fake'],
                                state.aux['lecam'])
    return logits, terms, r1, elsewhere, penalty

  logits, terms, r1, elsewhere, penalty = by_hand(inputs)
  assert elsewhere > 1.1 * r1
  expected = {
      'loss/d': np.mean(np.log1p(np.exp(-logits['real'])))
                + np.mean(np.log1p(np.exp(logits['fake']))),
      'penalty/consistency_real': 10 * terms['real'],
      'penalty/consistency_fake': 5 * terms['fake'],
      'penalty/lecam': 0.3 * penalty, 'penalty/r1': r1}
  for name, found in expected.items():
    np.testing.assert_allclose(logs[name], found, rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(value, sum(expected.values()), rtol=1e-4)


@pytest.mark.slow
def test_g_learns_through_the_augmentation(dcgan):
  """Its gradient is that of -log D(A(G(z))), none from what is cut."""
  system, state, inputs = dcgan
  keys = inputs['augment_fake']

  def loss(params, inputs):
    return system.g_loss(state, None, params, state.mvars, inputs)[0]

  def by_hand(params, inputs):
    fake, _ = state_lib.apply_net(system.nets['G'], params['G'],
                                  state.mvars['G'], inputs['z'], train=True)
    x = diff_augment.augment(keys, fake, 'cutout')
    logits, _ = state_lib.apply_net(system.nets['D'], state.params['D'],
                                    state.mvars['D'], x, train=True)
    return jnp.mean(jax.nn.softplus(-logits))

  params = {'G': state.params['G']}
  (value, found), (expected_value, expected) = (
      jax.jit(jax.value_and_grad(f), compiler_options=FAST)(params, inputs)
      for f in (loss, by_hand))
  np.testing.assert_allclose(value, expected_value, rtol=1e-5)
  class_conditional.assert_close(found, expected, 1e-4)
  assert max(np.abs(x).max() for x in jax.tree.leaves(found)) > 1e-4


@pytest.mark.slow
def test_devices_and_microbatches_change_nothing():
  """64 on one device, and on eight in four pieces: one and the same step."""
  values = {**ALL, 'loss.n_critic': 2, 'loss.generator_batches': 1,
            'loss.lecam.start': 1, 'model.ch_G': 4, 'model.ch_D': 4,
            'model.z_dim': 6}
  results = []
  for devices, pieces in ((1, 1), (8, 4)):
    system = class_conditional.without_batch_norm(class_conditional.make(
        'sngan', batch=64, microbatches=pieces, **values))
    program = class_conditional.program(system, devices, 64)
    # At a step at which LeCam is a term, with averages to compare with.
    state = program.state
    put = lambda x: jax.device_put(x, state.step.sharding)  # noqa: B023, E731
    state = state.replace(step=put(jnp.int32(5)), aux={'lecam': {
        'real': put(jnp.float32(0.2)), 'fake': put(jnp.float32(-0.1))}})
    results.append(dataclasses.replace(program, state=state).run())
  (expected, logs), (found, found_logs) = results
  assert logs['penalty/lecam'] > 0 and logs['penalty/consistency_fake'] > 0
  for field in ('opt', 'mvars', 'aux'):
    class_conditional.assert_close(
        getattr(found, field), getattr(expected, field), 1e-4)
  for name, value in logs.items():
    np.testing.assert_allclose(found_logs[name], value, rtol=1e-4, atol=1e-6)
