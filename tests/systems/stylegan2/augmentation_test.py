"""StyleGAN2 with ADA: what is augmented, and how p moves and lasts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from gans_jax.augment import ada
from gans_jax.augment import controller as controller_lib
from gans_jax.core import checkpoint
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import rng
from gans_jax.data import spec as spec_lib
from gans_jax.systems import stylegan2
from gans_jax.systems.stylegan2 import presets

FAST = {'xla_backend_optimization_level': 0}
SMALL = {'model.channel_base': 32, 'model.channel_max': 8, 'model.z_dim': 6,
         'model.w_dim': 8, 'model.mapping_layers': 1}
# Without penalties, the step compiles in half the time.
PLAIN = {'loss.pl_weight': 0.0, 'loss.r1_gamma': 0.0, 'loss.style_mixing': 0.0}
BATCH = 8


def make(**values):
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': BATCH, **SMALL,
                             **values})
  return stylegan2.create(
      config, spec_lib.DataSpec(8, 3, 0, 100, ('image',)))


def batch_of(seed=0):
  generator = np.random.default_rng(seed)
  return {'image': generator.integers(0, 256, (1, BATCH, 8, 8, 3), np.uint8)}


class Spy(controller_lib.Controller):
  """Augments nothing and remembers what it was asked to."""

  seen = []

  def augment(self, keys, images, memory):
    assert set(memory) == {'p'}
    self.seen.append((keys.shape, images.shape))
    return images


def test_everything_d_sees_is_augmented():
  """Fakes of both players, reals, and reals under R1; a key each."""
  system = make(**{'augment.kind': 'fixed', 'augment.p': 0.5})
  spy = Spy(**{f.name: getattr(system.controller, f.name)
               for f in dataclasses.fields(system.controller)})
  system = dataclasses.replace(system, controller=spy)
  state = jax.eval_shape(system.init, jax.random.key(0))
  jax.eval_shape(lambda s, b: system.train_step(s, b, {}), state, batch_of())
  assert spy.seen == 4 * [((BATCH,), (BATCH, 8, 8, 3))]


def test_r1_is_of_the_images_before_augmentation():
  """gamma / 2 E|d D(T(x)) / dx|^2: contrast c multiplies the gradient by c."""
  system = make(**{'augment.kind': 'fixed', 'augment.p': 1.0,
                   'augment.pipeline': 'color', 'model.mbstd_channels': 0})
  contrast = ada.Pipeline(contrast=1.0)
  system = dataclasses.replace(system, controller=dataclasses.replace(
      system.controller, pipeline=contrast))
  state = jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))
  x = jnp.asarray(batch_of()['image'][0], jnp.float32) / 127.5 - 1
  keys = rng.from_seeds(np.arange(BATCH))
  found = jax.jit(system._r1, compiler_options=FAST)(
      state.params['D'], {'image': x}, keys, state)

  c = ada.draw(keys, x.shape[1:], 1.0, contrast)['contrast'].reshape(
      -1, 1, 1, 1)
  gradient = jax.jit(jax.grad(lambda x: jnp.sum(system.nets['D'].apply(
      {'params': state.params['D']}, x, None))), compiler_options=FAST)(c * x)
  expected = 10 / 2 * np.mean(np.sum((c * gradient)**2, (1, 2, 3)))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # At the images that D sees it would be another number.
  other = 10 / 2 * np.mean(np.sum(gradient**2, (1, 2, 3)))
  assert abs(other / expected - 1) > 0.05


@pytest.fixture(scope='module')
def overfitted():
  """(system, jitted step, [(state, logs)]) of a D that learns 8 images."""
  system = make(**{**PLAIN, 'augment.kind': 'ada', 'augment.pipeline': 'color',
                   'augment.kimg': 0.2, 'optimizer.D.lr': 0.02,
                   'optimizer.G.lr': 1e-6})
  state = jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))
  step = jax.jit(lambda s, b: system.train_step(s, b, {}),
                 compiler_options=FAST)
  history = [(state, {})]
  for _ in range(24):
    history.append(step(history[-1][0], batch_of()))
  return system, step, history


def test_p_rises_when_d_overfits(overfitted):
  """By 8 * 4 / 200 each time that r_t is above 0.6, as the logs say."""
  _, _, history = overfitted
  assert history[-1][1]['signs/real'] > 0.9
  p, waiting = 0.0, []
  for state, logs in history[1:]:
    np.testing.assert_allclose(logs['augment/p'], p, atol=1e-6)
    waiting.append(float(logs['signs/real']))
    if len(waiting) == 4:
      p = max(p + np.sign(np.mean(waiting) - 0.6) * 8 * 4 / 200, 0)
      np.testing.assert_allclose(state.aux['augment']['r'], np.mean(waiting),
                                 atol=1e-6)
      waiting = []
    np.testing.assert_allclose(state.aux['augment']['p'], p, atol=1e-6)
  assert p >= 3 * 8 * 4 / 200


def test_a_checkpoint_keeps_p_and_what_it_waits_for(overfitted, tmp_path):
  """Saved between two adjustments, the run goes on exactly."""
  system, step, history = overfitted
  state = history[22][0]
  assert float(state.aux['augment']['sums']['signs/real']) != 0
  with checkpoint.Checkpointer(str(tmp_path)) as checkpoints:
    checkpoints.save(22, state, {'step': 22}, system.config)
    checkpoints.wait()
    restored = checkpoints.restore_variables(22, ['aux']).state['aux']
  jax.tree.map(np.testing.assert_array_equal, restored, dict(state.aux))
  # Through NumPy, so that they are on no device in particular.
  state = state.replace(aux=jax.tree.map(lambda x: jnp.asarray(np.asarray(x)),
                                         restored))
  for i in (23, 24):
    state, logs = step(state, batch_of())
    assert logs['augment/p'] == history[i][1]['augment/p']
  assert state.aux['augment']['p'] == history[24][0].aux['augment']['p']


def test_validation_images_of_adarv(tmp_path):
  """D's mean logit on the next batch of them, in turn."""
  for i in range(12):
    Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(
        tmp_path / f'{i:02}.png')
  system = make(**{**PLAIN, 'augment.kind': 'adarv', 'data.resolution': 8,
                   'augment.valid_source': f'folder:{tmp_path}',
                   'augment.valid_split': 'train', 'model.mbstd_channels': 0,
                   'augment.pipeline': 'color'})
  frozen = system.loss_constants()
  np.testing.assert_array_equal(
      frozen['valid']['image'][:, 0, 0, 0], 20 * np.arange(12))
  state = jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))
  logits = jax.jit(system._valid_logits, compiler_options=FAST)
  d = jax.jit(lambda x: system.nets['D'].apply(
      {'params': state.params['D']}, x, None), compiler_options=FAST)
  for done, rows in ((0, [*range(8)]), (1, [8, 9, 10, 11, 0, 1, 2, 3])):
    at = state.replace(step=jnp.int32(done))
    x = frozen['valid']['image'][rows] / np.float32(127.5) - 1
    np.testing.assert_allclose(logits(at, frozen['valid']), np.mean(d(x)),
                               rtol=1e-5)
  # The step consumes them.
  after, logs = jax.eval_shape(system.train_step, state, batch_of(), frozen)
  assert {'logits/valid', 'augment/r', 'augment/p'} <= set(logs)
  assert jax.tree.map(jnp.shape, after.aux) == jax.tree.map(
      jnp.shape, state.aux)
  other = make(**{'augment.kind': 'adarv', 'data.source': 'emoji:noto'})
  with pytest.raises(errors.UserError, match='test'):
    other.loss_constants()


def test_without_augmentation_nothing_is_kept():
  system = make()
  state = jax.eval_shape(system.init, jax.random.key(0))
  assert 'augment' not in state.aux and system.loss_constants() == {}
  assert system.notes == ()
  with pytest.raises(errors.UserError, match=r'augment\.kind'):
    make(**{'augment.kind': 'on'})


def test_notes_show_the_preset():
  values = {k: v for k, v in presets.values('auto', 8, 1).items()
            if k not in ('total_kimg', 'model.channel_base',
                         'model.mapping_layers', 'batch_size')}
  first, changed = make(**values).notes
  assert 'preset auto, for 8 px on 1 device(s): batch 32' in first
  assert 'batch_size=8 (preset: 32)' in changed
