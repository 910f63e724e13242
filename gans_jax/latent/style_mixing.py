"""Style mixing: some layers' styles from one image, the rest from another.

Karras et al., A Style-Based Generator Architecture for Generative Adversarial
Networks, 2019, arXiv 1812.04948, section 3.1 and figure 3: the coarse layers
of the synthesis network carry pose and shape, the fine ones colours.
"""

import numpy as np


def mix(rows: np.ndarray, columns: np.ndarray, layers) -> np.ndarray:
  """Gives every row's latents the styles of every column in some layers.

  Args:
    rows: w of the images at the left, float [R, num_ws, D].
    columns: w of the images above, [C, num_ws, D].
    layers: indices of the styles that come from the columns.

  Returns:
    [R * C, num_ws, D], row by row.
  """
  mixed = np.repeat(rows, len(columns), axis=0)
  others = np.tile(columns, (len(rows), 1, 1))
  layers = list(layers)
  mixed[:, layers] = others[:, layers]
  return mixed


def sheet(rows: np.ndarray, columns: np.ndarray, mixed: np.ndarray,
          background: int = 255) -> np.ndarray:
  """Puts the sources beside what they became: tiles for `images.grid`.

  Args:
    rows: uint8 [R, H, W, C], the images at the left.
    columns: [C, H, W, C], the images above.
    mixed: [R * C, H, W, C] of the latents of `mix`.
    background: grey level of the corner.

  Returns:
    uint8 [(R + 1) * (C + 1), H, W, C], row by row, C + 1 to a row.
  """
  corner = np.full_like(columns[:1], background)
  tiles = [corner, columns]
  for i, row in enumerate(rows):
    tiles += [row[None], mixed[i * len(columns):(i + 1) * len(columns)]]
  return np.concatenate(tiles)
