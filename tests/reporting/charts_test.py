"""Lines hold the recorded numbers and keep their shape when thinned."""

import numpy as np
import workdirs

from gans_jax.reporting import charts
from gans_jax.reporting import measured
from gans_jax.reporting import run as run_lib


def panels(*paths):
  runs = [run_lib.read(str(path), path.name) for path in paths]
  found = charts.panels(runs, measured.collect(runs))
  return {panel['title']: panel for panel in found}


def test_one_run_has_a_panel_for_a_group(tmp_path):
  workdirs.make(tmp_path / 'a', more={'loss/d': None, 'odd': 3})
  found = panels(tmp_path / 'a')
  assert list(found) == ['fd16_lite0', 'loss', 'odd', 'perf']
  d, g = found['loss']['lines']
  assert (d['label'], g['label']) == ('d', 'g')
  assert d['step'] == [10, 20, 30, 40] and d['kimg'] == [0.5, 1.0, 1.5, 2.0]
  np.testing.assert_allclose(d['y'][:3], [10**.5, 10, 10**1.5], rtol=1e-6)
  assert d['y'][3] is None and g['step'] == [10, 20, 30]
  assert d['key'] != g['key']
  assert found['fd16_lite0']['floors'] == [5.0]
  line, = found['fd16_lite0']['lines']
  assert line['y'] == [100, 80, 60] and line['kimg'] == [0, 1, 2]


def test_several_runs_are_lines_of_one_panel(tmp_path):
  workdirs.make(tmp_path / 'a')
  workdirs.make(tmp_path / 'b', scale=2.0)
  found = panels(tmp_path / 'a', tmp_path / 'b')
  assert list(found) == ['fd16_lite0', 'loss/d', 'loss/g',
                         'perf/images_per_second']
  for panel in found.values():
    assert [line['label'] for line in panel['lines']] == ['a', 'b']
    assert [line['colour'] for line in panel['lines']] == [0, 1]
    assert [line['key'] for line in panel['lines']] == ['run 0', 'run 1']
  assert found['fd16_lite0']['lines'][1]['y'] == [200, 160, 120]


def test_thin_keeps_extremes_and_ends():
  y = np.random.default_rng(0).normal(size=10_000)
  y[4321], y[1234], y[77] = 50., -50., np.nan
  kept = charts.thin(y, 100)
  assert len(kept) <= 100 and kept == sorted(set(kept))
  assert {0, 9999, 4321, 1234} <= set(kept)
  assert charts.thin(y[:100], 100) == list(range(100))
  y[2000:8000] = np.nan  # a gap stays one, of a point for a stretch
  assert np.isnan(y[charts.thin(y, 100)]).sum() in (28, 29)
