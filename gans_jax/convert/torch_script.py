"""Reads the tensors of TorchScript archives (.pt), without PyTorch.

Such an archive is a zip file like that of convert/torch_file.py, whose
`data.pkl` holds a module instead of a state_dict. The classes of its modules
are made on the spot from code in the archive. That code is not looked at here:
every module is read as a dictionary of its attributes.
"""

import collections
from collections.abc import Iterator
import io
import os
import zipfile

import numpy as np

from gans_jax.convert import safe_pickle
from gans_jax.convert import torch_file
from gans_jax.core import archives
from gans_jax.core import errors

_MAX_MODULES = 10_000

# Names, not dtypes: pickle can call `__setstate__` of a NumPy dtype.
_STORAGES = {
    'torch.DoubleStorage': 'f8',
    'torch.FloatStorage': 'f4',
    'torch.HalfStorage': 'f2',
    'torch.LongStorage': 'i8',
    'torch.IntStorage': 'i4',
    'torch.BoolStorage': '?',
}


class _Globals(dict):
  """What an archive may ask for: tensors, lists, and modules.

  All modules are of one type, which no pickle can change, whose instances can
  have attributes.
  """

  def __missing__(self, key):
    if key.startswith('__torch__.'):
      return collections.OrderedDict
    raise KeyError(key)


def is_archive(path: str | os.PathLike) -> bool:
  """Whether a file is a TorchScript archive, by its content."""
  return _root(path) is not None


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns the parameters and buffers of a scripted module, by key.

  Keys are those of its `state_dict()`; arrays have the dtypes and strides of
  the file. Nothing in the file is executed.

  Args:
    path: an archive, see `is_archive`.

  Raises:
    UserError: damaged, or without a module.
  """
  name = os.fspath(path)
  try:
    with archives.open_whole(path) as archive:
      module = _unpickled(archive, _root(path), name)
  except OSError as e:
    raise errors.UserError(
        f'{name} cannot be read: {e.strerror or e}. Check the path.') from e
  except (KeyError, ValueError) as e:
    raise errors.UserError(
        f'{name} is a damaged TorchScript archive ({e}); fetch it again.'
    ) from e
  if not isinstance(module, collections.OrderedDict):
    raise errors.UserError(
        f'{name} is a TorchScript archive without a module; expected the '
        'weights of a network. Check the path.')
  try:
    return dict(_tensors(module, '', [_MAX_MODULES]))
  except (TypeError, ValueError, RecursionError) as e:
    raise errors.UserError(
        f'{name} is a TorchScript archive of something else than a network '
        f'({e}). Check the path.') from e


def _root(path) -> str | None:
  """The folder of everything in the archive; None if it is none."""
  try:
    with archives.open_whole(path) as archive:
      entries = archive.namelist()
  except (OSError, ValueError):
    return None
  # `torch.save` writes no constants.
  roots = [entry.removesuffix('constants.pkl') for entry in entries
           if entry.endswith('/constants.pkl')]
  return roots[0] if roots else None


def _unpickled(archive: zipfile.ZipFile, root: str, name: str):

  def storage(pid):
    _, dtype, key, _, count = pid
    if key not in storages:
      entry = archive.getinfo(f'{root}data/{key}')
      storages[key] = memoryview(archives.read(archive, entry)).toreadonly()
    return np.frombuffer(storages[key], np.dtype(dtype), count)

  storages = {}

  allowed = _Globals({
      'collections.OrderedDict': collections.OrderedDict,
      'torch._utils._rebuild_tensor_v2': safe_pickle.Call(torch_file.strided),
      **_STORAGES,
  } | {f'torch.jit._pickle.{key}': safe_pickle.Call(lambda value, *_: value)
       for key in ('build_intlist', 'build_doublelist', 'build_boollist',
                   'build_tensorlist', 'restore_type_tag')})
  stream = io.BytesIO(archives.read(
      archive, archive.getinfo(f'{root}data.pkl')))
  return safe_pickle.load(stream, name, allowed, storage)


def _tensors(module, prefix: str, left: list[int]
             ) -> Iterator[tuple[str, np.ndarray]]:
  left[0] -= 1
  if left[0] < 0:
    raise ValueError('its modules are nested without end')
  for key, value in vars(module).items():
    if isinstance(value, np.ndarray):
      yield prefix + key, value
    elif isinstance(value, collections.OrderedDict):
      yield from _tensors(value, f'{prefix}{key}.', left)
