"""Statistics of real images, measured once and kept on disk.

A stored mean and covariance are valid only for the data, the resizer and the
weights that made them. The file holds them all, and is refused unless they
are exactly those asked for.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import tempfile
from typing import Any
import zipfile

import jax
import numpy as np

from gans_jax.metrics import frechet

_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
  """Real images, as a protocol sees them.

  Attributes:
    gaussian: fitted to their features.
    floor: the protocol's distance of real images from real images; JSON-able.
  """

  gaussian: frechet.Gaussian
  floor: dict[str, Any]


def default_dir() -> pathlib.Path:
  """Returns $GANS_JAX_CACHE, or ~/.cache/gans_jax."""
  path = os.environ.get('GANS_JAX_CACHE') or '~/.cache/gans_jax'
  return pathlib.Path(path).expanduser() / 'statistics'


def get(
    facts: dict[str, Any],
    measure: Callable[[], Reference],
    cache_dir: str | os.PathLike | None = None,
) -> tuple[Reference, bool]:
  """Returns the statistics that `facts` describe, measuring them once.

  Args:
    facts: all that decides them, JSON-able. Kept on disk only when
      `facts['data']['identity']` says which data they are of.
    measure: measures them.
    cache_dir: where to look and to store; `default_dir()` by default.

  Returns:
    The statistics, and whether they came from the disk.
  """
  if not facts['data'].get('identity'):
    return measure(), False
  text = json.dumps({'version': _VERSION, **facts}, sort_keys=True)
  name = hashlib.sha256(text.encode()).hexdigest()[:20]
  path = pathlib.Path(cache_dir or default_dir()) / f'{name}.npz'
  found = _read(path, text)
  # All or none: measuring is work that the processes of a job do together.
  if _on_every_process(found is not None):
    return found, True
  made = measure()
  if jax.process_index() == 0:
    try:
      _write(path, text, made)
    except OSError as e:
      logging.warning('Statistics of the real images are not kept: %s', e)
  return made, False


def _on_every_process(flag: bool) -> bool:
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.asarray(flag)).all())


def _read(path: pathlib.Path, text: str) -> Reference | None:
  try:
    with np.load(path, allow_pickle=False) as file:
      if file['facts'].item() != text:
        raise ValueError('it describes other statistics')
      mean, covariance = file['mu'], file['sigma']
      count = int(file['count'])
      factor = file['factor'] if 'factor' in file else None
      floor = json.loads(file['floor'].item())
    if covariance.shape != (len(mean), len(mean)) or not (
        np.isfinite(mean).all() and np.isfinite(covariance).all()):
      raise ValueError('its numbers are damaged')
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
    logging.warning('%s is not used and will be replaced: %s', path, e)
    return None
  return Reference(frechet.Gaussian(count, mean, covariance, factor), floor)


def _write(path: pathlib.Path, text: str, reference: Reference) -> None:
  gaussian = reference.gaussian
  # `mu` and `sigma` by these names: pytorch-fid's tools read such files.
  arrays = {
      'mu': gaussian.mean,
      'sigma': gaussian.covariance,
      'count': gaussian.count,
      'facts': text,
      'floor': json.dumps(reference.floor),
  }
  if gaussian.factor is not None:
    arrays['factor'] = gaussian.factor
  path.parent.mkdir(parents=True, exist_ok=True)
  # Renamed when complete: a reader never sees half a file.
  handle, temporary = tempfile.mkstemp(dir=path.parent, suffix='.tmp')
  try:
    with os.fdopen(handle, 'wb') as file:
      np.savez(file, **arrays)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
