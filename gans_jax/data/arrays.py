"""Data sets that fit in memory as one uint8 array: IDX and CIFAR."""

import dataclasses

import numpy as np

from gans_jax.core import errors
from gans_jax.data import spec as spec_lib
from gans_jax.data import transforms


class Source:
  """Rows of a uint8 array as examples: `image`, and perhaps `label`.

  Resizing happens when a row is read (some 20 us), so that opening is instant.
  """

  def __init__(self, images: np.ndarray, labels: np.ndarray | None,
               geometry: transforms.Geometry, spec: spec_lib.DataSpec):
    self._images = images
    self._labels = labels
    self._geometry = geometry
    self._as_stored = images.shape[1:] == spec.shapes[0][1]
    self.spec = spec

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    example = {'image': self._image(index)}
    if self._labels is not None:
      example['label'] = self._labels[index]
    return example

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of several examples, stacked."""
    if self._as_stored:
      result = {'image': self._images[indices]}
    else:
      result = {'image': np.stack([self._image(i) for i in indices])}
    if self._labels is not None:
      result['label'] = self._labels[indices]
    return result

  def _image(self, index):
    if self._as_stored:
      return self._images[index]
    return transforms.apply(transforms.array_to_image(self._images[index]),
                            self._geometry, f'image {index}')

  def __repr__(self) -> str:
    return f'arrays.Source({self.spec.identity})'


def create(
    images: np.ndarray,
    labels: np.ndarray | None,
    class_names: tuple[str, ...],
    facts: dict,
    data_config,
) -> Source:
  """Returns the source of an array.

  Args:
    images: uint8 [N, H, W, C], C 1 or 3.
    labels: integers [N], or None for no labels.
    class_names: a name per class.
    facts: what identifies the pixels.
    data_config: the data section of a config.

  Raises:
    UserError: images that are not square, without a crop.
  """
  how = transforms.geometry(data_config)
  height, width = images.shape[1:3]
  if height != width and how.crop == 'none':
    raise errors.UserError(
        f'The images of {data_config.get("source")} are {width}x{height}; '
        'expected squares. Set data.crop=center (or pad).')
  if not how.resolution:
    side = max(height, width) if how.crop == 'pad' else min(height, width)
    how = dataclasses.replace(how, resolution=side)
  if labels is not None:
    labels = labels.astype(np.int32)
  spec = spec_lib.image_spec(
      resolution=how.resolution, channels=how.channels,
      num_examples=len(images),
      num_classes=0 if labels is None else len(class_names),
      class_names=() if labels is None else class_names,
      facts={**facts, **how.facts()})
  return Source(images, labels, how, spec)
