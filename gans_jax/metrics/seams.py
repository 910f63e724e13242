"""Seams: whether images change more across some lines than beside them.

For images that were sampled through windows. The ratio is that of the mean
absolute step of brightness across the lines to that across their neighbours
on both sides, at the same distance as codes have, so that what a decoder does
at the borders of all codes cancels out: 1 where nothing shows.
"""

from collections.abc import Sequence

import numpy as np

from gans_jax.core import errors

_NEIGHBOURS = 2    # on each side of a line
_RESAMPLED = 200


def ratio(images: np.ndarray, rows: Sequence[int], columns: Sequence[int],
          step: int, seed: int = 0) -> tuple[float, float]:
  """Returns (ratio, its standard error by resampling images).

  Args:
    images: uint8 [N, H, W, C].
    rows: y of each horizontal line, between the pixels y - 1 and y.
    columns: x of each vertical line.
    step: pixels from a line to its neighbours.
    seed: of the resampling.

  Raises:
    UserError: no line, or one without neighbours inside the images.
  """
  at, beside = [], []
  for axis, lines in ((1, rows), (2, columns)):
    grey = images.astype(np.float32).mean(-1)
    profile = np.abs(np.diff(grey, axis=axis)).mean(3 - axis)  # [N, H - 1]
    for line in lines:
      near = [line + i * step for i in range(-_NEIGHBOURS, _NEIGHBOURS + 1)
              if i and line + i * step not in lines
              and 0 < line + i * step < grey.shape[axis]]
      if not near or not 0 < line < grey.shape[axis]:
        raise errors.UserError(
            f'A seam at {line} of images {list(images.shape[1:3])} has no '
            f'neighbours {step} pixels from it.')
      at.append(profile[:, line - 1])
      beside.append(profile[:, np.asarray(near) - 1].mean(1))
  if not at:
    raise errors.UserError('Seams need a line at least.')
  at, beside = np.mean(at, 0), np.mean(beside, 0)  # [N]
  draws = np.random.RandomState(seed).randint(
      0, len(at), (_RESAMPLED, len(at)))

  def quotient(a, b):
    # Images without any step have no seam.
    return np.where(b > 0, a / np.where(b > 0, b, 1), 1.0)

  found = quotient(at.mean(), beside.mean())
  spread = quotient(at[draws].mean(1), beside[draws].mean(1)).std()
  return float(found), float(spread)
