"""`scenes`: the shipped emoji pasted on canvases; real pixels, exact truth.

A pure function of split and index, like `shapes`, with pictures that people
drew. Splits have the same emoji in different scenes; the option `subset`
keeps emoji apart.

Source names: `scenes`, or with options `scenes:vendor=noto,objects=1-2`.
  vendor   'noto' or 'twemoji'
  objects  how many, 'a-b' or 'n' within 1-8; each number equally likely.
           Arrays have the larger number as their O
  size     longer side of an emoji in percent of the canvas, 'a-b'
  subset   which emoji occur. Every fifth name, in alphabetical order, is held
           out in all its skin tones: 'all', 'seen', 'heldout'
  classes  what box_labels and label_map tell apart: 'group' (9) or
           'subgroup' (98)

Keys of an example (R = resolution; counts of pixels from the top left):
  image         uint8 [R, R, 3]
  label         int32, by data.labels: 'group' or 'subgroup' of object 0, or
                'count' (n - 1)
  label_map     int32 [R, R]: 0 background, class + 1
  instance_map  int32 [R, R]: 0 background, i + 1 for object i
  masks         uint8 [R, R, O]: the alpha with which object i was pasted,
                whole, also where another object lies over it
  boxes         float32 [O, 4]: (x0, y0, w, h) / R; pad (-.6, -.6, .5, .5)
  box_labels    int32 [O]: class + 1; pad 0
  box_valid     bool [O]
  tokens        int32 [5, 64]: word ids of the captions (see captions.py)
  text_mask     bool [5, 64]: True up to and with the end mark
  attributes    int32 [2 + O]: background, count, and the number of each
                emoji in metadata.json; pad -1
  captions      str [5], one per template; in examples, not in batches

A pixel belongs to an object where its alpha is at least 128 (half of its
largest alpha, for the few emoji that are fainter); a box is the tight box of
those pixels. Boxes overlap by at most .05 in IoU, the smaller one in front.
Emoji hold letters, flags and clocks: mirror them only if that is no matter.
"""

import functools
import math

import numpy as np
from PIL import Image

from gans_jax.core import errors
from gans_jax.data import captions
from gans_jax.data import emoji
from gans_jax.data import procedural
from gans_jax.data import spec as spec_lib

BACKGROUNDS = ('plain', 'graded')
MAX_OBJECTS = 8
MAX_IOU = 0.05
NUM_EXAMPLES = {'train': 50_000, 'val': 5_000, 'test': 5_000}
LABELS = ('none', 'group', 'subgroup', 'count')
OPTIONS = {'vendor': 'noto', 'objects': '1-4', 'size': '25-50',
           'subset': 'all', 'classes': 'group'}

_NAMED = 2         # objects that a caption names; the others are counted
_NUM_TOKENS = 64
_VERSION = 1       # raise when pixels change


def create_source(data_config, split: str) -> 'Source':
  """Returns one split of `scenes`.

  Args:
    data_config: `source`, `resolution`, `labels` ('none' leaves the label
      out) and `seed` are read.
    split: 'train' (50,000 examples), 'val' or 'test' (5,000).

  Raises:
    UserError: an option, the resolution or the split is not possible.
  """
  source = data_config.get('source', 'scenes')
  options = procedural.parse_options(source, OPTIONS)
  procedural.check_split('scenes', split)
  resolution = data_config.get('resolution', 64)
  if resolution < 16:
    raise errors.UserError(
        f'data.resolution is {resolution}; scenes need at least 16 pixels.')
  channels = data_config.get('channels', 3)
  if channels != 3:
    raise errors.UserError(
        f'data.channels is {channels}; scenes are coloured and have 3.')
  for key, known in (('vendor', emoji.VENDORS),
                     ('subset', ('all', 'seen', 'heldout')),
                     ('classes', ('group', 'subgroup'))):
    procedural.choose(source, key, options[key], known)
  labels = procedural.choose(source, 'data.labels',
                             data_config.get('labels', 'none'), LABELS)
  objects = procedural.parse_range(source, 'objects', options['objects'], int,
                                   1, MAX_OBJECTS)
  sizes = procedural.parse_range(source, 'size', options['size'], int, 5, 90)
  # Boxes that hardly overlap must fit, or a scene would never be found.
  if objects[1] * sizes[0] ** 2 > 0.5 * 100 ** 2:
    raise errors.UserError(
        f"data.source '{source}': {objects[1]} objects of at least {sizes[0]} "
        'percent of the side do not fit a canvas. Take fewer or smaller ones.')
  return Source(split, resolution, labels, options['vendor'], objects, sizes,
                options['subset'], options['classes'],
                data_config.get('seed', 0))


@functools.cache
def vocabulary() -> captions.Vocabulary:
  """The words of all names, tones and templates: about 1,900."""
  facts = emoji.metadata()
  return captions.Vocabulary(
      [captions.TEMPLATE_WORDS, 'more', *BACKGROUNDS, *'123456',
       *(emoji.caption(entry) for entry in facts['images'])], _NUM_TOKENS)


@functools.cache
def held_out() -> frozenset[int]:
  """Numbers of the emoji that the subset 'heldout' consists of."""
  images = emoji.metadata()['images']
  names = sorted({entry['name'] for entry in images})[::5]
  return frozenset(
      i for i, entry in enumerate(images) if entry['name'] in set(names))


class Source:
  """One split: a sequence of examples, each computed when asked for."""

  def __init__(self, split: str, resolution: int, labels: str, vendor: str,
               objects: tuple[int, int], sizes: tuple[int, int], subset: str,
               classes: str, seed: int):
    self._split = split
    self._resolution = resolution
    self._labels = labels
    self._vendor = vendor
    self._objects = objects
    self._sizes = sizes
    self._subset = subset
    self._classes = classes
    self._seed = seed
    facts = emoji.metadata()
    self._images = facts['images']
    self._numbers = {
        kind: {name: i for i, name in enumerate(facts[f'{kind}s'])}
        for kind in ('group', 'subgroup')}
    self._chosen = [
        i for i in range(len(self._images)) if subset == 'all'
        or (i in held_out()) == (subset == 'heldout')]
    self.vocabulary = vocabulary()
    self.spec = self._make_spec()

  def _make_spec(self) -> spec_lib.DataSpec:
    side, most = self._resolution, self._objects[1]
    names = {'none': (), 'count': tuple(str(i + 1) for i in range(most))}
    names = names.get(self._labels) if self._labels in names else tuple(
        self._numbers[self._labels])
    texts = (captions.PER_IMAGE, _NUM_TOKENS)
    return spec_lib.image_spec(
        resolution=side, channels=3, num_examples=len(self),
        num_classes=len(names), class_names=names, extra=(
            ('label_map', (side, side), 'int32'),
            ('instance_map', (side, side), 'int32'),
            ('masks', (side, side, most), 'uint8'),
            ('boxes', (most, 4), 'float32'),
            ('box_labels', (most,), 'int32'),
            ('box_valid', (most,), 'bool'),
            ('tokens', texts, 'int32'), ('text_mask', texts, 'bool'),
            ('attributes', (2 + most,), 'int32')),
        facts=dict(
            source='scenes', version=_VERSION, split=self._split,
            labels=self._labels, vendor=self._vendor, objects=self._objects,
            sizes=self._sizes, subset=self._subset, classes=self._classes,
            seed=self._seed))

  def __len__(self) -> int:
    return NUM_EXAMPLES[self._split]

  def __repr__(self) -> str:
    return f'scenes.Source({self._split!r}, {self.spec.identity})'

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = procedural.check_index(index, len(self))
    side = self._resolution
    draw = procedural.uniforms(
        procedural.generator(self._seed, self._split, index))
    low, high = self._objects
    count = low + int(next(draw) * (high - low + 1))
    background, canvas = self._draw_background(draw)
    which = [self._chosen[int(next(draw) * len(self._chosen))]
             for _ in range(count)]
    # Sizes that find no room are drawn again together, so that the number of
    # objects stays uniform; many of them are smaller on average.
    while True:
      pictures = [self._draw_picture(i, draw) for i in which]
      boxes = procedural.place([p['size'] for p in pictures], side, MAX_IOU,
                               draw)
      if boxes:
        break

    label_map = np.zeros([side, side], np.int32)
    instance_map = np.zeros([side, side], np.int32)
    masks = np.zeros([side, side, high], np.uint8)
    classes = [self._class(i, self._classes) for i in which]
    for i in sorted(range(count), key=lambda i: -boxes[i][2] * boxes[i][3]):
      opaque = _paste(pictures[i], boxes[i], canvas, masks[:, :, i])
      label_map[opaque] = classes[i] + 1
      instance_map[opaque] = i + 1

    texts = self._describe(which, boxes, BACKGROUNDS[background])
    attributes = np.full([2 + high], -1, np.int32)
    attributes[:2 + count] = background, count, *which
    example = {
        'image': (canvas + 0.5).astype(np.uint8), 'label_map': label_map,
        'instance_map': instance_map, 'masks': masks,
        'attributes': attributes, 'captions': np.array(texts)}
    example.update(self.vocabulary.encode(texts))
    example.update(procedural.pad_boxes(
        np.array(boxes) / side, [c + 1 for c in classes], high))
    if self._labels == 'count':
      example['label'] = np.int32(count - 1)
    elif self._labels != 'none':
      example['label'] = np.int32(self._class(which[0], self._labels))
    return example

  def _class(self, image: int, kind: str) -> int:
    return self._numbers[kind][self._images[image][kind]]

  def _describe(self, which: list[int], boxes, background: str) -> list[str]:
    things = [emoji.caption(self._images[i]) for i in which[:_NAMED]]
    texts = captions.describe(things, boxes, background, self._resolution)
    if len(which) > _NAMED:
      texts = [f'{text} , and {len(which) - _NAMED} more' for text in texts]
    return texts

  def _draw_background(self, draw) -> tuple[int, np.ndarray]:
    """Kind, and float32 [R, R, 3] in [0, 255]: one colour, or two in a ramp."""
    kind = int(next(draw) * len(BACKGROUNDS))
    first, second = (
        np.array([255 * next(draw) for _ in range(3)], np.float32)
        for _ in range(2))
    angle = 2 * math.pi * next(draw)
    side = self._resolution
    if kind == 0:
      return kind, np.broadcast_to(first, [side, side, 3]).copy()
    # From one end of the canvas to the other, along the angle.
    centred = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    x = np.float32(math.cos(angle)) * centred[None, :]
    y = np.float32(math.sin(angle)) * centred[:, None]
    reach = abs(math.cos(angle)) + abs(math.sin(angle))
    share = (x + y) / np.float32(reach) + np.float32(0.5)
    return kind, first + share[:, :, None] * (second - first)

  def _draw_picture(self, image: int, draw) -> dict:
    """One emoji at a random size.

    Returns:
      `rgba` uint8 [h, w, 4]; `opaque` bool [h, w], the pixels that count as
      the object; `corner` (x, y) and `size` (w, h), ints, the tight box of
      `opaque` in the picture.
    """
    low, high = self._sizes
    longest = (low + (high - low) * next(draw)) / 100 * self._resolution
    x0, y0, x1, y1 = _extents(self._vendor)[image]
    scale = longest / max(x1 - x0, y1 - y0)
    size = (max(1, round(scale * (x1 - x0))), max(1, round(scale * (y1 - y0))))
    tile = Image.fromarray(emoji.tiles(self._vendor)[image])
    # Pillow filters RGBA with premultiplied alpha, and widens the filter
    # when it shrinks: no dark rims, no aliasing.
    tile = tile.resize(size, Image.Resampling.BICUBIC, (x0, y0, x1, y1))
    rgba = np.asarray(tile)
    alpha = rgba[:, :, 3]
    peak = int(alpha.max())
    opaque = alpha >= (128 if peak >= 128 else max(1, peak // 2))
    columns = np.flatnonzero(opaque.any(0))
    rows = np.flatnonzero(opaque.any(1))
    corner = int(columns[0]), int(rows[0])
    size = (int(columns[-1]) - corner[0] + 1, int(rows[-1]) - corner[1] + 1)
    return dict(rgba=rgba, opaque=opaque, corner=corner, size=size)


@functools.cache
def _extents(vendor: str) -> list[tuple[int, int, int, int]]:
  """The box (x0, y0, x1, y1) of every emoji in its tile."""
  seen = emoji.tiles(vendor)[..., 3] > 0
  side = seen.shape[1]
  columns, rows = seen.any(1), seen.any(2)  # [N, 64] each
  return list(zip(
      columns.argmax(1).tolist(), rows.argmax(1).tolist(),
      (side - columns[:, ::-1].argmax(1)).tolist(),
      (side - rows[:, ::-1].argmax(1)).tolist(), strict=True))


def _paste(picture: dict, box, canvas: np.ndarray, mask: np.ndarray
           ) -> np.ndarray:
  """Pastes a picture so that its opaque pixels fill the box, in place.

  Faint rims reach past the box, and past the canvas, where they are cut.

  Args:
    picture: from `_draw_picture`.
    box: (x0, y0, w, h) in pixels.
    canvas: float32 [R, R, 3] in [0, 255].
    mask: uint8 [R, R], receives the alpha.

  Returns:
    bool [R, R]: the opaque pixels.
  """
  side = canvas.shape[0]
  left, top = (int(box[k]) - picture['corner'][k] for k in (0, 1))
  height, width = picture['opaque'].shape
  rows = slice(max(top, 0), min(top + height, side))
  columns = slice(max(left, 0), min(left + width, side))
  part = (slice(rows.start - top, rows.stop - top),
          slice(columns.start - left, columns.stop - left))
  rgba = picture['rgba'][part]
  mask[rows, columns] = rgba[:, :, 3]
  alpha = rgba[:, :, 3:].astype(np.float32) / np.float32(255)
  window = canvas[rows, columns]
  window += alpha * (rgba[:, :, :3] - window)
  opaque = np.zeros(canvas.shape[:2], bool)
  opaque[rows, columns] = picture['opaque'][part]
  return opaque
