"""Reads TensorFlow's checkpoints (NAME.index and .data-...) without it.

The index is a table of LevelDB: blocks of entries with sorted keys, of which
each is given by what it adds to the one before; the last 48 bytes say where
the block of blocks lies. The key '' is the header, every other one a variable,
whose value is a protocol buffer with type, shape, shard, offset and size. The
shards hold the bare numbers.
"""

from collections.abc import Iterator
import glob
import os

import ml_dtypes
import numpy as np

from gans_jax.convert import protobuf
from gans_jax.core import errors

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16,
           6: np.int8, 9: np.int64, 10: np.bool_, 14: ml_dtypes.bfloat16,
           19: np.float16}


def load(path: str) -> dict[str, np.ndarray]:
  """Returns the variables of a checkpoint by name; those of numbers alone.

  Args:
    path: NAME.index, NAME, or a directory with variables/variables.index, as
      a SavedModel and a module of TF-Hub is.

  Raises:
    UserError: no checkpoint there, or a damaged one.
  """
  prefix = _prefix(path)
  try:
    with open(f'{prefix}.index', 'rb') as file:
      index = file.read()
    return dict(_variables(index, prefix))
  except OSError as e:
    raise errors.UserError(
        f'{e.filename or path} cannot be read: {e.strerror or e}. Expected a '
        'checkpoint of TensorFlow (NAME.index beside NAME.data-00000-of-00001)'
        ' or the directory of a SavedModel.') from e
  except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError,
          ValueError) as e:
    raise errors.UserError(
        f'{prefix}.index is no checkpoint of TensorFlow, or damaged '
        f'({type(e).__name__}: {e}). Fetch it again.') from e


def files(path: str) -> list[str]:
  """Returns the files that `load` reads, the index first."""
  prefix = glob.escape(_prefix(path))
  return sorted(glob.glob(f'{prefix}.index')) + sorted(
      glob.glob(f'{prefix}.data-*'))


def _prefix(path: str) -> str:
  if os.path.isdir(path):
    return os.path.join(path, 'variables', 'variables')
  return path.removesuffix('.index')


def _variables(index: bytes, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
  if len(index) < _FOOTER or int.from_bytes(
      index[-8:], 'little') != _MAGIC:
    raise ValueError('it does not end like a table')
  _, position = _handle(index, len(index) - _FOOTER)
  (offset, size), _ = _handle(index, position)
  shards: dict[int, np.ndarray] = {}
  total = 0
  for _, handle in _entries(index, offset, size):
    for key, value in _entries(index, *_handle(handle, 0)[0]):
      if not key:
        continue
      fields = dict(protobuf.fields(value))
      dtype = _DTYPES.get(fields.get(1, 0))
      if dtype is None or 7 in fields:  # strings, slices of variables
        continue
      shape = tuple(dict(protobuf.fields(dim)).get(1, 0)
                    for number, dim in protobuf.fields(fields.get(2, b''))
                    if number == 2)
      shard, start = fields.get(3, 0), fields.get(4, 0)
      if shard not in shards:
        shards[shard] = _shard(prefix, shard)
      length = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
      data = shards[shard][start:start + length]
      if length != fields.get(5, 0) or len(data) != length:
        raise ValueError(f'{key.decode()} has {len(data)} bytes for the shape '
                         f'{list(shape)}')
      # Together, for all may claim the same ones.
      total += length
      if total > sum(x.size for x in shards.values()):
        raise ValueError('variables that share their numbers')
      yield key.decode(), np.frombuffer(data.tobytes(), dtype).reshape(shape)


def _shard(prefix: str, number: int) -> np.ndarray:
  found = glob.glob(f'{glob.escape(prefix)}.data-{number:05d}-of-*')
  if len(found) != 1:
    raise FileNotFoundError(
        2, f'{len(found)} files of that name', f'{prefix}.data-{number:05d}-*')
  return np.fromfile(found[0], np.uint8)


def _entries(data: bytes, offset: int, size: int
             ) -> Iterator[tuple[bytes, bytes]]:
  """Yields (key, value) of a block."""
  block = data[offset:offset + size]
  if len(block) != size or data[offset + size] != 0:
    raise ValueError('a block that is cut off, or compressed')
  restarts = int.from_bytes(block[-4:], 'little')
  end, position, key = size - 4 * (restarts + 1), 0, b''
  while position < end:
    shared, position = protobuf.varint(block, position)
    added, position = protobuf.varint(block, position)
    length, position = protobuf.varint(block, position)
    if shared > len(key) or position + added + length > end:
      raise ValueError('an entry that leaves its block')
    key = key[:shared] + block[position:position + added]
    position += added
    yield key, block[position:position + length]
    position += length


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
  """Returns ((offset, size) of a block, the position behind)."""
  offset, position = protobuf.varint(data, position)
  size, position = protobuf.varint(data, position)
  return (offset, size), position
