"""Measures on arrays whose metrics the published packages have computed.

Golden values: pytorch-fid 0.3.0, torch-fidelity 0.4.0, prdc 0.2 and
google-research/cmmd on X (generated), Y (real) and L, which are drawn in this
order from NumPy's RandomState(0).
"""

import numpy as np
import pytest

from gans_jax.metrics import measures

_R = np.random.RandomState(0)
X = _R.randn(600, 16).astype(np.float32)
Y = (_R.randn(500, 16) * 1.2 + .3).astype(np.float32)
L = _R.randn(1000, 10).astype(np.float32) * 2


def _values(name, rows, real=None, ddof=1):
  measure = measures.MEASURES[name]
  kept = {} if real is None else measure.keep(real, ddof)
  # A file can hold it.
  assert all(isinstance(a, np.ndarray) for a in kept.values())
  return measure.values(kept, rows, ddof)


@pytest.mark.parametrize('name, ddof, expected', [
    ('fd', 1, {'fd': 2.861792099058519}),
    ('fd', 0, {'fd': 2.8588454813804987}),
    ('kdall', 1, {'kd': 0.4744898145042371}),
    ('pr', 1, {'precision': .9333333, 'recall': .446, 'f_score': .6035766}),
    ('prdc', 1, {'density': 1.6413333, 'coverage': .96,
                 'precision': .9633333, 'recall': .57}),
])
def test_golden_values(name, ddof, expected):
  assert _values(name, X, Y, ddof) == pytest.approx(expected, rel=1e-6)


def test_golden_values_of_other_scales():
  # float64; published code works in float32, and gets 0.80597.
  x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (X, Y))
  assert _values('mmd', x, y)['mmd'] == pytest.approx(0.80603440, rel=1e-5)
  found = _values('is', L)
  assert found['is'] == pytest.approx(2.582545655, rel=1e-8)
  assert found['std'] == pytest.approx(.063750570, rel=1e-6)
  # The one subset there is: no spread, and the value of all pairs.
  found = _values('kd', X[:500], Y)
  assert found == {'kd': pytest.approx(0.46083580577883, rel=1e-6),
                   'subset_size': 500}
  # Smaller subsets have the same expectation and a spread.
  found = _values('kd', X, Y)
  assert found['std'] > 0 and found['kd'] == pytest.approx(
      0.4744898, abs=3 * found['std'] / 10)


def test_every_measure_knows_its_direction_and_its_least():
  """A better set has the better value, and `least` images are enough."""
  near, far = Y[:400] + 0.01, X[:400] * 3
  for name in ('fd', 'kd', 'kdall', 'mmd', 'pr', 'prdc'):
    measure = measures.MEASURES[name]
    better, worse = (next(iter(_values(name, rows, Y).values()))
                     for rows in (near, far))
    assert (better < worse) == (measure.better == 'min'), name
    few = Y[:measure.least]
    assert np.isfinite(list(_values(name, few, few).values())).all(), name
  for name in ('is', 'msssim'):
    rows = np.random.RandomState(0).randint(0, 256, (2, 16, 16, 3), 'u1')
    rows = L[:2] if name == 'is' else rows
    assert np.isfinite(list(_values(name, rows).values())).all(), name
