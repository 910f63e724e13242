"""The benchmark of metrics: its features, its numbers, its command."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import benchmark


def test_features_have_the_spectra_they_claim():
  d = 64
  for kind in benchmark.KINDS:
    x = benchmark.make_features(kind, 20000, d, 1)
    assert x.shape == (20000, d) and x.dtype == np.float32
    spectrum = np.linalg.eigvalsh(np.cov(x, rowvar=False))[::-1]
    if kind == 'isotropic':
      np.testing.assert_allclose(spectrum, 1, atol=0.15)
      continue
    rank = np.arange(1, d + 1)
    slope = np.polyfit(np.log(rank[:32]), np.log(spectrum[:32]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)
    assert (x.min() >= 0) == (kind == 'classes')


def test_features_of_a_seed():
  for kind in benchmark.KINDS:
    first = benchmark.make_features(kind, 5000, 8, 1)
    np.testing.assert_array_equal(
        benchmark.make_features(kind, 5000, 8, 1), first)
    other = benchmark.make_features(kind, 5000, 8, 2)
    assert not np.array_equal(other, first)
    # Another sample of one distribution.
    np.testing.assert_allclose(other.mean(0), first.mean(0), atol=0.2)


def test_arithmetic_reports_seconds_and_memory():
  found = benchmark.arithmetic('classes', 300, 16)
  assert list(found) == [
      'Frechet distance', 'kernel distance, 100 x 300', 'precision and recall',
      'all three', 'peak GB']
  assert all(value > 0 for value in found.values())
  assert found['all three'] == pytest.approx(sum(list(found.values())[:3]))


def test_command(capsys):
  assert benchmark.main(['--images=50', '--dim=8', '--features=power']) == 0
  printed = capsys.readouterr().out
  assert '50 + 50 power features of 8 dimensions' in printed
  assert 'precision and recall' in printed and 'peak GB' in printed
  with pytest.raises(errors.UserError, match='--images=4'):
    benchmark.main(['--images=3'])
