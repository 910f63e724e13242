"""Every published form of the FID Inception weights, to the same variables."""

import collections
import hashlib
import logging
import pathlib
import pickle
import struct
import zipfile

import flax
import jax
import numpy as np
import pytest
import torch

from gans_jax.convert import inception as convert
from gans_jax.convert import published
from gans_jax.core import errors

# Module of the .pth -> scope of the TensorFlow graph, block by block.
STEM = {'Conv2d_1a_3x3': 'conv', 'Conv2d_2a_3x3': 'conv_1',
        'Conv2d_2b_3x3': 'conv_2', 'Conv2d_3b_1x1': 'conv_3',
        'Conv2d_4a_3x3': 'conv_4'}
A = {'branch1x1': 'conv',
     'branch5x5_1': 'tower/conv', 'branch5x5_2': 'tower/conv_1',
     'branch3x3dbl_1': 'tower_1/conv', 'branch3x3dbl_2': 'tower_1/conv_1',
     'branch3x3dbl_3': 'tower_1/conv_2', 'branch_pool': 'tower_2/conv'}
B = {'branch3x3': 'conv',
     'branch3x3dbl_1': 'tower/conv', 'branch3x3dbl_2': 'tower/conv_1',
     'branch3x3dbl_3': 'tower/conv_2'}
C = {'branch1x1': 'conv',
     'branch7x7_1': 'tower/conv', 'branch7x7_2': 'tower/conv_1',
     'branch7x7_3': 'tower/conv_2',
     'branch7x7dbl_1': 'tower_1/conv', 'branch7x7dbl_2': 'tower_1/conv_1',
     'branch7x7dbl_3': 'tower_1/conv_2', 'branch7x7dbl_4': 'tower_1/conv_3',
     'branch7x7dbl_5': 'tower_1/conv_4', 'branch_pool': 'tower_2/conv'}
D = {'branch3x3_1': 'tower/conv', 'branch3x3_2': 'tower/conv_1',
     'branch7x7x3_1': 'tower_1/conv', 'branch7x7x3_2': 'tower_1/conv_1',
     'branch7x7x3_3': 'tower_1/conv_2', 'branch7x7x3_4': 'tower_1/conv_3'}
E = {'branch1x1': 'conv', 'branch3x3_1': 'tower/conv',
     'branch3x3_2a': 'tower/mixed/conv', 'branch3x3_2b': 'tower/mixed/conv_1',
     'branch3x3dbl_1': 'tower_1/conv', 'branch3x3dbl_2': 'tower_1/conv_1',
     'branch3x3dbl_3a': 'tower_1/mixed/conv',
     'branch3x3dbl_3b': 'tower_1/mixed/conv_1', 'branch_pool': 'tower_2/conv'}
BLOCKS = {'5b': A, '5c': A, '5d': A, '6a': B, '6b': C, '6c': C, '6d': C,
          '6e': C, '7a': D, '7b': E, '7c': E}
SCOPES = dict(STEM)
for number, (block, branches) in enumerate(BLOCKS.items()):
  mixed = f'mixed_{number}' if number else 'mixed'
  SCOPES |= {f'Mixed_{block}.{branch}': f'{mixed}/{scope}'
             for branch, scope in branches.items()}
PARTS = ('weight', 'bias', 'running_mean', 'running_var')


@pytest.fixture(scope='module')
def state():
  """A random state_dict of pytorch-fid's form, gammas 1, in NumPy."""
  r, tensors = np.random.default_rng(0), {}
  for module, shape in convert._shapes().items():
    if module == 'fc':
      tensors['fc.weight'] = r.random((1008, 2048), np.float32)
      tensors['fc.bias'] = r.random(1008, np.float32)
      continue
    kh, kw, i, o = shape
    tensors[f'{module}.conv.weight'] = r.random((o, i, kh, kw), np.float32)
    for part in PARTS:
      tensors[f'{module}.bn.{part}'] = r.random(o, np.float32) + 0.5
    tensors[f'{module}.bn.weight'] = np.ones(o, np.float32)
    tensors[f'{module}.bn.num_batches_tracked'] = np.zeros([], np.int64)
  return tensors


@pytest.fixture(scope='module')
def expected(state):
  return convert.fold(state, 'the state')['params']


def equal(found, expected) -> bool:
  return jax.tree.all(jax.tree.map(np.array_equal, found, expected))


def sha256(path) -> str:
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def as_torch(state):
  return {key: torch.from_numpy(x) for key, x in state.items()}


def test_folding_by_hand(state, expected):
  assert set(SCOPES) == {key.removesuffix('.conv.weight') for key in state
                         if key.endswith('.conv.weight')}
  name = 'Mixed_6c.branch7x7_2'
  weight, gamma, beta, mean, variance = (
      state[f'{name}.{part}'].astype(np.float64) for part in (
          'conv.weight', *(f'bn.{part}' for part in PARTS)))
  found = expected['Mixed_6c']['branch7x7_2']
  scale = gamma / np.sqrt(variance + 1e-3)
  assert found['kernel'].shape == (1, 7, 160, 160)
  np.testing.assert_allclose(
      found['kernel'][0, 3, 5], weight[:, 5, 0, 3] * scale, rtol=1e-6)
  np.testing.assert_allclose(found['bias'], beta - mean * scale, rtol=1e-5,
                             atol=1e-6)
  np.testing.assert_array_equal(
      expected['fc']['kernel'], state['fc.weight'].T)
  halved = {key: x * 0.5 if key == f'{name}.bn.weight' else x
            for key, x in state.items()}
  np.testing.assert_allclose(
      convert.fold(halved, 'x')['params']['Mixed_6c']['branch7x7_2']['kernel'],
      found['kernel'] / 2, rtol=1e-6)


@pytest.mark.parametrize('zipped', [False, True])
def test_pth(state, expected, tmp_path, zipped, caplog):
  # As pytorch-fid's file, whatever it is called and whatever else it holds.
  path = tmp_path / 'weights'
  torch.save(as_torch({'AuxLogits.fc.bias': np.ones(3), **state}), path,
             _use_new_zipfile_serialization=zipped)
  found = convert.read(path)
  assert equal(found.variables['params'], expected)
  assert found.sha256 == sha256(path)
  (record,) = caplog.records
  assert record.levelno == logging.WARNING
  assert found.sha256 in record.getMessage()
  assert convert.INCEPTION.sha256 in record.getMessage()


def test_counters_may_be_absent_and_dtypes_may_differ(state, expected):
  few = {key: x.astype(np.float64) for key, x in state.items()
         if 'num_batches' not in key}
  assert equal(convert.fold(few, 'x')['params'], expected)


class ScriptLayer(torch.nn.Module):
  """A convolution of NVIDIA's network: no gamma, and attributes of all kinds.
  """

  def __init__(self, weight, beta, mean, var):
    super().__init__()
    self.stride = 1
    self.padding = [0, 1]
    self.name = 'x'
    # Stored as the transpose of what it is: strides must be honoured.
    self.weight = torch.nn.Parameter(
        weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    self.register_buffer('beta', beta)
    self.register_buffer('mean', mean)
    self.register_buffer('var', var)

  def forward(self, x):
    x = torch.nn.functional.conv2d(x, self.weight, None, self.stride,
                                   self.padding)
    return torch.nn.functional.relu(torch.nn.functional.batch_norm(
        x, self.mean, self.var, bias=self.beta, eps=1e-3))


def test_torchscript(state, expected, tmp_path):
  tensors = as_torch(state)
  root = torch.nn.Module()
  root.add_module('layers', torch.nn.Module())
  root.add_module('output', torch.nn.Linear(2048, 1008))
  root.output.load_state_dict(
      {'weight': tensors['fc.weight'], 'bias': tensors['fc.bias']})
  for name, scope in SCOPES.items():
    path = scope.split('/')
    if path[0] in ('mixed_9', 'mixed_10'):
      path = [path[0], '_'.join(path[1:])]
    module = root.layers
    for step in path[:-1]:
      if not hasattr(module, step):
        module.add_module(step, torch.nn.Module())
      module = getattr(module, step)
    module.add_module(path[-1], ScriptLayer(
        tensors[f'{name}.conv.weight'],
        *(tensors[f'{name}.bn.{part}'] for part in PARTS[1:])))
  assert root.layers.mixed_9.tower_1_mixed_conv_1.weight.shape == (
      384, 384, 3, 1)
  path = tmp_path / 'inception.pt'
  torch.jit.save(torch.jit.script(root), path)
  found = convert.read(path)
  assert equal(found.variables['params'], expected)
  assert found.sha256 == sha256(path)


# The protocol-buffer wire format, by hand.


def varint(value: int) -> bytes:
  out = b''
  while value > 0x7F:
    out += bytes([value & 0x7F | 0x80])
    value >>= 7
  return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
  if isinstance(value, int):
    return varint(number << 3) + varint(value)
  return varint(number << 3 | 2) + varint(len(value)) + value


def node(name: str, op: str, attributes: dict[str, bytes]) -> bytes:
  parts = [field(1, name.encode()), field(2, op.encode()),
           field(3, b'an/input')]
  parts += [field(5, field(1, key.encode()) + field(2, value))
            for key, value in attributes.items()]
  return field(1, b''.join(parts))


def tensor(x: np.ndarray, dtype: int, content: bytes) -> bytes:
  shape = b''.join(field(2, field(1, n) if n else b'') for n in x.shape)
  return field(8, field(1, dtype) + field(2, shape) + content)


def constant(name: str, x: np.ndarray) -> bytes:
  x = np.ascontiguousarray(x, '<f4')
  return node(name, 'Const', {
      'dtype': field(6, 1), 'value': tensor(x, 1, field(4, x.tobytes()))})


def graph(state) -> bytes:
  nodes = [
      node('DecodeJpeg/contents', 'Placeholder', {'dtype': field(6, 7)}),
      node('ExpandDims/dim', 'Const', {'value': tensor(
          np.zeros([], np.int32), 3, field(7, varint(0)))})]
  parts = ('beta', 'moving_mean', 'moving_variance')
  for name, scope in SCOPES.items():
    nodes.append(constant(f'{scope}/conv2d_params', state[
        f'{name}.conv.weight'].transpose(2, 3, 1, 0)))
    nodes += [constant(f'{scope}/batchnorm/{ours}', state[f'{name}.bn.{part}'])
              for ours, part in zip(parts, PARTS[1:], strict=True)]
    # A tensor of equal values is stored as one of them.
    nodes.append(node(f'{scope}/batchnorm/gamma', 'Const', {'value': tensor(
        state[f'{name}.bn.weight'], 1, field(5, struct.pack('<f', 1)))}))
  nodes.append(constant('softmax/weights', state['fc.weight'].T))
  nodes.append(constant('softmax/biases', state['fc.bias']))
  versions = field(4, field(1, 8))
  return b''.join(nodes) + versions


def test_graph_def(state, expected, tmp_path):
  path = tmp_path / 'graph.pb'
  path.write_bytes(graph(state))
  found = convert.read(path)
  assert equal(found.variables['params'], expected)
  assert found.sha256 == sha256(path)


def test_graph_constants_of_every_kind():
  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  values = [struct.pack('<f', v) for v in x.flat]
  single = varint(5 << 3 | 5)
  data = b''.join([
      constant('content', x),
      constant('empty', np.zeros((2, 0), np.float32)),
      node('packed', 'Const', {'value': tensor(
          x, 1, field(5, b''.join(values)))}),
      node('unpacked', 'Const', {'value': tensor(
          x, 1, b''.join(single + v for v in values))}),
      node('shortened', 'Const', {'value': tensor(
          x, 1, field(5, b''.join(values[:3])))}),
      node('scalar', 'Const', {'value': tensor(x[0, 0], 1, single + values[4])
                               }),
      node('integers', 'Const', {'value': tensor(x, 3, field(7, b'\1'))}),
      node('no_constant', 'Identity', {'value': tensor(x, 1, b'')}),
      varint(99 << 3 | 1) + bytes(8)])
  found = convert.graph_constants(data, 'x')
  assert set(found) == {'content', 'empty', 'packed', 'unpacked', 'shortened',
                        'scalar'}
  for name in ('content', 'packed', 'unpacked'):
    np.testing.assert_array_equal(found[name], x)
  assert found['shortened'].tolist() == [[0, 1, 2], [2, 2, 2]]
  assert found['empty'].shape == (2, 0)
  assert found['scalar'].shape == () and found['scalar'] == 4


def test_every_truncated_graph_is_refused():
  data = constant('a', np.ones((2, 3), np.float32))
  for length in range(1, len(data)):
    with pytest.raises(errors.UserError, match='x is neither'):
      convert.graph_constants(data[:length], 'x')
  for data in (b'<!DOCTYPE html><html>', b'version https://git-lfs',
               b'\xff' * 9, field(1, field(5, field(2, b'')))[:-1]):
    with pytest.raises(errors.UserError, match='x is neither'):
      convert.graph_constants(data, 'x')


def test_our_own_form(expected, tmp_path, caplog, monkeypatch):
  weights = published.Weights({'params': expected}, 'f' * 64)
  path = tmp_path / 'folder' / 'weights.npz'
  convert.save(path, weights)
  found = convert.read(path)
  assert equal(found.variables['params'], expected)
  assert found.sha256 == 'f' * 64
  # It was checked when it was made.
  assert not caplog.records
  monkeypatch.setenv(convert.INCEPTION.variable, str(path))
  assert convert.load().sha256 == 'f' * 64
  with pytest.raises(errors.UserError, match='--inception_weights names .*no'):
    convert.load(tmp_path / 'no.pth')
  flat = flax.traverse_util.flatten_dict(expected, sep='/')
  path = tmp_path / 'bad.npz'
  for change, message in (
      ({'fc/bias': None}, 'fc/bias'),
      ({'fc/bias': np.ones(1000, np.float32)}, r'\[1000\], not'),
      ({'fc/bias': np.full(1008, np.nan, np.float32)}, 'NaN'),
      ({'fc/bias': np.ones(1008)}, 'float64'),
      ({'format': 'another'}, "'another'")):
    arrays = {'format': convert._FORMAT, 'source_sha256': 'f', **flat, **change}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(errors.UserError, match=f'bad.npz is a .*{message}'):
      convert.read(path)


def test_other_networks_are_refused(state, tmp_path):
  with pytest.raises(errors.UserError, match=(
      r"holds 1 arrays \('main.0.weight', ...\), none of them called "
      "'Conv2d_1a_3x3.conv.weight' or 'layers.conv.weight' or "
      "'conv/conv2d_params'")):
    convert.fold({'main.0.weight': np.ones(3)}, 'x')
  with pytest.raises(errors.UserError, match='x is not .* holds 0 arrays'):
    convert.fold({}, 'x')
  # torchvision's Inception v3 has the same names.
  with pytest.raises(errors.UserError, match=(
      r"'fc.weight' of shape \[1000, 2048\] where .* has \[1008, 2048\]. It "
      'looks like the Inception v3 of torchvision')):
    convert.fold({**state, 'fc.weight': np.ones((1000, 2048))}, 'x')
  key = 'Mixed_6b.branch7x7_2.conv.weight'
  with pytest.raises(errors.UserError, match=rf"'{key}' of shape \[2\]"):
    convert.fold({**state, key: np.ones(2)}, 'x')
  with pytest.raises(errors.UserError, match=f"lacks '{key}', .* pytorch-fid"):
    convert.fold({k: x for k, x in state.items() if k != key}, 'x')
  key = 'Mixed_7c.branch_pool.bn.running_var'
  with pytest.raises(errors.UserError, match=f"negative variances in '{key}'"):
    convert.fold({**state, key: -state[key]}, 'x')
  with pytest.raises(errors.UserError, match=f"NaN or infinity in '{key}'"):
    convert.fold({**state, key: np.inf * state[key]}, 'x')
  path = tmp_path / 'x.pth'
  torch.save([torch.ones(2)], path)
  with pytest.raises(errors.UserError, match='a list, not the state_dict'):
    convert.read(path)


def test_damaged_files_are_refused(tmp_path):
  path = tmp_path / 'weights.pth'
  with pytest.raises(errors.UserError, match='cannot be read: No such file'):
    convert.read(path)
  path.write_bytes(b'')
  with pytest.raises(errors.UserError, match='holds 0 arrays'):
    convert.read(path)
  path.write_bytes(b'<html>404')
  with pytest.raises(errors.UserError, match='weights.pth is neither'):
    convert.read(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a/readme', 'x')
  with pytest.raises(errors.UserError, match='0 entries called data.pkl'):
    convert.read(path)
  # NVIDIA's .pkl has the classes of its modules in it.
  path.write_bytes(pickle.dumps(collections.Counter(), 4))
  with pytest.raises(errors.UserError, match=(
      'asks for collections.Counter .*in PyTorch: a state_dict')):
    convert.read(path)
  net = torch.nn.Conv2d(3, 32, 3)
  torch.jit.save(torch.jit.script(net), path)
  with pytest.raises(errors.UserError, match=r"2 arrays \('weight', 'bias'"):
    convert.read(path)
  torch.save(net.state_dict(), path)
  data = path.read_bytes()
  for length in (1, 3, 40, len(data) // 2, len(data) - 1):
    path.write_bytes(data[:length])
    with pytest.raises(errors.UserError, match='weights.pth'):
      convert.read(path)
