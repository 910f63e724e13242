"""Linear separability: how well a hyperplane in latent space tells attributes.

  LS = 2^(sum over attributes of H(Y | X))

Karras et al., A Style-Based Generator Architecture for Generative Adversarial
Networks, 2019, arXiv 1812.04948, section 4.2. Y is what a classifier sees in
the generated image, X the side of a linear SVM's plane that its latent is on;
H is in bits. 1 per attribute is perfect; less entangled spaces score lower.
The paper: 200,000 images, the 100,000 most confident of each attribute, and 40
attributes of CelebA.
"""

from collections.abc import Callable
import logging

import numpy as np

from gans_jax.core import errors

# (latents [n, d], labels bool [n]) -> predicted labels, bool [n]
Separate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def hyperplane(latents: np.ndarray, labels: np.ndarray, c: float = 1.0
               ) -> np.ndarray:
  """Fits a linear support vector machine with the squared hinge loss.

    min |(w, b)|^2 / 2 + c sum_i max(0, 1 - y_i (w.x_i + b))^2,  y = +-1

  is what scikit-learn's `LinearSVC` minimises as it comes, which is what
  NVIDIA's code uses: the offset b is regularised like the weights.

  Args:
    latents: [n, d].
    labels: bool [n].
    c: cost of the errors.

  Returns:
    (w, b), float64 [d + 1]. The objective is strongly convex with modulus 1,
    so that the minimum is no farther away than the gradient is long.
  """
  from scipy import optimize  # One second, which --help need not pay.

  x = np.pad(np.asarray(latents, np.float64), ((0, 0), (0, 1)),
             constant_values=1)
  sign = np.where(labels, 1.0, -1.0)

  def objective(plane):
    hinge = np.maximum(0, 1 - sign * (x @ plane))
    gradient = plane - 2 * c * ((sign * hinge) @ x)
    return plane @ plane / 2 + c * hinge @ hinge, gradient

  found = optimize.minimize(
      objective, np.zeros(x.shape[1]), jac=True, method='L-BFGS-B',
      options={'maxiter': 10000, 'maxfun': 20000, 'ftol': 0, 'gtol': 1e-5})
  residual = abs(found.jac).max()
  if residual > 1e-3:
    logging.warning('Linear separability: a hyperplane was not found to the '
                    'last digits (gradient %.2g): %s', residual, found.message)
  return found.x


def linear_svm(latents: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Sides of the `hyperplane` that latents [n, d] are on, bool [n]."""
  plane = hyperplane(latents, labels)
  return np.asarray(latents, np.float64) @ plane[:-1] + plane[-1] > 0


def separability(
    latents: np.ndarray, probabilities: np.ndarray, keep: int,
    separate: Separate = linear_svm) -> float:
  """Linear separability of a latent space, >= 1.

  Args:
    latents: [n, d], of z or of w.
    probabilities: of each attribute in the image of each latent, float
      [attributes, n] in [0, 1].
    keep: latents on which each attribute is judged: the most confident ones.
    separate: fits a linear classifier to [keep, d], and applies it to them.

  Raises:
    UserError: fewer latents than `keep`, or a value that is not finite.
  """
  probabilities = np.asarray(probabilities)
  if probabilities.ndim != 2 or probabilities.shape[1] != len(latents):
    raise ValueError('Expected latents [n, d] and probabilities [attributes, '
                     f'n]; found {np.shape(latents)} and '
                     f'{probabilities.shape}.')
  if not 1 <= keep <= len(latents):
    raise errors.UserError(
        f'Linear separability on the {keep} most confident images needs '
        f'{max(keep, 1)} images at least (the published one 200000), and '
        f'there are {len(latents)}.')
  if not (np.isfinite(latents).all() and np.isfinite(probabilities).all()):
    raise errors.UserError(
        'Linear separability: latents or probabilities hold NaN or infinity.')
  bits = 0.0
  for p in probabilities:
    kept = np.argsort(-abs(p - 0.5), kind='stable')[:keep]
    labels = p[kept] > 0.5
    if labels.all() or not labels.any():
      continue  # One class has no entropy, and no plane.
    bits += conditional_entropy(labels, separate(latents[kept], labels))
  return float(2.0**bits)


def conditional_entropy(labels: np.ndarray, predictions: np.ndarray) -> float:
  """H(labels | predictions) in bits, in [0, 1]; both bool [n]."""
  labels = np.asarray(labels, bool)
  predictions = np.asarray(predictions, bool)
  if labels.ndim != 1 or labels.shape != predictions.shape or not len(labels):
    raise ValueError('Expected two vectors of one length; found '
                     f'{labels.shape} and {predictions.shape}.')
  bits = 0.0
  for side in (False, True):
    on_side = labels[predictions == side]
    for label in (False, True):
      count = np.count_nonzero(on_side == label)
      if count:
        bits -= count / len(labels) * np.log2(count / len(on_side))
  return float(bits)
