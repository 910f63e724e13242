"""Attributes of images, told by EfficientNet-Lite0: for `ls10k_z_lite0`.

The published linear separability needs 40 classifiers of CelebA's attributes,
which are pickled programs. Here the attributes are the classes of the data
set, each told from the others by logistic regression on the offline features
of real images; the arithmetic (separability.py) is the paper's. Values of
other attributes do not compare, so a result names them.
"""

import dataclasses
import re

import numpy as np

from gans_jax.core import errors
from gans_jax.metrics import image_count

_NAME = re.compile(r'ls([0-9]+)(k?)_(z|w)_lite0')
_RIDGE = 1.0


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What a name such as `ls10k_w_lite0` says.

  Attributes:
    name: canonical spelling.
    num: generated images; the more confident half of each attribute counts.
    space: 'z' or 'w'.
  """

  name: str
  num: int
  space: str


def parse(name: str, num: int = 0) -> Protocol | None:
  """Returns the protocol of a name; None if it is another metric's.

  Args:
    name: such as 'ls10k_z_lite0'.
    num: replaces the number in the name, if positive.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    return None
  digits, kilo, space = match.groups()
  count = image_count.read(digits, kilo, num)
  if count < 4:
    raise errors.UserError(
        f'The metric {name!r} asks for {count} images; it needs 4 at least.')
  size = image_count.write(count)
  return Protocol(f'ls{size}_{space}_lite0', count, space)


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
  """Logistic regressions, one for each class.

  Attributes:
    mean: of the features it was fitted to, float64 [d].
    scale: their standard deviations, float64 [d].
    weights: float64 [d + 1, classes], the offset last.
    accuracy: share of the images it was fitted to whose likeliest class is
      theirs, in [0, 1].
  """

  mean: np.ndarray
  scale: np.ndarray
  weights: np.ndarray
  accuracy: float

  def probabilities(self, features: np.ndarray) -> np.ndarray:
    """Of each class in each image [n, d]: float64 [classes, n]."""
    return _sigmoid(self._inputs(features) @ self.weights).T

  def _inputs(self, features):
    x = (np.asarray(features, np.float64) - self.mean) / self.scale
    return np.pad(x, ((0, 0), (0, 1)), constant_values=1)


def fit(features: np.ndarray, labels: np.ndarray, classes: int) -> Probe:
  """Fits one regression for each class, against all others.

    min sum_i log(1 + exp(-y_i (w.x_i + b))) + |(w, b)|^2 / 2,  y = +-1

  on standardized features.

  Args:
    features: of real images, [n, d].
    labels: int [n] in [0, classes).
    classes: two at least.

  Raises:
    UserError: all images are of one class.
  """
  from scipy import optimize  # One second, which --help need not pay.

  labels = np.asarray(labels)
  if len(np.unique(labels)) < 2:
    raise errors.UserError(
        'Attributes are told by images of two classes at least, and all are '
        'of one. Choose other --attributes.')
  x = np.asarray(features, np.float64)
  scale = x.std(0)
  probe = Probe(x.mean(0), np.where(scale > 0, scale, 1.0), np.zeros(()), 0.0)
  x = probe._inputs(features)
  sign = np.where(labels[:, None] == np.arange(classes)[None], 1.0, -1.0)

  def objective(flat):
    w = flat.reshape(x.shape[1], classes)
    margins = sign * (x @ w)
    value = np.logaddexp(0, -margins).sum() + _RIDGE / 2 * (w * w).sum()
    gradient = _RIDGE * w - x.T @ (sign * _sigmoid(-margins))
    return value, gradient.ravel()

  found = optimize.minimize(
      objective, np.zeros(x.shape[1] * classes), jac=True, method='L-BFGS-B',
      options={'maxiter': 200})
  weights = found.x.reshape(x.shape[1], classes)
  accuracy = float(np.mean((x @ weights).argmax(1) == labels))
  return dataclasses.replace(probe, weights=weights, accuracy=accuracy)


def _sigmoid(x):
  return np.exp(-np.logaddexp(0, -x))
