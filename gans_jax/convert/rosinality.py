"""Weights of rosinality/stylegan2-pytorch (.pt), by their official names.

The most common exchange format of StyleGAN2: `convs.0.conv.weight` is
`synthesis.b8.conv0.weight` with an axis of length 1 in front. Networks are
skip generators and residual discriminators without labels. Checkpoints of its
training hold no average w; it is computed.
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from gans_jax.convert import snapshot
from gans_jax.convert import stylegan2
from gans_jax.core import errors

_MAPPING_LR = 0.01


def from_checkpoint(checkpoint: Mapping[str, Any],
                    name: str) -> snapshot.Snapshot:
  """Converts a .pt file of rosinality/stylegan2-pytorch.

  Args:
    checkpoint: {'g_ema': state dict, 'latent_avg', 'g', 'd', ...}; all but
      g_ema may lack.
    name: what errors call the file.

  Raises:
    UserError: another file.
  """
  g_ema = checkpoint.get('g_ema') if isinstance(checkpoint, Mapping) else None
  if not isinstance(g_ema, Mapping) or 'input.input' not in g_ema:
    raise errors.UserError(
        f'{name} is no checkpoint of rosinality/stylegan2-pytorch: expected '
        'a dictionary with the generator as g_ema. Check the file and '
        '--format.')
  named = {'G_ema': stylegan2.renamed(g_ema, generator, name)}
  if isinstance(checkpoint.get('g'), Mapping):
    named['G'] = stylegan2.renamed(checkpoint['g'], generator, name)
  average = checkpoint.get('latent_avg')
  for tensors in named.values():
    w = mean_w(tensors) if average is None else np.asarray(average)
    tensors['mapping.w_avg'] = w.reshape(-1)
  g = named['G_ema']
  blocks = sum(key.endswith('conv0.bias') for key in g)
  resolution = 4 * 2**blocks
  if isinstance(checkpoint.get('d'), Mapping):
    named['D'] = stylegan2.renamed(
        checkpoint['d'],
        lambda key, value: discriminator(key, value, resolution), name)
  mapped, z_dim = g['mapping.fc0.weight'].shape
  values = {
      'data.resolution': resolution,
      'data.channels': 3,
      'model.channel_max': g['synthesis.b4.const'].shape[0],
      # Where all blocks are as wide as the first, a base that says so.
      'model.channel_base':
          g[f'synthesis.b{resolution}.conv1.bias'].shape[0] * resolution,
      'model.z_dim': z_dim,
      'model.w_dim': mapped,
      'model.mapping_layers': sum(
          bool(re.fullmatch(r'mapping\.fc\d+\.weight', key)) for key in g),
      'model.mbstd_order': 'strided',
  }
  return stylegan2.snapshot(named, values, 0)


def mean_w(tensors: stylegan2.Tensors, samples: int = 10_000) -> np.ndarray:
  """Returns the mean of the mapping network's w [D] over random z.

  Args:
    tensors: the generator's, by their official names.
    samples: how many; the seed is that of the official projector.
  """
  layers = sorted((key for key in tensors
                   if re.fullmatch(r'mapping\.fc\d+\.weight', key)),
                  key=lambda key: int(re.sub(r'\D', '', key)))
  x = np.random.RandomState(123).randn(
      samples, tensors[layers[0]].shape[1])
  x /= np.sqrt((x * x).mean(1, keepdims=True) + 1e-8)
  for key in layers:
    weight = tensors[key].astype(np.float64)
    x = x @ weight.T * (_MAPPING_LR / np.sqrt(weight.shape[1]))
    x += _MAPPING_LR * tensors[key.replace('weight', 'bias')]
    x = np.where(x > 0, x, 0.2 * x) * np.sqrt(2)
  return x.mean(0).astype(np.float32)


def generator(key: str, value: np.ndarray):
  """(official name, array) of a tensor; None or () without, see `renamed`."""
  if match := re.fullmatch(r'style\.(\d+)\.(\w+)', key):
    return f'mapping.fc{int(match[1]) - 1}.{match[2]}', value
  if key == 'input.input':
    return 'synthesis.b4.const', value[0]
  if match := re.fullmatch(r'noises\.noise_(\d+)', key):
    i = int(match[1])
    layer = f'b{2**((i + 5) // 2)}.conv{1 if i % 2 == 0 else 0}'
    return f'synthesis.{layer}.noise_const', value[0, 0]
  match = re.fullmatch(r'(conv1|to_rgb1|convs\.(\d+)|to_rgbs\.(\d+))\.(.+)',
                       key)
  if not match:
    return None
  layer, conv, rgb, part = match.groups()
  if conv is not None:
    module = f'b{8 * 2**(int(conv) // 2)}.conv{int(conv) % 2}'
  elif rgb is not None:
    module = f'b{8 * 2**int(rgb)}.torgb'
  else:
    module = 'b4.conv1' if layer == 'conv1' else 'b4.torgb'
  parts = {'conv.weight': ('weight', lambda x: x[0]),
           'conv.modulation.weight': ('affine.weight', lambda x: x),
           'conv.modulation.bias': ('affine.bias', lambda x: x),
           'noise.weight': ('noise_strength', lambda x: x.reshape(())),
           'activate.bias': ('bias', lambda x: x),
           'bias': ('bias', lambda x: x.reshape(-1))}
  if part not in parts:
    return () if part.endswith('kernel') else None
  name, change = parts[part]
  return f'synthesis.{module}.{name}', change(value)


def discriminator(key: str, value: np.ndarray, resolution: int):
  """As `generator`; blocks are counted from the image's resolution."""
  if key.endswith('.kernel'):
    return ()
  if match := re.fullmatch(r'final_linear\.([01])\.(\w+)', key):
    return f'b4.{("fc", "out")[int(match[1])]}.{match[2]}', value
  match = re.fullmatch(
      r'(final_conv|convs\.(\d+)(?:\.(conv1|conv2|skip))?)\.\d\.(\w+)', key)
  if not match:
    return None
  layer, block, inner, part = match.groups()
  if layer == 'final_conv':
    return f'b4.conv.{part}', value
  if inner is None:
    return f'b{resolution}.fromrgb.{part}', value
  inner = {'conv1': 'conv0', 'conv2': 'conv1', 'skip': 'skip'}[inner]
  return f'b{resolution // 2**(int(block) - 1)}.{inner}.{part}', value
