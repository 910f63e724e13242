"""`zip:PATH`: a zip of images in the layout of StyleGAN2-ADA's dataset_tool.

Images anywhere in the archive, dataset.json at its top for the labels. Nothing
is ever extracted to disk. Archives come from strangers: names that climb out
of the archive, encrypted members and members that expand beyond reason are
refused.
"""

import os
import threading
from typing import BinaryIO
import zipfile

from gans_jax.core import archives
from gans_jax.core import errors
from gans_jax.data import image_files
from gans_jax.data import transforms


class ZipReader:
  """Opens members by name; every process and fork has its own handle."""

  def __init__(self, path: str):
    self._path = path
    self._archive = None
    self._owner = None
    self._lock = threading.Lock()

  def __getstate__(self):
    return {'_path': self._path}

  def __setstate__(self, state):
    self.__init__(state['_path'])

  def open(self, name: str) -> BinaryIO:
    try:
      archive = self._handle()
      return _Member(archive.open(name), archive.getinfo(name).file_size,
                     self.describe(name))
    except Exception as error:  # Damaged zips raise nearly every type.
      raise transforms.CorruptImage(
          f'{self.describe(name)} cannot be read ({error}).') from None

  def describe(self, name: str) -> str:
    return f'{self._path}:{name}'

  def _handle(self) -> zipfile.ZipFile:
    with self._lock:
      if self._owner != os.getpid():  # a forked child shares the file offset
        self._archive = zipfile.ZipFile(self._path)
        self._owner = os.getpid()
      return self._archive


class _Member:
  """A zip member whose damage is told like that of any other image."""

  def __init__(self, stream, length, title):
    self._stream = stream
    self._length = length
    self._title = title

  def read(self, size: int = -1) -> bytes:
    try:
      # Without a number, a zip unpacks more than it promised.
      return self._stream.read(size if size >= 0 else self._length + 1)
    except Exception as error:
      raise transforms.CorruptImage(
          f'{self._title} is damaged ({error}).') from None

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    try:
      return self._stream.seek(offset, whence)
    except Exception as error:
      raise transforms.CorruptImage(
          f'{self._title} is damaged ({error}).') from None

  def tell(self) -> int:
    return self._stream.tell()

  def close(self) -> None:
    self._stream.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()


def create_source(data_config, split: str) -> image_files.Source:
  """Opens `zip:PATH`; see the module.

  Raises:
    UserError: not a zip, a hostile one, or whatever `image_files` refuses.
  """
  path = os.path.expanduser(data_config.get('source').partition(':')[2])
  if not os.path.isfile(path):
    raise errors.UserError(
        f'The file {path} of data.source does not exist; expected a zip of '
        'images.')
  if split != 'train':
    raise errors.UserError(
        f'data.split is {split!r}, but a zip has train alone, which is all '
        'of it. Use one zip per split.')
  try:
    with zipfile.ZipFile(path) as archive:
      members = archive.infolist()
      files = _images(path, members)
      labels, class_names = None, ()
      found = {info.filename: info for info in members}
      if image_files.DATASET_JSON in found:
        title = f'{path}:{image_files.DATASET_JSON}'
        info = found[image_files.DATASET_JSON]
        _check_member(info, title, image_files.max_json(files))
        labels, class_names = image_files.read_dataset_json(
            bytes(archives.read(archive, info)), title, files)
  except errors.UserError:
    raise
  except Exception as error:  # Damaged zips raise nearly every type there is.
    raise errors.UserError(
        f'{path} is not a readable zip ({error}); it may be cut off. Copy or '
        'download it again.') from None
  return image_files.create(ZipReader(path), path, files, labels, class_names,
                            data_config)


def _images(path, members) -> dict[str, int]:
  files = {}
  for info in members:
    name = info.filename
    parts = name.replace('\\', '/').split('/')
    if '..' in parts or name.startswith(('/', '\\')) or ':' in parts[0]:
      raise errors.UserError(
          f'{path} has a member named {name!r}, which climbs out of the '
          'archive; expected relative names without "..". Do not unpack this '
          'file, and ask whoever made it.')
    if info.is_dir() or any(part.startswith(('.', '__MACOSX'))
                            for part in parts):
      continue
    if name.lower().endswith(transforms.EXTENSIONS):
      _check_member(info, f'{path}:{name}', transforms.MAX_BYTES)
      files[name] = info.file_size
  return files


def _check_member(info, title, limit):
  found = archives.problem(info, limit)
  if found:
    raise errors.UserError(f'{title} {found}.')
