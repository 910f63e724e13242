"""The classifier's loss of AC-GAN.

Odena et al. 2017, arXiv:1610.09585, equation 3 (L_C).
"""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the mean of -log softmax(logits [N, K])[labels [N]]."""
  return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(
      logits, labels))
