"""From the bytes of an image file to uint8 [H, W, C], checked on the way.

The resize filter is part of a data set's identity: the FID of FFHQ at 256 px
moves by more than most papers claim when lanczos takes the place of box.
Filters are Pillow's, which widen with the scale when they shrink an image, so
all of them are antialiased.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import io
import os
import re
from typing import Any
from typing import BinaryIO
import warnings

import numpy as np
from PIL import Image
from PIL import ImageOps

from gans_jax.core import errors

FILTERS = {
    'box': Image.Resampling.BOX,
    'area': Image.Resampling.BOX,  # the name OpenCV and TF give to the same
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}
CROPS = ('none', 'center', 'pad')
BACKGROUNDS = {
    'white': (255, 255, 255),
    'black': (0, 0, 0),
    'gray': (128, 128, 128),
}
EXTENSIONS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif',
              '.tiff', '.ppm', '.pgm')
MAX_PIXELS = 2**27  # 134 Mpx: 402 MB once decoded
MAX_BYTES = 2**28  # of one image file or zip member
_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA')


class CorruptImage(errors.UserError):
  """An image whose bytes cannot be decoded; `data.skip_corrupt` passes it."""


@dataclasses.dataclass(frozen=True)
class Geometry:
  """How every image of a data set becomes [resolution, resolution, channels].

  Attributes:
    resolution: in pixels; 0 keeps the size of the files.
    channels: 3, or 1 (ITU-R 601-2 luma).
    filter: a key of FILTERS.
    crop: 'none' wants images that are square already, 'center' cuts the
      central square, 'pad' adds a black frame (up to `resolution` for smaller
      images, which keeps the pixels of 28 px digits as they are; else up to a
      square).
    background: RGB behind transparent pixels.
    native_resize: images of several sizes, or not square, are cropped and
      resized while reading. Without, they are refused: which filter and crop
      made a data set is worth a decision.
  """

  resolution: int = 0
  channels: int = 3
  filter: str = 'box'
  crop: str = 'none'
  background: tuple[int, int, int] = (255, 255, 255)
  native_resize: bool = False

  def facts(self) -> dict[str, Any]:
    """Returns what goes into the identity ('area' and 'box' are one)."""
    result = {**dataclasses.asdict(self),
              'filter': FILTERS[self.filter].name.lower()}
    del result['native_resize']  # decides what is refused, not the pixels
    return result


def geometry(data_config) -> Geometry:
  """Reads and checks the image keys of a data config.

  Raises:
    UserError: a value outside what is offered.
  """
  resolution = data_config.get('resolution', 0) or 0
  channels = data_config.get('channels', 3)
  name = data_config.get('filter', 'box')
  crop = data_config.get('crop', 'none')
  if not 0 <= resolution <= 8192:
    raise errors.UserError(
        f'data.resolution is {resolution}; expected 0 (the size of the files) '
        'or a number of pixels up to 8192.')
  if channels not in (1, 3):
    raise errors.UserError(
        f'data.channels is {channels}; expected 3 (colour) or 1 (grey).')
  _one_of('data.filter', name, tuple(FILTERS))
  _one_of('data.crop', crop, CROPS)
  return Geometry(resolution, channels, name, crop,
                  background(data_config.get('background', 255)),
                  bool(data_config.get('native_resize', False)))


def background(value: int | str) -> tuple[int, int, int]:
  """Returns the RGB of a grey level, of 'white', 'black', or '#rrggbb'."""
  if value in BACKGROUNDS:
    return BACKGROUNDS[value]
  if isinstance(value, int) and 0 <= value <= 255:
    return (value, value, value)
  if not re.fullmatch('#[0-9a-fA-F]{6}', str(value)):
    raise errors.UserError(
        f'data.background is {value!r}; expected a grey level from 0 to 255, '
        f'{", ".join(BACKGROUNDS)}, or a colour such as #ff8000.')
  return tuple(bytes.fromhex(value[1:]))


def _one_of(key, value, choices):
  if value not in choices:
    raise errors.UserError(
        f'{key} is {value!r}; expected one of {", ".join(choices)}.')


# --- decoding ---------------------------------------------------------------


@contextlib.contextmanager
def open_checked(
    data: bytes | str | os.PathLike | BinaryIO, name: str
) -> Iterator[Image.Image]:
  """Opens an image by its header and refuses what we would misread.

  Args:
    data: the encoded bytes, the path of a file, or an open file.
    name: what errors call the image.

  Yields:
    The lazy Pillow image: `size` and `mode` are known, no pixel is decoded.

  Raises:
    CorruptImage: the header cannot be read.
    UserError: 16 bits per channel, CMYK and other colour spaces, an
      animation, more than MAX_PIXELS.
  """
  stream = io.BytesIO(data) if isinstance(data, bytes) else data
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      image = Image.open(stream)
  except FileNotFoundError:
    raise errors.UserError(f'{name} does not exist.') from None
  except Image.DecompressionBombError as error:
    raise errors.UserError(f'{name}: {error}') from None
  except (OSError, SyntaxError, ValueError, EOFError) as error:
    raise CorruptImage(
        f'{name} is not a readable image ({_reason(error)}). Replace or '
        'remove it, or set data.skip_corrupt=true to pass such files.'
        ) from None
  with image:
    _refuse_unsupported(image, name)
    yield image


def _reason(error: Exception) -> str:
  # Pillow's message repeats the address of the stream, which helps nobody.
  return re.sub(r'<_io[^>]*>', 'it', str(error)) or type(error).__name__


def _refuse_unsupported(image: Image.Image, name: str) -> None:
  width, height = image.size
  if width * height > MAX_PIXELS:
    raise errors.UserError(
        f'{name} claims {width}x{height} pixels, more than the {MAX_PIXELS} '
        'that are decoded; expected a photograph, not a decompression bomb. '
        'Shrink or remove it.')
  # A multi-picture JPEG (MPO) is a photo with a preview, not an animation.
  if getattr(image, 'is_animated', False) and image.format != 'MPO':
    raise errors.UserError(
        f'{name} is animated ({getattr(image, "n_frames", "several")} '
        'frames); expected a single picture. Save the frame you want as PNG, '
        'or remove the file.')
  if image.mode.startswith(('I', 'F')) or _deep(image):
    raise errors.UserError(
        f'{name} has 16 or more bits per channel (mode {image.mode}); '
        'expected 8. Convert it to 8 bits first: which range maps to '
        '0..255 is your decision.')
  if image.mode not in _MODES:
    raise errors.UserError(
        f'{name} is in the colour space {image.mode}; expected RGB, grey, or '
        'a palette, with or without alpha. Convert it to sRGB with its '
        'colour profile first.')


def _deep(image: Image.Image) -> bool:
  """Whether Pillow would drop bits (16-bit RGB files open as 'RGB')."""
  return any('16' in str(tile[3]) for tile in image.tile)


def decode(data: bytes | str | os.PathLike, name: str) -> Image.Image:
  """Decodes a whole image, turned upright if its EXIF says so.

  Args:
    data: the encoded bytes, or the path of a file.
    name: what errors call the image.

  Returns:
    A loaded Pillow image in one of the modes L, LA, RGB, RGBA.

  Raises:
    CorruptImage: truncated or damaged data.
    UserError: as `open_checked`.
  """
  with open_checked(data, name) as image:
    try:
      if 'transparency' in image.info or image.mode == 'PA':
        image = image.convert('RGBA')
      elif image.mode == 'P':
        image = image.convert('RGB')
      elif image.mode == '1':
        image = image.convert('L')
      else:
        image.load()
      if 'exif' in image.info:
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
      raise CorruptImage(
          f'{name} is damaged or cut off ({_reason(error)}). Replace or '
          'remove it, or set data.skip_corrupt=true to pass such files.'
          ) from None
  return image


def check_header(stream: BinaryIO, name: str) -> tuple[int, int]:
  """Checks an image without decoding it, and returns (width, height).

  A file that lacks its end marker is decoded after all: so a truncated JPEG or
  PNG is found here, at the price of reading the header and the last bytes.

  Args:
    stream: an open, seekable file.
    name: what errors call the image.

  Raises:
    CorruptImage, UserError: as `decode`.
  """
  with open_checked(stream, name) as image:
    size = oriented_size(image)
    marker = _END_MARKERS.get(image.format)
  if marker:
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - 64))
    if marker not in stream.read():
      stream.seek(0)
      decode(stream.read(), name)
  return size


_END_MARKERS = {'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'PNG': b'IEND'}


def oriented_size(image: Image.Image) -> tuple[int, int]:
  """Returns (width, height) of a lazy image after its EXIF rotation."""
  turned = (image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            if 'exif' in image.info else False)
  return image.size[::-1] if turned else image.size


# --- geometry ---------------------------------------------------------------


def apply(image: Image.Image, how: Geometry, name: str) -> np.ndarray:
  """Composites, crops, resizes and converts, in this order.

  Args:
    image: a Pillow image of mode L, LA, RGB or RGBA.
    how: the geometry.
    name: what errors call the image.

  Returns:
    uint8 [R, R, C], with R the file's size if `how.resolution` is 0.

  Raises:
    UserError: not square, and no crop was asked for.
  """
  if image.mode in ('LA', 'RGBA'):
    image = composite(image, how.background)
  image = squared(image, how, name)
  if how.resolution and image.size != (how.resolution, how.resolution):
    image = image.resize((how.resolution, how.resolution),
                         FILTERS[how.filter])
  mode = 'L' if how.channels == 1 else 'RGB'
  if image.mode != mode:
    image = image.convert(mode)
  pixels = np.asarray(image)
  return pixels[:, :, None] if how.channels == 1 else pixels


def composite(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
  """Returns the RGB image of `image` (with alpha) laid over `colour`."""
  image = image.convert('RGBA')
  canvas = Image.new('RGBA', image.size, (*colour, 255))
  return Image.alpha_composite(canvas, image).convert('RGB')


def squared(image: Image.Image, how: Geometry, name: str) -> Image.Image:
  """Returns `image` made square as `how.crop` says."""
  width, height = image.size
  if how.crop == 'pad':
    side = max(width, height, how.resolution)
    if (width, height) == (side, side):
      return image
    # Pillow fills with black what lies outside.
    left, top = -((side - width) // 2), -((side - height) // 2)
    return image.crop((left, top, left + side, top + side))
  if width == height:
    return image
  if how.crop == 'center':
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))
  raise errors.UserError(
      f'{name} is {width}x{height}; expected a square image. Set '
      'data.crop=center (or pad).')


def array_to_image(pixels: np.ndarray) -> Image.Image:
  """Returns the Pillow image of uint8 [H, W], [H, W, 1] or [H, W, 3]."""
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1
                         and pixels.ndim == 3 else pixels)
