"""Reads PyTorch checkpoints (.pth, .pt) into NumPy, without PyTorch.

Two layouts exist. Since PyTorch 1.6 a checkpoint is a zip archive: `data.pkl`
names storages by key, and `data/KEY` holds the raw bytes of each. Before, it
was one stream: three header pickles (magic number, protocol version, facts on
the machine), the object, the list of storage keys, and then for every key an
int64 count and the raw elements.

In both, a tensor is (storage, offset, size, stride) with offset and stride in
elements. Strides matter: files hold transposed tensors as transposed.
"""

import collections
import io
import math
import os
from typing import Any
from typing import BinaryIO
import zipfile

import ml_dtypes
import numpy as np

from gans_jax.convert import safe_pickle
from gans_jax.core import archives
from gans_jax.core import errors

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_REPEATED = 2**22

_DTYPES = {
    'DoubleStorage': np.float64,
    'FloatStorage': np.float32,
    'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16,
    'LongStorage': np.int64,
    'IntStorage': np.int32,
    'ShortStorage': np.int16,
    'CharStorage': np.int8,
    'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}


class Ignored:
  """Stands for an object of a class that is not read: it keeps nothing."""

  __slots__ = ()

  def __new__(cls, *unused_args, **unused_named):
    return object.__new__(cls)

  def __setstate__(self, state):
    pass

  def __setitem__(self, key, value):
    pass

  def append(self, value):
    pass

  def extend(self, values):
    pass


class _OrIgnored(dict):
  """Globals; those that are not there are classes of `Ignored` objects."""

  def __missing__(self, name: str):
    # One class for each name, for some files have classes as keys.
    self[name] = type(name, (Ignored,), {'__slots__': ()})
    return self[name]


def load(path: str | os.PathLike, ignore_others: bool = False) -> Any:
  """Returns what `torch.save` wrote, with NumPy arrays for tensors.

  Arrays of one storage share memory, as the tensors did, and keep the strides
  of the file. Dictionaries, lists, tuples, numbers and strings come back as
  they are. Nothing in the file is executed.

  Args:
    path: the file.
    ignore_others: put an `Ignored` for objects other than those, as the
      checkpoints of PyTorch Lightning hold some beside the weights.

  Raises:
    UserError: missing, damaged or truncated file, or objects other than those.
  """
  name = os.fspath(path)
  try:
    with open(path, 'rb') as file:
      try:
        zipped = zipfile.is_zipfile(file)
      except zipfile.BadZipFile:
        zipped = True
      if zipped:
        return _load_zip(file, name, ignore_others)
      file.seek(0)
      return _load_legacy(file, name, os.fstat(file.fileno()).st_size)
  except OSError as e:
    raise errors.UserError(
        f'{name} cannot be read: {e.strerror or e}. Expected a PyTorch '
        'checkpoint; check the path.') from e


def load_stream(data: bytes, name: str) -> Any:
  """As `load`, from bytes of the layout before PyTorch 1.6.

  Tensors that were pickled without `torch.save` hold such a stream each.

  Args:
    data: the stream.
    name: what errors call it.
  """
  return _load_legacy(io.BytesIO(data), name, len(data))


def _load_zip(file: BinaryIO, name: str, ignore_others: bool) -> Any:
  try:
    archive = archives.open_whole(file)
    pickles = [n for n in archive.namelist() if n.endswith('/data.pkl')]
    if len(pickles) != 1:
      raise errors.UserError(
          f'{name} is a zip archive with {len(pickles)} entries called '
          'data.pkl; a PyTorch checkpoint has one. Check the path.')
    root = pickles[0].removesuffix('data.pkl')
    if root + 'byteorder' in archive.namelist():
      order = bytes(archives.read(
          archive, archive.getinfo(root + 'byteorder')))
      if order != b'little':
        raise errors.UserError(
            f'{name} was saved with byte order {order.decode("latin1")!r:.40}; '
            'only little-endian files are read. Save it again on such a '
            'machine.')

    storages = {}

    def storage(pid):
      kind, storage_type, key, _, numel = pid
      dtype = np.dtype(_DTYPES[storage_type])
      if kind != 'storage' or numel < 0:
        raise ValueError(f'unexpected storage {pid!r}')
      if key not in storages:
        entry = archive.getinfo(f'{root}data/{key}')
        if entry.file_size != numel * dtype.itemsize:
          raise ValueError(f'storage {key} holds {entry.file_size} bytes, not '
                           f'{numel} x {dtype.itemsize}')
        # A bytearray, not bytes: arrays that callers may write to.
        storages[key] = np.frombuffer(archives.read(archive, entry), dtype)
      return storages[key]

    stream = io.BytesIO(archives.read(archive, archive.getinfo(pickles[0])))
    allowed = _OrIgnored(_allowed()) if ignore_others else _allowed()
    return safe_pickle.load(stream, name, allowed, storage)
  except ValueError as e:
    raise errors.UserError(
        f'{name} is a damaged zip archive ({e}); fetch it again.') from e


def _load_legacy(file: BinaryIO, name: str, size: int) -> Any:
  header = [safe_pickle.load(file, name, {}) for _ in range(3)]
  if header[0] != _MAGIC or header[1] != _PROTOCOL:
    raise errors.UserError(
        f'{name} is a pickle but no PyTorch checkpoint (its first two entries '
        f'are of types {type(header[0]).__name__} and '
        f'{type(header[1]).__name__}, or other numbers). Check the path.')
  storages = {}

  def storage(pid):
    kind, storage_type, key, _, numel, view = pid
    dtype = np.dtype(_DTYPES[storage_type])
    if kind != 'storage' or numel < 0:
      raise ValueError(f'unexpected storage {pid!r}')
    if key not in storages:
      # All together: claims alone would fill the memory otherwise.
      claimed = sum(x.nbytes for x in storages.values())
      if claimed + numel * dtype.itemsize > size:
        raise ValueError(f'storage {key} is larger than the file')
      # Filled below: the elements come after the tensors that view them.
      storages[key] = np.zeros(numel, dtype)
    if view is None:
      return storages[key]
    _, offset, count = view
    return storages[key][offset:offset + count]

  value = safe_pickle.load(file, name, _allowed(), storage)
  keys = safe_pickle.load(file, name, {})
  if not isinstance(keys, list) or not all(
      isinstance(key, str) for key in keys) or set(keys) != set(storages):
    raise errors.UserError(
        f'{name} lists storages that its tensors do not use, or the reverse; '
        'the file is damaged, fetch it again.')
  for key in keys:
    count = int.from_bytes(file.read(8), 'little')
    wanted = storages[key].view(np.uint8)
    if count != storages[key].size or file.readinto(wanted) != wanted.size:
      raise errors.UserError(
          f'{name} ends early or is damaged: storage {key} should hold '
          f'{storages[key].size} elements. Fetch the file again.')
  return value


def _allowed() -> dict[str, Any]:
  """The globals of a state_dict."""
  allowed = {
      # Training scripts save their command line.
      'argparse.Namespace': _Namespace,
      'collections.OrderedDict': collections.OrderedDict,
      'torch.Size': safe_pickle.Call(tuple),
      'torch._utils._rebuild_tensor_v2': safe_pickle.Call(strided),
      'torch._utils._rebuild_parameter': safe_pickle.Call(
          lambda data, requires_grad, hooks: data),
  }
  # Names, not dtypes: pickle can call `__setstate__` of a NumPy dtype.
  allowed.update({f'torch.{name}': name for name in _DTYPES})
  return allowed


class _Namespace:
  """Arguments of a command, which nobody asks for."""

  __slots__ = ()

  def __setstate__(self, state):
    pass


def strided(storage, offset, size, stride, *_):
  """The strided view of a 1-D storage; all arguments in elements."""
  # A stride of 0 repeats elements: of expanded tensors, never so many.
  if math.prod(size) > max(storage.size, _MAX_REPEATED):
    raise ValueError(f'a tensor {size} of {storage.size} numbers')
  last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
  if min((offset, *size, *stride)) < 0 or (
      0 not in size and last >= storage.size):
    raise ValueError(f'a tensor of size {size}, stride {stride} and offset '
                     f'{offset} leaves its storage of {storage.size}')
  if 0 in size:
    return np.empty(size, storage.dtype)
  return np.lib.stride_tricks.as_strided(
      storage[offset:], size, [s * storage.itemsize for s in stride])
