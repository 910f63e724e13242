"""Curves hold the recorded numbers; points land where they belong."""

import json
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from gans_jax.core import curves


def record(path, records):
  with open(path / 'metrics.jsonl', 'w') as f:
    for r in records:
      f.write(json.dumps(r) + '\n')


def test_series():
  got = curves.series([
      {'step': 1, 'kimg': 0.5, 'loss/d': 2., 'fid': 9.},
      {'step': 2, 'kimg': 1., 'loss/d': None, 'loss/g': 3.},
      {'step': 3, 'loss/g': 4.}])
  assert set(got) == {'loss', 'fid'} and set(got['loss']) == {'d', 'g'}
  np.testing.assert_array_equal(got['loss']['d'], [[0.5, 1.], [2., np.nan]])
  np.testing.assert_array_equal(got['loss']['g'], [[1., 3.], [3., 4.]])
  np.testing.assert_array_equal(got['fid']['fid'], [[0.5], [9.]])


def test_plot(tmp_path):
  assert curves.plot(tmp_path) is None
  record(tmp_path, [{'step': 0, 'kimg': 0., 'metric/fid': 100.}] + [
      {'step': i, 'kimg': i * 0.064, 'loss/d': 1 / i, 'loss/g': None}
      for i in range(1, 50)])
  out = curves.plot(tmp_path)
  assert out == str(tmp_path / 'curves.png')
  picture = np.asarray(Image.open(out).convert('RGB'))
  assert picture.shape == (306, 900, 3)
  # Two panels, each with a curve or a dot in matplotlib's first colour.
  blue = (picture == [31, 119, 180]).all(-1)
  assert blue[:, :450].sum() > 20 and blue[:, 450:].sum() > 20
  assert curves.plot(tmp_path, str(tmp_path / 'b.png')).endswith('b.png')


def test_metrics_without_an_option_are_as_measured(tmp_path):
  """A codebook is not drawn: its record has no seed."""
  sampled = {'weights': 'ema', 'seed': 0, 'images_seen': 2000}
  results = [
      {'metric': 'fd16_lite0', 'step': 1, 'value': 3.0, 'fake': sampled},
      {'metric': 'codebook', 'step': 1, 'value': 0.5,
       'fake': {'weights': 'ema', 'images_seen': 2000}},
      {'metric': 'fd16_lite0', 'step': 1, 'value': 4.0,
       'fake': {**sampled, 'weights': 'live'}},
      {'metric': 'fd16_lite0', 'step': 1, 'value': 5.0,
       'fake': {**sampled, 'options': {'top_k': 9}}}]
  (tmp_path / 'evaluations.jsonl').write_text(
      ''.join(json.dumps(result) + '\n' for result in results))
  assert curves.evaluations(tmp_path) == [
      {'step': 1, 'kimg': 2.0, 'metric/codebook': 0.5},
      {'step': 1, 'kimg': 2.0, 'metric/fd16_lite0': 3.0},
      {'step': 1, 'kimg': 2.0, 'metric/fd16_lite0, top_k 9': 5.0},
      {'step': 1, 'kimg': 2.0, 'metric/fd16_lite0, weights live': 4.0}]


def test_half_a_result_is_left_out(tmp_path):
  """A process was killed while it wrote, and the next one went on."""
  whole = {'metric': 'fd16_lite0', 'step': 1, 'value': 3.0,
           'fake': {'images_seen': 2000}}
  (tmp_path / 'evaluations.jsonl').write_text(
      '{"metric": "fd16_l' + json.dumps(whole) + '\n' + json.dumps(whole)
      + '\n{"metr')
  assert curves.evaluations(tmp_path) == [
      {'step': 1, 'kimg': 2.0, 'metric/fd16_lite0': 3.0}]


def test_scatter():
  points = np.array([[1., 1.], [-1., 0.5], [np.nan, 0.], [9., 9.]])
  picture = curves.scatter(points, limit=2., size=101)
  assert picture.shape == (101, 101, 3) and picture.dtype == np.uint8
  dark = picture[..., 0] < 200
  # x to the right, y upwards: (1, 1) is at 3/4 of the width, 1/4 from above.
  want = np.zeros((101, 101), bool)
  want[24:27, 74:77] = True
  want[37:40, 24:27] = True  # 37.5 rounds to 38
  np.testing.assert_array_equal(dark, want)
  # Denser is darker.
  twice = curves.scatter(np.repeat(points, 2, 0), limit=2., size=101)
  assert (twice[want] < picture[want]).all()


@pytest.mark.parametrize('scale,limit', [(0.03, 0.04), (1., 2.), (7., 8.)])
def test_scatter_chooses_its_limit(scale, limit):
  points = np.full((100, 2), scale)
  np.testing.assert_array_equal(
      curves.scatter(points), curves.scatter(points, limit=limit))


def test_scatter_of_nothing():
  assert curves.scatter(np.zeros((0, 2))).shape == (512, 512, 3)
  assert curves.scatter(np.full((3, 2), np.nan)).shape == (512, 512, 3)


def test_importing_costs_no_matplotlib():
  code = ('import sys; from gans_jax.core import curves; '
          'assert not {"matplotlib", "tensorboardX"} & sys.modules.keys()')
  subprocess.run([sys.executable, '-c', code], check=True)
