"""Batches of samples: which rows meet, and that devices do not matter."""

import functools

import jax
import numpy as np
import pytest
import two_layers

from gans_jax.core import images as images_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import sampler as sampler_lib

COUNT = 11
PSI = 0.7
LABELS = np.arange(COUNT, dtype=np.int32) % two_layers.CLASSES


@functools.cache
def latents():
  """Returns the truncated latents of the seeds 0 to 10."""
  z = two_layers.System().latents(rng.from_seeds(np.arange(COUNT)))
  return PSI * np.asarray(z, np.float64)


def make(devices, batch_size, **options):
  """Returns the samples of 11 seeds, float32, and what made them."""
  system, variables = two_layers.make()
  mesh = mesh_lib.make(devices=jax.devices()[:devices])
  sampler = sampler_lib.Sampler(system, mesh, batch_size,
                                truncation=PSI,
                                **{'float_images': True, **options})
  keys = rng.from_seeds(np.arange(COUNT))
  return sampler(variables, keys, {'label': LABELS}), variables


@pytest.mark.parametrize('devices,batch_size', [(1, 4), (8, 4), (1, 32)])
def test_running_statistics(devices, batch_size):
  """Sample i depends on key i and label i, whatever the batches."""
  found, variables = make(devices, batch_size)
  expected, _ = two_layers.by_hand(variables, latents(), LABELS,
                                   two_layers.recorded(variables))
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('batch_size,batches', [
    # The last batch is filled up with the first samples.
    (4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]),
    (8, [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 0, 1, 2, 3, 4]]),
    # Fewer than a batch: all of them, nobody twice.
    (16, [list(range(COUNT))])])
def test_batch_statistics(devices, batch_size, batches):
  found, variables = make(devices, batch_size, batch_statistics=True)
  expected = np.concatenate([
      two_layers.by_hand(variables, latents()[rows], LABELS[rows])[0]
      for rows in batches])
  assert found.shape == (COUNT, *two_layers.SHAPE)
  np.testing.assert_allclose(found, expected[:COUNT], atol=2e-5)


def test_pixels_are_quantized_unless_floats_are_asked_for():
  found, _ = make(1, 4)
  assert found.dtype == np.float32 and np.abs(found).max() <= 1
  pixels, _ = make(1, 4, float_images=False)
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels, images_lib.to_uint8(found))
