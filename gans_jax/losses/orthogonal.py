"""Modified orthogonal regularization (BigGAN, Brock et al. 2019, equation 3).

  R(W) = beta |W'W o (1 - I)|_F^2

for every weight, as a matrix W [in, out] of filters in columns, 1 the matrix
of ones: filters should be orthogonal to each other, of any length. Its
gradient,

  dR / dW = 4 beta W (W'W o (1 - I)) = 4 beta (W W'W - W diag(|w_j|^2)),

is computed in the second form where W has more columns than rows: the first
layer of BigGAN-128 has 24,576 filters of 20 weights, and W'W would be 2.4 GB.

BigGAN-PyTorch's `ortho` adds half of this gradient, 2 beta W (...): its 1e-4
is beta = 5e-5. `form='pytorch'` does as it does.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gans_jax.core import mesh

FORMS = ('paper', 'pytorch')
Skip = Callable[[str], bool]


def penalty(w: jax.Array) -> jax.Array:
  """Returns |W'W o (1 - I)|_F^2 of w [..., out], float32."""
  w = w.astype(jnp.float32).reshape(-1, w.shape[-1])
  if w.shape[1] <= w.shape[0]:
    return jnp.sum(jnp.square(_off_diagonal(w)))
  lengths = jnp.sum(jnp.square(w), 0)
  return jnp.sum(jnp.square(w @ w.T)) - jnp.sum(jnp.square(lengths))


def gradient(w: jax.Array) -> jax.Array:
  """Returns the derivative of `penalty`, of the shape of w."""
  shape = w.shape
  w = w.astype(jnp.float32).reshape(-1, shape[-1])
  if w.shape[1] <= w.shape[0]:
    result = w @ _off_diagonal(w)
  else:
    lengths = jnp.sum(jnp.square(w), 0, keepdims=True)
    result = (w @ w.T) @ w - w * lengths
  return 4.0 * result.reshape(shape)


def _off_diagonal(w: jax.Array) -> jax.Array:
  return (w.T @ w) * (1.0 - jnp.eye(w.shape[1], dtype=w.dtype))


def total(params, skip: Skip = lambda path: False) -> jax.Array:
  """Returns the sum of `penalty` over the weights of a tree.

  Args:
    params: parameters; those of fewer than two axes do not count. The rows of
      an array called 'embedding' are its filters.
    skip: which paths ('G/shared/embedding') are left out.
  """
  return sum((penalty(w.T if _is_embedding(path) else w)
              for path, w in _weights(params, skip)),
             jnp.zeros([], jnp.float32))


def add_gradient(beta: float, skip: Skip = lambda path: False,
                 form: str = 'paper') -> optax.GradientTransformation:
  """Adds the gradient of beta * `total` to the gradients.

  In front of an optimizer: once for each update, whatever the microbatches.

  Args:
    beta: weight; 1e-4 in the paper.
    skip: as in `total`.
    form: 'paper', or 'pytorch' for half of it.
  """
  if form not in FORMS:
    raise ValueError(f'form is {form!r}')
  scale = beta if form == 'paper' else 0.5 * beta

  def update(updates, state, params=None):
    if params is None:
      raise ValueError('The regularization needs the parameters.')

    def one(path, update, w):
      path = mesh.path_name(path)
      if w.ndim < 2 or skip(path):
        return update
      added = gradient(w.T).T if _is_embedding(path) else gradient(w)
      return update + (scale * added).astype(update.dtype)

    return jax.tree_util.tree_map_with_path(
        one, updates, mesh.replicate(params)), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(),
                                      update)


def _is_embedding(path: str) -> bool:
  return path.endswith('/embedding')


def _weights(params, skip: Skip):
  for path, w in jax.tree_util.tree_leaves_with_path(params):
    path = mesh.path_name(path)
    if w.ndim >= 2 and not skip(path):
      yield path, w
