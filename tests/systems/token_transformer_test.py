"""The second stage: its sequences, losses, step, samples and windows."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import official_vqgan
from PIL import Image
import pytest
import runs
import states
import token_data
import torch

from gans_jax import sample
from gans_jax.convert import taming as convert
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import state as state_lib
from gans_jax.nn import transformer
from gans_jax.systems import token_transformer

FAST = {'xla_backend_optimization_level': 0}
TINY = {'model.layers': 2, 'model.heads': 4, 'model.width': 32,
        'optimizer.T.lr': 1e-2}
CODES, GRID = 20, (3, 4)


def make(grid=GRID, cond_grid=GRID, classes=3, **values):
  config = config_lib.base('token_transformer')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': 8, **TINY,
                             **values})
  return token_transformer.create(
      config, token_data.spec(CODES, grid, classes, cond_grid))


def batch_of(system, n=8, seed=0):
  return token_data.batch(system, CODES, n, seed)


@functools.cache
def compiled(**values):
  system = make(**values)
  return system, states.initial(system, states.normal(0.02)), jax.jit(
      lambda state, batch: system.train_step(state, batch, {}),
      compiler_options=FAST)


# --- Sequences and losses ---------------------------------------------------


@pytest.mark.parametrize('condition', token_transformer.CONDITIONS)
def test_loss_is_the_official_one(condition):
  """`Net2NetTransformer.forward` and its cross-entropy, written out."""
  system = make(**{'model.condition': condition})
  p = system.prefix({'label': jnp.zeros(1, jnp.int32),
                     'cond_tokens': jnp.zeros((1, *GRID), jnp.int32)},
                    1).shape[1]
  model = official_vqgan.gpt(vocabulary=CODES, positions=p + 11)
  params = convert.transformer(official_vqgan.arrays(model))['params']
  batch = {key: x[0] for key, x in batch_of(system).items()}
  s = torch.from_numpy(batch['tokens'].reshape(8, -1)).long()
  c = {'none': np.zeros((8, 1), np.int64),
       'class': batch.get('label', np.zeros(8))[:, None],
       'tokens': batch.get('cond_tokens', np.zeros((8, 12))).reshape(8, -1)}
  c = torch.from_numpy(c[condition].astype(np.int64))
  logits = model(torch.cat([c, s], 1)[:, :-1])[0][:, c.shape[1] - 1:]
  expected = torch.nn.functional.cross_entropy(
      logits.reshape(-1, CODES), s.reshape(-1))
  ours, (_, logs) = jax.jit(system.loss, compiler_options=FAST)(
      {'T': params}, {}, batch)
  np.testing.assert_allclose(ours, expected.detach(), rtol=1e-4)
  np.testing.assert_allclose(logs['bits_per_token'],
                             expected.detach() / np.log(2), rtol=1e-4)
  nll = jax.jit(system.outputs['nll'], compiler_options=FAST)(
      {'T': {'params': params}}, batch)
  np.testing.assert_allclose(nll.mean() / 12, ours, rtol=1e-4)


@pytest.mark.parametrize('values', [
    pytest.param({}, marks=pytest.mark.slow),
    {'model.condition': 'class', 'model.dropout': 0.1},
    pytest.param({'model.condition': 'tokens', 'model.keep': 0.9},
                 marks=pytest.mark.slow)],
    ids=['none', 'class_dropout', 'tokens_keep'])
def test_learns_a_batch(values):
  system, state, step = compiled(**values)
  losses = []
  for _ in range(12):
    state, logs = step(state, batch_of(system))
    chex.assert_tree_all_finite(logs)
    losses.append(float(logs['loss/t']))
  assert abs(losses[0] - np.log(CODES)) < 0.2
  assert losses[-1] < losses[0] - 0.2


@pytest.mark.slow
def test_eight_devices_are_one():
  system, state, step = compiled(**{'model.condition': 'class',
                                    'model.dropout': 0.1})
  batch = batch_of(system)
  _, alone = step(state, batch)
  mesh = mesh_lib.make(8, 1)
  with jax.set_mesh(mesh):
    _, split = jax.jit(
        lambda state, batch: system.train_step(state, batch, {}),
        compiler_options=FAST)(state, mesh_lib.to_global(batch, mesh))
  for name in alone:
    np.testing.assert_allclose(split[name], alone[name], rtol=1e-4,
                               err_msg=name)


def test_codes_that_are_not_kept_are_uniform():
  keys = jax.random.split(jax.random.key(0), 500)
  s = jnp.full((500, 20), 3)
  found = np.asarray(token_transformer.corrupt(s, keys, 0.9, 10))
  # One in ten is drawn anew, and one in ten of those is the same.
  np.testing.assert_allclose(np.mean(found != 3), 0.09, atol=0.01)
  counts = np.bincount(found[found != 3], minlength=10)
  assert counts[3] == 0 and np.delete(counts, 3).min() > 60


def test_weight_decay_is_of_kernels_alone():
  """With no gradient at all, kernels shrink and the rest stays."""
  system, state, _ = compiled()
  zeros = jax.tree.map(jnp.zeros_like, {'T': state.params['T']})
  updates, _ = system.tx['T'].update(zeros, state.opt['T'],
                                     {'T': state.params['T']})
  kernel = state.params['T']['head']['kernel']
  np.testing.assert_allclose(updates['T']['head']['kernel'],
                             -1e-2 * 0.01 * kernel, rtol=1e-5)
  np.testing.assert_array_equal(updates['T']['tok_emb']['embedding'], 0)
  np.testing.assert_array_equal(updates['T']['ln_f']['scale'], 0)


# --- Samples ----------------------------------------------------------------


def variables_of(system):
  """Weights far from their start, so that logits differ."""
  params = states.initial(system, states.normal(0.2)).params
  return {'T': {'params': params['T']}}


@functools.cache
def drawn(condition, cached):
  system = make(**{'model.condition': condition})
  conditions = {key: x[0] for key, x in batch_of(system, 4).items()
                if key in system.conditions}
  keys = jax.random.split(jax.random.key(1), 4)
  run = jax.jit(lambda variables: system.tokens(
      variables, keys, conditions, top_k=15, top_p=0.95, cached=cached),
      compiler_options=FAST)
  return np.asarray(run(variables_of(system)))


@pytest.mark.parametrize('condition', [
    'class', 'tokens', pytest.param('none', marks=pytest.mark.slow)])
def test_cached_codes_are_the_uncached_ones(condition):
  np.testing.assert_array_equal(drawn(condition, True),
                                drawn(condition, False))
  assert drawn(condition, True).shape == (4, *GRID)


def test_classes_beyond_the_codebook():
  """They are prefixes, and never drawn."""
  system = make(classes=50, **{'model.condition': 'class'})
  assert system.nets['T'].vocabulary == 50
  keys = jax.random.split(jax.random.key(0), 64)
  found = jax.jit(lambda v: system.tokens(
      v, keys, {'label': jnp.full(64, 49)}), compiler_options=FAST)(
          variables_of(system))
  assert found.max() < CODES and len(np.unique(found)) == CODES


# --- The sliding window -----------------------------------------------------


def test_windows_of_the_official_notebook():
  """The sheet's checks: H 32, window 16; 9 starts at 1, 24 and 31 at 16."""
  place = [int(token_transformer.place_in_window(i, 32, 16))
           for i in range(32)]
  start = [i - p for i, p in enumerate(place)]
  assert place[:9] == list(range(9)) and start[9] == 1
  assert (start[24], start[31], place[31]) == (16, 16, 15)
  assert min(start) == 0 and max(start) == 16
  assert all(a <= b for a, b in zip(start, start[1:], strict=False))
  assert [int(token_transformer.place_in_window(i, 16, 16))
          for i in range(16)] == list(range(16))


@pytest.mark.parametrize('condition', [
    'tokens', pytest.param('none', marks=pytest.mark.slow)])
def test_a_window_as_large_as_the_grid_changes_nothing(condition):
  system = make(**{'model.condition': condition})
  variables = variables_of(system)
  keys = jax.random.split(jax.random.key(1), 4)
  conditions = {key: x[0] for key, x in batch_of(system, 4).items()}

  def prefix(row, column):
    return system.prefix(conditions, 4)

  def draw(logits, i):
    return token_transformer.token_sampling.draw(logits, keys, i, 1.0, 15, .95)

  found = jax.jit(lambda v: token_transformer.sample_windows(
      system.nets['T'], v['T'], prefix, 4, GRID, GRID, draw),
      compiler_options=FAST)(variables)
  np.testing.assert_array_equal(found, drawn(condition, True))


def test_larger_grids_are_the_official_loop():
  """The likeliest codes by the notebook's loop over the official GPT."""
  system = make(grid=(4, 4), cond_grid=(4, 4), **{'model.condition': 'tokens'})
  model = official_vqgan.gpt(vocabulary=CODES, positions=31)
  variables = {'T': convert.transformer(official_vqgan.arrays(model))}
  cond = np.random.default_rng(0).integers(0, CODES, (2, 6, 5), np.int32)
  keys = jax.random.split(jax.random.key(0), 2)
  ours = jax.jit(lambda v: system.tokens(
      v, keys, {'cond_tokens': cond}, temperature=0.0, height=6, width=5),
      compiler_options=FAST)(variables)

  idx = torch.zeros((2, 6, 5), dtype=torch.long)
  for i in range(6):
    li = i if i <= 2 else 4 - (6 - i) if 6 - i < 2 else 2
    for j in range(5):
      lj = j if j <= 2 else 4 - (5 - j) if 5 - j < 2 else 2
      rows, columns = slice(i - li, i - li + 4), slice(j - lj, j - lj + 4)
      patch = torch.cat([
          torch.from_numpy(cond[:, rows, columns].reshape(2, -1)).long(),
          idx[:, rows, columns].reshape(2, -1)], 1)
      with torch.no_grad():
        logits = model(patch[:, :-1])[0][:, -16:].reshape(2, 4, 4, CODES)
      idx[:, i, j] = logits[:, li, lj].argmax(-1)
  np.testing.assert_array_equal(ours, idx)


# --- Refusals ---------------------------------------------------------------


@pytest.mark.parametrize('values, words', [
    ({'model.condition': 'label'}, 'model.condition'),
    ({'model.width': 30}, 'heads'),
    ({'model.dropout': 1.0}, 'probability'),
    ({'model.keep': -0.1}, 'probability'),
    ({'model.vocabulary': 19}, '20 are needed'),
    ({'model.positions': 11}, '12 are needed'),
    ({'model.layers': 0}, 'layers'),
    ({'model.condition': 'class', 'classes': 0}, 'no labels'),
    ({'model.condition': 'tokens', 'cond_grid': None}, 'cond_tokenizer'),
    ({'grid': (3, 4, 2)}, 'grid'),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError, match=words):
    make(**values)


@pytest.mark.parametrize('options, words', [
    ({'temperature': -1.0}, 'temperature'), ({'top_k': -1}, 'top_k'),
    ({'top_p': 0.0}, 'top_p'), ({'height': 2}, 'larger, not smaller')])
def test_bad_options_are_refused(options, words):
  system = make()
  with pytest.raises(errors.UserError, match=words):
    system.tokens({}, jax.random.split(jax.random.key(0), 2), **options)


def test_a_condition_that_is_missing_is_refused():
  system = make(**{'model.condition': 'tokens'})
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.raises(errors.UserError, match='needs cond_tokens'):
    system.tokens({}, keys)
  with pytest.raises(errors.UserError, match='as many of the condition'):
    system.tokens({'T': {}}, keys, {'cond_tokens': jnp.zeros((2, *GRID))},
                  height=6)
  with pytest.raises(errors.UserError, match='no latents'):
    system.latents(keys)


def test_sizes():
  """Positions: the prefix and all codes but the last."""
  for condition, positions in (('none', 12), ('class', 12), ('tokens', 23)):
    net = make(**{'model.condition': condition}).nets['T']
    assert isinstance(net, transformer.GPT) and net.positions == positions
    params = jax.eval_shape(net.init, jax.random.key(0),
                            jnp.zeros((1, 2), jnp.int32))
    assert state_lib.count(params) == (
        2 * 12 * 32**2 + 2 * 13 * 32 + 2 * 32 + 2 * CODES * 32
        + 32 * positions)


# --- Both stages ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures('compile_cache')
@pytest.mark.parametrize('second', ['token_transformer', 'maskgit'])
def test_both_stages_by_commands(second, tmp_path):
  """VQGAN, then a prior on its codes, then samples; one larger."""
  first = f'{runs.ROOT}/experiments/vqgan/emoji64.py:debug'
  assert runs.train(first, tmp_path / 'first',
                    '--config.mesh.data=1') == cli.DONE
  spec = f'{runs.ROOT}/experiments/{second}/emoji64.py:debug'
  assert runs.train(
      spec, tmp_path / 'second', '--config.mesh.data=1',
      f'--config.data.tokenizer={tmp_path / "first"}',
      '--config.data.resolution=16') == cli.DONE
  generator = runs.generator(tmp_path / 'second')
  assert generator.system.grid == (8, 8) and generator.system.codes == 32
  assert generator([0, 1]).shape == (2, 16, 16, 3)
  options = ['--option=steps=3', '--option=schedule=linear']
  size = (16, 16)
  if second == 'token_transformer':
    options, size = ['--option=top_k=9', '--option=height=12'], (24, 16)
  assert cli.call(sample.main, [
      f'--workdir={tmp_path / "second"}', '--seeds=0-1', *options,
      f'--out={tmp_path / "out"}']) == cli.DONE
  pictures = [Image.open(path) for path in sorted(
      (tmp_path / 'out').rglob('*.png'))]
  assert size in {picture.size[::-1] for picture in pictures}
