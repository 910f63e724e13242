"""Sliced Wasserstein distance between the patches of two sets of images.

Karras et al., Progressive Growing of GANs for Improved Quality, Stability, and
Variation, 2018, arXiv 1710.10196, section 5. Images become Laplacian pyramids
down to 16 pixels: the coarse levels compare large structures, the fine ones
texture and noise. Of each level, 128 patches of 7 by 7 pixels per image, their
channels normalised over the whole set (so that brightness, contrast and tint
of a set do not count); the distance of their distributions along 512 random
directions (four repeats of 128 in the paper), times 1000.

Published values are of 16,384 images of a set, and uint8 pixels.
"""

import functools

import jax
from jax import lax
from jax import numpy as jnp
import numpy as np

from gans_jax.core import errors

_COARSEST = 16
_PATCH = 7
_PATCHES = 128
_DIRECTIONS = 512
_SCALE = 1000.0
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_IMAGES = 128  # In float32 at a time.
_SORTED = 16  # Directions at a time.


def swd(real: np.ndarray, fake: np.ndarray, seed: int = 0
        ) -> dict[str, float]:
  """Distance at each level, by its height, and their 'average'; all times 1000.

  The floor under it is the value for two disjoint sets of real images.

  Args:
    real: uint8, or float in [0, 255], [n, H, W, C].
    fake: as many, of one shape with them.
    seed: of patches and directions.

  Raises:
    UserError: no images, unequal sets, sides that do not halve down to 16, or
      a value that is not finite.
  """
  if np.ndim(real) != 4 or np.shape(real) != np.shape(fake) or not len(real):
    raise errors.UserError(
        'A sliced Wasserstein distance is between as many real and generated '
        'images of one shape [n, H, W, C], 1 of each at least (published ones '
        f'have 16384); found {list(np.shape(real))} and '
        f'{list(np.shape(fake))}.')
  heights = _heights(real.shape[1], real.shape[2])
  found = {}
  # One level at a time: its patches alone take 75 kB per image.
  for level, height in enumerate(heights):
    patches = [descriptors(images, level, (seed, level, which))
               for which, images in enumerate((real, fake))]
    found[str(height)] = _SCALE * sliced_distance(
        *patches, seed=(seed, level, len(patches)))
  found['average'] = float(np.mean(list(found.values())))
  return found


def pyramid(images: jax.Array, levels: int) -> list[jax.Array]:
  """Laplacian pyramid of [n, H, W, C], float32, finest first.

  Each level is what the next coarser one lacks; the last is a small image.
  """
  levels_found = []
  x = images.astype(jnp.float32)
  for _ in range(levels - 1):
    coarse = _down(x)
    levels_found.append(x - _up(coarse))
    x = coarse
  return [*levels_found, x]


def reconstruct(levels: list[jax.Array]) -> jax.Array:
  """The images of which `levels` are the pyramid."""
  x = levels[-1]
  for level in levels[-2::-1]:
    x = _up(x) + level
  return x


def descriptors(images: np.ndarray, level: int, seed) -> np.ndarray:
  """Normalised random patches of one level of the pyramids of a set.

  Args:
    images: [n, H, W, C].
    level: 0 is the finest.
    seed: of the positions; what `np.random.default_rng` takes.

  Returns:
    float32 [128 n, 49 C]; of mean 0 and variance 1 in every channel.
  """
  levels = len(_heights(*images.shape[1:3]))
  random = np.random.default_rng(seed)
  n, channels = len(images), images.shape[3]
  height, width = (side >> level for side in images.shape[1:3])
  # Of all images at once: where they are cut into batches must not count.
  rows, columns = (random.integers(0, side - _PATCH + 1, (n, _PATCHES))
                   for side in (height, width))
  out = np.empty((n, _PATCHES, channels, _PATCH, _PATCH), np.float32)
  for start in range(0, n, _IMAGES):
    x = np.asarray(_level(images[start:start + _IMAGES], level, levels))
    if not np.isfinite(x).all():
      raise errors.UserError(
          'Sliced Wasserstein distance: the images hold NaN or infinity.')
    patches = np.lib.stride_tricks.sliding_window_view(
        x, (_PATCH, _PATCH), axis=(1, 2))
    batch = slice(start, start + len(x))
    out[batch] = patches[
        np.arange(len(x))[:, None], rows[batch], columns[batch]]
  axes = (0, 1, 3, 4)
  out -= out.mean(axes, np.float64, keepdims=True).astype(np.float32)
  variances = np.einsum('npchw,npchw->c', out, out, dtype=np.float64) / (
      out.size / channels)
  if not variances.all():
    raise errors.UserError(
        'Sliced Wasserstein distance: all images of a set are of one colour '
        'in some channel, which has no variance to be normalised.')
  out /= np.sqrt(variances).astype(np.float32)[:, None, None]
  return out.reshape(n * _PATCHES, -1)


def sliced_distance(a: np.ndarray, b: np.ndarray, seed,
                    directions: int = _DIRECTIONS) -> float:
  """Mean Wasserstein-1 distance of projections of [n, d] and [n, d].

  In one dimension the optimal transport takes the sorted points in order.
  """
  random = np.random.default_rng(seed)
  units = random.standard_normal((directions, a.shape[1]))
  units /= np.linalg.norm(units, axis=1, keepdims=True)
  units = units.astype(np.float32)
  total = 0.0
  for start in range(0, directions, _SORTED):
    chosen = units[start:start + _SORTED]
    x, y = (np.sort(chosen @ points.T, axis=1) for points in (a, b))
    total += abs(x - y).mean(1, np.float64).sum()
  return float(total / directions)


def check_size(height: int, width: int) -> None:
  """Refuses images that cannot be halved down to 16 pixels (UserError)."""
  _heights(height, width)


def _heights(height: int, width: int) -> list[int]:
  halvings = max((min(height, width) // _COARSEST).bit_length() - 1, 0)
  if (min(height, width) != _COARSEST << halvings or
      max(height, width) % 2**halvings):
    raise errors.UserError(
        f'Sliced Wasserstein distance: images are halved down to '
        f'{_COARSEST} pixels, and {height} x {width} pixels cannot be. Use '
        'powers of two.')
  return [height >> level for level in range(halvings + 1)]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _level(images: jax.Array, level: int, levels: int) -> jax.Array:
  return pyramid(images, min(level + 2, levels))[level]


def _down(x: jax.Array) -> jax.Array:
  return _blur(x)[:, ::2, ::2]


def _up(x: jax.Array) -> jax.Array:
  between = (0, 1, 1)  # (before, after, between): a zero after each pixel.
  keep = (0, 0, 0)
  return 4 * _blur(lax.pad(x, jnp.float32(0), (keep, between, between, keep)))


def _blur(x: jax.Array) -> jax.Array:
  """5 x 5 binomial filter; edges are mirrored, and not repeated."""
  # Shifted sums: a convolution may take its operands in fewer bits.
  for axis in (1, 2):
    pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
    padded = jnp.pad(x, pad, mode='reflect')
    x = sum(weight * lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis)
            for i, weight in enumerate(_BINOMIAL))
  return x
