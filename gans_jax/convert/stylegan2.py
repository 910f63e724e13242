"""Official weights of StyleGAN2: names and layouts.

The names of stylegan2-ada-pytorch, which the StyleGAN2 networks of stylegan3
share, are those of our modules: `synthesis.b8.conv0.affine.weight`. Other
repositories' weights are brought to them first (stylegan2_tensorflow.py,
rosinality.py); `to_official` goes back.

  convolutions    [O, I, k, k] -> [k, k, I, O]
  dense layers    [O, I] -> [I, O]
  const           [C, h, w] -> [h, w, C]
  b4.fc of D      its inputs are [C, 4, 4] laid flat there, [4, 4, C] here
"""

from collections.abc import Callable
from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from gans_jax.convert import network_pickle
from gans_jax.convert import snapshot as snapshot_lib
from gans_jax.core import errors

Tensors = Mapping[str, np.ndarray]
Variables = dict[str, Any]

_FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64


def from_pickle(networks: Mapping[str, network_pickle.Network],
                name: str) -> snapshot_lib.Snapshot:
  """Converts a pickle of stylegan2-ada-pytorch or of stylegan3.

  Args:
    networks: what `network_pickle.load` read, of PyTorch.
    name: what errors call the file.

  Raises:
    UserError: another network, or a kind of it that is not here.
  """
  generator = networks['G_ema'].tensors
  if 'synthesis.b4.const' not in generator:
    kind = ('is a StyleGAN3 generator' if 'synthesis.input.freqs' in generator
            else 'has no synthesis.b4.const')
    raise errors.UserError(
        f'{name} {kind}; --format=stylegan2 reads StyleGAN2 networks.')
  activations = {value for network in networks.values()
                 for key, value in network.attributes.items()
                 if re.search(r'(conv[01]|fc0)\.activation$', key)}
  try:
    values, classes, clamps = _settings(networks)
  except KeyError as e:
    raise errors.UserError(
        f'{name} has modules without the attribute {e}, which those of '
        'stylegan2-ada-pytorch and stylegan3 have. Was it written by another '
        'repository?') from e
  check_alike(activations, clamps, name)
  return snapshot({key: network.tensors for key, network in networks.items()},
                  values, classes)


def check_alike(activations: set[str], clamps: set[float], name: str) -> None:
  """Refuses networks that our StyleGAN2, which has one of each, is not."""
  if activations - {'lrelu'}:
    raise errors.UserError(
        f'{name} has the activation {", ".join(sorted(activations))}; only '
        'lrelu is supported.')
  if len(clamps) > 1:
    raise errors.UserError(
        f'{name} clamps G and D at {" and ".join(map(str, sorted(clamps)))}; '
        'only the same value for both is supported.')


def snapshot(named: Mapping[str, Tensors], values: dict[str, Any],
             classes: int) -> snapshot_lib.Snapshot:
  """Returns the snapshot of {'G', 'D', 'G_ema': tensors by official names}."""
  nets = {key: from_official(named[key]) for key in ('G', 'D') if key in named}
  ema = from_official(named['G_ema'])
  if classes:
    values = {**values, 'model.conditional': True, 'data.labels': 'class'}
  return snapshot_lib.Snapshot('stylegan2', values, {'G': ema, **nets},
                               {'G': ema}, classes)


def groups(size: int | None) -> dict[str, int]:
  """The keys of minibatch standard deviation; None is the whole batch."""
  size = size or 32
  return {'model.mbstd_group': size, 'batch_size': max(size, 32)}


def renamed(tensors: Tensors, rename: Callable[..., Any], name: str
             ) -> dict[str, np.ndarray]:
  """Applies `rename` (key, array) -> (official name, array) to all.

  Raises:
    UserError: one that it has no name for (None); () leaves one out.
  """
  result = {}
  for key, value in tensors.items():
    if not isinstance(value, np.ndarray):
      continue
    found = rename(key, value)
    if found is None:
      raise errors.UserError(
          f'{name} has {key!r}, which no StyleGAN2 of the repositories that '
          'are read here has. Check the file and --format.')
    if found:
      result[found[0]] = found[1]
  return result


# --- Official PyTorch names <-> ours ----------------------------------------


def from_official(tensors: Tensors) -> Variables:
  """Returns the variables of `stylegan2.Generator` or `Discriminator`.

  Args:
    tensors: {official name: array}.

  Raises:
    UserError: a resampling filter other than [1, 3, 3, 1].
  """
  result = {'params': {}}
  for name, value in tensors.items():
    *path, last = name.split('.')
    if last == 'resample_filter':
      if value.shape != _FILTER.shape or abs(value - _FILTER).max() > 1e-6:
        raise errors.UserError(
            f'The network resamples with another filter than [1, 3, 3, 1] '
            f'({name}), which is not supported here.')
      continue
    if last == 'w_avg':
      path, tree = [], result.setdefault('moving', {})
    elif last == 'noise_const':
      path, tree = path[1:], result.setdefault('noise', {})
    else:
      tree = result['params']
    for key in path:
      tree = tree.setdefault(key, {})
    tree['kernel' if last == 'weight' else last] = _to_ours(name, value)
  return result


def to_official(variables: Variables) -> dict[str, np.ndarray]:
  """Undoes `from_official`: {official name: array}, filters included."""
  result = {}

  def walk(tree, path):
    for key, value in tree.items():
      if hasattr(value, 'items'):
        walk(value, (*path, key))
      else:
        name = '.'.join((*path, 'weight' if key == 'kernel' else key))
        result[name] = _to_official(name, np.asarray(value))

  walk(variables['params'], ())
  if 'moving' in variables:
    walk(variables['moving'], ('mapping',))
    walk(variables['noise'], ('synthesis',))
  for name in list(result):
    module, _, last = name.rpartition('.')
    block = re.fullmatch(r'((?:synthesis\.)?b(\d+))\.(\w+)', module)
    if last != 'weight' or not block or block[3] in ('torgb', 'fc', 'out'):
      continue
    result[f'{module}.resample_filter'] = _FILTER
    # The last block of D is of another class, without a filter of its own.
    if 'synthesis' in module or block[2] != '4':
      result[f'{block[1]}.resample_filter'] = _FILTER
  return result


def _to_ours(name: str, value: np.ndarray) -> np.ndarray:
  value = np.asarray(value, np.float32)
  if name == 'b4.fc.weight':
    outputs, inputs = value.shape
    value = value.reshape(outputs, inputs // 16, 4, 4)
    value = value.transpose(2, 3, 1, 0).reshape(inputs, outputs)
  elif value.ndim == 4:
    value = value.transpose(2, 3, 1, 0)
  elif name.endswith('.const'):
    value = value.transpose(1, 2, 0)
  elif value.ndim == 2 and name.endswith('.weight'):
    value = value.T
  return np.array(value, order='C')


def _to_official(name: str, value: np.ndarray) -> np.ndarray:
  if name == 'b4.fc.weight':
    inputs, outputs = value.shape
    value = value.reshape(4, 4, inputs // 16, outputs)
    value = value.transpose(3, 2, 0, 1).reshape(outputs, inputs)
  elif value.ndim == 4:
    value = value.transpose(3, 2, 0, 1)
  elif name.endswith('.const'):
    value = value.transpose(2, 0, 1)
  elif value.ndim == 2 and name.endswith('.weight'):
    value = value.T
  return np.ascontiguousarray(value)


def _settings(networks) -> tuple[dict[str, Any], int, set[float]]:
  """Returns (config, classes, clamps), from the modules' own attributes.

  Defaults differ between the repositories; what a module holds is in force.
  """
  g, d = networks['G_ema'], networks.get('D')
  found = g.attributes
  clamps = {float(found['synthesis.b4.conv1.conv_clamp'] or 0)}
  synthesis = {**g.arguments, **(g.arguments.get('synthesis_kwargs') or {})}
  values = {
      'data.resolution': found['img_resolution'],
      'data.channels': found['img_channels'],
      'model.z_dim': found['z_dim'],
      'model.w_dim': found['w_dim'],
      'model.channel_base': synthesis.get('channel_base', 32768),
      'model.channel_max': synthesis.get('channel_max', 512),
      'model.G': found['synthesis.b8.architecture'],
      'model.mapping_layers': found['mapping.num_layers'],
      'model.mapping_lr': found['mapping.fc0.bias_gain'],
      'model.w_avg_beta': found['mapping.w_avg_beta'],
      'model.conv_clamp': min(clamps),
      'model.mbstd_order': 'strided',
  }
  if d is not None:
    clamps.add(float(d.attributes['b8.conv0.conv_clamp'] or 0))
    values |= {
        'model.D': d.attributes['b8.architecture'],
        'model.mbstd_channels': d.attributes.get('b4.mbstd.num_channels', 0),
        **groups(d.attributes.get('b4.mbstd.group_size')),
        'model.d_mapping_layers': d.attributes.get('mapping.num_layers', 8)}
  return values, found['c_dim'], clamps
