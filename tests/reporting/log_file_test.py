"""The log's messages; alarms are those that core/alarms.py writes."""

import logging

import numpy as np
import pytest

from gans_jax.core import alarms
from gans_jax.core import logging as logging_lib
from gans_jax.reporting import log_file


def test_what_alarms_say_is_found(tmp_path):
  """Through the real writer: a collapse that warns, a NaN that stops."""
  watch = alarms.Alarms({'window': 1, 'sample_window': 1})
  with pytest.raises(alarms.AlarmError):
    with logging_lib.MetricWriter(str(tmp_path)):
      logging.info('system    x: D 1\ndevices   1 (cpu), mesh\nseed      0')
      for _ in range(3):
        logging.warning('a warning')
      watch.check(7, {'loss/d': 0., 'logits/real': 20., 'logits/fake': -20.})
      watch.check_samples(8, np.zeros((4, 2, 2, 3), np.uint8))
      watch.check(9, {'loss/d': float('nan')})
  said = log_file.read(tmp_path)
  assert [s.level for s in said] == ['INFO'] + ['WARNING'] * 5 + ['ERROR']
  found = log_file.grouped(said)
  assert [(s.is_alarm, s.level, count) for s, count, _ in found] == [
      (True, 'ERROR', 1), (True, 'WARNING', 1), (True, 'WARNING', 1),
      (False, 'WARNING', 3)]
  assert 'NaN or infinity at step 9' in found[0][0].text
  assert log_file.devices(said) == '1 (cpu), mesh'
  assert log_file.plan(said).endswith('seed      0')


def test_an_odd_log(tmp_path):
  assert log_file.read(tmp_path) == []
  (tmp_path / 'log.txt').write_bytes(
      b'half a line\n\xff\xfe\n2026-01-02 03:04:05,678 ERROR a\nb\n')
  said, = log_file.read(tmp_path)
  assert (said.time, said.level, said.text) == (
      '2026-01-02 03:04:05', 'ERROR', 'a\nb')
  assert log_file.plan([said]) == log_file.devices([said]) == ''
