"""`shapes`: every annotation against the pixels and against each other."""

import itertools
import pickle

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.data import captions
from gans_jax.data import pipeline
from gans_jax.data import shapes

NUM = 200


def _open(source='shapes', split='train', resolution=64, **values):
  return shapes.create_source(
      dict(source=source, resolution=resolution, **values), split)


@pytest.fixture(scope='module')
def examples():
  source = _open(labels='class')
  return [source[i] for i in range(NUM)]


def _hue(rgb):
  """Degrees, by the hexagon formula in float64; rgb [N, 3]."""
  rgb = rgb.astype(np.float64)
  high, low = rgb.max(1), rgb.min(1)
  r, g, b = rgb.T
  chroma = high - low
  return 60 * np.select(
      [high == r, high == g],
      [((g - b) / chroma) % 6, (b - r) / chroma + 2],
      (r - g) / chroma + 4)


def _interior(mask):
  """Pixels of a mask whose eight neighbours are in it too."""
  padded = np.pad(mask, 1)
  side = mask.shape[0]
  return np.logical_and.reduce([
      padded[i:i + side, j:j + side]
      for i, j in itertools.product(range(3), repeat=2)])


def _tight(mask):
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _corners(box):
  return np.array([*box[:2], *(box[:2] + box[2:])])


def _overlap(a, b):
  a, b = _corners(a.astype(np.float64)), _corners(b.astype(np.float64))
  inner = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
  both = inner.prod()
  return both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both)


def test_spec_tells_keys_shapes_and_dtypes(examples):
  spec = _open(labels='class').spec
  for example in examples[:20]:
    assert set(example) == {*spec.keys, 'captions'}
    for key, shape, dtype in spec.shapes:
      assert np.shape(example[key]) == shape, key
      assert example[key].dtype == dtype, key
  assert spec.num_classes == len(spec.class_names) == 24
  assert [len(_open(split=s)) for s in ('train', 'val', 'test')] == [
      50_000, 5_000, 5_000]


def test_boxes_lie_inside_and_hardly_overlap(examples):
  overlaps = []
  for example in examples:
    boxes = example['boxes'][example['box_valid']]
    assert (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 1).all()
    overlaps += [_overlap(a, b) for a, b in itertools.combinations(boxes, 2)]
    pad = example['boxes'][~example['box_valid']]
    assert (pad == np.float32([-0.6, -0.6, 0.5, 0.5])).all()
    np.testing.assert_array_equal(example['box_valid'],
                                  example['box_labels'] != 0)
  assert max(overlaps) <= 0.05 + 1e-6
  assert max(overlaps) > 0.03  # the limit is in use, not merely respected


def test_sizes_are_in_their_ranges(examples):
  for example in examples:
    for i, (_, _, w, h) in enumerate(example['boxes']):
      if example['box_valid'][i]:
        size = example['attributes'][4 + 4 * i]
        low, high = ((0.10, 0.14), (0.18, 0.24))[size]
        assert low <= w / 2 <= high and w == h


def test_tight_box_of_each_instance_is_its_box(examples):
  checked = 0
  for example in examples:
    boxes = example['boxes'][example['box_valid']]
    for i, box in enumerate(boxes):
      mask = example['instance_map'] == i + 1
      error = (_tight(mask) - 64 * _corners(box.astype(np.float64)))
      shape = shapes.SHAPES[example['attributes'][2 + 4 * i]]
      # Pixels of a triangle's tip are less than half covered over the first
      # 1.5 pixels below it, and so belong to the background.
      tip = 1.5 if shape == 'triangle' else 1.0
      # The smaller of two is in front.
      hidden = any(_overlap(box, other) > 0 and other[2] < box[2]
                   for other in boxes)
      # Nothing reaches out of the box ...
      assert (error[:2] > -1).all() and (error[2:] < 1).all()
      # ... and, where nothing lies in front, nothing is missing.
      if not hidden:
        assert error[0] <= 1 and error[1] <= tip and (error[2:] >= -1).all()
        checked += 1
  assert checked > NUM


def test_label_map_follows_from_instances_and_attributes(examples):
  for example in examples:
    attributes = example['attributes']
    expected = np.full([64, 64], attributes[0])
    for i in range(attributes[1]):
      shape, colour = attributes[2 + 4 * i:4 + 4 * i]
      expected[example['instance_map'] == i + 1] = 3 + shape
      assert example['box_labels'][i] == 6 * shape + colour + 1
    np.testing.assert_array_equal(example['label_map'], expected)
    assert example['box_valid'].sum() == attributes[1]
    assert set(np.unique(example['instance_map'])) == set(
        range(attributes[1] + 1))
    assert example['label'] == example['box_labels'][0] - 1


def test_areas_are_those_of_the_shapes():
  source = _open('shapes:objects=1', resolution=256)
  share = {0: np.pi / 4, 1: 1.0, 2: 0.5, 3: np.pi / 4 * 0.75}
  for i in range(24):
    example = source[i]
    area = (example['instance_map'] == 1).sum() / 256 ** 2
    box = example['boxes'][0].astype(np.float64)
    np.testing.assert_allclose(
        area / (box[2] * box[3]), share[int(example['attributes'][2])],
        rtol=0.03)


def test_hue_of_every_pixel_is_that_of_its_label(examples):
  seen = set()
  for example in examples:
    for i in range(example['attributes'][1]):
      pixels = example['image'][_interior(example['instance_map'] == i + 1)]
      if not len(pixels):  # a small ring is thinner than three pixels
        continue
      colour = example['attributes'][3 + 4 * i]
      off = (_hue(pixels) - 60 * colour + 180) % 360 - 180
      # Rounding to bytes turns the hue by up to 1.2 degrees: chroma is at
      # least .4 * .8 * .8 * 255 = 65, and two channels err by half a level.
      assert abs(off).max() <= 6 + 1.2
      seen.add(int(colour))
  assert seen == set(range(6))


def test_backgrounds_are_grey_and_of_their_kind(examples):
  kinds = {0: [], 1: [], 2: []}
  for example in examples:
    outside = _interior(example['instance_map'] == 0)
    pixels = example['image'][outside].astype(np.float64)
    saturation = 1 - pixels.min(1) / pixels.max(1)
    assert saturation.max() < 0.13
    levels = len(np.unique(pixels, axis=0))
    kinds[int(example['attributes'][0])].append(levels)
  assert set(kinds[0]) == {1}       # one grey
  assert set(kinds[2]) == {2}       # two, without mixtures at 64 px
  assert min(kinds[1]) > 4          # two, and the edges of the stripes


def test_solid_and_hatched(examples):
  for example in examples:
    for i in range(example['attributes'][1]):
      pixels = example['image'][_interior(example['instance_map'] == i + 1)]
      if len(pixels) < 20:
        continue
      brightness = pixels.max(1)
      if example['attributes'][5 + 4 * i]:
        assert brightness.min() < 0.6 * brightness.max()
      else:
        assert brightness.min() == brightness.max()


def test_image_is_the_mean_of_sixteen_samples():
  """A square, its edges between pixels, against exact areas."""
  source = _open('shapes:objects=1', resolution=64)
  checked = 0
  for i in range(200):
    example = source[i]
    background, _, shape, _, _, fill = example['attributes'][:6]
    if (background, shape, fill) != (0, 1, 0):
      continue
    x0, y0, x1, y1 = 64 * _corners(example['boxes'][0].astype(np.float64))
    pixel = np.arange(64)
    cover_x = np.clip(np.minimum(x1, pixel + 1) - np.maximum(x0, pixel), 0, 1)
    cover_y = np.clip(np.minimum(y1, pixel + 1) - np.maximum(y0, pixel), 0, 1)
    alpha = (cover_y[:, None] * cover_x[None, :])[..., None]
    image = example['image'].astype(np.float64)
    colour = image[alpha[..., 0] == 1][0]
    ground = image[alpha[..., 0] == 0][0]
    # Each axis samples at quarters: an eighth off at each of two edges.
    error = abs(image - (ground + alpha * (colour - ground)))
    assert error.max() <= 0.25 * abs(colour - ground).max() + 1
    checked += 1
  assert checked >= 3


def test_resolutions_show_one_scene():
  fine, coarse = _open(resolution=256), _open(resolution=64)
  for i in range(12):
    a, b = fine[i], coarse[i]
    for key in ('boxes', 'tokens', 'attributes', 'box_labels'):
      np.testing.assert_array_equal(a[key], b[key])
    small = a['image'].reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert abs(small - b['image']).mean() < 1.5
    # Strided, as label maps are resized: they differ at outlines alone.
    assert (a['label_map'][::4, ::4] != b['label_map']).mean() < 0.1


def test_captions_say_what_the_attributes_say(examples):
  relations = ('left of', 'right of', 'above', 'below')
  opposite = {'left of': 'right of', 'above': 'below',
              'right of': 'left of', 'below': 'above'}
  for example in examples:
    attributes = dict(zip(shapes.ATTRIBUTES, example['attributes'],
                          strict=True))
    texts = [str(text) for text in example['captions']]
    assert len(set(texts)) == 5
    things = [' '.join((
        shapes.SIZES[attributes[f'size_{i}']],
        shapes.FILLS[attributes[f'fill_{i}']],
        shapes.COLOURS[attributes[f'colour_{i}']],
        shapes.SHAPES[attributes[f'shape_{i}']]))
              for i in range(attributes['count'])]
    for number, text in enumerate(texts):
      assert shapes.BACKGROUNDS[attributes['background']] in text
      assert all(thing in text for thing in things)
      assert sum(text.count(shape) for shape in shapes.SHAPES) == len(things)
      if len(things) == 1:
        continue
      a, b = things[:2]
      said = relations[attributes['relation']]
      if number == 2:
        a, b, said = b, a, opposite[said]
      assert f'{a} {said} a {b}' in text.replace(' , ', ' ')
    boxes = example['boxes'].astype(np.float64)
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    if len(things) == 1:
      row, column = divmod(attributes['position'], 3)
      assert column / 3 <= centre[0, 0] <= (column + 1) / 3
      assert row / 3 <= centre[0, 1] <= (row + 1) / 3
      where = captions.POSITIONS[attributes['position']]
      assert all(f'at the {where}' in text for text in texts)
      vertical = ('upper', 'top'), ('left', 'centre', 'right'), (
          'lower', 'bottom')
      assert where.split()[0] in vertical[row]
    else:
      dx, dy = centre[0] - centre[1]
      distance = {'left of': -dx, 'right of': dx, 'above': -dy, 'below': dy}
      said = relations[attributes['relation']]
      assert distance[said] == max(distance.values())


def test_tokens_are_the_captions(examples):
  source = _open()
  for example in examples:
    for text, tokens, mask in zip(
        example['captions'], example['tokens'], example['text_mask'],
        strict=True):
      assert source.vocabulary.decode(tokens) == text
      end = mask.sum() - 1
      assert tokens[end] == captions.END and mask[:end + 1].all()
      assert not tokens[end + 1:].any()


def test_longest_captions_fit():
  source = _open()
  things = ['large hatched magenta triangle'] * 4
  for count in range(1, 5):
    texts = captions.describe(
        things[:count], [(0.1, 0.1, 0.2, 0.2), (0.6, 0.1, 0.2, 0.2)] * 2,
        'speckled')
    assert source.vocabulary.encode(texts)['text_mask'].sum(1).max() <= 32
  with pytest.raises(ValueError, match='words do not fit'):
    source.vocabulary.encode(['red ' * 32])


def test_examples_are_functions_of_split_and_index(examples):
  source = pickle.loads(pickle.dumps(_open(labels='class')))
  for i in (150, 3, 42):  # another order, another object
    for key, value in source[i].items():
      np.testing.assert_array_equal(value, examples[i][key])
  assert repr(source) == repr(_open(labels='class'))


def test_splits_and_seeds_share_no_scene(examples):
  def keys(**values):
    source = _open(**values)
    return {source[i]['boxes'].tobytes() for i in range(NUM)}
  sets = [keys(), keys(split='val'), keys(split='test'), keys(seed=1)]
  assert sets[0] == {e['boxes'].tobytes() for e in examples}
  assert len(set.union(*sets)) == 4 * NUM
  names = {repr(_open(**v)) for v in (
      {}, dict(split='val'), dict(seed=1), dict(resolution=32),
      dict(source='shapes:objects=2'), dict(source='shapes:subset=seen'))}
  assert len(names) == 6


def test_held_out_pairs_are_held_out():
  def pairs(subset):
    source = _open(f'shapes:subset={subset}')
    found = [source[i]['box_labels'] for i in range(150)]
    return set(np.concatenate(found).tolist()) - {0}
  held_out = {1 + 6 * s + c for s in range(4) for c in range(6)
              if (6 * s + c) % 5 == 0}
  assert len(held_out) == 5
  assert pairs('heldout') == held_out
  assert pairs('seen') == set(range(1, 25)) - held_out
  assert pairs('all') == set(range(1, 25))


def test_attributes_are_uniform():
  source = _open(resolution=8)
  values = np.stack([source[i]['attributes'] for i in range(1500)])
  for column, kinds in ((0, 3), (1, 4), (2, 4), (3, 6), (5, 2)):
    counts = np.unique(values[:, column], return_counts=True)[1]
    assert len(counts) == kinds
    expected = 1500 / kinds
    spread = np.sqrt(expected * (1 - 1 / kinds))
    assert abs(counts - expected).max() < 4.5 * spread


@pytest.mark.parametrize('objects, counts', [
    ('1', {1}), ('2', {2}), ('3-4', {3, 4})])
def test_number_of_objects(objects, counts):
  source = _open(f'shapes:objects={objects}', resolution=16)
  assert {int(source[i]['box_valid'].sum()) for i in range(40)} == counts


@pytest.mark.parametrize('labels, names, value', [
    ('shape', shapes.SHAPES, lambda a: a[2]),
    ('colour', shapes.COLOURS, lambda a: a[3]),
    ('background', shapes.BACKGROUNDS, lambda a: a[0]),
    ('count', ('1', '2', '3', '4'), lambda a: a[1] - 1)])
def test_labels(labels, names, value):
  source = _open(labels=labels, resolution=16)
  assert source.spec.class_names == names
  for i in range(20):
    assert source[i]['label'] == value(source[i]['attributes'])


def test_pipeline_batches_and_mirrors_them():
  dataset = pipeline.open_dataset(dict(source='shapes', resolution=64), 'val')
  keys = ('image', 'label_map', 'instance_map', 'boxes', 'box_valid')
  iterator = pipeline.train_iterator(dataset, batch_size=8, keys=keys,
                                     flip=True)
  batch = {key: leaf[0] for key, leaf in next(iterator).items()}
  iterator.close()
  order = pipeline.stream_indices(np.arange(8), len(dataset), 0)
  flipped = pipeline.coin(np.arange(8), 0)
  assert flipped.any() and not flipped.all()
  for row in range(8):
    original = dataset[int(order[row])]
    step = -1 if flipped[row] else 1
    np.testing.assert_array_equal(batch['image'][row],
                                  original['image'][:, ::step])
    for i in np.flatnonzero(batch['box_valid'][row]):
      whole = _tight(batch['instance_map'][row] == i + 1)
      box = 64 * _corners(batch['boxes'][row, i].astype(np.float64))
      assert (whole[:2] > box[:2] - 1).all() and (
          whole[2:] < box[2:] + 1).all()
    assert (batch['boxes'][row][~batch['box_valid'][row]][:, 0]
            == np.float32(-0.6)).all()
  with pytest.raises(errors.UserError, match='tokens'):
    pipeline.train_iterator(dataset, batch_size=8, flip=True)


@pytest.mark.parametrize('values, told', [
    (dict(source='shapes:objects=5'), 'within 1 and 4'),
    (dict(source='shapes:objects=3-2'), 'objects=3-2'),
    (dict(source='shapes:objects=some'), 'objects=some'),
    (dict(source='shapes:count=2'), 'expected key=value'),
    (dict(source='shapes:subset=half'), 'all, seen, heldout'),
    (dict(split='validation'), 'train, val, test'),
    (dict(resolution=4), 'at least 8'),
    (dict(channels=1), 'data.channels is 1'),
    (dict(labels='texture'), 'shape, colour'),
])
def test_refusals(values, told):
  with pytest.raises(errors.UserError, match=told):
    _open(**values)


def test_index_out_of_range_ends_iteration():
  with pytest.raises(IndexError):
    _open(split='val')[5_000]
  with pytest.raises(IndexError):
    _open()[-1]
