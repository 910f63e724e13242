"""Two runs against each other, through the command."""

import json

import numpy as np
import pytest
import runs

from gans_jax import compare
from gans_jax.core import cli

pytestmark = pytest.mark.usefixtures('compile_cache')


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  path = tmp_path_factory.mktemp('runs')
  assert runs.train(runs.write_config(path), path / 'plain') == cli.DONE
  return path / 'plain'


def call(*arguments) -> int:
  return cli.call(compare.main, [str(a) for a in arguments])


@pytest.mark.slow
def test_steps_of_a_run(plain, tmp_path, capsys):
  out = tmp_path / 'r.jsonl'
  both = (f'--a={plain}', f'--b={plain}', '--metric=fd16_lite0',
          '--resamples=20', f'--out={out}')
  # A run and itself differ by nothing in any resample.
  assert call(*both) == 0
  assert 'no difference is shown' in capsys.readouterr().out
  # Its first checkpoint and its last do; b - a is the opposite of a - b.
  assert call(*both, '--step_a=3') == 0
  assert call(*both, '--step_b=3') == 0
  same, one, other = (json.loads(x) for x in out.read_text().splitlines())
  assert same['difference'] == same['low'] == same['high'] == 0
  assert one['difference'] == pytest.approx(
      one['values']['a'] - one['values']['b'], rel=1e-9)
  for x, y in (('difference', 'difference'), ('low', 'high')):
    assert one[x] == pytest.approx(-other[y], rel=1e-9)
  assert one['low'] < one['difference'] < one['high']
  # Features are kept, and read again: a changed file would change the value.
  files = sorted((plain / 'features').iterdir())
  assert len(files) == 2
  with np.load(files[0]) as file:
    assert file['features'].shape == (16, 1280)
  files[0].write_bytes(b'damaged')
  capsys.readouterr()
  assert call(*both, '--step_a=3') == 0
  assert 'is damaged and will be replaced' in ' '.join(
      capsys.readouterr().err.split())
  again = json.loads(out.read_text().splitlines()[-1])
  assert again['values'] == pytest.approx(one['values'], rel=1e-6)


@pytest.mark.parametrize('options,words', [
    (['--metric=modes'], ["'modes'"]),
    (['--metric=ppl8_zend_lite0'], ['not one of sets']),
    (['--metric=fd5k_lite0'], ['needs 5000 real images']),
    (['--level=95'], ['--level']),
    (['--b=absent', '--metric=fd16_lite0'], ['absent', 'does not exist']),
], ids=str)
def test_refusals(plain, capsys, options, words):
  code = call(f'--a={plain}', f'--b={plain}', *options)
  runs.refused(capsys, code, *words)
