"""Results of one protocol stand together, and of two apart."""

import math

import pytest
import workdirs

from gans_jax.reporting import measured
from gans_jax.reporting import run as run_lib


def collect(tmp_path, *results):
  runs = []
  for i, lines in enumerate(results):
    path = tmp_path / str(i)
    workdirs.make(path, results=lines)
    runs.append(run_lib.read(str(path), str(i)))
  return measured.collect(runs)


def test_what_differs_is_named(tmp_path):
  """Of the same metric: averaged, live and truncated weights."""
  found = collect(
      tmp_path,
      [workdirs.result(0, 9.), workdirs.result(20, 7.),
       workdirs.result(40, 8.), workdirs.result(40, 6., weights='live')],
      [workdirs.result(40, 5.),
       workdirs.result(40, 4., truncation=0.7)])
  labels = [m.label for m in found]
  assert len(labels) == 3
  assert labels[0].startswith('fd16_lite0, fake.truncation not recorded')
  assert 'fake.weights live' in labels[1]
  assert 'fake.truncation 0.7' in labels[2]
  assert {i: [v.value for v in vs] for i, vs in found[0].values.items()} == {
      0: [9, 7, 8], 1: [5]}
  assert found[0].best(0).value == 7 and found[0].values[0][1].kimg == 1.0
  assert found[0].protocol['real.identity'] == 'abc'
  assert 'seconds.fake' not in found[0].protocol


def test_the_newest_of_a_step_counts(tmp_path):
  found, = collect(tmp_path, [workdirs.result(20, 9.),
                              workdirs.result(0, 8.),
                              workdirs.result(20, 7.)])
  assert [(v.step, v.value) for v in found.values[0]] == [(0, 8.), (20, 7.)]
  assert found.label == 'fd16_lite0' and found.values[0][0].floor == 5.0


def test_several_values(tmp_path):
  pr = {'metric': 'pr16_lite0', 'step': 40, 'value': .5,
        'values': {'precision': .5, 'recall': .25}}
  codes = {'metric': 'codebook', 'step': 40, 'value': .5,
           'values': {'perplexity': 5., 'usage': .5}}
  score = {'metric': 'is16_lite0', 'step': 40, 'value': 3.,
           'values': {'is': 3., 'std': .1}}
  few = workdirs.result(40, 2.) | {'floor': {
      'value': None, 'counts': None, 'same_counts': False,
      'note': 'not available: 16 real images'}}
  found = {m.name: m for m in collect(
      tmp_path, [pr, codes, score, few, {'metric': 'psnr', 'step': 40,
                                  'value': None}])}
  assert found['pr16_lite0: recall'].values[0][0].value == .25
  assert found['pr16_lite0: precision'].better == 'max'
  assert found['pr16_lite0: recall'].better == ''
  assert found['codebook: usage'].better == 'max'
  assert found['codebook: perplexity'].better == ''
  assert found['is16_lite0'].values[0][0].std == .1
  assert found['fd16_lite0'].values[0][0].floor_note.startswith('not avail')
  assert math.isnan(found['psnr'].values[0][0].value)
  assert found['psnr'].best(0) is None


@pytest.mark.parametrize('metric,better', [
    ('fd16_lite0', 'min'), ('psnr', 'max'), ('modes/covered', 'max'),
    ('modes/reverse_kl', ''), ('of another version', '')])
def test_what_is_better(tmp_path, metric, better):
  found, = collect(tmp_path, [{'metric': metric, 'step': 1, 'value': 1.}])
  assert found.better == better
