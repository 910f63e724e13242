"""TFDS builders that prepare ArrayRecord files without TensorFlow.

The stock builders of the MNIST family and of CIFAR hand NumPy images to
TensorFlow's encoder. These read the same original files from a folder that the
user names, encode with Pillow, and write the same names, versions and
features, so that TFDS itself reads the result.
"""

import os

from gans_jax.core import errors

# name -> (module, class, what the user has to have)
BUILDERS = {
    'mnist': ('mnist', 'Mnist', 'the four IDX files'),
    'fashion_mnist': ('mnist', 'FashionMnist', 'the four IDX files'),
    'kmnist': ('mnist', 'Kmnist', 'the four IDX files'),
    'emnist': ('mnist', 'Emnist', 'the emnist-*-idx?-ubyte.gz files'),
    'cifar10': ('cifar', 'Cifar10', 'cifar-10-python.tar.gz (or binary)'),
    'cifar100': ('cifar', 'Cifar100', 'cifar-100-python.tar.gz (or binary)'),
}


def prepare(name: str, manual_dir: str, data_dir: str) -> str:
  """Writes TFDS's ArrayRecord files of a data set.

  Args:
    name: 'mnist', ..., or 'emnist/letters'.
    manual_dir: the folder of the original files, or a CIFAR archive.
    data_dir: where TFDS data sets live.

  Returns:
    The folder of the data set.

  Raises:
    UserError: no such builder or config, or original files absent or damaged.
  """
  import importlib

  import tensorflow_datasets as tfds

  base, _, config = name.partition('/')
  if base not in BUILDERS:
    raise errors.UserError(
        f'There is no builder for {name}; expected one of '
        f'{", ".join(BUILDERS)}.')
  manual_dir = os.path.abspath(os.path.expanduser(manual_dir))
  if not os.path.exists(manual_dir):
    raise errors.UserError(
        f'data.manual_dir is {manual_dir}, which does not exist; expected '
        f'{BUILDERS[base][2]} in it.')
  module = importlib.import_module(
      f'gans_jax.data.builders.{BUILDERS[base][0]}')
  cls = getattr(module, BUILDERS[base][1])
  configs = [entry.name for entry in cls.BUILDER_CONFIGS]
  if config and config not in configs:
    raise errors.UserError(
        f'{base} has no config {config!r}; expected '
        f'{", ".join(configs) or "none"}.')
  builder = cls(manual_dir=manual_dir, data_dir=data_dir,
                config=config or None, file_format='array_record')
  builder.download_and_prepare(
      file_format='array_record',
      download_config=tfds.download.DownloadConfig(
          try_download_gcs=False, compute_stats='skip'))
  return str(builder.data_dir)
