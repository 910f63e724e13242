"""Truncation curves: what is drawn over what, and what is refused."""

import io
import json

import numpy as np
from PIL import Image
import pytest
import runs

from gans_jax import evaluate
from gans_jax import truncation_curve
from gans_jax.core import cli
from gans_jax.core import errors


def results(truncation: float) -> list[dict]:
  fake = {'truncation': truncation}
  return [
      {'metric': 'fd16_lite0', 'value': 9 - truncation, 'floor': {},
       'fake': fake},
      {'metric': 'is16_lite0', 'value': 5 * truncation, 'fake': fake},
      {'metric': 'pr16_lite0', 'value': 0.5, 'fake': fake,
       'values': {'precision': 1 / (1 + truncation), 'recall': truncation,
                  'f_score': 0.5}}]


def test_fidelity_over_variety():
  first, second = truncation_curve.panels(results(2.0) + results(0.5))
  assert first == ('is16_lite0', 'fd16_lite0',
                   [(0.5, 2.5, 8.5), (2.0, 10.0, 7.0)])
  assert second == ('recall (pr16_lite0)', 'precision (pr16_lite0)',
                    [(0.5, 0.5, 1 / 1.5), (2.0, 2.0, 1 / 3)])
  # One of the two measures alone: over the truncation.
  assert truncation_curve.panels([results(t)[0] for t in (2.0, 0.5)]) == [
      ('truncation', 'fd16_lite0', [(0.5, 0.5, 8.5), (2.0, 2.0, 7.0)])]


def test_files(tmp_path):
  seen = []
  found = truncation_curve.measure(results, [1.0, 0.5], str(tmp_path),
                                   seen.append)
  assert found == seen == results(1.0) + results(0.5)
  lines = (tmp_path / 'truncation_curve.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == found
  picture = np.asarray(Image.open(io.BytesIO(
      (tmp_path / 'truncation_curve.png').read_bytes())))
  assert picture.shape[1] > 2 * picture.shape[0] and picture.std() > 5
  with pytest.raises(errors.UserError, match='two truncations'):
    truncation_curve.measure(results, [1.0, 1.0], str(tmp_path), seen.append)


@pytest.mark.parametrize('options', [
    ['--workdir=x', '--truncation=1'], ['--workdir=x', '--watch'],
    ['--workdir=x', '--step=all'], ['--fake=zip:x']], ids=str)
def test_refusals(capsys, options):
  code = cli.call(evaluate.main, ['--truncation_curve=1,0.5', *options])
  runs.refused(capsys, code, '--truncation_curve has its own truncations')
