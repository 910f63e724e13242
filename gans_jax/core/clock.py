"""How fast, how long still, how long so far."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import time

# Steps over which the rate is taken.
_WINDOW = 100


class Clock:
  """Measures training; what is not training is paused and not counted.

  The rate is that of the last 100 steps. The first step, which compiles, is
  in none: the time of a step runs from the end of the one before.
  """

  def __init__(self, batch_size: int, total_steps: int,
               now: Callable[[], float] = time.monotonic):
    """Starts to count.

    Args:
      batch_size: images of one step, over all devices.
      total_steps: the step at which training ends.
      now: the clock, in seconds.
    """
    self._batch_size = batch_size
    self._total_steps = total_steps
    self._now = now
    self._begin = now()
    self._earlier = 0.  # seconds of the starts before this one
    self._paused = 0.
    self._depth = 0
    self._ticks = collections.deque(maxlen=_WINDOW + 1)

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Evaluation, checkpoints, pictures: time that no rate is made of."""
    begin = self._now()
    self._depth += 1
    try:
      yield
    finally:
      self._depth -= 1
      if self._depth == 0:
        self._paused += self._now() - begin

  def begin(self, batch_size: int) -> None:
    """Says that steps take another number of images from now on.

    The next step, which compiles, is in no rate, as the first one was.
    """
    self._batch_size = batch_size
    self._ticks.clear()

  def tick(self) -> None:
    """Counts one step as done."""
    self._ticks.append(self._now() - self._paused)

  def seconds_per_step(self) -> float:
    """Mean over the last steps; NaN before two were done."""
    if len(self._ticks) < 2:
      return float('nan')
    return (self._ticks[-1] - self._ticks[0]) / (len(self._ticks) - 1)

  def rate(self) -> float:
    """Images a second over all devices; NaN before two steps were done."""
    seconds = self.seconds_per_step()
    return self._batch_size / seconds if seconds else float('nan')

  def eta_seconds(self, step: int) -> float:
    """Seconds of training left after `step`, pauses to come not counted."""
    return max(self._total_steps - step, 0) * self.seconds_per_step()

  def total_seconds(self) -> float:
    """Wall time of the run over all its starts, pauses included."""
    return self._earlier + self._now() - self._begin

  def get_state(self) -> dict[str, float]:
    """What a checkpoint's meta keeps."""
    return {'total_seconds': self.total_seconds()}

  def set_state(self, state: Mapping[str, float]) -> None:
    """Goes on from `get_state` of an earlier start; {} is a start anew."""
    self._earlier = float(state.get('total_seconds', 0.))


def in_words(seconds: float) -> str:
  """Returns '7s', '3m05s', '2h04m' or '3d02h'; '?' of NaN."""
  if seconds != seconds:
    return '?'
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds}s'
  if seconds < 3600:
    return f'{seconds // 60}m{seconds % 60:02d}s'
  if seconds < 86400:
    return f'{seconds // 3600}h{seconds % 3600 // 60:02d}m'
  return f'{seconds // 86400}d{seconds % 86400 // 3600:02d}h'
