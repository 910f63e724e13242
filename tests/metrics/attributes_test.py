"""Attributes told by a linear probe."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import attributes


def _sets(n=300, classes=3):
  random = np.random.RandomState(0)
  labels = random.randint(0, classes, n)
  x = random.randn(n, 5) * [1, 1, 10, 0, 1]  # One feature says nothing.
  x[np.arange(n), labels] += 1.5
  return (x + 3).astype(np.float32), labels


def test_gradient_is_zero_where_it_ends():
  x, labels = _sets()
  probe = attributes.fit(x, labels, 3)
  z = np.pad((x.astype(float) - x.mean(0, float)) / np.where(
      x.std(0, float) > 0, x.std(0, float), 1), ((0, 0), (0, 1)),
      constant_values=1)
  p = probe.probabilities(x)
  assert p.shape == (3, 300) and (p > 0).all() and (p < 1).all()
  np.testing.assert_allclose(
      p, 1 / (1 + np.exp(-(z @ probe.weights).T)), rtol=1e-9)
  for k in range(3):
    gradient = z.T @ (p[k] - (labels == k)) + probe.weights[:, k]
    # Its length bounds the way to the minimum: the ridge is 1.
    assert np.abs(gradient).max() < 1e-2
  assert probe.accuracy == np.mean((z @ probe.weights).argmax(1) == labels)
  assert probe.accuracy > 0.6


def test_parse():
  assert attributes.parse('ls10k_w_lite0') == attributes.Protocol(
      'ls10k_w_lite0', 10_000, 'w')
  assert attributes.parse('ls10k_z_lite0', 50).name == 'ls50_z_lite0'
  assert attributes.parse('ls10k_z') is None
  with pytest.raises(errors.UserError, match='needs 4'):
    attributes.parse('ls2_z_lite0')


def test_one_class_is_nothing_to_tell():
  x, _ = _sets()
  with pytest.raises(errors.UserError, match='all are of one'):
    attributes.fit(x, np.zeros(300, int), 3)
