"""Perceptual path length of generators whose speed is known."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import path_length


def _squared_l2(a, b):
  return jnp.sum((a - b)**2, -1)


def _ends(n, d):
  return jax.random.normal(jax.random.key(0), (2, n, d))


def test_speed_of_the_identity_in_w():
  # |b - a|^2 of independent unit Gaussians: 2 k on average.
  k = 64
  a, b = _ends(4000, k)
  t = jax.random.uniform(jax.random.key(1), (4000,))
  found = path_length.lengths(
      lambda w: w, _squared_l2, path_length.lerp, a, b, t)
  np.testing.assert_allclose(found, _squared_l2(a, b), rtol=0.05)
  assert np.mean(found) == pytest.approx(2 * k, rel=0.02)


@pytest.mark.parametrize('full', [0, 1])
def test_speed_of_the_identity_in_z(full):
  # The squared angle of random directions: (pi/2)^2 + 1/k.
  k = 512
  a, b = _ends(4000, k)
  t = full * jax.random.uniform(jax.random.key(1), (4000,))
  found = path_length.lengths(
      lambda z: z, _squared_l2, path_length.slerp, a, b, t)
  assert np.mean(found) == pytest.approx((np.pi / 2)**2 + 1 / k, rel=0.005)


def test_slerp_is_an_arc_of_constant_speed():
  a, b = np.array([[3.0, 0.0]]), np.array([[0.0, 0.1]])
  for t in (0.0, 0.25, 0.5, 1.0):
    angle = t * np.pi / 2
    np.testing.assert_allclose(
        path_length.slerp(a, b, jnp.array([t])),
        [[np.cos(angle), np.sin(angle)]], atol=1e-6)


def test_lerp_of_latents_per_layer():
  a, b = np.zeros((2, 4, 3), np.float32), np.ones((2, 4, 3), np.float32)
  found = path_length.lerp(a, b, jnp.array([0.25, 1.0]))
  np.testing.assert_allclose(found[0], 0.25)
  np.testing.assert_allclose(found[1], 1)


def test_value_does_not_depend_on_the_step():
  a, b = _ends(100, 32)
  t = jnp.zeros(100)
  values = [float(path_length.lengths(jnp.sin, _squared_l2, path_length.slerp,
                                      a, b, t, epsilon).mean())
            for epsilon in (1e-3, 1e-4)]
  assert values[0] == pytest.approx(values[1], rel=0.01)


def test_float32_is_enough():
  # The step is 1e-4 of the latents, and float32 keeps 1e-7 of them.
  ends = np.asarray(_ends(1000, 512), np.float64)

  def mean(path, dtype):
    a, b = ends.astype(dtype)
    found = path_length.lengths(
        lambda z: z, lambda x, y: ((x - y)**2).sum(-1), path, jnp.asarray(a),
        jnp.asarray(b), jnp.zeros(len(a), dtype))
    assert found.dtype == dtype
    return float(np.mean(found))

  for path in (path_length.slerp, path_length.lerp):
    with jax.enable_x64(True):
      double = mean(path, np.float64)
    assert mean(path, np.float32) == pytest.approx(double, rel=1e-3)


def test_trimmed_mean_keeps_the_percentiles_themselves():
  # 0 .. 99: the 1st percentile is at 0.99, the 99th at 98.01; their lower and
  # higher neighbours are 0 and 99, and nothing falls away.
  assert path_length.trimmed_mean(np.arange(100.0)) == 49.5
  # 0 .. 999: at 9.99 and 989.01, so that 9 to 990 stay.
  values = np.arange(1000.0)
  assert path_length.trimmed_mean(values) == 499.5
  values[-9:] = 1e9
  assert path_length.trimmed_mean(values[::-1]) == 499.5
  values[-10] = 1e9
  assert path_length.trimmed_mean(values) > 1e6
  assert path_length.trimmed_mean([7.0]) == 7


def test_images_of_the_distance():
  y, x = np.mgrid[:1024, :1024]
  images = np.stack([y, x, 0 * x], -1)[None] / 512.0 - 1
  cropped = path_length.for_distance(jnp.asarray(images, jnp.float32), True)
  assert cropped.shape == (1, 256, 256, 3)
  # Rows 384 to 896 and columns 256 to 768, two by two.
  np.testing.assert_allclose(
      cropped[0, 0, 0], np.array([384.5, 256.5, 0]) * 127.5 / 512, rtol=1e-5)
  np.testing.assert_allclose(
      cropped[0, -1, -1], np.array([894.5, 766.5, 0]) * 127.5 / 512, rtol=1e-5)
  whole = path_length.for_distance(jnp.asarray(images, jnp.float32), False)
  assert whole.shape == (1, 256, 256, 3)
  small = path_length.for_distance(jnp.ones((2, 64, 64, 3)), False)
  np.testing.assert_array_equal(small, np.full((2, 64, 64, 3), 255))


def test_refusals():
  with pytest.raises(errors.UserError, match='1 pair .* found \\[0\\]'):
    path_length.trimmed_mean([])
  with pytest.raises(errors.UserError, match='NaN'):
    path_length.trimmed_mean([1.0, np.nan])
