"""Reads protocol buffers, field by field, as files of TensorFlow hold them."""

from collections.abc import Iterator

Buffer = bytes | memoryview


def fields(data: Buffer) -> Iterator[tuple[int, int | Buffer]]:
  """Yields (field number, value) of one message.

  Raises:
    IndexError, ValueError: no message.
  """
  position = 0
  while position < len(data):
    tag, position = varint(data, position)
    number, kind = tag >> 3, tag & 7
    if kind == 0:
      value, position = varint(data, position)
      yield number, value
      continue
    if kind == 2:
      size, position = varint(data, position)
    elif kind in (1, 5):
      size = 8 if kind == 1 else 4
    else:
      raise ValueError(f'wire type {kind}')
    if number == 0 or position + size > len(data):
      raise ValueError(f'field {number} of {size} bytes leaves its message')
    yield number, data[position:position + size]
    position += size


def varint(data: Buffer, position: int) -> tuple[int, int]:
  """Returns (number, position behind it)."""
  value = 0
  for i in range(10):
    byte = data[position + i]
    value |= (byte & 0x7F) << (7 * i)
    if byte < 0x80:
      return value, position + i + 1
  raise ValueError('a number of more than 10 bytes')
