"""Zips in StyleGAN2-ADA's layout, well-meant and hostile."""

import json
import pickle
import zipfile

import numpy as np
import pictures
import pytest

from gans_jax.core import errors
from gans_jax.data import pipeline
from gans_jax.data import zip_archive


def _zip(tmp_path, members, compression=zipfile.ZIP_STORED):
  path = str(tmp_path / 'set.zip')
  with zipfile.ZipFile(path, 'w', compression) as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return path


def _images(count=3):
  return {f'00000/img{i:08d}.png': pictures.png(pictures.pixels(i))
          for i in range(count)}


def _open(path, **config):
  return pipeline.open_dataset({'source': f'zip:{path}', **config})


@pytest.mark.parametrize('compression',
                         [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_images_and_labels(tmp_path, compression):
  images = _images()
  labels = {'labels': [[name, 2 - i] for i, name in enumerate(images)],
            'class_names': ['x', 'y', 'z']}
  path = _zip(tmp_path, {**images, 'dataset.json': json.dumps(labels)},
              compression)
  data = _open(path, labels='class')
  for source in (data, pickle.loads(pickle.dumps(data))):
    for i in range(3):
      np.testing.assert_array_equal(source[i]['image'], pictures.pixels(i))
      assert source[i]['label'] == 2 - i
  assert data.spec.class_names == ('x', 'y', 'z')


def test_labels_missing(tmp_path):
  with pytest.raises(errors.UserError, match='has no labels'):
    _open(_zip(tmp_path, _images()), labels='class')


def test_absent_member_is_named(tmp_path):
  members = {**_images(), 'dataset.json': '{"labels": [["gone.png", 1]]}'}
  with pytest.raises(errors.UserError, match='gone.png'):
    _open(_zip(tmp_path, members), labels='class')


@pytest.mark.parametrize('name', [
    '../up.png', '/etc/up.png', 'a/../../up.png', '..\\up.png', 'C:/up.png'])
def test_refuses_names_that_climb_out(tmp_path, name):
  path = _zip(tmp_path, {**_images(), name: b'x'})
  with pytest.raises(errors.UserError, match='climbs out'):
    _open(path)


def test_refuses_a_bomb(tmp_path, monkeypatch):
  monkeypatch.setattr(zip_archive.transforms, 'MAX_BYTES', 10_000)
  path = _zip(tmp_path, {'a.png': bytes(1_000_000)}, zipfile.ZIP_DEFLATED)
  with pytest.raises(errors.UserError, match='1000000 bytes.*bomb'):
    _open(path)


def test_refuses_encryption(tmp_path):
  path = _zip(tmp_path, {'a.png': b'x'})
  with open(path, 'r+b') as stream:
    data = bytearray(stream.read())
    at = data.index(b'PK\x01\x02')
    data[at + 8] |= 1  # the flag in the central directory
    stream.seek(0)
    stream.write(data)
  with pytest.raises(errors.UserError, match='encrypted'):
    _open(path)


def test_refuses_a_cut_file_and_what_is_no_zip(tmp_path):
  path = _zip(tmp_path, _images())
  with open(path, 'r+b') as stream:
    stream.truncate(300)
  with pytest.raises(errors.UserError, match='not a readable zip'):
    _open(path)
  with pytest.raises(errors.UserError, match='does not exist'):
    _open(tmp_path / 'no.zip')
  with pytest.raises(errors.UserError, match='holds no images'):
    _open(_zip(tmp_path, {'readme.txt': b'x'}))


def test_damaged_member_is_named_and_can_be_skipped(tmp_path):
  images = _images()
  path = _zip(tmp_path, images)
  with open(path, 'rb') as stream:
    data = stream.read()
  second = list(images.values())[1]
  with open(path, 'wb') as stream:  # same length, wrong checksum
    stream.write(data.replace(second, bytes(len(second))))
  with pytest.raises(errors.UserError, match='img00000001.png'):
    _open(path)
  skipping = _open(path, skip_corrupt=True)
  np.testing.assert_array_equal(skipping[1]['image'], pictures.pixels(2))


def test_bad_pictures_are_refused_as_in_folders(tmp_path):
  data, words = pictures.bad_files()['cmyk.jpg']
  with pytest.raises(errors.UserError, match=f'set.zip:cmyk.jpg.*{words}'):
    _open(_zip(tmp_path, {**_images(), 'cmyk.jpg': data}))
