"""Image folders: labels, sizes, and every kind of bad file."""

import json
import logging

import numpy as np
import pictures
import pytest

from gans_jax.core import errors
from gans_jax.data import pipeline
from gans_jax.data import transforms


def _open(path, **config):
  return pipeline.open_dataset({'source': f'folder:{path}', **config})


def _fill(path, names, size=(8, 8)):
  for i, name in enumerate(names):
    pictures.write(path, name, pictures.png(pictures.pixels(i, size)))


def _annotate(path, content):
  text = content if isinstance(content, str) else json.dumps(content)
  pictures.write(path, 'dataset.json', text.encode())


def test_classes_are_subfolders_sorted_by_name(tmp_path):
  _fill(tmp_path, ['b/1.png', 'a/2.png', 'c/x/3.png', 'a/1.png'])
  _fill(tmp_path, ['.hidden/1.png', 'a/.thumb.png', 'a/notes.txt'])
  data = _open(tmp_path, labels='class')
  assert data.spec.class_names == ('a', 'b', 'c')
  assert [int(data[i]['label']) for i in range(4)] == [0, 0, 1, 2]
  np.testing.assert_array_equal(data[2]['image'], pictures.pixels(0))
  assert data.spec.shapes == (('image', (8, 8, 3), 'uint8'),
                              ('label', (), 'int32'))


def test_dataset_json_gives_labels(tmp_path):
  _fill(tmp_path, ['00000/a.png', '00000/b.png'])
  _annotate(tmp_path, {'labels': [['00000/b.png', 0], ['00000/a.png', 6]]})
  data = _open(tmp_path, labels='class')
  assert [int(data[i]['label']) for i in range(2)] == [6, 0]
  assert data.spec.num_classes == 7
  assert 'label' not in _open(tmp_path)[0]


@pytest.mark.parametrize('content, words', [
    ('{"labels": [', 'not JSON'), ([], 'no key "labels"'),
    ({'labels': {}}, 'expected a list'), ({'labels': [['a.png']]}, 'Entry 0'),
    ({'labels': [['a.png', 1.5]]}, 'a.png'),
    ({'labels': [['a.png', -1]]}, 'class number'),
    ({'labels': [['a.png', 0], ['gone.png', 1]]}, 'gone.png'),
    ({'labels': [['a.png', 0]]}, 'no label.*b.png'),
    ({'labels': None}, 'no labels'),
    ({'labels': [['a.png', 2], ['b.png', 0]], 'class_names': ['x']},
     'class_names')])
def test_refuses_a_bad_dataset_json(tmp_path, content, words):
  _fill(tmp_path, ['a.png', 'b.png'])
  _annotate(tmp_path, content)
  with pytest.raises(errors.UserError, match=words):
    _open(tmp_path, labels='class')


def test_labels_missing(tmp_path):
  _fill(tmp_path, ['a.png', 'sub/b.png'])
  with pytest.raises(errors.UserError, match='has no labels'):
    _open(tmp_path, labels='class')
  with pytest.raises(errors.UserError, match='none and class'):
    _open(tmp_path, labels='tone')
  assert len(_open(tmp_path)) == 2


def test_empty_or_absent_folder(tmp_path):
  with pytest.raises(errors.UserError, match='holds no images'):
    _open(tmp_path)
  with pytest.raises(errors.UserError, match='does not exist'):
    _open(tmp_path / 'nowhere')
  archive = pictures.write(tmp_path, 'a.zip', b'')
  with pytest.raises(errors.UserError, match=f'zip:{archive}'):
    _open(archive)
  with pytest.raises(errors.UserError, match='data.split'):
    _open(tmp_path, split='test')


def test_mixed_sizes_are_named(tmp_path):
  _fill(tmp_path, ['a.png', 'b.png', 'c.png'])
  _fill(tmp_path, ['odd.png'], (10, 8))
  words = r'3 are 8x8, but 1 is not: odd.png \(10x8\).*gans_jax.prepare'
  with pytest.raises(errors.UserError, match=words):
    _open(tmp_path, resolution=4, crop='center')
  data = _open(tmp_path, resolution=4, crop='center', native_resize=True)
  assert data[3]['image'].shape == (4, 4, 3)
  with pytest.raises(errors.UserError, match='mixes'):
    _open(tmp_path, crop='center', native_resize=True)  # to which size?


def test_oblong_images(tmp_path):
  _fill(tmp_path, ['a.png', 'b.png'], (10, 8))
  with pytest.raises(errors.UserError, match='10x8; expected squares'):
    _open(tmp_path, crop='center')
  data = _open(tmp_path, crop='center', native_resize=True)
  np.testing.assert_array_equal(data[0]['image'],
                                pictures.pixels(0, (10, 8))[:, 1:9])


@pytest.mark.parametrize('name', sorted(pictures.bad_files()))
def test_refuses_files_that_would_be_misread(tmp_path, name):
  _fill(tmp_path, ['a.png', 'b.png'])
  data, words = pictures.bad_files()[name]
  pictures.write(tmp_path, name, data)
  # Not damage: skip_corrupt does not pass them.
  for skip in (False, True):
    with pytest.raises(errors.UserError, match=words) as caught:
      _open(tmp_path, skip_corrupt=skip)
    assert name in str(caught.value)


@pytest.mark.parametrize('name', sorted(pictures.corrupt_files()))
def test_damage_is_found_at_opening(tmp_path, name):
  _fill(tmp_path, ['a.png', 'z.png'], (64, 64))
  pictures.write(tmp_path, name, pictures.corrupt_files()[name])
  with pytest.raises(errors.UserError, match=name):
    _open(tmp_path)


def test_skip_corrupt_counts_logs_and_takes_the_next(tmp_path, caplog):
  _fill(tmp_path, ['a.png', 'd.png'], (64, 64))
  pictures.write(tmp_path, 'b.jpg', pictures.corrupt_files()['cut.jpg'])
  pictures.write(tmp_path, 'e.png', pictures.corrupt_files()['text.png'])
  caplog.set_level(logging.WARNING)
  data = _open(tmp_path, skip_corrupt=True)
  assert '2 of 4 images cannot be read' in caplog.text
  assert len(data) == 4
  np.testing.assert_array_equal(data[1]['image'], data[2]['image'])  # b -> d
  np.testing.assert_array_equal(data[3]['image'], data[0]['image'])  # e -> a
  assert sorted(data.skipped) == [1, 3]
  assert 'b.jpg' in data.skipped[1] and 'skipped (2 so far)' in caplog.text
  again = _open(tmp_path, skip_corrupt=True)
  batch = again.take(np.arange(4))['image']
  np.testing.assert_array_equal(batch[1], data[1]['image'])


def test_damage_behind_a_whole_header_and_end_names_the_file(tmp_path):
  _fill(tmp_path, ['a.png'], (64, 64))
  whole = bytearray(pictures.png(pictures.pixels(1, (64, 64))))
  whole[2000:2100] = bytes(100)
  pictures.write(tmp_path, 'b.png', bytes(whole))
  data = _open(tmp_path)
  with pytest.raises(transforms.CorruptImage, match='b.png'):
    data[1]
  iterator = pipeline.train_iterator(data, batch_size=2)
  with pytest.raises(errors.UserError, match='b.png'):
    next(iterator)
  iterator.close()


def test_all_damaged(tmp_path):
  pictures.write(tmp_path, 'a.png', b'no')
  with pytest.raises(errors.UserError, match='None of the 1'):
    _open(tmp_path, skip_corrupt=True)


def test_resize_is_part_of_the_identity(tmp_path):
  _fill(tmp_path, ['a.png'], (16, 16))
  found = {_open(tmp_path, resolution=8, filter=name).spec.identity
           for name in ('box', 'area', 'lanczos', 'bicubic')}
  assert len(found) == 3
