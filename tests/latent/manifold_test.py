"""Sheets over two latent numbers."""

import numpy as np
import pytest
import scipy.stats

from gans_jax.core import errors
from gans_jax.latent import manifold


def test_tiles_are_equal_shares_of_the_prior():
  base = np.array([9.0, 8.0, 7.0], np.float32)
  z = manifold.sheet(base, (2, 0), 4).reshape(4, 4, 3)
  share = [0.125, 0.375, 0.625, 0.875]
  np.testing.assert_allclose(scipy.stats.norm.cdf(z[:, 1, 2]), share,
                             rtol=1e-6)
  np.testing.assert_allclose(scipy.stats.norm.cdf(z[2, :, 0]), share,
                             rtol=1e-6)
  np.testing.assert_array_equal(z[..., 1], 8)
  assert z.dtype == np.float32


@pytest.mark.parametrize('dims', [(0,), (0, 0), (0, 3), (-1, 0), (0, 1, 2)])
def test_other_places_are_refused(dims):
  with pytest.raises(errors.UserError, match='two different places'):
    manifold.sheet(np.zeros(3), dims, 4)


def test_latents_of_another_shape_are_refused():
  with pytest.raises(errors.UserError, match='two different places'):
    manifold.sheet(np.zeros((2, 2)), (0, 1), 4)
