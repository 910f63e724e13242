"""MNIST, Fashion-MNIST, KMNIST and EMNIST from their IDX files."""

import os

import tensorflow_datasets as tfds

from gans_jax.data import idx
from gans_jax.data import prepared


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The features that stock TFDS gives to these four data sets."""

  VERSION = tfds.core.Version('3.0.1')
  # TFDS looks for checksums of downloads beside the code; there are none, and
  # looking needs importlib_resources, which TFDS does not install.
  code_path = None
  CLASSES: tuple[str, ...] | int = 10
  HOMEPAGE = ''

  def __init__(self, *, manual_dir: str, **kwargs):
    self._manual_dir = manual_dir
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    classes = self.CLASSES
    label = (tfds.features.ClassLabel(num_classes=classes)
             if isinstance(classes, int)
             else tfds.features.ClassLabel(names=list(classes)))
    return tfds.core.DatasetInfo(
        builder=self,
        description=f'{self.name} from its IDX files.',
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(28, 28, 1)),
            'label': label,
        }),
        supervised_keys=('image', 'label'),
        homepage=self.HOMEPAGE,
        disable_shuffling=True,
    )

  def _source(self) -> str:
    return self._manual_dir

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split)
            for split in ('train', 'test')}

  def _generate_examples(self, split):
    image_file, label_file = idx.find(self._source(), split)
    images, labels = idx.read(image_file), idx.read(label_file)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      yield i, {'image': prepared.encode_png(image[..., None]),
                'label': int(label)}


class Mnist(_Builder, skip_registration=True):
  """Handwritten digits."""

  name = 'mnist'
  HOMEPAGE = 'http://yann.lecun.com/exdb/mnist/'


class FashionMnist(_Builder, skip_registration=True):
  """Clothes."""

  name = 'fashion_mnist'
  CLASSES = ('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal',
             'Shirt', 'Sneaker', 'Bag', 'Ankle boot')
  HOMEPAGE = 'https://github.com/zalandoresearch/fashion-mnist'


class Kmnist(_Builder, skip_registration=True):
  """Cursive Japanese characters."""

  name = 'kmnist'
  CLASSES = ('o', 'ki', 'su', 'tsu', 'na', 'ha', 'ma', 'ya', 're', 'wo')
  HOMEPAGE = 'http://codh.rois.ac.jp/kmnist/'


class Emnist(_Builder, skip_registration=True):
  """Letters and digits; images are stored transposed, as in stock TFDS."""

  name = 'emnist'
  VERSION = tfds.core.Version('3.1.0')
  HOMEPAGE = 'https://www.nist.gov/itl/products-and-services/emnist-dataset'
  _COUNTS = {'byclass': 62, 'bymerge': 47, 'balanced': 47, 'letters': 37,
             'digits': 10, 'mnist': 10}
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in _COUNTS]

  @property
  def CLASSES(self) -> int:  # pylint: disable=invalid-name
    return self._COUNTS[self.builder_config.name]

  def _source(self) -> str:
    return os.path.join(self._manual_dir, f'emnist-{self.builder_config.name}')
