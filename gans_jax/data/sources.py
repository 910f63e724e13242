"""Data sources by one URI-like name, `KIND:REST`.

| name | what it reads |
|---|---|
| emoji:noto, emoji:twemoji, emoji:both | the shipped emoji |
| folder:PATH | images in class subfolders, or with a dataset.json |
| zip:PATH | a zip in the layout of StyleGAN2-ADA's dataset_tool |
| prepared:PATH | what `python -m gans_jax.prepare` wrote |
| idx:PATH | the four IDX files of MNIST, Fashion-MNIST, KMNIST, EMNIST |
| cifar:PATH | the CIFAR-10 or CIFAR-100 archive, python or binary version |
| tfds:NAME | TensorFlow Datasets, read without TensorFlow |
| mixture:NAME | 2-D toy distributions |
| shapes, scenes | procedural images with exact annotations |
| stacked_mnist:PATH | three digits in three channels, from IDX files |

Each kind is a module with `create_source(data_config, split)`. It returns an
object with `spec` (a DataSpec), `__len__`, `__getitem__(i) -> dict`
(deterministic) and a `__repr__` that stays the same from run to run; it may
have `take(indices) -> dict` of stacked arrays, a fast path for data in memory.
"""

import difflib
import importlib

from gans_jax.core import errors

_MODULES = {
    'emoji': 'emoji',
    'folder': 'folder',
    'zip': 'zip_archive',
    'prepared': 'prepared',
    'idx': 'idx',
    'cifar': 'cifar',
    'tfds': 'tfds_source',
    'mixture': 'mixture_source',
    'shapes': 'shapes',
    'scenes': 'scenes',
    'stacked_mnist': 'stacked_mnist',
}
# Those that give images which are not square.
_ANY_ASPECT = ('folder', 'zip', 'prepared')
_NEEDS_PATH = ('folder', 'zip', 'prepared', 'idx', 'cifar', 'tfds', 'mixture',
               'stacked_mnist')


def create_source(data_config, split: str = 'train'):
  """Opens the source that `data_config.source` names.

  Args:
    data_config: the data section of a config, or any mapping with `get`.
    split: 'train', or another that the source has.

  Raises:
    UserError: an unknown kind, and whatever is wrong with the data.
  """
  name = data_config.get('source', '')
  kind, _, rest = name.partition(':')
  if kind not in _MODULES:
    near = difflib.get_close_matches(kind, _MODULES, 1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise errors.UserError(
        f'data.source is {name!r}; expected KIND or KIND:REST with KIND one '
        f'of {", ".join(_MODULES)}.{hint}')
  if kind in _NEEDS_PATH and not rest:
    raise errors.UserError(
        f'data.source is {name!r}; expected {kind}:'
        f'{"NAME" if kind in ("tfds", "mixture") else "PATH"}.')
  if data_config.get('aspect', '') and kind not in _ANY_ASPECT:
    raise errors.UserError(
        f'data.aspect is {data_config.get("aspect")}, but data.source is '
        f'{name!r}: images that are not square come from '
        f'{", ".join(_ANY_ASPECT)} alone. Set data.aspect to nothing.')
  module = importlib.import_module(f'gans_jax.data.{_MODULES[kind]}')
  return module.create_source(data_config, split)
