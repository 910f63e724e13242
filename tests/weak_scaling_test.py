"""launch/weak_scaling.py: its table and its verdict, without compiling."""

import json

import pytest
import runs

from gans_jax.core import topology


@pytest.fixture(scope='module')
def script():
  return runs.script('weak_scaling')


def row(model, devices, sent=2048, flops=1e6):
  count = int(devices > 1)
  kinds = {'all-reduce': 3} if count else {}
  return dict(model=model, devices=devices, images=4, parameters=1234,
              kinds=kinds, collectives=3 * count, bytes=sent * count,
              flops=flops)


def test_table(script):
  text = script.table([row('DCGAN', 1), row('DCGAN', 2), row('VQGAN', 2)])
  assert text.splitlines() == [
      '| devices | DCGAN (1,234 parameters) | VQGAN (1,234 parameters) |',
      '| --- | --- | --- |',
      '| 1 | none; 1.0 MFLOP |  |',
      '| 2 | 3 all-reduce, 2.0 KiB; 1.0 MFLOP | '
      '3 all-reduce, 2.0 KiB; 1.0 MFLOP |',
  ]


@pytest.mark.parametrize('change,expected', [
    ({}, True), (dict(sent=2049), True), (dict(sent=4096), False),
    (dict(flops=2e6), False)])
def test_constant(script, change, expected):
  rows = [row('DCGAN', 1), row('DCGAN', 2), row('DCGAN', 64, **change)]
  assert script.constant(rows) == expected


def test_verdict(script, monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(topology, 'start', lambda unused: None)
  monkeypatch.setattr(script, 'measure', lambda model, devices, images: row(
      model, devices, flops=1e6 * (devices if model == 'VQGAN' else 1)))
  out = tmp_path / 'rows.jsonl'
  assert script.main(['--devices=1,4', '--models=DCGAN']) == 0
  assert script.main(['--devices=1,4', '--models=DCGAN,VQGAN',
                      f'--json={out}']) == 1
  assert 'NOT constant on each device: VQGAN\n' in capsys.readouterr().out
  assert len([json.loads(line) for line in open(out)]) == 4
  for wrong in ('--models=GAN', '--devices=0'):
    with pytest.raises(SystemExit):
      script.main([wrong])
  # The experiments that it names exist, with the arguments that it gives.
  for path, _, _ in script.MODELS.values():
    assert (runs.ROOT / 'experiments' / path.partition(':')[0]).exists()
