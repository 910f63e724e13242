"""What a run says: to its files, to TensorBoard and to the console.

    metrics.jsonl   one JSON object a line: step, kimg, the values
    events/         the same and images, for TensorBoard
    log.txt         what was said, with dates
"""

from collections.abc import Mapping
import contextlib
import json
import logging
import math
import os
import sys
import time
from typing import TextIO

import numpy as np

from gans_jax.core import clock as clock_lib
from gans_jax.core import errors
from gans_jax.core import files

METRICS = 'metrics.jsonl'
EVENTS = 'events'
LOG = 'log.txt'

_bar = None  # the tqdm bar on the screen, if any


class MetricWriter:
  """Records a run; of several processes only the main one does anything.

  While it is open, the standard `logging` goes to log.txt and the console.
  """

  def __init__(self, workdir: str, is_main: bool = True):
    """Opens log.txt; the other files are opened when first written to.

    Args:
      workdir: an existing directory.
      is_main: whether this is process 0.
    """
    self._workdir = os.path.abspath(workdir)
    self._is_main = is_main
    self._jsonl = None
    self._events = None
    self._purge_step = None
    self._handlers = _start_logging(self._workdir, is_main)

  def resume(self, step: int) -> None:
    """Forgets what was recorded after `step`, which is about to be redone.

    Then metrics.jsonl ends as if the run had never been interrupted, and
    TensorBoard hides what came after.

    Args:
      step: that of the checkpoint; 0 is a new start, which keeps nothing.

    Raises:
      UserError: metrics.jsonl cannot be written.
    """
    if not self._is_main:
      return
    self._close_files()
    path = os.path.join(self._workdir, METRICS)
    with contextlib.suppress(FileNotFoundError):
      with open(path, 'rb') as f:
        lines = f.readlines()
      kept = [line for line in lines
              if 0 <= _step_of(line) <= step and step > 0]
      if kept != lines:
        files.write_atomic(path, b''.join(kept))
    if os.path.isdir(os.path.join(self._workdir, EVENTS)):
      self._purge_step = step + 1 if step else 0

  def scalars(self, step: int, values: Mapping[str, float],
              images: int | None = None) -> None:
    """Records numbers of one step.

    Args:
      step: steps done.
      values: floats by name, such as 'loss/d'. In metrics.jsonl NaN and
        infinity are null, because JSON has no word for them.
      images: images seen by then.

    Raises:
      UserError: the disk is full or not writable.
    """
    if not self._is_main:
      return
    record = {'step': int(step)}
    if images is not None:
      record['kimg'] = images / 1000
    for name, value in values.items():
      # float32 has no more than 9 digits.
      value = float(f'{float(value):.9g}')
      record[name] = value if math.isfinite(value) else None
    path = os.path.join(self._workdir, METRICS)
    try:
      if self._jsonl is None:
        self._jsonl = open(path, 'ab', buffering=0)
      self._jsonl.write((json.dumps(record) + '\n').encode())
    except OSError as error:
      raise files.cannot_write(path, error) from error
    from tensorboardX import summary

    self._event(step, *(summary.scalar(name, float(value))
                        for name, value in values.items()))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Records a picture for TensorBoard: uint8 [H, W, C], C 1 or 3."""
    if not self._is_main:
      return
    from tensorboardX import summary

    self._event(step, summary.image(name, image, dataformats='HWC'))

  def text(self, step: int, name: str, text: str) -> None:
    """Records Markdown for TensorBoard."""
    if not self._is_main:
      return
    from tensorboardX import summary

    self._event(step, summary.text(name, text))

  def close(self) -> None:
    """Closes the files and lets go of `logging`."""
    self._close_files()
    for handler in self._handlers:
      logging.getLogger().removeHandler(handler)
      handler.close()
    self._handlers = []

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if isinstance(error, Exception):
      self._note_error(error)
    self.close()

  def _note_error(self, error: Exception) -> None:
    """Leaves in log.txt why the run ended; the command tells the console."""
    text = errors.one_line(error)
    for handler in self._handlers:
      if isinstance(handler, _File):
        handler.handle(logging.LogRecord(
            __name__, logging.ERROR, __file__, 0, text, None, None))

  def _close_files(self) -> None:
    jsonl, self._jsonl = self._jsonl, None
    if jsonl is not None:
      jsonl.close()
    events, self._events = self._events, None
    if events is not None:
      with contextlib.suppress(OSError):
        events.close()

  def _event(self, step: int, *summaries) -> None:
    """Writes summaries of a step, and waits until they are in the file."""
    from tensorboardX import event_file_writer
    from tensorboardX.proto import event_pb2

    directory = os.path.join(self._workdir, EVENTS)
    try:
      if self._events is None:
        os.makedirs(directory, exist_ok=True)
        # Not tensorboardX.SummaryWriter: where its thread dies of a full
        # disk, its queue fills and the next record waits for ever.
        self._events = event_file_writer.EventsWriter(
            os.path.join(directory, 'events'), f'.{time.time_ns()}')
        if self._purge_step is not None:
          self._events.write_event(event_pb2.Event(
              wall_time=time.time(), step=self._purge_step,
              session_log=event_pb2.SessionLog(
                  status=event_pb2.SessionLog.START)))
          self._purge_step = None
      for value in summaries:
        self._events.write_event(event_pb2.Event(
            wall_time=time.time(), step=int(step), summary=value))
      self._events.flush()
    except OSError as error:
      raise files.cannot_write(directory, error) from error


class Progress:
  """Where training is: a bar on a terminal, else a line now and then."""

  def __init__(self, total: int, step: int, clock: clock_lib.Clock,
               enabled: bool = True, stream: TextIO | None = None,
               every_seconds: float = 10.):
    """Starts to show.

    Args:
      total: the step at which training ends.
      step: the step it starts from.
      clock: tells rate and time left.
      enabled: False shows nothing (all processes but the main one).
      stream: stderr by default; a bar if it is a terminal.
      every_seconds: between two lines, where it is not.
    """
    global _bar
    self._total = total
    self._step = step
    self._clock = clock
    self._enabled = enabled
    self._stream = stream or sys.stderr
    self._every = every_seconds
    self._last = time.monotonic()
    self._shown = None
    self._losses = ''
    self._bar = None
    if enabled and self._stream.isatty():
      import tqdm

      # Some terminals (containers) say that they have no columns.
      known = os.get_terminal_size(self._stream.fileno()).columns > 0
      self._bar = _bar = tqdm.tqdm(
          total=total, initial=step, file=self._stream, dynamic_ncols=known,
          ncols=None if known else 100,
          bar_format='{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}')

  def show(self, step: int, logs: Mapping[str, float]) -> None:
    """Takes note of losses, to be shown from now on."""
    del step  # That the losses are one step old is of no interest here.
    self._losses = '  '.join(
        f'{name} {value:.3f}' for name, value in logs.items()
        if name.startswith('loss/'))

  def update(self, step: int) -> None:
    """Says that `step` steps are done."""
    self._step = step
    if self._bar is not None:
      # The bar knows nothing of pauses, the clock does.
      self._bar.set_postfix_str(self._facts(), refresh=False)
      self._bar.update(step - self._bar.n)
    elif self._enabled and time.monotonic() - self._last >= self._every:
      self._line()

  def close(self) -> None:
    """Shows the last state and ends the bar."""
    global _bar
    if self._bar is not None:
      self._bar.close()
      self._bar = _bar = None
    elif self._enabled and self._shown != self._step:
      self._line()
    self._enabled = False

  def _line(self) -> None:
    self._last = time.monotonic()
    self._shown = self._step
    percent = 100 * self._step // max(self._total, 1)
    with contextlib.suppress(OSError):
      self._stream.write(f'step {self._step}/{self._total} ({percent}%)  '
                         f'{self._facts()}\n')
      self._stream.flush()

  def _facts(self) -> str:
    parts = []
    rate = self._clock.rate()
    if math.isfinite(rate):
      eta = clock_lib.in_words(self._clock.eta_seconds(self._step))
      parts = [f'{rate:.{0 if rate >= 100 else 1}f} images/s', f'{eta} left']
    return '  '.join([*parts, *filter(None, [self._losses])])


def read_metrics(workdir: str) -> list[dict]:
  """Returns the lines of metrics.jsonl; a half-written last one is left out.
  """
  records, _ = files.read_json_lines(os.path.join(workdir, METRICS))
  return [{key: value for key, value in record.items()
           if value is None or is_number(value)}
          for record in records if _step(record) >= 0]


def is_number(value) -> bool:
  """Whether a value of JSON can be drawn."""
  return isinstance(value, float) or (
      isinstance(value, int) and abs(value) < 2**63)


def _step_of(line: bytes) -> int:
  """The step of a line of metrics.jsonl; -1 if it is not a whole record."""
  try:
    if line.endswith(b'\n'):
      return _step(json.loads(line))
  except (ValueError, RecursionError):
    pass
  return -1


def _step(record) -> int:
  """The step of a record; -1 if it has none."""
  step = record.get('step') if isinstance(record, dict) else None
  return step if isinstance(step, int) and is_number(step) else -1


class Console(logging.Handler):
  """To stderr, around the progress bar."""

  def emit(self, record: logging.LogRecord) -> None:
    with contextlib.suppress(OSError, ValueError):
      text = record.getMessage()
      if record.levelno >= logging.WARNING:
        text = f'{record.levelname.lower()}: {text}'
      if _bar is not None:
        _bar.write(text, file=sys.stderr)
      else:
        sys.stderr.write(text + '\n')
        sys.stderr.flush()


class _File(logging.FileHandler):

  def handleError(self, record: logging.LogRecord) -> None:
    """Says nothing: a full disk is told by what the run cannot do without."""


def _start_logging(workdir: str, is_main: bool) -> list[logging.Handler]:
  root = logging.getLogger()
  if not is_main:
    # A handler that does nothing: without any, logging prints warnings.
    handlers = [logging.NullHandler()]
  else:
    path = os.path.join(workdir, LOG)
    try:
      log = _File(path, encoding='utf-8')
    except OSError as error:
      raise files.cannot_write(path, error) from error
    log.setFormatter(logging.Formatter(
        '%(asctime)s %(levelname)s %(message)s'))
    handlers = [log]
    if not any(isinstance(h, Console) for h in root.handlers):
      handlers.append(Console())
    root.setLevel(min(root.level or logging.INFO, logging.INFO))
  for handler in handlers:
    root.addHandler(handler)
  return handlers
