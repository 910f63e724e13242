"""What all commands share: help, errors in one paragraph, exit codes."""

import argparse
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import os
import sys
import textwrap
import traceback

from gans_jax.core import errors
from gans_jax.core import host_memory
from gans_jax.core import logging as logging_lib

DONE = 0
UNEXPECTED = 1
BAD_INPUT = 2
ALARM = 3
PREEMPTED = 75  # EX_TEMPFAIL: run the same command again to go on.
_LONGEST = 3000  # characters of an error

EXIT_CODES = (
    'exit codes: 0 done; 1 unexpected error; 2 bad input; 3 alarm (NaN or '
    'collapse; the last good checkpoint is kept); 75 saved and stopped on '
    'SIGTERM or SIGINT, or a host did not come (run the same command to go '
    'on)')


def parser(prog: str, description: str) -> argparse.ArgumentParser:
  """Returns the argument parser that every command starts from.

  Args:
    prog: the command, such as 'python -m gans_jax.sample'.
    description: what it does, with examples; shown by --help as it is.
  """
  result = argparse.ArgumentParser(
      prog=prog, description=textwrap.dedent(description).strip(),
      epilog=EXIT_CODES, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  result.add_argument(
      '--debug', action='store_true',
      help='show the traceback of an error')
  return result


def paragraph(error: BaseException) -> str:
  """Returns the text that a person reads instead of a traceback."""
  text = errors.one_line(error)
  # Messages quote files, which may hold anything, a terminal's commands too.
  text = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
  if len(text) > _LONGEST:
    text = f'{text[:_LONGEST]} ...'
  return textwrap.fill(f'error: {text}', 79, break_long_words=False,
                       break_on_hyphens=False)


def run(main: Callable[[list[str]], int | None]) -> None:
  """Runs a command's main and exits the process with its code."""
  host_memory.keep_freed()
  sys.exit(call(main, sys.argv[1:]))


def call(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
  """Runs `main(argv)` and returns the exit code, errors told in words."""
  quiet_libraries()
  sys.unraisablehook = _unraisable
  debug = '--debug' in argv
  try:
    with _console():
      return main(argv) or DONE
  except errors.UserError as error:
    if debug:
      traceback.print_exc()
    print(paragraph(error), file=sys.stderr)
    return getattr(error, 'exit_code', BAD_INPUT)
  except KeyboardInterrupt:
    print('\nerror: interrupted', file=sys.stderr)
    return 130
  except BrokenPipeError:
    # The reader of our output has gone (`| head`); writing on is futile.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return UNEXPECTED
  except Exception as error:  # pylint: disable=broad-except
    if debug:
      traceback.print_exc()
    else:
      print(paragraph(error).replace(
          'error:', f'error: unexpected {type(error).__name__}:', 1)
            + '\n(run again with --debug for the traceback)',
            file=sys.stderr)
    return UNEXPECTED


def _unraisable(found) -> None:
  """As Python's hook, but for what says nothing.

  Where a checkpoint cannot be written, the writers that are still at it find
  their event loop closed, and each of them prints that: after an error that
  has said what is the matter.
  """
  if not (found.exc_type is RuntimeError
          and str(found.exc_value) == 'Event loop is closed'):
    sys.__unraisablehook__(found)


@contextlib.contextmanager
def _console() -> Iterator[None]:
  """Sends `logging` to stderr while it is entered.

  Before any import: absl, when it finds no handler, installs its own, and
  everything would be said twice.
  """
  handler = logging_lib.Console()
  logging.getLogger().addHandler(handler)
  try:
    yield
  finally:
    logging.getLogger().removeHandler(handler)


def quiet_libraries() -> None:
  """Keeps the console for what the user needs to know."""
  for name in ('absl', 'orbax', 'jax', 'grain', 'tensorflow_datasets'):
    logging.getLogger(name).setLevel(logging.ERROR)
  # XLA's CPU client logs every cache miss and feature mismatch as an error.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('GRPC_VERBOSITY', 'ERROR')
