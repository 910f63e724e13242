"""Writes data sets of the MNIST family as their authors published them."""

import gzip
import struct

import numpy as np
import pictures


def encode(array: np.ndarray) -> bytes:
  """Returns the IDX file of unsigned bytes."""
  return (struct.pack('>BBBB', 0, 0, 8, array.ndim)
          + struct.pack(f'>{array.ndim}I', *array.shape) + array.tobytes())


def write_set(folder, counts=(7, 4), prefix='', suffix='.gz', first=0):
  """Writes four files; returns {split: (images, labels)}."""
  result = {}
  for split, name, count in zip(('train', 'test'), ('train', 't10k'), counts,
                                strict=True):
    images = pictures.pixels(count, (28, 28 * count), 1).reshape(-1, 28, 28)
    labels = (np.arange(count) % 3 + first).astype(np.uint8)
    for what, array in (('images-idx3', images), ('labels-idx1', labels)):
      data = encode(array)
      pictures.write(folder, f'{prefix}{name}-{what}-ubyte{suffix}',
                     gzip.compress(data) if suffix == '.gz' else data)
    result[split] = images, labels
  return result
