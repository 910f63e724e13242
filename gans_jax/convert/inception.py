"""Weights of the FID Inception network, from every form they are spread in.

  .pth  pytorch-fid, torch-fidelity: a state_dict, zipped or not.
  .pt   NVIDIA (stylegan2-ada-pytorch, clean-fid): a TorchScript archive. Its
        tensors are read, its code is not.
  .pb   TensorFlow, OpenAI's guided-diffusion: a frozen GraphDef.
  .npz  our own: float32, batch normalization folded, and the hash of the file
        that it was made from.

The form is told by the content, not by the name.
"""

import collections
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
import io
import math
import os
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.convert import protobuf
from gans_jax.convert import published
from gans_jax.core import archives
from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.metrics import inception

_BN_EPSILON = 1e-3
_MAX_REPEATS = 2**20  # of the last value of a constant, in a GraphDef
_FORMAT = 'gans_jax: FID Inception of 2015-12-05, folded'

INCEPTION = published.Published(
    what='the Inception network of FID (2015-12-05)',
    url='https://github.com/mseitzer/pytorch-fid/releases/download/'
        'fid_weights/pt_inception-2015-12-05-6726825d.pth',
    size=95_628_359,
    sha256='6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2',
    names=('pt_inception-2015-12-05-6726825d.pth',
           'weights-inception-2015-12-05-6726825d.pth',
           'inception-2015-12-05.npz',
           'inception-2015-12-05.pt',
           'classify_image_graph_def.pb'),
    flag='--inception_weights',
    variable='GANS_JAX_INCEPTION_WEIGHTS')

# The file of the StyleGAN repositories and of clean-fid.
NVIDIA_SHA256 = (
    'f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4')


def load(path: str | os.PathLike | None = None) -> published.Weights:
  """Returns the weights of `inception.FidInception`, wherever they are.

  Args:
    path: the value of their flag; see `published.find`.

  Raises:
    UserError: not found, or see `read`.
  """
  return read(published.find(INCEPTION, path))


def read(path: str | os.PathLike) -> published.Weights:
  """Reads a file of any of the forms above.

  Raises:
    UserError: unreadable, damaged, or weights of another network.
  """
  name = os.fspath(path)
  if _is_ours(name):
    return _read_ours(name)
  sha256 = published.check_hash(
      name, (INCEPTION.sha256, NVIDIA_SHA256), INCEPTION.what)
  return published.Weights(fold(_tensors(name), name), sha256)


def save(path: str | os.PathLike, weights: published.Weights) -> None:
  """Writes our own form: `read` then gives back the same arrays and hash.

  Raises:
    UserError: `path` cannot be written; it is then as it was.
  """
  arrays = flax.traverse_util.flatten_dict(
      weights.variables['params'], sep='/')
  stream = io.BytesIO()
  np.savez(stream, format=_FORMAT, source_sha256=weights.sha256, **arrays)
  files.write_atomic(os.fspath(path), stream.getvalue())


def fold(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  """Maps tensors, by the names of any publisher, to our variables.

  Args:
    tensors: {key: array}; keys that the network does not need are ignored.
    name: what errors call their source.

  Returns:
    Variables of `inception.FidInception`, NumPy float32.

  Raises:
    UserError: keys missing, or shapes or values of another network.
  """
  layout = _layout(tensors, name)
  shapes = _shapes()

  def take(key, shape):
    if key not in tensors:
      raise errors.UserError(
          f'{name} lacks {key!r}, though it looks like the FID Inception '
          f'network as {layout.publisher} saves it. The file is incomplete; '
          'fetch it again.')
    array = np.asarray(tensors[key])
    if array.shape != shape:
      hint = (' It looks like the Inception v3 of torchvision, whose scores '
              'are not FID.' if key == 'fc.weight' else '')
      raise errors.UserError(
          f'{name} has {key!r} of shape {list(array.shape)} where the FID '
          f'Inception network has {list(shape)}.{hint} Fetch {INCEPTION.url}.')
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
      raise errors.UserError(
          f'{name} has NaN or infinity in {key!r}: it is damaged. Fetch it '
          'again.')
    return array

  def stored(shape):
    # Of a kernel [kh, kw, in, out], or of a matrix [in, out].
    return tuple(shape[i] for i in np.argsort(layout.axes(len(shape))))

  params = {}
  for module, shape in shapes.items():
    if module == 'fc':
      continue
    keys = layout.keys(module)
    kernel = take(keys.weight, stored(shape)).transpose(layout.axes(4))
    channels = shape[-1:]
    beta, mean, variance = (take(key, channels) for key in (
        keys.beta, keys.mean, keys.variance))
    # NVIDIA's file has none: it is 1 throughout.
    gamma = take(keys.gamma, channels) if keys.gamma in tensors else 1.0
    if (variance < 0).any():
      raise errors.UserError(
          f'{name} has negative variances in {keys.variance!r}: it is damaged. '
          'Fetch it again.')
    scale = gamma / np.sqrt(variance + _BN_EPSILON)
    params[module] = {
        'kernel': np.ascontiguousarray(kernel * scale, np.float32),
        'bias': (beta - mean * scale).astype(np.float32),
    }
  weight, bias = layout.classifier
  kernel = take(weight, stored(shapes['fc'])).transpose(layout.axes(2))
  params['fc'] = {
      'kernel': np.ascontiguousarray(kernel, np.float32),
      'bias': take(bias, shapes['fc'][-1:]).astype(np.float32),
  }
  return {'params': flax.traverse_util.unflatten_dict(params, sep='.')}


@functools.cache
def _shapes() -> dict[str, tuple[int, ...]]:
  """The shape of every kernel, by module: 'Mixed_5b.branch1x1'."""
  net = inception.FidInception()
  size = inception.INPUT_SIZE
  made = jax.eval_shape(
      net.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
  flat = flax.traverse_util.flatten_dict(made['params'], sep='.')
  return {key.removesuffix('.kernel'): value.shape
          for key, value in flat.items() if key.endswith('.kernel')}


# The names that each publisher gives to the same layers.


@dataclasses.dataclass(frozen=True)
class _Keys:
  weight: str
  gamma: str
  beta: str
  mean: str
  variance: str


@dataclasses.dataclass(frozen=True)
class _Layout:
  """How a publisher names and stores layers.

  Attributes:
    publisher: for messages.
    keys: our module -> keys of its arrays.
    classifier: keys of its matrix and bias.
    torch: kernels are [out, in, kh, kw] and matrices [out, in], where ours,
      and TensorFlow's, are [kh, kw, in, out] and [in, out].
  """

  publisher: str
  keys: Callable[[str], _Keys]
  classifier: tuple[str, str]
  torch: bool

  def axes(self, rank: int) -> tuple[int, ...]:
    """The transposition from stored arrays to ours."""
    if not self.torch:
      return tuple(range(rank))
    return (2, 3, 1, 0) if rank == 4 else (1, 0)


_STEM = {'Conv2d_1a_3x3': 'conv', 'Conv2d_2a_3x3': 'conv_1',
         'Conv2d_2b_3x3': 'conv_2', 'Conv2d_3b_1x1': 'conv_3',
         'Conv2d_4a_3x3': 'conv_4'}
_BLOCKS = {'Mixed_5b': 'mixed', 'Mixed_5c': 'mixed_1', 'Mixed_5d': 'mixed_2',
           'Mixed_6a': 'mixed_3', 'Mixed_6b': 'mixed_4', 'Mixed_6c': 'mixed_5',
           'Mixed_6d': 'mixed_6', 'Mixed_6e': 'mixed_7', 'Mixed_7a': 'mixed_8',
           'Mixed_7b': 'mixed_9', 'Mixed_7c': 'mixed_10'}
# Branches of one kind of block: ours -> (TensorFlow's tower, convolution).
_BRANCHES = {
    'branch1x1': ('', 0),
    'branch5x5_1': ('tower', 0), 'branch5x5_2': ('tower', 1),
    'branch3x3dbl_1': ('tower_1', 0), 'branch3x3dbl_2': ('tower_1', 1),
    'branch3x3dbl_3': ('tower_1', 2),
    'branch3x3_1': ('tower', 0), 'branch3x3_2': ('tower', 1),
    'branch3x3_2a': ('tower/mixed', 0), 'branch3x3_2b': ('tower/mixed', 1),
    'branch3x3dbl_3a': ('tower_1/mixed', 0),
    'branch3x3dbl_3b': ('tower_1/mixed', 1),
    'branch_pool': ('tower_2', 0),
} | {f'branch7x7_{i + 1}': ('tower', i) for i in range(3)} | {
    f'branch7x7dbl_{i + 1}': ('tower_1', i) for i in range(5)} | {
    f'branch7x7x3_{i + 1}': ('tower_1', i) for i in range(4)}
# The one block whose first branch is a single 3x3 convolution.
_BRANCHES_6A = {
    'branch3x3': ('', 0),
} | {f'branch3x3dbl_{i + 1}': ('tower', i) for i in range(3)}


def _scope(module: str) -> str:
  """'Mixed_5b.branch5x5_2' -> 'mixed/tower/conv_1'."""
  if module in _STEM:
    return _STEM[module]
  block, branch = module.split('.')
  tower, i = (_BRANCHES_6A if block == 'Mixed_6a' else _BRANCHES)[branch]
  conv = f'conv_{i}' if i else 'conv'
  return '/'.join(filter(None, (_BLOCKS[block], tower, conv)))


def _torch_keys(module):
  return _Keys(f'{module}.conv.weight', f'{module}.bn.weight',
               f'{module}.bn.bias', f'{module}.bn.running_mean',
               f'{module}.bn.running_var')


def _nvidia_keys(module):
  scope = _scope(module)
  if module.startswith(('Mixed_7b', 'Mixed_7c')):
    # One module with flat names: mixed_9.tower_mixed_conv_1.
    block, rest = scope.split('/', 1)
    scope = f'{block}/{rest.replace("/", "_")}'
  prefix = 'layers.' + scope.replace('/', '.')
  return _Keys(*(f'{prefix}.{part}' for part in (
      'weight', 'gamma', 'beta', 'mean', 'var')))


def _tensorflow_keys(module):
  scope = _scope(module)
  return _Keys(f'{scope}/conv2d_params', *(
      f'{scope}/batchnorm/{part}' for part in (
          'gamma', 'beta', 'moving_mean', 'moving_variance')))


_LAYOUTS = (
    _Layout('pytorch-fid or torch-fidelity', _torch_keys,
            ('fc.weight', 'fc.bias'), torch=True),
    _Layout('NVIDIA', _nvidia_keys, ('output.weight', 'output.bias'),
            torch=True),
    _Layout('TensorFlow', _tensorflow_keys,
            ('softmax/weights', 'softmax/biases'), torch=False),
)


def _layout(tensors, name) -> _Layout:
  wanted = [layout.keys('Conv2d_1a_3x3').weight for layout in _LAYOUTS]
  for layout, key in zip(_LAYOUTS, wanted, strict=True):
    if key in tensors:
      return layout
  some = ', '.join(map(repr, list(tensors)[:3])) or 'nothing'
  raise errors.UserError(
      f'{name} is not the FID Inception network: it holds {len(tensors)} '
      f'arrays ({some}, ...), none of them called '
      f'{" or ".join(map(repr, wanted))}. Fetch {INCEPTION.url}.')


# The forms of files.


def _tensors(name: str) -> dict[str, np.ndarray]:
  """Returns {key: array} of a published file."""
  with open(name, 'rb') as file:
    # A zip archive or a pickle; a GraphDef starts with '\n'.
    if file.read(2).startswith((b'PK', b'\x80')):
      return published.state_dict(name, INCEPTION)
    file.seek(0)
    return graph_constants(file.read(), name)


def graph_constants(data: bytes, name: str) -> dict[str, np.ndarray]:
  """Returns the float32 constants of a TensorFlow GraphDef, by node.

  The wire format of protocol buffers is read as far as that needs.  Field
  numbers are those of TensorFlow's graph.proto, node_def.proto,
  attr_value.proto, tensor.proto and tensor_shape.proto.

  Args:
    data: the serialized GraphDef.
    name: what errors call it.

  Raises:
    UserError: no GraphDef, or a damaged one.
  """
  found = {}
  try:
    for number, node in protobuf.fields(memoryview(data)):
      if number != 1:  # GraphDef.node
        continue
      parts = list(protobuf.fields(node))
      # NodeDef.name and .op
      key, op = (next((_bytes(v).decode() for n, v in parts if n == i), '')
                 for i in (1, 2))
      for n, attribute in parts if op == 'Const' else ():
        if n != 5:  # NodeDef.attr, a map of name to AttrValue
          continue
        entry = dict(protobuf.fields(attribute))
        if _bytes(entry[1]) == b'value':
          tensor = dict(protobuf.fields(entry[2])).get(8)  # AttrValue.tensor
          array = None if tensor is None else _tensor_proto(tensor)
          if array is not None:
            found[key] = array
  except (ValueError, KeyError, IndexError, TypeError, OverflowError,
          MemoryError) as e:
    raise errors.UserError(
        f'{name} is neither a PyTorch checkpoint, nor an archive, nor a '
        f'readable TensorFlow GraphDef ({type(e).__name__}: {e}). It is '
        'damaged or something else; fetch it again.') from e
  return found


def _tensor_proto(data: memoryview) -> np.ndarray | None:
  """A TensorProto of floats; None when it is of another type."""
  fields = collections.defaultdict(list)
  for number, value in protobuf.fields(data):
    fields[number].append(value)
  if fields[1] != [1]:  # dtype: DT_FLOAT
    return None
  shape = []
  for dimensions in fields[2]:  # tensor_shape
    for number, dimension in protobuf.fields(dimensions):
      if number == 2:  # dim, whose size is left out when 0
        shape.append(dict(protobuf.fields(dimension)).get(1, 0))
  # tensor_content, or float_val, whose last value stands for those left out.
  content = b''.join(map(_bytes, fields[4] or fields[5]))
  values = np.frombuffer(content, '<f4')
  missing = math.prod(shape) - values.size
  if missing > _MAX_REPEATS:
    raise ValueError(f'a constant {shape} of {values.size} numbers')
  if values.size and missing > 0:
    values = np.pad(values, (0, missing), 'edge')
  return values.reshape(shape)


def _bytes(value: int | memoryview) -> bytes:
  """The bytes of a field that has some; of a number they would be as many."""
  if isinstance(value, int):
    raise ValueError(f'the number {value} in place of bytes')
  return bytes(value)


def _is_ours(name: str) -> bool:
  try:
    with archives.open_whole(name) as archive:
      return 'source_sha256.npy' in archive.namelist()
  except (OSError, ValueError):
    return False


def _read_ours(name: str) -> published.Weights:
  try:
    arrays = archives.read_npz(name)
    format_, sha256 = (
        str(arrays.pop(key)) for key in ('format', 'source_sha256'))
    if format_ != _FORMAT:
      raise ValueError(f'its format is {format_!r}, not {_FORMAT!r}')
    wanted = {f'{key.replace(".", "/")}/{part}': size
              for key, shape in _shapes().items()
              for part, size in (('kernel', shape), ('bias', shape[-1:]))}
    for key, size in wanted.items():
      array = arrays[key]
      if array.shape != size or array.dtype != np.float32:
        raise ValueError(f'{key} is {array.dtype} {list(array.shape)}, not '
                         f'float32 {list(size)}')
      if not np.isfinite(array).all():
        raise ValueError(f'{key} has NaN or infinity')
  except (OSError, ValueError, KeyError) as e:
    raise errors.UserError(
        f'{name} is a damaged copy of the FID Inception weights ({e}). Convert '
        'the published file again.') from e
  arrays = {key: arrays[key] for key in wanted}
  return published.Weights(
      {'params': flax.traverse_util.unflatten_dict(arrays, sep='/')}, sha256)
