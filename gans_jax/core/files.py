"""Writing files so that a reader sees the old one or the new one, whole."""

import contextlib
import hashlib
import json
import os

from gans_jax.core import errors


def write_atomic(path: str, data: bytes) -> None:
  """Writes `data` to `path` through a temporary file beside it.

  Whenever the machine stops, `path` holds its old content or all of `data`.
  Directories that are missing are made.

  Raises:
    UserError: no space, no permission; `path` is as it was.
  """
  directory, name = os.path.split(os.path.abspath(path))
  temporary = os.path.join(directory, f'.{name}.{os.getpid()}.tmp')
  try:
    os.makedirs(directory, exist_ok=True)
    with open(temporary, 'wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    raise cannot_write(path, error) from error


def write_json(path: str, value) -> None:
  """Writes a JSON file atomically, indented for people."""
  write_atomic(path, (json.dumps(value, indent=2) + '\n').encode())


def read_json_lines(path: str) -> tuple[list[dict], int]:
  """Reads a file of one JSON object a line, as far as it can be read.

  Args:
    path: of the file; one that is absent holds nothing.

  Returns:
    The objects, and how many lines are none. An end of a line that is being
    written is no line yet.
  """
  found, damaged = [], 0
  try:
    with open(path, 'rb') as f:
      for line in f:
        if not line.endswith(b'\n'):
          break
        try:
          value = json.loads(line)
        except (ValueError, RecursionError):
          value = None
        if isinstance(value, dict):
          found.append(value)
        else:
          damaged += 1
  except FileNotFoundError:
    pass
  return found, damaged


def cannot_write(path: str, error: OSError) -> errors.UserError:
  """Returns the error that tells a user why `path` was not written."""
  return errors.UserError(
      f'Cannot write {path}: {error.strerror or error}. Free space there, get '
      'permission to write, or choose another directory.')


def sha256(path: str) -> str:
  """Returns the SHA-256 of a file as 64 hex digits."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def plain(value):
  """Returns `value` as JSON would give it back: tuples are lists, and so on.

  NumPy and JAX scalars become Python numbers; ConfigDicts become dicts.
  """
  def default(x):
    if hasattr(x, 'to_dict'):
      return x.to_dict()
    if hasattr(x, 'tolist'):
      return x.tolist()
    raise TypeError(f'{type(x).__name__} has no place in JSON: {x!r}')

  return json.loads(json.dumps(value, default=default))
