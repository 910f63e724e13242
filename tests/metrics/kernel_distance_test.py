"""KID and CMMD: closed forms, and the values that published tools give."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import kernel_distance


def _golden_features():
  r = np.random.RandomState(0)
  x = r.randn(600, 16).astype(np.float32)
  return x, (r.randn(500, 16) * 1.2 + 0.3).astype(np.float32)


def test_subsets_give_the_value_of_torch_fidelity():
  # torch-fidelity 0.4.0, 100 subsets of 100, seed 2020.
  mean, std = kernel_distance.kid(*_golden_features(), subsets=100, size=100)
  assert mean == pytest.approx(0.45433913707733, abs=1e-7)
  assert std == pytest.approx(0.0978066713038, abs=1e-7)


def test_all_pairs_give_the_published_value():
  # The estimator of torch-fidelity 0.4.0 on whole sets, in float64.
  fake, real = _golden_features()
  assert kernel_distance.kid_full(fake, real) == pytest.approx(
      0.4744898145042371, abs=1e-8)
  assert kernel_distance.kid_full(fake[:500], real) == pytest.approx(
      0.46083580577883, abs=1e-8)


def test_cmmd_of_float64():
  # google-research/cmmd gives 0.80597 in float32, 0.80603440 in float64.
  value = kernel_distance.cmmd(*_golden_features())
  assert value == pytest.approx(0.80603440, abs=2e-7)


def test_closed_forms():
  # k = 1, (1 + 1)^3 = 8 and 1: 1 + 8 - 2.
  zeros, ones = np.zeros((5, 4)), np.ones((7, 4))
  assert kernel_distance.kid_full(zeros, ones) == pytest.approx(7, abs=1e-12)
  assert kernel_distance.kid(zeros, ones, subsets=3, size=5) == (7, 0)
  # |x - y|^2 = 2, so k = exp(-2 / 200).
  e1, e2 = np.eye(6)[[0] * 30], np.eye(6)[[1] * 20]
  expected = 2000 * (1 - np.exp(-0.01))
  assert kernel_distance.cmmd(e1, e2) == pytest.approx(expected, rel=1e-6)
  assert kernel_distance.cmmd(e1, -e1) == pytest.approx(
      2000 * (1 - np.exp(-0.02)), rel=1e-6)


def test_a_set_and_itself():
  x, _ = _golden_features()
  # Without bias, the pairs of a point and itself count between the sets only.
  assert kernel_distance.kid_full(x, x) < 0
  assert kernel_distance.cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_disjoint_halves_average_zero():
  r = np.random.RandomState(1)
  values = [kernel_distance.kid_full(*np.split(r.randn(200, 8), 2))
            for _ in range(300)]
  error = np.std(values) / np.sqrt(len(values))
  assert abs(np.mean(values)) < 3 * error
  assert min(values) < 0


def test_subsets_have_the_expectation_of_all_pairs():
  fake, real = _golden_features()
  mean, std = kernel_distance.kid(fake, real, subsets=400, size=100)
  full = kernel_distance.kid_full(fake, real)
  assert abs(mean - full) < 4 * std / 20


def test_blocks_do_not_show(monkeypatch):
  fake, real = _golden_features()
  kid = kernel_distance.kid_full(fake, real)
  cmmd = kernel_distance.cmmd(fake, real)
  monkeypatch.setattr(kernel_distance, '_BLOCK', 37)
  assert kernel_distance.kid_full(fake, real) == pytest.approx(kid, abs=1e-8)
  assert kernel_distance.cmmd(fake, real) == pytest.approx(cmmd, abs=1e-6)


def test_invariances():
  fake, real = _golden_features()
  rotation = np.linalg.qr(np.random.RandomState(2).randn(16, 16))[0]
  assert kernel_distance.kid_full(fake @ rotation, real @ rotation) == (
      pytest.approx(kernel_distance.kid_full(fake, real), abs=1e-6))
  scale = np.linspace(0.1, 9, 600)[:, None]
  assert kernel_distance.cmmd(fake * scale, real) == pytest.approx(
      kernel_distance.cmmd(fake, real), abs=1e-6)
  assert kernel_distance.cmmd(real, fake) == pytest.approx(
      kernel_distance.cmmd(fake, real), abs=1e-6)


def test_a_small_distance_survives_float32():
  # Two sets a thousandth apart, against all kernels in float64.
  r = np.random.RandomState(3)
  x = r.randn(3000, 64).astype(np.float32) + 3
  y = x[:2900] * np.float32(1.001)

  def mean(a, b, less):
    k = (a.astype(np.float64) @ b.T.astype(np.float64) / 64 + 1)**3
    return ((k.sum() - less * np.trace(k)) /
            (len(a) * (len(b) - less)))

  expected = mean(x, x, 1) + mean(y, y, 1) - 2 * mean(x, y, 0)
  assert kernel_distance.kid_full(x, y) == pytest.approx(
      expected, abs=1e-8 * mean(x, x, 1))


def test_refusals():
  fake, real = _golden_features()
  with pytest.raises(errors.UserError, match='1000 generated .* there are 600'):
    kernel_distance.kid(fake, real)
  with pytest.raises(errors.UserError, match='550 real images .* are 500'):
    kernel_distance.kid(fake, real, size=550)
  with pytest.raises(errors.UserError, match='2 generated images'):
    kernel_distance.kid_full(fake[:1], real)
  with pytest.raises(errors.UserError, match='1 real images'):
    kernel_distance.cmmd(fake, real[:0])
  with pytest.raises(errors.UserError, match='embedding 7 is zero'):
    kernel_distance.cmmd(fake * (np.arange(600) != 7)[:, None], real)
  with pytest.raises(ValueError, match='Expected features'):
    kernel_distance.kid_full(fake[:, :8], real)
  with pytest.raises(ValueError, match='no unbiased'):
    kernel_distance.kid(fake, real, size=1)
  fake[3, 4] = np.nan
  for metric in (kernel_distance.kid_full, kernel_distance.cmmd):
    with pytest.raises(errors.UserError, match='NaN'):
      metric(fake, real)
