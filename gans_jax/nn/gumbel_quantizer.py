"""Discrete codes by the Gumbel-softmax (Jang et al. 2017, arXiv:1611.01144).

As DALL-E's and VQGAN's first stages have it: a linear layer scores every
code, noise of the Gumbel distribution picks one, and the gradient is that of
the softmax at temperature tau (hard, straight-through):

  y = softmax((l + g) / tau),  q = sum_k onehot(argmax y)_k e_k
  KL to the uniform prior = sum_k p_k log(p_k K + 1e-10),  p = softmax(l)
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import vqgan_blocks


class GumbelQuantizer(nn.Module):
  """Params `proj` {kernel [1, 1, D, K], bias [K]} and `codes` [K, D].

  Attributes:
    size: K, number of codes.
    dim: D, of each code.
  """

  size: int
  dim: int

  def setup(self):
    self.codes = self.param('codes', nn.initializers.normal(1.0),
                            (self.size, self.dim), jnp.float32)

  @nn.compact
  def logits(self, z: jax.Array) -> jax.Array:
    """Returns the score of every code: [N, h, w, D] -> float32 [..., K]."""
    return vqgan_blocks.convolution(z.astype(jnp.float32), self.size, 1,
                                    'proj')

  def __call__(self, z: jax.Array, keys: jax.Array | None,
               temperature: jax.Array | float
               ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Quantizes.

    Args:
      z: [N, h, w, D].
      keys: of the noise, [N]; None takes the likeliest code.
      temperature: tau.

    Returns:
      (q [N, h, w, D], int32 indices [N, h, w], KL float32 scalar: its mean
      over positions).
    """
    logits = self.logits(z)
    noisy = logits
    if keys is not None:
      noisy = logits + jax.vmap(
          lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    soft = jax.nn.softmax(noisy / temperature, -1)
    indices = jnp.argmax(noisy, -1).astype(jnp.int32)
    hard = jax.nn.one_hot(indices, self.size)
    y = hard + (soft - jax.lax.stop_gradient(soft))
    q = jnp.dot(y, self.codes, precision=jax.lax.Precision.HIGHEST)
    p = jax.nn.softmax(logits, -1)
    kl = jnp.mean(jnp.sum(p * jnp.log(p * self.size + 1e-10), -1))
    return q, indices, kl


def temperature(step: jax.Array | int, start: float, end: float,
                steps: int) -> jax.Array:
  """Temperature that falls by a cosine from `start` to `end` in `steps`."""
  t = jnp.minimum(jnp.asarray(step, jnp.float32) / max(steps, 1), 1.0)
  return end + 0.5 * (start - end) * (1.0 + jnp.cos(jnp.pi * t))
