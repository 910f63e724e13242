"""Stacked MNIST: three random digits as R, G and B; 1000 modes to count.

Source names: `stacked_mnist:PATH`, `stacked_mnist:veegan:PATH` (the same) and
`stacked_mnist:unrolled:PATH`, PATH as for `idx:PATH`: the folder of the IDX
files of MNIST or of another set of ten classes.

- veegan (VEEGAN, PacGAN section 4.2): 128,000 fixed stacks, from all 70,000
  digits, those of the test files included.
- unrolled (Unrolled GANs section 3.3.1, PacGAN): fresh stacks of the 60,000
  training digits. The papers draw without end; here are 12,800,000 stacks, an
  epoch of 100,000 steps at their batch of 128, after which they repeat.

The split 'test' has 26,000 other stacks: of the same 70,000 digits (veegan),
or of the 10,000 test digits (unrolled).

Digits are 28 px. data.resolution=32 with data.crop=pad adds a black frame and
keeps every pixel; other crops resize with data.filter. `label` (where
data.labels=class) is 100 r + 10 g + b. Stack i is a pure function of
(data.seed, split, i); the digits of a stack are drawn independently.
"""

import dataclasses
import hashlib
import os

import numpy as np

from gans_jax.core import errors
from gans_jax.data import idx
from gans_jax.data import procedural
from gans_jax.data import spec as spec_lib
from gans_jax.data import transforms

VARIANTS = ('veegan', 'unrolled')
NUM_EXAMPLES = {('veegan', 'train'): 128_000, ('unrolled', 'train'): 12_800_000,
                ('veegan', 'test'): 26_000, ('unrolled', 'test'): 26_000}
CLASS_NAMES = tuple(f'{label:03d}' for label in range(1000))

_VERSION = 1  # raise when stacks change


def create_source(data_config, split: str) -> 'Source':
  """Opens `stacked_mnist:[VARIANT:]PATH`; see the module.

  Args:
    data_config: `source`, `labels` ('none' or 'class'), `seed` and the image
      keys are read.
    split: 'train' or 'test'.

  Raises:
    UserError: no such split, files absent or damaged, or not ten classes.
  """
  source = data_config.get('source')
  variant, colon, path = source.partition(':')[2].partition(':')
  if not colon or variant not in VARIANTS:
    variant, path = 'veegan', source.partition(':')[2]
  if split not in idx.SPLITS:
    raise errors.UserError(
        f"data.split is '{split}', but stacked_mnist has train and test.")
  labels = procedural.choose(source, 'data.labels',
                             data_config.get('labels', 'none'),
                             ('none', 'class'))
  how = transforms.geometry(data_config)
  if how.channels != 3:
    raise errors.UserError(
        f'data.channels is {how.channels}; stacked_mnist has one digit in '
        'each of 3.')
  path = os.path.expanduser(path)
  files = ('train', 'test') if variant == 'veegan' else (split,)
  parts = [idx.load(path, name) for name in files]
  sizes = {images.shape[1:] for images, _ in parts}
  if len(sizes) > 1 or len(set(*sizes)) > 1:
    raise errors.UserError(
        f'The images of {path} have the sizes {sorted(sizes)}; expected '
        'squares of one size.')
  digits = np.concatenate([images for images, _ in parts])
  values = np.concatenate([values for _, values in parts])
  if values.min() < 0 or values.max() > 9:
    raise errors.UserError(
        f'The labels of {path} go from {values.min()} to {values.max()}; '
        'stacked_mnist expects ten classes, 0 to 9, as in MNIST.')
  if not how.resolution:
    how = dataclasses.replace(how, resolution=digits.shape[1])
  return Source(digits, values, variant, split, how, labels == 'class',
                data_config.get('seed', 0))


class Source:
  """Stacks of three digits, put together when they are read."""

  def __init__(self, digits: np.ndarray, values: np.ndarray, variant: str,
               split: str, geometry: transforms.Geometry, labelled: bool,
               seed: int):
    self._digits = digits
    self._values = values
    self._geometry = geometry
    self._labelled = labelled
    # A number per (seed, split), far from that of any other.
    self._key = _mix(procedural.SPLITS[split], _mix(seed % 2**64, 0))
    self.spec = spec_lib.image_spec(
        resolution=geometry.resolution, channels=3,
        num_examples=NUM_EXAMPLES[variant, split],
        num_classes=1000 if labelled else 0,
        class_names=CLASS_NAMES if labelled else (), facts={
            'source': 'stacked_mnist', 'version': _VERSION,
            'variant': variant, 'split': split, 'seed': seed,
            'digits': hashlib.sha256(digits.tobytes()).hexdigest(),
            **geometry.facts()})

  def __len__(self) -> int:
    return self.spec.num_examples

  def __repr__(self) -> str:
    return f'stacked_mnist.Source({self.spec.identity})'

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = procedural.check_index(index, len(self))
    return {key: leaf[0] for key, leaf in self.take(np.array([index])).items()}

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of several stacks, along a new axis 0."""
    which = self.digits_of(indices)  # [N, 3]
    images = np.ascontiguousarray(np.moveaxis(self._digits[which], 1, 3))
    if images.shape[1] != self._geometry.resolution:
      images = np.stack([
          transforms.apply(transforms.array_to_image(image), self._geometry,
                           'a stack of digits') for image in images])
    batch = {'image': images}
    if self._labelled:
      red, green, blue = self._values[which].T
      batch['label'] = (100 * red + 10 * green + blue).astype(np.int32)
    return batch

  def digits_of(self, indices: np.ndarray) -> np.ndarray:
    """Which digits a stack consists of.

    Args:
      indices: ints [N], of stacks.

    Returns:
      int64 [N, 3], rows of the training digits, then (veegan) of the test
      digits, for R, G and B.
    """
    counter = (3 * np.asarray(indices, np.uint64)[:, None]
               + np.arange(3, dtype=np.uint64)[None, :])
    bits = _mix(_mix(counter, 0), self._key)
    return (bits % np.uint64(len(self._digits))).astype(np.int64)


def _mix(x, key) -> np.ndarray:
  """splitmix64 of x + key: uint64, one to one in x, well scrambled."""
  with np.errstate(over='ignore'):
    x = np.asarray(x, np.uint64) + np.asarray(key, np.uint64)
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
