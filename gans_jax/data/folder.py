"""`folder:PATH`: a folder of images.

With a dataset.json in it, that file holds the labels (StyleGAN2-ADA's layout).
Without, and with all images in subfolders, the class is the first subfolder
and classes are numbered in the order of their sorted names. Images that lie in
PATH itself have no labels. Hidden files and folders are passed over.
"""

import collections
import os
import stat
from typing import BinaryIO

from gans_jax.core import errors
from gans_jax.data import image_files
from gans_jax.data import transforms

_MAX_VISITS = 100  # of one folder, by links


class FolderReader:
  """Opens files below a root by their relative, '/'-separated name."""

  def __init__(self, root: str):
    self._root = root

  def open(self, name: str) -> BinaryIO:
    path = os.path.join(self._root, name)
    try:
      # A named pipe would wait for ever, a device never end.
      if not stat.S_ISREG(os.stat(path).st_mode):
        raise transforms.CorruptImage(
            f'{self.describe(name)} is no regular file; expected an image.')
      return open(path, 'rb')
    except OSError as error:
      raise transforms.CorruptImage(
          f'{self.describe(name)} cannot be read ({error.strerror}).'
          ) from None

  def describe(self, name: str) -> str:
    return os.path.join(self._root, name)


def create_source(data_config, split: str) -> image_files.Source:
  """Opens `folder:PATH`; see the module.

  Raises:
    UserError: no such folder or split, and whatever `image_files` refuses.
  """
  root = os.path.expanduser(data_config.get('source').partition(':')[2])
  if not os.path.isdir(root):
    found = 'is a file' if os.path.exists(root) else 'does not exist'
    hint = f' For an archive, use zip:{root}.' if root.endswith('.zip') else ''
    raise errors.UserError(
        f'The folder {root} of data.source {found}; expected a folder of '
        f'images.{hint}')
  if split != 'train':
    raise errors.UserError(
        f'data.split is {split!r}, but a folder has train alone, which is all '
        f'of it. For another split, name its folder: '
        f'data.source=folder:{os.path.join(root, split)}.')
  files = list_files(root)
  labels, class_names = None, ()
  annotation = os.path.join(root, image_files.DATASET_JSON)
  if os.path.exists(annotation):
    labels, class_names = image_files.read_dataset_json(
        _read_json(annotation, image_files.max_json(files)), annotation,
        files)
  elif files and all('/' in name for name in files):
    class_names = tuple(sorted({name.split('/')[0] for name in files}))
    number = {name: i for i, name in enumerate(class_names)}
    labels = {name: number[name.split('/')[0]] for name in files}
  return image_files.create(FolderReader(root), root, files, labels,
                            class_names, data_config)


def _read_json(path: str, limit: int) -> bytes:
  try:
    if not os.path.isfile(path):
      raise errors.UserError(f'{path} is no regular file; expected JSON.')
    with open(path, 'rb') as stream:
      text = stream.read(limit + 1)
  except OSError as error:
    raise errors.UserError(
        f'{path} cannot be read ({error.strerror}).') from None
  if len(text) > limit:
    raise errors.UserError(
        f'{path} has more than the {limit} bytes that are read for so many '
        'images; expected labels of them and nothing else.')
  return text


def list_files(root: str) -> dict[str, int]:
  """Returns relative name -> bytes of all images below `root`."""
  files = {}
  pending = [('', ())]
  visits = collections.Counter()
  while pending:
    folder, above = pending.pop()
    try:
      entries = list(os.scandir(os.path.join(root, folder)))
      found = os.stat(os.path.join(root, folder))
    except OSError as error:
      raise errors.UserError(
          f'The folder {os.path.join(root, folder)} cannot be listed '
          f'({error.strerror}).') from None
    here = found.st_dev, found.st_ino
    visits[here] += 1
    if here in above or visits[here] > _MAX_VISITS:
      raise errors.UserError(
          f'{os.path.join(root, folder)} leads to a folder that it lies in, '
          'or that many others lead to. Remove the links.')
    for entry in entries:
      if entry.name.startswith(('.', '__MACOSX')):
        continue
      name = f'{folder}/{entry.name}' if folder else entry.name
      if entry.is_dir():
        pending.append((name, (*above, here)))
      elif entry.name.lower().endswith(transforms.EXTENSIONS):
        files[name] = _size(entry)
        if files[name] > transforms.MAX_BYTES:
          raise errors.UserError(
              f'{os.path.join(root, name)} has {files[name]} bytes, more '
              f'than the {transforms.MAX_BYTES} that are read; expected an '
              'image. Shrink or remove it.')
  return files


def _size(entry: os.DirEntry) -> int:
  try:
    return entry.stat().st_size
  except OSError:  # a dangling link: told when it is opened
    return -1
