"""prepare: what it writes is whole, equal to its source, or absent."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import cifar_archives
import idx_files
import numpy as np
import pictures
from PIL import Image
import pytest

from gans_jax import prepare
from gans_jax.core import cli
from gans_jax.data import manifest
from gans_jax.data import pipeline


def _run(*args):
  return cli.call(prepare.main, [str(arg) for arg in args])


def _open(path, **config):
  return pipeline.open_dataset({'source': f'prepared:{path}', **config})


def _photos(folder, count=5, size=(20, 16)):
  for i in range(count):
    pictures.write(folder, f'{"ab"[i % 2]}/{i}.png',
                   pictures.png(pictures.pixels(i, size)))


def _refused(capsys, *args):
  """Runs, expects one readable paragraph, returns it on one line."""
  assert _run(*args) == cli.BAD_INPUT
  error = capsys.readouterr().err
  paragraph = error[error.index('error:'):]
  assert 'Traceback' not in error and '\n\n' not in paragraph
  return ' '.join(paragraph.split())


@pytest.mark.parametrize('storage', ['array_record', 'zip'])
@pytest.mark.parametrize('resolution', [8, 65])  # raw, PNG
def test_folder(tmp_path, storage, resolution, capsys):
  _photos(tmp_path / 'in')
  out = tmp_path / 'new' / 'out'
  assert _run(f'--source={tmp_path}/in', f'--out={out}', '--crop=center',
              f'--resolution={resolution}', '--filter=lanczos',
              f'--format={storage}') == 0
  said = capsys.readouterr()
  assert '5 images' in said.out and 'img/s' in said.err
  data = _open(out, labels='class')
  assert len(data) == 5 and data.spec.class_names == ('a', 'b')
  names = sorted(f'{"ab"[i % 2]}/{i}.png' for i in range(5))
  for i, name in enumerate(names):
    image = Image.open(tmp_path / 'in' / name).crop((2, 0, 18, 16))
    want = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(data[i]['image'], np.asarray(want))
    assert data[i]['label'] == 'ab'.index(name[0])
  batch = data.take(np.array([4, 1]))
  np.testing.assert_array_equal(batch['image'][0], data[4]['image'])
  np.testing.assert_array_equal(batch['label'], [1, 0])
  content = manifest.read(str(out))
  assert content['label_histogram'] == {'0': 3, '1': 2}
  assert (content['filter'], content['crop']) == ('lanczos', 'center')
  assert content['skipped'] == [] and content['count'] == 5
  assert _run(f'--verify={out}') == 0
  assert not os.path.exists(f'{out}.partial')


def test_zip_is_readable_by_others(tmp_path):
  _photos(tmp_path / 'in', size=(8, 8))
  _run(f'--source={tmp_path}/in', f'--out={tmp_path}/out', '--format=zip')
  with zipfile.ZipFile(tmp_path / 'out/dataset.zip') as archive:
    labels = json.loads(archive.read('dataset.json'))['labels']
    assert labels[0] == ['00000/img00000000.png', 0]
    assert all(info.compress_type == zipfile.ZIP_STORED
               for info in archive.infolist())
    with archive.open('00000/img00000004.png') as stream:
      np.testing.assert_array_equal(np.asarray(Image.open(stream)),
                                    pictures.pixels(3, (8, 8)))
  direct = pipeline.open_dataset(
      {'source': f'zip:{tmp_path}/out/dataset.zip', 'labels': 'class'})
  assert direct[4]['label'] == 1


def test_every_key_and_caption_survives(tmp_path):
  config = dict(labels='tone', resolution=16, groups=('Activities',),
                pairs=True)
  assert _run('--source=emoji:noto', f'--out={tmp_path}/out',
              '--resolution=16', '--labels=tone', '--data.pairs=True',
              '--data.groups=("Activities",)') == 0
  want = pipeline.open_dataset({'source': 'emoji:noto', **config})
  got = _open(tmp_path / 'out', labels='tone')
  assert len(got) == len(want)
  assert set(got.spec.keys) == set(want.spec.keys)
  assert got.spec.class_names == want.spec.class_names
  for i in (0, 7, len(want) - 1):
    for key, value in want[i].items():
      np.testing.assert_array_equal(got[i][key], value)
  assert 'label' not in _open(tmp_path / 'out').spec.keys


def test_shards(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare, '_SHARD_BYTES', 500)
  _photos(tmp_path / 'in', 7, (8, 8))
  _run(f'--source={tmp_path}/in', f'--out={tmp_path}/out')
  shards = manifest.read(str(tmp_path / 'out'))['shards']
  assert len(shards) == 3 and sum(s['count'] for s in shards) == 7
  data = _open(tmp_path / 'out')
  batch = data.take(np.array([6, 0, 3]))
  for row, i in enumerate((6, 0, 3)):
    np.testing.assert_array_equal(batch['image'][row], data[i]['image'])


def test_same_input_gives_the_same_bytes(tmp_path):
  _photos(tmp_path / 'in', 5, (8, 8))
  for out in ('one', 'two'):
    _run(f'--source={tmp_path}/in', f'--out={tmp_path}/{out}')
  one, two = (manifest.read(str(tmp_path / out)) for out in ('one', 'two'))
  assert one['shards'] == two['shards']
  assert (_open(tmp_path / 'one').spec.identity
          == _open(tmp_path / 'two').spec.identity)


@pytest.mark.parametrize('name', sorted(pictures.bad_files()))
def test_bad_files_leave_nothing(tmp_path, capsys, name):
  _photos(tmp_path / 'in', 3, (8, 8))
  data, words = pictures.bad_files()[name]
  pictures.write(tmp_path / 'in', f'b/{name}', data)
  error = _refused(capsys, f'--source={tmp_path}/in', f'--out={tmp_path}/out')
  assert name in error and words in error
  assert os.listdir(tmp_path) == ['in']


def _hidden_damage() -> bytes:
  """Returns a PNG that looks whole at both ends."""
  whole = bytearray(pictures.png(pictures.pixels(1, (64, 64))))
  whole[2000:2100] = bytes(100)
  return bytes(whole)


def test_damage_stops_or_is_left_out_and_listed(tmp_path, capsys):
  _photos(tmp_path / 'in', 3, (64, 64))
  pictures.write(tmp_path / 'in', 'a/cut.jpg',
                 pictures.corrupt_files()['cut.jpg'])
  pictures.write(tmp_path / 'in', 'a/hidden.png', _hidden_damage())
  args = [f'--source={tmp_path}/in', f'--out={tmp_path}/out']
  assert 'cut.jpg' in _refused(capsys, *args)
  os.remove(tmp_path / 'in/a/cut.jpg')
  assert 'hidden.png' in _refused(capsys, *args)  # found while writing
  assert os.listdir(tmp_path) == ['in']
  pictures.write(tmp_path / 'in', 'a/cut.jpg',
                 pictures.corrupt_files()['cut.jpg'])
  assert _run(*args, '--skip_corrupt') == 0
  content = manifest.read(str(tmp_path / 'out'))
  assert content['count'] == 3 and len(content['skipped']) == 2
  assert content['label_histogram'] == {'0': 2, '1': 1}
  # Left out, and not replaced by a neighbour.
  images = _open(tmp_path / 'out').take(np.arange(3))['image']
  assert len(np.unique(images.reshape(3, -1), axis=0)) == 3


def test_mixed_sizes_need_a_crop(tmp_path, capsys):
  _photos(tmp_path / 'in', 3, (8, 8))
  _photos(tmp_path / 'in', 1, (9, 8))
  args = [f'--source={tmp_path}/in', f'--out={tmp_path}/out']
  assert 'a/0.png (9x8)' in _refused(capsys, *args, '--resolution=4')
  assert _run(*args, '--resolution=4', '--crop=center') == 0


@pytest.mark.parametrize('args, words', [
    (['--source={}/none'], 'does not exist'),
    (['--source={}/in/a/0.png'], 'expected a folder'),
    (['--source=tfdz:mnist'], "Did you mean 'tfds'"),
    (['--source={}/in', '--filter=nearest'], 'data.filter'),
    (['--source={}/in', '--resolutoin=3'], 'Did you mean --resolution'),
    (['--source={}/in', '--data.backgruond=0'], '--data.background'),
    (['--source={}/in', '--labels=tone'], 'none and class'),
    (['--source=mixture:ring8'], 'has no images'),
    ([], '--source is missing')])
def test_refuses(tmp_path, capsys, args, words):
  _photos(tmp_path / 'in', 2, (8, 8))
  args = [arg.format(tmp_path) for arg in args]
  assert words in _refused(capsys, *args, f'--out={tmp_path}/out')
  assert os.listdir(tmp_path) == ['in']


def test_nothing_is_overwritten(tmp_path, capsys):
  _photos(tmp_path / 'in', 2, (8, 8))
  pictures.write(tmp_path / 'out', 'diary.txt', b'dear')
  args = [f'--source={tmp_path}/in', f'--out={tmp_path}/out']
  assert 'not an empty folder' in _refused(capsys, *args)
  shutil.move(tmp_path / 'out', tmp_path / 'out.partial')
  assert 'not made by prepare' in _refused(capsys, *args)
  assert (tmp_path / 'out.partial/diary.txt').read_bytes() == b'dear'
  (tmp_path / 'out.partial/diary.txt').unlink()
  (tmp_path / 'out').mkdir()
  assert _run(*args) == 0


def test_an_interrupted_run_is_begun_anew(tmp_path, monkeypatch, caplog):
  _photos(tmp_path / 'in', 5, (8, 8))
  args = [f'--source={tmp_path}/in', f'--out={tmp_path}/out']
  monkeypatch.setattr(shutil, 'rmtree', lambda *a, **k: None)  # as kill -9
  monkeypatch.setattr(manifest, 'file_hash', lambda path: 1 / 0)
  assert _run(*args) == cli.UNEXPECTED
  assert os.listdir(tmp_path / 'out.partial')
  assert not (tmp_path / 'out').exists()
  monkeypatch.undo()
  assert _run(*args) == 0
  assert 'interrupted run' in caplog.text
  assert len(_open(tmp_path / 'out')) == 5
  assert not (tmp_path / 'out.partial').exists()


def test_two_at_once_are_refused(tmp_path, capsys):
  _photos(tmp_path / 'in', 2, (8, 8))
  lock = prepare._claim(str(tmp_path / 'out.partial'))
  error = _refused(capsys, f'--source={tmp_path}/in', f'--out={tmp_path}/out')
  assert 'Another prepare' in error
  os.close(lock)
  assert _run(f'--source={tmp_path}/in', f'--out={tmp_path}/out') == 0


def test_full_disk_and_no_permission(tmp_path, capsys, monkeypatch):
  _photos(tmp_path / 'in', 2, (8, 8))
  args = [f'--source={tmp_path}/in', f'--out={tmp_path}/out']

  def full(*unused):
    raise OSError(28, 'No space left on device', 'shard')

  monkeypatch.setattr(manifest, 'write', full)
  assert 'the disk is full' in _refused(capsys, *args)
  assert os.listdir(tmp_path) == ['in']
  monkeypatch.undo()
  pictures.write(tmp_path, 'file', b'')
  assert 'cannot be written' in _refused(
      capsys, args[0], f'--out={tmp_path}/file/out')


def _spoil(folder, what):
  shard = os.path.join(folder, 'data-00000.array_record')
  path = os.path.join(folder, 'manifest.json')
  if what == 'cut':
    os.truncate(shard, os.path.getsize(shard) - 1)
  elif what == 'gone':
    os.remove(shard)
  elif what == 'no manifest':
    os.remove(path)
  else:
    with open(path, encoding='utf-8') as stream:
      content = json.load(stream)
    content.update(what)
    with open(path, 'w', encoding='utf-8') as stream:
      json.dump(content, stream)


@pytest.mark.parametrize('what, words', [
    ('cut', 'bytes long'), ('gone', 'is missing'),
    ('no manifest', 'has no manifest.json'), ({'format': 'x'}, 'not written'),
    ({'version': 99}, 'version 99'), ({'count': 9}, 'promises 9'),
    ({'shards': [{'file': '../x'}]}, 'describes a shard'),
    ({'fields': 3}, 'garbles fields')])
def test_damaged_sets_are_refused(tmp_path, what, words):
  _photos(tmp_path / 'in', 2, (8, 8))
  _run(f'--source={tmp_path}/in', f'--out={tmp_path}/out')
  _spoil(str(tmp_path / 'out'), what)
  with pytest.raises(prepare.errors.UserError, match=words):
    _open(tmp_path / 'out')


def test_verify_finds_a_flipped_bit(tmp_path, capsys):
  _photos(tmp_path / 'in', 2, (8, 8))
  _run(f'--source={tmp_path}/in', f'--out={tmp_path}/out')
  path = tmp_path / 'out/data-00000.array_record'
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))
  assert 'sha256' in _refused(capsys, f'--verify={tmp_path}/out')


@pytest.mark.parametrize('config, words', [
    (dict(resolution=4), 'data.resolution is 4'),
    (dict(channels=1), 'data.channels is 1'), (dict(split='test'), 'test'),
    (dict(labels='tone'), "labels 'class'")])
def test_asking_for_what_was_not_prepared(tmp_path, config, words):
  _photos(tmp_path / 'in', 2, (8, 8))
  _run(f'--source={tmp_path}/in', f'--out={tmp_path}/out')
  with pytest.raises(prepare.errors.UserError, match=words):
    _open(tmp_path / 'out', **config)


def test_recognises_bare_paths(tmp_path):
  idx_files.write_set(tmp_path / 'idx')
  assert _run(f'--source={tmp_path}/idx', f'--out={tmp_path}/a',
              '--resolution=32', '--crop=pad', '--channels=1') == 0
  assert _open(tmp_path / 'a', channels=1, labels='class').spec.num_classes == 3
  archive = cifar_archives.binary_ten(tmp_path / 'cifar.tar.gz')
  assert _run(f'--source={archive}', f'--out={tmp_path}/b',
              '--split=test') == 0
  assert len(_open(tmp_path / 'b', split='test')) == 2
  assert _run(f'--source={tmp_path}/b', f'--out={tmp_path}/c',
              '--format=zip') == 0
  assert _run(f'--source={tmp_path}/c/dataset.zip', f'--out={tmp_path}/d',
              '--resolution=16') == 0
  assert _open(tmp_path / 'd').spec.resolution == 16


def test_tfds_is_prepared_from_the_original_files(tmp_path):
  want = idx_files.write_set(tmp_path / 'idx')['train'][0]
  args = ['--source=tfds:mnist', f'--data.manual_dir={tmp_path}/idx',
          f'--data.data_dir={tmp_path}/tfds', '--channels=1']
  assert _run(*args) == 0  # for TFDS alone
  assert _run(*args, f'--out={tmp_path}/out') == 0
  data = _open(tmp_path / 'out', channels=1)
  np.testing.assert_array_equal(data[3]['image'][..., 0], want[3])


def test_the_command_line_itself(tmp_path):
  _photos(tmp_path / 'in', 2, (8, 8))
  pictures.write(tmp_path / 'in', 'b/cmyk.jpg',
                 pictures.bad_files()['cmyk.jpg'][0])
  done = subprocess.run(
      [sys.executable, '-m', 'gans_jax.prepare', f'--source={tmp_path}/in',
       f'--out={tmp_path}/out'], capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert 'CMYK' in done.stderr and 'Traceback' not in done.stderr
  assert os.listdir(tmp_path) == ['in']
