"""Linear separability: two-by-two tables in closed form."""

import numpy as np
import pytest
from sklearn import svm

from gans_jax.core import errors
from gans_jax.metrics import separability


def _table(n00, n01, n10, n11):
  """Labels and predictions of a table [prediction][label] of counts."""
  cells = np.repeat([0, 1, 2, 3], [n00, n01, n10, n11])
  return cells % 2 == 1, cells >= 2


@pytest.mark.parametrize('counts, bits', [
    ((50, 0, 0, 50), 0),
    ((0, 50, 50, 0), 0),  # As informative.
    ((25, 25, 25, 25), 1),
    ((90, 10, 10, 90), 0.4689955936),  # Entropy of (0.9, 0.1)
    ((100, 0, 0, 0), 0),
    ((30, 10, 0, 0), 0.8112781245),  # Entropy of (3/4, 1/4)
])
def test_conditional_entropy_in_closed_form(counts, bits):
  assert separability.conditional_entropy(*_table(*counts)) == pytest.approx(
      bits, abs=1e-10)


def test_labels_come_second():
  # H(Y | X) is not symmetric.
  labels, predictions = _table(40, 0, 30, 30)
  assert separability.conditional_entropy(
      labels, predictions) == pytest.approx(0.6)
  assert separability.conditional_entropy(
      predictions, labels) == pytest.approx(0.7 * 0.9852281360)


def _by_sign(latents, labels):
  del labels
  return latents[:, 0] > 0


def test_score_is_a_product_over_attributes():
  labels, predictions = _table(90, 10, 10, 90)
  latents = np.where(predictions, 1.0, -1.0)[:, None]
  p = np.where(labels, 0.9, 0.1)
  perfect = np.where(predictions, 0.8, 0.3)
  noise = 2**0.4689955936
  for probabilities, expected in [
      ([perfect], 1), ([p], noise), ([p, p, perfect], noise**2),
      ([np.full(200, 0.7)], 1)]:  # One class: nothing to separate.
    assert separability.separability(
        latents, np.array(probabilities), 200, _by_sign) == pytest.approx(
            expected, rel=1e-9)


def _two_classes(n=400, d=12):
  r = np.random.RandomState(0)
  latents = r.randn(n, d) * np.linspace(0.2, 2, d) + 0.3
  return latents, latents @ r.randn(d) + 1.5 * r.randn(n) > 0.8


def test_hyperplane_of_two_points_in_closed_form():
  # b = 0 by symmetry, and w^2 / 2 + 2 (1 - w)^2 is least at 4/5.
  found = separability.hyperplane([[1.0], [-1.0]], [True, False])
  np.testing.assert_allclose(found, [0.8, 0], atol=1e-6)
  # Both points (1, +) and (-3, -) cost: the normal equations of
  # (1 - w - b)^2 + (1 - 3 w + b)^2 + (w^2 + b^2) / 8 with c = 4.
  found = separability.hyperplane([[1.0], [-3.0]], [True, False], c=4.0)
  expected = np.linalg.solve([[10 + 1 / 8, -2], [-2, 2 + 1 / 8]], [4, 0])
  assert expected @ [1, 1] < 1 and expected @ [3, -1] < 1
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gradient_vanishes_at_the_hyperplane():
  latents, labels = _two_classes()
  plane = separability.hyperplane(latents, labels)

  def objective(p):
    margins = np.where(labels, 1, -1) * (latents @ p[:-1] + p[-1])
    return p @ p / 2 + (np.maximum(0, 1 - margins)**2).sum()

  step = 1e-5
  gradient = [(objective(plane + step * e) - objective(plane - step * e)) /
              (2 * step) for e in np.eye(len(plane))]
  at_zero = [(objective(step * e) - objective(-step * e)) / (2 * step)
             for e in np.eye(len(plane))]
  assert np.linalg.norm(gradient) < 1e-6 * np.linalg.norm(at_zero)
  # A minimum, and no saddle.
  for e in np.random.RandomState(1).randn(20, len(plane)):
    assert objective(plane + 1e-3 * e) > objective(plane)


def test_hyperplane_is_that_of_scikit_learn():
  latents, labels = _two_classes()
  official = svm.LinearSVC(tol=1e-10, max_iter=10**6).fit(latents, labels)
  np.testing.assert_allclose(
      separability.hyperplane(latents, labels),
      [*official.coef_[0], official.intercept_[0]], atol=1e-6)
  np.testing.assert_array_equal(
      separability.linear_svm(latents, labels), official.predict(latents))


def test_separability_by_a_support_vector_machine():
  r = np.random.RandomState(2)
  z = r.randn(2000, 4)
  along = 1 / (1 + np.exp(-9 * z[:, 0]))
  bent = 1 / (1 + np.exp(-9 * (z[:, 1] * z[:, 2])))  # No plane tells it.
  assert separability.separability(z, along[None], 1000) < 1.05
  assert separability.separability(z, bent[None], 1000) > 1.95


def test_independent_attributes_score_two_each():
  labels, predictions = _table(25, 25, 25, 25)
  latents = np.where(predictions, 1.0, -1.0)[:, None]
  p = np.where(labels, 0.9, 0.1)
  for count in (1, 3):
    assert separability.separability(
        latents, np.stack([p] * count), 100, _by_sign) == pytest.approx(
            2**count)


def test_only_the_most_confident_are_judged():
  latents = np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0], [-1.0]])
  # Right where the classifier is sure, of either class.
  p = np.array([[0.99, 0.02, 0.9, 0.2, 0.4, 0.6]])
  assert separability.separability(latents, p, 4, _by_sign) == 1
  assert separability.separability(latents, p, 6, _by_sign) > 1
  seen = {}

  def separate(kept, labels):
    seen.update(zip(map(id, kept), labels, strict=True))
    assert len(kept) == 3 and labels.dtype == bool
    return labels

  assert separability.separability(latents, p, 3, separate) == 1


def test_refusals():
  latents, p = np.zeros((10, 2)), np.full((1, 10), 0.5)
  with pytest.raises(errors.UserError, match='needs 11 images .* there are 10'):
    separability.separability(latents, p, 11, _by_sign)
  with pytest.raises(errors.UserError, match='NaN'):
    separability.separability(latents, p * np.nan, 5, _by_sign)
  with pytest.raises(ValueError, match='Expected latents'):
    separability.separability(latents, p[:, :9], 5, _by_sign)
  with pytest.raises(ValueError, match='one length'):
    separability.conditional_entropy(np.zeros(3, bool), np.zeros(4, bool))
