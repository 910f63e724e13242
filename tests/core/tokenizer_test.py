"""The chain of stages: a tiny VQ-VAE, its tokens, a PixelCNN on them."""

import dataclasses
import pathlib
import pickle
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import runs

from gans_jax import sample
from gans_jax.core import checkpoint
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import images as images_lib
from gans_jax.core import sampler
from gans_jax.core import tokenizer
from gans_jax.core import workdir as workdir_lib
from gans_jax.data import pipeline
from gans_jax.data import spec as spec_lib
from gans_jax.data import tokens
from gans_jax.systems import pixelcnn

pytestmark = pytest.mark.usefixtures('compile_cache')

COMMON = '''
from gans_jax.core import config as config_lib


def get_config(arg=''):
  config_lib.parse_arg(arg)
  config = config_lib.base('{system}')
  config_lib.assign(config, {{
      'data.source': 'emoji:noto', 'data.limit': 40, 'data.resolution': 8,
      'batch_size': 8, 'mesh.data': 1, 'total_steps': 2, 'log_every': 1,
      'sample_every': 2, 'checkpoint_every': 2, 'sample.rows': 2,
      'sample.columns': 4, 'keep': 1, **{values}}})
  return config
'''
FIRST = {'model.hidden': 8, 'model.residual_hidden': 4,
         'model.residual_layers': 1, 'model.downsamples': 1,
         'model.codes': 16, 'model.code_dim': 4}
SECOND = {'model.dim': 4, 'model.layers': 2, 'model.head': 4,
          'model.first_kernel': 3, 'data.labels': 'group',
          'model.class_conditional': True}


def config_file(folder, system, values) -> str:
  folder.mkdir(parents=True, exist_ok=True)
  return runs.write_config(folder, COMMON.format(system=system, values=values))


@pytest.fixture(scope='module')
def first(tmp_path_factory, compile_cache):
  """The workdir of a trained tokenizer."""
  folder = tmp_path_factory.mktemp('first')
  assert runs.train(config_file(folder, 'vqvae', FIRST),
                    folder / 'run') == cli.DONE
  return folder / 'run'


@pytest.fixture(scope='module')
def second(first, tmp_path_factory):
  """(config file, workdir) of a trained prior."""
  folder = tmp_path_factory.mktemp('second')
  path = config_file(folder, 'pixelcnn', {
      **SECOND, 'data.tokenizer': str(first)})
  assert runs.train(path, folder / 'run') == cli.DONE
  return path, folder / 'run'


def data_config(first, **values):
  return config_lib.data_config(
      source='emoji:noto', limit=40, resolution=8, labels='group',
      tokenizer=str(first), **values)


def test_first_stage_shows_reconstructions(first):
  assert list((first / 'samples').glob('live_*2.png'))
  generator = sample.load(str(first))
  assert generator(seeds=[0, 1, 2]).shape == (3, 8, 8, 3)


def test_grid_has_reconstructions_below_originals(first):
  generator = sample.load(str(first))
  dataset = pipeline.open_dataset(generator.config.data)
  grid = sampler.Reconstructor(generator.system, generator._mesh, dataset, 2, 3)
  keys = generator.keys(np.arange(6))
  out = grid(generator.variables, keys).reshape(2, 2, 3, 8, 8, 3)
  originals = grid.originals
  np.testing.assert_array_equal(out[:, 0].reshape(originals.shape), originals)
  expected = images_lib.to_uint8(generator.system.outputs['reconstruct'](
      generator.variables, {'image': originals}, keys))
  found = out[:, 1].reshape(originals.shape).astype(int)
  assert np.abs(found - np.asarray(expected)).max() <= 1


def test_tokens_are_the_tokenizers(first, tmp_path):
  config = data_config(first, tokens_dir=str(tmp_path))
  dataset = pipeline.open_dataset(config)
  assert not list(tmp_path.iterdir())  # Nothing is written before it is used.
  assert dataset.spec.keys == ('image', 'label', 'mask', 'tokens')
  assert tokenizer.vocabulary(dataset.spec) == (16, (4, 4))
  generator = sample.load(str(first))
  found = dataset.take(np.arange(40))
  expected = generator.system.outputs['tokens'](
      generator.variables, {'image': found['image']})
  np.testing.assert_array_equal(found['tokens'], expected)
  images = pipeline.open_dataset({**config, 'tokenizer': ''})
  np.testing.assert_array_equal(found['label'],
                                images.take(np.arange(40))['label'])
  copy = pickle.loads(pickle.dumps(dataset))
  np.testing.assert_array_equal(copy.take([5, 2], ('tokens',))['tokens'],
                                found['tokens'][[5, 2]])
  assert not copy._tokenizers
  # Without the images' own reader, if images are not asked for.
  dataset._images = None
  assert sorted(dataset.take([3, 1], ('tokens', 'label'))) == [
      'label', 'tokens']


def test_interrupted_extraction_goes_on(first, tmp_path, monkeypatch):
  monkeypatch.setattr(tokens, 'BATCH', 8)
  monkeypatch.setattr(tokens, '_SAVE_EVERY', 2)
  config = data_config(first, tokens_dir=str(tmp_path))
  batches, starts = tokens._batches, []

  def broken(images, tokenizer, start):
    starts.append(start)
    for i, batch in enumerate(batches(images, tokenizer, start)):
      if len(starts) == 1 and i == 3:
        raise RuntimeError('killed')
      yield batch

  monkeypatch.setattr(tokens, '_batches', broken)
  dataset = pipeline.open_dataset(config)
  with pytest.raises(RuntimeError, match='killed'):
    dataset.prepare()
  assert [p.suffix for p in tmp_path.iterdir() if p.is_dir()] == ['.partial']
  again = pipeline.open_dataset(config).take(np.arange(40), ('tokens', 'label'))
  assert starts == [0, 16]
  whole = pipeline.open_dataset(
      data_config(first, tokens_dir=str(tmp_path / 'other'))).take(
          np.arange(40), ('tokens', 'label'))
  for key, value in whole.items():
    np.testing.assert_array_equal(again[key], value)
  # Once extracted they are not extracted again.
  pipeline.open_dataset(config).take([0], ('tokens',))
  assert starts == [0, 16, 0]


def test_damaged_tokens_are_refused(first, tmp_path):
  config = data_config(first, tokens_dir=str(tmp_path))
  pipeline.open_dataset(config).prepare()
  folder = next(p for p in tmp_path.iterdir() if p.is_dir())
  np.save(folder / 'tokens.npy', np.zeros((7, 4, 4), np.uint16))
  with pytest.raises(errors.UserError, match='Delete the folder'):
    pipeline.open_dataset(config).prepare()
  (folder / 'tokens.json').write_text('{')
  with pytest.raises(errors.UserError, match='tokens.json cannot be read'):
    pipeline.open_dataset(config).prepare()


def test_prior_samples_and_resumes(first, second):
  path, run = second
  meta = checkpoint.Checkpointer(str(run)).read_meta(2)
  (key, identity, codes), = meta['spec']['tokenizers']
  assert (key, codes) == ('tokens', 16) and identity.endswith('@2')
  generator = sample.load(str(run))
  found = generator(seeds=[0, 1, 5], label=3)
  assert found.shape == (3, 8, 8, 3)
  # What it draws is what the tokenizer decodes.
  drawn = generator.system.tokens(
      generator.variables, generator.keys([0, 1, 5]),
      {'label': jnp.array([3, 3, 3])})
  decoder = sample.load(str(first))
  np.testing.assert_array_equal(found, decoder(z=drawn))
  assert runs.train(path, run, '--config.total_steps=3') == cli.DONE
  assert runs.records(run)[-1]['step'] == 3
  assert list((first / 'tokens').glob('*/tokens.npy'))


def test_weights_are_compared(first, second):
  path, run = second
  config = config_lib.load(path)
  dataset = pipeline.open_dataset(config.data)
  found = tokenizer.frozen(config, dataset.spec)
  assert set(found['tokenizer']) == {'E', 'VQ', 'G'}
  (key, identity, codes), = dataset.spec.tokenizers
  other = dataclasses.replace(
      dataset.spec, tokenizers=((key, f'0123456789abcdef@{7}', codes),))
  told = 'step 2, but .* tokens of 0123456789abcdef of step 7'
  with pytest.raises(errors.UserError, match=told):
    tokenizer.frozen(config, other)
  with pytest.raises(errors.UserError, match='tokens of 0123456789abcdef'):
    workdir_lib._check_tokenizers(
        {'tokenizers': [[key, '0123456789abcdef@7', codes]]},
        {'data': {'tokenizers': [[key, identity, codes]]},
         'config': config.to_dict()})


@pytest.mark.slow
def test_another_tokenizer_is_refused(first, second, tmp_path, capsys):
  """The first stage is trained on: codes mean other things then."""
  moved = tmp_path / 'first'
  shutil.copytree(first, moved)
  prior = tmp_path / 'prior'
  path = config_file(tmp_path, 'pixelcnn', {
      **SECOND, 'data.tokenizer': str(moved), 'sample_every': 0})
  assert runs.train(path, prior) == cli.DONE
  # The same weights in another place are the same tokenizer.
  assert runs.train(path, prior, '--config.total_steps=3',
                    f'--config.data.tokenizer={first}') == cli.DONE
  stage_1 = config_file(tmp_path / 'c', 'vqvae', {
      **FIRST, 'total_steps': 4, 'keep': 2})
  assert runs.train(stage_1, moved) == cli.DONE
  capsys.readouterr()
  code = runs.train(path, prior, '--config.total_steps=4')
  runs.refused(capsys, code, 'of step 4', 'of step 2',
               '--config.data.tokenizer_step')
  # The checkpoint that it was trained on is still there: sampling finds it.
  before = sample.load(str(prior))(seeds=[0, 1])
  assert before.shape == (2, 8, 8, 3)
  shutil.copytree(prior, tmp_path / 'copy')
  assert runs.train(path, prior, '--config.total_steps=4',
                    '--config.data.tokenizer_step=2') == cli.DONE
  shutil.rmtree(moved / 'checkpoints' / '2')
  tokenizer._load.cache_clear()
  with pytest.raises(errors.UserError, match='There is no checkpoint of'):
    sample.load(str(prior))
  shutil.rmtree(moved)
  with pytest.raises(errors.UserError, match='not the workdir of a run'):
    sample.load(str(prior))


def test_prior_is_no_tokenizer(second, tmp_path, capsys):
  path, run = second
  code = runs.train(path, tmp_path / 'run', f'--config.data.tokenizer={run}')
  runs.refused(capsys, code, 'pixelcnn', 'no codebook')
  code = runs.train(path, tmp_path / 'run', '--config.data.tokenizer=/nowhere')
  runs.refused(capsys, code, '/nowhere', 'Train the first stage')
  code = runs.train(path, tmp_path / 'run', '--config.data.resolution=16')
  runs.refused(capsys, code, 'data.resolution=8', 'is 16')
  code = runs.train(path, tmp_path / 'run', '--config.data.tokenizer=')
  runs.refused(capsys, code, 'config.data.tokenizer')
  code = runs.train(path, tmp_path / 'run', '--config.data.flip=true')
  runs.refused(capsys, code, 'data.flip')
  assert not pathlib.Path(tmp_path / 'run').exists()
  with pytest.raises(errors.UserError, match='no latents'):
    sample.load(str(run)).z([0])


def test_old_records_have_no_tokenizers():
  spec = spec_lib.image_spec(resolution=8, channels=3, num_examples=3,
                             facts={})
  values = {key: value for key, value in vars(spec).items()
            if key != 'tokenizers'}
  assert spec_lib.from_json(values) == spec
  assert workdir_lib.flatten({'data': values})


@pytest.mark.parametrize('levels, channels', [(2, 3), (8, 3), (256, 1)])
def test_pixels(levels, channels):
  found = tokenizer.load(f'pixels:{levels}', channels=channels)
  assert found.codebook_size == levels**channels
  draw = np.random.default_rng(0)
  image = draw.integers(0, 256, (5, 6, 6, channels), np.uint8)
  codes = found.encode({}, {'image': jnp.asarray(image)}, None)
  level = image.astype(int) * levels // 256
  np.testing.assert_array_equal(
      codes, np.sum(level * levels**np.arange(channels)[::-1], -1))
  back = found.system.outputs['decode']({}, {'tokens': codes}, None)
  # The middle of the level, in [-1, 1].
  np.testing.assert_allclose(back, (level + 0.5) * 2 / levels - 1, atol=1e-6)
  assert np.abs((back + 1) * 127.5 - image).max() <= 128 / levels + 1e-3
  spec = spec_lib.image_spec(resolution=6, channels=channels, num_examples=3,
                             facts={})
  assert found.shape(spec) == (6, 6)


@pytest.mark.parametrize('name', ['pixels:1', 'pixels:x', 'pixels:41',
                                  'pixels:257'])
def test_bad_levels_are_refused(name):
  with pytest.raises(errors.UserError, match='pixels:L'):
    tokenizer.load(name)


def test_digest_tells_weights_apart():
  tree = {'a': np.arange(4.0), 'b': np.zeros((2, 2))}
  same = tokenizer.digest(tree, {'k': 1})
  assert same == tokenizer.digest(dict(reversed(tree.items())), {'k': 1})
  assert same != tokenizer.digest(tree, {'k': 2})
  assert same != tokenizer.digest({**tree, 'b': np.zeros((4, 1))}, {'k': 1})
  assert same != tokenizer.digest({**tree, 'a': -np.arange(4.0)}, {'k': 1})


@pytest.mark.parametrize('values, told', [
    ({'model.kernel': 4}, 'odd number'), ({'model.dim': 0}, 'model.dim'),
    ({'model.class_conditional': True}, 'data.labels')])
def test_bad_values_of_a_prior_are_refused(values, told):
  spec = spec_lib.image_spec(resolution=8, channels=3, num_examples=9,
                             facts={})
  spec = tokens.token_spec(spec, {'tokens': tokenizer.load('pixels:4')})
  config = config_lib.base('pixelcnn')
  config_lib.assign(config, {'total_steps': 3, 'data.tokenizer': 'pixels:4',
                             **values})
  with pytest.raises(errors.UserError, match=told):
    pixelcnn.create(config, spec)
