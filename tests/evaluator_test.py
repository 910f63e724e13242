"""Which metrics there are, and which of them decides."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from gans_jax import evaluator
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.data import pipeline
from gans_jax.data import spec as spec_lib


def test_names_are_sorted_by_kind():
  found = evaluator.parse(['fd5k_lite0', 'psnr', 'ppl2_1k_zend', 'kid50k'])
  assert [p.name for p in found.sets] == ['fd5k_lite0', 'kid50k']
  assert [p.name for p in found.paths] == ['ppl2_1k_zend']
  assert found.pairs == ('psnr',) and not found.modes
  assert evaluator.parse(['modes']).modes
  found = evaluator.parse(['fid50k', 'ppl2k_zend'], num=10, preset='clean')
  assert found.sets[0].name == 'clean_fid10'
  assert found.paths[0].name == 'ppl10_zend'
  with pytest.raises(errors.UserError):
    evaluator.parse(['psnr5k'])


@pytest.mark.parametrize('names, num, expected', [
    ((), 0, None), (('modes',), 0, ('modes/covered', 'max')),
    (('fd5k_lite0', 'is5k_lite0'), 0, ('fd5k_lite0', 'min')),
    (('fd5k_lite0',), 500, ('fd500_lite0', 'min')),
    (('is50k',), 0, ('is50k', 'max')), (('pr5k_lite0',), 0,
                                        ('pr5k_lite0', 'max')),
    (('ppl2k_zend',), 0, ('ppl2k_zend', 'min')),
    (('psnr',), 0, ('psnr', 'max')), (('lpips_vgg',), 0,
                                      ('lpips_vgg', 'min')),
    (('gantest1k_lite0',), 0, ('gantest1k_lite0', 'max'))])
def test_best_metric(names, num, expected):
  assert evaluator.best_metric(names, num) == expected


class Tokenizer:
  """A system that only darkens images and counts four shades of pixels."""

  conditions = ()
  options = ()
  requires = ('image',)
  codebook_size = 8
  players = {'G': ()}

  def __init__(self):
    self.outputs = {
        'reconstruct': lambda variables, batch, keys: (
            batch['image'] / 127.5 - 1) * variables['gain'],
        'tokens': lambda variables, batch, keys: (
            batch['image'][..., 0] // 64).astype(jnp.int32)}


def test_reconstructions_and_tokens():
  """Of all images in their order: sets, pairs and codes."""
  config = config_lib.base('dcgan')
  config_lib.assign(config, {'data.source': 'emoji:noto', 'data.limit': 21,
                             'data.resolution': 32, 'total_steps': 1})
  dataset = pipeline.open_dataset(config.data)
  x = np.stack([dataset[i]['image'] for i in range(21)]).astype(np.float64)
  measure = evaluator.Evaluator(
      config, Tokenizer(), dataset, mesh_lib.make(1, 1),
      ('fd21_lite0', 'psnr', 'codebook'), batch_size=8, quiet=True)
  found = {r['metric']: r for r in measure({'gain': np.float32(1)}, 3)}
  assert found['fd21_lite0']['value'] == pytest.approx(0, abs=1e-3)
  assert found['psnr']['value'] == math.inf
  found = {r['metric']: r for r in measure({'gain': np.float32(0.9)}, 3)}
  assert found['fd21_lite0']['value'] > 1
  y = np.floor((x / 127.5 - 1) * 0.9 * 127.5 + 128)
  expected = 10 * np.log10(255**2 / ((x - y)**2).mean((1, 2, 3)))
  assert found['psnr']['value'] == pytest.approx(expected.mean(), rel=1e-3)
  assert found['psnr']['pairs'] == 21
  counts = np.bincount((x[..., 0] // 64).astype(int).ravel(), minlength=8)
  p = counts / counts.sum()
  assert found['codebook']['tokens'] == 21 * 32 * 32
  assert found['codebook']['values']['usage'] == np.mean(counts > 0)
  assert found['codebook']['values']['perplexity'] == pytest.approx(
      np.exp(-np.sum(p * np.log(p + 1e-10))), rel=1e-9)


class Painter:
  """A system that paints the class it is asked for; of one class, another."""

  conditions = ('label',)
  options = ()
  outputs = {}
  players = {'G': ()}

  def generate(self, variables, keys, conditions):
    told = jnp.where(conditions['label'] == variables['not'], 0,
                     conditions['label'])
    colour = variables['colours'][told][:, None, None, :]
    return jnp.broadcast_to(colour, (len(keys), 8, 8, 3))


def test_gan_test_recognises_what_was_asked_for(tmp_path):
  """Three classes of one colour each, and a generator that knows two."""
  colours = np.array([[230, 40, 40], [40, 230, 40], [40, 40, 230]], np.uint8)
  for i in range(60):
    folder = tmp_path / f'class{i % 3}'
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.broadcast_to(
        colours[i % 3] + np.uint8(i // 3), (8, 8, 3))).save(
            folder / f'{i:02}.png')
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': f'folder:{tmp_path}', 'data.labels': 'class',
      'data.resolution': 8, 'total_steps': 1})
  dataset = pipeline.open_dataset(config.data)
  measure = evaluator.Evaluator(
      config, Painter(), dataset, mesh_lib.make(1, 1), ('gantest24_lite0',),
      batch_size=8, quiet=True)
  asked = np.asarray(measure._conditions(rng.per_example(
      jax.random.key(0), 0, 24))['label'])
  assert set(asked) == {0, 1, 2}
  for wrong, expected in ((-1, 1.0), (2, np.mean(asked != 2))):
    [result] = measure({'colours': colours / np.float32(127.5) - 1,
                        'not': np.int32(wrong)}, 7)
    assert result['metric'] == 'gantest24_lite0' and result['step'] == 7
    assert result['value'] == pytest.approx(expected)
    assert result['values']['accuracy_on_real'] == 1
    assert result['real']['count'] == 60 and result['fake']['count'] == 24
  with pytest.raises(errors.UserError, match='takes no label'):
    evaluator.check(('gantest24_lite0',), Tokenizer(), dataset.spec)


@pytest.mark.parametrize('name, words', [
    ('swd16', 'halved down to 16 pixels, and 8 x 24'),
    ('msssim16', 'multiples of 16; found 8 x 24')])
def test_images_of_a_size_that_a_metric_cannot_take(name, words):
  spec = spec_lib.image_spec(resolution=24, channels=3, num_classes=0,
                             num_examples=100, facts={}, size=(24, 8))
  with pytest.raises(errors.UserError, match=words):
    evaluator.check((name,), Tokenizer(), spec)
  evaluator.check(('fd16_lite0',), Tokenizer(), spec)
  evaluator.check((name,), Tokenizer(), spec_lib.image_spec(
      resolution=64, channels=3, num_classes=0, num_examples=100, facts={},
      size=(32, 64)))


@pytest.mark.parametrize('split', ['', '_train'])
def test_whole_data_is_more_than_what_is_trained_on(split):
  """FID of the ADA paper's small sets is that of the whole data set."""
  config = config_lib.base('dcgan')
  config_lib.assign(config, {'data.source': 'emoji:noto', 'data.limit': 12,
                             'data.resolution': 16, 'data.labels': 'group',
                             'evaluate.whole_data': True, 'total_steps': 1})
  dataset = pipeline.open_dataset(config.data)
  name = f'fd16_full{split}_lite0'
  measure = evaluator.Evaluator(
      config, Painter(), dataset, mesh_lib.make(1, 1), (name,), quiet=True)
  real = measure.real_images()[split.strip('_')]
  config.data.limit = 0
  whole = pipeline.open_dataset(config.data)
  assert len(dataset) == 12 and real.count == len(whole) > 3000
  assert real.facts['identity'] == whole.spec.identity
  images, valid = next(iter(real.stream(8)))
  first, _ = next(pipeline.ordered_batches(whole, 64, 8, seed=0))
  np.testing.assert_array_equal(images[valid], first['image'][:8])
  config.evaluate.whole_data = False
  with pytest.raises(errors.UserError, match='needs 16 real .* has 12'):
    evaluator.Evaluator(config, Painter(), dataset, mesh_lib.make(1, 1),
                        ('fd16_lite0',), quiet=True)


def test_lines_are_json_of_any_reader(tmp_path):
  path = tmp_path / 'r.jsonl'
  for value in (1.5, math.inf, math.nan):
    evaluator.append(str(path), {'value': value, 'floor': {'value': value}})
  lines = [json.loads(line, parse_constant=pytest.fail)
           for line in path.read_text().splitlines()]
  assert [x['value'] for x in lines] == [1.5, None, None]
  with pytest.raises(errors.UserError, match='r.jsonl'):
    evaluator.append(str(path / 'x'), {})


class Windows:
  """A system of codes of 4 pixels: noise, with a seam at column 8."""

  conditions = ()
  options = ('height', 'width', 'seam')
  outputs = {}
  players = {}
  grid = (4, 4)

  def borders(self, height, width):
    return (height // 2,), (width // 2,)

  def generate(self, variables, keys, conditions, *, height, width, seam=0.0):
    shape = (4 * height, 4 * width, 3)
    noise = jax.vmap(lambda key: jax.random.uniform(
        key, shape, minval=-0.2, maxval=0.2))(keys)
    right = jnp.arange(shape[1]) >= 2 * width
    return noise + variables['gain'] * seam * right[None, None, :, None]


def test_seams_of_larger_images_and_options_of_sampling():
  config = config_lib.base('dcgan')
  config_lib.assign(config, {'data.source': 'emoji:noto', 'data.limit': 5,
                             'data.resolution': 16, 'total_steps': 1})
  dataset = pipeline.open_dataset(config.data)

  def measure(num=0, **options):
    result, = evaluator.Evaluator(
        config, Windows(), dataset, mesh_lib.make(1, 1), ('seams',), num,
        quiet=True, sampling=evaluator.Sampling(options=options))(
            {'gain': np.float32(1)}, 7)
    return result

  found = measure()
  assert found['rows'] == found['columns'] == [16]
  assert found['fake']['count'] == 16 and 'options' not in found['fake']
  assert found['fake']['shape'] == [32, 32, 3]
  assert abs(found['value'] - 1) < 0.05 and found['values']['std'] < 0.05
  found = measure(4, seam=0.5, height=8, width=12)
  assert found['fake']['count'] == 4 and found['fake']['shape'] == [32, 48, 3]
  assert found['columns'] == [24] and found['value'] > 2
  assert found['fake']['options'] == {'seam': 0.5, 'height': 8, 'width': 12}
  with pytest.raises(errors.UserError, match="'top_k', which .* height, width"):
    measure(top_k=3)
  with pytest.raises(errors.UserError, match='through windows'):
    evaluator.check(('seams',), Tokenizer(), dataset.spec)
