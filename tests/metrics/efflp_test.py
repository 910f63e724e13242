"""The offline perceptual distance: its formula, and what it sees."""

import functools

import jax
import numpy as np
from PIL import Image
from PIL import ImageFilter
import pytest

from gans_jax.data import emoji
from gans_jax.metrics import efficientnet_lite
from gans_jax.metrics import efflp


@pytest.fixture(scope='module')
def variables():
  return efficientnet_lite.load_variables()


@pytest.fixture(scope='module')
def distance(variables):
  # One batch size, so that it compiles once.
  compute = jax.jit(functools.partial(
      efflp.distance, depthwise_form='shifted'))
  return lambda x, y: np.asarray(compute(variables, x, y))


@pytest.fixture(scope='module')
def images():
  """Four emoji, float32 [4, 64, 64, 3] in [-1, 1]."""
  tiles = emoji.tiles('noto')[[0, 700, 1500, 2500]].astype(np.float32)
  alpha = tiles[..., 3:] / 255
  return (tiles[..., :3] * alpha + 255 * (1 - alpha)) / 127.5 - 1


def _noisy(x, sigma):
  noise = np.random.RandomState(0).randn(*x.shape) * sigma / 127.5
  return np.clip(x + noise, -1, 1).astype(np.float32)


def _blurred(x, sigma):
  pictures = [Image.fromarray(np.uint8((i + 1) * 127.5)).filter(
      ImageFilter.GaussianBlur(sigma)) for i in x]
  return np.stack([np.asarray(p) for p in pictures]
                  ).astype(np.float32) / 127.5 - 1


def test_formula_in_float64(variables, distance, images):
  other = _noisy(images, 20)
  net = efficientnet_lite.EfficientNetLite0('shifted')
  # Range: -1 and 1 are the pixels 0 and 255.
  taps = [jax.jit(net.apply)(variables, (x + 1) * 127.5)
          for x in (images, other)]
  total = 0.0
  for name, channels in (('stem', 32), ('block_2', 24), ('block_4', 40),
                         ('block_10', 112), ('block_15', 320)):
    a, b = (np.asarray(t[name], np.float64) for t in taps)
    assert a.shape[-1] == channels
    a, b = (t / np.sqrt((t**2).sum(-1, keepdims=True) + 1e-6)
            for t in (a, b))
    total = total + ((a - b)**2).sum(-1).mean((1, 2)) / 5
  np.testing.assert_allclose(distance(images, other), total, rtol=1e-4)


def test_zero_and_symmetric(distance, images):
  np.testing.assert_array_equal(distance(images, images), 0)
  other = _noisy(images, 20)
  np.testing.assert_allclose(
      distance(images, other), distance(other, images), rtol=1e-5)


def test_orders_damage_and_hardly_sees_brightness(distance, images):
  noise = [distance(images, _noisy(images, s)).mean() for s in (10, 25)]
  blur = [distance(images, _blurred(images, s)).mean() for s in (1, 3)]
  assert 1.5 * noise[0] < noise[1] and 1.5 * blur[0] < blur[1]
  darker = distance(images, images - 15 / 127.5).mean()
  assert darker < 0.5 * min(*noise, *blur)
  assert distance(images, images[::-1]).mean() > max(noise[0], blur[0])


def test_gradient_is_finite_and_leads_back(variables, images):
  x = images[:1, ::2, ::2]
  y = _noisy(x, 30)

  @jax.jit
  def gradient(y):
    return jax.grad(lambda y: efflp.distance(variables, x, y, 'shifted')[0])(y)

  assert np.abs(np.asarray(gradient(np.zeros_like(x)))).max() > 0
  g = np.asarray(gradient(y))
  assert np.isfinite(g).all()
  compute = jax.jit(lambda y: efflp.distance(variables, x, y, 'shifted'))
  assert compute(y - 0.01 * g / np.abs(g).max())[0] < compute(y)[0]
