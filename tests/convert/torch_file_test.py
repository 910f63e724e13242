"""Checkpoints written by PyTorch itself, read without it."""

import collections
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from gans_jax.convert import torch_file
from gans_jax.core import errors

LEGACY = pytest.mark.parametrize('zipped', [False, True])


def _save(path, value, zipped):
  torch.save(value, path, _use_new_zipfile_serialization=zipped)
  assert zipfile.is_zipfile(path) == zipped
  return path


@LEGACY
@pytest.mark.parametrize('dtype', [
    torch.float64, torch.float32, torch.float16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool])
def test_every_dtype_is_bit_exact(tmp_path, zipped, dtype):
  x = (torch.arange(-10, 14).reshape(2, 3, 4) * 1.37).to(dtype)
  found = torch_file.load(_save(tmp_path / 'x.pth', x, zipped))
  assert found.dtype == x.numpy().dtype
  np.testing.assert_array_equal(found, x.numpy())


@LEGACY
def test_bfloat16_is_bit_exact(tmp_path, zipped):
  x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
  x = x.to(torch.bfloat16)
  found = torch_file.load(_save(tmp_path / 'x.pth', x.T, zipped))
  assert found.dtype.name == 'bfloat16'
  np.testing.assert_array_equal(found.astype(np.float32), x.T.float().numpy())


@LEGACY
def test_strides_offsets_and_sharing_are_kept(tmp_path, zipped):
  base = torch.arange(60.0).reshape(3, 4, 5)
  value = {
      'base': base,
      'transposed': base.permute(2, 0, 1),
      'slice': base[1:, ::2, 1],
      'expanded': base[0, 0, :1].expand(4, 1),
      'scalar': torch.tensor(2.5),
      'empty': torch.zeros(0, 3),
  }
  found = torch_file.load(_save(tmp_path / 'x.pth', value, zipped))
  for name, tensor in value.items():
    np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)
    assert found[name].shape == tuple(tensor.shape)
  assert not found['transposed'].flags.c_contiguous
  assert np.shares_memory(found['base'], found['transposed'])
  found['base'][0, 0, 0] = -1
  assert found['transposed'][0, 0, 0] == -1


@LEGACY
def test_state_dict_of_a_module(tmp_path, zipped):
  net = torch.nn.Sequential(
      torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  value = {'state': net.state_dict(), 'raw': list(net.parameters()),
           'size': torch.Size([1, 2]), 'step': 3, 'name': 'x', 'lr': 1e-3}
  found = torch_file.load(_save(tmp_path / 'x.pth', value, zipped))
  assert isinstance(found['state'], collections.OrderedDict)
  assert list(found['state']) == list(net.state_dict())
  for name, tensor in net.state_dict().items():
    np.testing.assert_array_equal(found['state'][name], tensor.numpy())
  for a, b in zip(found['raw'], net.parameters(), strict=True):
    np.testing.assert_array_equal(a, b.detach().numpy())
  assert (found['size'], found['step'], found['name'], found['lr']) == (
      (1, 2), 3, 'x', 1e-3)


@LEGACY
def test_a_pickled_module_is_refused(tmp_path, zipped):
  path = _save(tmp_path / 'x.pth', torch.nn.Linear(2, 2), zipped)
  with pytest.raises(errors.UserError, match='asks for torch.*Linear'):
    torch_file.load(path)


@LEGACY
def test_every_truncation_is_a_user_error(tmp_path, zipped):
  path = _save(tmp_path / 'x.pth', {'a': torch.arange(64.0)}, zipped)
  data = path.read_bytes()
  for length in range(0, len(data) - 1, 29):
    path.write_bytes(data[:length])
    with pytest.raises(errors.UserError, match='x.pth'):
      torch_file.load(path)


def test_missing_file_and_other_files(tmp_path):
  with pytest.raises(errors.UserError, match='cannot be read: No such file'):
    torch_file.load(tmp_path / 'no.pth')
  path = tmp_path / 'x.pth'
  path.write_bytes(b''.join(pickle.dumps(v, 2) for v in (1, 2, {}, {})))
  with pytest.raises(errors.UserError, match='no PyTorch checkpoint'):
    torch_file.load(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.txt', 'x')
  with pytest.raises(errors.UserError, match='0 entries called data.pkl'):
    torch_file.load(path)


def test_big_endian_is_refused(tmp_path):
  stream = io.BytesIO()
  torch.save(torch.ones(2), stream)
  path = tmp_path / 'x.pth'
  with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, 'w') as new:
    for name in old.namelist():
      data = b'big' if name.endswith('byteorder') else old.read(name)
      new.writestr(name, data)
  with pytest.raises(errors.UserError, match="byte order 'big'"):
    torch_file.load(path)


@pytest.mark.parametrize('size, stride, offset', [
    ((5,), (1,), 0), ((2, 2), (3, 1), 0), ((1,), (1,), 4), ((2,), (-1,), 3)])
def test_a_tensor_cannot_leave_its_storage(tmp_path, size, stride, offset):
  class Forged:

    def __reduce__(self):
      return torch._utils._rebuild_tensor_v2, (
          torch.ones(4)._typed_storage(), offset, size, stride, False,
          collections.OrderedDict())

  # Pickled as PyTorch would, save that the fields do not fit the storage.
  path = _save(tmp_path / 'x.pth', [Forged()], True)
  with pytest.raises(errors.UserError, match='leaves its storage of 4'):
    torch_file.load(path)
