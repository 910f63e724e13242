"""Consistency regularization: D says the same of an image and its like.

CR-GAN, Zhang et al. 2020, arXiv:1910.12027, equation 1: with T a random
transformation that keeps what an image shows,

  L_CR = E (D(x) - D(T(x)))^2

on real images x, D being the logit, added to L_D with weight 10. Balanced
(bCR, Zhao et al. 2021, arXiv:2002.04724, algorithm 1) adds the same of
generated images, weight 10 each. Both sides of the difference learn; G does
not see the term.

T flips left to right with probability 1/2, and shifts by up to an eighth of
the size, 4 pixels of 32, in whole pixels, all equally likely; the border is
mirrored. So does StudioGAN; data-efficient-gans lets zeros in, stylegan2-ada's
bCR shifts by 1/32 and flips nothing.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from gans_jax.augment import diff_augment
from gans_jax.core import rng


def draw(keys: jax.Array, size: tuple[int, int], shift: float = 0.125,
         flip: bool = True) -> dict[str, jax.Array]:
  """Draws T for each of N images.

  Args:
    keys: typed keys [N]; T of image i depends on keys[i] alone.
    size: (H, W) of the images.
    shift: the largest shift, in sizes, below 1/2; rounded down to pixels.
    flip: whether half of the images are flipped.

  Returns:
    flip [N] bool; shift [N, 2] int32, pixels down and to the right.
  """
  most = jnp.array([int(side * shift) for side in size])

  def one(key):
    flipped = jax.random.bernoulli(rng.named(key, 0, 'flip'))
    return {'flip': jnp.logical_and(flipped, flip),
            'shift': jax.random.randint(rng.named(key, 0, 'shift'), (2,),
                                        -most, most + 1)}

  return jax.vmap(one)(keys)


def transform(draws: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
  """Applies T, the flip before the shift, to images [N, H, W, C]."""
  height, width = x.shape[1:3]
  rows = _mirrored(height, draws['shift'][:, 0])
  columns = _mirrored(width, draws['shift'][:, 1])
  columns = jnp.where(draws['flip'].reshape(-1, 1), width - 1 - columns,
                      columns)
  return diff_augment.pick(x, rows, columns)


def _mirrored(size: int, by: jax.Array) -> jax.Array:
  """Where the pixels [N, size] of a line shifted by `by` [N] come from."""
  at = jnp.abs(jnp.arange(size).reshape(1, -1) - by.reshape(-1, 1))
  return size - 1 - jnp.abs(size - 1 - at)


def loss(logits: jax.Array, transformed: jax.Array) -> jax.Array:
  """E (D(x) - D(T(x)))^2 of logits [N], float32."""
  difference = logits.astype(jnp.float32) - transformed.astype(jnp.float32)
  return jnp.mean(jnp.square(difference))
