"""What a data set promises: known before a single image is decoded."""

import dataclasses
import hashlib
import json


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Static facts about one split of a data set.

  Attributes:
    resolution: height and width of `image`, in pixels, the longer of them
      where it is not square; 0 where examples are not images (2-D points).
    channels: channels of `image`: 3, or 1 for greyscale; 0 without images.
    num_classes: number of values of `label`; 0 when unlabelled.
    num_examples: examples in the split.
    keys: the batch keys that every example carries (arrays alone: captions,
      being strings, are in an example and never in a batch).
    shapes: (key, shape of one example, dtype name) for every key.
    class_names: a name per class, or empty.
    identity: hash of everything that decides the pixels: source, files,
      resize filter, crop, resolution, label kind.
    tokenizers: (batch key, identity of the tokenizer, number of codes) for
      'tokens' and 'cond_tokens'; see core/tokenizer.py.
  """

  resolution: int
  channels: int
  num_classes: int
  num_examples: int
  keys: tuple[str, ...]
  shapes: tuple[tuple[str, tuple[int, ...], str], ...] = ()
  class_names: tuple[str, ...] = ()
  identity: str = ''
  tokenizers: tuple[tuple[str, str, int], ...] = ()

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(height, width, channels) of `image`."""
    shapes = {key: shape for key, shape, _ in self.shapes}
    return shapes.get('image',
                      (self.resolution, self.resolution, self.channels))


def identity_hash(facts: dict) -> str:
  """Returns 16 hex digits that name `facts`, a JSON-able dict."""
  text = json.dumps(facts, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def image_spec(
    *,
    resolution: int,
    channels: int,
    num_examples: int,
    facts: dict,
    num_classes: int = 0,
    class_names: tuple[str, ...] = (),
    extra: tuple[tuple[str, tuple[int, ...], str], ...] = (),
    size: tuple[int, int] | None = None,
) -> DataSpec:
  """Returns the spec of images with, perhaps, a label.

  Args:
    resolution: height and width in pixels; the longer, with `size`.
    channels: 1 or 3.
    num_examples: examples in the split.
    facts: what decides the pixels and labels, hashed into the identity.
    num_classes: values of `label`; 0 leaves the key `label` out.
    class_names: a name per class, or empty.
    extra: (key, shape, dtype name) of further array keys.
    size: (width, height); squares by default.
  """
  width, height = size or (resolution, resolution)
  shapes = [('image', (height, width, channels), 'uint8')]
  if num_classes:
    shapes.append(('label', (), 'int32'))
  shapes.extend(extra)
  return DataSpec(
      resolution=resolution, channels=channels, num_classes=num_classes,
      num_examples=num_examples, keys=tuple(key for key, _, _ in shapes),
      shapes=tuple(shapes), class_names=tuple(class_names),
      identity=identity_hash({**facts, 'num_classes': num_classes,
                              'num_examples': num_examples,
                              'shapes': shapes}))


def from_json(values: dict) -> DataSpec:
  """Rebuilds a spec from the JSON form of `dataclasses.asdict`."""
  shapes = tuple((key, tuple(shape), dtype)
                 for key, shape, dtype in values['shapes'])
  return DataSpec(**{
      **values, 'shapes': shapes, 'keys': tuple(values['keys']),
      'class_names': tuple(values['class_names']),
      'tokenizers': tuple(map(tuple, values.get('tokenizers', ())))})
