"""Principal components and moves along them."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.latent import edit
from gans_jax.latent import ganspace


def test_axes_of_a_known_normal():
  r = np.random.default_rng(0)
  axes, _ = np.linalg.qr(r.normal(size=(5, 5)))
  deviations = np.array([9, 4, 2, 1, 0.5])
  samples = 3 + (r.normal(size=(200_000, 5)) * deviations) @ axes.T
  found = ganspace.components(samples)
  np.testing.assert_allclose(found.deviations, deviations, rtol=0.01)
  np.testing.assert_allclose(found.mean, 3, atol=0.1)
  cosines = np.sum(found.directions * axes.T, 1)
  np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-3)


def test_they_are_numpys_svd():
  samples = np.random.default_rng(1).normal(size=(50, 7)) ** 3
  found = ganspace.components(samples)
  _, s, vt = np.linalg.svd(samples - samples.mean(0))
  np.testing.assert_allclose(found.deviations, s / 7, rtol=1e-5)
  np.testing.assert_allclose(np.abs(np.sum(found.directions * vt, 1)), 1,
                             rtol=1e-5)
  assert (found.directions[np.arange(7),
                           np.abs(found.directions).argmax(1)] > 0).all()


@pytest.mark.parametrize('samples', [np.zeros((1, 3)), np.full((4, 3), np.nan)])
def test_refusals(samples):
  with pytest.raises(errors.UserError, match='two finite samples'):
    ganspace.components(samples)


def test_moves():
  w = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
  direction = np.array([1.0, 0, 2])
  moved = edit.along(w, direction, [-1, 0, 2], [1, 3])
  assert moved.shape == (6, 4, 3) and moved.dtype == np.float32
  np.testing.assert_array_equal(moved[[1, 4]], w)
  np.testing.assert_array_equal(moved[2, [0, 2]], w[0, [0, 2]])
  np.testing.assert_array_equal(moved[2, 3], w[0, 3] + 2 * direction)
  np.testing.assert_array_equal(moved[3, 1], w[1, 1] - direction)
  np.testing.assert_array_equal(edit.along(w, direction, [1])[1],
                                w[1] + direction)
