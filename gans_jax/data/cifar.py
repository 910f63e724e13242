"""`cifar:PATH`: the archives of CIFAR-10 and CIFAR-100.

PATH is cifar-10-python.tar.gz, cifar-10-binary.tar.gz, their CIFAR-100
counterparts, or the folder that one unpacks to. The python version consists of
pickles, which are read with an unpickler that knows byte arrays and nothing
else.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import pickle
import re
import tarfile

import numpy as np

from gans_jax.convert import safe_pickle
from gans_jax.core import errors
from gans_jax.data import arrays

_MAX_BYTES = 2**28  # of all files of a data set together
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_PACKED = {b'\x1f\x8b': gzip.open, b'BZh': bz2.open,
           b'\xfd7zXZ\0': lzma.open}
_MEMBERS = re.compile(
    r'(data_batch_\d+|test_batch|train|test)(\.bin)?|batches\.meta(\.txt)?|'
    r'meta|(fine|coarse)_label_names\.txt')


def create_source(data_config, split: str) -> arrays.Source:
  """Opens `cifar:PATH`.

  Args:
    data_config: `labels` is none, class (fine), or coarse (CIFAR-100).
    split: 'train' or 'test'.
  """
  path = os.path.expanduser(data_config.get('source').partition(':')[2])
  kind = data_config.get('labels', 'none')
  content = load(path, split)
  kinds = ('none', 'class', 'auto') + (('coarse',) if 'coarse' in content
                                       else ())
  if kind not in kinds:
    raise errors.UserError(
        f'data.labels is {kind!r}; {path} has {", ".join(kinds[:2])}'
        f'{" and coarse" if "coarse" in content else ""}.')
  column = 'coarse' if kind == 'coarse' else 'label'
  digest = hashlib.sha256(content['image'].tobytes()).hexdigest()
  return arrays.create(
      content['image'], None if kind == 'none' else content[column],
      content[f'{column}_names'], {'cifar': digest, 'labels': column},
      data_config)


def is_cifar_folder(path: str) -> bool:
  """Whether a folder holds the files of a CIFAR archive."""
  if not os.path.isdir(path):
    return False
  names = {name.removesuffix('.bin') for name in os.listdir(path)
           if os.path.isfile(os.path.join(path, name))}
  return 'test_batch' in names or {'train', 'test'} <= names


def load(path: str, split: str) -> dict:
  """Reads one split.

  Returns:
    {'image': uint8 [N, 32, 32, 3], 'label': int [N], 'label_names': tuple},
    and for CIFAR-100 'coarse' and 'coarse_names'.

  Raises:
    UserError: not such an archive, damaged, or holding anything but arrays.
  """
  if split not in ('train', 'test'):
    raise errors.UserError(
        f'data.split is {split!r}; CIFAR has train and test.')
  files = _files(path)
  batches = sorted(name for name in files if name.startswith('data_batch'))
  ten = bool(batches)
  if split == 'test':
    batches = [name for name in files
               if name.removesuffix('.bin') in ('test_batch', 'test')]
  elif not ten:
    batches = [name for name in files if name.removesuffix('.bin') == 'train']
  if not batches:
    raise errors.UserError(
        f'{path} holds no {split} batch of CIFAR; expected '
        'cifar-10-python.tar.gz, cifar-100-python.tar.gz, the binary '
        'versions, or a folder unpacked from one.')
  parts = [_binary(path, name, files[name], 1 if ten else 2)
           if name.endswith('.bin') else _pickled(path, name, files[name])
           for name in batches]
  content = {key: np.concatenate([part[key] for part in parts])
             for key in parts[0]}
  content['image'] = np.ascontiguousarray(
      content['image'].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
  for key, names in _names(path, files).items():
    content[key] = names
  for key in ('label', 'coarse'):
    if key in content:
      size = {'label': 10 if ten else 100, 'coarse': 20}[key]
      if len(content[key]) != len(content['image']) or (
          content[key].min() < 0 or content[key].max() >= size):
        raise errors.UserError(
            f'The {key} of {path} are not {len(content["image"])} numbers '
            f'below {size}; the file is damaged.')
      names = content.get(f'{key}_names', ())
      content[f'{key}_names'] = (names if len(names) == size else
                                 tuple(str(i) for i in range(size)))
  return content


def _files(path: str) -> dict[str, bytes]:
  """Returns base name -> bytes of the files that matter."""
  if os.path.isdir(path):
    folders = [path] + [os.path.join(path, name) for name in
                        sorted(os.listdir(path))]
    for folder in folders:
      if is_cifar_folder(folder):
        result = {}
        for name in sorted(os.listdir(folder)):
          file = os.path.join(folder, name)
          if _MEMBERS.fullmatch(name) and os.path.isfile(file):
            with open(file, 'rb') as stream:
              result[name] = stream.read(_MAX_BYTES + 1)
            _check_size(path, sum(map(len, result.values())))
        return result
    return {}
  if not os.path.isfile(path):
    raise errors.UserError(
        f'{path} of data.source does not exist; expected a CIFAR archive.')
  try:
    # Unpacked here: tarfile would unpack whatever there is, to pass it.
    with open(path, 'rb') as stream:
      start = stream.read(6)
    with next((opener for magic, opener in _PACKED.items()
               if start.startswith(magic)), open)(path, 'rb') as stream:
      data = stream.read(_MAX_BYTES + 1)
    _check_size(path, len(data))
    with tarfile.open(fileobj=io.BytesIO(data), mode='r:') as archive:
      result = {}
      for member in archive:
        name = os.path.basename(member.name)
        if member.isfile() and _MEMBERS.fullmatch(name):
          result[name] = archive.extractfile(member).read()
          _check_size(path, sum(map(len, result.values())))
      return result
  except errors.UserError:
    raise
  except Exception as error:  # Damaged archives raise nearly every type.
    raise errors.UserError(
        f'{path} is not a readable tar archive ({error}); it may be cut off. '
        'Download it again.') from None


def _check_size(path, size):
  if size > _MAX_BYTES:
    raise errors.UserError(
        f'{path} holds more than {_MAX_BYTES} bytes once it is unpacked; '
        'CIFAR has fewer. It is something else, or a decompression bomb.')


def _binary(path, name, data, label_bytes) -> dict[str, np.ndarray]:
  row = label_bytes + _PIXELS
  if not data or len(data) % row:
    raise errors.UserError(
        f'{path}:{name} is {len(data)} bytes; expected a multiple of {row}. '
        'It is cut off; download the archive again.')
  table = np.frombuffer(data, np.uint8).reshape(-1, row)
  result = {'image': table[:, label_bytes:],
            'label': table[:, label_bytes - 1].astype(np.int32)}
  if label_bytes == 2:  # coarse, then fine
    result['coarse'] = table[:, 0].astype(np.int32)
  return result


def _pickled(path, name, data) -> dict[str, np.ndarray]:
  content = _unpickle(data, f'{path}:{name}')
  image = content.get(b'data')
  label = content.get(b'labels', content.get(b'fine_labels'))
  if not (isinstance(image, _Array) and isinstance(label, list)):
    raise errors.UserError(
        f'{path}:{name} lacks the keys "data" and "labels" (or '
        '"fine_labels"); expected a batch of CIFAR.')
  image = image.value
  if image is None or image.ndim != 2 or image.shape[1] != _PIXELS:
    raise errors.UserError(
        f'{path}:{name} holds no table of {_PIXELS} bytes per image; '
        'expected a batch of CIFAR.')
  try:
    result = {'image': image, 'label': np.array(label, np.int32)}
    if b'coarse_labels' in content:
      result['coarse'] = np.array(content[b'coarse_labels'], np.int32)
  except (ValueError, TypeError, OverflowError):
    raise errors.UserError(
        f'The labels of {path}:{name} are not numbers.') from None
  return result


def _names(path, files) -> dict[str, tuple[str, ...]]:
  """Returns label_names and coarse_names as far as the archive has them."""
  result = {}
  for name, key in (('batches.meta.txt', 'label_names'),
                    ('fine_label_names.txt', 'label_names'),
                    ('coarse_label_names.txt', 'coarse_names')):
    if name in files:
      result[key] = tuple(files[name].decode('utf-8', 'replace').split())
  for name in ('batches.meta', 'meta'):
    if name in files:
      content = _unpickle(files[name], f'{path}:{name}')
      for field, key in ((b'label_names', 'label_names'),
                         (b'fine_label_names', 'label_names'),
                         (b'coarse_label_names', 'coarse_names')):
        texts = content.get(field)
        if isinstance(texts, list) and all(
            isinstance(text, bytes) for text in texts):
          result[key] = tuple(text.decode('utf-8', 'replace')
                              for text in texts)
  return result


# --- restricted unpickling --------------------------------------------------


class _Array:
  """Stands in for numpy.ndarray; takes unsigned bytes and nothing else."""

  __slots__ = ('value',)

  def __init__(self, *unused):
    self.value = None

  def __setstate__(self, state):
    _, shape, dtype, fortran, raw = state
    if not (isinstance(dtype, _Dtype) and dtype.name in (b'u1', 'u1')
            and isinstance(raw, bytes)):
      raise pickle.UnpicklingError('an array of other values than bytes')
    self.value = np.frombuffer(raw, np.uint8).reshape(
        shape, order='F' if fortran else 'C')


class _Dtype:
  """Stands in for numpy.dtype."""

  __slots__ = ('name',)

  def __init__(self, name, *unused):
    self.name = name

  def __setstate__(self, state):
    pass


def _reconstruct(*unused):
  return _Array()


def _encode(text, encoding):
  # How Python 3 writes bytes for the unpickler of Python 2.
  if encoding not in ('latin1', b'latin1'):
    raise pickle.UnpicklingError(f'bytes written as {encoding!r}')
  return text.encode('latin1')


_ALLOWED = {
    '_codecs.encode': safe_pickle.Call(_encode),
    'numpy.ndarray': 'ndarray',
    'numpy.dtype': safe_pickle.Call(_Dtype),
    'numpy.core.multiarray._reconstruct': safe_pickle.Call(_reconstruct),
    'numpy._core.multiarray._reconstruct': safe_pickle.Call(_reconstruct),
}


def _unpickle(data: bytes, title: str) -> dict:
  content = safe_pickle.load(
      io.BytesIO(data), title, _ALLOWED, encoding='bytes')
  if not isinstance(content, dict):
    raise errors.UserError(f'{title} is not a batch of CIFAR.')
  # Python 3 writers use text keys, the original bytes.
  return {key.encode() if isinstance(key, str) else key: value
          for key, value in content.items()}
