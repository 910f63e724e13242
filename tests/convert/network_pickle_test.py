"""Network pickles: every tensor bit for bit, and nothing is run."""

import collections
import io
import os
import pickle
import struct

import network_pickles
import numpy as np
import pytest
import stylegan2_weights
import torch

from gans_jax.convert import network_pickle
from gans_jax.core import errors


@pytest.fixture(scope='module')
def made():
  return network_pickles.stylegan2(
      stylegan2_weights.value, ema=stylegan2_weights.draw)


class Runs:
  """Pickles to a call of a function."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def refused(path, match):
  with pytest.raises(errors.UserError, match=match):
    network_pickle.load(path)


@pytest.mark.parametrize('protocol', [3, 4])  # Python 3.7's and 3.8's
def test_every_tensor_bit_for_bit(made, tmp_path, protocol):
  networks, tensors = made
  path = network_pickles.dump(networks, tmp_path / 'a.pkl', protocol)
  with open(path, 'rb') as file:
    asked = network_pickles.globals_of(file.read())
  expected = network_pickles.GLOBALS
  assert asked == (expected if protocol == 4 else
                   expected | {'builtins.set'})
  found = network_pickle.load(path)
  assert list(found) == ['G', 'D', 'G_ema']
  for key, network in found.items():
    assert network.code == 'torch'
    assert network.tensors.keys() == tensors[key].keys()
    for name, x in tensors[key].items():
      y = network.tensors[name]
      assert y.dtype == x.dtype and y.shape == x.shape
      assert y.tobytes() == x.tobytes(), name
  g = found['G_ema']
  assert g.name == 'Generator' and g.arguments['z_dim'] == 16
  assert g.arguments['synthesis_kwargs']['channel_max'] == 16
  assert g.attributes['mapping.fc0.weight_gain'] == 0.01 / 4
  assert g.attributes['synthesis.b4.conv1.conv_clamp'] is None


def test_strides_are_those_of_the_file(tmp_path):
  # ADA's channels-last weights.
  weight = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
  module = network_pickles.Module('Generator')
  module.register_buffer('weight', weight)
  path = network_pickles.dump({'G_ema': module}, tmp_path / 'a.pkl')
  found = network_pickle.load(path)
  assert list(found) == ['G_ema']
  np.testing.assert_array_equal(found['G_ema'].tensors['weight'],
                                weight.numpy())


def tensorflow(values):
  def network(name, variables, **components):
    return network_pickles.Network(
        version=4, name=name, static_kwargs={'resolution': 8},
        components=components, build_module_src='raise SystemExit()',
        build_func_name=f'training.networks_stylegan2.{name}',
        variables=variables)

  mapping = network('G_mapping', [('Dense0/weight', values[0])])
  g = network('G_main', [('dlatent_avg', values[1]), ('lod', np.float32(0))],
              mapping=mapping)
  return g, network('D', [('Output/bias', values[2])]), g


@pytest.mark.parametrize('protocol,core', [(3, 'core'), (3, '_core'),
                                           (4, '_core')])
def test_tensorflow(tmp_path, protocol, core):
  r = np.random.default_rng(0)
  values = [r.normal(size=(3, 4)).astype('f'), r.normal(size=5).astype('f'),
            np.asfortranarray(r.normal(size=(2, 3)).astype('>f8'))]
  path = tmp_path / 'a.pkl'
  with network_pickles.official_names():
    data = pickle.dumps(tensorflow(values), protocol)
  # NumPy 1 had another name for the module.
  path.write_bytes(data.replace(b'numpy._core.', f'numpy.{core}.'.encode()))
  asked = network_pickles.globals_of(path.read_bytes())
  assert asked >= {'dnnlib.tflib.network.Network', 'numpy.ndarray',
                   f'numpy.{core}.multiarray._reconstruct'}
  found = network_pickle.load(path)
  assert found['G'].code == 'tensorflow'
  assert found['D'].name == 'training.networks_stylegan2.D'
  assert found['G_ema'].arguments == {'resolution': 8}
  tensors = found['G_ema'].tensors
  assert tensors.keys() == {'mapping/Dense0/weight', 'dlatent_avg', 'lod'}
  np.testing.assert_array_equal(tensors['mapping/Dense0/weight'], values[0])
  np.testing.assert_array_equal(tensors['dlatent_avg'], values[1])
  np.testing.assert_array_equal(found['D'].tensors['Output/bias'], values[2])


def python_2_array(values: np.ndarray) -> bytes:
  """How cPickle of Python 2 writes an array: its bytes are a string."""
  shape = b''.join(b'K' + bytes([n]) for n in values.shape)
  data = values.tobytes()
  return (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85'
          b"U\x01b\x87R(K\x01(" + shape + b"tcnumpy\ndtype\nU\x02f4K\x00K\x01"
          b'\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
          b'\x89T' + struct.pack('<i', len(data)) + data + b'tb')


def test_theano(tmp_path):
  values = [np.arange(6, dtype='f').reshape(2, 3), np.full(4, -1.5, 'f')]
  network = (
      b'cnetwork\nNetwork\n)\x81}(U\x0fbuild_func_spec}(U\x04funcU\x07G_paper'
      b'U\nresolutionK\x08uU\x0cparam_values]('
      + b''.join(map(python_2_array, values))
      + b'eU\x0ftoplevel_params}U\x07cur_lodG\x00\x00\x00\x00\x00\x00\x00\x00'
      b'sub')
  path = tmp_path / 'a.pkl'
  path.write_bytes(b'\x80\x02' + network * 3 + b'\x87.')
  found = network_pickle.load(path)['G_ema']
  assert (found.code, found.name) == ('theano', 'G_paper')
  assert found.arguments == {'resolution': 8}
  for i, value in enumerate(values):
    np.testing.assert_array_equal(found.tensors[str(i)], value)


# --- Hostile and damaged files ----------------------------------------------


@pytest.mark.parametrize('function,argument,name', [
    (os.system, 'exit 1', 'system'), (eval, '1 + 1', 'builtins.eval'),
    (exec, '1', 'builtins.exec'), (getattr, {}, 'builtins.getattr'),
    (np.load, 'x.npy', 'numpy.load')])
def test_refuses_calls(made, tmp_path, function, argument, name):
  networks, _ = made
  for value in (Runs(function, argument),
                {**networks, 'augment_pipe': Runs(function, argument)}):
    refused(network_pickles.dump(value, tmp_path / 'a.pkl'),
            rf'a\.pkl asks for .*{name}')


def stream_of(value) -> bytes:
  """The layout of torch.save before 1.6, around any object."""
  return b''.join(pickle.dumps(x, 2) for x in (
      0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}, value, []))


def test_refuses_calls_inside_the_stream_of_a_tensor(tmp_path):
  call = Runs(torch.storage._load_from_bytes,
              stream_of(Runs(os.system, 'exit 1')))
  refused(network_pickles.dump({'G_ema': call}, tmp_path / 'a.pkl'),
          r'a tensor of .*a\.pkl asks for \w+\.system')
  # And a stream in a stream, without end.
  call = Runs(torch.storage._load_from_bytes,
              stream_of(Runs(torch.storage._load_from_bytes, b'')))
  refused(network_pickles.dump({'G_ema': call}, tmp_path / 'a.pkl'),
          'asks for torch.storage._load_from_bytes')


def storage_stream(claimed: int, data: bytes, keys=1) -> bytes:
  """A stream whose storages claim a number of floats."""
  def reference(key):
    return (b'\x80\x02(U\x07storagectorch\nFloatStorage\n'
            + b'U\x01' + str(key).encode() + b'U\x03cpu'
            + b'\x8a\x08' + struct.pack('<q', claimed) + b'NtQ.')

  value = b'\x80\x02(' + b''.join(
      reference(key)[2:-1] for key in range(keys)) + b't.'
  head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {})]
  names = pickle.dumps([str(key) for key in range(keys)], 2)
  return b''.join([*head, value, names, data])


@pytest.mark.parametrize('stream,match', [
    (storage_stream(2**40, b''), 'larger than the file'),
    (storage_stream(-1, b''), 'unexpected storage'),
    (storage_stream(60, bytes(300), keys=9), 'larger than the file'),
    (storage_stream(2, struct.pack('<q', 3) + bytes(8)), 'ends early'),
    (storage_stream(2, struct.pack('<q', 2) + bytes(7)), 'ends early'),
    (stream_of(None)[:20], 'no readable pickle'),
    (b'', 'no readable pickle')])
def test_storages_that_lie(tmp_path, stream, match):
  call = Runs(torch.storage._load_from_bytes, stream)
  refused(network_pickles.dump({'G_ema': call}, tmp_path / 'a.pkl'), match)


def test_bytes_that_are_read_again_and_again(tmp_path):
  stream = storage_stream(1000, struct.pack('<q', 1000) + bytes(4000))
  calls = [Runs(torch.storage._load_from_bytes, stream) for _ in range(3)]
  refused(network_pickles.dump(calls, tmp_path / 'a.pkl'),
          'larger than the file')


def test_tensors_larger_than_their_storage(tmp_path):
  module = network_pickles.Module('Generator')
  module.register_buffer('x', torch.zeros(1).expand(2**20, 2**20))
  refused(network_pickles.dump({'G_ema': module}, tmp_path / 'a.pkl'),
          r'a tensor \(1048576, 1048576\) of 1 numbers')


def array_with(state) -> tuple:
  """A pickle's array whose state is given."""
  class Array:
    def __reduce__(self):
      return np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), state
  return tensorflow([Array(), np.zeros(1), np.zeros(1)])


@pytest.mark.parametrize('state,match', [
    ((1, (2**40,), np.dtype('f4'), False, b'1234'), 'of 1 numbers'),
    ((1, (2**62, 4), np.dtype('f4'), False, b''), 'of 0 numbers'),
    ((1, (-1, -1), np.dtype('f4'), False, b'1234'), 'of 1 numbers'),
    ((1, (1,), np.dtype([('a', 'f4')]), False, b'1234'), "type 'V4'"),
    ((1, (1,), np.dtype('O'), False, [os.system]), 'asks for|type')])
def test_arrays_that_lie(tmp_path, state, match):
  refused(network_pickles.dump(array_with(state), tmp_path / 'a.pkl'), match)


@pytest.mark.parametrize('opcode', [
    b'r\xff\xff\xff\x7f', b'p1000000000\n'])  # LONG_BINPUT, PUT
def test_a_place_in_the_memo_far_away(tmp_path, opcode):
  path = tmp_path / 'a.pkl'
  path.write_bytes(b'\x80\x02}' + opcode + b'.')
  refused(path, 'in a memo of 1')


def test_strings_longer_than_the_file(tmp_path):
  path = tmp_path / 'a.pkl'
  path.write_bytes(b'\x80\x04\x8e' + struct.pack('<Q', 2**40) + b'short.')
  refused(path, 'no readable pickle')


def test_classes_cannot_be_changed_by_the_file(tmp_path):
  # BUILD on the class itself, and with attributes on an instance.
  for name in (b'dnnlib.tflib.network\nNetwork',
               b'torch_utils.persistence\n_reconstruct_persistent_obj'):
    path = tmp_path / 'a.pkl'
    path.write_bytes(b'\x80\x02c' + name + b"\n(N}U\x05stateNstb.")
    refused(path, 'no readable pickle')


def test_truncated(made, tmp_path):
  data = open(network_pickles.dump(made[0], tmp_path / 'a.pkl'), 'rb').read()
  for size in (0, 1, len(data) // 3, len(data) - 1):
    path = tmp_path / 'cut.pkl'
    path.write_bytes(data[:size])
    refused(path, r'cut\.pkl is no readable pickle')


@pytest.mark.parametrize('value,words', [
    ({}, 'a dict of nothing, without G_ema'),
    ({'a': 1, 'b': 2}, 'a dict of a, b, without G_ema'),
    ({'G_ema': 3}, 'its G_ema is a int'),
    ([1, 2], 'it is a list'), (('a', 'b', 'c'), 'it is a tuple'),
    (collections.OrderedDict(a=1), 'a dict of a')])
def test_other_pickles(tmp_path, value, words):
  refused(network_pickles.dump(value, tmp_path / 'a.pkl'), words)


def test_other_files(tmp_path):
  refused(tmp_path / 'no.pkl', r'no\.pkl cannot be read')
  stream = io.BytesIO()
  torch.save({'g_ema': {}}, stream)
  path = tmp_path / 'a.pt'
  path.write_bytes(stream.getvalue())
  refused(path, '--format=rosinality')


def test_modules_within_themselves(tmp_path):
  state = {'_parameters': {}, '_buffers': {}, '_modules': {},
           '_init_kwargs': {}}
  with network_pickles.official_names():
    class Again:
      def __reduce__(self):
        return network_pickles.reconstruct, ({
            'type': 'class', 'class_name': 'G', 'state': state},)
    state['_modules']['again'] = Again()
    # A dict that holds a module that holds the dict.
    data = pickle.dumps({'G_ema': Again(), 'state': state}, 2)
  path = tmp_path / 'a.pkl'
  path.write_bytes(data)
  refused(path, 'nested without end|no readable pickle')
