"""Stacks of three digits, from small IDX files written here."""

import gzip
import struct

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.data import stacked_mnist


def _write(path, array, packed=False):
  header = struct.pack('>HBB', 0, 8, array.ndim)
  header += struct.pack(f'>{array.ndim}I', *array.shape)
  with (gzip.open if packed else open)(path, 'wb') as stream:
    stream.write(header + array.tobytes())


def _set(images, labels):
  return {'images': images.astype(np.uint8), 'labels': labels.astype(np.uint8)}


@pytest.fixture(scope='module')
def mnist(tmp_path_factory):
  """60 training and 20 test digits; the corner pixel is a digit's number."""
  folder = tmp_path_factory.mktemp('mnist')
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, [80, 28, 28])
  images[:, 0, 0] = np.arange(80)
  labels = rng.integers(0, 10, [80])
  for start, rows in (('train', slice(60)), ('t10k', slice(60, 80))):
    packed = start == 'train'
    end = '.gz' if packed else ''
    part = _set(images[rows], labels[rows])
    _write(folder / f'{start}-images-idx3-ubyte{end}', part['images'], packed)
    _write(folder / f'{start}-labels-idx1-ubyte{end}', part['labels'], packed)
  return folder, images.astype(np.uint8), labels


def _open(folder, split='train', variant='', **values):
  config = dict(source=f'stacked_mnist:{variant}{folder}', resolution=28,
                labels='class', **values)
  return stacked_mnist.create_source(config, split)


def test_channels_are_digits_and_label_is_their_number(mnist):
  folder, images, labels = mnist
  source = _open(folder)
  for i in range(50):
    example = source[i]
    numbers = example['image'][0, 0]  # the corner names the digit
    np.testing.assert_array_equal(
        example['image'], np.stack([images[n] for n in numbers], axis=-1))
    r, g, b = labels[numbers]
    assert example['label'] == 100 * r + 10 * g + b
    name = source.spec.class_names[example['label']]
    assert name == f'{r}{g}{b}'
  assert example['label'].dtype == np.int32
  assert source.spec.num_classes == 1000


@pytest.mark.parametrize('variant, split, length, digits', [
    ('', 'train', 128_000, range(80)),
    ('veegan:', 'test', 26_000, range(80)),
    ('unrolled:', 'train', 12_800_000, range(60)),
    ('unrolled:', 'test', 26_000, range(60, 80)),
])
def test_pools_of_the_variants(mnist, variant, split, length, digits):
  source = _open(mnist[0], split, variant)
  assert len(source) == length
  used = source.take(np.arange(2000))['image'][:, 0, 0]
  assert set(used.ravel().tolist()) == set(digits)
  with pytest.raises(IndexError):
    source[length]


def test_digits_are_uniform_and_independent(mnist):
  source = _open(mnist[0])
  which = source.digits_of(np.arange(128_000))
  for channel in range(3):
    counts = np.bincount(which[:, channel], minlength=80)
    # chi^2 of 79 degrees of freedom: mean 79, s.d. 12.6
    assert ((counts - 1600) ** 2 / 1600).sum() < 79 + 5 * 12.6
  pairs = np.bincount(which[:, 0] * 80 + which[:, 1], minlength=6400)
  # 6399 degrees of freedom: s.d. 113
  assert ((pairs - 20) ** 2 / 20).sum() < 6399 + 5 * 113
  correlation = np.corrcoef(which[:-1, 2], which[1:, 0])[0, 1]
  assert abs(correlation) < 5 / np.sqrt(128_000)


def test_a_stack_is_a_function_of_seed_split_and_index(mnist):
  folder = mnist[0]
  first, again = _open(folder), _open(folder)
  np.testing.assert_array_equal(first[77]['image'], again[77]['image'])
  np.testing.assert_array_equal(first.take(np.array([5, 77]))['image'][1],
                                again[77]['image'])
  assert repr(first) == repr(again)
  rows = np.arange(1000)
  for other in (_open(folder, seed=1), _open(folder, 'test')):
    same = (first.digits_of(rows) == other.digits_of(rows)).mean()
    assert same < 0.05  # 1/80 by chance
    assert repr(first) != repr(other)


def test_padding_keeps_pixels_and_resizing_fills(mnist):
  config = dict(source=f'stacked_mnist:{mnist[0]}', resolution=32)
  native = _open(mnist[0])[3]['image']
  padded = stacked_mnist.create_source({**config, 'crop': 'pad'}, 'train')
  image = padded[3]['image']
  assert set(padded[3]) == {'image'} and padded.spec.num_classes == 0
  np.testing.assert_array_equal(image, np.pad(native, ((2, 2), (2, 2), (0, 0))))
  resized = stacked_mnist.create_source(
      {**config, 'filter': 'bilinear'}, 'train')[3]['image']
  assert resized.shape == (32, 32, 3)
  assert (resized[0] > 0).mean() > 0.9
  # A channel is resized by itself.
  assert abs(resized.mean((0, 1)) - native.mean((0, 1))).max() < 2


@pytest.mark.parametrize('change, told', [
    (dict(split='val'), 'train and test'),
    (dict(labels='digit'), 'none, class'),
    (dict(channels=1), 'data.channels is 1'),
])
def test_refusals(mnist, change, told):
  change = dict(change)
  config = dict(source=f'stacked_mnist:{mnist[0]}', resolution=28)
  split = change.pop('split', 'train')
  with pytest.raises(errors.UserError, match=told):
    stacked_mnist.create_source({**config, **change}, split)


def test_eleven_classes_are_refused(tmp_path):
  for start in ('train', 't10k'):
    _write(tmp_path / f'{start}-images-idx3-ubyte',
           np.zeros([11, 28, 28], np.uint8))
    _write(tmp_path / f'{start}-labels-idx1-ubyte',
           np.arange(11, dtype=np.uint8))
  with pytest.raises(errors.UserError, match='0 to 10'):
    _open(tmp_path)
