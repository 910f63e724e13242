"""CIFAR archives in both published forms, made here, read safely."""

import os
import pickle
import tarfile

import cifar_archives
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.data import cifar
from gans_jax.data import pipeline


def _open(path, split='train', **config):
  return pipeline.open_dataset(
      {'source': f'cifar:{path}', 'labels': 'class', **config}, split)


@pytest.mark.parametrize(
    'make', [cifar_archives.python_ten, cifar_archives.binary_ten])
def test_ten(tmp_path, make):
  path = make(tmp_path / 'cifar.tar.gz')
  train, test = _open(path), _open(path, 'test')
  assert len(train) == 10 and len(test) == 2
  assert train.spec.class_names[3] == 'class3'
  for batch in range(5):
    images, labels, _ = cifar_archives.content(2, batch)
    for row in range(2):
      example = train[2 * batch + row]
      np.testing.assert_array_equal(example['image'], images[row])
      assert example['label'] == labels[row]
  np.testing.assert_array_equal(test[1]['image'],
                                cifar_archives.content(2, 5)[0][1])


@pytest.mark.parametrize(
    'make', [cifar_archives.python_hundred, cifar_archives.binary_hundred])
def test_hundred(tmp_path, make):
  path = make(tmp_path / 'cifar.tar.gz')
  images, labels, coarse = cifar_archives.content(3, 0)
  fine_data, coarse_data = _open(path), _open(path, labels='coarse')
  assert fine_data.spec.num_classes == 100
  assert coarse_data.spec.num_classes == 20
  for i in range(3):
    np.testing.assert_array_equal(fine_data[i]['image'], images[i])
    assert fine_data[i]['label'] == labels[i]
    assert coarse_data[i]['label'] == coarse[i]


def test_unpacked_folder(tmp_path):
  archive = cifar_archives.python_ten(tmp_path / 'cifar.tar.gz')
  with tarfile.open(archive) as stream:
    stream.extractall(tmp_path / 'out', filter='data')
  for folder in (tmp_path / 'out', tmp_path / 'out/cifar-10-batches-py'):
    np.testing.assert_array_equal(_open(folder)[9]['image'],
                                  _open(archive)[9]['image'])
  assert cifar.is_cifar_folder(tmp_path / 'out/cifar-10-batches-py')
  assert not cifar.is_cifar_folder(tmp_path)


class _Hostile:

  def __reduce__(self):
    return os.mkdir, ('hacked',)


def _one_batch(tmp_path, value) -> str:
  return cifar_archives.tar(tmp_path / 'bad.tar.gz', {
      'cifar-10-batches-py/data_batch_1': (
          value if isinstance(value, bytes) else pickle.dumps(value, 2))})


def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = _one_batch(tmp_path, {b'data': _Hostile()})
  with pytest.raises(errors.UserError, match='mkdir.*run code'):
    _open(path)
  assert not os.path.exists('hacked')


@pytest.mark.parametrize('value, words', [
    (b'not a pickle', 'data_batch_1 is no readable'),
    ([1], 'is not a batch'), ({b'labels': [1]}, 'lacks the keys'),
    ({b'data': np.zeros((1, 3072), np.float32), b'labels': [1]},
     'other values than bytes'),
    ({b'data': np.zeros((1, 3071), np.uint8), b'labels': [1]}, '3072 bytes'),
    ({b'data': np.zeros((1, 3072), np.uint8), b'labels': ['x']}, 'not number'),
    ({b'data': np.zeros((1, 3072), np.uint8), b'labels': [10]}, 'below 10'),
    ({b'data': np.zeros((1, 3072), np.uint8), b'labels': []}, 'not 1 number')])
def test_refuses_bad_batches(tmp_path, value, words):
  with pytest.raises(errors.UserError, match=words):
    _open(_one_batch(tmp_path, value))


def test_refuses_bad_archives(tmp_path):
  path = cifar_archives.python_ten(tmp_path / 'cifar.tar.gz')
  with open(path, 'r+b') as stream:
    stream.truncate(os.path.getsize(path) // 2)
  with pytest.raises(errors.UserError, match='not a readable tar'):
    _open(path)
  with pytest.raises(errors.UserError, match='does not exist'):
    _open(tmp_path / 'no.tar.gz')
  with pytest.raises(errors.UserError, match='no train batch'):
    _open(cifar_archives.tar(tmp_path / 'other.tar.gz', {'a.txt': b'x'}))
  short = {'cifar-10-batches-bin/data_batch_1.bin': bytes(3072)}
  with pytest.raises(errors.UserError, match='multiple of 3073'):
    _open(cifar_archives.tar(tmp_path / 'short.tar.gz', short))
  with pytest.raises(errors.UserError, match='train and test'):
    _open(path, 'val')
  ten = cifar_archives.binary_ten(tmp_path / 'ten.tar.gz')
  with pytest.raises(errors.UserError, match='none, class'):
    _open(ten, labels='coarse')
