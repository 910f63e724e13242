"""Images that are not square: data.aspect from the file to the system."""

import numpy as np
import pictures
from PIL import Image
import pytest
import runs

from gans_jax import prepare
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import system as system_lib
from gans_jax.data import pipeline
from gans_jax.data import transforms


def fill(folder, size, count=3):
  for i in range(count):
    pictures.write(folder, f'{i}.png', pictures.png(pictures.pixels(i, size)))


def opened(source, **values):
  return pipeline.open_dataset({'source': source, **values})


def test_aspects():
  assert transforms.aspect('') == transforms.aspect('3:3') == (1, 1)
  assert transforms.aspect('1024:512') == (2, 1)
  for bad in ('2', '2:', '0:1', '-2:1', '2:1:1', 2.0, 'wide'):
    with pytest.raises(errors.UserError, match='width:height'):
      transforms.aspect(bad)
  how = transforms.geometry({'resolution': 32, 'aspect': '1:4'})
  assert how.size() == (8, 32)
  with pytest.raises(errors.UserError, match='30.*divide by 4'):
    transforms.geometry({'resolution': 30, 'aspect': '1:4'})


def test_squares_keep_their_identity():
  """Facts of squares are what they were; another aspect is other data."""
  names = {'resolution', 'channels', 'filter', 'crop', 'background'}
  assert set(transforms.Geometry(8).facts()) == names
  assert set(transforms.Geometry(8, aspect=(2, 1)).facts()) == {
      *names, 'aspect'}


@pytest.mark.parametrize('size, aspect, crop, box', [
    # (left, top, right, bottom) of the part that is kept, in the image.
    ((20, 10), (2, 1), 'none', (0, 0, 20, 10)),
    ((20, 14), (2, 1), 'center', (0, 2, 20, 12)),
    ((25, 10), (2, 1), 'center', (2, 0, 22, 10)),
    ((7, 9), (1, 2), 'center', (1, 0, 5, 8)),
    ((20, 14), (2, 1), 'pad', (-4, 0, 24, 14)),
    ((9, 7), (1, 2), 'pad', (0, -5, 9, 13)),
    ((20, 14), (1, 1), 'center', (3, 0, 17, 14)),
    ((20, 14), (1, 1), 'pad', (0, -3, 20, 17))])
def test_what_is_kept(size, aspect, crop, box):
  pixels = pictures.pixels(0, size)
  how = transforms.Geometry(crop=crop, aspect=aspect)
  found = transforms.apply(Image.fromarray(pixels), how, 'it')
  left, top, right, bottom = box
  frame = np.zeros((bottom - top, right - left, 3), np.uint8)
  rows = slice(max(top, 0), min(bottom, size[1]))
  columns = slice(max(left, 0), min(right, size[0]))
  frame[rows.start - top:rows.stop - top,
        columns.start - left:columns.stop - left] = pixels[rows, columns]
  np.testing.assert_array_equal(found, frame)
  assert how.frame(*size) == frame.shape[1::-1]


def test_padding_reaches_the_resolution():
  how = transforms.Geometry(32, crop='pad', aspect=(2, 1))
  assert how.frame(10, 10) == (32, 16)
  assert how.frame(10, 40) == (80, 40)


def test_box_filter():
  """Means of the pixels that fall together: of columns, rounded, of rows."""
  pixels = pictures.pixels(0, (16, 8))
  found = transforms.apply(Image.fromarray(pixels), transforms.Geometry(
      8, aspect=(2, 1)), 'it')
  columns = np.floor(pixels.reshape(8, 8, 2, 3).mean(2) + 0.5)
  np.testing.assert_array_equal(
      found, np.floor(columns.reshape(4, 2, 8, 3).mean(1) + 0.5))


def test_folder(tmp_path):
  fill(tmp_path, (16, 8))
  data = opened(f'folder:{tmp_path}', aspect='2:1')
  assert data.spec.resolution == 16 and data.spec.image_shape == (8, 16, 3)
  np.testing.assert_array_equal(data[1]['image'], pictures.pixels(1, (16, 8)))
  with pytest.raises(errors.UserError, match='16x8; expected squares'):
    opened(f'folder:{tmp_path}')
  with pytest.raises(errors.UserError, match='width to height as 1:2'):
    opened(f'folder:{tmp_path}', aspect='1:2')
  with pytest.raises(errors.UserError, match='folder, zip, prepared'):
    opened('emoji:noto', aspect='2:1')


@pytest.mark.parametrize('storage', ['array_record', 'zip'])
@pytest.mark.parametrize('resolution', [16, 72])  # raw, PNG
def test_prepared(tmp_path, capsys, storage, resolution):
  fill(tmp_path / 'in', (160, 90))
  assert prepare.main([
      f'--source={tmp_path / "in"}', f'--out={tmp_path / "out"}',
      f'--resolution={resolution}', '--data.aspect=4:2', '--crop=center',
      f'--format={storage}']) == cli.DONE
  shape = (resolution // 2, resolution, 3)
  said = capsys.readouterr().out
  assert f'{resolution}x{shape[0]}x3' in said
  source = f'prepared:{tmp_path / "out"}'
  first = transforms.apply(
      Image.fromarray(pictures.pixels(0, (160, 90))),
      transforms.Geometry(resolution, crop='center', aspect=(2, 1)), 'it')
  for values in ({}, {'aspect': '2:1', 'resolution': resolution}):
    data = opened(source, **values)
    assert data.spec.image_shape == shape
    np.testing.assert_array_equal(data[0]['image'], first)
  with pytest.raises(errors.UserError, match='prepared with 2:1'):
    opened(source, aspect='1:2')


def test_systems(tmp_path):
  """stylegan2 makes them; the others say that they do not."""
  fill(tmp_path, (16, 8))
  for name in ('stylegan2', 'dcgan'):
    config = config_lib.base(name)
    config_lib.assign(config, {
        'data.source': f'folder:{tmp_path}', 'data.resolution': 16,
        'data.aspect': '2:1', 'total_steps': 1})
    spec = pipeline.open_dataset(config.data).spec
    if name == 'stylegan2':
      assert system_lib.create(config, spec).image_shape == (8, 16, 3)
    else:
      with pytest.raises(errors.UserError, match="16x8.*'dcgan'"):
        system_lib.create(config, spec)


@pytest.mark.slow
def test_training(tmp_path):
  """Through the command: metrics, samples, a grid."""
  fill(tmp_path / 'in', (32, 16), 24)
  path = tmp_path / 'run'
  assert runs.train(
      f'{runs.ROOT}/experiments/stylegan2/emoji64.py:debug', path,
      f'--config.data.source=folder:{tmp_path / "in"}', '--config.data.limit=0',
      '--config.data.resolution=32', '--config.data.aspect=2:1',
      '--config.data.flip=true', '--config.mesh.data=1',
      "--config.evaluate.metrics=('swd16',)", '--config.evaluate.num=16',
      '--config.evaluate_every=6') == cli.DONE
  assert '16 x 32 x 3' in (path / 'log.txt').read_text()
  assert runs.generator(path)([0, 1]).shape == (2, 16, 32, 3)
  grid = Image.open(path / 'samples' / 'live_00000006.png')
  # Grids of small images are enlarged by a whole number.
  factor, rest = divmod(grid.width, 4 * 34 + 2)
  assert not rest and factor and grid.height == factor * (2 * 18 + 2)
