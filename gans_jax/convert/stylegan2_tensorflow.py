"""Weights of StyleGAN2 and ADA in TensorFlow, by their PyTorch names.

  `synthesis/8x8/Conv0_up/mod_weight` is `synthesis.b8.conv0.affine.weight`.

Kernels are stored [k, k, I, O], dense weights [I, O], constants and noise with
axes of length 1, biases of styles without their 1, and the kernels of
upsampling convolutions turned by 180 degrees.
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from gans_jax.convert import network_pickle
from gans_jax.convert import snapshot
from gans_jax.convert import stylegan2
from gans_jax.core import errors

_G_LAYERS = {'Conv': 'conv1', 'Conv0_up': 'conv0', 'Conv1': 'conv1',
             'ToRGB': 'torgb', 'Skip': 'skip'}
_D_LAYERS = {'FromRGB': 'fromrgb', 'Conv0': 'conv0', 'Conv1_down': 'conv1',
             'Skip': 'skip', 'Conv': 'conv', 'Dense0': 'fc'}
_ORDER = {2: (1, 0), 4: (3, 2, 0, 1)}


def from_pickle(networks: Mapping[str, network_pickle.Network],
                name: str) -> snapshot.Snapshot:
  """Converts a pickle of stylegan2 or stylegan2-ada.

  Args:
    networks: what `network_pickle.load` read, of TensorFlow.
    name: what errors call the file.

  Raises:
    UserError: another network, or a kind of it that is not here.
  """
  _refuse_others(networks['G_ema'], name)
  named = {
      key: stylegan2.renamed(
          network.tensors, discriminator if key == 'D' else generator, name)
      for key, network in networks.items()}
  values, classes, activations, clamps = _settings(networks)
  stylegan2.check_alike(activations, clamps, name)
  return stylegan2.snapshot(named, values, classes)


def generator(key: str, value: np.ndarray):
  """(official name, array) of a variable; None if it has no place there."""
  if key == 'dlatent_avg':
    return 'mapping.w_avg', value
  if match := re.fullmatch(r'mapping/(?:Dense(\d+)|LabelEmbed)/(\w+)', key):
    module = 'embed' if match[1] is None else f'fc{match[1]}'
    return f'mapping.{module}.{match[2]}', _turned(value)
  if match := re.fullmatch(r'synthesis/noise(\d+)', key):
    i = int(match[1])
    layer = f'b{2**((i + 5) // 2)}.conv{1 if i % 2 == 0 else 0}'
    return f'synthesis.{layer}.noise_const', value[0, 0]
  if key == 'synthesis/4x4/Const/const':
    return 'synthesis.b4.const', value[0]
  if match := re.fullmatch(r'synthesis/(\d+)x\d+/(\w+)/(\w+)', key):
    resolution, layer, part = match.groups()
    if layer not in _G_LAYERS:
      return None
    module = f'synthesis.b{resolution}.{_G_LAYERS[layer]}'
    if part == 'mod_weight':
      return f'{module}.affine.weight', value.T
    if part == 'mod_bias':
      return f'{module}.affine.bias', value + np.float32(1)
    if layer in ('Conv0_up', 'Skip') and part == 'weight':
      value = value[::-1, ::-1]
    return f'{module}.{part}', _turned(value)
  # Of growing, which these networks no longer do.
  return () if key.rpartition('/')[2] == 'lod' else None


def discriminator(key: str, value: np.ndarray):
  if match := re.fullmatch(r'(Output|LabelEmbed|Mapping(\d+))/(\w+)', key):
    module = {'Output': 'b4.out', 'LabelEmbed': 'mapping.embed'}.get(
        match[1], f'mapping.fc{match[2]}')
    return f'{module}.{match[3]}', _turned(value)
  if match := re.fullmatch(r'(\d+)x\d+/(\w+)/(\w+)', key):
    resolution, layer, part = match.groups()
    if layer in _D_LAYERS:
      return f'b{resolution}.{_D_LAYERS[layer]}.{part}', _turned(value)
  return () if key == 'lod' else None


def _turned(value: np.ndarray) -> np.ndarray:
  """[I, O] -> [O, I], [k, k, I, O] -> [O, I, k, k]; others as they are."""
  return value.transpose(_ORDER[value.ndim]) if value.ndim in _ORDER else value


def _refuse_others(network, name: str) -> None:
  """Refuses generators that our StyleGAN2 does not have."""
  function = network.name.rpartition('.')[2]
  if 'mapping/LabelConcat/weight' in network.tensors:
    raise errors.UserError(
        f"{name} is conditional in StyleGAN2's way, from before ADA, which is "
        'not supported here. Conditional networks of stylegan2-ada are.')
  if 'synthesis/4x4/Const/const' not in network.tensors or not any(
      key.endswith('mod_weight') for key in network.tensors):
    hint = {'G_style': 'stylegan', 'G_paper': 'progan'}.get(function)
    hint = f'Use --format={hint}.' if hint else (
        'Check the file and --format.')
    raise errors.UserError(
        f'{name} holds {network.name or "a network without a name"}, and not '
        f'a generator of StyleGAN2. {hint}')


def _settings(networks):
  """Returns (config, classes, activations, clamps), from the arguments.

  The defaults are those of the repositories' functions.
  """
  g = networks['G_ema'].arguments
  clamps = {float(g.get('conv_clamp') or 0)}
  activations = {g.get(key, 'lrelu')
                 for key in ('nonlinearity', 'mapping_nonlinearity')}
  values: dict[str, Any] = {
      'data.resolution': g.get('resolution', 1024),
      'data.channels': g.get('num_channels', 3),
      'model.z_dim': g.get('latent_size', 512),
      'model.w_dim': g.get('dlatent_size', 512),
      'model.channel_base': 2 * g.get('fmap_base', 16384),
      'model.channel_max': g.get('fmap_max', 512),
      'model.G': g.get('architecture', 'skip'),
      'model.mapping_layers': g.get('mapping_layers', 8),
      'model.mapping_lr': g.get('mapping_lrmul', 0.01),
      'model.conv_clamp': min(clamps),
      'model.mbstd_order': 'strided',
  }
  if 'D' in networks:
    d = networks['D'].arguments
    clamps.add(float(d.get('conv_clamp') or 0))
    activations.add(d.get('nonlinearity', 'lrelu'))
    # ADA renamed the module, and has no groups by default.
    is_ada = 'stylegan2' not in networks['D'].name
    values |= {
        'model.D': d.get('architecture', 'resnet'),
        'model.mbstd_channels': d.get('mbstd_num_features', 1),
        **stylegan2.groups(d.get('mbstd_group_size', None if is_ada else 4)),
        'model.d_mapping_layers': d.get('mapping_layers', 0)}
  return values, g.get('label_size') or 0, activations, clamps
