"""SIGTERM and SIGINT: finish the step, save, leave; the same command resumes.

One process: a handler sets a flag, which the loop asks for after each step.
Several: JAX's coordination service turns a SIGTERM to any process into a step
at which all of them stop, so that they save the same state together.
"""

import os
import signal
import threading

import jax

EXIT_CODE = 75  # EX_TEMPFAIL, as in core/cli.py: run it again to go on.


def catch() -> 'Signals':
  """Returns a context that catches the signals: `with catch() as stop`."""
  return Signals()


class Signals:
  """Catches SIGTERM and SIGINT while it is entered.

  A second signal ends the process at once, with 128 + its number, and saves
  nothing. With several processes a second SIGTERM does nothing more, because
  JAX owns that signal; SIGINT is passed on to it as SIGTERM.
  """

  def __init__(self):
    self._received = None
    self._before = {}
    self._distributed = jax.process_count() > 1

  def __enter__(self) -> 'Signals':
    # Python runs handlers in the main thread only, and sets them only there.
    if threading.current_thread() is threading.main_thread():
      numbers = ([signal.SIGINT] if self._distributed
                 else [signal.SIGINT, signal.SIGTERM])
      for number in numbers:
        self._before[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *unused_exception) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._before = {}

  @property
  def name(self) -> str:
    """The signal's name; SIGTERM where another process got it."""
    return signal.Signals(self._received or signal.SIGTERM).name

  def _handle(self, number: int, unused_frame) -> None:
    name = signal.Signals(number).name
    if self._received is not None:
      _say(f'\n{name} again: leaving at once, nothing is saved.\n')
      os._exit(128 + number)
    self._received = number
    _say(f'\n{name}: saving after this step, then leaving; once more to leave '
         'at once.\n')
    if self._distributed:
      # JAX's own handler tells the other processes.
      os.kill(os.getpid(), signal.SIGTERM)

  def requested(self, step: int) -> bool:
    """Whether to save and leave now.

    With several processes a collective, to be called after every step by all
    of them with the same number; then all get the same answer.

    Args:
      step: steps done.
    """
    if self._distributed:
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return self._received is not None


def _say(text: str) -> None:
  # Streams may be in the middle of something when a handler runs.
  os.write(2, text.encode())
