"""The resizers against Pillow, PyTorch and their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import torch

from gans_jax.metrics import resize

SIZES = [(28, 224), (32, 224), (64, 224), (256, 224), (512, 224), (64, 299),
         (512, 299), (224, 224), (37, 50)]


def _image(size, seed=0):
  return np.random.RandomState(seed).randint(
      0, 256, (2, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize('size_in, size_out', SIZES)
def test_clean_is_pillow_on_floats(size_in, size_out):
  x = _image(size_in)
  expected = np.stack([
      np.stack([
          np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize(
              (size_out, size_out), Image.Resampling.BICUBIC))
          for c in range(3)], -1) for image in x]).clip(0, 255)
  found = resize.resize(jnp.asarray(x), size_out, 'clean')
  assert found.dtype == jnp.float32
  # Pixels are 0..255: this is 4e-7 of the range.
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('shape, size', [
    ((224, 224), 336), ((256, 256), 336), ((32, 32), 336), ((900, 600), 224),
    ((37, 50), 50), ((51, 38), 37), ((40, 31), 31)])
def test_pillow_uint8_is_pillow_to_the_last_bit(shape, size):
  r = np.random.RandomState(0)
  x = r.randint(0, 256, (2, *shape, 3)).astype(np.uint8)
  x[1] = 255 * (x[1] > 127)  # overshoots everywhere
  height, width = shape
  side = min(shape)
  top, left = (height - side) // 2, (width - side) // 2
  expected = np.stack([
      np.asarray(Image.fromarray(image).crop(
          (left, top, left + side, top + side)).resize(
              (size, size), Image.Resampling.BICUBIC)) for image in x])
  found = jax.jit(resize.resize, static_argnums=(1, 2))(
      x, size, 'pillow_uint8')
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('size_in, size_out', SIZES)
def test_half_pixel_is_torch_bilinear(size_in, size_out):
  x = _image(size_in)
  expected = torch.nn.functional.interpolate(
      torch.from_numpy(x.transpose(0, 3, 1, 2)).double(), size=size_out,
      mode='bilinear', align_corners=False).numpy().transpose(0, 2, 3, 1)
  found = resize.resize(jnp.asarray(x), size_out, 'half_pixel')
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('size_in, size_out', SIZES)
def test_tf1_is_its_definition(size_in, size_out):
  x = _image(size_in)[..., :1].astype(np.float64)
  position = [min(float(np.float32(i) * (np.float32(size_in) /
                                         np.float32(size_out))), size_in - 1)
              for i in range(size_out)]

  def interpolate(rows):  # [H, ...] -> [size_out, ...]
    return np.stack([
        rows[int(p)] * (1 - p % 1) +
        rows[min(int(p) + 1, size_in - 1)] * (p % 1) for p in position])

  expected = interpolate(
      interpolate(x.transpose(1, 2, 0, 3)).swapaxes(0, 1)).swapaxes(0, 1)
  found = resize.resize(jnp.asarray(x), size_out, 'tf1')
  np.testing.assert_allclose(
      found, expected.transpose(2, 0, 1, 3), atol=1e-4)


def test_the_modes_differ():
  # Guards the tests above against one mode that stands for all.
  x = jnp.asarray(_image(64))
  results = {mode: resize.resize(x, 48, mode) for mode in resize.MODES}
  for a, b in itertools.combinations(resize.MODES, 2):
    gap = jnp.abs(results[a] - results[b]).mean()
    # Rounding is all that tells Pillow's two forms apart.
    least = 0.2 if {a, b} == {'clean', 'pillow_uint8'} else 1
    assert gap > least, (a, b, gap)


@pytest.mark.parametrize('mode', resize.MODES)
def test_constants_stay_and_rows_sum_to_one(mode):
  np.testing.assert_allclose(
      resize.matrix(mode, 300, 224).sum(1), 1, rtol=1e-14)
  x = jnp.full((1, 20, 30, 3), 255, jnp.uint8)
  y = jax.jit(lambda x: resize.resize(x, 16, mode))(x)
  assert y.shape == (1, 16, 16, 3)
  np.testing.assert_allclose(y, 255, rtol=1e-6)


def test_clean_is_clipped_and_not_rounded():
  x = np.zeros((1, 8, 8, 1), np.uint8)
  x[:, :, 4:] = 255
  y = np.asarray(resize.resize(jnp.asarray(x), 32, 'clean'))
  raw = np.einsum('pw,nhwc->nhpc', resize.matrix('clean', 8, 32), x)
  assert raw.min() < -5 and raw.max() > 260  # Bicubic overshoots at an edge.
  assert y.min() == 0 and y.max() == 255
  assert (np.abs(y - y.round()) > 0.1).any()


def test_rectangles_become_squares():
  x = np.random.RandomState(0).randint(0, 256, (1, 20, 31, 1)).astype('u1')
  expected = Image.fromarray(x[0, ..., 0].astype(np.float32)).resize(
      (16, 16), Image.Resampling.BICUBIC)
  found = resize.resize(jnp.asarray(x), 16, 'clean')[0, ..., 0]
  np.testing.assert_allclose(
      found, np.asarray(expected).clip(0, 255), atol=1e-4)


def test_unknown_mode():
  with pytest.raises(ValueError, match="'cleen'"):
    resize.matrix('cleen', 4, 4)
