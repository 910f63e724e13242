"""Decoding refuses what would be misread; geometry equals Pillow's."""

import io

import numpy as np
import pictures
from PIL import Image
import pytest

from gans_jax.core import errors
from gans_jax.data import transforms


def _apply(image, **how):
  return transforms.apply(image, transforms.Geometry(**how), 'image')


@pytest.mark.parametrize('name', sorted(pictures.bad_files()))
def test_refuses_and_says_why(name):
  data, words = pictures.bad_files()[name]
  with pytest.raises(errors.UserError, match=words) as caught:
    transforms.decode(data, name)
  assert not isinstance(caught.value, transforms.CorruptImage)
  assert name in str(caught.value)


@pytest.mark.parametrize('name', sorted(pictures.corrupt_files()))
def test_damage_is_found_by_decoding_and_by_the_header_check(name):
  data = pictures.corrupt_files()[name]
  with pytest.raises(transforms.CorruptImage, match=name):
    transforms.decode(data, name)
  with pytest.raises(transforms.CorruptImage, match=name):
    transforms.check_header(io.BytesIO(data), name)


def test_refuses_a_bomb_by_its_header(monkeypatch):
  monkeypatch.setattr(transforms, 'MAX_PIXELS', 63)
  with pytest.raises(errors.UserError, match='8x8 pixels.*bomb'):
    transforms.decode(pictures.png(pictures.pixels(0)), 'x.png')


def test_header_check_decodes_nothing_of_a_whole_file(monkeypatch):
  def fail(*unused):
    raise AssertionError('decoded')
  monkeypatch.setattr(transforms, 'decode', fail)
  for data in (pictures.jpeg(0, (6, 4)),
               pictures.png(pictures.pixels(0, (6, 4)))):
    assert transforms.check_header(io.BytesIO(data), 'x') == (6, 4)


@pytest.mark.parametrize('mode', ['L', 'RGB', '1', 'P'])
def test_decodes_the_modes_that_are_allowed(mode):
  image = Image.fromarray(pictures.pixels(1)).convert(mode)
  got = _apply(transforms.decode(pictures.encode(image, 'png'), 'x'))
  np.testing.assert_array_equal(got, np.asarray(image.convert('RGB')))


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_alpha_is_laid_over_the_background(mode):
  rng = np.random.default_rng(0)
  bands = 4 if mode == 'RGBA' else 2
  rgba = rng.integers(0, 256, (8, 8, bands), np.uint8)
  data = pictures.encode(Image.fromarray(rgba, mode), 'png')
  colour = (200, 100, 0)
  got = _apply(transforms.decode(data, 'x'), background=colour)
  alpha = rgba[..., -1:] / 255.0
  fore = rgba[..., :3] if mode == 'RGBA' else rgba[..., :1].repeat(3, 2)
  want = fore * alpha + (1 - alpha) * np.array(colour).reshape(1, 1, 3)
  # Pillow blends in 8-bit fixed point.
  np.testing.assert_allclose(got, want, atol=1)


def test_palette_transparency_is_alpha():
  image = Image.new('P', (2, 1))
  image.putpalette([255, 0, 0, 0, 255, 0])
  image.putpixel((1, 0), 1)
  data = pictures.encode(image, 'png', transparency=1)
  got = _apply(transforms.decode(data, 'x'), crop='center')
  # The transparent pixel shows the background, not its palette colour.
  both = transforms.composite(transforms.decode(data, 'x'), (9, 9, 9))
  assert np.asarray(both).tolist() == [[[255, 0, 0], [9, 9, 9]]]
  assert got.shape == (1, 1, 3)


def test_exif_rotation_is_applied():
  array = pictures.pixels(2, (6, 4))
  exif = Image.Exif()
  exif[0x0112] = 6  # shown turned by 90 degrees clockwise
  data = pictures.encode(Image.fromarray(array), 'png', exif=exif)
  got = transforms.decode(data, 'x')
  np.testing.assert_array_equal(np.asarray(got), np.rot90(array, -1))
  assert transforms.check_header(io.BytesIO(data), 'x') == (4, 6)


@pytest.mark.parametrize('name', ['box', 'bilinear', 'bicubic', 'lanczos'])
@pytest.mark.parametrize('size', [12, 5, 31])
def test_resize_is_pillows(name, size):
  image = Image.fromarray(pictures.pixels(3, (17, 17)))
  want = image.resize((size, size), getattr(Image.Resampling, name.upper()))
  np.testing.assert_array_equal(
      _apply(image, resolution=size, filter=name), np.asarray(want))


def test_box_halving_is_the_mean_of_2x2_and_area_is_box():
  array = pictures.pixels(4, (8, 8))
  want = array.reshape(4, 2, 4, 2, 3).mean((1, 3))
  got = _apply(Image.fromarray(array), resolution=4, filter='box')
  # Pillow rounds to 8 bits after each of the two passes.
  np.testing.assert_allclose(got, want, atol=1)
  np.testing.assert_array_equal(
      got, _apply(Image.fromarray(array), resolution=4, filter='area'))
  facts = [transforms.Geometry(filter=name).facts()
           for name in ('box', 'area', 'lanczos')]
  assert facts[0] == facts[1] != facts[2]


def test_centre_crop():
  array = pictures.pixels(5, (9, 4))
  np.testing.assert_array_equal(
      _apply(Image.fromarray(array), crop='center'), array[:, 2:6])
  array = pictures.pixels(5, (4, 9))
  np.testing.assert_array_equal(
      _apply(Image.fromarray(array), crop='center'), array[2:6])


def test_pad_keeps_small_images_and_squares_large_ones():
  array = pictures.pixels(6, (28, 28), 1)
  got = _apply(transforms.array_to_image(array), crop='pad', resolution=32,
               channels=1)
  np.testing.assert_array_equal(got, np.pad(array, ((2, 2), (2, 2), (0, 0))))
  wide = pictures.pixels(6, (6, 4))
  got = _apply(Image.fromarray(wide), crop='pad')
  np.testing.assert_array_equal(got, np.pad(wide, ((1, 1), (0, 0), (0, 0))))


def test_not_square_needs_a_crop():
  with pytest.raises(errors.UserError, match='6x4.*data.crop=center'):
    _apply(Image.fromarray(pictures.pixels(6, (6, 4))))


def test_channels():
  array = pictures.pixels(7)
  got = _apply(Image.fromarray(array), channels=1)
  luma = array @ np.array([0.299, 0.587, 0.114])
  assert got.shape == (8, 8, 1)
  np.testing.assert_allclose(got[..., 0], luma, atol=1)
  grey = Image.fromarray(array[..., 0])
  np.testing.assert_array_equal(_apply(grey),
                                array[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize('config, words', [
    (dict(filter='nearest'), 'data.filter'), (dict(crop='left'), 'data.crop'),
    (dict(channels=4), 'data.channels'), (dict(resolution=-1), 'resolution'),
    (dict(background='puce'), 'data.background'),
    (dict(background=256), 'data.background')])
def test_geometry_refuses(config, words):
  with pytest.raises(errors.UserError, match=words):
    transforms.geometry(config)


@pytest.mark.parametrize('value, colour', [
    (255, (255, 255, 255)), (0, (0, 0, 0)), ('white', (255, 255, 255)),
    ('#ff8000', (255, 128, 0))])
def test_background(value, colour):
  assert transforms.background(value) == colour
