"""CIFAR-10 and CIFAR-100 from their archives."""

import os

import tensorflow_datasets as tfds

from gans_jax.core import errors
from gans_jax.data import cifar
from gans_jax.data import prepared

_TEN = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog',
        'horse', 'ship', 'truck')


class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Ten classes of small colour photographs."""

  name = 'cifar10'
  VERSION = tfds.core.Version('3.0.2')
  # TFDS looks for checksums of downloads beside the code; there are none, and
  # looking needs importlib_resources, which TFDS does not install.
  code_path = None
  _STEM = 'cifar-10-'

  def __init__(self, *, manual_dir: str, **kwargs):
    self._path = _archive(manual_dir, self._STEM)
    super().__init__(**kwargs)

  def _labels(self) -> dict:
    return {'label': tfds.features.ClassLabel(names=list(_TEN))}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description=f'{self.name} from its archive.',
        features=tfds.features.FeaturesDict({
            'id': tfds.features.Text(),
            'image': tfds.features.Image(shape=(32, 32, 3)),
            **self._labels(),
        }),
        supervised_keys=('image', 'label'),
        homepage='https://www.cs.toronto.edu/~kriz/cifar.html',
        disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split)
            for split in ('train', 'test')}

  def _generate_examples(self, split):
    content = cifar.load(self._path, split)
    columns = {'label': 'label', 'coarse_label': 'coarse'}
    for i, image in enumerate(content['image']):
      yield i, {'id': f'{split}_{i:05d}',
                'image': prepared.encode_png(image),
                **{feature: int(content[columns[feature]][i])
                   for feature in self._labels()}}


class Cifar100(Cifar10, skip_registration=True):
  """A hundred classes in twenty groups."""

  name = 'cifar100'
  _STEM = 'cifar-100-'

  def _labels(self) -> dict:
    content = cifar.load(self._path, 'test')
    if 'coarse' not in content:
      raise errors.UserError(f'{self._path} is not CIFAR-100.')
    return {
        'label': tfds.features.ClassLabel(names=list(content['label_names'])),
        'coarse_label': tfds.features.ClassLabel(
            names=list(content['coarse_names'])),
    }


def _archive(path: str, stem: str) -> str:
  """Returns the archive below `path`, or `path` if it is one itself."""
  if os.path.isdir(path) and not cifar.is_cifar_folder(path):
    found = sorted(name for name in os.listdir(path)
                   if name.startswith(stem) and (
                       name.endswith(('.tar.gz', '.tar'))
                       or os.path.isdir(os.path.join(path, name))))
    if not found:
      raise errors.UserError(
          f'{path} holds nothing named {stem}*; expected {stem}python.tar.gz '
          f'or {stem}binary.tar.gz, or the folder that one unpacks to.')
    return os.path.join(path, found[0])
  return path
