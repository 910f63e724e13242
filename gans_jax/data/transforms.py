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
import math
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
# What is opened at all. Of the other formats that Pillow knows, EPS starts
# another program (Ghostscript) on the file, whatever the file is called.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'DIB', 'GIF', 'TIFF', 'PPM')
MAX_PIXELS = 2**27  # 134 Mpx: 402 MB once decoded
MAX_BYTES = 2**28  # of one image file or zip member
_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA')


class CorruptImage(errors.UserError):
  """An image whose bytes cannot be decoded; `data.skip_corrupt` passes it."""


@dataclasses.dataclass(frozen=True)
class Geometry:
  """How every image of a data set becomes [height, width, channels].

  Attributes:
    resolution: the longer side in pixels; 0 keeps the size of the files.
    channels: 3, or 1 (ITU-R 601-2 luma).
    filter: a key of FILTERS.
    crop: 'none' wants images of the aspect already, 'center' cuts the largest
      central part of it, 'pad' adds a black frame (up to `resolution` for
      smaller images, which keeps the pixels of 28 px digits as they are; else
      up to the aspect).
    background: RGB behind transparent pixels.
    native_resize: images of several sizes, or of another aspect, are cropped
      and resized while reading. Without, they are refused: which filter and
      crop made a data set is worth a decision.
    aspect: width and height of the result, in lowest terms.
  """

  resolution: int = 0
  channels: int = 3
  filter: str = 'box'
  crop: str = 'none'
  background: tuple[int, int, int] = (255, 255, 255)
  native_resize: bool = False
  aspect: tuple[int, int] = (1, 1)

  def size(self) -> tuple[int, int]:
    """Returns (width, height) of the result; of a known resolution."""
    unit = self.resolution // max(self.aspect)
    return unit * self.aspect[0], unit * self.aspect[1]

  def frame(self, width: int, height: int) -> tuple[int, int]:
    """Returns (width, height) of the aspect, of what `crop` makes of a size."""
    w, h = self.aspect
    if self.crop == 'pad':
      unit = max(-(-width // w), -(-height // h),
                 self.resolution // max(w, h))
    else:
      unit = min(width // w, height // h)
    return unit * w, unit * h

  def fits(self, width: int, height: int) -> bool:
    """Whether a size has the aspect."""
    return width * self.aspect[1] == height * self.aspect[0]

  def shape(self) -> str:
    """What errors call the aspect."""
    return 'square' if self.aspect == (1, 1) else '{}:{}'.format(*self.aspect)

  def facts(self) -> dict[str, Any]:
    """Returns what goes into the identity ('area' and 'box' are one)."""
    result = {**dataclasses.asdict(self),
              'filter': FILTERS[self.filter].name.lower()}
    del result['native_resize']  # decides what is refused, not the pixels
    if self.aspect == (1, 1):
      del result['aspect']  # squares have been so named since before it
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
  shape = aspect(data_config.get('aspect', ''))
  if resolution % max(shape):
    raise errors.UserError(
        f'data.resolution is {resolution}, the longer side, which does not '
        f'divide by {max(shape)} of data.aspect={shape[0]}:{shape[1]}.')
  return Geometry(resolution, channels, name, crop,
                  background(data_config.get('background', 255)),
                  bool(data_config.get('native_resize', False)), shape)


def aspect(value: str) -> tuple[int, int]:
  """Returns (width, height) in lowest terms of 'W:H'; '' is square."""
  match = re.fullmatch(r'([1-9]\d{0,3}):([1-9]\d{0,3})', str(value) or '1:1')
  if not match:
    raise errors.UserError(
        f'data.aspect is {value!r}; expected width:height, such as 2:1, or '
        "'' for squares.")
  width, height = int(match[1]), int(match[2])
  common = math.gcd(width, height)
  return width // common, height // common


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
      image = Image.open(stream, formats=FORMATS)
  except FileNotFoundError:
    raise errors.UserError(f'{name} does not exist.') from None
  except Image.DecompressionBombError as error:
    raise errors.UserError(f'{name}: {error}') from None
  except errors.UserError:
    raise  # Of a stream that tells of itself, such as a member of a zip.
  except Exception as error:  # Damaged images raise nearly every type.
    raise _unreadable(name, error) from None
  with image:
    try:
      _refuse_unsupported(image, name)
    except errors.UserError:
      raise
    except Exception as error:
      raise _unreadable(name, error) from None
    yield image


def _unreadable(name: str, error: Exception) -> CorruptImage:
  return CorruptImage(
      f'{name} is not a readable image ({_reason(error)}). Replace or remove '
      'it, or set data.skip_corrupt=true to pass such files.')


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
        f'{name} is animated; expected a single picture. Save the frame you '
        'want as PNG, or remove the file.')
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
    except Exception as error:  # Damaged images raise nearly every type.
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
    try:
      size = oriented_size(image)
    except Exception as error:  # What EXIF says is anybody's.
      raise _unreadable(name, error) from None
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
    uint8 [H, W, C], of the file's size if `how.resolution` is 0.

  Raises:
    UserError: of another aspect, and no crop was asked for.
  """
  if image.mode in ('LA', 'RGBA'):
    image = composite(image, how.background)
  image = framed(image, how, name)
  if how.resolution and image.size != how.size():
    image = image.resize(how.size(), FILTERS[how.filter])
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


def framed(image: Image.Image, how: Geometry, name: str) -> Image.Image:
  """Returns `image` in the aspect, made so as `how.crop` says."""
  width, height = image.size
  if how.crop == 'none' and not how.fits(width, height):
    raise errors.UserError(
        f'{name} is {width}x{height}; expected a {how.shape()} image. Set '
        'data.crop=center (or pad).')
  if how.crop == 'none':
    return image
  wide, high = how.frame(width, height)
  if (width, height) == (wide, high):
    return image
  # Pillow fills with black what lies outside.
  left, top = (_middle(*pair) for pair in ((width, wide), (height, high)))
  return image.crop((left, top, left + wide, top + high))


def _middle(size: int, frame: int) -> int:
  """Where a centred frame begins; negative where it is the larger."""
  return (size - frame) // 2 if size >= frame else -((frame - size) // 2)


def array_to_image(pixels: np.ndarray) -> Image.Image:
  """Returns the Pillow image of uint8 [H, W], [H, W, 1] or [H, W, 3]."""
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1
                         and pixels.ndim == 3 else pixels)
