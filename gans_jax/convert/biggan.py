"""BigGAN checkpoints of others, as variables of systems/biggan.py.

`generator` and `discriminator` take those of ajbrock/BigGAN-PyTorch (G.pth,
G_ema.pth, D.pth; BigGAN and BigGAN-deep, shared embedding or not),
`pretrained` the deep generators of huggingface's pytorch-pretrained-BigGAN.

Layouts: convolutions OIHW -> HWIO, linear layers transposed. Channels of the
first map are the slowest axis of BigGAN-PyTorch's first layer and the fastest
of ours, as of the published modules. u of a layer is taken over; v, which
BigGAN-PyTorch does not keep, follows from u by the iteration that its
evaluation does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gans_jax.core import errors

State = Mapping[str, np.ndarray]
Variables = dict[str, Any]

# Statistics of pytorch-pretrained-BigGAN: one table for each of 51
# truncations 0, 0.02, ..., 1.
STEPS = 50


class _Writer:
  """Collects a network's variables, layer by layer.

  Attributes:
    variables: what has been put so far.
  """

  def __init__(self, state: State, what: str):
    self._state = state
    self._what = what
    self.variables: Variables = {'params': {}, 'spectral': {},
                                 'batch_stats': {}}

  def __contains__(self, key: str) -> bool:
    return key in self._state

  def get(self, key: str) -> np.ndarray:
    if key not in self._state:
      raise errors.UserError(
          f'The checkpoint has no {key!r}, which {self._what} has. Check the '
          'file and the format.')
    return np.asarray(self._state[key], np.float32)

  def put(self, collection: str, path: str, **values) -> None:
    node = self.variables[collection]
    for name in path.split('/'):
      node = node.setdefault(name, {})
    for name, value in values.items():
      node[name] = np.array(value, np.float32, order='C')

  def layer(self, path: str, key: str, order=None) -> None:
    """Puts a layer: its weight and bias, u and v where there are.

    Args:
      path: ours.
      key: theirs.
      order: permutation of the outputs.
    """
    normalized = f'{key}.weight_orig' in self
    weight = self.get(f'{key}.weight_orig' if normalized else f'{key}.weight')
    bias = self.get(f'{key}.bias') if f'{key}.bias' in self else None
    u = v = None
    if normalized:
      u, v = (self.get(f'{key}.weight_{n}') for n in 'uv')
      if weight.ndim == 4:
        v = v.reshape(weight.shape[1:]).transpose(1, 2, 0).reshape(-1)
    elif f'{key}.u0' in self:
      u, v = _iterate(weight, self.get(f'{key}.u0')[0])
    if order is not None:
      weight = weight[order]
      bias = bias if bias is None else bias[order]
      u = u if u is None else u[order]
    kernel = weight.transpose((2, 3, 1, 0) if weight.ndim == 4 else (1, 0))
    self.put('params', path, kernel=kernel)
    if bias is not None:
      self.put('params', path, bias=bias)
    if u is not None:
      self.put('spectral', path, u=u[None], v=v[None])

  def table(self, path: str, key: str) -> None:
    """Puts an embedding [classes, features]."""
    weight = self.get(f'{key}.weight')
    self.put('params', path, embedding=weight)
    if f'{key}.u0' in self:
      u, v = _iterate(weight, self.get(f'{key}.u0')[0])
      self.put('spectral', path, u=u[None], v=v[None])

  def attention(self, path: str, keys: Mapping[str, str],
                gamma: np.ndarray) -> None:
    """Puts a block; `keys` are of theta, phi, g, o."""
    for name, key in keys.items():
      self.layer(f'{path}/{name}', key)
    self.put('params', path, gamma=gamma.reshape(()))

  def result(self) -> Variables:
    return {name: tree for name, tree in self.variables.items() if tree}


def _iterate(weight: np.ndarray, u: np.ndarray):
  """One iteration from u [out]: (u, v), v over (height, width, input)."""
  if weight.ndim == 4:
    weight = weight.transpose(0, 2, 3, 1)
  matrix = weight.reshape(weight.shape[0], -1).astype(np.float64)
  v = u.astype(np.float64) @ matrix
  v /= np.linalg.norm(v)
  u = matrix @ v
  return u / np.linalg.norm(u), v


def _is_deep(state: State) -> bool:
  return 'blocks.0.0.conv4.weight' in state


def _blocks(state: State) -> int:
  numbers = {int(key.split('.')[1]) for key in state
             if key.startswith('blocks.')}
  if not numbers or numbers != set(range(len(numbers))):
    raise errors.UserError(
        'The checkpoint has no blocks.0, blocks.1, ..., which a network of '
        'BigGAN-PyTorch has. Check the file and the format.')
  return len(numbers)


def generator(state: State) -> Variables:
  """Returns the variables of a generator of BigGAN-PyTorch.

  Args:
    state: its state dict.

  Raises:
    UserError: arrays are missing.
  """
  out = _Writer(state, 'a generator of BigGAN-PyTorch')
  deep, blocks = _is_deep(state), _blocks(state)
  shared = 'shared.weight' in state
  if shared:
    out.table('shared', 'shared')
  stem = out.get('linear.weight').shape[0] // 16
  order = np.arange(16 * stem).reshape(stem, 16).T.reshape(-1)
  out.layer('dense', 'linear', order)
  for i in range(blocks):
    size = 8 << (i // 2 if deep else i)
    path = f'up_{size}' + (f'_{"ab"[i % 2]}' if deep else '')
    convs = (['conv1', 'conv2', 'conv3', 'conv4'] if deep else
             ['conv1', 'conv2', 'conv_sc'])
    for name in convs:
      out.layer(f'{path}/{name}', f'blocks.{i}.0.{name}')
    for k in range(1, 5 if deep else 3):
      key = f'blocks.{i}.0.bn{k}'
      _statistics(out, f'{path}/bn{k}/norm', key)
      for name in ('gain', 'bias'):
        put = out.layer if shared else out.table
        put(f'{path}/bn{k}/{name}', f'{key}.{name}')
    _attention(out, f'attention_{size}', f'blocks.{i}.1')
  _statistics(out, 'bn_out/norm', 'output_layer.0')
  out.put('params', 'bn_out/norm', scale=out.get('output_layer.0.gain'),
          bias=out.get('output_layer.0.bias'))
  out.layer('conv_out', 'output_layer.2')
  return out.result()


def discriminator(state: State) -> Variables:
  """Returns the variables of a discriminator of BigGAN-PyTorch."""
  out = _Writer(state, 'a discriminator of BigGAN-PyTorch')
  deep, blocks = _is_deep(state), _blocks(state)
  if deep:
    out.layer('conv_in', 'input_conv')
  # Of n blocks all halve the size but the last (deep: none is left over).
  resolution = 2 ** (blocks + (2 if deep else 1))
  for i in range(blocks):
    for j in range(2 if deep else 1):
      path = f'block_{i}' + (f'_{"ab"[j]}' if deep else '')
      for name in ('conv1', 'conv2', 'conv3', 'conv4', 'conv_sc'):
        key = f'blocks.{i}.{j}.{name}'
        if f'{key}.weight' in state:
          out.layer(f'{path}/{name}', key)
    _attention(out, f'attention_{resolution >> (i + 1)}',
               f'blocks.{i}.{2 if deep else 1}')
  out.layer('dense', 'linear')
  out.table('embed', 'embed')
  return out.result()


def _statistics(out: _Writer, path: str, key: str) -> None:
  # With --mybn or --cross_replica they are one level deeper.
  for prefix, mean, var in ((key, 'stored_mean', 'stored_var'),
                            (f'{key}.bn', 'stored_mean', 'stored_var'),
                            (f'{key}.bn', 'running_mean', 'running_var')):
    if f'{prefix}.{mean}' in out:
      out.put('batch_stats', path, mean=out.get(f'{prefix}.{mean}'),
              var=out.get(f'{prefix}.{var}'))
      return
  out.get(f'{key}.stored_mean')


def _attention(out: _Writer, path: str, key: str) -> None:
  if f'{key}.gamma' in out:
    out.attention(path, {n: f'{key}.{n}' for n in ('theta', 'phi', 'g', 'o')},
                  out.get(f'{key}.gamma'))


def pretrained(state: State, truncation: float = 1.0) -> Variables:
  """Returns the variables of a generator of pytorch-pretrained-BigGAN.

  Its config: variant deep, order z_first, rgb_channels = ch, bn_epsilon 1e-4.
  Statistics between two tables are interpolated; the package weights the two
  the wrong way round, and misses some tables by rounding (14 gets that of
  0.16).

  Args:
    state: its state dict.
    truncation: which statistics, in (0, 1].

  Raises:
    UserError: arrays are missing, or a truncation outside.
  """
  if not 0.0 < truncation <= 1.0:
    raise errors.UserError(
        f'truncation is {truncation}; this checkpoint has statistics for '
        'truncations above 0 and up to 1.')
  out = _Writer(state, 'a generator of pytorch-pretrained-BigGAN')
  position = truncation * STEPS
  low = min(int(position + 1e-6), STEPS - 1)
  share = min(max(position - low, 0.0), 1.0)

  def statistics(path, key):
    values = {}
    for name, theirs in (('mean', 'running_means'), ('var', 'running_vars')):
      tables = out.get(f'{key}.{theirs}')
      values[name] = (1 - share) * tables[low] + share * tables[low + 1]
    out.put('batch_stats', path, **values)

  out.put('params', 'shared', embedding=out.get('embeddings.weight').T)
  out.layer('dense', 'generator.gen_z')
  count = 1 + max((int(key.split('.')[2]) for key in state
                   if key.startswith('generator.layers.')), default=-1)
  size, block = 8, 0
  for i in range(count):
    key = f'generator.layers.{i}'
    if f'{key}.gamma' in state:
      # After the block that ended at the size before.
      out.attention(
          f'attention_{size // 2}',
          {'theta': f'{key}.snconv1x1_theta', 'phi': f'{key}.snconv1x1_phi',
           'g': f'{key}.snconv1x1_g', 'o': f'{key}.snconv1x1_o_conv'},
          out.get(f'{key}.gamma'))
      continue
    path = f'up_{size}_{"ab"[block % 2]}'
    for k in range(4):
      out.layer(f'{path}/conv{k + 1}', f'{key}.conv_{k}')
      statistics(f'{path}/bn{k + 1}/norm', f'{key}.bn_{k}')
      out.layer(f'{path}/bn{k + 1}/gain', f'{key}.bn_{k}.scale')
      out.layer(f'{path}/bn{k + 1}/bias', f'{key}.bn_{k}.offset')
    block += 1
    size *= 1 + (block % 2 == 0)
  statistics('bn_out/norm', 'generator.bn')
  out.put('params', 'bn_out/norm', scale=out.get('generator.bn.weight'),
          bias=out.get('generator.bn.bias'))
  out.layer('conv_out', 'generator.conv_to_rgb')
  return out.result()
