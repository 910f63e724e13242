"""Inception Score: closed forms, and the values of the published tools."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import inception_score


def _golden_logits():
  r = np.random.RandomState(0)
  r.randn(600, 16), r.randn(500, 16)  # The features of the other goldens.
  return r.randn(1000, 10).astype(np.float32) * 2


@pytest.mark.parametrize('seed, mean, std', [
    (None, 2.582545655, 0.063750570),  # improved-gan: in order
    (2020, 2.588523521, 0.105838584),  # torch-fidelity 0.4.0: shuffled
])
def test_value_of_the_published_tools(seed, mean, std):
  found = inception_score.from_logits(_golden_logits(), shuffle_seed=seed)
  assert found == pytest.approx((mean, std), abs=1e-9)


def test_probabilities_and_logits_agree():
  logits = _golden_logits().astype(np.float64)
  p = np.exp(logits)
  p /= p.sum(1, keepdims=True)
  assert inception_score.from_probabilities(p, 7, 3) == pytest.approx(
      inception_score.from_logits(logits, 7, 3), abs=1e-12)


def test_closed_forms():
  uniform = np.full((100, 10), 0.1)
  assert inception_score.from_probabilities(uniform) == pytest.approx((1, 0))
  balanced = np.eye(10)[np.arange(100) % 10]
  assert inception_score.from_probabilities(balanced) == pytest.approx((10, 0))
  # Each split sees one class only: order and splits belong to the score.
  in_order = np.sort(np.arange(100) % 10)
  assert inception_score.from_probabilities(
      np.eye(10)[in_order]) == pytest.approx((1, 0))
  assert inception_score.from_probabilities(
      np.eye(10)[in_order], splits=1) == pytest.approx((10, 0))


def test_large_logits_are_no_trouble():
  # exp(2000) is infinite; a class that never occurs has the mean zero.
  logits = 2000.0 * np.eye(10)[np.arange(100) % 5]
  assert inception_score.from_logits(logits) == pytest.approx((5, 0))


def test_invariances():
  logits = _golden_logits()
  score = inception_score.from_logits(logits)
  shifted = logits + np.linspace(-50, 50, 1000)[:, None]
  assert inception_score.from_logits(shifted) == pytest.approx(score)
  assert inception_score.from_logits(logits[:, ::-1]) == pytest.approx(score)


def test_refusals():
  with pytest.raises(errors.UserError, match='needs 10 images .* there are 9'):
    inception_score.from_logits(np.zeros((9, 5)))
  with pytest.raises(errors.UserError, match='NaN'):
    inception_score.from_logits(np.full((20, 5), np.nan))
  with pytest.raises(errors.UserError, match='NaN'):
    inception_score.from_probabilities(np.full((20, 5), np.nan))
  with pytest.raises(errors.UserError, match='Are these logits'):
    inception_score.from_probabilities(_golden_logits())
  with pytest.raises(ValueError, match='Expected'):
    inception_score.from_logits(np.zeros(9))
