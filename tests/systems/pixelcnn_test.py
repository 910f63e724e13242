"""The PixelCNN prior: loss, training, devices, what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import states
import token_data

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import system as system_lib
from gans_jax.systems import pixelcnn

FAST = {'xla_backend_optimization_level': 0}
CODES, GRID = 12, (3, 4)
TINY = {'model.dim': 4, 'model.layers': 2, 'model.head': 8,
        'model.first_kernel': 3, 'model.class_conditional': True,
        'optimizer.P.lr': 1e-2}


def make(**values):
  config = config_lib.base('pixelcnn')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': 8, **TINY,
                             **values})
  return pixelcnn.create(config, token_data.spec(CODES, GRID))


def batch_of(system, n=8):
  return token_data.batch(system, CODES, n)


def test_loss_is_the_cross_entropy_of_every_token():
  system = make()
  state = states.initial(system, states.normal(0.3))
  batch = {key: x[0] for key, x in batch_of(system).items()}
  logits = np.asarray(jax.jit(
      system.nets['P'].apply, compiler_options=FAST)(
          {'params': state.params['P']}, batch['tokens'], batch['label']),
                      np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  right = np.take_along_axis(log_p, batch['tokens'][..., None], -1)[..., 0]
  loss, (_, logs) = system.loss(state.params, {}, batch)
  np.testing.assert_allclose(loss, -right.mean(), rtol=1e-5)
  np.testing.assert_allclose(logs['bits_per_token'],
                             -right.mean() / np.log(2), rtol=1e-5)
  np.testing.assert_allclose(
      logs['accuracy'], (logits.argmax(-1) == batch['tokens']).mean())
  nll = system.outputs['nll']({'P': {'params': state.params['P']}}, batch)
  np.testing.assert_allclose(nll, -right.sum((1, 2)), rtol=1e-5)


def test_without_classes_no_label_is_asked_for():
  system = make(**{'model.class_conditional': False})
  assert system.requires == ('tokens',) and system.conditions == ()
  state = states.initial(system)
  _, logs = jax.jit(system.train_step, compiler_options=FAST)(
      state, batch_of(system), {})
  chex.assert_tree_all_finite(logs)


def test_images_of_classes_are_learned():
  """Each class has one image, which is then the likeliest and is sampled."""
  system = make(**{'optimizer.P.lr': 3e-2})
  draw = np.random.default_rng(1)
  images = draw.integers(0, CODES, (3, *GRID), np.int32)
  label = np.arange(9, dtype=np.int32)[None] % 3
  batch = {'tokens': images[label], 'label': label}

  def train(state):
    return jax.lax.scan(lambda s, _: system.train_step(s, batch, {}), state,
                        length=200)

  state, logs = jax.jit(train, compiler_options=FAST)(states.initial(system))
  # A net that knows nothing has log2 12 = 3.6 bits, one blind to the class
  # log2 3 / 12 = 0.13.
  assert logs['bits_per_token'][0] > 3 and logs['bits_per_token'][-1] < 0.07
  variables = {'P': {'params': state.params['P']}}
  found = system.tokens(variables, rng.from_seeds(np.arange(3)),
                        {'label': jnp.arange(3)}, temperature=0.0)
  np.testing.assert_array_equal(found, images)


@pytest.mark.slow
def test_eight_devices_and_microbatches_change_nothing():
  found = []
  for devices, microbatches in ((1, 1), (8, 2)):
    system = make(microbatches=microbatches, batch_size=16)
    mesh = mesh_lib.make(devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
      state = states.initial(system, states.normal(0.3))
      batch = mesh_lib.to_global(batch_of(system, 16), mesh)
      state, logs = jax.jit(system.train_step, compiler_options=FAST)(
          state, batch, {})
    found.append(mesh_lib.to_host((state.params, state.opt, logs)))
  chex.assert_trees_all_close(*found, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize('values, words', [
    ({'model.kernel': 4}, 'odd number'),
    ({'model.first_kernel': 1}, 'odd number'),
    ({'model.dim': 0}, 'model.dim'),
    ({'model.layers': -1}, 'model.layers')])
def test_refuses(values, words):
  with pytest.raises(errors.UserError, match=words):
    make(**values)


@pytest.mark.parametrize('options', [{'temperature': -1.0}, {'top_k': -2}])
def test_refuses_options_of_sampling(options):
  system = make()
  abstract = system_lib.abstract_state(system, 0)
  with pytest.raises(errors.UserError, match='negative'):
    system.tokens({'P': {'params': abstract.params['P']}},
                  rng.from_seeds(np.arange(2)), {}, **options)


def test_has_no_latents():
  with pytest.raises(errors.UserError):
    make().latents(rng.from_seeds(np.arange(2)))
