"""Path length regularization (Karras et al. 2020, StyleGAN2, section 3.2).

Equation 4: with J the Jacobian of the image with respect to w, and y normal,

  weight E (|J^T y| - a)^2,    a = a moving average of E |J^T y|

so that a step in W of a given size changes the image by as much everywhere.
J^T y is one backward pass: the gradient of <g(w), y>. What the pixels of y are
divided by (the root of their number) makes |J^T y| independent of the
resolution; the norm is the root of the mean, over the layers that a w
enters, of the squared norms.

The two forms are those of losses/penalties: 'grad' differentiates the backward
pass; 'jvp' takes v = the derivative of the penalty by J^T y as a constant, and
differentiates <v, J^T y> = <J v, y>, a forward derivative. Both have the same
gradient, also through a: the average is not held constant in its own step, as
in the official code.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp

# ws [N, L, C] -> images [N, H, W, 3].
Synthesis = Callable[[jax.Array], jax.Array]


def lengths(gradients: jax.Array) -> jax.Array:
  """|J^T y| [N] of gradients [N, L, C] (or [N, C]) by w."""
  squares = jnp.sum(jnp.square(gradients), -1)
  squares = jnp.mean(squares.reshape(squares.shape[0], -1), -1)
  # A dead path has length 0, and a gradient of 0 rather than NaN.
  alive = squares > 0
  return jnp.where(alive, jnp.sqrt(jnp.where(alive, squares, 1.0)), 0.0)


def average(mean: jax.Array, length: jax.Array,
            decay: float = 0.01) -> jax.Array:
  """The moving average a after a batch whose mean length is `length`."""
  return mean + decay * (length - mean)


def path_length(synthesis: Synthesis, ws: jax.Array, noise: jax.Array,
                mean: jax.Array, weight: float = 2.0, decay: float = 0.01,
                form: str = 'grad') -> tuple[jax.Array, jax.Array]:
  """Returns (weight E (|J^T y| - a)^2, E |J^T y|), equation 4.

  Its gradient reaches the parameters that `synthesis` closes over and, through
  `ws`, those of the mapping network.

  Args:
    synthesis: latents [N, L, C] -> images.
    ws: [N, L, C] float32.
    noise: N(0, 1), of the shape of the images.
    mean: the moving average before this batch, scalar.
    weight: of the penalty.
    decay: of the average.
    form: 'grad' or 'jvp'.

  Returns:
    Two scalars, float32. The new average is `average(mean, length, decay)`.
  """
  y = noise / math.sqrt(math.prod(noise.shape[1:3]))

  def product(ws):
    return jnp.sum(synthesis(ws).astype(y.dtype) * y)

  def value_of(gradients):
    length = lengths(gradients)
    target = average(mean, jnp.mean(length), decay)
    return weight * jnp.mean(jnp.square(length - target)), jnp.mean(length)

  if form == 'grad':
    return value_of(jax.grad(product)(ws))
  if form == 'jvp':
    g = jax.lax.stop_gradient(jax.grad(product)(ws))
    (value, length), v = jax.value_and_grad(value_of, has_aux=True)(g)
    _, along = jax.jvp(product, (ws,), (jax.lax.stop_gradient(v),))
    return value + (along - jax.lax.stop_gradient(along)), length
  raise ValueError(f"form={form!r}; expected 'grad' or 'jvp'.")
