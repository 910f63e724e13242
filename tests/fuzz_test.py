"""Hostile inputs are read or refused in words; see fuzz.py for the long way."""

import json
import os
import pathlib
import pickle
import random
import stat
import zipfile

import fuzz
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pictures
import pytest

from gans_jax.convert import safe_pickle
from gans_jax.core import archives
from gans_jax.core import cli
from gans_jax.core import errors
from gans_jax.data import folder as folder_lib
from gans_jax.data import image_files

# Read in milliseconds, without preparing anything.
QUICK = ('config', 'dataset_json', 'graph', 'idx', 'image', 'metrics',
         'msgpack', 'overrides', 'statistics', 'tokens', 'torch', 'torchscript',
         'zip')
SETTINGS = hypothesis.settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('fuzz')


_seeds = {}


def seeds_of(name: str) -> list[bytes]:
  if name not in _seeds:
    _seeds[name] = fuzz.TARGETS[name].seeds()
  return _seeds[name]


def well(name: str, data: bytes, folder: pathlib.Path) -> bool:
  """Asserts that an input does no harm; returns whether it was accepted."""
  (folder / name).mkdir(exist_ok=True)
  fault, good = fuzz.attempt(fuzz.TARGETS[name], data, folder / name)
  assert not fault, fault
  return good


def changed(name: str, count: int, folder: pathlib.Path) -> None:
  target, rng = fuzz.TARGETS[name], random.Random(name)
  for _ in range(count):
    data = rng.choice(seeds_of(name))
    for _ in range(rng.choice((1, 1, 2))):
      data = target.change(rng, data)
    well(name, data, folder)


@pytest.mark.parametrize('name', QUICK)
def test_files_of_note(name, folder):
  """Good files are read; the bad ones among the seeds are refused."""
  assert well(name, seeds_of(name)[0], folder) or name in (
      'msgpack', 'overrides')
  for data in seeds_of(name):
    well(name, data, folder)


@pytest.mark.parametrize('name', QUICK)
def test_changes_of_structure(name, folder):
  changed(name, 40, folder)


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(fuzz.TARGETS))
def test_many_changes(name, folder):
  for data in fuzz.TARGETS[name].bombs():
    well(name, data, folder)
  changed(name, 500, folder)


@hypothesis.given(data=st.data())
@SETTINGS
def test_changes_of_bytes(folder, data):
  """Any bytes anywhere in any file; hypothesis finds the shortest change."""
  name = data.draw(st.sampled_from(QUICK))
  small = [x for x in seeds_of(name) if len(x) < 2**14]
  content = bytearray(data.draw(st.sampled_from(small)))
  for _ in range(data.draw(st.integers(1, 3))):
    at = data.draw(st.integers(0, len(content)))
    content[at:at + data.draw(st.integers(0, 4))] = data.draw(
        st.binary(max_size=8))
  well(name, bytes(content), folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10)


@hypothesis.given(value=JSON, pairs=st.lists(st.tuples(
    st.sampled_from(('a.png', 'b.png', '../c.png')) | JSON, JSON)))
@hypothesis.settings(SETTINGS, max_examples=30)
def test_any_labels(folder, value, pairs):
  for content in (value, {'labels': value}, {'labels': pairs},
                  {'labels': [['a.png', 1]], 'class_names': value}):
    well('dataset_json', json.dumps(content).encode(), folder)


@hypothesis.given(key=st.sampled_from((
    'batch_size', 'ema.decay', 'evaluate.metrics', 'data.groups', 'dtype',
    'optimizer.G.betas', 'model', '')) | st.text(), value=st.text())
@SETTINGS
def test_any_override(folder, key, value):
  well('overrides', f'total_steps=3\n{key}={value}'.encode(
      'utf-8', 'replace'), folder)


@hypothesis.given(shape=st.lists(st.integers(-2, 2**70), max_size=3),
                  dtype=st.sampled_from(('<f8', '|O', '<U9', '|V9', '?', 'x')),
                  rest=st.binary(max_size=40))
@SETTINGS
def test_any_array(shape, dtype, rest):
  header = repr({'descr': dtype, 'fortran_order': False,
                 'shape': tuple(shape)}).encode() + b'\n'
  data = b'\x93NUMPY\1\0' + len(header).to_bytes(2, 'little') + header + rest
  try:
    found = archives.parse_npy(bytearray(data), 'a.npy')
  except ValueError:
    return
  assert found.nbytes == len(rest) and found.shape == tuple(shape)


# --- What fuzzing found, one by one -------------------------------------------


def test_a_zip_is_never_unpacked_beyond_its_promise(tmp_path):
  """The directory says 100 bytes; the member unpacks to 32 MiB."""
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a.npy', bytes(2**25))
  data = bytearray(path.read_bytes())
  at = data.index(b'PK\1\2') + 24
  data[at:at + 4] = (100).to_bytes(4, 'little')
  path.write_bytes(data)
  with zipfile.ZipFile(path) as archive:
    # Of the right length, but the checksum is that of the whole.
    with pytest.raises(ValueError, match='CRC'):
      archives.read(archive, archive.infolist()[0])


def test_members_that_share_their_bytes_are_refused(tmp_path):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.npy', bytes(10_000))
    archive.filelist *= 1000
  with pytest.raises(ValueError, match='in a file of'):
    archives.read_npz(path)


@pytest.mark.parametrize('data', fuzz.nested_pickles()[:2])
def test_a_tuple_of_two_tuples_of_two_tuples(data):
  """Sixty deep: 2^60 hashes, and as much text."""
  with pytest.raises(errors.UserError, match='an object of more than'):
    safe_pickle.load(_stream(data), 'a.pkl', {})


def test_lists_may_be_used_often():
  shared = ['x'] * 100
  value = {'a': [shared] * 100, 'b': [(i, (i,)) for i in range(1000)]}
  for protocol in range(6):
    assert safe_pickle.load(_stream(pickle.dumps(value, protocol)), 'a.pkl',
                            {}) == value


def _stream(data):
  import io

  return io.BytesIO(data)


def test_programs_are_never_started_on_images(tmp_path):
  """Pillow hands EPS to Ghostscript, whatever the file is called."""
  from PIL import Image

  pictures.write(tmp_path, 'a.png', pictures.encode(
      Image.fromarray(pictures.pixels(0)), 'eps'))
  with pytest.raises(errors.UserError, match='a.png is not a readable image'):
    folder_lib.create_source({'source': f'folder:{tmp_path}'}, 'train')


def test_links_pipes_and_devices_in_a_folder(tmp_path):
  root = tmp_path / 'set'
  (root / 'a').mkdir(parents=True)
  pictures.write(root / 'a', 'x.png', pictures.png(pictures.pixels(0)))
  (root / 'b').symlink_to(root / 'a')  # Of another class: it may be meant.
  assert len(folder_lib.list_files(root)) == 2
  (root / 'a' / 'up').symlink_to(root)
  with pytest.raises(errors.UserError, match='a folder that it lies in'):
    folder_lib.list_files(root)
  (root / 'a' / 'up').unlink()
  (root / 'b').unlink()
  os.mkfifo(root / 'a' / 'y.png')
  assert stat.S_ISFIFO((root / 'a' / 'y.png').stat().st_mode)
  data = {'source': f'folder:{root}'}
  with pytest.raises(errors.UserError, match='y.png is no regular file'):
    folder_lib.create_source(data, 'train')
  (root / 'a' / 'y.png').unlink()
  (root / 'a' / 'y.png').symlink_to('/dev/zero')
  with pytest.raises(errors.UserError, match='y.png is no regular file'):
    folder_lib.create_source(data, 'train')


def test_folders_within_folders_by_links(tmp_path):
  """Forty levels of two links each: 2^40 ways."""
  for i in range(30):
    (tmp_path / str(i)).mkdir()
    for name in 'ab':
      (tmp_path / str(i) / name).symlink_to(tmp_path / str(i + 1))
  (tmp_path / '30').mkdir()
  with pytest.raises(errors.UserError, match='many others lead to'):
    folder_lib.list_files(tmp_path)


def test_files_without_end(tmp_path):
  with open(tmp_path / 'a.png', 'wb') as stream:
    stream.truncate(2**40)
  with pytest.raises(errors.UserError, match='a.png has 1099511627776 bytes'):
    folder_lib.list_files(tmp_path)
  os.truncate(tmp_path / 'a.png', 0)
  os.rename(tmp_path / 'a.png', tmp_path / image_files.DATASET_JSON)
  os.truncate(tmp_path / image_files.DATASET_JSON, 2**40)
  with pytest.raises(errors.UserError, match='dataset.json has more than'):
    folder_lib.create_source({'source': f'folder:{tmp_path}'}, 'train')


def test_names_of_files_cannot_command_the_terminal():
  text = cli.paragraph(errors.UserError('\x1b[2J\ud800\0' + 'x' * 10**6))
  assert text.isprintable() or text.replace('\n', '').isprintable()
  assert '\\x1b[2J\\ud800\\x00' in text and len(text) < 4000


def test_harm_is_noticed(tmp_path):
  """The watch itself: what a reader must not do is found."""
  def target(read):
    return fuzz.Target(lambda: [], read, fuzz.bytewise)

  def swallow(data, unused_folder):
    try:
      open(tmp_path / 'outside', 'wb').close()
    except Exception:  # pylint: disable=broad-except
      raise errors.UserError('something else') from None

  def loop(data, unused_folder):
    while True:
      pass

  def hungry(data, unused_folder):
    np.ones(2**33, np.uint8)

  for read, words in (
      (lambda *_: os.system('true'), 'os.system'), (swallow, 'open'),
      (lambda *_: eval('1 + 1'), 'exec'), (lambda *_: pickle.loads(
          pickle.dumps(os.getcwd)), 'pickle.find_class'),
      (loop, 'more than 0.2 s'), (hungry, 'MemoryError'),
      (lambda *_: {}['a'], 'KeyError'), (lambda *_: 1 / 0, 'ZeroDivision')):
    fault, good = fuzz.attempt(target(read), b'', tmp_path / 'folder', 0.2)
    assert words in fault and not good, (words, fault)
  (tmp_path / 'folder').mkdir()
  fault, good = fuzz.attempt(target(
      lambda data, folder: (folder / 'x').write_bytes(data)), b'',
      tmp_path / 'folder')
  assert good and not fault
