"""`scenes`: what was pasted where, against the sheets of emoji themselves."""

import itertools
import pickle

import numpy as np
from PIL import Image
import pytest

from gans_jax.core import errors
from gans_jax.data import emoji
from gans_jax.data import scenes

NUM = 100


def _open(source='scenes', split='train', resolution=64, **values):
  return scenes.create_source(
      dict(source=source, resolution=resolution, **values), split)


@pytest.fixture(scope='module')
def examples():
  source = _open(labels='group')
  return [source[i] for i in range(NUM)]


def _pixel_boxes(example, side=64):
  """(x0, y0, x1, y1) of the valid boxes, float64, in pixels."""
  boxes = example['boxes'][example['box_valid']].astype(np.float64)
  return side * np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _tight(mask):
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _opaque(mask):
  return mask >= (128 if mask.max() >= 128 else mask.max() // 2)


def _front_first(example):
  """Object numbers, the smallest box first: the order of visibility."""
  boxes = _pixel_boxes(example)
  area = (boxes[:, 2:] - boxes[:, :2]).prod(1).round(6)
  return sorted(range(len(boxes)), key=lambda i: (area[i], -i))


def test_spec_tells_keys_shapes_and_dtypes(examples):
  spec = _open(labels='group').spec
  for example in examples[:20]:
    assert set(example) == {*spec.keys, 'captions'}
    for key, shape, dtype in spec.shapes:
      assert np.shape(example[key]) == shape, key
      assert example[key].dtype == dtype, key
  assert spec.num_classes == len(spec.class_names) == 9
  wide = _open('scenes:objects=2-7,size=10-20')
  assert wide[0]['boxes'].shape == (7, 4)
  assert {int(wide[i]['box_valid'].sum()) for i in range(60)} == set(
      range(2, 8))


def test_boxes_are_the_tight_boxes_of_the_masks(examples):
  for example in examples:
    for i, box in enumerate(_pixel_boxes(example)):
      np.testing.assert_allclose(_tight(_opaque(example['masks'][..., i])),
                                 box, atol=1e-4)
    empty = ~example['box_valid']
    assert not example['masks'][..., empty].any()
    assert (example['boxes'][empty] == np.float32(
        [-0.6, -0.6, 0.5, 0.5])).all()


def test_boxes_lie_inside_and_hardly_overlap(examples):
  worst = 0
  for example in examples:
    boxes = _pixel_boxes(example)
    assert (boxes >= 0).all() and (boxes <= 64 + 1e-4).all()
    for a, b in itertools.combinations(boxes, 2):
      inner = np.maximum(
          np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
      total = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner
      worst = max(worst, inner / total)
  assert 0.02 < worst <= 0.05 + 1e-6


def test_maps_follow_from_the_masks(examples):
  for example in examples:
    instances = np.zeros([64, 64], int)
    for i in reversed(_front_first(example)):
      instances[_opaque(example['masks'][..., i])] = i + 1
    np.testing.assert_array_equal(example['instance_map'], instances)
    labels = np.concatenate([[0], example['box_labels']])
    np.testing.assert_array_equal(example['label_map'], labels[instances])


def test_classes_are_the_groups_of_the_emoji(examples):
  facts = emoji.metadata()
  fine = _open('scenes:classes=subgroup', labels='subgroup')
  for i, example in enumerate(examples[:40]):
    for kind, this in (('group', example), ('subgroup', fine[i])):
      _, count, *which = this['attributes']
      names = [facts['images'][n][kind] for n in which[:count]]
      expected = [facts[f'{kind}s'].index(name) for name in names]
      assert (this['box_labels'][:count] - 1).tolist() == expected
      assert this['label'] == expected[0]
      assert set(which[count:]) <= {-1}


@pytest.mark.parametrize('vendor', ['noto', 'twemoji'])
def test_pixels_are_the_emoji_over_the_background(vendor):
  """One object, resized and composited here in another way."""
  source = _open(f'scenes:vendor={vendor},objects=1', resolution=128)
  for i in range(15):
    example = source[i]
    tile = emoji.tiles(vendor)[example['attributes'][2]].astype(np.float32)
    seen = tile[..., 3] > 0
    x0, y0, x1, y1 = _tight(seen)
    mask = example['masks'][..., 0]
    left, top, right, bottom = _tight(mask)
    if left == 0 or top == 0 or right == 128 or bottom == 128:
      continue  # a rim may be cut
    # Premultiplied planes, each resized as a float image.
    alpha = tile[..., 3:] / 255
    planes = np.concatenate([tile[..., :3] * alpha, tile[..., 3:]], -1)
    size = right - left, bottom - top
    resized = np.stack([
        np.asarray(Image.fromarray(planes[y0:y1, x0:x1, k].copy()).resize(
            size, Image.Resampling.BICUBIC)) for k in range(4)], -1)
    resized = resized.clip(0, 255)
    pasted = example['image'][top:bottom, left:right].astype(np.float64)
    pasted_alpha = mask[top:bottom, left:right] / 255
    # The tight rectangle may lack a faint row of the resized tile.
    if abs(pasted_alpha * 255 - resized[..., 3]).max() > 3:
      continue
    outside = mask == 0
    ground = _fit_plane(example['image'], outside)
    assert abs(ground - example['image'])[outside].max() <= 1.0
    ground = ground[top:bottom, left:right]
    expected = resized[..., :3] + (1 - pasted_alpha[..., None]) * ground
    # 8-bit premultiplied colours lose precision where alpha is low.
    assert abs(expected - pasted).max() <= 8
    assert abs(expected - pasted).mean() <= 1.5
    break
  else:
    pytest.fail('no scene to compare')


def _fit_plane(image, where):
  """The background: each channel affine in x and y, by least squares."""
  side = image.shape[0]
  y, x = np.mgrid[:side, :side].astype(np.float64)
  design = np.stack([np.ones_like(x), x, y], -1)
  fit = np.linalg.lstsq(design[where], image[where].astype(np.float64),
                        rcond=None)[0]
  return design @ fit


def test_background_is_plain_or_a_ramp_and_untouched(examples):
  kinds = set()
  for example in examples:
    outside = ~example['masks'].any(-1)
    ground = _fit_plane(example['image'], outside)
    assert abs(ground - example['image'])[outside].max() <= 1.0
    pixels = example['image'][outside]
    plain = (pixels == pixels[0]).all()
    assert plain == (example['attributes'][0] == 0)
    kinds.add(bool(plain))
  assert kinds == {True, False}


def test_sizes_are_in_their_range():
  source = _open('scenes:objects=1,size=20-40', resolution=128)
  sides = [np.diff(_pixel_boxes(source[i], 128).reshape(2, 2), axis=0).max()
           for i in range(60)]
  # The rim of an emoji, fainter than half, is not in its box.
  assert min(sides) >= 0.2 * 128 - 5 and max(sides) <= 0.4 * 128 + 1
  assert max(sides) - min(sides) > 0.15 * 128


def test_captions_name_the_emoji_and_their_relation(examples):
  facts = emoji.metadata()
  for example in examples:
    background, count, *which = example['attributes']
    boxes = _pixel_boxes(example)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    names = [emoji.caption(facts['images'][n]) for n in which[:min(count, 2)]]
    for text in map(str, example['captions']):
      assert all(name in text for name in names)
      assert scenes.BACKGROUNDS[background] in text
      assert text.endswith(f', and {count - 2} more') == (count > 2)
    if count > 1:
      dx, dy = centre[0] - centre[1]
      distance = {'left of': -dx, 'right of': dx, 'above': -dy, 'below': dy}
      said = [r for r in distance
              if f'{names[0]} {r} a' in str(example['captions'][0])]
      assert len(said) == 1
      assert distance[said[0]] == max(distance.values())


def test_tokens_are_the_words_of_the_captions(examples):
  vocabulary = _open().vocabulary
  for example in examples:
    for text, tokens, mask in zip(
        example['captions'], example['tokens'], example['text_mask'],
        strict=True):
      said = vocabulary.decode(tokens).replace(' ', '')
      assert said == str(text).lower().replace(' ', '')
      assert tokens[mask.sum() - 1] == 1 and not tokens[mask.sum():].any()


def test_every_pair_of_names_fits_the_tokens():
  names = sorted({emoji.caption(e) for e in emoji.metadata()['images']},
                 key=lambda name: len(name.split()))
  source = _open('scenes:objects=8,size=5-10')
  images = emoji.metadata()['images']
  numbers = [next(i for i, e in enumerate(images) if emoji.caption(e) == name)
             for name in names]
  boxes = [(1, 1, 5, 5), (40, 1, 5, 5)]
  for which in (numbers[-1:] * 8, numbers[-2:] * 4):
    texts = source._describe(which, boxes, 'graded')
    assert source.vocabulary.encode(texts)['text_mask'].sum(1).max() <= 64
  for start in range(0, len(numbers), 2):  # every word is known
    source.vocabulary.encode(
        source._describe(numbers[start:start + 2], boxes, 'plain'))


def test_held_out_names_are_held_out():
  images = emoji.metadata()['images']
  def names(subset):
    source = _open(f'scenes:subset={subset},objects=8,size=5-10',
                   resolution=32)
    which = np.concatenate([source[i]['attributes'][2:] for i in range(200)])
    return {images[n]['name'] for n in which}
  seen, heldout = names('seen'), names('heldout')
  assert not seen & heldout
  every = {entry['name'] for entry in images}
  reserved = {images[n]['name'] for n in scenes.held_out()}
  assert abs(len(reserved) / len(every) - 0.2) < 0.01
  assert heldout <= reserved and not seen & reserved


def test_examples_are_functions_of_split_and_index(examples):
  source = pickle.loads(pickle.dumps(_open(labels='group')))
  for i in (60, 3):
    for key, value in source[i].items():
      np.testing.assert_array_equal(value, examples[i][key])
  assert repr(source) == repr(_open(labels='group'))
  other = [_open(split='val'), _open(seed=1), _open('scenes:vendor=twemoji')]
  assert len({repr(source), *map(repr, other)}) == 4
  for changed in other:
    assert not any(np.array_equal(changed[i]['image'], examples[i]['image'])
                   for i in range(10))


@pytest.mark.parametrize('values, told', [
    (dict(source='scenes:vendor=apple'), 'noto, twemoji'),
    (dict(source='scenes:objects=9'), 'within 1 and 8'),
    (dict(source='scenes:objects=8,size=40-50'), 'do not fit'),
    (dict(source='scenes:size=big'), 'size=big'),
    (dict(split='validation'), 'train, val, test'),
    (dict(resolution=8), 'at least 16'),
    (dict(channels=1), 'data.channels is 1'),
    (dict(labels='class'), 'group, subgroup, count'),
])
def test_refusals(values, told):
  with pytest.raises(errors.UserError, match=told):
    _open(**values)
