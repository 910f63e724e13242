"""IDX files as MNIST's authors define them, written here by hand."""

import gzip

import idx_files
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.data import idx
from gans_jax.data import pipeline


def _open(path, split='train', **config):
  return pipeline.open_dataset(
      {'source': f'idx:{path}', 'channels': 1, **config}, split)


@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_reads_what_was_written(tmp_path, suffix):
  want = idx_files.write_set(tmp_path, suffix=suffix)
  for split in ('train', 'test'):
    data = _open(tmp_path, split, labels='class')
    images, labels = want[split]
    assert len(data) == len(images) and data.spec.num_classes == 3
    batch = data.take(np.arange(len(data)))
    np.testing.assert_array_equal(batch['image'][..., 0], images)
    np.testing.assert_array_equal(batch['label'], labels)
    np.testing.assert_array_equal(data[2]['image'], batch['image'][2])
  assert _open(tmp_path).spec.keys == ('image',)
  assert (_open(tmp_path).spec.identity
          != _open(tmp_path, 'test').spec.identity)


def test_pads_to_32_and_repeats_grey_in_colour(tmp_path):
  images = idx_files.write_set(tmp_path)['train'][0]
  data = _open(tmp_path, crop='pad', resolution=32, channels=3)
  batch = data.take(np.array([1, 0]))['image']
  assert batch.shape == (2, 32, 32, 3)
  for channel in range(3):
    np.testing.assert_array_equal(batch[0, 2:-2, 2:-2, channel], images[1])
  assert batch.sum() == 3 * images[:2].sum(dtype=np.int64)


def test_several_sets_in_a_folder_need_a_prefix(tmp_path):
  idx_files.write_set(tmp_path, prefix='emnist-digits-')
  want = idx_files.write_set(tmp_path, prefix='emnist-letters-', first=1)
  with pytest.raises(errors.UserError, match='several: emnist-digits'):
    _open(tmp_path)
  data = _open(tmp_path / 'emnist-letters', labels='class')
  images, labels = want['train']
  # EMNIST is stored transposed, and its letters count from 1.
  np.testing.assert_array_equal(data[3]['image'][..., 0], images[3].T)
  np.testing.assert_array_equal(
      data.take(np.arange(7))['label'], labels.astype(int) - 1)


def test_refuses_damage(tmp_path):
  idx_files.write_set(tmp_path)
  path = tmp_path / 'train-images-idx3-ubyte.gz'
  whole = path.read_bytes()
  cases = {
      'cut off': whole[:len(whole) // 2],
      'holds 5388 bytes.*7x28x28 = 5488': gzip.compress(
          gzip.decompress(whole)[:-100]),
      'starts with 00000d03': gzip.compress(
          b'\0\0\x0d\3' + gzip.decompress(whole)[4:]),
      'starts with nothing': b'',
      '2 dimensions': idx_files.encode(np.zeros((7, 28), np.uint8)),
      '6 images and .* 7 labels':
          idx_files.encode(np.zeros((6, 28, 28), np.uint8)),
  }
  for words, data in cases.items():
    path.write_bytes(data)
    with pytest.raises(errors.UserError, match=words):
      _open(tmp_path)
  path.unlink()
  with pytest.raises(errors.UserError,
                     match='found none; expected train-images-idx3-ubyte'):
    _open(tmp_path)


def test_refuses_absence_and_other_splits(tmp_path):
  with pytest.raises(errors.UserError, match='does not exist'):
    _open(tmp_path / 'no' / 'such')
  with pytest.raises(errors.UserError, match='train and test'):
    _open(tmp_path, 'val')
  idx_files.write_set(tmp_path)
  with pytest.raises(errors.UserError, match='none and class'):
    _open(tmp_path, labels='tone')


def test_knows_an_idx_folder(tmp_path):
  assert not idx.is_idx_folder(tmp_path)
  idx_files.write_set(tmp_path)
  assert idx.is_idx_folder(tmp_path)
