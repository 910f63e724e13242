"""Pixels there and back, grids, PNG."""

import io

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from gans_jax.core import images


@pytest.mark.parametrize('xp', [np, jnp])
def test_every_grey_level_comes_back(xp):
  levels = np.arange(256, dtype=np.uint8)
  unit = np.asarray(images.to_unit(jnp.asarray(levels)))
  assert unit[0] == -1.0 and unit[255] == 1.0
  np.testing.assert_array_equal(images.to_uint8(xp.asarray(unit)), levels)


def test_out_of_range_is_clipped():
  np.testing.assert_array_equal(
      images.to_uint8(np.array([-3.0, 3.0], np.float32)), [0, 255])


def test_floats_pass_unchanged():
  x = jnp.array([0.3], jnp.float32)
  assert images.to_unit(x) is x


def test_grid_places_row_by_row():
  tiles = np.stack([np.full([2, 3, 1], i, np.uint8) for i in range(5)])
  sheet = images.grid(tiles, columns=3, padding=1)
  assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1, 1)
  assert sheet[1, 1, 0] == 0 and sheet[1, 5, 0] == 1 and sheet[4, 1, 0] == 3
  assert sheet[5, 9, 0] == 255  # no sixth tile


@pytest.mark.parametrize('channels', [1, 3])
def test_png_is_lossless(channels):
  image = np.random.RandomState(0).randint(
      0, 256, [5, 7, channels]).astype(np.uint8)
  back = np.asarray(Image.open(io.BytesIO(images.to_png(image))))
  np.testing.assert_array_equal(back.reshape(image.shape), image)
