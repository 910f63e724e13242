"""TFDS without TensorFlow: own builders written and read back."""

import sys

import cifar_archives
import idx_files
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.data import builders
from gans_jax.data import pipeline
from gans_jax.data import tfds_source


def _open(name, root, split='train', **config):
  return pipeline.open_dataset(
      {'source': f'tfds:{name}', 'data_dir': str(root), **config}, split)


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist', 'kmnist'])
def test_mnist_family(tmp_path, name):
  want = idx_files.write_set(tmp_path / 'files')
  builders.prepare(name, str(tmp_path / 'files'), str(tmp_path / 'tfds'))
  for split in ('train', 'test'):
    data = _open(name, tmp_path / 'tfds', split, labels='class', channels=1)
    images, labels = want[split]
    assert len(data) == len(images) and data.spec.num_classes == 10
    batch = data.take(np.arange(len(data)))
    np.testing.assert_array_equal(batch['image'][..., 0], images)
    np.testing.assert_array_equal(batch['label'], labels)
    np.testing.assert_array_equal(data[1]['image'], batch['image'][1])
  assert 'tensorflow' not in sys.modules


def test_emnist_is_turned_upright(tmp_path):
  want = idx_files.write_set(tmp_path, prefix='emnist-letters-')
  builders.prepare('emnist/letters', str(tmp_path), str(tmp_path / 'tfds'))
  for name in ('emnist', 'emnist/letters', 'emnist/letters:3.1.0'):
    data = _open(name, tmp_path / 'tfds', channels=1, labels='class')
    np.testing.assert_array_equal(data[2]['image'][..., 0],
                                  want['train'][0][2].T)
  assert data.spec.num_classes == 37  # as stock TFDS has it


@pytest.mark.parametrize('name, make, classes', [
    ('cifar10', cifar_archives.python_ten, 10),
    ('cifar100', cifar_archives.binary_hundred, 100)])
def test_cifar(tmp_path, name, make, classes):
  make(tmp_path / f'cifar-{classes}-x.tar.gz')
  builders.prepare(name, str(tmp_path), str(tmp_path / 'tfds'))
  data = _open(name, tmp_path / 'tfds', labels='class')
  images, labels, coarse = cifar_archives.content(2 if classes == 10 else 3, 0)
  assert data.spec.num_classes == classes
  for i in range(2):
    np.testing.assert_array_equal(data[i]['image'], images[i])
    assert data[i]['label'] == labels[i]
  if classes == 100:
    again = _open(name, tmp_path / 'tfds', labels='coarse_label')
    assert [int(again[i]['label']) for i in range(3)] == coarse.tolist()


def test_split_expressions_resizing_and_refusals(tmp_path):
  idx_files.write_set(tmp_path / 'files')
  builders.prepare('mnist', str(tmp_path / 'files'), str(tmp_path))
  assert len(_open('mnist', tmp_path, 'train[:3]')) == 3
  data = _open('mnist', tmp_path, resolution=32, crop='pad')
  assert data[0]['image'].shape == (32, 32, 3)
  with pytest.raises(errors.UserError, match='mnist has'):
    _open('mnist', tmp_path, 'val')
  with pytest.raises(errors.UserError, match='tone.*label'):
    _open('mnist', tmp_path, labels='tone')
  with pytest.raises(errors.UserError, match='of version 9.9.9'):
    _open('mnist:9.9.9', tmp_path)
  info = tmp_path / 'mnist/3.0.1/dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(errors.UserError, match='only TensorFlow reads'):
    _open('mnist', tmp_path)
  info.write_text('{')
  with pytest.raises(errors.UserError, match='TFDS cannot read'):
    _open('mnist', tmp_path)


def test_not_prepared_says_what_to_do(tmp_path):
  with pytest.raises(errors.UserError, match='IDX files.*manual_dir='):
    _open('kmnist', tmp_path)
  with pytest.raises(errors.UserError, match='tfds build flowers'):
    _open('flowers', tmp_path)
  with pytest.raises(errors.UserError, match='does not exist'):
    builders.prepare('mnist', str(tmp_path / 'no'), str(tmp_path))
  with pytest.raises(errors.UserError, match='no builder for flowers'):
    builders.prepare('flowers', str(tmp_path), str(tmp_path))
  with pytest.raises(errors.UserError, match='nothing named cifar-10-'):
    builders.prepare('cifar10', str(tmp_path), str(tmp_path))


def test_newest_version_is_taken(tmp_path):
  for version in ('3.0.9', '3.0.10'):
    folder = tmp_path / 'x' / version
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{}')
  assert tfds_source.find('x', str(tmp_path)).endswith('3.0.10')
  assert tfds_source.find('x:3.0.9', str(tmp_path)).endswith('3.0.9')
