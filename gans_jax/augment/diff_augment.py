"""DiffAugment: Differentiable Augmentation for Data-Efficient GAN Training.

Zhao, Liu, Lin, Zhu, Han 2020, arXiv:2006.10738, section 4, with the constants
of mit-han-lab/data-efficient-gans. Every image is augmented, always:

  color        brightness, saturation, contrast, in this order
  translation  by up to an eighth of the size, zeros come in
  cutout       a square of half the size, zeros; it may reach beyond the border

A policy is their names, joined by commas, in the order of application: the
paper has 'color,translation,cutout' for StyleGAN2 and few images,
'translation,cutout' for BigGAN on CIFAR, 'translation' on ImageNet.

As in augment/ada.py, `draw` says what happens to each image, and `apply` is
linear in the images but for what is added.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from gans_jax.core import errors
from gans_jax.core import rng

KINDS = ('color', 'translation', 'cutout')


def parse(policy: str) -> tuple[str, ...]:
  """Returns the augmentations of 'color,translation'; none of ''.

  Raises:
    UserError: one that does not exist.
  """
  kinds = tuple(filter(None, policy.split(',')))
  unknown = [kind for kind in kinds if kind not in KINDS]
  if unknown:
    raise errors.UserError(
        f'The policy of DiffAugment is {policy!r}, and there is no '
        f'{unknown[0]!r}. Expected some of {", ".join(KINDS)}, joined by '
        'commas.')
  return kinds


def augment(keys: jax.Array, images: jax.Array, policy: str) -> jax.Array:
  """Augments every image.

  Args:
    keys: typed keys [N]; what happens to image i depends on keys[i] alone.
    images: [N, H, W, C] in [-1, 1].
    policy: such as 'color,translation,cutout'.

  Returns:
    [N, H, W, C], float32.
  """
  return apply(draw(keys, images.shape[1:3]), images, policy)


def draw(keys: jax.Array, size: tuple[int, int]) -> dict[str, jax.Array]:
  """Draws for each of N images, whichever augmentations are used.

  Args:
    keys: typed keys [N].
    size: (H, W) of the images.

  Returns:
    brightness [N] in [-0.5, 0.5), added; saturation [N] in [0, 2) and
    contrast [N] in [0.5, 1.5), factors; translation [N, 2] int32, pixels down
    and to the right; cutout [N, 2] int32, the square's centre (row, column).
  """
  def one(key):
    color = jax.random.uniform(rng.named(key, 0, 'color'), (3,))
    # Rounded half up, as in the code.
    shift = jnp.array([int(s / 8 + 0.5) for s in size])
    square = [_cutout_size(s) for s in size]
    centres = jnp.array(
        [s + 1 - c % 2 for s, c in zip(size, square, strict=True)])
    return {
        'brightness': color[0] - 0.5,
        'saturation': 2 * color[1],
        'contrast': 0.5 + color[2],
        'translation': jax.random.randint(
            rng.named(key, 0, 'translation'), (2,), -shift, shift + 1),
        'cutout': jax.random.randint(
            rng.named(key, 0, 'cutout'), (2,), 0, centres),
    }

  return jax.vmap(one)(keys)


def apply(draws: Mapping[str, jax.Array], images: jax.Array,
          policy: str) -> jax.Array:
  """Applies what `draw` has drawn.

  Args:
    draws: as from `draw`.
    images: [N, H, W, C].
    policy: such as 'color,translation,cutout'.

  Returns:
    [N, H, W, C], float32 (float64 for such images).
  """
  images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
  functions = {'color': recolor, 'translation': translate, 'cutout': cut_out}
  for kind in parse(policy):
    images = functions[kind](draws, images)
  return images


def recolor(draws: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
  """Adds brightness; scales about the grey of a pixel, and of the image."""
  def value(name):
    return draws[name].reshape(-1, 1, 1, 1).astype(x.dtype)

  x = x + value('brightness')
  grey = jnp.mean(x, 3, keepdims=True)
  x = grey + value('saturation') * (x - grey)
  mean = jnp.mean(x, (1, 2, 3), keepdims=True)
  return mean + value('contrast') * (x - mean)


def translate(draws: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
  """Shifts by whole pixels; zeros come in."""
  rows, columns = (
      jnp.arange(x.shape[1 + axis]).reshape(1, -1)
      - draws['translation'][:, axis].reshape(-1, 1) for axis in (0, 1))
  return pick(x, rows, columns)


def pick(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Returns x[n, rows[n, i], columns[n, j]], a product on each axis.

  Args:
    x: [N, H, W, C].
    rows: [N, I] int32; zeros come in where it is outside of x.
    columns: [N, J] int32.

  Returns:
    [N, I, J, C].
  """
  def ones(size, at):
    return (at[:, :, None] == jnp.arange(size).reshape(1, 1, -1)
            ).astype(x.dtype)

  exact = jax.lax.Precision.HIGHEST
  x = jnp.einsum('nph,nhwc->npwc', ones(x.shape[1], rows), x, precision=exact)
  return jnp.einsum('nqw,npwc->npqc', ones(x.shape[2], columns), x,
                    precision=exact)


def cut_out(draws: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
  """Fills half of the height and width around the centre with zeros."""
  def inside(axis, centre):
    size = x.shape[axis]
    shape = [1, 1, 1, 1]
    shape[axis] = size
    at = jnp.arange(size).reshape(shape)
    first = centre.reshape(-1, 1, 1, 1) - _cutout_size(size) // 2
    return jnp.logical_and(at >= first, at < first + _cutout_size(size))

  row, column = draws['cutout'][:, 0], draws['cutout'][:, 1]
  cut = jnp.logical_and(inside(1, row), inside(2, column))
  return jnp.where(cut, jnp.zeros_like(x), x)


def _cutout_size(size: int) -> int:
  return int(size / 2 + 0.5)
