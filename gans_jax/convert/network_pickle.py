"""Reads the network pickles of NVIDIA's GANs, executing nothing.

Three kinds of file are called network-snapshot-NNNNNN.pkl:

  torch: stylegan2-ada-pytorch and stylegan3. A dict {G, D, G_ema, ...} of
    modules. A module is a call of `_reconstruct_persistent_obj` on a dict of
    its source code, class name and attributes; parameters are tensors, each
    with a stream of torch.save inside (torch_file.py).
  tensorflow: ProGAN, StyleGAN, StyleGAN2, stylegan2-ada. A tuple (G, D, Gs)
    of Network objects, whose state holds source code, constructor arguments,
    components (mapping and synthesis) and variables.
  theano: the first ProGAN. The same tuple with a list of arrays in the order
    of construction, written by Python 2.

The code that made them runs the source code in the file while it is read.
Here the classes are records without behaviour, and source code is text that
is thrown away.
"""

import collections
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import io
import os
import re
from typing import Any

import numpy as np

from gans_jax.convert import safe_pickle
from gans_jax.convert import torch_file
from gans_jax.core import errors

NAMES = ('G', 'D', 'G_ema')
_MAX_MODULES = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """One network of a file.

  Attributes:
    code: 'torch', 'tensorflow' or 'theano'.
    name: of its class ('Generator') or build function
      ('training.networks_stylegan2.G_main').
    arguments: what it was constructed with, by name.
    tensors: {'synthesis.b4.const' or 'synthesis/4x4/Const/const': array},
      read-only. Theano's have no names: {'0': array, '1': array, ...}.
    attributes: numbers, strings and None that torch modules hold, defaults
      of the repository's version included: {'synthesis.b4.resolution': 4}.
  """

  code: str
  name: str
  arguments: dict[str, Any]
  tensors: dict[str, np.ndarray]
  attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


def load(path: str | os.PathLike) -> dict[str, Network]:
  """Returns the networks of a file, by 'G', 'D' and 'G_ema'.

  G_ema is always there; files that were made smaller lack the others.

  Args:
    path: a network pickle.

  Raises:
    UserError: missing, damaged, of another kind, or asks for anything that
      is not in such a file (which the ordinary unpickler might run).
  """
  name = os.fspath(path)
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as e:
    raise errors.UserError(
        f'{name} cannot be read: {e.strerror or e}. Expected a network '
        'pickle (network-snapshot-NNNNNN.pkl); check the path.') from e
  if data[:2] == b'PK':
    raise errors.UserError(
        f'{name} is a file of torch.save, not a network pickle. Those of '
        'rosinality/stylegan2-pytorch are read by --format=rosinality.')
  value = safe_pickle.load(
      io.BytesIO(data), name, _allowed(name, len(data)), encoding='latin1')
  try:
    return dict(_networks(value))
  except (_Unexpected, AttributeError, RecursionError, TypeError,
          ValueError) as e:
    raise errors.UserError(
        f'{name} is a pickle, but not of networks: {e}. Expected '
        'network-snapshot-NNNNNN.pkl of stylegan2-ada-pytorch or stylegan3, '
        'or of the TensorFlow repositories of ProGAN, StyleGAN, StyleGAN2 '
        'and ADA. Check the path.') from e


def check_arguments(networks: Mapping[str, Network],
                    expected: Mapping[str, Any], name: str) -> None:
  """Refuses networks that were constructed with other arguments.

  Args:
    networks: what `load` read.
    expected: {argument: the value that ours has}; absent ones have it.
    name: what errors call the file.
  """
  for network in networks.values():
    for key, value in expected.items():
      if network.arguments.get(key, value) != value:
        raise errors.UserError(
            f'{name} was made with {key}={network.arguments[key]!r}, which '
            'is not supported here.')


class _Unexpected(Exception):
  """What is not as in a network pickle."""


# --- What stands for the classes of the file --------------------------------
#
# Pickle can give any object any attribute unless it has slots, and calls
# `__setstate__` of whatever it finds.


class _Module:
  """A torch module: its class name and attributes."""

  __slots__ = ('name', 'attributes')

  def __setstate__(self, state):
    raise ValueError('a module with two states')

  @classmethod
  def reconstruct(cls, meta):
    if not isinstance(meta, dict) or meta.get('type') != 'class' or not (
        isinstance(meta.get('state'), dict)):
      raise ValueError('a persistent object that is no module')
    module = cls()
    module.name, module.attributes = str(meta['class_name']), meta['state']
    return module


class _Network:
  """A network of TensorFlow or Theano: what `__getstate__` gave."""

  __slots__ = ('state',)

  def __setstate__(self, state):
    if not isinstance(state, dict):
      raise ValueError('a network without a state')
    self.state = state


class _Dtype:
  """A plain number type."""

  __slots__ = ('name',)

  @classmethod
  def make(cls, name, *_):
    name = name.decode() if isinstance(name, bytes) else name
    if not re.fullmatch('[fiub][1248]', name):
      raise ValueError(f'numbers of type {name!r}')
    dtype = cls()
    dtype.name = name
    return dtype

  def __setstate__(self, state):
    _, order, *structure = state
    order = order.decode() if isinstance(order, bytes) else order
    if order not in ('<', '>', '|', '=') or any(structure[:3]):
      raise ValueError('an array of records')
    self.name = (order if order in '<>' else '') + self.name[-2:]


class _Array:
  """A NumPy array, whose bytes are those of the file."""

  __slots__ = ('value',)

  def __setstate__(self, state):
    _, shape, dtype, fortran, data = state
    # Python 2 has one type for bytes and for text.
    data = data.encode('latin1') if isinstance(data, str) else data
    flat = np.frombuffer(data, np.dtype(dtype.name))
    if min(shape, default=1) < 0 or flat.size != int(np.prod(
        shape, dtype=object)):
      raise ValueError(f'an array {shape} of {flat.size} numbers')
    self.value = flat.reshape(shape, order='F' if fortran else 'C')


def _scalar(dtype, data):
  data = data.encode('latin1') if isinstance(data, str) else data
  number, = np.frombuffer(data, np.dtype(dtype.name))
  return number.item()


def _allowed(name: str, size: int) -> dict[str, Any]:
  """The globals of network pickles.

  Args:
    name: what errors call the file.
    size: of the file, in bytes.
  """
  left = [size]

  def storage(data):
    # The same bytes could be asked for again and again.
    left[0] -= len(data)
    if left[0] < 0:
      raise ValueError('tensors that are larger than the file')
    return torch_file.load_stream(data, f'a tensor of {name}')

  def tensor(storage, offset, size, stride, *_):
    view = torch_file.strided(storage, offset, size, stride)
    if view.size > storage.size:
      raise ValueError(f'a tensor {size} of {storage.size} numbers')
    return view

  allowed = {
      'builtins.set': set,
      'collections.OrderedDict': collections.OrderedDict,
      'dnnlib.util.EasyDict': dict,
      'numpy.dtype': safe_pickle.Call(_Dtype.make),
      'numpy.ndarray': 'ndarray',
      'torch.Size': safe_pickle.Call(tuple),
      'torch._utils._rebuild_parameter': safe_pickle.Call(
          lambda data, requires_grad, hooks: data),
      'torch._utils._rebuild_tensor_v2': safe_pickle.Call(tensor),
      'torch.storage._load_from_bytes': safe_pickle.Call(storage),
      'torch_utils.persistence._reconstruct_persistent_obj':
          safe_pickle.Call(_Module.reconstruct),
      # ADA and StyleGAN2, StyleGAN; ProGAN; ProGAN of Theano.
      'dnnlib.tflib.network.Network': _Network,
      'tfutil.Network': _Network,
      'network.Network': _Network,
  }
  for core in ('core', '_core'):
    allowed[f'numpy.{core}.multiarray.scalar'] = safe_pickle.Call(_scalar)
    allowed[f'numpy.{core}.multiarray._reconstruct'] = safe_pickle.Call(
        lambda *_: _Array())
  return allowed


# --- Networks ---------------------------------------------------------------


def _networks(value) -> Iterator[tuple[str, Network]]:
  """Yields (name, network) of what the pickle holds."""
  if isinstance(value, dict):
    found = {key: value[key] for key in NAMES if value.get(key) is not None}
    if 'G_ema' not in found:
      raise _Unexpected('it is a dict of ' + (
          ', '.join(map(str, list(value)[:5])) or 'nothing')
          + ', without G_ema')
    for key, module in found.items():
      if not isinstance(module, _Module):
        raise _Unexpected(f'its {key} is a {type(module).__name__}')
      yield key, _torch_network(module)
    return
  if not isinstance(value, tuple) or len(value) != 3 or not all(
      isinstance(network, _Network) for network in value):
    raise _Unexpected(f'it is a {type(value).__name__.lstrip("_")}, not three '
                      'networks')
  for key, network in zip(NAMES, value, strict=True):
    yield key, _tensorflow_network(network)


def _torch_network(module: _Module) -> Network:
  if module.attributes.get('_init_args'):
    raise _Unexpected(f'{module.name} has arguments without names')
  arguments = module.attributes.get('_init_kwargs')
  if not isinstance(arguments, dict):
    raise _Unexpected(f'{module.name} has no constructor arguments')
  tensors, attributes = {}, {}
  for prefix, found in _modules(module, '', [_MAX_MODULES]):
    for kind in ('_parameters', '_buffers'):
      for key, value in _mapping(found, kind).items():
        if isinstance(value, np.ndarray):
          tensors[f'{prefix}{key}'] = value
        elif value is not None:
          raise _Unexpected(f'{prefix}{key} is a {type(value).__name__}')
    attributes |= {
        f'{prefix}{key}': value for key, value in found.items()
        if value is None or isinstance(value, bool | int | float | str)}
  return Network('torch', module.name, arguments, tensors, attributes)


def _modules(module: _Module, prefix: str, left: list[int]
             ) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (prefix of the names, attributes) of a module and those in it.

  Args:
    module: the outer one.
    prefix: of its names.
    left: how many more there may be.
  """
  left[0] -= 1
  if left[0] < 0 or prefix.count('.') > 8:
    raise _Unexpected('its modules are nested without end')
  yield prefix, module.attributes
  for key, child in _mapping(module.attributes, '_modules').items():
    if isinstance(child, _Module):
      yield from _modules(child, f'{prefix}{key}.', left)


def _tensorflow_network(network: _Network) -> Network:
  state = getattr(network, 'state', {})
  if 'build_func_spec' in state:
    spec = dict(_mapping(state, 'build_func_spec'))
    values = [x.value for x in state.get('param_values', ())
              if isinstance(x, _Array)]
    return Network('theano', str(spec.pop('func', '')), spec,
                   {str(i): x for i, x in enumerate(values)})
  name = str(state.get('build_func_name', ''))
  return Network('tensorflow', name, _mapping(state, 'static_kwargs'),
                 dict(_variables(state, '', [_MAX_MODULES])))


def _variables(state: Mapping[str, Any], prefix: str, left: list[int]
               ) -> Iterator[tuple[str, np.ndarray]]:
  left[0] -= 1
  if left[0] < 0 or prefix.count('/') > 8:
    raise _Unexpected('its components are nested without end')
  if not isinstance(state.get('variables'), list):
    raise _Unexpected('a network has no list of variables')
  for key, value in state['variables']:
    if isinstance(value, _Array):
      yield f'{prefix}{key}', value.value
    elif isinstance(value, int | float):
      yield f'{prefix}{key}', np.float32(value)
    else:
      raise _Unexpected(f'{prefix}{key} is a {type(value).__name__}')
  for key, component in _mapping(state, 'components').items():
    if isinstance(component, _Network):
      yield from _variables(getattr(component, 'state', {}),
                            f'{prefix}{key}/', left)


def _mapping(attributes: Mapping[str, Any], key: str) -> dict[str, Any]:
  value = attributes.get(key, {})
  if not isinstance(value, dict):
    raise _Unexpected(f'its {key} is a {type(value).__name__}')
  return value
