"""Pixels: uint8 on the host and in files, [-1, 1] on the device."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np


def to_unit(images: jax.Array) -> jax.Array:
  """Maps uint8 [0, 255] to float32 [-1, 1]; floats pass unchanged."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 127.5 - 1.0
  return images


def to_uint8(images):
  """Maps [-1, 1] to uint8 by clip(127.5 x + 128, 0, 255), truncated.

  This is round-half-up of the inverse of `to_unit`, the rule of the published
  FID figures (NVIDIA's repositories). Works on NumPy and on JAX arrays.
  """
  xp = np if isinstance(images, np.ndarray) else jnp
  return xp.clip(images * 127.5 + 128.0, 0.0, 255.0).astype(xp.uint8)


def grid(images: np.ndarray, columns: int | None = None,
         padding: int = 2, background: int = 255) -> np.ndarray:
  """Lays images out in rows.

  Args:
    images: uint8 [N, H, W, C] with C 1 or 3.
    columns: images in a row; by default the grid is as square as can be.
    padding: pixels between and around tiles.
    background: grey level of the gaps.

  Returns:
    uint8 [rows * (H + padding) + padding, ..., C].
  """
  count, height, width, channels = images.shape
  columns = columns or math.ceil(math.sqrt(count))
  rows = math.ceil(count / columns)
  sheet = np.full((rows * (height + padding) + padding,
                   columns * (width + padding) + padding, channels),
                  background, np.uint8)
  for i, image in enumerate(images):
    top = padding + (i // columns) * (height + padding)
    left = padding + (i % columns) * (width + padding)
    sheet[top:top + height, left:left + width] = image
  return sheet


def to_png(image: np.ndarray) -> bytes:
  """Encodes one uint8 [H, W, 1 or 3] image as PNG."""
  from PIL import Image

  if image.shape[-1] == 1:
    image = image[..., 0]
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, 'PNG')
  return stream.getvalue()


def enlarge(image: np.ndarray, at_least: int) -> np.ndarray:
  """Repeats pixels until the shorter side has `at_least` pixels."""
  factor = max(1, math.ceil(at_least / min(image.shape[:2])))
  return image.repeat(factor, 0).repeat(factor, 1)
