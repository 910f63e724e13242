"""Statistics of real images, measured once and kept on disk.

Stored statistics are valid only for the data, the resizer and the weights that
made them. Our files hold them all, and are refused unless they are exactly
those asked for. Files of pytorch-fid and clean-fid hold numbers alone: they
are read when they are named, and the result says so.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from gans_jax.core import archives
from gans_jax.core import errors
from gans_jax.core import files

_VERSION = 2
_OWN = ('facts', 'floor')


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
  """Real images, as a metric sees them.

  Attributes:
    kept: arrays by name; see `measures.Measure.keep`.
    floor: the metric's value of real images against real images; JSON-able,
      empty where there is none.
    facts: about the images, for the record.
    seconds: that measuring took.
  """

  kept: dict[str, np.ndarray]
  floor: dict[str, Any]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  seconds: float = 0.0


def default_dir() -> pathlib.Path:
  """Returns $GANS_JAX_CACHE, or ~/.cache/gans_jax."""
  path = os.environ.get('GANS_JAX_CACHE') or '~/.cache/gans_jax'
  return pathlib.Path(path).expanduser() / 'statistics'


def find(facts: dict[str, Any], cache_dir: str | os.PathLike | None = None
         ) -> Reference | None:
  """Returns the stored statistics that `facts` describe, if there are any.

  Args:
    facts: all that decides them, JSON-able. Kept on disk only when
      `facts['data']['identity']` says which data they are of.
    cache_dir: where to look; `default_dir()` by default.
  """
  if not facts['data'].get('identity'):
    return None
  path, text = _place(facts, cache_dir)
  found = _read(path, text)
  # All or none: measuring is work that the processes of a job do together.
  return found if _on_every_process(found is not None) else None


def keep(facts: dict[str, Any], reference: Reference,
         cache_dir: str | os.PathLike | None = None) -> None:
  """Stores statistics for `find`; a disk that is full costs a warning."""
  if not facts['data'].get('identity') or jax.process_index():
    return
  path, text = _place(facts, cache_dir)
  try:
    _write(path, {**reference.kept, 'facts': text,
                  'floor': json.dumps(reference.floor)})
  except OSError as e:
    logging.warning('Statistics of the real images are not kept: %s', e)


def read_file(path: str, tap: dict[str, Any], measure: str) -> Reference:
  """Reads statistics that the user names.

  Args:
    path: an .npz with `mu` and `sigma` (pytorch-fid, TTUR, clean-fid, ours),
      or with `feats` (clean-fid's for KID).
    tap: facts of the features that they are compared with.
    measure: 'fd', 'fdinf', 'kd' or 'kdall'.

  Raises:
    UserError: unreadable, without what the measure needs, of other features
      as far as one can tell, or damaged.
  """
  needs = ('mu', 'sigma') if measure in ('fd', 'fdinf') else ('feats',)
  if measure not in ('fd', 'fdinf', 'kd', 'kdall'):
    raise errors.UserError(
        f'{path} cannot stand for real images in this metric: files of '
        'statistics serve the Frechet and the kernel distance alone.')
  if os.path.basename(path).endswith('inception_moments.npz'):
    raise errors.UserError(
        f'{path} looks like a file of BigGAN-PyTorch, whose Inception network '
        "is torchvision's and not that of FID: its moments do not compare. "
        'Leave --reference out, and the real images are measured.')
  try:
    arrays = archives.read_npz(path)
  except (OSError, ValueError) as e:
    raise errors.UserError(
        f'{path} is not a readable .npz file of statistics: {e}. Fetch it '
        'again, or measure the real images.') from e
  absent = [key for key in needs if key not in arrays]
  if absent and 'features' in arrays and needs == ('feats',):
    arrays['feats'], absent = arrays['features'], []
  if absent:
    raise errors.UserError(
        f'{path} holds {", ".join(sorted(arrays)) or "nothing"}, and this '
        f'metric needs {" and ".join(needs)}. Name a file that was made for '
        'it.')
  for key in needs:
    if arrays[key].dtype.kind not in 'fiu' or not np.isfinite(
        arrays[key]).all():
      raise errors.UserError(
          f'{path} has NaN or infinity in {key!r}, or no numbers: it is '
          'damaged. Fetch it again.')
  dim = tap['dim']
  wanted = {'mu': (dim,), 'sigma': (dim, dim)}
  for key in needs:
    shape = arrays[key].shape
    if (shape != wanted[key] if key in wanted else
        len(shape) != 2 or shape[1] != dim):
      raise errors.UserError(
          f'{path} has {key!r} of shape {list(shape)}; features of '
          f'{tap["name"]} have {dim} dimensions. It was made with another '
          'network.')
  stated, floor, count = _beside(path, arrays, dim)
  for key, value in stated.items():
    if value != tap.get(key):
      raise errors.UserError(
          f'{path} was made with {key} = {value!r}, and this metric has '
          f'{tap.get(key)!r}: they do not compare. Leave --reference out, or '
          'choose the preset that it was made with.')
  facts = {'statistics': os.path.basename(path), 'sha256': files.sha256(path)}
  if needs == ('feats',):
    return Reference({'features': arrays['feats']}, {}, facts)
  kept = {'mu': arrays['mu'].astype(np.float64),
          'sigma': arrays['sigma'].astype(np.float64), 'count': count}
  if 'factor' in arrays:
    kept['factor'] = arrays['factor']
  if 'count' in arrays:
    facts['count'] = int(count)
  return Reference(kept, floor, facts)


def _beside(path: str, arrays: dict[str, np.ndarray], dim: int):
  """Returns (facts of the features, floor, count) as far as a file has them.

  Raises:
    UserError: not as `write_file` writes them.
  """
  # Other tools do not say how many images it were: more than dimensions.
  count = arrays.get('count', np.asarray(dim + 1))
  factor = arrays.get('factor', np.zeros(()))
  try:
    stated, floor = (
        json.loads(arrays[key].item()) if key in arrays else {}
        for key in ('facts', 'floor'))
    stated = stated['features'] if 'facts' in arrays else {}
    if not (isinstance(stated, dict) and isinstance(floor, dict)):
      raise ValueError('facts and floor are no mappings')
    if count.dtype.kind not in 'iu' or count.shape or count < 1:
      raise ValueError('count is no number of images')
    if factor.dtype.kind != 'f' or not np.isfinite(factor).all():
      raise ValueError('factor has no numbers')
  except (ValueError, TypeError, KeyError, RecursionError) as e:
    raise errors.UserError(
        f'{path} says where its numbers come from in another way than our '
        f'own files do ({type(e).__name__}: {e}): it is damaged. Make it '
        'again, or measure the real images.') from e
  return stated, floor, count


def write_file(path: str, reference: Reference, tap: dict[str, Any]) -> None:
  """Writes statistics under the names that pytorch-fid and clean-fid read.

  `mu` and `sigma`, or `feats`; and beside them what we know of their origin,
  which those tools ignore.

  Raises:
    UserError: the file cannot be written.
  """
  arrays = dict(reference.kept)
  if 'features' in arrays:
    arrays['feats'] = arrays.pop('features')
  facts = {'features': tap, 'data': reference.facts}
  try:
    _write(pathlib.Path(path), {
        **arrays, 'facts': json.dumps(facts, sort_keys=True),
        'floor': json.dumps(reference.floor)})
  except OSError as e:
    raise files.cannot_write(path, e) from e


def _place(facts, cache_dir) -> tuple[pathlib.Path, str]:
  text = json.dumps({'version': _VERSION, **facts}, sort_keys=True)
  name = hashlib.sha256(text.encode()).hexdigest()[:20]
  return pathlib.Path(cache_dir or default_dir()) / f'{name}.npz', text


def _on_every_process(flag: bool) -> bool:
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.asarray(flag)).all())


def _read(path: pathlib.Path, text: str) -> Reference | None:
  try:
    kept = archives.read_npz(path)
    facts, floor = (kept.pop(key) for key in _OWN)
    if facts.tolist() != text:
      raise ValueError('it describes other statistics')
    floor = json.loads(floor.item())
    if not kept or not all(array.dtype.kind not in 'US'
                           and np.isfinite(array).all()
                           for array in kept.values()):
      raise ValueError('its numbers are damaged')
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
    logging.warning('%s is not used and will be replaced: %s', path, e)
    return None
  return Reference(kept, floor)


def _write(path: pathlib.Path, arrays: dict[str, Any]) -> None:
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
