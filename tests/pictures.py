"""Small image files, good and bad, for the tests of data."""

import io
import os

import numpy as np
from PIL import Image


def pixels(seed: int, size=(8, 8), channels: int = 3) -> np.ndarray:
  """Returns smooth-ish uint8 [H, W, C] that survives no accident."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (size[1], size[0], channels), np.uint8)


def png(array: np.ndarray) -> bytes:
  return encode(Image.fromarray(array.squeeze()), 'png')


def encode(image: Image.Image, form: str, **options) -> bytes:
  stream = io.BytesIO()
  image.save(stream, form, **options)
  return stream.getvalue()


def jpeg(seed: int, size=(64, 64)) -> bytes:
  return encode(Image.fromarray(pixels(seed, size)), 'jpeg', quality=95)


def write(folder, name: str, data: bytes) -> str:
  path = os.path.join(folder, name)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, 'wb') as stream:
    stream.write(data)
  return path


def deep_rgb_png() -> bytes:
  """Returns a 2x2 PNG with 16 bits in each of three channels."""
  import struct
  import zlib

  def chunk(kind, body):
    return (struct.pack('>I', len(body)) + kind + body
            + struct.pack('>I', zlib.crc32(kind + body)))

  rows = b''.join(b'\0' + bytes(range(12)) for _ in range(2))
  return (b'\x89PNG\r\n\x1a\n'
          + chunk(b'IHDR', struct.pack('>IIBBBBB', 2, 2, 16, 2, 0, 0, 0))
          + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


def frames(count: int = 2) -> list[Image.Image]:
  return [Image.fromarray(pixels(seed)) for seed in range(count)]


def bad_files() -> dict[str, tuple[bytes, str]]:
  """Returns file name -> (content, words that the refusal must hold)."""
  deep = Image.fromarray(
      np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
  photo = Image.fromarray(pixels(0))
  first, second = frames()
  return {
      'deep.png': (encode(deep, 'png'), '16'),
      'deep_rgb.png': (deep_rgb_png(), '16'),
      'float.tif': (encode(Image.fromarray(np.zeros((8, 8), np.float32)),
                           'tiff'), '16 or more'),
      'cmyk.jpg': (encode(photo.convert('CMYK'), 'jpeg'), 'CMYK'),
      'lab.tif': (encode(photo.convert('LAB'), 'tiff'), 'LAB'),
      'moving.gif': (encode(first.convert('P'), 'gif', save_all=True,
                            append_images=[second.convert('P')]),
                     'animated'),
      'moving.png': (encode(first, 'png', save_all=True,
                            append_images=[second]), 'animated'),
      'moving.webp': (encode(first, 'webp', save_all=True, lossless=True,
                             append_images=[second]), 'animated'),
  }


def corrupt_files() -> dict[str, bytes]:
  """Returns files that hold an image no longer."""
  whole = jpeg(0)
  return {
      'cut.jpg': whole[:len(whole) // 2],
      'cut.png': png(pixels(0, (64, 64)))[:5000],
      'text.png': b'this is not an image',
      'empty.png': b'',
  }
