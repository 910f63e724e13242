"""`prepared:PATH`: a data set written by `python -m gans_jax.prepare`.

A folder with manifest.json and either ArrayRecord shards or dataset.zip. An
ArrayRecord record is its fields one after another, in the manifest's order:
raw arrays as their bytes, PNG images and lists of texts (JSON) behind their
length (uint32, little endian). Filter, crop and resolution are the manifest's;
a config that asks for another resolution is refused, because resizing twice is
not resizing.
"""

import io
import json
import os
import struct

import numpy as np

from gans_jax.core import errors
from gans_jax.data import manifest
from gans_jax.data import spec as spec_lib
from gans_jax.data import transforms

ZIP_NAME = 'dataset.zip'
_LENGTH = struct.Struct('<I')


# --- records ----------------------------------------------------------------


def fields_of(spec: spec_lib.DataSpec, texts: tuple[str, ...],
              encoding: str) -> list[dict]:
  """Returns the manifest's description of a record.

  Args:
    spec: of the examples.
    texts: keys of lists of strings.
    encoding: 'png' or 'raw' for `image`; everything else is raw.
  """
  fields = [{'key': key, 'shape': list(shape), 'dtype': dtype,
             'encoding': encoding if key == 'image' else 'raw'}
            for key, shape, dtype in spec.shapes]
  # Those of fixed length first, so that many can be read as one table.
  fields.sort(key=lambda field: field['encoding'] != 'raw')
  fields.extend({'key': key, 'encoding': 'text'} for key in texts)
  return fields


def encode(example: dict, fields: list[dict]) -> bytes:
  """Returns the record of one example."""
  parts = []
  for field in fields:
    value = example[field['key']]
    if field['encoding'] == 'raw':
      parts.append(np.ascontiguousarray(value, field['dtype']).tobytes())
      continue
    data = (json.dumps(np.asarray(value).tolist()).encode()
            if field['encoding'] == 'text' else encode_png(value))
    parts.extend((_LENGTH.pack(len(data)), data))
  return b''.join(parts)


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes uint8 [H, W, 1 or 3] as PNG."""
  stream = io.BytesIO()
  transforms.array_to_image(pixels).save(stream, 'png', compress_level=6)
  return stream.getvalue()


class Decoder:
  """Record -> example, of the fields wanted."""

  def __init__(self, fields: list[dict], wanted: tuple[str, ...], how):
    self._fields = fields
    self._wanted = wanted
    self._how = how

  def __call__(self, record: bytes, title: str) -> dict[str, np.ndarray]:
    example, at = {}, 0
    try:
      for field in self._fields:
        if field['encoding'] == 'raw':
          shape, dtype = tuple(field['shape']), np.dtype(field['dtype'])
          count = int(np.prod(shape, dtype=np.int64))
          # The record is read-only memory; nobody downstream writes in place.
          value = np.frombuffer(record, dtype, count, at).reshape(shape)
          at += count * dtype.itemsize
        else:
          length = _LENGTH.unpack_from(record, at)[0]
          at += _LENGTH.size
          data = record[at:at + length]
          at += length
          value = data
        if field['key'] not in self._wanted:
          continue
        if field['encoding'] == 'text':
          value = np.array(json.loads(value))
        elif field['encoding'] == 'png':
          value = transforms.apply(transforms.decode(value, title), self._how,
                                   title)
        example[field['key']] = value
    except errors.UserError:
      raise
    except Exception as error:  # Fields of hostile manifests raise anything.
      raise transforms.CorruptImage(f'{title} is damaged ({error}).') from None
    if at != len(record):
      raise transforms.CorruptImage(
          f'{title} is {len(record)} bytes long; expected {at}.')
    return example


class Source:
  """Examples out of ArrayRecord shards."""

  def __init__(self, folder: str, content: dict, spec: spec_lib.DataSpec,
               texts: tuple[str, ...], how: transforms.Geometry):
    from array_record.python import array_record_data_source

    self._folder = folder
    self._shards = [(shard['file'], shard['count'])
                    for shard in content['shards']]
    try:
      self._records = array_record_data_source.ArrayRecordDataSource(
          [os.path.join(folder, name) for name, _ in self._shards])
      count = len(self._records)
    except Exception as error:  # Whatever its C++ code says of damage.
      raise errors.UserError(
          f'The shards of {folder} cannot be read ({error}). Copy them again '
          'or prepare the data set again.') from None
    self._decode = Decoder(content['fields'], spec.keys + texts, how)
    self.spec = spec
    # Raw fields come first in the record: a table with fixed columns.
    self._columns = np.dtype([
        (field['key'], np.dtype(field['dtype']).newbyteorder('<'),
         tuple(field['shape'])) for field in content['fields']
        if field['encoding'] == 'raw'])
    self.in_memory = bool(spec.keys) and (
        set(spec.keys) <= set(self._columns.names or ()))
    if count != len(self):
      raise errors.UserError(
          f'The shards of {folder} hold {count} records; the '
          f'manifest says {len(self)}. Prepare the data set again.')

  def __len__(self) -> int:
    return self.spec.num_examples

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    title = self._title(index)
    try:
      record = self._records[int(index)]
    except (ValueError, RuntimeError, OSError) as error:
      raise transforms.CorruptImage(
          f'{title} cannot be read ({error}). Check the data set with '
          f'`python -m gans_jax.prepare --verify={self._folder}`, and copy or '
          'prepare it again; data.skip_corrupt=true passes such records.'
          ) from None
    return self._decode(record, title)

  def _title(self, index) -> str:
    place = int(index)
    for name, count in self._shards:
      if place < count:
        return f'Record {place} of {os.path.join(self._folder, name)}'
      place -= count
    return f'Record {index} of {self._folder}'

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of several examples, stacked; one read for all."""
    try:
      records = self._records.__getitems__([int(i) for i in indices])
    except (ValueError, RuntimeError, OSError) as error:
      for index in indices:
        self[index]  # Says which it is.
      raise transforms.CorruptImage(
          f'{self._folder} cannot be read ({error}). Check the data set with '
          f'`python -m gans_jax.prepare --verify={self._folder}`.') from None
    if self.in_memory and min(map(len, records)) >= self._columns.itemsize:
      table = np.frombuffer(
          b''.join(record[:self._columns.itemsize] for record in records),
          self._columns)
      return {key: np.ascontiguousarray(table[key]) for key in self.spec.keys}
    examples = [self._decode(record, self._title(index))
                for record, index in zip(records, indices, strict=True)]
    return {key: np.stack([example[key] for example in examples])
            for key in self.spec.keys}

  def __repr__(self) -> str:
    return f'prepared.Source({self.spec.identity})'


# --- opening ----------------------------------------------------------------


def create_source(data_config, split: str):
  """Opens `prepared:PATH`; see the module.

  Raises:
    UserError: no such data set, a damaged one, or a config that asks for
      another resolution, channels, split or label than were prepared.
  """
  folder = os.path.expanduser(data_config.get('source').partition(':')[2])
  if not os.path.isdir(folder):
    raise errors.UserError(
        f'The folder {folder} of data.source does not exist; expected one '
        'written by `python -m gans_jax.prepare`.')
  content = manifest.read(folder)
  _check(folder, content, data_config, split)
  kind = data_config.get('labels', 'none')
  if content['storage'] == 'zip':
    from gans_jax.data import zip_archive

    return zip_archive.create_source(
        {**_zip_config(content), 'source':
         f'zip:{os.path.join(folder, ZIP_NAME)}',
         'labels': 'none' if kind == 'none' or not content['num_classes']
                   else 'class',
         'skip_corrupt': data_config.get('skip_corrupt', False)}, 'train')
  labelled = kind != 'none' and content['num_classes'] > 0
  arrays = [field for field in content['fields']
            if field['encoding'] != 'text'
            and (labelled or field['key'] != 'label')]
  texts = tuple(field['key'] for field in content['fields']
                if field['encoding'] == 'text')
  spec = spec_lib.DataSpec(
      resolution=content['resolution'], channels=content['channels'],
      num_classes=content['num_classes'] if labelled else 0,
      num_examples=content['count'],
      keys=tuple(field['key'] for field in arrays),
      shapes=tuple((field['key'], tuple(field['shape']), field['dtype'])
                   for field in arrays),
      class_names=tuple(content['class_names']) if labelled else (),
      identity=spec_lib.identity_hash(
          {'prepared': content['identity'], 'labelled': labelled}))
  return Source(folder, content, spec, texts, transforms.Geometry(
      content['resolution'], content['channels'],
      aspect=transforms.aspect(content.get('aspect', ''))))


def _zip_config(content) -> dict:
  return {'resolution': content['resolution'],
          'channels': content['channels'], 'filter': content['filter'],
          'aspect': content.get('aspect', '')}


def _check(folder, content, data_config, split):
  prepared_split = content.get('split', 'train')
  if split not in (prepared_split, 'train'):
    raise errors.UserError(
        f'data.split is {split!r}, but {folder} was prepared from '
        f'{prepared_split!r}. Prepare that split into another folder.')
  for key in ('resolution', 'channels'):
    default = 0 if key == 'resolution' else 3
    asked = data_config.get(key, default)
    if asked and asked != content[key]:
      raise errors.UserError(
          f'data.{key} is {asked}, but {folder} was prepared with '
          f'{content[key]}. Set data.{key}={content[key]}, or prepare the '
          f'data set again with --{key}={asked}.')
  asked = data_config.get('aspect', '')
  was = transforms.aspect(content.get('aspect', ''))
  if asked and transforms.aspect(asked) != was:
    raise errors.UserError(
        f'data.aspect is {asked}, but {folder} was prepared with '
        f'{was[0]}:{was[1]}. Set it so, or prepare the data set again with '
        f'--data.aspect={asked}.')
  kind = data_config.get('labels', 'none')
  have = content['labels']
  if kind not in ('none', 'auto', 'class', have) or (
      kind not in ('none', 'auto') and not content['num_classes']):
    raise errors.UserError(
        f'data.labels is {kind!r}, but {folder} was prepared with labels '
        f'{have!r}. Prepare it again with --labels.')
