"""Checkpoints: saved in the background, checked before they are believed.

This is the only file that calls orbax. A workdir holds

    checkpoints/<step>/state/          the arrays of a TrainState
    checkpoints/<step>/data/, meta/    JSON: the data iterator; all else
    checkpoints/<step>/checksums.json  SHA-256 of every file above
    checkpoints/bad_<step>/            refused by a resume, kept for a look

A directory named by a number is complete: orbax writes under a temporary
name and renames. The checksums are added after that by a background thread;
a checkpoint without them (the process was killed in between) is believed if
all of it can be read.

Reading never writes or deletes anything: `sample` and `evaluate` may read the
checkpoints of a run that goes on. With several processes every method is a
collective (call it in all of them); `directory` is shared, process 0 writes
the JSON and the checksums, and verdicts on a checkpoint are broadcast.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from concurrent import futures
import contextlib
import json
import logging
import math
import os
import re
import shutil
import sys
import threading
from typing import Any
from typing import NamedTuple

from etils import epath  # What orbax takes for a path.
import jax
import orbax.checkpoint as ocp

from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import processes

CHECKSUMS = 'checksums.json'
_log = logging.getLogger(__name__)


class Restored(NamedTuple):
  """What came back from disk.

  Attributes:
    state: the TrainState, or {name: tree} from `restore_variables`.
    data_state: the iterator's state; {} from `restore_variables`.
    meta: the dict that was saved.
    step: the step of the checkpoint that was read.
    refused: {step: reason} of newer checkpoints that are broken; empty when
      the newest was good.
  """

  state: Any
  data_state: dict
  meta: dict
  step: int
  refused: dict[int, str]


class Checkpointer:
  """Saves and restores the checkpoints of one workdir."""

  def __init__(self, workdir: str, keep_latest: int = 2,
               best_metric: tuple[str, str] | None = None,
               async_: bool = True):
    """Prepares; touches no file.

    Args:
      workdir: the run's directory, shared by all processes.
      keep_latest: number of newest checkpoints that are kept.
      best_metric: (name, 'min' or 'max'): the checkpoint whose `metrics` are
        best by it is kept too.
      async_: whether `save` returns while the files are still being written.
    """
    self.directory = os.path.join(os.path.abspath(workdir), 'checkpoints')
    if keep_latest < 1:
      raise errors.UserError(
          f'keep is {keep_latest}; at least one checkpoint must be kept, for '
          'a run that resumes.')
    if best_metric is not None and best_metric[1] not in ('min', 'max'):
      raise errors.UserError(
          f"best_metric is {best_metric}; it must be (name, 'min' or 'max').")
    # Orbax logs the traceback of every error that it also raises.
    logging.getLogger('absl').addFilter(_not_from_orbax)
    self._keep_latest = keep_latest
    self._best_metric = best_metric
    self._async = async_
    self._manager = None
    self._thread = None
    self._failure = None
    self._written = set()
    self._refused = {}

  # ------------------------------------------------------------- saving

  def save(self, step: int, state: Any, data_state: Mapping[str, Any],
           meta: Mapping[str, Any],
           metrics: Mapping[str, float] | None = None,
           force: bool = False) -> bool:
    """Starts to save; returns once the arrays may be donated or changed.

    Waits for the save before it, if that is not done yet.

    Args:
      step: names the checkpoint.
      state: pytree of arrays.
      data_state: JSON-able state of the data iterator, the same in every
        process (process 0's is written).
      meta: JSON-able; `metrics` are added to it under that name.
      metrics: evaluated at this very state; finite values compete for best.
      force: write even though this step is there already and intact.

    Returns:
      False if the step was there already, intact, and nothing was written.

    Raises:
      UserError: this or the previous save failed (full disk, permission);
        older checkpoints are untouched.
    """
    step = int(step)
    self.wait()
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(files.plain(data_state)),
        meta=ocp.args.JsonSave(
            dict(files.plain(meta), metrics=files.plain(metrics or {}))))
    replaced = False
    try:
      manager = self._open_manager()
      if step in processes.on_main(self.steps):
        broken = step in self._refused or (
            step not in self._written and self._verdict(step)[1])
        if not broken and not force:
          _log.info('checkpoint %d is there already', step)
          return False
        name = 'bad' if broken else 'replaced'
        processes.on_main(lambda: self._set_aside(step, name))
        manager.reload()
        replaced = not broken
      # `force`: when to save is the loop's business, not the manager's.
      manager.save(step, args=items, metrics=self._score(metrics), force=True)
    except Exception as error:  # pylint: disable=broad-except
      self._discard_manager()
      raise self._save_error(step, error) from error
    self._thread = threading.Thread(
        target=self._finish, args=(step, manager), name=f'checkpoint-{step}')
    self._thread.start()
    if replaced or not self._async:
      self.wait()
    if replaced:
      processes.on_main(self._tidy)
    return True

  def wait(self) -> None:
    """Waits for the save under way, if any.

    Raises:
      UserError: it failed.
    """
    if self._thread is None:
      return
    self._thread.join()
    self._thread = None
    if self._failure is not None:
      (step, error), self._failure = self._failure, None
      # A manager whose save failed repeats the error for ever.
      self._discard_manager()
      raise self._save_error(step, error) from error

  def close(self) -> None:
    """Waits, and frees the threads. Raises as `wait` does."""
    try:
      self.wait()
    finally:
      self._discard_manager()

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *unused_exception) -> None:
    self.close()

  def _open_manager(self) -> ocp.CheckpointManager:
    if self._manager is not None:
      return self._manager
    processes.on_main(self._tidy)
    policies = [ocp.checkpoint_managers.LatestN(self._keep_latest)]
    options = {}
    if self._best_metric is not None:
      name, mode = self._best_metric
      # Older checkpoints may have been ranked by another metric.
      worst = math.inf if mode == 'min' else -math.inf

      def rank(metrics):
        return metrics.get(name, worst)

      policies.append(ocp.checkpoint_managers.BestN(
          get_metric_fn=rank,
          # The policy keeps the last of the sorted.
          reverse=mode == 'min', n=1,
          # The default keeps every checkpoint without metrics for ever.
          keep_checkpoints_without_metrics=False))
      # Without best_fn the manager does not write metrics to disk, and after
      # a resume the best checkpoint would be forgotten and deleted.
      options = {'best_fn': rank, 'best_mode': mode}
    self._manager = ocp.CheckpointManager(
        self.directory,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=(
                ocp.checkpoint_managers.AnyPreservationPolicy(policies)),
            cleanup_tmp_directories=True, **options))
    return self._manager

  def _discard_manager(self) -> None:
    manager, self._manager = self._manager, None
    if manager is not None:
      # What there was to say has been said by `wait`.
      with contextlib.suppress(Exception):
        manager.close()

  def _score(self, metrics: Mapping[str, float] | None) -> dict | None:
    """The metrics that the manager ranks by: one finite number, or none."""
    if self._best_metric is None or not isinstance(metrics, Mapping):
      return None
    name = self._best_metric[0]
    try:
      value = float(metrics.get(name, math.nan))
    except (OverflowError, TypeError, ValueError):  # Of a damaged file.
      return None
    return {name: value} if math.isfinite(value) else None

  def _finish(self, step: int, manager: ocp.CheckpointManager) -> None:
    """In the background: waits for the files, then writes their checksums."""
    try:
      manager.wait_until_finished()
      self._written.add(step)
      self._refused.pop(step, None)
      if processes.is_main():
        _write_checksums(self._path(step))
    except errors.UserError as error:
      # The checkpoint is complete; it lacks only its checksums.
      _log.warning('checkpoint %d has no checksums: %s', step, error)
    except BaseException as error:  # pylint: disable=broad-except
      self._failure = (step, error)

  def _save_error(self, step: int, error: BaseException) -> BaseException:
    """Turns what the file system refused into words; else returns `error`."""
    text = errors.one_line(error)
    from_disk = isinstance(error, OSError) or re.search(
        r'os_error_code|Error (writing|opening)|RESOURCE_EXHAUSTED', text)
    if isinstance(error, errors.UserError) or not from_disk:
      return error
    known = re.search(
        r'No space left on device|Disk quota exceeded|File too large|'
        r'Permission denied|Read-only file system|Not a directory|'
        r'Input/output error', text)
    steps = self.steps()
    last = (f'the last good checkpoint is step {steps[-1]}, untouched'
            if steps else 'there is no earlier checkpoint')
    return errors.UserError(
        f'Checkpoint {step} could not be written to {self.directory}: '
        f'{known.group() if known else text[:300]}; {last}. Free space there '
        'or get permission to write, then run the same command to go on from '
        'it.')

  def _set_aside(self, step: int, name: str) -> None:
    """Renames a checkpoint, so that its step can be saved anew."""
    target = os.path.join(self.directory, f'{name}_{step}')
    count = 1
    while os.path.exists(target):
      count += 1
      target = os.path.join(self.directory, f'{name}_{step}_{count}')
    try:
      os.rename(self._path(step), target)
    except OSError as error:
      raise files.cannot_write(target, error) from error
    _log.info('moved checkpoint %d to %s', step, target)

  def _tidy(self) -> None:
    """Before saving: known bad ones aside, interrupted replacements undone."""
    for step in self._refused:
      if os.path.isdir(self._path(step)):
        self._set_aside(step, 'bad')
    for name in _names(self.directory):
      match = re.fullmatch(r'replaced_(\d+)(_\d+)?', name)
      if match:
        old, new = os.path.join(self.directory, name), match.group(1)
        if os.path.isdir(os.path.join(self.directory, new)):
          shutil.rmtree(old, ignore_errors=True)
        else:
          os.rename(old, os.path.join(self.directory, new))

  # ------------------------------------------------------------ reading

  def steps(self) -> list[int]:
    """Steps of all complete checkpoints, ascending; good or not."""
    return sorted(int(n) for n in _names(self.directory) if n.isdigit())

  def latest_step(self) -> int | None:
    """The newest step, or None."""
    return max(self.steps(), default=None)

  def best_step(self) -> int | None:
    """The step with the best `best_metric`, or None without any."""
    if self._best_metric is None:
      raise ValueError('this Checkpointer was made without best_metric')
    name, mode = self._best_metric
    scores = {}
    for step in self.steps():
      with contextlib.suppress(errors.UserError):
        score = self._score(self.read_meta(step).get('metrics'))
        if score:
          scores[step] = score[name]
    if not scores:
      return None
    return (min if mode == 'min' else max)(scores, key=scores.get)

  def read_meta(self, step: int) -> dict:
    """Returns the meta of one checkpoint.

    Raises:
      UserError: it is not there or cannot be read.
    """
    return self._read_json(step, 'meta')

  def restore(self, abstract_state: Any, step: int | None = None) -> Restored:
    """Reads a whole state, bit for bit as it was saved.

    The newest checkpoint that passes its checksums is taken. Broken newer
    ones are named in a warning and in the result, and moved to bad_<step>
    when the next checkpoint is saved.

    Args:
      abstract_state: the state's tree of ShapeDtypeStruct whose shardings say
        where to put it; the mesh may differ from the one that saved. Leaves
        without a sharding go to this process's first device.
      step: this very checkpoint or none.

    Raises:
      UserError: no good checkpoint, or its arrays are not those of
        `abstract_state` (each difference is listed).
    """
    abstract_state = _with_shardings(abstract_state)

    def read(candidate):
      path = os.path.join(self._path(candidate), 'state')
      _check_same_arrays(path, abstract_state)
      state = ocp.Checkpointer(ocp.StandardCheckpointHandler()).restore(
          path, args=ocp.args.StandardRestore(abstract_state))
      return (jax.block_until_ready(state),
              self._read_json(candidate, 'data'),
              self.read_meta(candidate))

    restored = self._newest_good(read, step)
    self._refused.update(restored.refused)
    return restored

  def restore_variables(
      self, step: int | None = None, names: Iterable[str] = ('ema',),
      sharding: jax.sharding.Sharding | None = None) -> Restored:
    """Reads some fields of a state, knowing nothing of the system.

    Shapes and dtypes come from the checkpoint, so that sampling builds
    neither optimizer nor discriminator.

    Args:
      step: the checkpoint; None takes the newest good one.
      names: fields such as 'ema', or 'params' and 'mvars'.
      sharding: where to put the arrays; this process's first device if None.

    Raises:
      UserError: no good checkpoint, or it has no such field.
    """
    names = tuple(names)
    sharding = sharding or _first_device()

    def read(candidate):
      path = os.path.join(self._path(candidate), 'state')
      saved = _saved_tree(path)
      missing = [name for name in names if name not in saved]
      if missing:
        raise errors.UserError(
            f'Checkpoint {self._path(candidate)} has no {missing}; it has '
            f'{sorted(saved)}.')
      item = {
          name: jax.tree.map(
              lambda x: jax.ShapeDtypeStruct(
                  x.shape, x.dtype, sharding=sharding), saved[name])
          for name in names
      }
      if jax.tree.leaves(item):
        handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        restore_args = ocp.checkpoint_utils.construct_restore_args(item)
        item = jax.block_until_ready(handler.restore(
            path, args=ocp.args.PyTreeRestore(
                item=item, restore_args=restore_args, partial_restore=True)))
      return item, {}, self.read_meta(candidate)

    return self._newest_good(read, step)

  def _newest_good(self, read, step: int | None) -> Restored:
    """Applies `read` to the newest checkpoint that turns out to be good."""
    self.wait()
    steps = processes.on_main(self.steps)
    if not steps:
      raise errors.UserError(
          f'There is no checkpoint in {self.directory}. Train first, or give '
          'the workdir of another run.')
    if step is not None and step not in steps:
      raise errors.UserError(
          f'There is no checkpoint of step {step} in {self.directory}; there '
          f'are {steps}.')
    refused = {}
    for candidate in ([step] if step is not None else reversed(steps)):
      checked, problem = self._verdict(candidate)
      result, mismatch = None, None
      if not problem:
        try:
          result = read(candidate)
        except Exception as error:  # pylint: disable=broad-except
          if checked and not _verify(self._path(candidate))[1]:
            raise  # The files are good; the fault is elsewhere.
          mismatch = error if isinstance(error, _Mismatch) else None
          problem = (f'it has no {CHECKSUMS} and cannot be read '
                     f'({" ".join(str(error).split())[:300]})')
        problem = processes.first_problem(problem)
        if mismatch is not None:
          raise mismatch
      if not problem:
        if refused:
          _log.warning('going on from checkpoint %d instead', candidate)
        return Restored(*result, candidate, refused)
      # A run that goes on deletes its old checkpoints: no fault of theirs.
      if step is not None or os.path.isdir(self._path(candidate)):
        _log.warning('checkpoint %s is refused: %s', self._path(candidate),
                     problem)
        refused[candidate] = problem
    if step is not None:
      raise errors.UserError(
          f'Checkpoint {self._path(step)} is refused: {refused[step]}. '
          f'Checkpoints there: {steps}; choose another step, or none for the '
          'newest good one.')
    found = '; '.join(f'step {s}: {p}' for s, p in refused.items())
    raise errors.UserError(
        f'No checkpoint in {self.directory} is good. '
        f'{found or "All were deleted while they were read"}. Restore the '
        'directory from a copy, or start again in another workdir.')

  def _verdict(self, step: int) -> tuple[bool, str]:
    """(whether it has checksums, what is wrong with it or '')."""
    return tuple(processes.on_main(lambda: _verify(self._path(step))))

  def _path(self, step: int) -> str:
    return os.path.join(self.directory, str(step))

  def _read_json(self, step: int, item: str) -> dict:
    path = os.path.join(self._path(step), item)
    try:
      # The handler itself, because ocp.Checkpointer would add a barrier.
      found = ocp.JsonCheckpointHandler().restore(
          epath.Path(path), args=ocp.args.JsonRestore())
      if not isinstance(found, dict):
        raise ValueError(f'it holds {type(found).__name__}, no mapping')
      return found
    except (OSError, RecursionError, ValueError) as error:
      raise errors.UserError(
          f'{path} cannot be read: {error}. The checkpoint is damaged or '
          'was deleted; choose another step.') from error


class _Mismatch(errors.UserError):
  """The checkpoint is of another model: falling back would not help."""


def _not_from_orbax(unused_record: logging.LogRecord) -> bool:
  # The frames tell: a record's pathname is absl's own where the logger 'absl'
  # was made before absl was imported.
  frame = sys._getframe(1)
  while frame is not None:
    if frame.f_globals.get('__name__', '').startswith('orbax.'):
      return False
    frame = frame.f_back
  return True


def _names(directory: str) -> list[str]:
  try:
    return sorted(os.listdir(directory))
  except (FileNotFoundError, NotADirectoryError):
    return []
  except OSError as error:
    raise errors.UserError(
        f'Cannot read {directory}: {error.strerror}. Get permission to read '
        'it, or choose another workdir.') from error


def _first_device() -> jax.sharding.Sharding:
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _with_shardings(abstract):
  def one(x):
    if getattr(x, 'sharding', None) is not None:
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_first_device())

  return jax.tree.map(one, abstract)


def _saved_tree(path: str):
  """Tree of a saved state; leaves have `shape` and `dtype`, no values."""
  metadata = ocp.StandardCheckpointHandler().metadata(
      epath.Path(path))
  return getattr(metadata, 'tree', metadata)


def _check_same_arrays(path: str, abstract) -> None:
  """Refuses a state of another model; orbax would cast dtypes silently."""
  def table(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {mesh_lib.path_name(where): leaf for where, leaf in leaves}

  def facts(x):
    return f'{x.dtype.name}{list(x.shape)}'

  saved, wanted = table(_saved_tree(path)), table(abstract)
  differences = [f'{name} is only in the checkpoint'
                 for name in sorted(saved.keys() - wanted.keys())]
  differences += [f'{name} is not in the checkpoint'
                  for name in sorted(wanted.keys() - saved.keys())]
  for name in sorted(saved.keys() & wanted.keys()):
    # Typed keys are stored as their uint32 words.
    if not jax.dtypes.issubdtype(wanted[name].dtype, jax.dtypes.prng_key):
      if facts(saved[name]) != facts(wanted[name]):
        differences.append(f'{name} is {facts(saved[name])} in the '
                           f'checkpoint and {facts(wanted[name])} here')
  if differences:
    shown = '; '.join(differences[:8])
    more = len(differences) - 8
    raise _Mismatch(
        f'The checkpoint {path} is of another model: {shown}'
        f'{f"; and {more} more" if more > 0 else ""}. Use the config that it '
        'was trained with, or another workdir.')


def _files_of(directory: str) -> list[str]:
  """Relative paths of all files that the checksums cover, sorted."""
  found = []
  for root, _, names in os.walk(directory):
    found += [os.path.relpath(os.path.join(root, n), directory)
              for n in names]
  return sorted(n for n in found if not re.fullmatch(
      rf'\.?{re.escape(CHECKSUMS)}.*', n))


def _write_checksums(directory: str) -> None:
  names = _files_of(directory)
  paths = [os.path.join(directory, name) for name in names]
  try:
    sizes = [os.path.getsize(path) for path in paths]
    with futures.ThreadPoolExecutor(8) as pool:
      digests = list(pool.map(files.sha256, paths))
  except OSError as error:
    raise errors.UserError(f'{directory} cannot be read: {error}') from error
  files.write_json(os.path.join(directory, CHECKSUMS), {
      'algorithm': 'sha256',
      'files': dict(zip(names, zip(sizes, digests, strict=True),
                        strict=True)),
  })


def _verify(directory: str) -> tuple[bool, str]:
  """Returns (whether there are checksums, the first thing wrong or '')."""
  try:
    with open(os.path.join(directory, CHECKSUMS), 'rb') as f:
      expected = json.load(f)['files']
    expected = {n: (int(size), str(digest))
                for n, (size, digest) in expected.items()}
    outside = [n for n in expected if os.path.isabs(n) or '\0' in n
               or '..' in n.split(os.sep)]
    if outside:
      raise ValueError(f'it names {outside[0]!r:.80}')
  except FileNotFoundError:
    if os.path.isdir(directory):
      return False, ''
    return False, 'it was deleted'
  except (ValueError, KeyError, TypeError, AttributeError, OSError,
          OverflowError, RecursionError) as error:
    return True, f'its {CHECKSUMS} cannot be read ({error})'

  def problem(name):
    path = os.path.join(directory, name)
    size, digest = expected[name]
    try:
      found = os.path.getsize(path)
      if found != size:
        return f'{name} has {found} bytes instead of {size}'
      if files.sha256(path) != digest:
        return f'{name} has changed since it was written (SHA-256 differs)'
    except FileNotFoundError:
      return f'{name} is missing'
    except OSError as error:
      return f'{name} cannot be read ({error.strerror})'
    return ''

  with futures.ThreadPoolExecutor(8) as pool:
    for found in pool.map(problem, expected):
      if found:
        return True, found
  return True, ''
