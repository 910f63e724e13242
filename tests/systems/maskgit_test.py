"""MaskGIT: schedules, masks, loss, parallel decoding, sizes."""

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
from gans_jax.core import state as state_lib
from gans_jax.nn import masked_transformer
from gans_jax.systems import maskgit

FAST = {'xla_backend_optimization_level': 0}
CODES, GRID = 12, (3, 4)
TINY = {'model.layers': 2, 'model.heads': 2, 'model.width': 16,
        'model.hidden': 32, 'optimizer.T.lr': 1e-2, 'optimizer.T.warmup': 0}


def make(classes=3, grid=GRID, **values):
  config = config_lib.base('maskgit')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': 8, **TINY,
                             **values})
  return maskgit.create(config, token_data.spec(CODES, grid, classes))


def batch_of(system, n=8, seed=0):
  return token_data.batch(system, CODES, n, seed)


# --- Sizes ------------------------------------------------------------------


@pytest.mark.parametrize('positions, count', [
    (257, 172_457_193), (1025, 173_047_017)])
def test_parameter_counts(positions, count):
  net = masked_transformer.MaskedTransformer(1024 + 1000 + 1, positions)
  found = jax.eval_shape(net.init, jax.random.key(0),
                         jnp.zeros((1, 2), jnp.int32))
  assert state_lib.count(found) == count


def test_words_are_codes_classes_and_the_mask():
  system = make()
  net = system.nets['T']
  assert net.vocabulary == CODES + 3 + 1 and net.positions == 13
  alone = make(**{'model.class_conditional': False})
  assert alone.nets['T'].vocabulary == CODES + 2
  assert alone.requires == ('tokens',)


# --- Schedules --------------------------------------------------------------


@pytest.mark.parametrize('name, values', [
    # Of the official code at N = 256.
    ('linear', (.875, .5, .1)), ('cosine', (.98078525, .70710677, .15643449)),
    ('square', (.984375, .75, .19)), ('cubic', (.9980469, .875, .271)),
    ('sqrt', (.6464466, .29289323, .05131674)),
    ('logarithmic', (.375, .125, .01900039)),
    ('exponential', (.9921875, .9375, .4256509))])
def test_schedules(name, values):
  r = jnp.array([.125, .5, .9])
  np.testing.assert_allclose(maskgit.gamma(name, r, 256), values, rtol=2e-5)
  np.testing.assert_allclose(maskgit.gamma(name, 1.0, 256), 1e-6, rtol=1e-5)
  np.testing.assert_allclose(maskgit.gamma(name, 1e-9, 256), 1, rtol=1e-2)


def counts(steps, number=256):
  """Codes that are unknown to the net, at every step of decoding."""
  seen = []

  def logits(tokens):
    jax.debug.callback(lambda n: seen.append(int(n)), jnp.sum(tokens < 0))
    return jnp.zeros((1, number, 4))

  jax.block_until_ready(maskgit.decode(
      logits, jax.random.split(jax.random.key(0), 1),
      jnp.full((1, number), -1), steps=steps))
  jax.effects_barrier()
  return seen


def test_masked_after_each_step():
  assert counts(8)[1:] == [251, 236, 212, 181, 142, 97, 49]
  assert counts(12)[1:] == [253, 247, 236, 221, 203, 181, 155, 127, 97, 66, 33]


# --- Training ---------------------------------------------------------------


def test_masks_of_training():
  """ceil(gamma(r) N) of them; each place as often as any."""
  keys = jax.random.split(jax.random.key(0), 4000)
  found = np.asarray(jax.vmap(lambda k: maskgit.mask(k, 16, 'cosine'))(keys))
  assert found.sum(1).min() >= 1
  # The mean of ceil(16 cos(pi r / 2)): that of 16 x, and nearly a half.
  r = (np.arange(100_000) + 0.5) / 100_000
  expected = np.ceil(16 * np.cos(np.pi * r / 2)).mean()
  np.testing.assert_allclose(found.sum(1).mean(), expected, rtol=0.02)
  np.testing.assert_allclose(found.mean(0), expected / 16, atol=0.03)


def test_loss_is_of_masked_codes_alone():
  """By hand: the net sees masks, not what they hide."""
  system = make(**{'model.dropout': 0.0, 'loss.label_smoothing': 0.2})
  params = states.initial(system, states.normal(0.3)).params
  batch = {key: jnp.asarray(x[0]) for key, x in batch_of(system, 4).items()}
  keys = jax.random.split(jax.random.key(5), 4)
  loss, (_, logs) = jax.jit(system.loss, compiler_options=FAST)(
      params, {}, {**batch, 'key': keys})
  masked = np.asarray(jax.vmap(
      lambda key: maskgit.mask(key, 12, 'cosine'))(keys))
  tokens = np.asarray(batch['tokens']).reshape(4, 12)
  read = np.where(masked, CODES + 3, tokens)
  read = np.concatenate([CODES + np.asarray(batch['label'])[:, None], read], 1)
  logits = jax.jit(system.nets['T'].apply, compiler_options=FAST)(
      {'params': params['T']}, read)
  log_p = np.asarray(jax.nn.log_softmax(logits[:, 1:, :CODES], -1), np.float64)
  right = np.take_along_axis(log_p, tokens[..., None], 2)[..., 0]
  each = -(0.8 * right + 0.2 * log_p.mean(-1))
  expected = np.mean((each * masked).sum(1) / masked.sum(1))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(logs['masked'], masked.mean(), rtol=1e-6)


@pytest.mark.slow
def test_learns_a_batch():
  system = make()
  state, batch, losses = states.initial(system), batch_of(system), []
  step = jax.jit(lambda state, batch: system.train_step(state, batch, {}),
                 compiler_options=FAST)
  for _ in range(25):
    state, logs = step(state, batch)
    losses.append(float(logs['loss/t']))
  chex.assert_tree_all_finite(logs)
  assert np.mean(losses[-5:]) < losses[0] - 0.1


@pytest.mark.slow
def test_eight_devices_are_one():
  system = make()
  state, batch = states.initial(system), batch_of(system)

  def train_step(state, batch):
    return system.train_step(state, batch, {})

  _, alone = jax.jit(train_step, compiler_options=FAST)(state, batch)
  mesh = mesh_lib.make(8, 1)
  with jax.set_mesh(mesh):
    _, split = jax.jit(train_step, compiler_options=FAST)(
        state, mesh_lib.to_global(batch, mesh))
  for name in alone:
    np.testing.assert_allclose(split[name], alone[name], rtol=1e-4,
                               err_msg=name)


# --- Decoding ---------------------------------------------------------------


def test_decoding_is_of_the_example_and_keeps_what_is_known():
  system = make()
  params = states.initial(system, states.normal(0.3)).params
  variables = {'T': {'params': params['T']}}
  keys = jax.random.split(jax.random.key(0), 4)
  label = jnp.array([0, 1, 2, 0])
  known = np.full((4, *GRID), -1, np.int32)
  known[:, 0] = 7

  def run(keys, label, known):
    return system.tokens(variables, keys, {'label': label}, steps=4,
                         known=known)

  run = jax.jit(run, compiler_options=FAST)
  found = np.asarray(run(keys, label, known))
  assert found.shape == (4, *GRID)
  assert found.min() >= 0 and found.max() < CODES
  np.testing.assert_array_equal(found[:, 0], 7)
  turned = run(keys[::-1], label[::-1], known)
  np.testing.assert_array_equal(turned[::-1], found)


def test_one_step_draws_all_codes_at_once():
  """From the softmax: T = 1."""
  p = np.array([.5, .3, .2])
  keys = jax.random.split(jax.random.key(0), 2000)
  found = maskgit.decode(
      lambda tokens: jnp.broadcast_to(jnp.log(jnp.asarray(p))[None, None],
                                      (2000, 4, 3)),
      keys, jnp.full((2000, 4), -1), steps=1)
  share = np.bincount(np.asarray(found).ravel(), minlength=3) / 8000
  np.testing.assert_allclose(share, p, atol=0.02)


def test_the_surest_stay():
  """Without noise, codes are fixed in the order of their probability."""
  order = np.random.default_rng(0).permutation(8)
  logits = np.zeros((1, 8, 5), np.float32)
  logits[0, np.arange(8), 2] = 3 + order
  read = []

  def logits_of(tokens):
    jax.debug.callback(lambda t: read.append(np.asarray(t[0])), tokens)
    return jnp.asarray(logits)

  found = maskgit.decode(
      logits_of, jax.random.split(jax.random.key(0), 1), jnp.full((1, 8), -1),
      steps=4, schedule='linear', temperature=0.0, sample_temperature=0.0)
  jax.block_until_ready(found)
  jax.effects_barrier()
  np.testing.assert_array_equal(found, 2)
  for t, tokens in enumerate(read):
    assert set(np.flatnonzero(tokens >= 0)) == set(
        np.flatnonzero(order >= 8 - 2 * t))


# --- Refusals ---------------------------------------------------------------


@pytest.mark.parametrize('values, words', [
    ({'loss.schedule': 'cosin'}, "Did you mean 'cosine'"),
    ({'model.heads': 3}, 'heads'), ({'model.dropout': 1.0}, 'dropout'),
    ({'classes': 0}, 'no labels'), ({'model.layers': 0}, 'layers')])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError, match=words):
    make(**values)


@pytest.mark.parametrize('options', [
    {'steps': 0}, {'schedule': 'x'}, {'temperature': -1.0}, {'first': 8}])
def test_bad_options_are_refused(options):
  system = make()
  with pytest.raises(errors.UserError, match='at least 1'):
    system.tokens({}, jax.random.split(jax.random.key(0), 2), **options)
