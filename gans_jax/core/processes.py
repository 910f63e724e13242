"""Several processes act as one: one does the work, all hear how it went."""

from collections.abc import Callable
import json

import jax
import numpy as np

from gans_jax.core import errors


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
