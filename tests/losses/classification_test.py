"""losses/classification.py against float64 NumPy."""

import numpy as np

from gans_jax.losses import classification


def test_mean_of_minus_log_softmax():
  logits = np.random.default_rng(0).normal(0, 5, (6, 4))
  labels = np.array([0, 3, 1, 1, 2, 0])
  each = [np.log(np.exp(row).sum()) - row[k]
          for row, k in zip(logits, labels, strict=True)]
  value = classification.cross_entropy(logits.astype(np.float32), labels)
  np.testing.assert_allclose(value, np.mean(each), rtol=1e-6)
