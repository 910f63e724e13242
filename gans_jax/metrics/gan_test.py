"""GAN-test: do generated images look like the class that they were asked for?

The accuracy, on generated images, of a classifier that was trained on real
ones (Shmelkov, Schmid, Alahari: How good is my GAN?, 2018, arXiv 1807.09499,
section 3.2). There the classifier is a network trained on the data set; here
it is logistic regression on the offline features (attributes.py), so the name
says `lite0` and values do not compare with theirs. The accuracy on real images
that it has not seen stands beside it: what a perfect generator would reach,
unless it makes images clearer than real ones.
"""

import dataclasses
import re

import numpy as np

from gans_jax.core import errors
from gans_jax.metrics import attributes
from gans_jax.metrics import image_count

_NAME = re.compile(r'gantest([0-9]+)(k?)_lite0')
# Of the real images, those that the classifier does not see.
_HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What a name such as `gantest1k_lite0` says.

  Attributes:
    name: canonical spelling.
    num: generated images.
  """

  name: str
  num: int


def parse(name: str, num: int = 0) -> Protocol | None:
  """Returns the protocol of a name; None if it is another metric's.

  Args:
    name: such as 'gantest1k_lite0'.
    num: replaces the number in the name, if positive.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    return None
  digits, kilo = match.groups()
  count = image_count.read(digits, kilo, num)
  if count < 1:
    raise errors.UserError(
        f'The metric {name!r} asks for no images; it needs one at least.')
  size = image_count.write(count)
  return Protocol(f'gantest{size}_lite0', count)


def fit(features: np.ndarray, labels: np.ndarray, classes: int
        ) -> tuple[attributes.Probe, float]:
  """Trains the classifier.

  Args:
    features: of real images in random order, [n, d].
    labels: int [n] in [0, classes).
    classes: two at least.

  Returns:
    (classifier, its accuracy on a tenth of the images, held out).

  Raises:
    UserError: fewer than ten images, or all of one class.
  """
  if len(features) < 10:
    raise errors.UserError(
        f'GAN-test holds out a tenth of the real images, and there are '
        f'{len(features)}: it needs ten at least.')
  kept = len(features) - max(1, int(_HELD_OUT * len(features)))
  probe = attributes.fit(features[:kept], labels[:kept], classes)
  return probe, accuracy(probe, features[kept:], labels[kept:])


def accuracy(probe: attributes.Probe, features: np.ndarray,
             labels: np.ndarray) -> float:
  """Share of images [n, d] whose likeliest class is their label [n]."""
  found = probe.probabilities(features).argmax(0)
  return float(np.mean(found == np.asarray(labels)))
