"""What a folder and a zip of images share: checks, labels, reading.

Opening reads the headers of all files (some 10,000 a second) and decodes only
those that lack their end marker. Everything else that can be wrong inside a
file is found when it is read, or by `python -m gans_jax.prepare`, which
decodes all of them.
"""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import logging
from typing import BinaryIO
from typing import Protocol

import numpy as np

from gans_jax.core import errors
from gans_jax.data import spec as spec_lib
from gans_jax.data import transforms

DATASET_JSON = 'dataset.json'
_MAX_CLASSES = 2**20
_MANY = 20_000


class Reader(Protocol):
  """Access to files by name; picklable, for worker processes."""

  def open(self, name: str) -> BinaryIO:
    """Opens a file for reading; seekable."""

  def describe(self, name: str) -> str:
    """Returns what errors call the file."""


class Source:
  """Images of a folder or zip as examples: `image`, and perhaps `label`."""

  def __init__(self, reader: Reader, names: Sequence[str],
               labels: np.ndarray | None, geometry: transforms.Geometry,
               spec: spec_lib.DataSpec):
    self._reader = reader
    self._names = list(names)
    self._labels = labels
    self._geometry = geometry
    self.spec = spec

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    name = self._names[index]
    title = self._reader.describe(name)
    with self._reader.open(name) as stream:
      data = stream.read()
    pixels = transforms.apply(
        transforms.decode(data, title), self._geometry, title)
    example = {'image': pixels}
    if self._labels is not None:
      example['label'] = self._labels[index]
    return example

  def __repr__(self) -> str:
    return f'image_files.Source({self.spec.identity})'


def create(
    reader: Reader,
    root: str,
    files: Mapping[str, int],
    labels: Mapping[str, int] | None,
    class_names: tuple[str, ...],
    data_config,
) -> Source:
  """Checks a set of image files and returns its source.

  Args:
    reader: opens files by name.
    root: what errors call the whole.
    files: name -> length in bytes.
    labels: name -> class, or None where the set has no labels.
    class_names: a name per class, or empty.
    data_config: the data section of a config.

  Raises:
    UserError: no images, no labels where labels are asked for, images of
      several sizes without a crop, and all that `transforms` refuses.
  """
  kind = data_config.get('labels', 'none')
  if kind == 'auto':
    kind = 'none' if labels is None else 'class'
  if kind not in ('none', 'class'):
    raise errors.UserError(
        f'data.labels is {kind!r}; {root} offers none and class.')
  names = sorted(files)
  if not names:
    raise errors.UserError(
        f'{root} holds no images; expected files ending in '
        f'{", ".join(transforms.EXTENSIONS)}, in it or in one folder per '
        'class.')
  array, count = None, 0
  if kind == 'class':
    array, count = _label_array(root, names, labels, class_names)
  sizes = _scan(reader, names, data_config.get('skip_corrupt', False))
  geometry = _resolve(root, sizes, transforms.geometry(data_config))
  spec = spec_lib.image_spec(
      resolution=geometry.resolution, size=geometry.size(),
      channels=geometry.channels,
      num_examples=len(names), num_classes=count,
      class_names=class_names if count else (),
      facts={'files': [(name, files[name]) for name in names],
             'labels': None if array is None else array.tolist(),
             **geometry.facts()})
  return Source(reader, names, array, geometry, spec)


def _label_array(root, names, labels, class_names):
  if labels is None:
    raise errors.UserError(
        f'data.labels is class, but {root} has no labels; expected one '
        f'folder per class, or a {DATASET_JSON} with '
        '{"labels": [["path.png", 3], ...]}. Add them, or set '
        'data.labels=none.')
  absent = [name for name in names if name not in labels]
  if absent:
    raise errors.UserError(
        f'data.labels is class, but {len(absent)} of the {len(names)} images '
        f'of {root} have no label in {DATASET_JSON}, such as {absent[0]}. Add '
        'them to it, or remove the files.')
  array = np.array([labels[name] for name in names], np.int32)
  return array, max(int(array.max()) + 1, len(class_names))


def _scan(reader, names, skip_corrupt) -> dict[str, tuple[int, int]]:
  if len(names) > _MANY:
    logging.info('checking the headers of %d images', len(names))
  sizes = {}
  first = None
  for name in names:
    try:
      with reader.open(name) as stream:
        sizes[name] = transforms.check_header(stream, reader.describe(name))
    except transforms.CorruptImage as error:
      if not skip_corrupt:
        raise
      first = first or error
  if not sizes:
    raise errors.UserError(
        f'None of the {len(names)} images can be read; the first error is: '
        f'{first}')
  if len(sizes) < len(names):
    logging.warning('%d of %d images cannot be read and are skipped; the '
                    'first: %s', len(names) - len(sizes), len(names), first)
  return sizes


def _resolve(root, sizes, how: transforms.Geometry) -> transforms.Geometry:
  """Settles the resolution; refuses what would need a decision."""
  groups = collections.defaultdict(list)
  for name, size in sizes.items():
    groups[size].append(name)
  ranked = sorted(groups, key=lambda size: (-len(groups[size]), size))
  advice = (
      'Make a data set of one size with `python -m gans_jax.prepare '
      f'--source={root} --out=DIR --resolution=R --crop=center`, or set '
      'data.native_resize=true, data.crop=center and data.resolution to crop '
      'and resize while training.')
  free = how.native_resize and how.crop != 'none'
  common = '{}x{}'.format(*ranked[0])
  if len(ranked) > 1 and not (free and how.resolution):
    odd = [f'{name} ({size[0]}x{size[1]})'
           for size in ranked[1:] for name in groups[size]]
    listed = ', '.join(odd[:3]) + (', ...' if len(odd) > 3 else '')
    raise errors.UserError(
        f'{root} mixes images of {len(ranked)} sizes: '
        f'{len(groups[ranked[0]])} are {common}, but {len(odd)} '
        f'{"is" if len(odd) == 1 else "are"} not: {listed}. Expected one '
        f'size. {advice}')
  width, height = ranked[0]
  if not how.fits(width, height) and not free:
    expected = ('squares' if how.aspect == (1, 1) else
                f'width to height as {how.shape()}')
    raise errors.UserError(
        f'The images of {root} are {common}; expected {expected}. {advice}')
  if not how.resolution:
    how = dataclasses.replace(
        how, resolution=max(how.frame(width, height)))
  wide, high = how.size()
  small = sum(len(names) for size, names in groups.items()
              if size[0] < wide or size[1] < high)
  if small and how.crop != 'pad':
    logging.warning('%d images of %s are smaller than %d px and are enlarged',
                    small, root, how.resolution)
  return how


# --- dataset.json -----------------------------------------------------------


def max_json(files: Mapping[str, int]) -> int:
  """Returns how many bytes of dataset.json are read.

  It names files that are there, and classes; in memory it is ten times as
  large and more.
  """
  return 2**24 + 8 * sum(len(name) + 32 for name in files)


def read_dataset_json(
    text: bytes, title: str, files: Mapping[str, int]
) -> tuple[dict[str, int] | None, tuple[str, ...]]:
  """Reads the labels of StyleGAN2-ADA's layout.

  Args:
    text: of dataset.json: {"labels": [["00000/img00000000.png", 6], ...]} or
      {"labels": null}; we also read and write "class_names".
    title: what errors call it.
    files: the images that there are.

  Returns:
    (name -> class, or None), class names.

  Raises:
    UserError: not JSON, another layout, an absent file, a label that is not
      a class number.
  """
  try:
    content = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise errors.UserError(
        f'{title} is not JSON ({error}); expected '
        '{"labels": [["path.png", 3], ...]}.') from None
  if not isinstance(content, dict) or 'labels' not in content:
    raise errors.UserError(
        f'{title} has no key "labels"; expected '
        '{"labels": [["path.png", 3], ...]} or {"labels": null}.')
  pairs = content['labels']
  if pairs is None:
    return None, ()
  if not isinstance(pairs, list):
    raise errors.UserError(
        f'"labels" of {title} is {type(pairs).__name__}; expected a list of '
        '["path.png", 3].')
  labels = {}
  for number, pair in enumerate(pairs):
    if not (isinstance(pair, list) and len(pair) == 2
            and isinstance(pair[0], str)):
      raise errors.UserError(
          f'Entry {number} of "labels" in {title} is {pair!r:.80}; expected '
          '["path.png", 3].')
    if not (isinstance(pair[1], int) and not isinstance(pair[1], bool)
            and 0 <= pair[1] < _MAX_CLASSES):
      raise errors.UserError(
          f'The label of {pair[0]} in {title} is {pair[1]!r:.80}; expected a '
          'class number, 0 or more.')
    labels[pair[0]] = pair[1]
  absent = [name for name in labels if name not in files]
  if absent:
    listed = ', '.join(absent[:3]) + (', ...' if len(absent) > 3 else '')
    raise errors.UserError(
        f'{title} names {len(absent)} files that are not there: {listed}. '
        'Restore them, or remove their entries.')
  if not labels:
    return None, ()
  class_names = content.get('class_names') or ()
  if not (isinstance(class_names, (list, tuple))
          and all(isinstance(name, str) for name in class_names)
          and (not class_names
               or max(labels.values()) < len(class_names) <= _MAX_CLASSES)):
    raise errors.UserError(
        f'"class_names" of {title} must be a list of at least '
        f'{max(labels.values()) + 1} strings.')
  return labels, tuple(class_names)
