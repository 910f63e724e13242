"""TorchScript archives written by PyTorch, read without it."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from gans_jax.convert import torch_script
from gans_jax.core import errors


class Layer(torch.nn.Module):
  """A convolution with attributes of all kinds."""

  def __init__(self):
    super().__init__()
    self.stride = 1
    self.padding = [0, 1]
    self.scales = [0.5, 2.0]
    self.flags = [True]
    self.name = 'x'
    self.nothing = None
    # Stored as the transpose of what it is: strides must be honoured.
    self.weight = torch.nn.Parameter(
        torch.randn(3, 5, 2, 4).permute(3, 2, 1, 0))
    self.register_buffer('beta', torch.randn(4).double())
    self.register_buffer('scalar', torch.tensor(2.5).half())
    self.register_buffer('count', torch.tensor([7, 8]))
    self.register_buffer('mask', torch.tensor([True, False]))

  def forward(self, x):
    return torch.nn.functional.conv2d(
        x, self.weight, None, self.stride, self.padding) * self.scales[0]


@pytest.fixture
def scripted():
  torch.manual_seed(0)
  net = torch.nn.Module()
  net.add_module('visual', torch.nn.Sequential(Layer(), Layer()))
  net.add_module('linear', torch.nn.Linear(2, 3))
  return torch.jit.script(net)


def test_tensors_are_bit_exact(scripted, tmp_path):
  path = tmp_path / 'net.pt'
  torch.jit.save(scripted, path)
  assert torch_script.is_archive(path)
  found = torch_script.load(path)
  expected = scripted.state_dict()
  assert 'visual.1.weight' in expected and set(found) == set(expected)
  for key, value in expected.items():
    value = value.numpy()
    assert found[key].dtype == value.dtype and not found[key].flags.writeable
    np.testing.assert_array_equal(found[key], value, strict=True)


def test_half_precision(scripted, tmp_path):
  path = tmp_path / 'net.pt'
  torch.jit.save(scripted.half(), path)
  found = torch_script.load(path)
  np.testing.assert_array_equal(
      found['linear.weight'], scripted.linear.weight.detach().numpy(),
      strict=True)
  assert found['linear.weight'].dtype == np.float16


def test_other_files_are_none(tmp_path):
  path = tmp_path / 'x'
  assert not torch_script.is_archive(path)
  assert not torch_script.is_archive(tmp_path)
  for data in (b'', b'PK\3\4', b'\x80\2'):
    path.write_bytes(data)
    assert not torch_script.is_archive(path)
  for zipped in (False, True):
    torch.save({'a': torch.ones(2)}, path,
               _use_new_zipfile_serialization=zipped)
    assert not torch_script.is_archive(path)


class Forged:

  def __reduce__(self):
    return eval, ('1',)


def test_nothing_is_executed_and_damage_is_told(tmp_path):
  stream = io.BytesIO()
  net = torch.nn.Linear(2, 2)
  torch.jit.save(torch.jit.script(net), stream)
  path = tmp_path / 'x.pt'

  def rewrite(change):
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, 'w') as new:
      for name in old.namelist():
        data = change(name, old.read(name))
        if data is not None:
          new.writestr(name, data)

  # Code that cannot even be parsed makes no difference.
  rewrite(lambda name, data: b'raise' if '/code/' in name else data)
  np.testing.assert_array_equal(
      torch_script.load(path)['weight'], net.weight.detach().numpy())
  rewrite(lambda name, data: pickle.dumps(Forged(), 2)
          if name.endswith('data.pkl') else data)
  with pytest.raises(errors.UserError, match='asks for __builtin__.eval'):
    torch_script.load(path)
  rewrite(lambda name, data: pickle.dumps([1], 2)
          if name.endswith('data.pkl') else data)
  with pytest.raises(errors.UserError, match='archive without a module'):
    torch_script.load(path)
  rewrite(lambda name, data: None if '/data/' in name else data)
  with pytest.raises(errors.UserError, match='x.pt is no readable pickle'):
    torch_script.load(path)
  rewrite(lambda name, data: data[:-4] if '/data/' in name else data)
  with pytest.raises(errors.UserError, match='x.pt is no readable pickle'):
    torch_script.load(path)
  rewrite(lambda name, data: None if name.endswith('data.pkl') else data)
  with pytest.raises(errors.UserError, match='damaged TorchScript archive'):
    torch_script.load(path)
  data = bytearray(stream.getvalue())
  with zipfile.ZipFile(stream) as archive:
    (entry,) = (info for info in archive.infolist()
                if info.filename.endswith('/data.pkl'))
  data[entry.header_offset + entry.file_size // 2 + 100] ^= 0xFF
  path.write_bytes(data)
  with pytest.raises(errors.UserError, match='x.pt is'):
    torch_script.load(path)
