"""Unpickling that can call nothing but what the caller names.

The ordinary unpickler imports and calls any function that the file asks for.
Here every global of the file is looked up in a table of stand-ins given by
the caller; a name outside the table ends the reading with an error.
"""

from collections.abc import Callable
from collections.abc import Mapping
import os
import pickle
import pickletools
from typing import Any
from typing import BinaryIO

from gans_jax.core import errors


class Call:
  """A callable that the file can call, and neither inspect nor change.

  Pickle's BUILD opcode sets attributes on any object it is handed. A plain
  function would accept a new `__defaults__`; this refuses.
  """

  __slots__ = ('_function',)

  def __init__(self, function: Callable[..., Any]):
    object.__setattr__(self, '_function', function)

  def __call__(self, *args):
    return self._function(*args)

  def __setattr__(self, name, value):
    raise pickle.UnpicklingError(f'the file sets the attribute {name}')


class _Unpickler(pickle.Unpickler):

  def __init__(self, file, name, allowed, persistent, encoding):
    super().__init__(file, encoding=encoding)
    self._name = name
    self._allowed = allowed
    self._persistent = persistent

  def find_class(self, module: str, name: str):
    try:
      return self._allowed[f'{module}.{name}']
    except KeyError:
      raise errors.UserError(
          f'{self._name} asks for {module}.{name} while it is unpickled. Only '
          f'plain values and {", ".join(sorted(self._allowed)) or "nothing"} '
          'are read, because anything else may run code. Save the file again '
          'with its weights alone (in PyTorch: a state_dict).') from None

  def persistent_load(self, pid):
    if self._persistent is None:
      raise pickle.UnpicklingError('unexpected persistent id')
    return self._persistent(pid)


def load(
    file: BinaryIO,
    name: str,
    allowed: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
    encoding: str = 'ASCII',
) -> Any:
  """Reads one pickle from `file`, leaving it just behind the pickle.

  Args:
    file: open binary file with `read`, `readline`, `readinto` and `seek`.
    name: what errors call the file.
    allowed: 'module.name' as the file writes it -> what stands for it. Give
      classes that pickle cannot change (built-in types) or `Call` objects.
    persistent: maps the persistent ids of the file to objects.
    encoding: of the strings of Python 2; 'latin1' keeps their bytes.

  Returns:
    The object.

  Raises:
    UserError: a global outside `allowed`, or damaged data.
  """
  try:
    _check_claims(file)
    return _Unpickler(file, name, allowed, persistent, encoding).load()
  except errors.UserError:
    raise
  except Exception as e:  # Damaged pickles raise nearly every type there is.
    raise errors.UserError(
        f'{name} is no readable pickle ({type(e).__name__}: {e}). The file is '
        'damaged or of another kind; fetch it again.') from e


class _Bounded:
  """A file that makes no room for more than it holds."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.tell, self.readline = file.tell, file.readline
    start = file.tell()
    self._end = file.seek(0, os.SEEK_END)
    file.seek(start)

  def read(self, size: int) -> bytes:
    return self._file.read(max(0, min(size, self._end - self._file.tell())))


# Objects in a pickle, one that is used twice counted twice.
_MAX_OBJECTS = 10**7


def _check_claims(file: BinaryIO) -> None:
  """Raises ValueError for a pickle that claims more than it holds.

  A few bytes can name the billionth place of the memo, for which the
  unpickler would make room; or put a tuple twice into a tuple, that twice into
  the next, and so on: to hash or to print the fiftieth takes years. Lengths of
  strings that the file does not hold are errors of `genops`. Reads one pickle
  and goes back to its start.
  """
  start = file.tell()
  # Of every object a list of how many are in it, shared with the memo.
  stack, marks, memo = [], [], {}
  for opcode, argument, _ in pickletools.genops(_Bounded(file)):
    name, before = opcode.name, opcode.stack_before
    if name in ('MEMOIZE', 'PUT', 'BINPUT', 'LONG_BINPUT'):
      place = len(memo) if name == 'MEMOIZE' else argument
      memo[place] = stack[-1]
      if place > 2 * len(memo) + 1000:
        raise ValueError(f'place {place} in a memo of {len(memo)}')
    elif name in ('GET', 'BINGET', 'LONG_BINGET'):
      stack.append(memo[argument])
    elif name == 'DUP':
      stack.append(stack[-1])
    elif name == 'MARK':
      marks.append(len(stack))
    elif name == 'POP' and marks and marks[-1] == len(stack):
      marks.pop()
    else:
      at = (marks.pop() - before.index(pickletools.markobject)
            if pickletools.markobject in before else
            len(stack) - len(before))
      if at < 0:
        raise ValueError(f'nothing to {name}')
      taken, stack[at:] = stack[at:], []
      total = sum(count[0] for count in taken)
      if total > _MAX_OBJECTS:
        raise ValueError(f'an object of more than {_MAX_OBJECTS} others')
      if name in ('APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS',
                  'BUILD'):
        taken[0][0] = total
        stack.append(taken[0])
      else:
        stack.extend([1 + total] for _ in opcode.stack_after)
  file.seek(start)
