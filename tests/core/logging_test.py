"""What is recorded can be read back; a full disk is told, not waited for."""

import contextlib
import io
import json
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import textwrap

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from gans_jax.core import clock as clock_lib
from gans_jax.core import errors
from gans_jax.core import logging as logging_lib


def events(workdir):
  """Reads the event files: TFRecord framing, then the protocol buffer."""
  found = []
  for name in sorted(os.listdir(workdir / 'events')):
    data = (workdir / 'events' / name).read_bytes()
    while data:
      size = struct.unpack('<Q', data[:8])[0]
      found.append(event_pb2.Event.FromString(data[12:12 + size]))
      data = data[16 + size:]
  return found


def lines(workdir):
  return (workdir / 'metrics.jsonl').read_text().splitlines()


def test_scalars(tmp_path):
  with logging_lib.MetricWriter(tmp_path) as writer:
    writer.scalars(5, {'loss/d': np.float32(1.25), 'loss/g': 0.5}, 320)
    # One line is on disk at once, not when the file is closed.
    assert len(lines(tmp_path)) == 1
    writer.scalars(10, {'loss/d': float('nan'), 'x': np.inf})
  first, second = map(json.loads, lines(tmp_path))
  assert first == {'step': 5, 'kimg': 0.32, 'loss/d': 1.25, 'loss/g': 0.5}
  assert second == {'step': 10, 'loss/d': None, 'x': None}
  values = [(e.step, v.tag, v.simple_value) for e in events(tmp_path)
            for v in e.summary.value]
  assert values[:2] == [(5, 'loss/d', 1.25), (5, 'loss/g', 0.5)]
  assert values[3] == (10, 'x', float('inf'))
  assert logging_lib.read_metrics(tmp_path) == [first, second]


def test_image_and_text(tmp_path):
  from PIL import Image
  image = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
  with logging_lib.MetricWriter(tmp_path) as writer:
    writer.image(3, 'samples/ema', image)
    writer.text(3, 'config', '# all of it')
  picture, text = [e.summary.value[0] for e in events(tmp_path)[1:]]
  assert picture.tag == 'samples/ema'
  decoded = Image.open(io.BytesIO(picture.image.encoded_image_string))
  np.testing.assert_array_equal(np.asarray(decoded), image)
  assert text.tensor.string_val == [b'# all of it']
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_resume_forgets_what_is_redone(tmp_path):
  def record(writer, steps):
    for step in steps:
      writer.scalars(step, {'loss/d': step / 7}, step * 8)

  straight, resumed = tmp_path / 'a', tmp_path / 'b'
  straight.mkdir()
  resumed.mkdir()
  with logging_lib.MetricWriter(straight) as writer:
    writer.resume(0)
    record(writer, range(0, 60, 10))
  with logging_lib.MetricWriter(resumed) as writer:
    writer.resume(0)
    record(writer, range(0, 50, 10))
  with open(resumed / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 50, "loss')  # killed while writing
  assert len(logging_lib.read_metrics(resumed)) == 5
  with logging_lib.MetricWriter(resumed) as writer:
    writer.resume(20)
    record(writer, range(30, 60, 10))
  assert lines(resumed) == lines(straight)
  starts = [e.step for e in events(resumed) if e.HasField('session_log')]
  assert starts == [21]
  with logging_lib.MetricWriter(resumed) as writer:
    writer.resume(0)
  assert lines(resumed) == []


def test_resume_keeps_a_whole_file_untouched(tmp_path):
  with logging_lib.MetricWriter(tmp_path) as writer:
    writer.scalars(1, {'x': 1})
  before = os.stat(tmp_path / 'metrics.jsonl')
  with logging_lib.MetricWriter(tmp_path) as writer:
    writer.resume(1)
  assert os.stat(tmp_path / 'metrics.jsonl').st_ino == before.st_ino


def test_other_processes_are_silent(tmp_path, capfd):
  with logging_lib.MetricWriter(tmp_path, is_main=False) as writer:
    writer.resume(3)
    writer.scalars(1, {'x': 1})
    writer.image(1, 'x', np.zeros((2, 2, 3), np.uint8))
    writer.text(1, 'x', 'y')
    progress = logging_lib.Progress(
        2, 0, clock_lib.Clock(1, 2), enabled=False, every_seconds=0)
    progress.update(1)
    progress.close()
  assert os.listdir(tmp_path) == []
  assert capfd.readouterr() == ('', '')


def test_log_file_and_console(tmp_path, capsys):
  with logging_lib.MetricWriter(tmp_path):
    logging.info('batch %d', 64)
    logging.getLogger('gans_jax.core.checkpoint').warning('it is broken')
  logging.getLogger('gans_jax').warning('after closing')
  text = (tmp_path / 'log.txt').read_text()
  assert 'INFO batch 64\n' in text and 'WARNING it is broken\n' in text
  assert 'after closing' not in text
  err = capsys.readouterr().err
  assert err.startswith('batch 64\nwarning: it is broken\n')


CHILD = textwrap.dedent('''
    import os, resource, sys
    from gans_jax.core import errors, logging as logging_lib
    writer = logging_lib.MetricWriter(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    try:
      for step in range(1000):
        writer.scalars(step, {'loss/d': 1.0})
    except errors.UserError as error:
      print(step > 10, error)
    writer.close()
    ''')


def test_full_disk_is_told(tmp_path):
  """A file size limit stands in for a full disk."""
  done = subprocess.run(
      [sys.executable, '-c', CHILD, str(tmp_path)], timeout=60, text=True,
      capture_output=True, env=dict(os.environ, JAX_PLATFORMS='cpu'))
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('True Cannot write ')
  assert 'File too large' in done.stdout
  # What was recorded before is whole, but for the last line.
  records = logging_lib.read_metrics(tmp_path)
  assert [r['step'] for r in records] == list(range(len(records)))


def test_no_workdir(tmp_path):
  with pytest.raises(errors.UserError, match='log.txt: No such file'):
    logging_lib.MetricWriter(tmp_path / 'gone')


def make_clock():
  now = [0.]
  clock = clock_lib.Clock(32, 100, now=lambda: now[0])
  for _ in range(5):
    now[0] += 0.5
    clock.tick()
  return clock


def test_progress_without_a_terminal():
  stream = io.StringIO()
  progress = logging_lib.Progress(
      100, 0, make_clock(), stream=stream, every_seconds=0)
  progress.update(10)
  progress.show(10, {'loss/d': 1.23456, 'loss/g': 0.5, 'logits/real': 3.})
  progress.update(20)
  progress.close()
  progress.close()
  assert stream.getvalue() == (
      'step 10/100 (10%)  64.0 images/s  45s left\n'
      'step 20/100 (20%)  64.0 images/s  40s left  loss/d 1.235  '
      'loss/g 0.500\n')


def test_progress_lines_are_rare_but_the_last_is_shown():
  stream = io.StringIO()
  progress = logging_lib.Progress(
      100, 0, make_clock(), stream=stream, every_seconds=3600)
  for step in range(1, 101):
    progress.update(step)
  assert stream.getvalue() == ''
  progress.close()
  assert stream.getvalue().startswith('step 100/100 (100%)')


def read_all(terminal):
  """What was written to a terminal whose other end is closed."""
  data = b''
  with contextlib.suppress(OSError):  # the end of what there is
    while chunk := os.read(terminal, 4096):
      data += chunk
  os.close(terminal)
  return data


@pytest.mark.parametrize('columns', [0, 120])
def test_progress_on_a_terminal(tmp_path, monkeypatch, columns):
  parent, child = pty.openpty()
  termios.tcsetwinsize(child, (30, columns))
  with os.fdopen(child, 'w') as stream:
    monkeypatch.setattr(sys, 'stderr', stream)
    with logging_lib.MetricWriter(tmp_path):
      progress = logging_lib.Progress(100, 0, make_clock(), stream=stream)
      progress.show(1, {'loss/d': 1.5})
      progress.update(50)
      logging.warning('in between')
      progress.update(100)
      progress.close()
  text = read_all(parent).decode()
  assert '100%|' in text and '100/100' in text and '\r' in text
  assert '64.0 images/s  0s left  loss/d 1.5' in text
  # On a line of its own, not in the middle of the bar.
  assert any(part.strip() == 'warning: in between'
             for part in text.replace('\r', '\n').split('\n'))
