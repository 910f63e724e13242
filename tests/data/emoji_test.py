"""The shipped emoji: what is promised of them, checked on the sheets."""

import collections
import functools
import importlib.resources
import pickle

import numpy as np
from PIL import Image
import pytest

from gans_jax.core import errors
from gans_jax.data import emoji
from gans_jax.data import pipeline


def _open(**config):
  return pipeline.open_dataset({'source': 'emoji:noto', **config})


@functools.cache
def _sheet(vendor):
  folder = importlib.resources.files('gans_jax.data') / 'assets/emoji'
  with (folder / f'{vendor}_64.webp').open('rb') as stream:
    return Image.open(stream).convert('RGBA')


def _tile(vendor, i):
  """Returns RGBA tile i by its place on the sheet: row i // 60."""
  left, top = i % 60 * 64, i // 60 * 64
  return _sheet(vendor).crop((left, top, left + 64, top + 64))


def test_tiles_are_where_the_readme_says():
  assert emoji.tiles('noto').shape == (3486, 64, 64, 4)
  for vendor in emoji.VENDORS:
    for i in (0, 59, 60, 3485):
      np.testing.assert_array_equal(emoji.tiles(vendor)[i],
                                    np.asarray(_tile(vendor, i)))


def test_image_is_the_tile_on_white_and_mask_its_alpha():
  data = _open()
  for i in (0, 1234, 3485):
    tile = _tile('noto', i)
    white = Image.new('RGBA', (64, 64), 'white')
    want = Image.alpha_composite(white, tile).convert('RGB')
    # Pillow blends in 8-bit fixed point, we round.
    np.testing.assert_allclose(
        data[i]['image'].astype(int), np.asarray(want).astype(int), atol=1)
    np.testing.assert_array_equal(data[i]['mask'],
                                  np.asarray(tile)[..., 3:])
  np.testing.assert_array_equal(
      _open(background=0)[5]['image'][data[5]['mask'][..., 0] == 0], 0)


@pytest.mark.parametrize('kind, classes', [
    ('group', 9), ('subgroup', 98), ('tone', 6), ('vendor', 2)])
def test_labels(kind, classes):
  data = _open(source='emoji:both', labels=kind, resolution=8)
  spec = data.spec
  assert len(data) == 2 * 3486 == spec.num_examples
  assert spec.num_classes == len(spec.class_names) == classes
  labels = data.take(np.arange(len(data)))['label']
  assert labels.dtype == np.int32 and set(labels) == set(range(classes))
  if kind == 'vendor':
    assert (labels[:3486] == 0).all() and (labels[3486:] == 1).all()
  else:
    names = [spec.class_names[i] for i in labels]
    want = [entry[kind] for entry in emoji.metadata()['images']] * 2
    assert names == want


def test_unlabelled_has_no_label():
  assert 'label' not in _open().spec.keys
  assert 'label' not in _open()[0]


def test_captions_name_the_tone():
  entries = emoji.metadata()['images']
  data = _open(resolution=8)
  found = collections.Counter(
      entries[i]['tone'] for i in range(len(data))
      if data[i]['captions'][0].endswith(f"{entries[i]['tone']} skin tone"))
  assert set(found) == {'light', 'medium-light', 'medium', 'medium-dark',
                        'dark'}
  assert data[0]['captions'].tolist() == ['grinning face']


def test_pairs_are_the_same_emoji_by_the_other_vendor():
  noto, twemoji = _open(pairs=True), _open(source='emoji:twemoji', pairs=True)
  both = _open(source='emoji:both', pairs=True)
  for i in (3, 999):
    np.testing.assert_array_equal(noto[i]['paired_image'],
                                  twemoji[i]['image'])
    np.testing.assert_array_equal(twemoji[i]['paired_image'],
                                  noto[i]['image'])
    np.testing.assert_array_equal(both[i + 3486]['paired_image'],
                                  noto[i]['image'])
  assert (noto[3]['image'] != noto[3]['paired_image']).any()


def test_groups_choose_and_classes_are_those_that_occur():
  groups = ('Smileys & Emotion', 'Flags')
  data = _open(groups=groups, labels='group', resolution=8)
  entries = emoji.metadata()['images']
  chosen = [entry for entry in entries if entry['group'] in groups]
  assert len(data) == len(chosen)
  # In the order of the metadata, whatever the order they were named in.
  assert data.spec.class_names == ('Flags', 'Smileys & Emotion')
  for i in (0, 100, 400):
    assert data.spec.class_names[data[i]['label']] == chosen[i]['group']


def test_resolution_and_channels():
  data = _open(resolution=32, channels=1, filter='lanczos')
  full = Image.fromarray(_open()[7]['image'])
  want = full.resize((32, 32), Image.Resampling.LANCZOS).convert('L')
  np.testing.assert_array_equal(data[7]['image'][..., 0], np.asarray(want))
  assert data[7]['mask'].shape == (32, 32, 1)


def test_take_equals_getitem_and_source_pickles():
  data = _open(resolution=8, labels='tone', pairs=True)
  copy = pickle.loads(pickle.dumps(data))
  batch = copy.take(np.array([9, 2]))
  for row, i in enumerate((9, 2)):
    for key in data.spec.keys:
      np.testing.assert_array_equal(batch[key][row], data[i][key])
  assert repr(copy) == repr(data)


def test_identity_tells_what_changes_pixels():
  flags = dict(groups=('Flags',))
  configs = [flags, dict(resolution=32), dict(resolution=32, filter='lanczos'),
             dict(labels='tone'), dict(background=0), dict(limit=5),
             dict(source='emoji:twemoji'), dict(groups=('Symbols',))]
  identities = {_open(**{**flags, **config}).spec.identity
                for config in configs}
  assert len(identities) == 8
  assert _open(**flags).spec == _open(**flags).spec


@pytest.mark.parametrize('config, words', [
    (dict(source='emoji:apple'), 'emoji:noto'),
    (dict(labels='class'), 'subgroup'), (dict(split='test'), 'no split'),
    (dict(groups=('Smiley',)), 'Smileys & Emotion')])
def test_refuses(config, words):
  with pytest.raises(errors.UserError, match=words):
    _open(**config)


@pytest.mark.parametrize('resolution', [32, 16])
@pytest.mark.parametrize('channels', [3, 1])
def test_box_resize_is_pillows_of_each_tile(resolution, channels):
  small = _open(resolution=resolution, channels=channels, filter='box')
  whole = _open()
  for i in (0, 1234, 3485):
    image = Image.fromarray(whole[i]['image']).resize(
        (resolution, resolution), Image.Resampling.BOX)
    if channels == 1:
      image = image.convert('L')
    np.testing.assert_array_equal(
        small[i]['image'].reshape(np.asarray(image).shape), image)
