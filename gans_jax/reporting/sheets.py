"""Sample grids through time: which to show, embedded or in a folder beside.

Grids are shown as they were written, never compressed anew. A page holds them
itself up to a limit; larger ones go to a folder beside it, whose files are
named by their content, so that a page and its folder always fit.
"""

import base64
import contextlib
import dataclasses
import hashlib
import os
import re
import struct

from gans_jax.core import files

_NAME = re.compile(r'([^.].*)_(\d{1,15})\.png')
_PLACED = re.compile(r'[0-9a-f]{20}\.png')
_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Grids of one kind of one run: more are thinned out evenly.
MOST = 60
# A grid larger than this is left out.
_MOST_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Sheet:
  """One grid.

  Attributes:
    kind: 'live', 'ema', ...
    step: steps done.
    path: of the PNG.
    size: bytes.
    width: pixels.
    height: pixels.
  """

  kind: str
  step: int
  path: str
  size: int
  width: int
  height: int

  def read(self) -> bytes:
    with open(self.path, 'rb') as f:
      return f.read(_MOST_BYTES)


def find(workdir: str) -> tuple[list[Sheet], list[str]]:
  """Returns the grids of samples/, and notes on what is no whole PNG.

  At most MOST of a kind: the first, the last, and others evenly between.
  """
  samples = os.path.join(workdir, 'samples')
  kinds: dict[str, list[tuple[int, str]]] = {}
  try:
    names = os.listdir(samples)
  except OSError:
    return [], []
  for name in names:
    path = os.path.join(samples, name)
    if (match := _NAME.fullmatch(name)) and os.path.isfile(path):
      kinds.setdefault(match[1], []).append((int(match[2]), path))
  sheets, notes = [], []
  for kind, all_of_it in sorted(kinds.items()):
    chosen = evenly(sorted(all_of_it), MOST)
    if len(chosen) < len(all_of_it):
      notes.append(f'{len(chosen)} of {len(all_of_it)} {kind} sample grids are '
                   'shown, evenly spaced.')
    for step, path in chosen:
      sheet = _open(kind, step, path)
      if sheet is None:
        notes.append(f'samples/{os.path.basename(path)} is not a whole PNG; '
                     'it is left out.')
      else:
        sheets.append(sheet)
  return sheets, notes


def evenly(items: list, most: int) -> list:
  """Returns at most `most` of the items: the ends, and evenly between."""
  if len(items) <= most:
    return list(items)
  return [items[round(i * (len(items) - 1) / (most - 1))]
          for i in range(most)]


def _open(kind: str, step: int, path: str) -> Sheet | None:
  try:
    with open(path, 'rb') as f:
      head = f.read(24)
      size = f.seek(0, os.SEEK_END)
      f.seek(max(0, size - 12))
      tail = f.read()
  except OSError:
    return None
  if (not head.startswith(_SIGNATURE) or len(head) < 24
      or tail[4:8] != b'IEND' or size > _MOST_BYTES):
    return None
  width, height = struct.unpack('>II', head[16:24])
  return Sheet(kind, step, path, size, width, height)


def place(sheets: list[Sheet], out: str, limit: int) -> dict[Sheet, str]:
  """Says where the page finds its grids, and puts them there.

  Args:
    sheets: of all runs.
    out: the page.
    limit: bytes of PNG that the page may hold; if there are more, all go to
      the folder beside it.

  Returns:
    The address of each grid, a data: one or relative to the page. A grid
    that went away meanwhile has none.

  Raises:
    UserError: the folder cannot be written.
  """
  embed = sum(sheet.size for sheet in sheets) <= limit
  found = {}
  for sheet in sheets:
    try:
      content = sheet.read()
    except OSError:
      continue
    if embed:
      found[sheet] = ('data:image/png;base64,'
                      + base64.b64encode(content).decode())
      continue
    name = f'{hashlib.sha256(content).hexdigest()[:20]}.png'
    path = os.path.join(folder(out), name)
    if not os.path.exists(path):
      files.write_atomic(path, content)
    found[sheet] = f'{os.path.basename(folder(out))}/{name}'
  return found


def folder(out: str) -> str:
  """The folder beside a page: report_files beside report.html."""
  return f'{os.path.splitext(out)[0]}_files'


def tidy(out: str, addresses: dict[Sheet, str]) -> None:
  """Removes grids of earlier pages, when the new page is written."""
  used = {os.path.basename(address) for address in addresses.values()
          if not address.startswith('data:')}
  with contextlib.suppress(OSError):
    for name in os.listdir(folder(out)):
      if _PLACED.fullmatch(name) and name not in used:
        os.unlink(os.path.join(folder(out), name))
    if not used:
      os.rmdir(folder(out))
