"""Grids as they were written, thinned evenly, in the page or beside it."""

import base64
import os

import numpy as np

from gans_jax.core import images
from gans_jax.reporting import sheets


def write(folder, kind, step, height=4):
  (folder / 'samples').mkdir(exist_ok=True)
  path = folder / 'samples' / f'{kind}_{step:08d}.png'
  path.write_bytes(images.to_png(np.full((height, 6, 3), step % 256, np.uint8)))
  return path


def test_find(tmp_path):
  assert sheets.find(tmp_path) == ([], [])
  whole = write(tmp_path, 'live', 3).read_bytes()
  write(tmp_path, 'live', 20, height=9)
  write(tmp_path, 'ema', 20)
  samples = tmp_path / 'samples'
  (samples / 'live_00000005.png').write_bytes(whole[:-3])
  (samples / 'live_00000006.png').write_bytes(b'GIF89a')
  (samples / '.live_00000007.png.1.tmp').write_bytes(whole)
  (samples / 'notes.txt').write_text('x')
  (samples / 'live_00000008.png').mkdir()
  found, notes = sheets.find(tmp_path)
  assert [(s.kind, s.step, s.width, s.height) for s in found] == [
      ('ema', 20, 6, 4), ('live', 3, 6, 4), ('live', 20, 6, 9)]
  assert found[1].read() == whole and found[1].size == len(whole)
  assert len(notes) == 2 and 'live_00000005.png is not a whole PNG' in notes[0]


def test_many_are_thinned_evenly(tmp_path):
  for step in range(0, 640, 10):
    write(tmp_path, 'live', step)
  found, notes = sheets.find(tmp_path)
  assert len(found) == sheets.MOST == 60
  assert '60 of 64 live' in notes[0]
  assert sheets.evenly(list(range(101)), 5) == [0, 25, 50, 75, 100]
  assert sheets.evenly([1, 2], 5) == [1, 2]


def test_place(tmp_path):
  first = write(tmp_path, 'live', 1)
  second = write(tmp_path, 'live', 2)
  found, _ = sheets.find(tmp_path)
  out = str(tmp_path / 'page.html')
  size = sum(s.size for s in found)
  inside = sheets.place(found, out, size)
  assert base64.b64decode(
      inside[found[0]].removeprefix('data:image/png;base64,')
  ) == first.read_bytes()
  assert not os.path.exists(tmp_path / 'page_files')
  beside = sheets.place(found, out, size - 1)
  assert (tmp_path / beside[found[1]]).read_bytes() == second.read_bytes()
  assert beside[found[1]].startswith('page_files/')
  # What the page does not name goes, and nothing else.
  (tmp_path / 'page_files' / 'mine.png').write_text('x')
  sheets.tidy(out, {found[0]: beside[found[0]]})
  assert sorted(os.listdir(tmp_path / 'page_files')) == sorted(
      ['mine.png', os.path.basename(beside[found[0]])])
  (tmp_path / 'page_files' / 'mine.png').unlink()
  sheets.tidy(out, inside)
  assert not os.path.exists(tmp_path / 'page_files')
  # A grid that went away meanwhile has no address.
  first.unlink()
  assert set(sheets.place(found, out, size)) == {found[1]}
