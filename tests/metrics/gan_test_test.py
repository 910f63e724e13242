"""GAN-test: a classifier of real images, asked about others."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import gan_test


def test_accuracy_is_of_images_that_were_not_seen():
  random = np.random.RandomState(0)
  labels = np.arange(200) % 4
  x = random.randn(200, 6)
  x[np.arange(200), labels] += 20
  probe, real = gan_test.fit(x, labels, 4)
  assert real == 1.0
  # The last twenty are held out: what they are called changes that alone.
  other = np.concatenate([labels[:180], (labels[180:] + 1) % 4])
  same, wrong = gan_test.fit(x, other, 4)
  np.testing.assert_array_equal(same.weights, probe.weights)
  assert wrong == 0.0
  asked = np.array([0, 1, 2, 3, 3])
  shown = np.eye(6)[[0, 1, 2, 3, 0]] * 20
  assert gan_test.accuracy(probe, shown, asked) == pytest.approx(0.8)
  with pytest.raises(errors.UserError, match='ten at least'):
    gan_test.fit(x[:9], labels[:9], 4)


def test_parse():
  assert gan_test.parse('gantest1000_lite0') == gan_test.Protocol(
      'gantest1k_lite0', 1000)
  assert gan_test.parse('gantest1k_lite0', 30).name == 'gantest30_lite0'
  assert gan_test.parse('gantest1k') is None
  with pytest.raises(errors.UserError, match='no images'):
    gan_test.parse('gantest0_lite0')
