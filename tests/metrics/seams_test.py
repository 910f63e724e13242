"""Seams of pictures whose steps are known."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import seams


def walk(columns, step_at, size, seed=0):
  """Pictures [64, 48, 48, 3] whose columns differ by 2, by `size` at lines."""
  draw = np.random.default_rng(seed)
  signs = draw.choice([-1, 1], (64, 48))
  steps = np.where(np.isin(np.arange(48), step_at), size, 2) * signs
  rows = 128 + np.cumsum(steps, 1)
  return np.broadcast_to(rows[:, None, :, None], (64, 48, 48, 3)
                         ).astype(np.uint8) if columns else np.broadcast_to(
                             rows[:, :, None, None], (64, 48, 48, 3)
                         ).astype(np.uint8)


@pytest.mark.parametrize('columns', [True, False])
def test_a_step_at_the_line_is_seen_and_others_are_not(columns):
  lines = ([], [16, 32]) if columns else ([16, 32], [])
  found, _ = seams.ratio(walk(columns, [16, 32], 6), *lines, 4)
  assert found == pytest.approx(3.0)
  found, error = seams.ratio(walk(columns, [], 6), *lines, 4)
  assert found == pytest.approx(1.0) and error == 0
  # Between codes, where no line was asked for.
  found, _ = seams.ratio(walk(columns, [17, 30], 6), *lines, 4)
  assert found == pytest.approx(1.0)


def test_what_is_at_all_codes_is_no_seam():
  """A decoder's own steps, every 4 pixels, are at the neighbours too."""
  pictures = walk(True, np.arange(0, 48, 4), 5)
  assert seams.ratio(pictures, [], [16, 32], 4)[0] == pytest.approx(1.0)
  assert seams.ratio(pictures, [], [16, 32], 3)[0] == pytest.approx(2.5)


def test_the_error_is_that_of_the_mean():
  draw = np.random.default_rng(0)
  pictures = draw.integers(0, 256, (400, 8, 24, 1), np.uint8)
  found, error = seams.ratio(pictures, [], [12], 4)
  few = seams.ratio(pictures[:100], [], [12], 4)[1]
  assert abs(found - 1.0) < 4 * error
  np.testing.assert_allclose(few / error, 2.0, rtol=0.25)


def test_flat_pictures_have_none():
  assert seams.ratio(np.zeros((2, 16, 16, 3), np.uint8), [8], [8], 4)[0] == 1


@pytest.mark.parametrize('lines', [([], []), ([0], []), ([], [16])])
def test_refuses(lines):
  with pytest.raises(errors.UserError, match='[Ss]eam'):
    seams.ratio(np.zeros((2, 16, 16, 3), np.uint8), *lines, 4)
