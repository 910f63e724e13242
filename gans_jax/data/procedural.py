"""What the data sets that are computed, not read, have in common.

An example is a pure function of (seed, split, index). Its random numbers come
from a Philox stream whose key is (seed, split) and whose counter starts at
index * 2^128: streams of two examples never meet, in whatever order, process
or machine they are drawn.
"""

from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from gans_jax.core import errors

SPLITS = {'train': 0, 'val': 1, 'test': 2}
# LostGAN's convention for the rows of `boxes` that hold no object: the row
# lies outside the canvas, so that whatever is pasted into it disappears.
PAD_BOX = (-0.6, -0.6, 0.5, 0.5)


def generator(seed: int, split: str, index: int) -> np.random.Generator:
  """Returns the random generator of one example."""
  return np.random.Generator(np.random.Philox(
      key=[seed, SPLITS[split]], counter=[0, 0, index, 0]))


def uniforms(rng: np.random.Generator) -> Iterator[float]:
  """Yields floats in [0, 1), drawn in blocks: one call costs far more."""
  while True:
    yield from rng.random(64).tolist()


def check_index(index: int, length: int) -> int:
  """Returns index as an int; raises IndexError outside [0, length)."""
  if not 0 <= index < length:
    raise IndexError(f'example {index} of a split of {length}')
  return int(index)


def check_split(name: str, split: str) -> None:
  """Raises UserError for a split that does not exist."""
  if split not in SPLITS:
    raise errors.UserError(
        f"data.split is '{split}', but '{name}' has the splits "
        f"{', '.join(SPLITS)}. Choose one of them.")


def parse_options(source: str, defaults: dict[str, str]) -> dict[str, str]:
  """Reads 'name:key=value,key=value' against the options that exist.

  Raises:
    UserError: an item is not key=value, or its key is not in `defaults`.
  """
  name, _, rest = source.partition(':')
  options = dict(defaults)
  for item in filter(None, rest.split(',')):
    key, equals, value = item.partition('=')
    if not equals or key not in defaults:
      known = ','.join(f'{k}={v}' for k, v in defaults.items())
      raise errors.UserError(
          f"data.source '{source}': found '{item}', expected key=value with a "
          f"key that '{name}' knows. With its defaults: '{name}:{known}'.")
    options[key] = value
  return options


def parse_range(source: str, key: str, text: str, kind: type, low: float,
                high: float) -> tuple:
  """Reads 'a-b' or 'a' as a pair a <= b within [low, high].

  Raises:
    UserError: it is not such a pair.
  """
  try:
    pair = [kind(part) for part in text.split('-')]
    first, last = pair if len(pair) == 2 else (*pair, *pair)
  except (ValueError, TypeError):
    first, last = 1, 0
  if not low <= first <= last <= high:
    raise errors.UserError(
        f"data.source '{source}': {key}={text}, expected a number or a range "
        f'such as {low}-{high}, within {low} and {high}.')
  return first, last


def choose(source: str, key: str, value: str, known: Sequence[str]) -> str:
  """Returns value; raises UserError if it is not one of `known`."""
  if value not in known:
    raise errors.UserError(
        f"data.source '{source}': {key} is '{value}', expected one of "
        f"{', '.join(known)}.")
  return value


def iou(a: Sequence[float], b: Sequence[float]) -> float:
  """Intersection over union of two boxes (x0, y0, w, h)."""
  width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
  height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
  if width <= 0 or height <= 0:
    return 0.0
  both = width * height
  return both / (a[2] * a[3] + b[2] * b[3] - both)


def place(sizes: Sequence[tuple[float, float]], extent: float, max_iou: float,
          draw: Iterator[float], attempts: int = 40
          ) -> list[tuple[float, float, float, float]] | None:
  """Puts boxes on a canvas, uniformly but for the limit on their overlap.

  Args:
    sizes: (w, h) per box. Ints are placed on whole pixels.
    extent: side of the square canvas, in the unit of sizes.
    max_iou: largest intersection over union of any two boxes.
    draw: uniform numbers.
    attempts: positions tried per box before giving up.

  Returns:
    (x0, y0, w, h) per box, in the order of sizes, or None if one found no
    room.
  """
  boxes = {}
  # The largest first: it is the one that finds no room later.
  for i in sorted(range(len(sizes)), key=lambda i: -sizes[i][0] * sizes[i][1]):
    w, h = sizes[i]
    for _ in range(attempts):
      if isinstance(w, int):
        x0 = int(next(draw) * (extent - w + 1))
        y0 = int(next(draw) * (extent - h + 1))
      else:
        x0, y0 = next(draw) * (extent - w), next(draw) * (extent - h)
      box = (x0, y0, w, h)
      if all(iou(box, other) <= max_iou for other in boxes.values()):
        boxes[i] = box
        break
    else:
      return None
  return [boxes[i] for i in range(len(sizes))]


def pad_boxes(boxes: Sequence[Sequence[float]], labels: Sequence[int],
              max_objects: int) -> dict[str, np.ndarray]:
  """Returns `boxes`, `box_labels` and `box_valid`, padded to max_objects.

  Args:
    boxes: (x0, y0, w, h) in units of the canvas, per object.
    labels: class from 1, per object; 0 is left for padding.
    max_objects: rows of the result.
  """
  count = len(boxes)
  padded = np.empty([max_objects, 4], np.float32)
  padded[:] = PAD_BOX
  padded[:count] = boxes
  box_labels = np.zeros([max_objects], np.int32)
  box_labels[:count] = labels
  return {'boxes': padded, 'box_labels': box_labels,
          'box_valid': box_labels != 0}
