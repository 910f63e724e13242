"""`tfds:NAME[/CONFIG][:VERSION]`: TensorFlow Datasets without TensorFlow.

Reads what TFDS has prepared as ArrayRecord below `data.data_dir` (by default
TFDS_DATA_DIR or ~/tensorflow_datasets). The data sets of `builders` are
prepared by `python -m gans_jax.prepare --source=tfds:NAME
--data.manual_dir=FOLDER_OF_THE_ORIGINAL_FILES`; the others by TFDS itself.
`data.split` may be a TFDS expression, such as train[:90%].
"""

import dataclasses
import os

import numpy as np

from gans_jax.core import errors
from gans_jax.data import builders
from gans_jax.data import spec as spec_lib
from gans_jax.data import transforms


class Source:
  """Examples of a TFDS split: `image`, and perhaps `label`."""

  in_memory = False

  def __init__(self, records, image_key: str, label_key: str | None,
               transposed: bool, how: transforms.Geometry, name: str,
               spec: spec_lib.DataSpec):
    self._records = records
    self._image_key = image_key
    self._label_key = label_key
    self._transposed = transposed
    self._how = how
    self._name = name
    self.spec = spec

  def __len__(self) -> int:
    return self.spec.num_examples

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return self._example(self._records[int(index)], index)

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of several examples, stacked; one read for all."""
    records = self._records.__getitems__([int(i) for i in indices])
    examples = [self._example(record, index) for record, index in
                zip(records, indices, strict=True)]
    return {key: np.stack([example[key] for example in examples])
            for key in self.spec.keys}

  def _example(self, record, index):
    title = f'Example {index} of {self._name}'
    image = transforms.decode(record[self._image_key], title)
    if self._transposed:
      image = image.transpose(transforms.Image.Transpose.TRANSPOSE)
    example = {'image': transforms.apply(image, self._how, title)}
    if self._label_key:
      example['label'] = np.int32(record[self._label_key])
    return example

  def __repr__(self) -> str:
    return f'tfds_source.Source({self.spec.identity})'


def data_dir(data_config) -> str:
  """Returns the folder of TFDS data sets."""
  return os.path.expanduser(
      data_config.get('data_dir', '') or os.environ.get('TFDS_DATA_DIR', '')
      or '~/tensorflow_datasets')


def create_source(data_config, split: str) -> Source:
  """Opens `tfds:NAME`; see the module.

  Raises:
    UserError: not prepared, prepared in another format, no such split or
      label, sizes that need a crop.
  """
  name = data_config.get('source').partition(':')[2]
  folder = find(name, data_dir(data_config))
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # TFDS raises many kinds
    raise errors.UserError(
        f'TFDS cannot read {folder} ({error}). Prepare {name} again.'
        ) from None
  info = builder.info
  base = split.partition('[')[0]
  if base not in info.splits and '+' not in base:
    raise errors.UserError(
        f'data.split is {split!r}; {name} has {", ".join(info.splits)}.')
  if info.file_format.value != 'array_record':
    raise errors.UserError(
        f'{folder} is in the format {info.file_format.value}, which only '
        'TensorFlow reads; expected array_record. Prepare it with '
        '--file_format=array_record.')
  image_key = _image_key(name, info.features)
  label_key, class_names = _label(
      name, info.features, data_config.get('labels', 'none'))
  how = _geometry(name, info.features[image_key].shape, data_config)
  wanted = {image_key: tfds.decode.SkipDecoding()}
  try:
    records = builder.as_data_source(split=split, decoders=wanted)
  except Exception as error:  # TFDS raises many kinds
    raise errors.UserError(
        f'data.split is {split!r}, which TFDS refuses ({error}).') from None
  spec = spec_lib.image_spec(
      resolution=how.resolution, channels=how.channels,
      num_examples=len(records), num_classes=len(class_names),
      class_names=class_names,
      facts={'tfds': info.full_name, 'split': split, 'labels': label_key,
             'bytes': int(info.splits[base].num_bytes)
                      if base in info.splits else 0, **how.facts()})
  return Source(records, image_key, label_key, info.name == 'emnist', how,
                f'tfds:{name}', spec)


def find(name: str, root: str) -> str:
  """Returns the folder of a prepared data set, of its newest version.

  Args:
    name: NAME[/CONFIG][:VERSION].
    root: the folder of TFDS data sets.

  Raises:
    UserError: there is none, with what to do about it.
  """
  path, _, version = name.partition(':')
  found = []
  # The config is a folder level of its own, and may be left out if single.
  for start in (path, *(f'{path}/{entry}' for entry in _folders(
      os.path.join(root, path)))):
    for entry in _folders(os.path.join(root, start)):
      folder = os.path.join(root, start, entry)
      if os.path.isfile(os.path.join(folder, 'dataset_info.json')) and (
          version in ('', entry)):
        found.append((start, _version_key(entry), folder))
  configs = sorted({start for start, _, _ in found})
  if len(configs) > 1:
    raise errors.UserError(
        f'data.source is tfds:{name}, and {root} holds several configs: '
        f'{", ".join(configs)}. Name one.')
  if found:
    return max(found)[2]
  base = path.partition('/')[0]
  if base in builders.BUILDERS:
    advice = (
        f'Get {builders.BUILDERS[base][2]} of {base} from its authors, and '
        f'run `python -m gans_jax.prepare --source=tfds:{name} '
        f'--data.manual_dir=FOLDER_OF_THESE_FILES --data.data_dir={root}`.')
  else:
    advice = (
        'Prepare it with TFDS (`tfds build '
        f'{name} --file_format=array_record --data_dir={root}`; some data '
        'sets need TensorFlow for that step alone), or set data.data_dir.')
  raise errors.UserError(
      f'data.source is tfds:{name}, but {root} holds no prepared {path}'
      f'{" of version " + version if version else ""}. {advice}')


def _folders(path):
  if not os.path.isdir(path):
    return []
  return sorted(entry for entry in os.listdir(path)
                if os.path.isdir(os.path.join(path, entry)))


def _version_key(text):
  return tuple(int(part) if part.isdigit() else -1 for part in text.split('.'))


def _image_key(name, features) -> str:
  kinds = {key: type(feature).__name__ for key, feature in features.items()}
  images = [key for key, kind in kinds.items() if kind == 'Image']
  if not images:
    raise errors.UserError(
        f'tfds:{name} has no image; its features are {", ".join(kinds)}.')
  return 'image' if 'image' in images else images[0]


def _label(name, features, kind):
  """Returns the feature that serves as the label, and its class names."""
  labels = [key for key, feature in features.items()
            if type(feature).__name__ == 'ClassLabel']
  if kind == 'auto':
    kind = 'class' if 'label' in labels else 'none'
  if kind == 'none':
    return None, ()
  key = 'label' if kind == 'class' else kind
  if key not in labels:
    raise errors.UserError(
        f'data.labels is {kind!r}, but tfds:{name} has '
        f'{", ".join(labels) or "no class labels"}. Set data.labels to one of '
        'them, or to none.')
  return key, tuple(features[key].names)


def _geometry(name, shape, data_config) -> transforms.Geometry:
  how = transforms.geometry(data_config)
  height, width = shape[:2]
  if None in (height, width):
    if not (how.resolution and how.native_resize and how.crop != 'none'):
      raise errors.UserError(
          f'The images of tfds:{name} differ in size; prepare them once with '
          f'`python -m gans_jax.prepare --source=tfds:{name} --resolution=R '
          '--crop=center --out=DIR`, or set data.native_resize=true, '
          'data.resolution, and data.crop=center (or pad).')
    return how
  if height != width and how.crop == 'none':
    raise errors.UserError(
        f'The images of tfds:{name} are {width}x{height}; expected squares. '
        'Set data.crop=center (or pad).')
  if not how.resolution:
    how = dataclasses.replace(
        how, resolution=(max if how.crop == 'pad' else min)(height, width))
  return how
