"""log.txt: what was said, and which of it is a warning or an alarm."""

import dataclasses
import os
import re

from gans_jax.core import logging as logging_lib

_START = re.compile(
    r'(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} '
    r'(DEBUG|INFO|WARNING|ERROR|CRITICAL) ')
# How the messages of core/alarms.py begin.
_ALARMS = (
    re.compile(r'NaN or infinity at step \d+:'),
    re.compile(r'At step \d+ the discriminator has won'),
    re.compile(r'At step \d+ the generator makes one image'))
# What a page needs of a log; that of weeks may be larger than its memory.
_MOST_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Said:
  """One message.

  Attributes:
    time: 'YYYY-MM-DD HH:MM:SS', of the machine that trained.
    level: 'INFO', 'WARNING', 'ERROR', ...
    text: may have several lines.
  """

  time: str
  level: str
  text: str

  @property
  def is_alarm(self) -> bool:
    return any(alarm.match(self.text) for alarm in _ALARMS)


def read(workdir: str) -> list[Said]:
  """Returns the messages of log.txt, its newest 8 MiB; [] without a log."""
  try:
    with open(os.path.join(workdir, logging_lib.LOG), 'rb') as f:
      f.seek(0, os.SEEK_END)
      f.seek(max(0, f.tell() - _MOST_BYTES))
      text = f.read(_MOST_BYTES).decode('utf-8', 'replace')
  except OSError:
    return []
  found = []
  for line in text.splitlines():
    if start := _START.match(line):
      found.append((start[1], start[2], [line[start.end():]]))
    elif found:
      found[-1][2].append(line)
  return [Said(time, level, '\n'.join(lines)) for time, level, lines in found]


def grouped(messages: list[Said]) -> list[tuple[Said, int, str]]:
  """Returns warnings and errors, each text once, alarms and errors first.

  Returns:
    (the first of its kind, how often, time of the last).
  """
  found = {}
  for message in messages:
    if message.level not in ('WARNING', 'ERROR', 'CRITICAL'):
      continue
    first, count, _ = found.get(
        (message.level, message.text), (message, 0, ''))
    found[message.level, message.text] = first, count + 1, message.time
  return sorted(found.values(), key=lambda x: (
      not x[0].is_alarm, x[0].level == 'WARNING', x[0].time))


def plan(messages: list[Said]) -> str:
  """Returns the newest description of the run, of `train.plan`; or ''."""
  return next((m.text for m in reversed(messages)
               if m.text.startswith('system    ')), '')


def devices(messages: list[Said]) -> str:
  """Returns the plan's line on devices, without its name; or ''."""
  return next((line.removeprefix('devices').strip()
               for line in plan(messages).splitlines()
               if line.startswith('devices ')), '')
