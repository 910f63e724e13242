"""CIFAR archives in both published forms, made here, read safely."""

import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pictures
import pytest

from gans_jax.core import errors
from gans_jax.data import cifar
from gans_jax.data import pipeline


def _tar(path, members) -> str:
  with tarfile.open(path, 'w:gz') as archive:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return str(path)


def content(count: int, seed: int):
  """Returns images [N, 32, 32, 3], fine labels < 10, coarse labels."""
  images = pictures.pixels(seed, (32, 32 * count)).reshape(-1, 32, 32, 3)
  labels = (np.arange(count) * 3 + seed) % 10
  return images, labels, labels // 5


def _rows(images):
  return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def _python2(value) -> bytes:
  """Pickles as Python 2 with its NumPy did: the form of the real archives."""
  if isinstance(value, dict):
    body = b''.join(_python2(x) for pair in value.items() for x in pair)
    return b'}(' + body + b'u'
  if isinstance(value, list):
    return b'](' + b''.join(map(_python2, value)) + b'e'
  if isinstance(value, bytes):
    return b'T' + struct.pack('<I', len(value)) + value
  if isinstance(value, int):
    return b'J' + struct.pack('<i', value)
  shape = b''.join(map(_python2, value.shape))
  dtype = (b'cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff'
           b'\xff\xffJ\xff\xff\xff\xffK\x00tb')
  return (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85'
          b'U\x01b\x87R(K\x01(' + shape + b't' + dtype + b'\x89'
          + _python2(value.tobytes()) + b'tb')


def _dumps(value) -> bytes:
  data = b'\x80\x02' + _python2(value) + b'.'
  # The writer above is right: the ordinary unpickler reads it.
  back = pickle.loads(data, encoding='bytes')
  for key in value:
    np.testing.assert_array_equal(back[key], value[key])
  return data


def python_ten(path) -> str:
  members = {}
  for i, name in enumerate([*(f'data_batch_{j}' for j in range(1, 6)),
                            'test_batch']):
    images, labels, _ = content(2, i)
    members[f'cifar-10-batches-py/{name}'] = _dumps(
        {b'data': _rows(images), b'labels': labels.tolist(),
         b'filenames': [b'x.png'] * 2})
  members['cifar-10-batches-py/batches.meta'] = _dumps(
      {b'label_names': [f'class{i}'.encode() for i in range(10)]})
  return _tar(path, members)


def binary_ten(path) -> str:
  members = {}
  for i, name in enumerate([*(f'data_batch_{j}' for j in range(1, 6)),
                            'test_batch']):
    images, labels, _ = content(2, i)
    table = np.concatenate([labels[:, None], _rows(images)], 1)
    members[f'cifar-10-batches-bin/{name}.bin'] = table.astype(
        np.uint8).tobytes()
  members['cifar-10-batches-bin/batches.meta.txt'] = '\n'.join(
      f'class{i}' for i in range(10)).encode()
  return _tar(path, members)


def python_hundred(path) -> str:
  members = {}
  for i, name in enumerate(['train', 'test']):
    images, labels, coarse = content(3, i)
    members[f'cifar-100-python/{name}'] = pickle.dumps(
        {b'data': _rows(images), b'fine_labels': labels.tolist(),
         b'coarse_labels': coarse.tolist()}, protocol=2)
  members['cifar-100-python/meta'] = pickle.dumps(
      {b'fine_label_names': [f'fine{i}'.encode() for i in range(100)],
       b'coarse_label_names': [f'coarse{i}'.encode() for i in range(20)]},
      protocol=2)
  return _tar(path, members)


def binary_hundred(path) -> str:
  members = {}
  for i, name in enumerate(['train', 'test']):
    images, labels, coarse = content(3, i)
    table = np.concatenate([coarse[:, None], labels[:, None],
                            _rows(images)], 1)
    members[f'cifar-100-binary/{name}.bin'] = table.astype(np.uint8).tobytes()
  return _tar(path, members)


def _open(path, split='train', **config):
  return pipeline.open_dataset(
      {'source': f'cifar:{path}', 'labels': 'class', **config}, split)


@pytest.mark.parametrize('make', [python_ten, binary_ten])
def test_ten(tmp_path, make):
  path = make(tmp_path / 'cifar.tar.gz')
  train, test = _open(path), _open(path, 'test')
  assert len(train) == 10 and len(test) == 2
  assert train.spec.class_names[3] == 'class3'
  for batch in range(5):
    images, labels, _ = content(2, batch)
    for row in range(2):
      example = train[2 * batch + row]
      np.testing.assert_array_equal(example['image'], images[row])
      assert example['label'] == labels[row]
  np.testing.assert_array_equal(test[1]['image'], content(2, 5)[0][1])


@pytest.mark.parametrize('make', [python_hundred, binary_hundred])
def test_hundred(tmp_path, make):
  path = make(tmp_path / 'cifar.tar.gz')
  images, labels, coarse = content(3, 0)
  fine_data, coarse_data = _open(path), _open(path, labels='coarse')
  assert fine_data.spec.num_classes == 100
  assert coarse_data.spec.num_classes == 20
  for i in range(3):
    np.testing.assert_array_equal(fine_data[i]['image'], images[i])
    assert fine_data[i]['label'] == labels[i]
    assert coarse_data[i]['label'] == coarse[i]


def test_unpacked_folder(tmp_path):
  archive = python_ten(tmp_path / 'cifar.tar.gz')
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
  return _tar(tmp_path / 'bad.tar.gz', {
      'cifar-10-batches-py/data_batch_1': (
          value if isinstance(value, bytes) else pickle.dumps(value, 2))})


def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = _one_batch(tmp_path, {b'data': _Hostile()})
  with pytest.raises(errors.UserError, match='mkdir.*hostile'):
    _open(path)
  assert not os.path.exists('hacked')


@pytest.mark.parametrize('value, words', [
    (b'not a pickle', 'data_batch_1 cannot be read'),
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
  path = python_ten(tmp_path / 'cifar.tar.gz')
  with open(path, 'r+b') as stream:
    stream.truncate(os.path.getsize(path) // 2)
  with pytest.raises(errors.UserError, match='not a readable tar'):
    _open(path)
  with pytest.raises(errors.UserError, match='does not exist'):
    _open(tmp_path / 'no.tar.gz')
  with pytest.raises(errors.UserError, match='no train batch'):
    _open(_tar(tmp_path / 'other.tar.gz', {'a.txt': b'x'}))
  short = {'cifar-10-batches-bin/data_batch_1.bin': bytes(3072)}
  with pytest.raises(errors.UserError, match='multiple of 3073'):
    _open(_tar(tmp_path / 'short.tar.gz', short))
  with pytest.raises(errors.UserError, match='train and test'):
    _open(path, 'val')
  ten = binary_ten(tmp_path / 'ten.tar.gz')
  with pytest.raises(errors.UserError, match='none, class'):
    _open(ten, labels='coarse')
