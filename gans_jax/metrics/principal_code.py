"""Images coded by their principal components, in so many bits.

The linear code that a learned one has to be better than: an image is its
mean and the numbers along the leading components of a set of images, each
rounded to one of 2^bits even levels between the smallest and the largest that
the set has.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import errors

_OVERSAMPLING = 10
_PASSES = 3
_ROWS = 256  # images that are floats at a time


@flax.struct.dataclass
class Code:
  """A code; its arrays are float32.

  Attributes:
    mean: [D], of pixels from 0 to 255.
    axes: [D, k], orthonormal, the leading one first.
    low: [k], the first level.
    step: [k], from one level to the next.
    bits: of each number; 2^bits levels.
    explained: share of the variance along the axes, before rounding.
  """

  mean: jax.Array
  axes: jax.Array
  low: jax.Array
  step: jax.Array
  bits: int = flax.struct.field(pytree_node=False)
  explained: float = flax.struct.field(pytree_node=False)


def coded(code: Code, images: jax.Array) -> jax.Array:
  """Returns what uint8 images [N, H, W, C] are after coding, uint8."""
  rows = images.reshape(len(images), -1).astype(jnp.float32) - code.mean[None]
  levels = jnp.rint((rows @ code.axes - code.low[None]) / code.step[None])
  levels = jnp.clip(levels, 0, 2**code.bits - 1)
  rows = (levels * code.step[None] + code.low[None]) @ code.axes.T
  rows = jnp.clip(jnp.rint(rows + code.mean[None]), 0, 255)
  return rows.astype(jnp.uint8).reshape(images.shape)


def fit(images: np.ndarray, count: int, bits: int = 8) -> Code:
  """Fits a code of `count` numbers to a set of images.

  The leading axes by the randomized method of Halko, Martinsson & Tropp 2011
  (arXiv:0909.4061, algorithm 4.4), which needs no covariance matrix.

  Args:
    images: uint8 [N, H, W, C].
    count: k; fewer where there are fewer images or pixels.
    bits: of each number.

  Raises:
    UserError: no number, no bit, or fewer than two images.
  """
  if count < 1 or not 1 <= bits <= 16 or len(images) < 2:
    raise errors.UserError(
        f'A PCA of {len(images)} images in {count} numbers of {bits} bits '
        'cannot be: expected two images, one number, and 1 to 16 bits.')
  flat = images.reshape(len(images), -1)
  size = flat.shape[1]
  mean = flat.mean(0, dtype=np.float64).astype(np.float32)
  count = min(count, size, len(flat))

  def blocks():
    for start in range(0, len(flat), _ROWS):
      yield flat[start:start + _ROWS].astype(np.float32) - mean

  width = min(count + _OVERSAMPLING, size, len(flat))
  axes = np.random.RandomState(0).randn(size, width).astype(np.float32)
  for _ in range(_PASSES):
    axes = np.linalg.qr(axes)[0]
    axes = sum(rows.T @ (rows @ axes) for rows in blocks())
  axes = np.linalg.qr(axes)[0]
  numbers = np.concatenate([rows @ axes for rows in blocks()])
  turned = np.linalg.eigh(
      numbers.T.astype(np.float64) @ numbers)[1][:, ::-1][:, :count]
  axes, numbers = ((x @ turned).astype(np.float32) for x in (axes, numbers))
  low, high = numbers.min(0), numbers.max(0)
  step = np.maximum((high - low) / (2**bits - 1), 1e-6)
  total = sum(np.sum(np.square(rows), dtype=np.float64) for rows in blocks())
  kept = np.sum(np.square(numbers), dtype=np.float64)
  explained = float(min(1.0, kept / max(total, 1e-12)))
  return Code(mean, axes, low, step, bits, explained)
