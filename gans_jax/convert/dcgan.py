"""Weights of pytorch/examples DCGAN and of the WGAN repository.

Two layouts of the same network (systems/dcgan.py, model.variant='pytorch'):

  pytorch/examples, netG_epoch_N.pth: `main.0.weight`, `main.1.running_mean`,
    numbered through the nn.Sequential.
  martinarjovsky/WassersteinGAN: `main.initial:100-512:convt.weight`,
    `main.pyramid:256:batchnorm.weight`, ...; its first versions have dots for
    colons. Its critic is low on real images, where the paper and
    systems/wgan.py have it high, so its last layer is negated here.

All functions are pure, on {key: array} as convert/torch_file.py reads it.
"""

from collections.abc import Mapping
import math
import re
from typing import Any

import numpy as np

from gans_jax.convert import snapshot as snapshot_lib
from gans_jax.core import errors

State = Mapping[str, np.ndarray]
Variables = dict[str, Any]

_BN = {'weight': ('params', 'scale'), 'bias': ('params', 'bias'),
       'running_mean': ('batch_stats', 'mean'),
       'running_var': ('batch_stats', 'var')}


def generator(state: State) -> Variables:
  """Returns the variables of `dcgan.Generator`.

  Args:
    state: the state dict of netG.

  Raises:
    UserError: keys or shapes of another network.
  """
  layers = _layers(state, transposed=True)
  variables = {'params': {}, 'batch_stats': {}}
  for i, (weight, bn) in enumerate(layers):
    # torch [I, O, kh, kw] -> [kh, kw, I, O].
    _put(variables, 4 * 2**i, 'convt', weight.transpose(2, 3, 0, 1), bn)
  return _without_empty(variables)


def discriminator(state: State) -> Variables:
  """Returns the variables of `dcgan.Discriminator` (or WGAN's critic).

  Args:
    state: the state dict of netD.

  Raises:
    UserError: keys or shapes of another network.
  """
  layers = _layers(state, transposed=False)
  variables = {'params': {}, 'batch_stats': {}}
  for i, (weight, bn) in enumerate(layers):
    last = i == len(layers) - 1
    size = 1 if last else 2 * 2**(len(layers) - 1 - i)
    if last and _is_wgan(state):
      weight = -weight
    # torch [O, I, kh, kw] -> [kh, kw, I, O].
    _put(variables, size, 'conv', weight.transpose(2, 3, 1, 0), bn)
  return _without_empty(variables)


def settings(g_state: State) -> dict[str, Any]:
  """Returns {dotted config key: value} that a generator's weights imply."""
  layers = _layers(g_state, transposed=True)
  values = {
      'data.resolution': 4 * 2**(len(layers) - 1),
      'data.channels': int(layers[-1][0].shape[1]),
      'model.z_dim': int(layers[0][0].shape[0]),
      'model.ngf': int(layers[-1][0].shape[0]),
  }
  if _is_wgan(g_state):
    values['model.norm_G'] = 'none' if layers[0][1] is None else 'batch'
  return values


def snapshot(system: str, g_state: State, d_state: State | None = None
             ) -> snapshot_lib.Snapshot:
  """Returns what a workdir is made of.

  Args:
    system: 'dcgan' or 'wgan'.
    g_state: the state dict of netG.
    d_state: that of netD, if there is one.

  Raises:
    UserError: keys or shapes of other networks.
  """
  nets, values = {'G': generator(g_state)}, settings(g_state)
  if d_state is not None:
    nets['D'] = discriminator(d_state)
    first = nets['D']['params'][f'conv_{values["data.resolution"] // 2}']
    values['model.ndf'] = first['kernel'].shape[-1]
  return snapshot_lib.Snapshot(system, values, nets)


def to_torch(variables: Variables, layout: str) -> dict[str, np.ndarray]:
  """Undoes `generator` and `discriminator`.

  Args:
    variables: of either net.
    layout: 'examples' or 'wgan'.

  Returns:
    The state dict, `num_batches_tracked` included (as 0).
  """
  params = variables['params']
  kind = 'convt' if 'convt_4' in params else 'conv'
  sizes = sorted((int(name.rpartition('_')[2]) for name in params
                  if name.startswith(kind + '_')), reverse=kind == 'conv')
  state, index = {}, 0
  for i, size in enumerate(sizes):
    last = i == len(sizes) - 1
    kernel = np.asarray(params[f'{kind}_{size}']['kernel'])
    weight = kernel.transpose((2, 3, 0, 1) if kind == 'convt' else
                              (3, 2, 0, 1))
    if layout == 'wgan' and last and kind == 'conv':
      weight = -weight
    stage = 'initial' if i == 0 else 'final' if last else 'pyramid'
    fan = f'{kernel.shape[2]}-{kernel.shape[3]}'
    name = f'{index}' if layout == 'examples' else f'{stage}:{fan}:{kind}'
    state[f'main.{name}.weight'] = weight
    index += 1
    if f'bn_{size}' in params:
      name = (f'{index}' if layout == 'examples' else
              f'{stage}:{kernel.shape[3]}:batchnorm')
      for key, (collection, ours) in _BN.items():
        state[f'main.{name}.{key}'] = np.asarray(
            variables[collection][f'bn_{size}'][ours])
      state[f'main.{name}.num_batches_tracked'] = np.zeros([], np.int64)
      index += 1
    index += 1  # the activation
  return state


def _is_wgan(state: State) -> bool:
  return any('initial' in key for key in state)


def _put(variables, size: int, kind: str, kernel, bn) -> None:
  kernel = np.ascontiguousarray(kernel, np.float32)
  variables['params'][f'{kind}_{size}'] = {'kernel': kernel}
  for key, value in (bn or {}).items():
    collection, name = _BN[key]
    group = variables[collection].setdefault(f'bn_{size}', {})
    group[name] = np.array(value, np.float32)


def _without_empty(variables: Variables) -> Variables:
  return {name: tree for name, tree in variables.items() if tree}


def _position(module: str, transposed: bool) -> tuple[float, float]:
  """Sorts 'initial:100-512:convt' and its kind in the network's order."""
  words = re.split('[:.]', module)
  stages = {'initial': 0, 'pyramid': 1, 'final': 2}
  numbers = [int(n) for n in re.findall(r'\d+', module)]
  if words[0] not in stages or not numbers:
    raise errors.UserError(
        f'The checkpoint has a layer {module!r}, which the DCGAN of the WGAN '
        "repository has only with --n_extra_layers: that is not supported.")
  # The generator's channels fall, the critic's rise.
  return stages[words[0]], -numbers[-1] if transposed else numbers[-1]


def _layers(state: State, transposed: bool):
  """Returns [(convolution weight, batch norm's arrays or None)] in order."""
  modules: dict[str, dict[str, np.ndarray]] = {}
  for key, value in state.items():
    match = re.fullmatch(r'(?:module\.)?main\.(.+)\.(\w+)', key)
    if not match:
      raise errors.UserError(
          f'The checkpoint has a key {key!r}; a DCGAN of pytorch/examples or '
          "of the WGAN repository has keys 'main.0.weight' or "
          "'main.initial:100-512:convt.weight' and such. Check the file and "
          'the format.')
    modules.setdefault(match[1], {})[match[2]] = np.asarray(value)

  def position(module):
    if _is_wgan(state):
      return _position(module, transposed)
    return (int(module), 0) if module.isdigit() else (math.inf, 0)

  def rank(module):
    return (*position(module), 'running_mean' in modules[module])

  layers = []
  for module in sorted(modules, key=rank):
    arrays = modules[module]
    if 'running_mean' in arrays:
      arrays = {key: arrays[key] for key in _BN if key in arrays}
      if not layers or layers[-1][1] is not None or len(arrays) != len(_BN):
        raise errors.UserError(
            f"The checkpoint's batch normalization 'main.{module}' does not "
            'follow a convolution, or lacks arrays: not a DCGAN.')
      layers[-1] = (layers[-1][0], arrays)
      continue
    weight = arrays.get('weight')
    if weight is None or weight.ndim != 4 or weight.shape[2:] != (4, 4):
      found = None if weight is None else weight.shape
      raise errors.UserError(
          f"The checkpoint's 'main.{module}.weight' has shape {found}; every "
          'layer of this DCGAN is a 4x4 convolution. Check the file.')
    layers.append((weight, None))
  inputs, outputs = (0, 1) if transposed else (1, 0)
  widths = [(w.shape[inputs], w.shape[outputs]) for w, _ in layers]
  if len(layers) < 3 or any(
      a[1] != b[0] for a, b in zip(widths, widths[1:], strict=False)):
    net = 'generator' if transposed else 'discriminator'
    raise errors.UserError(
        f'The checkpoint is not a DCGAN {net}: its convolutions map channels '
        f'{", ".join(f"{a} -> {b}" for a, b in widths) or "(none)"}. Were the '
        'files of G and D exchanged?')
  return layers
