"""Zip archives that came from strangers, NumPy's .npz among them.

A zip says how long its members are once they are unpacked, and is not to be
believed: a few bytes may unpack to gigabytes, or lie there under a thousand
names. Nothing here reads or reserves more than was promised and is within
bounds, and whatever is wrong with an archive is a ValueError.
"""

import io
import math
import os
from typing import BinaryIO
import zipfile

import numpy as np

# Bytes of all members of an archive that are not stored as they are.
MAX_UNPACKED = 2**30
_CHUNK = 2**20


def problem(info: zipfile.ZipInfo, limit: int) -> str:
  """Returns why a member must not be read, or ''.

  Args:
    info: of the member.
    limit: of its bytes.
  """
  if info.flag_bits & 1:
    return 'is encrypted; expected a zip without password'
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    # Python unpacks bzip2 and LZMA whole, however much it becomes.
    return (f'is compressed by method {info.compress_type}; expected stored '
            'or deflated members')
  if info.file_size > limit:
    return (f'expands from {info.compress_size} to {info.file_size} bytes, '
            f'more than the {limit} that are read; expected no decompression '
            'bomb')
  return ''


def read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
  """Returns a member that `problem` has nothing against.

  Raises:
    ValueError: damaged, or shorter than promised.
  """
  data, at = bytearray(info.file_size), 0
  try:
    # By pieces, because read() without a number unpacks all there is.
    with archive.open(info) as stream, memoryview(data) as view:
      while at < len(data):
        count = stream.readinto(view[at:at + _CHUNK])
        if not count:
          raise ValueError(f'ends after {at} of {len(data)} bytes')
        at += count
      stream.read(1)  # Empty ones have a checksum too.
  except Exception as e:  # Damaged archives raise nearly every type there is.
    raise ValueError(f'{info.filename} {_reason(e)}') from e
  return data


def open_whole(file: str | os.PathLike | BinaryIO) -> zipfile.ZipFile:
  """Opens an archive of which any member may be read, and many are.

  Raises:
    OSError: it cannot be read at all.
    ValueError: no zip, or one that is more than its file holds.
  """
  try:
    archive = zipfile.ZipFile(file)
  except OSError:
    raise
  except Exception as e:
    raise ValueError(_reason(e)) from e
  stored = unpacked = 0
  for info in archive.infolist():
    found = problem(info, MAX_UNPACKED)
    if found:
      archive.close()
      raise ValueError(f'{info.filename} {found}')
    if info.compress_type == zipfile.ZIP_STORED:
      stored += info.file_size
    else:
      unpacked += info.file_size
  length = archive.fp.seek(0, os.SEEK_END)
  if stored > length or unpacked > MAX_UNPACKED:
    archive.close()
    raise ValueError(
        f'its members are {stored} bytes as stored and {unpacked} unpacked, '
        f'in a file of {length} (at most {MAX_UNPACKED} are unpacked)')
  return archive


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns the arrays of an .npz file: numbers and strings, never objects.

  Raises:
    OSError: it cannot be read at all.
    ValueError: no .npz, damaged, or with arrays of other kinds.
  """
  with open_whole(path) as archive:
    return {info.filename.removesuffix('.npy'): parse_npy(
                read(archive, info), info.filename)
            for info in archive.infolist() if info.filename.endswith('.npy')}


def parse_npy(data: bytearray, name: str) -> np.ndarray:
  """Returns the array of an .npy file; it shares the memory of `data`.

  Raises:
    ValueError: no .npy, or its header does not fit the rest.
  """
  stream = io.BytesIO(data)
  try:
    version = np.lib.format.read_magic(stream)
    shape, fortran, dtype = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0}[version](stream)
    size = math.prod(shape) * dtype.itemsize
    start = stream.tell()
    if dtype.kind not in 'biufcSU' or min(shape, default=0) < 0 or (
        size != len(data) - start):
      raise ValueError(f'{dtype}{list(shape)} in {len(data) - start} bytes')
    return np.frombuffer(
        data, dtype, math.prod(shape), start).reshape(
            shape, order='F' if fortran else 'C')
  except Exception as e:  # Of the header, which is an expression of Python.
    raise ValueError(f'{name} is no array of numbers: {_reason(e)}') from e


def _reason(error: Exception) -> str:
  return f'{str(error) or type(error).__name__:.200}'
