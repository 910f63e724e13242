"""Several processes act as one: one does the work, all hear how it went."""

from collections.abc import Callable
import contextlib
import json
import os
import socket
import time

import jax
import numpy as np

from gans_jax.core import errors
from gans_jax.core import files


def is_main() -> bool:
  """True in the one process that writes side files and talks to the user."""
  return jax.process_index() == 0


def on_main(function: Callable[[], object]):
  """Runs `function` in process 0 and returns its result in every process.

  A collective: every process must call it at the same place. A UserError of
  process 0 is raised in all of them, so that none waits for the others.

  Args:
    function: returns something that JSON can hold.
  """
  if jax.process_count() == 1:
    return function()
  answer = {}
  if is_main():
    try:
      answer = {'result': function()}
    except errors.UserError as error:
      answer = {'error': str(error)}
    except Exception as error:  # pylint: disable=broad-except
      answer = {'crash': f'{type(error).__name__}: {error}'}
  answer = _broadcast(answer)
  if 'error' in answer:
    raise errors.UserError(answer['error'])
  if 'crash' in answer:
    raise RuntimeError(f'process 0 failed: {answer["crash"]}')
  return answer['result']


def first_problem(text: str) -> str:
  """Returns the first non-empty `text` over the processes, or ''.

  A collective. Texts are cut at 1000 bytes.
  """
  if jax.process_count() == 1:
    return text
  from jax.experimental import multihost_utils

  mine = np.zeros(1000, np.uint8)
  encoded = np.frombuffer(text.encode()[:1000], np.uint8)
  mine[:encoded.size] = encoded
  for row in multihost_utils.process_allgather(mine):
    found = bytes(np.asarray(row)).rstrip(b'\0').decode(errors='replace')
    if found:
      return found
  return ''


def check_shared(path: str, timeout: float = 30.0) -> None:
  """Refuses a directory that the processes do not share. A collective.

  Args:
    path: a file in it, which process 0 has just written.
    timeout: seconds that a network file system may take to show it.

  Raises:
    UserError: some process does not see that file, or sees another one.
  """
  if jax.process_count() == 1:
    return
  expected, problem = on_main(lambda: files.sha256(path)), ''
  deadline = time.monotonic() + timeout
  while _digest(path) != expected and not problem:
    if time.monotonic() > deadline:
      problem = (
          f'Process {jax.process_index()} ({socket.gethostname()}) does not '
          f'see {path} as process 0 has written it: the workdir must be a '
          'directory that all hosts share. Mount one, such as NFS, on every '
          'host and give a --workdir in it.')
    time.sleep(0.2)
  problem = first_problem(problem)
  if problem:
    raise errors.UserError(problem)


def _digest(path: str) -> str:
  with contextlib.suppress(OSError):
    os.listdir(os.path.dirname(path))  # makes NFS look again
    return files.sha256(path)
  return ''


def _broadcast(value):
  """Returns process 0's JSON-able value in every process."""
  from jax.experimental import multihost_utils

  encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
  # Two rounds, because all processes must agree on the shape beforehand.
  size = int(multihost_utils.broadcast_one_to_all(np.int32(encoded.size)))
  buffer = np.zeros(size, np.uint8)
  if is_main():
    buffer[:] = encoded
  buffer = multihost_utils.broadcast_one_to_all(buffer)
  return json.loads(bytes(np.asarray(buffer)).decode())
