"""Style mixing, on numbers that say where they came from."""

import numpy as np

from gans_jax.latent import style_mixing


def test_layers_come_from_the_columns():
  rows = np.full((2, 4, 3), [[[1.0]], [[2.0]]])
  columns = np.full((3, 4, 3), [[[10.0]], [[20.0]], [[30.0]]])
  mixed = style_mixing.mix(rows, columns, [0, 2])
  assert mixed.shape == (6, 4, 3)
  for i, (row, column) in enumerate(
      [(1, 10), (1, 20), (1, 30), (2, 10), (2, 20), (2, 30)]):
    np.testing.assert_array_equal(mixed[i, :, 0], [column, row, column, row])
  np.testing.assert_array_equal(rows[0], 1)


def test_sheet():
  def image(value):
    return np.full((1, 2, 2, 3), value, np.uint8)

  tiles = style_mixing.sheet(
      np.concatenate([image(1), image(2)]), image(9),
      np.concatenate([image(19), image(29)]))
  np.testing.assert_array_equal(tiles[:, 0, 0, 0], [255, 9, 1, 19, 2, 29])
