"""Metric names, and what a result says."""

import json

import jax
import numpy as np
from PIL import Image
from PIL import ImageFilter
import pytest

from gans_jax.core import errors
from gans_jax.data import emoji
from gans_jax.metrics import features
from gans_jax.metrics import frechet
from gans_jax.metrics import protocols

DIM = 12


TINY = features.Extractor(
    name='tiny', weights_sha256='0', dims={'flat': DIM, 'logits': 3}, size=2,
    resizer='clean', pixels='x / 8', variables={},
    apply=lambda v, x, platform: {
        'flat': x.reshape(len(x), -1) / 8, 'logits': x.mean((1, 2)) / 32})


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
  """Adds a network whose features are the pixels of a 2x2 image."""
  monkeypatch.setitem(features.EXTRACTORS, 'tiny', lambda weights: TINY)
  monkeypatch.setitem(protocols.TAPS, 'tiny', 'flat')
  monkeypatch.setitem(protocols._OF_NETWORK, 'tiny',
                      protocols._OF_NETWORK['lite0'])


def _pixels(n, seed):
  return np.random.RandomState(seed).randint(
      0, 256, (n, 2, 2, 3)).astype(np.uint8)


def _real(n=100, seed=0, asked=None):
  x = _pixels(n, seed)

  def ordered_batches(num):
    if asked is not None:
      asked.append(num)
    for i in range(0, num, 8):
      part = x[i:min(i + 8, num)]
      valid = np.arange(8) < len(part)
      yield {'image': np.resize(part, (8, 2, 2, 3)), 'label': None}, valid

  return protocols.dataset_images(
      ordered_batches, n, identity=f'pixels{seed}', split='train', seed=0)


@jax.jit
@jax.vmap
def _sample(key):
  return jax.random.randint(key, (2, 2, 3), 30, 200, 'uint8')


def _fake(batch_size=16, seed=3, **facts):
  return protocols.generated_images(_sample, seed, batch_size, **facts)


def _compute(names, real, fake, tmp_path):
  return protocols.compute(
      [protocols.parse(name) for name in names], real, fake,
      cache_dir=str(tmp_path), progress=None)


def _fd(a, b):
  return frechet.distance(*(
      frechet.fit(x.reshape(len(x), -1).astype(np.float32) / 8)
      for x in (a, b)))


@pytest.mark.parametrize('name, canonical, measure, num, full, net, tap', [
    ('fd5k_lite0', 'fd5k_lite0', 'fd', 5000, False, 'lite0', 'pooled'),
    ('fd5000_lite0', 'fd5k_lite0', 'fd', 5000, False, 'lite0', 'pooled'),
    ('fd500_lite0', 'fd500_lite0', 'fd', 500, False, 'lite0', 'pooled'),
    ('fd1500_full_lite0', 'fd1500_full_lite0', 'fd', 1500, True, 'lite0',
     'pooled'),
    ('kd5k_lite0', 'kd5k_lite0', 'kd', 5000, False, 'lite0', 'pooled'),
    ('is5k_lite0', 'is5k_lite0', 'is', 5000, False, 'lite0', 'logits'),
    ('fid50k_full', 'fid50k_full', 'fd', 50_000, True, 'inception', '2048'),
    ('kid50k', 'kid50k', 'kd', 50_000, False, 'inception', '2048'),
    ('is50k', 'is50k', 'is', 50_000, False, 'inception', 'logits_unbiased'),
    ('sfid50k', 'sfid50k', 'fd', 50_000, False, 'inception', 'spatial'),
    ('clean_fid50k_full', 'clean_fid50k_full', 'fd', 50_000, True,
     'inception_clean', '2048'),
    ('tf_fid50k', 'fid50k', 'fd', 50_000, False, 'inception', '2048'),
    ('pytorch_fid5k', 'pytorch_fid5k', 'fd', 5000, False,
     'inception_pytorch', '2048'),
    ('pr50k3_full', 'pr50k3_full', 'pr', 50_000, True, 'vgg16', 'fc2'),
    ('pr10k_inception', 'pr10k_inception', 'pr', 10_000, False, 'inception',
     '2048'),
    ('prdc10k', 'prdc10k', 'prdc', 10_000, False, 'vgg16', 'fc2'),
    ('cmmd5k', 'cmmd5k', 'mmd', 5000, False, 'clip', 'embedding'),
    ('swd16k', 'swd16k', 'swd', 16_000, False, None, 'pixels'),
    ('msssim20k', 'msssim20k', 'msssim', 20_000, False, None, 'pixels'),
])
def test_parse(name, canonical, measure, num, full, net, tap):
  protocol = protocols.parse(name)
  assert protocol == protocols.Protocol(
      canonical, measure, num, full, net, tap, 1, '')
  assert protocols.parse(canonical) == protocol


def test_parse_preset_split_and_number():
  nvidia = protocols.parse('nvidia_fid50k_full')
  assert (nvidia.ddof, nvidia.extractor) == (0, 'inception')
  assert protocols.parse('fid50k_full', preset='nvidia') == nvidia
  assert protocols.parse('clean_fid5k', 'nvidia').name == 'clean_fid5k'
  # A preset concerns the metrics of the Inception network alone.
  assert protocols.parse('fd5k_lite0', 'nvidia') == protocols.parse(
      'fd5k_lite0')
  val = protocols.parse('fid10k_val')
  assert (val.split, val.name) == ('val', 'fid10k_val')
  both = protocols.parse('fd5k_full_test_lite0')
  assert (both.split, both.name) == ('test', 'fd5k_full_test_lite0')
  assert protocols.parse('pr50k3_full', num=500).name == 'pr500_full'
  assert protocols.parse('fd5k_lite0', num=2000).name == 'fd2k_lite0'


@pytest.mark.parametrize('name', [
    'fd_lite0', 'fd5k', 'fd5k_lite9', 'fd5k_lite0_full', '', 'fd5k_inception',
    'fd0k_lite0', 'fd1_lite0', 'xfd5k_lite0', 'fd5k_lite0 ', 'fid50k_lite0',
    'clean_fd5k_lite0', 'fid50k3', 'swd16k_full', 'swd16k_lite0', 'is50k_vgg16',
    'msssim5', 'tf_pr50k', 'kid1'])
def test_parse_refuses(name):
  with pytest.raises(errors.UserError):
    protocols.parse(name)


def test_unknown_names_and_presets_are_answered():
  with pytest.raises(errors.UserError, match='Did you mean fid50k_full'):
    protocols.parse('fid50k_ful')
  with pytest.raises(errors.UserError, match="no preset 'torch'.*tf, pytorch"):
    protocols.parse('fid50k', 'torch')


def test_value_counts_and_floor(tmp_path):
  real, fake = _pixels(100, 0), np.concatenate(
      [x for x, _ in _fake().stream(40)])
  small, full = _compute(
      ['fd40_tiny', 'fd40_full_tiny'], _real(), _fake(), tmp_path)
  assert small['value'] == pytest.approx(_fd(real[:40], fake[:40]), rel=1e-9)
  assert full['value'] == pytest.approx(_fd(real, fake[:40]), rel=1e-9)
  assert (small['real']['count'], full['real']['count']) == (40, 100)
  assert small['floor'] == {
      'value': pytest.approx(_fd(real[:40], real[40:80]), rel=1e-9),
      'counts': [40, 40], 'same_counts': True}
  assert full['floor'] == {
      'value': pytest.approx(_fd(real[:40], real[40:]), rel=1e-9),
      'counts': [40, 60], 'same_counts': True}


def test_floor_of_too_few_images_says_so(tmp_path):
  result, = _compute(['fd40_tiny'], _real(50), _fake(), tmp_path)
  x = _pixels(50, 0)
  assert result['floor']['value'] == pytest.approx(
      _fd(x[:25], x[25:]), rel=1e-9)
  assert result['floor']['counts'] == [25, 25]
  assert not result['floor']['same_counts']
  assert 'too high: 80 real images are needed' in result['floor']['note']
  result, = _compute(['fd40_full_tiny'], _real(3), _fake(), tmp_path)
  assert result['floor']['value'] is None
  assert 'not available: 3 real images' in result['floor']['note']


def test_a_result_is_one_json_line_that_says_it_all(tmp_path):
  result, = _compute(['fd40_tiny'], _real(), _fake(step=7, truncation=0.5),
                     tmp_path)
  assert json.loads(json.dumps(result)) == result
  assert result['metric'] == 'fd40_tiny'
  assert result['real'] == {
      'count': 40, 'available': 100, 'cached': False, 'identity': 'pixels0',
      'split': 'train', 'seed': 0}
  assert result['fake'] == {
      'count': 40, 'seed': 3, 'step': 7, 'truncation': 0.5}
  assert result['values'] == {'fd': result['value']}
  assert result['features'] == {
      'name': 'tiny', 'tap': 'flat', 'weights_sha256': '0', 'dim': DIM,
      'size': 2, 'resizer': 'clean', 'pixels': 'x / 8', 'quantisation': 'uint8',
      'precision': 'float32, HIGHEST'}
  assert (result['divisor'], result['route']) == ('n - 1', 'eigh')
  assert set(result['seconds']) == {'real', 'fake', 'reduce'}


def test_few_images_take_the_other_route_and_warn(tmp_path, caplog):
  result, = _compute(['fd5_tiny'], _real(), _fake(), tmp_path)
  assert result['route'] == 'nuclear'
  assert '5 images do not determine a covariance' in caplog.text
  assert result['value'] == pytest.approx(_fd(
      _pixels(100, 0)[:5], next(iter(_fake().stream(5)))[0][:5]), rel=1e-9)


def test_real_images_are_measured_once(tmp_path):
  asked = []
  first, = _compute(['fd40_tiny'], _real(asked=asked), _fake(), tmp_path)
  again, = _compute(['fd40_tiny'], _real(asked=asked), _fake(), tmp_path)
  assert asked == [80]
  assert again['real']['cached'] and again['value'] == first['value']
  assert again['floor'] == first['floor']
  other, = _compute(['fd40_tiny'], _real(seed=1), _fake(), tmp_path)
  assert not other['real']['cached'] and other['value'] != first['value']


def test_generated_images_are_made_once_for_all_metrics(tmp_path):
  made = []

  def sample(keys):
    made.append(len(keys))
    return _sample(keys)

  fake = protocols.generated_images(sample, 3, 16)
  together = _compute(['fd20_tiny', 'fd40_tiny'], _real(), fake, tmp_path)
  assert made == [16, 16, 16]
  apart = [_compute([name], _real(), _fake(), tmp_path)[0]
           for name in ('fd20_tiny', 'fd40_tiny')]
  assert [r['value'] for r in together] == [r['value'] for r in apart]


def test_value_does_not_depend_on_the_batch_size(tmp_path):
  values = [_compute(['fd40_tiny'], _real(), _fake(batch), tmp_path)[0]['value']
            for batch in (7, 40, 64)]
  np.testing.assert_allclose(values, values[0], rtol=1e-12)
  other = _compute(['fd40_tiny'], _real(), _fake(seed=4), tmp_path)[0]
  assert other['value'] != values[0]


@pytest.mark.parametrize('name, count, match', [
    ('fd40_tiny', 39, r"needs 40 real .* 'train' has 39.*fd40_full_tiny.*fd38"),
    ('fd40_full_tiny', 1, 'needs 2 real images.*has 1. Use a larger'),
    ('fd40_tiny', 1, 'needs 40 real images.*has 1. Use a larger'),
])
def test_too_few_real_images(tmp_path, name, count, match):
  asked = []
  with pytest.raises(errors.UserError, match=match):
    _compute([name], _real(count, asked=asked), _fake(), tmp_path)
  assert not asked


def test_too_few_generated_images(tmp_path):
  fake = protocols.Images(_fake().stream, 30, {})
  with pytest.raises(errors.UserError, match='needs 40 generated .* are 30'):
    _compute(['fd40_tiny'], _real(), fake, tmp_path)


def test_lite0_orders_emoji_by_their_damage(tmp_path):
  """One distribution < slightly blurred < blurred < noise."""
  n = 48
  tiles = emoji.tiles('noto')
  order = np.random.RandomState(0).permutation(len(tiles))[:2 * n]
  alpha = tiles[order][..., 3:] / 255.0
  x = np.round(
      tiles[order][..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)

  def blurred(sigma):
    return np.stack([
        np.asarray(Image.fromarray(image).filter(
            ImageFilter.GaussianBlur(sigma))) for image in x[n:]])

  def images(x, **facts):
    return protocols.Images(
        lambda num: ((x[i:i + 16], None) for i in range(0, num, 16)),
        len(x), facts)

  noise = np.random.RandomState(1).randint(0, 256, x[n:].shape).astype('u1')
  results = [
      _compute([f'fd{n}_lite0'], images(x, identity='emoji'), images(y),
               tmp_path)[0] for y in (x[n:], blurred(1), blurred(3), noise)]
  values = [result['value'] for result in results]
  # The first is the floor itself: the same two halves.
  assert values[0] == pytest.approx(results[0]['floor']['value'], rel=1e-5)
  for better, worse in zip(values, values[1:], strict=False):
    assert worse > 1.1 * better, values
