"""`idx:PATH`: the IDX files of MNIST, Fashion-MNIST, KMNIST and EMNIST.

PATH is the folder of the four files, gzipped or not
(train-images-idx3-ubyte.gz and so on), or, where a folder holds several sets
as EMNIST does, that folder and the start of the names:
`idx:emnist/emnist-letters`. EMNIST's images are stored transposed, and are
turned upright here; the letters' labels 1..26 become 0..25.
"""

import gzip
import hashlib
import os
import re
import zlib

import numpy as np

from gans_jax.core import errors
from gans_jax.data import arrays

_MAX_UNPACKED = 2**30  # EMNIST's largest has 547 million bytes
_TYPES = {8: np.uint8}
SPLITS = {'train': 'train', 'test': '(?:t10k|test)'}


def create_source(data_config, split: str) -> arrays.Source:
  """Opens `idx:PATH`; see the module.

  Raises:
    UserError: files absent, damaged, or not of each other's length.
  """
  path = os.path.expanduser(data_config.get('source').partition(':')[2])
  kind = data_config.get('labels', 'none')
  if kind not in ('none', 'class', 'auto'):
    raise errors.UserError(
        f'data.labels is {kind!r}; IDX files have none and class.')
  images, labels = load(path, split)
  digest = hashlib.sha256(images.tobytes()).hexdigest()
  classes = tuple(str(i) for i in range(int(labels.max()) + 1))
  return arrays.create(
      images[..., None], None if kind == 'none' else labels, classes,
      {'idx': digest, 'labels': kind != 'none'}, data_config)


def load(path: str, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads one split.

  Args:
    path: folder, or folder and start of the file names.
    split: 'train' or 'test'.

  Returns:
    uint8 images [N, H, W], upright, and int32 labels [N] counted from 0.
  """
  image_file, label_file = find(path, split)
  images, labels = read(image_file), read(label_file)
  if images.ndim != 3 or labels.ndim != 1:
    raise errors.UserError(
        f'{image_file} has {images.ndim} dimensions and {label_file} '
        f'{labels.ndim}; expected 3 (images) and 1 (labels).')
  if len(images) != len(labels) or not len(images):
    raise errors.UserError(
        f'{image_file} holds {len(images)} images and {label_file} '
        f'{len(labels)} labels; expected as many, and at least one. The '
        'files do not belong together.')
  labels = labels.astype(np.int32)
  if os.path.basename(image_file).startswith('emnist'):
    images = np.ascontiguousarray(images.swapaxes(1, 2))
    if '-letters-' in image_file:
      labels = labels - 1
  return images, labels


def is_idx_folder(path: str) -> bool:
  """Whether a folder holds IDX images."""
  return os.path.isdir(path) and any(
      re.search(r'images[-.]idx3-ubyte(\.gz)?$', name)
      for name in os.listdir(path))


def find(path: str, split: str) -> tuple[str, str]:
  """Returns the paths of a split's images and labels.

  Raises:
    UserError: no such split, folder or files, or several candidates.
  """
  if split not in SPLITS:
    raise errors.UserError(
        f'data.split is {split!r}; IDX sets have train and test.')
  folder, prefix = (path, '') if os.path.isdir(path) else os.path.split(path)
  if not os.path.isdir(folder or '.'):
    raise errors.UserError(f'The folder {folder} does not exist.')
  names = sorted(os.listdir(folder or '.'))
  found = []
  for what, rank in (('images', 3), ('labels', 1)):
    pattern = re.compile(
        rf'{re.escape(prefix)}(?:.*-)?{SPLITS[split]}-{what}'
        rf'[-.]idx{rank}-ubyte(\.gz)?')
    matching = [name for name in names if pattern.fullmatch(name)]
    # Prefer the unpacked file where both lie side by side.
    matching = [name for name in matching if name.removesuffix('.gz') == name
                or name.removesuffix('.gz') not in matching]
    if len(matching) != 1:
      start = 'train' if split == 'train' else 't10k'
      told = (f'several: {", ".join(matching)}; append the start of the name '
              'that you mean to the path' if matching else
              f'none; expected {start}-{what}-idx{rank}-ubyte, or the same '
              'with .gz')
      raise errors.UserError(
          f'Looking for the {split} {what} of idx:{path}, found {told}.')
    found.append(os.path.join(folder, matching[0]))
  return found[0], found[1]


def read(path: str) -> np.ndarray:
  """Reads one IDX file of unsigned bytes, gzipped or not.

  Args:
    path: of the file.

  Returns:
    uint8, of the shape that the header gives.

  Raises:
    UserError: not IDX, another type than unsigned bytes, or cut off.
  """
  try:
    with open(path, 'rb') as stream:
      packed = stream.read(2) == b'\x1f\x8b'
    with (gzip.open if packed else open)(path, 'rb') as stream:
      data = stream.read(_MAX_UNPACKED + 1 if packed else -1)
  except (OSError, EOFError, zlib.error) as error:
    raise errors.UserError(
        f'{path} cannot be read ({error}); it may be cut off. Copy or '
        'download it again.') from None
  if packed and len(data) > _MAX_UNPACKED:
    raise errors.UserError(
        f'{path} unpacks to more than {_MAX_UNPACKED} bytes, which may be a '
        'decompression bomb. If you know the file, gunzip it first.')
  if len(data) < 4 or data[:2] != b'\0\0' or data[2] not in _TYPES:
    raise errors.UserError(
        f'{path} starts with {data[:4].hex() or "nothing"}; expected the IDX '
        'header 000008nn of unsigned bytes. It is not one of the files of '
        'MNIST.')
  rank = data[3]
  shape = tuple(np.frombuffer(data, '>u4', rank, 4).astype(int).tolist()
                ) if len(data) >= 4 + 4 * rank else (-1,)
  size = len(data) - 4 - 4 * rank
  expected = int(np.prod(shape, dtype=object)) if rank else 1
  if size != expected:
    raise errors.UserError(
        f'{path} holds {size} bytes after its header, which promises '
        f'{"x".join(map(str, shape))} = {expected}. It is cut off or damaged; '
        'copy or download it again.')
  return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
