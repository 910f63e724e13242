"""`shapes`: coloured shapes on a canvas, with every condition known exactly.

A pure function of split and index: there are no files. One to four objects,
each with a shape, a hue, a size and a fill, stand on one of three
backgrounds. Every example carries every kind of condition (label map,
instance map, boxes, captions, attributes), so that every conditional system
has data, and a ground truth to be measured against.

Source names: `shapes`, or with options `shapes:objects=1-2,subset=seen`.
  objects  how many, 'a-b' or 'n' within 1-4; each number equally likely
  subset   which of the 24 (shape, colour) pairs occur. A pair is held out if
           (6 * shape + colour) % 5 == 0: 'all', 'seen' (19), 'heldout' (5)

Keys of an example (R = resolution; counts of pixels from the top left):
  image         uint8 [R, R, 3]
  label         int32, by data.labels: 'class' (6 * shape + colour of object
                0), 'shape', 'colour', 'background' or 'count' (n - 1)
  label_map     int32 [R, R]: 0-2 background, 3-6 shape; colour is style
  instance_map  int32 [R, R]: 0 background, i + 1 for object i
  boxes         float32 [4, 4]: (x0, y0, w, h) / R; pad (-.6, -.6, .5, .5)
  box_labels    int32 [4]: 6 * shape + colour + 1; pad 0
  box_valid     bool [4]
  tokens        int32 [5, 32]: word ids of the captions (see captions.py)
  text_mask     bool [5, 32]: True up to and with the end mark
  attributes    int32 [20]: see ATTRIBUTES; -1 where there is nothing to say
  captions      str [5], one per template; in examples, not in batches
A system that takes one text per image draws one of the five rows of `tokens`
and `text_mask` with its own key, anew in every step.

A box spans the whole outline of its object, also where another object hides
a part. Of two objects that overlap the smaller is in front, so that boxes,
which overlap by at most .05 in IoU, always stand for something visible. A
pixel of a map belongs to the object that covers at least half of it.
"""

import colorsys
import math

import numpy as np

from gans_jax.core import errors
from gans_jax.data import captions
from gans_jax.data import procedural
from gans_jax.data import spec as spec_lib

SHAPES = ('circle', 'square', 'triangle', 'ring')
COLOURS = ('red', 'yellow', 'green', 'cyan', 'blue', 'magenta')
SIZES = ('small', 'large')
FILLS = ('solid', 'hatched')
BACKGROUNDS = ('plain', 'striped', 'speckled')
SEMANTIC = BACKGROUNDS + SHAPES
PAIRS = tuple(f'{colour} {shape}' for shape in SHAPES for colour in COLOURS)
HELD_OUT = tuple(range(0, len(PAIRS), 5))
MAX_OBJECTS = 4
MAX_IOU = 0.05
NUM_EXAMPLES = {'train': 50_000, 'val': 5_000, 'test': 5_000}
LABELS = {'class': PAIRS, 'shape': SHAPES, 'colour': COLOURS,
          'background': BACKGROUNDS, 'count': ('1', '2', '3', '4')}
ATTRIBUTES = (
    'background', 'count',
    *(f'{name}_{i}' for i in range(MAX_OBJECTS)
      for name in ('shape', 'colour', 'size', 'fill')),
    'position',  # of object 0: index of captions.POSITIONS
    'relation',  # of object 0 to object 1: index of captions.RELATIONS
)
OPTIONS = {'objects': '1-4', 'subset': 'all'}

_RADIUS = ((0.10, 0.14), (0.18, 0.24))  # per size, in units of the canvas
_HUE_JITTER = 6.0                       # degrees
_HATCH_PERIOD = 0.08                    # in units of the canvas, along x and y
_HATCH_DARK = 0.4                       # brightness of the dark stripes
_SPECKLES = 64                          # cells per side, at every resolution
_SUB = 4                                # samples per pixel and axis
_VERSION = 1                            # raise when pixels change
_NUM_TOKENS = 32                        # of the longest caption, with its end
_CYCLE = 1 << 16                        # one period of stripes, in int16 steps

VOCABULARY = captions.Vocabulary(
    [captions.TEMPLATE_WORDS,
     *SHAPES, *COLOURS, *SIZES, *FILLS, *BACKGROUNDS], _NUM_TOKENS)


def create_source(data_config, split: str) -> 'Source':
  """Returns one split of `shapes`.

  Args:
    data_config: `source`, `resolution`, `labels` ('none' leaves the label
      out) and `seed` are read.
    split: 'train' (50,000 examples), 'val' or 'test' (5,000).

  Raises:
    UserError: an option, the resolution or the split is not possible.
  """
  source = data_config.get('source', 'shapes')
  options = procedural.parse_options(source, OPTIONS)
  procedural.check_split('shapes', split)
  resolution = data_config.get('resolution', 64)
  if resolution < 8:
    raise errors.UserError(
        f'data.resolution is {resolution}; shapes need at least 8 pixels.')
  channels = data_config.get('channels', 3)
  if channels != 3:
    raise errors.UserError(
        f'data.channels is {channels}; shapes are told apart by their colour '
        'and have 3.')
  labels = procedural.choose(source, 'data.labels',
                             data_config.get('labels', 'none'),
                             ('none', *LABELS))
  subset = procedural.choose(source, 'subset', options['subset'],
                             ('all', 'seen', 'heldout'))
  objects = procedural.parse_range(source, 'objects', options['objects'], int,
                                   1, MAX_OBJECTS)
  return Source(split, resolution, labels, subset, objects,
                data_config.get('seed', 0))


class Source:
  """One split: a sequence of examples, each computed when asked for."""

  def __init__(self, split: str, resolution: int, labels: str, subset: str,
               objects: tuple[int, int], seed: int):
    self._split = split
    self._resolution = resolution
    self._labels = labels
    self._objects = objects
    self._seed = seed
    self._subset = subset
    self._pairs = [pair for pair in range(len(PAIRS)) if subset == 'all'
                   or (pair in HELD_OUT) == (subset == 'heldout')]
    # Samples stand in the middle of the cells of a grid of 4 x 4 per pixel.
    samples = _SUB * resolution
    self._sub = ((np.arange(samples) + 0.5) / samples).astype(np.float32)
    self._hatch = _phase(self._sub / _HATCH_PERIOD)
    # A row of weights per pixel: what share of it lies in which speckle cell.
    cells = (self._sub * _SPECKLES).astype(int)
    self._speckle = np.zeros([resolution, _SPECKLES], np.float32)
    np.add.at(self._speckle, (np.arange(samples) // _SUB, cells), 1 / _SUB)
    self.vocabulary = VOCABULARY
    self.spec = self._make_spec()

  def _make_spec(self) -> spec_lib.DataSpec:
    names = LABELS.get(self._labels, ())
    side = self._resolution
    texts = (captions.PER_IMAGE, _NUM_TOKENS)
    return spec_lib.image_spec(
        resolution=side, channels=3, num_examples=len(self),
        num_classes=len(names), class_names=names, extra=(
            ('label_map', (side, side), 'int32'),
            ('instance_map', (side, side), 'int32'),
            ('boxes', (MAX_OBJECTS, 4), 'float32'),
            ('box_labels', (MAX_OBJECTS,), 'int32'),
            ('box_valid', (MAX_OBJECTS,), 'bool'),
            ('tokens', texts, 'int32'), ('text_mask', texts, 'bool'),
            ('attributes', (len(ATTRIBUTES),), 'int32')),
        facts=dict(
            source='shapes', version=_VERSION, split=self._split,
            labels=self._labels, subset=self._subset, objects=self._objects,
            seed=self._seed))

  def __len__(self) -> int:
    return NUM_EXAMPLES[self._split]

  def __repr__(self) -> str:
    return f'shapes.Source({self._split!r}, {self.spec.identity})'

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = procedural.check_index(index, len(self))
    rng = procedural.generator(self._seed, self._split, index)
    draw = procedural.uniforms(rng)
    low, high = self._objects
    count = low + int(next(draw) * (high - low + 1))
    background = int(next(draw) * len(BACKGROUNDS))
    # Objects that find no room are drawn again together: the number of
    # objects stays uniform, and four of them are small more often.
    while True:
      things = [_draw_object(self._pairs, draw) for _ in range(count)]
      boxes = procedural.place([(2 * t['radius'],) * 2 for t in things], 1.0,
                               MAX_IOU, draw)
      if boxes:
        break
    canvas = self._paint_background(background, rng, draw)
    label_map = np.full(canvas.shape[:2], background, np.int32)
    instance_map = np.zeros(canvas.shape[:2], np.int32)
    for i in sorted(range(count), key=lambda i: -things[i]['radius']):
      self._paint(i, things[i], boxes[i], canvas, label_map, instance_map)

    texts = captions.describe(
        [f"{SIZES[t['size']]} {FILLS[t['fill']]} {PAIRS[t['pair']]}"
         for t in things], boxes, BACKGROUNDS[background])
    attributes = np.full([len(ATTRIBUTES)], -1, np.int32)
    attributes[:2] = background, count
    for i, t in enumerate(things):
      shape, colour = divmod(t['pair'], len(COLOURS))
      attributes[2 + 4 * i:6 + 4 * i] = shape, colour, t['size'], t['fill']
    attributes[-2] = captions.position(boxes[0])
    if count > 1:
      attributes[-1] = captions.relation(boxes[0], boxes[1])
    example = {
        'image': (canvas + 0.5).astype(np.uint8), 'label_map': label_map,
        'instance_map': instance_map, 'attributes': attributes,
        'captions': np.array(texts)}
    example.update(self.vocabulary.encode(texts))
    example.update(procedural.pad_boxes(
        boxes, [t['pair'] + 1 for t in things], MAX_OBJECTS))
    if self._labels != 'none':
      pair = things[0]['pair']
      example['label'] = np.int32({
          'class': pair, 'shape': pair // len(COLOURS),
          'colour': pair % len(COLOURS), 'background': background,
          'count': count - 1}[self._labels])
    return example

  def _paint_background(self, kind: int, rng: np.random.Generator,
                        draw) -> np.ndarray:
    """Float32 [R, R, 3] in [0, 255]: two greys, each with a hint of a hue.

    Greys, because colour is how objects are found again in samples.
    """
    level = 0.25 + 0.5 * next(draw)
    other = level + (0.2 if level < 0.5 else -0.2)
    hue = next(draw)
    first, second = (
        255 * np.array(colorsys.hsv_to_rgb(hue, 0.1, value), np.float32)
        for value in (level, other))
    if kind == 0:
      share = np.zeros([self._resolution] * 2, np.float32)
    elif kind == 1:
      angle = math.pi * next(draw)
      period = 0.1 + 0.1 * next(draw)
      x = _phase(self._sub * (math.cos(angle) / period))
      y = _phase(self._sub * (math.sin(angle) / period) + next(draw))
      share = _pool((x[None, :] + y[:, None]) < 0) / np.float32(_SUB ** 2)
    else:
      cells = (rng.random([_SPECKLES] * 2, np.float32) < 0.25)
      share = cells.astype(np.float32)
      if self._resolution != _SPECKLES:
        share = self._speckle @ share @ self._speckle.T
    return first + share[:, :, None] * (second - first)

  def _paint(self, i: int, thing: dict, box, canvas: np.ndarray,
             label_map: np.ndarray, instance_map: np.ndarray) -> None:
    """Paints object i over what is there, in place."""
    x0, y0, side, _ = box
    r = thing['radius']
    columns, sub_columns = self._window(x0, side)
    rows, sub_rows = self._window(y0, side)
    x = (self._sub[sub_columns] - np.float32(x0 + r))[None, :]
    y = (self._sub[sub_rows] - np.float32(y0 + r))[:, None]
    shape, colour = divmod(thing['pair'], len(COLOURS))
    if SHAPES[shape] == 'square':
      inside = (abs(x) <= r) & (abs(y) <= r)
    elif SHAPES[shape] == 'triangle':  # tip up, base as wide as high
      inside = (2 * abs(x) <= y + np.float32(r)) & (y <= r)
    else:
      distance = x * x + y * y
      inside = distance <= np.float32(r * r)
      if SHAPES[shape] == 'ring':
        inside &= distance >= np.float32(r * r / 4)
    covered = _pool(inside)
    alpha = covered / np.float32(_SUB ** 2)
    light = alpha
    if FILLS[thing['fill']] == 'hatched':
      offset = np.int16(int(thing['hatch'] * _CYCLE) - _CYCLE // 2)
      dark = (self._hatch[sub_columns][None, :]
              + (self._hatch[sub_rows] + offset)[:, None]) < 0
      dark &= inside
      light = alpha - (1 - _HATCH_DARK) / _SUB ** 2 * _pool(dark).astype(
          np.float32)
    hue = (60 * colour + _HUE_JITTER * (2 * thing['hue'] - 1)) / 360 % 1
    rgb = 255 * np.array(
        colorsys.hsv_to_rgb(hue, thing['saturation'], thing['value']),
        np.float32)
    window = canvas[rows, columns]
    window *= (1 - alpha)[:, :, None]
    window += light[:, :, None] * rgb
    most = covered >= _SUB ** 2 // 2
    label_map[rows, columns][most] = len(BACKGROUNDS) + shape
    instance_map[rows, columns][most] = i + 1

  def _window(self, start: float, size: float) -> tuple[slice, slice]:
    """The pixels that [start, start + size] touches, and their samples."""
    first = max(math.floor(start * self._resolution), 0)
    last = min(math.ceil((start + size) * self._resolution), self._resolution)
    return slice(first, last), slice(_SUB * first, _SUB * last)


def _draw_object(pairs: list[int], draw) -> dict:
  """Attributes of one object, without its place."""
  size = int(2 * next(draw))
  low, high = _RADIUS[size]
  return dict(
      pair=pairs[int(next(draw) * len(pairs))], size=size,
      radius=low + (high - low) * next(draw), fill=int(2 * next(draw)),
      hue=next(draw), saturation=0.8 + 0.2 * next(draw),
      value=0.8 + 0.2 * next(draw), hatch=next(draw))


def _phase(cycles: np.ndarray) -> np.ndarray:
  """Cycles as int16, wrapped: half of every cycle is negative.

  Sums of int16 wrap by themselves, which makes stripes of any angle from two
  vectors and one addition.
  """
  return np.floor(cycles.astype(np.float64) * _CYCLE).astype(
      np.int64).astype(np.int16)


def _pool(mask: np.ndarray) -> np.ndarray:
  """Counts the True samples of every pixel: bool [4h, 4w] -> uint32 [h, w].

  Four neighbouring bools are read as one uint32, whose bytes are added up by
  a multiplication: ten times as fast as sums over axes.
  """
  quads = np.ascontiguousarray(mask).view(np.uint32)
  rows = quads[0::4] + quads[1::4] + quads[2::4] + quads[3::4]
  return (rows * np.uint32(0x01010101)) >> np.uint32(24)
