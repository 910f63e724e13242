"""BigGAN checkpoints of others, as variables of systems/biggan.py.

`generator` and `discriminator` take those of ajbrock/BigGAN-PyTorch (G.pth,
G_ema.pth, D.pth; BigGAN and BigGAN-deep, shared embedding or not),
`pretrained` the deep generators of huggingface's pytorch-pretrained-BigGAN.
`snapshot` and `pretrained_snapshot` add the config that the weights imply.

Layouts: convolutions OIHW -> HWIO, linear layers transposed. Channels of the
first map are the slowest axis of BigGAN-PyTorch's first layer and the fastest
of ours, as of the published modules. u of a layer is taken over; v, which
BigGAN-PyTorch does not keep, follows from u by the iteration that its
evaluation does.
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from gans_jax.convert import snapshot as snapshot_lib
from gans_jax.core import errors
from gans_jax.systems import biggan
from gans_jax.systems import sngan

State = Mapping[str, np.ndarray]
Variables = dict[str, Any]

# What BigGAN-PyTorch logs, or counts with.
_IGNORED = r'.*\.(u[1-9]|sv\d+|accumulation_counter|num_batches_tracked)'

# Elements of a state dict, at most: a tensor can claim any number of them.
_MOST = 2**30

# Statistics of pytorch-pretrained-BigGAN: one table for each of 51
# truncations 0, 0.02, ..., 1.
STEPS = 50


class Writer:
  """Collects a network's variables, layer by layer.

  Attributes:
    variables: what has been put so far.
  """

  def __init__(self, state: State, what: str):
    """Starts from a state dict of `what`, such as 'a generator of X'.

    Raises:
      UserError: it is no state dict.
    """
    if not isinstance(state, Mapping) or not state or not all(
        isinstance(key, str) and isinstance(value, np.ndarray | np.generic)
        for key, value in state.items()):
      raise errors.UserError(
          f'The file holds {type(state).__name__}, and not the arrays of '
          f'{what} by name. Check the file and the format.')
    if sum(value.size for value in state.values()) > _MOST:
      raise errors.UserError(
          f'The arrays of the file claim more than {_MOST} numbers, which '
          f'{what} never has. The file is damaged or of another kind.')
    self._state = state
    self._what = what
    self._seen = set()
    self.variables: Variables = {'params': {}, 'spectral': {},
                                 'batch_stats': {}}

  def __contains__(self, key: str) -> bool:
    return key in self._state

  def get(self, key: str) -> np.ndarray:
    if key not in self._state:
      raise errors.UserError(
          f'The checkpoint has no {key!r}, which {self._what} has. Check the '
          'file and the format.')
    self._seen.add(key)
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
    if f'{key}.weight_orig' in self:
      self.put('params', path, embedding=self.get(f'{key}.weight_orig'))
      self.put('spectral', path, **{
          n: self.get(f'{key}.weight_{n}')[None] for n in 'uv'})
      return
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

  def result(self, ignored: str) -> Variables:
    """Returns the variables.

    Args:
      ignored: pattern of keys that need not have been read.

    Raises:
      UserError: arrays are left over.
    """
    for key in self._state:
      if key not in self._seen and not re.fullmatch(ignored, key):
        raise errors.UserError(
            f'The checkpoint has {key!r}, which {self._what} that can be '
            'converted has not. Check the file and the format.')
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
  out = Writer(state, 'a generator of BigGAN-PyTorch')
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
  return out.result(_IGNORED)


def discriminator(state: State) -> Variables:
  """Returns the variables of a discriminator of BigGAN-PyTorch."""
  out = Writer(state, 'a discriminator of BigGAN-PyTorch')
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
  return out.result(_IGNORED)


def _statistics(out: Writer, path: str, key: str) -> None:
  # With --mybn or --cross_replica they are one level deeper.
  for prefix, mean, var in ((key, 'stored_mean', 'stored_var'),
                            (f'{key}.bn', 'stored_mean', 'stored_var'),
                            (f'{key}.bn', 'running_mean', 'running_var')):
    if f'{prefix}.{mean}' in out:
      out.put('batch_stats', path, mean=out.get(f'{prefix}.{mean}'),
              var=out.get(f'{prefix}.{var}'))
      return
  out.get(f'{key}.stored_mean')


def _attention(out: Writer, path: str, key: str) -> None:
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
  out = Writer(state, 'a generator of pytorch-pretrained-BigGAN')
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
  return out.result('.*')


# --- Configs -----------------------------------------------------------------


def ema_of(convert, state: State | None) -> dict[str, Variables]:
  """Returns {'G': averaged variables}; {} without a state dict."""
  return {} if state is None else {'G': convert(state)}


def snapshot(g_state: State, d_state: State | None = None,
             ema_state: State | None = None) -> snapshot_lib.Snapshot:
  """Returns what a workdir of BigGAN-PyTorch's networks is made of.

  Args:
    g_state: the state dict of G.pth or G_ema.pth.
    d_state: that of D.pth, if there is one.
    ema_state: that of G_ema.pth, where `g_state` is not.

  Raises:
    UserError: other networks, or widths that are not BigGAN's.
  """
  nets = {'G': generator(g_state)}
  deep, shared = _is_deep(g_state), 'shared.weight' in g_state
  gain = g_state['blocks.0.0.bn1.gain.weight'].shape
  inputs = g_state['linear.weight'].shape[1]
  shared_dim = g_state['shared.weight'].shape[1] if shared else 0
  chunk = gain[1] - shared_dim if shared and not deep else 0
  stages = len(widths(nets['G'], 'up', deep))
  values = {
      **of_generator(nets['G'], deep),
      'model.shared': shared,
      'model.hierarchical': deep or chunk > 0,
      'model.z_dim': (inputs - shared_dim if deep else
                      inputs * (stages + 1) if chunk else inputs),
      'model.order': 'class_first',
      'model.spectral_norm': 'biggan_pytorch',
      'model.bn_epsilon': 1e-5,
  }
  if shared:
    values['model.shared_dim'] = shared_dim
  if d_state is not None:
    nets['D'] = discriminator(d_state)
    values |= of_discriminator(nets['D'], deep, values)
  classes = g_state['shared.weight'].shape[0] if shared else gain[0]
  return snapshot_lib.Snapshot('biggan', values, nets,
                               ema_of(generator, ema_state), classes)


def pretrained_snapshot(state: State, truncation: float = 1.0,
                        config: Mapping[str, Any] | None = None
                        ) -> snapshot_lib.Snapshot:
  """Returns what a workdir of pytorch-pretrained-BigGAN is made of.

  Args:
    state: the state dict of pytorch_model.bin.
    truncation: whose statistics, see `pretrained`.
    config: of config.json, if there is one: it must agree.

  Raises:
    UserError: another network, or another config.
  """
  variables = pretrained(state, truncation)
  shared_dim, classes = state['embeddings.weight'].shape
  rgb, ch = state['generator.conv_to_rgb.weight_orig'].shape[:2]
  values = {
      **of_generator(variables, True),
      'data.channels': 3,
      'model.shared_dim': shared_dim,
      'model.z_dim': state['generator.gen_z.weight_orig'].shape[1] - shared_dim,
      'model.order': 'z_first',
      'model.rgb_channels': rgb,
      'model.spectral_norm': 'pretrained_biggan',
      'model.bn_epsilon': 1e-4,
  }
  if config is not None:
    if not isinstance(config, Mapping):
      raise errors.UserError(
          'The config.json is no dictionary. Expected that of '
          'pytorch-pretrained-BigGAN.')
    weights = {'output_dim': values['data.resolution'],
               'z_dim': values['model.z_dim'], 'class_embed_dim': shared_dim,
               'channel_width': ch, 'num_classes': classes, 'eps': 1e-4,
               'n_stats': STEPS + 1}
    for key, value in weights.items():
      if config.get(key, value) != value:
        raise errors.UserError(
            f'The config.json says {key} = {config[key]!r}, but the weights '
            f'beside it are of a network with {value!r}. Give the config of '
            'these weights, or take it away.')
  return snapshot_lib.Snapshot('biggan', values, {'G': variables},
                               num_classes=classes)


def widths(variables: Variables, prefix: str, deep: bool) -> list[int]:
  """Returns the output channels of blocks up_8, ... or block_0, ..."""
  pattern = prefix + r'_(\d+)' + ('_b' if deep else '')
  last = 'conv4' if deep else 'conv2'
  found = {int(match[1]): tree[last]['kernel'].shape[-1]
           for name, tree in variables['params'].items()
           if (match := re.fullmatch(pattern, name))}
  return [found[i] for i in sorted(found)]


def attention_text(variables: Variables) -> str:
  """Returns a value of model.attention_G: 'none', '64', '32_64'."""
  sizes = sorted(int(name.partition('_')[2]) for name in variables['params']
                 if name.startswith('attention_'))
  return '_'.join(map(str, sizes)) or 'none'


def of_generator(variables: Variables, deep: bool) -> dict[str, Any]:
  """Returns settings that the shapes of G imply, of every code's networks.

  Raises:
    UserError: widths that are not BigGAN's.
  """
  g, variant = widths(variables, 'up', deep), 'deep' if deep else 'biggan'
  resolution = 4 << len(g)
  stem = variables['params']['dense']['kernel'].shape[1] // 16
  ch = stem // biggan.plan(resolution, variant, 1, 1).stem
  for layout in sngan.LAYOUTS:
    expected = biggan.plan(resolution, variant, ch, 1, layout)
    if (expected.stem, list(expected.g)) == (stem, g):
      break
  else:
    raise errors.UserError(
        f'The generator for {resolution} pixels has {stem} channels at 4x4 '
        f'and then {", ".join(map(str, g))}; no BigGAN has such widths. Check '
        'the file and the format.')
  attention = attention_text(variables)
  values = {
      'data.resolution': resolution,
      'data.channels': variables['params']['conv_out']['kernel'].shape[-1],
      'data.labels': 'class',
      'model.variant': variant,
      'model.layout': layout,
      'model.ch_G': ch,
      'model.ch_D': ch,
      'model.attention_G': attention,
  }
  if attention == 'none':
    values['model.attention_D'] = 'none'
  return values


def of_discriminator(variables: Variables, deep: bool,
                     values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns settings that the shapes of D imply.

  Args:
    variables: of D.
    deep: whether G is BigGAN-deep.
    values: settings that G implies.

  Raises:
    UserError: D is not of this G.
  """
  d = widths(variables, 'block', deep)
  resolution, variant = values['data.resolution'], values['model.variant']
  expected = biggan.plan(resolution, variant, 1, 1)
  ch = d[-1] // expected.d[-1] if d else 0
  if d != [ch * n for n in expected.d]:
    raise errors.UserError(
        f'The discriminator has blocks of {", ".join(map(str, d)) or "no"} '
        f'channels; that of {variant!r} at {resolution} pixels, as the '
        'generator is, has other ones. Check that both files are of one run.')
  return {'model.ch_D': ch, 'model.attention_D': attention_text(variables)}
