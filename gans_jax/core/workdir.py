"""The directory of one run: whose it is, who is in it, what it was told.

    config.json           the config of the first start, versions, revision
    config_history.jsonl  what later starts changed of it
    .lock                 held by the one process that trains here
    log.txt metrics.jsonl events/ checkpoints/ samples/
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import datetime
import fcntl
import fnmatch
from importlib import metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys

import gans_jax
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.core import processes
from gans_jax.data import spec as data_spec

PROGRAM = 'gans_jax'
CONFIG = 'config.json'
HISTORY = 'config_history.jsonl'
LOCK = '.lock'

# Keys that decide what the arrays and the data stream of a run mean; they
# may not change between starts. All others may.
FIXED_KEYS = (
    'system', 'seed', 'batch_size', 'model', 'model.*', 'data.source',
    'data.resolution', 'data.channels', 'data.labels', 'data.filter',
    'data.crop', 'data.split', 'data.limit', 'optimizer.*.name',
    'growing.first_resolution', 'growing.*_kimg', 'growing.repeats',
    'growing.batch_sizes')

# Stands for the value of a key that one of two configs lacks.
ABSENT = '(absent)'

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain',
             'tensorflow-datasets', 'ml-collections', 'numpy', 'Pillow')


@dataclasses.dataclass
class Run:
  """A workdir that this job may write to, until `release`.

  Attributes:
    path: absolute path.
    resumed: whether the directory held this run before.
    changed: {key: [before, now]} of the config, harmless ones only.
  """

  path: str
  resumed: bool
  changed: dict[str, list]
  _lock: int | None = None

  def release(self) -> None:
    """Lets another process train here. The end of the process does too."""
    if self._lock is not None:
      lock, self._lock = self._lock, None
      with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
      os.close(lock)
      _held.discard(lock)

  def __enter__(self) -> 'Run':
    return self

  def __exit__(self, *unused_exception) -> None:
    self.release()


def open_run(path: str, config: Mapping,
             spec: data_spec.DataSpec | None = None) -> Run:
  """Takes a workdir for training: a new one, or this run's to resume it.

  A refused run leaves the disk as it was. With several processes this is a
  collective; process 0 works and the others hear the outcome.

  Args:
    path: the directory; created, with its parents, if missing.
    config: the run's config (JSON-able, or a ConfigDict).
    spec: of the data set; a resume needs the same.

  Raises:
    UserError: not a usable directory, another program's, no permission, no
      space, a run is in it already, a key of FIXED_KEYS or the data set has
      changed, or not all processes see it.
  """
  path = _absolute(path)
  record = _record(config, spec)
  lock = None

  def take():
    nonlocal lock
    lock, resumed, changed = _take(path, record)
    return resumed, changed

  resumed, changed = processes.on_main(take)
  run = Run(path, resumed, changed, lock)
  try:
    processes.check_shared(os.path.join(path, CONFIG))
  except BaseException:
    run.release()
    raise
  return run


def check(path: str, config: Mapping,
          spec: data_spec.DataSpec | None = None) -> bool:
  """Refuses what `open_run` would refuse, and writes nothing.

  Returns:
    Whether a run is there that would be resumed.

  Raises:
    UserError: as `open_run`, save for what only trying to write can tell.
  """
  return _check(_absolute(path), _record(config, spec))[0]


def _absolute(path: str) -> str:
  if '://' in str(path):
    raise errors.UserError(
        f'--workdir is {path}; it must be a directory of a file system. '
        'Mount the bucket (gcsfuse, s3fs) and give the path of the mount.')
  return os.path.abspath(os.path.expanduser(path))


def _record(config, spec) -> dict:
  """What config.json holds of the run itself."""
  return files.plain({
      'config': config, 'data': dataclasses.asdict(spec) if spec else {}})


def read_config(path: str) -> dict:
  """Returns the config of a finished or running run, to sample or evaluate.

  Args:
    path: the workdir.

  Raises:
    UserError: it is not a workdir of this program.
  """
  path = os.path.abspath(os.path.expanduser(path))
  if not os.path.isdir(path):
    raise errors.UserError(
        f'--workdir {path} is not a directory. Give the workdir of a run.')
  if not os.path.exists(os.path.join(path, CONFIG)):
    raise errors.UserError(
        f'{path} has no {CONFIG}, so it is not the workdir of a '
        f'{PROGRAM} run. Give the directory that --workdir named in training.')
  return _read_record(path)['config']


def latest_config(path: str) -> dict:
  """Like `read_config`, with what later starts changed of it."""
  path = os.path.abspath(os.path.expanduser(path))
  config = flatten(read_config(path))
  config.update({k: now for k, (_, now) in _later_changes(path).items()})
  return _unflatten({k: v for k, v in config.items() if v != ABSENT})


def flatten(config: Mapping, prefix: str = '') -> dict:
  """Returns {'model.z_dim': 128, ...}; an empty mapping is a value."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def _unflatten(flat: Mapping) -> dict:
  result = {}
  for key, value in flat.items():
    *parents, last = key.split('.')
    node = result
    for parent in parents:
      child = node.get(parent)
      node[parent] = child if isinstance(child, dict) else {}
      node = node[parent]
    node[last] = value
  return result


def _take(path: str, record: dict):
  """Returns (file descriptor of the lock, resumed, changed keys)."""
  resumed, changed = _check(path, record)
  created = _make_directories(path)
  lock_existed = os.path.lexists(os.path.join(path, LOCK))
  lock = None
  try:
    lock = _lock(path)
    # Once more: another process may have begun a run since.
    resumed, changed = _check(path, record)
    if not resumed:
      files.write_json(os.path.join(path, CONFIG), {
          'program': PROGRAM, **_facts(), **record})
    elif changed:
      line = json.dumps({**_facts(), 'changed': changed}) + '\n'
      _append(os.path.join(path, HISTORY), line)
  except BaseException:
    if lock is not None:
      if not lock_existed:
        with contextlib.suppress(OSError):
          os.unlink(os.path.join(path, LOCK))
      os.close(lock)
      _held.discard(lock)
    for directory in created:
      with contextlib.suppress(OSError):
        os.rmdir(directory)
    raise
  return lock, resumed, changed


def _check(path: str, record: dict) -> tuple[bool, dict[str, list]]:
  """Decides whether `path` may be used; changes nothing on disk."""
  existing = path
  while not os.path.lexists(existing):
    existing = os.path.dirname(existing)
  if not os.path.isdir(existing):
    raise errors.UserError(
        f'--workdir {path}: {existing} is not a directory. Choose another.')
  if not os.access(existing, os.W_OK | os.X_OK):
    raise errors.UserError(
        f'--workdir {path}: no permission to write to {existing}. Get the '
        'permission or choose another directory.')
  if existing != path:
    return False, {}
  try:
    names = sorted(os.listdir(path))
  except OSError as error:
    raise errors.UserError(
        f'--workdir {path} cannot be read: {error.strerror}. Choose another '
        'directory.') from error
  if CONFIG not in names:
    # A start that was killed leaves its lock or an unfinished config.
    ours = {LOCK} | {n for n in names if n.startswith(f'.{CONFIG}.')}
    others = [name for name in names if name not in ours]
    if others:
      raise errors.UserError(
          f'--workdir {path} is not empty and not the workdir of a {PROGRAM} '
          f'run: it has no {CONFIG}, but {len(others)} other entries such as '
          f'{others[:3]}. Choose a new directory.')
    return False, {}
  stored = _read_record(path)
  before = flatten(stored['config'])
  for key, (_, now) in _later_changes(path).items():
    before[key] = now
  before = {k: v for k, v in before.items() if v != ABSENT}
  before = {**_defaults(record['config']), **before}
  now = flatten(record['config'])
  changed = {
      key: [before.get(key, ABSENT), now.get(key, ABSENT)]
      for key in sorted(before.keys() | now.keys())
      if before.get(key, ABSENT) != now.get(key, ABSENT)
  }
  fixed = [key for key in changed
           if any(fnmatch.fnmatchcase(key, p) for p in FIXED_KEYS)]
  if fixed:
    listed = '; '.join(
        f'{key} was {json.dumps(changed[key][0])} and is now '
        f'{json.dumps(changed[key][1])}' for key in fixed)
    raise errors.UserError(
        f'--workdir {path} holds a run of another model or data: {listed}. '
        'Give the values of that run to resume it, or choose another workdir '
        'for the new ones.')
  was, now = (x.get('data', {}).get('identity') for x in (stored, record))
  if was and now and was != now:
    _check_tokenizers(stored['data'], record)
    raise errors.UserError(
        f'--workdir {path} was trained on other data: the data set '
        f'{record["config"]["data"]["source"]} had identity {was} with '
        f'{stored["data"]["num_examples"]} examples and has {now} with '
        f'{record["data"]["num_examples"]} now (files, filter or crop have '
        'changed). Restore it to resume, or choose another workdir.')
  return True, changed


def _check_tokenizers(stored: dict, record: dict) -> None:
  """Refuses tokens of another tokenizer than the run was trained on."""
  from gans_jax.core import tokenizer

  before = {key: identity for key, identity, _ in stored.get('tokenizers', ())}
  for key, identity, _ in record['data'].get('tokenizers', ()):
    if not tokenizer.same(identity, before.get(key, '')):
      name = tokenizer.CONFIG_KEYS[key]
      raise tokenizer.refusal(name, record['config']['data'][name], identity,
                              before.get(key, ''))


def _later_changes(path: str) -> dict[str, list]:
  """The newest change of each key, from the history."""
  changes = {}
  # A start that was killed may have left half a line.
  for record in files.read_json_lines(os.path.join(path, HISTORY))[0]:
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
      changes.update({key: [before, now] for key, (before, now) in
                      record['changed'].items()})
  return changes


def _defaults(config: Mapping) -> dict:
  """Today's defaults of the keys of a config, flat.

  A key that came after a run had begun meant what its default does.
  """
  if config.get('system') not in config_lib.systems():
    return {}
  known = flatten(config_lib.to_json(config_lib.base(config['system'])))
  return {key: known[key] for key in flatten(config) if key in known}


def _read_record(path: str) -> dict:
  """Returns config.json, whole; refuses another program's."""
  name = os.path.join(path, CONFIG)
  try:
    with open(name, encoding='utf-8') as f:
      record = json.load(f)
  except OSError as error:
    raise errors.UserError(
        f'{name} cannot be read: {error.strerror}.') from error
  except (ValueError, RecursionError) as error:
    raise errors.UserError(
        f'{name} is not JSON ({error}), so it is not the config of a '
        f'{PROGRAM} run, or it is damaged. Choose another workdir, or '
        'restore the file.') from error
  if not isinstance(record, dict) or record.get('program') != PROGRAM or (
      not isinstance(record.get('config'), dict)):
    raise errors.UserError(
        f'{path} is the workdir of another program: its {CONFIG} does not '
        f'say "program": "{PROGRAM}". Choose another workdir.')
  return record


def _make_directories(path: str) -> list[str]:
  """Creates `path`; returns those that were missing, innermost first."""
  missing = []
  while not os.path.isdir(path):
    missing.append(path)
    path = os.path.dirname(path)
  made = []
  try:
    for directory in reversed(missing):
      os.mkdir(directory)
      made.insert(0, directory)
  except FileExistsError:
    return made
  except OSError as error:
    for directory in made:
      os.rmdir(directory)
    raise files.cannot_write(missing[0], error) from error
  return made


_held = set()


def _close_locks_in_child() -> None:
  # A worker process that outlives a killed trainer must not hold its lock.
  for lock in _held:
    with contextlib.suppress(OSError):
      os.close(lock)
  _held.clear()


os.register_at_fork(after_in_child=_close_locks_in_child)


def _lock(path: str) -> int:
  """Takes the lock; returns its file descriptor.

  The kernel drops it with the process, however that ends, so that a lock is
  never left behind.
  """
  name = os.path.join(path, LOCK)
  try:
    lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise files.cannot_write(name, error) from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = os.pread(lock, 1000, 0).decode(errors='replace')
    os.close(lock)
    try:
      holder = json.loads(holder)
      holder = (f'process {holder["pid"]} on {holder["host"]}, since '
                f'{holder["since"]}')
    except (ValueError, KeyError, TypeError):
      holder = 'another process'
    raise errors.UserError(
        f'--workdir {path} is in use: {holder} trains there. Wait for it, '
        'stop it, or choose another workdir.') from error
  except OSError:
    # A file system without locks (some network mounts): go on without.
    pass
  facts = {'pid': os.getpid(), 'host': socket.gethostname(), 'since': _now()}
  try:
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(facts).encode(), 0)
  except OSError as error:
    os.close(lock)
    raise files.cannot_write(name, error) from error
  _held.add(lock)
  return lock


def _append(path: str, text: str) -> None:
  try:
    with open(path, 'a', encoding='utf-8') as f:
      f.write(text)
  except OSError as error:
    raise files.cannot_write(path, error) from error


def _now() -> str:
  now = datetime.datetime.now(datetime.UTC)
  return now.isoformat(timespec='seconds')


def versions() -> dict[str, str]:
  """Returns {package: installed version} of what training depends on."""
  found = {}
  for package in _PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[package] = metadata.version(package)
  return found


def _facts() -> dict:
  """When, where and with what: enough to run it again."""
  return {
      'version': gans_jax.__version__,
      'started': _now(),
      'host': socket.gethostname(),
      'command': sys.argv,
      'git': _git_revision(),
      'python': platform.python_version(),
      'packages': versions(),
  }


def _git_revision() -> str | None:
  """Revision of the source tree, '+changes' added if it was edited."""
  root = os.path.dirname(os.path.dirname(os.path.abspath(gans_jax.__file__)))
  if shutil.which('git') is None:
    return None

  def git(*args):
    return subprocess.run(
        ['git', '-C', root, *args], capture_output=True, text=True,
        timeout=10, check=True).stdout.strip()

  try:
    # An installed package may lie inside some other repository.
    if os.path.realpath(git('rev-parse', '--show-toplevel')) != (
        os.path.realpath(root)):
      return None
    revision = git('rev-parse', 'HEAD')
    return revision + ('+changes' if git('status', '--porcelain') else '')
  except (OSError, subprocess.SubprocessError):
    return None
