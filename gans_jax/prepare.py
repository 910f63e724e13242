"""The command that turns any source into a checked data set of one size."""

import ast
import collections
from collections.abc import Iterator
from concurrent import futures
import difflib
import errno
import fcntl
import json
import logging
import os
import shutil
import sys
import zipfile

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Checks every image of a source, crops and resizes it with a named filter, and
writes a data set that trains fast and proves that it is whole.

  python -m gans_jax.prepare --source=photos/ --out=data/photos64 \\
      --resolution=64 --filter=lanczos --crop=center
  python -m gans_jax.prepare --source=fashion-mnist/ --out=data/fashion32 \\
      --resolution=32 --crop=pad --channels=1
  python -m gans_jax.prepare --source=tfds:cifar10 --out=data/cifar10 \\
      --data.manual_dir=downloads/
  python -m gans_jax.prepare --verify=data/photos64

Train on the result with --config.data.source=prepared:DIR.

SOURCE is a path (a folder of images, of the four IDX files of MNIST, a CIFAR
archive, a zip) or a name: folder:PATH, zip:PATH, idx:PATH, cifar:PATH,
tfds:NAME, emoji:noto, ... The output holds manifest.json (counts, label
histogram, filter, crop, versions, a sha256 per file). It is written to
OUT.partial and renamed when complete; an interrupted run leaves no data set,
and the next one starts anew.
"""

# Keys of the data section that prepare has no argument for.
_EXTRA = ('aspect', 'background', 'groups', 'pairs', 'data_dir', 'manual_dir',
          'num_examples', 'seed')
# What --labels=auto means where the source itself does not settle it.
_AUTO = {'shapes': 'none', 'scenes': 'none', 'mixture': 'none',
         'emoji': 'group', 'stacked_mnist': 'class'}
_RAW_UP_TO = 64  # px; PNG above, where decoding is cheaper than reading
_SHARD_BYTES = 2**28
_CHUNK = 64


def main(argv: list[str]) -> int:
  """Runs the command; returns the exit code."""
  args, config, overrides = _arguments(argv)
  if args.verify:
    from gans_jax.data import manifest

    content = manifest.verify(args.verify, _say)
    _say(f'{args.verify} is whole: {content["count"]} examples.')
    return cli.DONE
  name = _detect(args.source)
  data = {**config, **overrides, 'source': name,
          # A crop is the decision that training asks for.
          'native_resize': config['crop'] != 'none'}
  kind = name.partition(':')[0]
  if data['labels'] == 'auto' and kind in _AUTO:
    data['labels'] = _AUTO[kind]
  out = os.path.abspath(os.path.expanduser(args.out)) if args.out else ''
  if name.startswith('tfds:') and data.get('manual_dir'):
    _prepare_tfds(name, data)
    if not out:
      return cli.DONE
  if not out:
    raise errors.UserError('--out=DIR is missing: where shall it go?')
  _refuse_existing(out)
  content = prepare(data, out, storage=args.format, split=args.split)
  _summary(out, content)
  return cli.DONE


def _arguments(argv):
  parser = cli.parser('python -m gans_jax.prepare', DESCRIPTION)
  parser.add_argument('--source', help='path or name of the data')
  parser.add_argument('--out', metavar='DIR', help='folder to write')
  parser.add_argument('--resolution', type=int, default=0,
                      help='pixels; by default the size of the files')
  parser.add_argument('--filter', default='box',
                      help='box (= area), bilinear, bicubic or lanczos')
  parser.add_argument('--crop', default='none',
                      help='none (squares only), center, or pad (black)')
  parser.add_argument('--channels', type=int, default=3, help='3 or 1')
  parser.add_argument('--format', default='array_record',
                      choices=('array_record', 'zip'),
                      help="zip is StyleGAN2-ADA's layout: images and labels "
                      'alone')
  parser.add_argument('--labels', default='auto',
                      help='auto (the classes if there are any), none, or a '
                      'kind that the source has')
  parser.add_argument('--split', default='train')
  parser.add_argument('--limit', type=int, default=0,
                      help='a fixed random subset of this many')
  parser.add_argument('--skip_corrupt', action='store_true',
                      help='leave damaged files out, and list them in the '
                      'manifest, instead of stopping at the first')
  parser.add_argument('--verify', metavar='DIR',
                      help='check the hashes of a prepared data set')
  parser.add_argument('--data.KEY', metavar='VALUE', dest='unused',
                      help=f'further keys: {", ".join(_EXTRA)}')
  args, rest = parser.parse_known_args(argv)
  overrides = _overrides(rest)
  if not args.source and not args.verify:
    raise errors.UserError(
        '--source is missing: a path, or a name such as emoji:noto. See '
        '--help.')
  config = {key: getattr(args, key) for key in (
      'resolution', 'filter', 'crop', 'channels', 'labels', 'limit',
      'skip_corrupt')}
  return args, config, overrides


def _overrides(rest: list[str]) -> dict:
  """Returns the values of --data.KEY=VALUE arguments."""
  result = {}
  for text in rest:
    key, equals, value = text.partition('=')
    key = key.removeprefix('--data.')
    if key not in _EXTRA or not text.startswith('--data.') or not equals:
      known = [f'--data.{name}' for name in _EXTRA] + [
          '--source', '--out', '--resolution', '--filter', '--crop',
          '--channels', '--format', '--labels', '--split', '--limit',
          '--skip_corrupt', '--verify']
      near = difflib.get_close_matches(text.partition('=')[0], known, 1)
      hint = f' Did you mean {near[0]}?' if near else ''
      raise errors.UserError(
          f'{text} is not an argument of prepare; expected --NAME=VALUE, or '
          f'--data.KEY=VALUE with KEY one of {", ".join(_EXTRA)}.{hint}')
    try:
      result[key] = ast.literal_eval(value)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
      result[key] = value  # a word
  return result


def _detect(source: str) -> str:
  """Returns the name of a source that may be given as a bare path."""
  from gans_jax.data import cifar
  from gans_jax.data import idx
  from gans_jax.data import manifest

  path = os.path.expanduser(source)
  if not os.path.exists(path):
    return source if ':' in source else f'folder:{source}'
  if os.path.isdir(path):
    if os.path.isfile(os.path.join(path, manifest.NAME)):
      return f'prepared:{path}'
    if idx.is_idx_folder(path):
      return f'idx:{path}'
    return f'{"cifar" if cifar.is_cifar_folder(path) else "folder"}:{path}'
  if path.endswith(('.tar.gz', '.tgz', '.tar')):
    return f'cifar:{path}'
  if path.endswith('.zip'):
    return f'zip:{path}'
  raise errors.UserError(
      f'--source is the file {source}; expected a folder, a .zip, a CIFAR '
      'archive (.tar.gz), or a name such as tfds:NAME.')


def _prepare_tfds(name, data):
  from gans_jax.data import builders
  from gans_jax.data import tfds_source

  title = name.partition(':')[2].partition(':')[0]
  root = tfds_source.data_dir(data)
  try:
    tfds_source.find(title, root)
  except errors.UserError:
    folder = builders.prepare(title, data['manual_dir'], root)
    _say(f'Prepared {title} for TFDS in {folder}.')


def _say(text: str) -> None:
  sys.stdout.write(text + '\n')
  sys.stdout.flush()


# --- writing ----------------------------------------------------------------


def _refuse_existing(out: str) -> None:
  if os.path.lexists(out) and not (
      os.path.isdir(out) and not os.listdir(out)):
    raise errors.UserError(
        f'{out} exists and is not an empty folder; nothing is overwritten. '
        'Remove it, or choose another --out.')


def prepare(data: dict, out: str, storage: str = 'array_record',
            split: str = 'train') -> dict:
  """Writes a source to the folder `out`, all or nothing.

  Args:
    data: the data section of a config.
    out: an absent or empty folder; its parents are made.
    storage: 'array_record' or 'zip'.
    split: of the source.

  Returns:
    The manifest.

  Raises:
    UserError: anything wrong with the source, or with writing.
  """
  from gans_jax.data import pipeline
  from gans_jax.data import sources

  source = sources.create_source(data, split)
  # Not the data set of training: a damaged example is left out, or the end,
  # but never replaced by another.
  dataset = pipeline.Dataset(source, False, data.get('limit', 0))
  if not dataset.spec.resolution:
    raise errors.UserError(
        f'{data["source"]} has no images; prepare writes images.')
  partial = out.rstrip('/') + '.partial'
  try:
    lock = _claim(partial)
    try:
      content = _write(dataset, data, split, partial, storage)
      os.remove(os.path.join(partial, _LOCK))
      os.rename(partial, out)
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise
    finally:
      os.close(lock)
  except OSError as error:
    what = ('the disk is full' if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else error.strerror or str(error))
    raise errors.UserError(
        f'{error.filename or partial} cannot be written: {what}. Nothing was '
        'left behind. Free space or choose another --out.') from None
  return content


_LOCK = '.gans_jax_prepare'


def _claim(partial: str) -> int:
  """Makes the folder to work in; returns the descriptor that locks it.

  What an earlier run left there is removed, if the marker shows that it was
  us and the lock that the run is over.
  """
  marker = os.path.join(partial, _LOCK)
  if os.path.isdir(partial) and os.listdir(partial) and not os.path.exists(
      marker):
    raise errors.UserError(
        f'{partial} exists and was not made by prepare. Remove it, or choose '
        'another --out.')
  os.makedirs(partial, exist_ok=True)
  lock = os.open(marker, os.O_CREAT | os.O_RDWR, 0o644)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(lock)
    raise errors.UserError(
        f'Another prepare is writing {partial}. Wait for it, or choose '
        'another --out.') from None
  stale = [name for name in os.listdir(partial) if name != _LOCK]
  if stale:
    logging.warning('removing what an interrupted run left in %s', partial)
  for name in stale:
    os.remove(os.path.join(partial, name))
  return lock


def _write(dataset, data, split, folder, storage) -> dict:
  from gans_jax.data import manifest
  from gans_jax.data import prepared
  from gans_jax.data import spec as spec_lib
  from gans_jax.data import transforms

  spec = dataset.spec
  how = transforms.geometry(data)
  texts = _texts(dataset)
  if storage == 'zip':
    writer = _ZipWriter(folder, spec)
  else:
    encoding = 'raw' if spec.resolution <= _RAW_UP_TO else 'png'
    writer = _RecordWriter(folder,
                           prepared.fields_of(spec, texts, encoding))
  histogram = collections.Counter()
  skipped = []
  try:
    for example, payload in _encoded(dataset, data, writer.encode, skipped):
      if 'label' in example:
        histogram[int(example['label'])] += 1
      writer.add(payload, example)
  finally:
    shards = writer.close()
  count = sum(shard['count'] for shard in shards)
  if not count:
    raise errors.UserError(
        f'None of the {len(dataset)} images of {data["source"]} can be '
        f'decoded; the first error is: {skipped[0]}')
  for shard in shards:
    path = os.path.join(folder, shard['file'])
    shard['bytes'] = os.path.getsize(path)
    shard['sha256'] = manifest.file_hash(path)
  content = {
      'storage': storage, 'count': count, 'resolution': spec.resolution,
      'aspect': '{}:{}'.format(*how.aspect),
      'channels': spec.channels, 'filter': how.facts()['filter'],
      'crop': how.crop, 'background': list(how.background),
      'source': data['source'], 'split': split,
      'source_identity': spec.identity,
      'options': {key: value for key, value in data.items()
                  if key in (*_EXTRA, 'limit') and value},
      'labels': (data['labels'].replace('auto', 'class')
                 if spec.num_classes else 'none'),
      'num_classes': spec.num_classes,
      'class_names': list(spec.class_names),
      'label_histogram': {str(label): histogram[label]
                          for label in sorted(histogram)},
      'fields': writer.fields, 'skipped': skipped,
      'versions': manifest.versions(), 'shards': shards,
  }
  content['identity'] = spec_lib.identity_hash(
      {'fields': writer.fields, 'shards': [s['sha256'] for s in shards]})
  manifest.write(folder, content)
  manifest.read(folder)
  return content


def _texts(dataset) -> tuple[str, ...]:
  """Returns the keys of strings, which the spec does not list."""
  import numpy as np

  from gans_jax.data import transforms

  for index in range(len(dataset)):
    try:
      return tuple(key for key, value in dataset[index].items()
                   if np.asarray(value).dtype.kind == 'U')
    except transforms.CorruptImage:
      continue
  return ()


def _encoded(dataset, data, encode, skipped) -> Iterator[tuple[dict, bytes]]:
  """Yields (example, its bytes) in order, decoded in threads, with a bar."""
  import tqdm

  from gans_jax.data import transforms

  def work(start):
    result = []
    for index in range(start, min(start + _CHUNK, len(dataset))):
      try:
        example = dataset[index]
        result.append((example, encode(example)))
      except transforms.CorruptImage as error:
        if not data.get('skip_corrupt'):
          raise
        result.append((None, str(error)))
    return result

  bar = tqdm.tqdm(
      total=len(dataset), unit='img', desc='prepare', smoothing=0.05,
      mininterval=0.2 if sys.stderr.isatty() else 10, dynamic_ncols=True)
  threads = min(8, os.cpu_count() or 1)
  with bar, futures.ThreadPoolExecutor(threads) as pool:
    starts = iter(range(0, len(dataset), _CHUNK))
    pending = collections.deque()
    try:
      while True:
        # A bounded window: the whole set would not fit in memory.
        while len(pending) < 2 * threads:
          start = next(starts, None)
          if start is None:
            break
          pending.append(pool.submit(work, start))
        if not pending:
          break
        for example, payload in pending.popleft().result():
          bar.update()
          if example is None:
            skipped.append(payload)
          else:
            yield example, payload
    finally:
      pool.shutdown(wait=False, cancel_futures=True)
  if skipped:
    logging.warning('%d damaged images were left out; the first: %s',
                    len(skipped), skipped[0])


class _RecordWriter:
  """Writes ArrayRecord shards."""

  def __init__(self, folder, fields):
    self.fields = fields
    self._folder = folder
    self._shards = []
    self._writer = None
    self._bytes = 0

  def encode(self, example: dict) -> bytes:
    from gans_jax.data import prepared

    return prepared.encode(example, self.fields)

  def add(self, payload: bytes, example: dict) -> None:
    del example
    from array_record.python import array_record_module

    if self._writer is None or self._bytes > _SHARD_BYTES:
      self._finish()
      name = f'data-{len(self._shards):05d}.array_record'
      # Groups of one record: a shuffled epoch reads them in random order.
      self._writer = array_record_module.ArrayRecordWriter(
          os.path.join(self._folder, name), 'group_size:1')
      self._shards.append({'file': name, 'count': 0})
      self._bytes = 0
    try:
      self._writer.write(payload)
    except (RuntimeError, ValueError) as error:
      raise OSError(f'writing a record failed ({error})') from None
    self._shards[-1]['count'] += 1
    self._bytes += len(payload)

  def close(self) -> list[dict]:
    self._finish()
    return self._shards

  def _finish(self):
    if self._writer is not None:
      writer, self._writer = self._writer, None
      try:
        writer.close()
      except (RuntimeError, ValueError) as error:
        raise OSError(f'closing a shard failed ({error})') from None


class _ZipWriter:
  """Writes the zip of StyleGAN2-ADA's dataset_tool."""

  def __init__(self, folder, spec):
    from gans_jax.data import prepared

    self.fields = prepared.fields_of(spec, (), 'png')
    self.fields = [field for field in self.fields
                   if field['key'] in ('image', 'label')]
    self._name = prepared.ZIP_NAME
    self._archive = zipfile.ZipFile(
        os.path.join(folder, self._name), 'w', zipfile.ZIP_STORED)
    self._spec = spec
    self._labels = []
    self._count = 0

  def encode(self, example: dict) -> bytes:
    from gans_jax.data import prepared

    return prepared.encode_png(example['image'])

  def add(self, payload: bytes, example: dict) -> None:
    name = f'{self._count // 1000:05d}/img{self._count:08d}.png'
    # A fixed date: equal content gives an equal hash.
    self._archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)),
                           payload)
    if 'label' in example:
      self._labels.append([name, int(example['label'])])
    self._count += 1

  def close(self) -> list[dict]:
    text = {'labels': self._labels or None}
    if self._labels and self._spec.class_names:
      text['class_names'] = list(self._spec.class_names)
    self._archive.writestr(
        zipfile.ZipInfo('dataset.json', (1980, 1, 1, 0, 0, 0)),
        json.dumps(text))
    self._archive.close()
    return [{'file': self._name, 'count': self._count}]


def _summary(out, content):
  from gans_jax.data import transforms

  size = sum(shard['bytes'] for shard in content['shards']) / 2**20
  side = content['resolution']
  aspect = transforms.aspect(content['aspect'])
  wide, high = transforms.Geometry(side, aspect=aspect).size()
  _say(f'{content["count"]} images of {wide}x{high}x{content["channels"]} '
       f'({content["filter"]} filter, crop {content["crop"]}) in {out}, '
       f'{size:.1f} MiB.')
  if content['label_histogram']:
    counts = content['label_histogram'].values()
    _say(f'{content["num_classes"]} classes of {min(counts)} to '
         f'{max(counts)} images (manifest.json lists them).')
  if content['skipped']:
    _say(f'{len(content["skipped"])} damaged files were left out '
         '(manifest.json lists them).')
  channels = '' if content['channels'] == 3 else (
      f' --config.data.channels={content["channels"]}')
  _say(f'Train on it with --config.data.source=prepared:{out} '
       f'--config.data.resolution={side}{channels}')


if __name__ == '__main__':
  cli.run(main)
