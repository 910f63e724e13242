"""`folder:PATH`: a folder of images.

With a dataset.json in it, that file holds the labels (StyleGAN2-ADA's layout).
Without, and with all images in subfolders, the class is the first subfolder
and classes are numbered in the order of their sorted names. Images that lie in
PATH itself have no labels. Hidden files and folders are passed over.
"""

import os
from typing import BinaryIO

from gans_jax.core import errors
from gans_jax.data import image_files
from gans_jax.data import transforms


class FolderReader:
  """Opens files below a root by their relative, '/'-separated name."""

  def __init__(self, root: str):
    self._root = root

  def open(self, name: str) -> BinaryIO:
    try:
      return open(os.path.join(self._root, name), 'rb')
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
    with open(annotation, 'rb') as stream:
      labels, class_names = image_files.read_dataset_json(
          stream.read(), annotation, files)
  elif files and all('/' in name for name in files):
    class_names = tuple(sorted({name.split('/')[0] for name in files}))
    number = {name: i for i, name in enumerate(class_names)}
    labels = {name: number[name.split('/')[0]] for name in files}
  return image_files.create(FolderReader(root), root, files, labels,
                            class_names, data_config)


def list_files(root: str) -> dict[str, int]:
  """Returns relative name -> bytes of all images below `root`."""
  files = {}
  pending = ['']
  while pending:
    folder = pending.pop()
    try:
      entries = list(os.scandir(os.path.join(root, folder)))
    except OSError as error:
      raise errors.UserError(
          f'The folder {os.path.join(root, folder)} cannot be listed '
          f'({error.strerror}).') from None
    for entry in entries:
      if entry.name.startswith(('.', '__MACOSX')):
        continue
      name = f'{folder}/{entry.name}' if folder else entry.name
      if entry.is_dir():
        pending.append(name)
      elif entry.name.lower().endswith(transforms.EXTENSIONS):
        files[name] = _size(entry)
  return files


def _size(entry: os.DirEntry) -> int:
  try:
    return entry.stat().st_size
  except OSError:  # a dangling link: told when it is opened
    return -1
