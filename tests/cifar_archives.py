"""Writes CIFAR archives in both published forms, a few images to each part."""

import io
import pickle
import struct
import tarfile

import numpy as np
import pictures


def tar(path, members) -> str:
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


def rows(images):
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


def dumps(value) -> bytes:
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
    members[f'cifar-10-batches-py/{name}'] = dumps(
        {b'data': rows(images), b'labels': labels.tolist(),
         b'filenames': [b'x.png'] * 2})
  members['cifar-10-batches-py/batches.meta'] = dumps(
      {b'label_names': [f'class{i}'.encode() for i in range(10)]})
  return tar(path, members)


def binary_ten(path) -> str:
  members = {}
  for i, name in enumerate([*(f'data_batch_{j}' for j in range(1, 6)),
                            'test_batch']):
    images, labels, _ = content(2, i)
    table = np.concatenate([labels[:, None], rows(images)], 1)
    members[f'cifar-10-batches-bin/{name}.bin'] = table.astype(
        np.uint8).tobytes()
  members['cifar-10-batches-bin/batches.meta.txt'] = '\n'.join(
      f'class{i}' for i in range(10)).encode()
  return tar(path, members)


def python_hundred(path) -> str:
  members = {}
  for i, name in enumerate(['train', 'test']):
    images, labels, coarse = content(3, i)
    members[f'cifar-100-python/{name}'] = pickle.dumps(
        {b'data': rows(images), b'fine_labels': labels.tolist(),
         b'coarse_labels': coarse.tolist()}, protocol=2)
  members['cifar-100-python/meta'] = pickle.dumps(
      {b'fine_label_names': [f'fine{i}'.encode() for i in range(100)],
       b'coarse_label_names': [f'coarse{i}'.encode() for i in range(20)]},
      protocol=2)
  return tar(path, members)


def binary_hundred(path) -> str:
  members = {}
  for i, name in enumerate(['train', 'test']):
    images, labels, coarse = content(3, i)
    table = np.concatenate([coarse[:, None], labels[:, None],
                            rows(images)], 1)
    members[f'cifar-100-binary/{name}.bin'] = table.astype(np.uint8).tobytes()
  return tar(path, members)
