"""Faults of the machine in the middle of a run: data and clocks.

Others are elsewhere: killed processes in drills.py; full disks, missing
permissions and damaged checkpoints in bad_input_test.py; NaN in main_test.py.
"""

import json
import math
import os
import time

import pictures
import pytest
import runs

from gans_jax import prepare
from gans_jax import train as train_lib
from gans_jax.core import checkpoint
from gans_jax.core import cli
from gans_jax.core import clock
from gans_jax.core import errors
from gans_jax.core import logging as logging_lib
from gans_jax.data import pipeline

RECORD, COUNT = 5, 16


@pytest.fixture
def prepared(tmp_path):
  """A prepared set of 16 images of noise, which are stored as they are."""
  for i in range(COUNT):
    pictures.write(tmp_path / 'images', f'{i:02}.png',
                   pictures.png(pictures.pixels(i, (16, 16))))
  prepare.prepare({'source': f'folder:{tmp_path}/images', 'labels': 'none'},
                  str(tmp_path / 'set'))
  return tmp_path / 'set'


def flip(folder) -> None:
  """Changes one byte of a record."""
  path = folder / 'data-00000.array_record'
  data = path.read_bytes()
  at = data.index(pictures.pixels(RECORD, (16, 16)).tobytes()[:64]) + 99
  with open(path, 'r+b') as stream:
    stream.seek(at)
    stream.write(bytes([data[at] ^ 1]))


def test_a_record_that_goes_bad_is_named_or_passed(prepared, caplog):
  opened = {skip: pipeline.open_dataset(
      {'source': f'prepared:{prepared}', 'skip_corrupt': skip})
            for skip in (False, True)}
  flip(prepared)
  for read in (lambda x: x[RECORD], lambda x: x.take(range(COUNT))):
    with pytest.raises(errors.UserError) as caught:
      read(opened[False])
    text = cli.paragraph(caught.value).replace('\n', ' ')
    assert f'Record {RECORD} of {prepared}/data-00000.array_record' in text
    assert f'--verify={prepared}' in text and 'skip_corrupt=true' in text
  assert opened[False].take([RECORD - 1])['image'].shape == (1, 16, 16, 3)
  # Where it is passed, the next one stands in, and the log says so.
  images = opened[True].take(range(COUNT))['image']
  assert (images[RECORD] == pictures.pixels(RECORD + 1, (16, 16))).all()
  assert f'Record {RECORD} of' in caplog.text


def test_a_shard_that_cannot_be_opened(prepared):
  """Of the right length, but where its records are listed is damaged."""
  path = prepared / 'data-00000.array_record'
  data = bytearray(path.read_bytes())
  at = len(data) // 2
  data[at:at + 64] = bytes(255 - x for x in data[at:at + 64])
  path.write_bytes(data)
  with pytest.raises(errors.UserError, match='shards of .* cannot be read'):
    pipeline.open_dataset({'source': f'prepared:{prepared}'})


@pytest.mark.slow
@pytest.mark.usefixtures('compile_cache')
def test_a_record_that_goes_bad_while_training(
    prepared, tmp_path, capsys, monkeypatch):
  """The run ends with the file and the record; nothing saved is lost."""
  config = runs.write_config(tmp_path)
  whole = (prepared / 'data-00000.array_record').read_bytes()
  more = (f'--config.data.source=prepared:{prepared}',
          '--config.data.limit=0', '--config.checkpoint_every=1')
  straight = tmp_path / 'straight'
  assert runs.train(config, straight, *more) == cli.DONE
  open_dataset = pipeline.open_dataset

  def opened(data_config):
    dataset = open_dataset(data_config)
    flip(prepared)
    return dataset

  monkeypatch.setattr(train_lib.pipeline, 'open_dataset', opened)
  capsys.readouterr()
  path = tmp_path / 'run'
  code = runs.train(config, path, *more)
  runs.refused(capsys, code, f'Record {RECORD} of', 'data-00000.array_record')
  steps = checkpoint.Checkpointer(str(path)).steps()
  assert steps and steps[-1] < 6
  monkeypatch.undo()
  # With the file as it was, the same command ends as if nothing had been.
  (prepared / 'data-00000.array_record').write_bytes(whole)
  assert runs.train(config, path, *more) == cli.DONE
  runs.assert_same_run(path, straight, 6)
  flip(prepared)
  assert runs.train(config, tmp_path / 'passed', *more,
                    '--config.data.skip_corrupt=true') == cli.DONE
  assert 'skipped (1 so far)' in capsys.readouterr().err


def test_a_clock_that_jumps(tmp_path, monkeypatch, capsys):
  """By hours, forth and back: rates, times left and records stay whole."""
  offset = [0.0]
  now, now_ns = time.time, time.time_ns
  monkeypatch.setattr(time, 'time', lambda: now() + offset[0])
  monkeypatch.setattr(time, 'time_ns', lambda: now_ns() + int(1e9 * offset[0]))
  with logging_lib.MetricWriter(str(tmp_path), True) as writer:
    writer.resume(0)
    watch = clock.Clock(8, 10)
    progress = logging_lib.Progress(10, 0, watch, every_seconds=0.0)
    for step in range(1, 10):
      offset[0] = (0.0, 7200.0, -86400.0 * 400)[step % 3]
      watch.tick()
      progress.update(step)
      writer.scalars(step, {'loss/d': 1.0}, 8 * step)
      assert 0 <= watch.total_seconds() < 600
      if step > 1:
        assert math.isfinite(watch.rate()) and watch.rate() > 0
        assert 0 <= watch.eta_seconds(step) < 3600
    progress.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == list(range(1, 10))
  assert '?' not in capsys.readouterr().err
  # A second start on the day before.
  offset[0] = -86400.0
  with logging_lib.MetricWriter(str(tmp_path), True) as writer:
    writer.resume(5)
    writer.scalars(6, {'loss/d': 2.0}, 48)
  assert [x['step'] for x in logging_lib.read_metrics(str(tmp_path))
          ] == [1, 2, 3, 4, 5, 6]
  assert len(os.listdir(tmp_path / 'events')) == 2


def test_two_steps_at_one_time():
  """A clock too coarse for the steps: no rate, rather than an infinite one."""
  watch = clock.Clock(8, 10, now=lambda: 5.0)
  for _ in range(3):
    watch.tick()
  assert math.isnan(watch.rate()) and watch.eta_seconds(3) == 0.0
  assert clock.in_words(watch.eta_seconds(3)) == '0s'
