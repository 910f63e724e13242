"""The label of an image depends on its key and the distribution alone."""

import jax
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.core import label_distribution
from gans_jax.core import rng


def keys_of(count):
  return rng.per_example(jax.random.key(0), 0, count)


def test_each_key_draws_for_itself():
  labels = np.array([7, 3, 3, 9])
  keys = keys_of(40)
  found = label_distribution.draw(keys, labels)
  assert found.dtype == np.int32
  np.testing.assert_array_equal(
      label_distribution.draw(keys[11:13], labels), found[11:13])
  # The rule that results are reproduced by.
  for i in range(5):
    index = jax.random.randint(rng.named(keys[i], 0, 'label'), (), 0, 4)
    assert found[i] == labels[index]


def test_frequencies():
  count = 4000
  empirical = np.array([0] * 6 + [2] * 3 + [1])
  for distribution, expected in (('empirical', [0.6, 0.1, 0.3]),
                                 ('uniform', [1 / 3] * 3), ('2', [0, 0, 1])):
    pool = label_distribution.pool(distribution, 3, empirical)
    found = np.bincount(label_distribution.draw(keys_of(count), pool),
                        minlength=3) / count
    # Four standard deviations.
    tolerance = 4 * np.sqrt(np.multiply(expected, 1 - np.array(expected))
                            / count)
    assert (np.abs(found - expected) <= tolerance).all(), (distribution, found)


@pytest.mark.parametrize('distribution', ['3', '-1', 'classes', '', '1.0'])
def test_bad_values(distribution):
  with pytest.raises(errors.UserError, match='number of a class, 0 to 2'):
    label_distribution.pool(distribution, 3, np.zeros(1))
  with pytest.raises(errors.UserError, match="expected 'uniform' or"):
    label_distribution.pool('empirical', 3)
