"""Perceptual path length: how much images change along a path of latents.

  PPL = E d(G(path(t)), G(path(t + eps))) / eps^2,   eps = 1e-4

Karras et al., A Style-Based Generator Architecture for Generative Adversarial
Networks, 2019, arXiv 1812.04948, section 4.1, equations 2 and 3. The path is
`slerp` in Z, and `lerp` in W (after the mapping, no truncation); t is uniform
in [0, 1) ("full") or zero ("end"); d is LPIPS with VGG16. Both ends see the
same noise inputs. Images stay float32 from end to end: eight bits are coarser
than the step, and multiply the value.
"""

from collections.abc import Callable

import jax
from jax import numpy as jnp
import numpy as np

from gans_jax.core import errors

_EPSILON = 1e-4
_SIDE = 256


def slerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
  """Point t of the great circle through the directions of a and b.

  Args:
    a: [n, d], of any length.
    b: likewise, not parallel to `a`.
    t: [n]; 0 is `a`, 1 is `b`.

  Returns:
    Unit vectors [n, d].
  """
  a, b = _unit(a), _unit(b)
  cosine = jnp.sum(a * b, -1, keepdims=True)
  angle = t[:, None] * jnp.arccos(jnp.clip(cosine, -1, 1))
  orthogonal = _unit(b - cosine * a)
  return _unit(a * jnp.cos(angle) + orthogonal * jnp.sin(angle))


def lerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
  """Point t [n] of the line from a [n, ...] at 0 to b [n, ...] at 1."""
  return a + (b - a) * t.reshape(t.shape + (1,) * (a.ndim - t.ndim))


def lengths(
    generate: Callable[[jax.Array], jax.Array],
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    path: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    a: jax.Array, b: jax.Array, t: jax.Array, epsilon: float = _EPSILON,
) -> jax.Array:
  """Squared speed of the images at t; its mean is the path length.

  Args:
    generate: latents [n, ...] -> images in [-1, 1], unquantised. Called twice:
      its noise inputs must be the same each time.
    distance: two batches of images -> [n], quadratic in small differences.
    path: `slerp` or `lerp`.
    a: latents at one end, float32 [n, ...].
    b: latents at the other.
    t: float32 [n], in [0, 1).
    epsilon: the step.

  Returns:
    [n].
  """
  near = generate(path(a, b, t))
  far = generate(path(a, b, t + epsilon))
  return distance(near, far) / epsilon**2


def trimmed_mean(values: np.ndarray) -> float:
  """Mean of what lies between the 1st and the 99th percentile of [n].

  The percentiles are values themselves, the next lower and the next higher
  one, and are kept, so that up to 100 values are all kept.

  Raises:
    UserError: no value, or one that is not finite.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not len(values):
    raise errors.UserError(
        'A path length needs 1 pair of images at least (published ones have '
        f'50000 or 100000); found {list(values.shape)}.')
  if not np.isfinite(values).all():
    raise errors.UserError('Path lengths hold NaN or infinity.')
  low = np.percentile(values, 1, method='lower')
  high = np.percentile(values, 99, method='higher')
  return float(values[(low <= values) & (values <= high)].mean())


def for_distance(images: jax.Array, crop: bool) -> jax.Array:
  """Images as the distance of the paper sees them.

  Args:
    images: [n, H, W, C] in [-1, 1].
    crop: to where faces are in FFHQ, rows 3/8 to 7/8 and columns 2/8 to 6/8
      (StyleGAN's; StyleGAN2's `ppl2_wend` does not).

  Returns:
    [n, h, w, C] in [0, 255], float32, averaged down to 256 by 256 if larger.
  """
  if crop:
    c = images.shape[1] // 8
    images = images[:, 3 * c:7 * c, 2 * c:6 * c]
  factor = images.shape[1] // _SIDE
  if factor > 1:
    n, h, w, channels = images.shape
    images = images.reshape(
        n, h // factor, factor, w // factor, factor, channels).mean((2, 4))
  return (images + 1) * 127.5


def _unit(x: jax.Array) -> jax.Array:
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
