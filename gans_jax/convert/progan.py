"""Official weights of ProGAN: TensorFlow's and the first version's.

TensorFlow's names and layouts are those of systems/progan.py, but for

  Conv0_up             [k, k, O, I] -> [k, k, I, O]
  4x4/Dense of G       its outputs are [C, 4, 4] laid flat there, [4, 4, C] here
  4x4/Dense0 of D      its inputs, likewise

Theano's come as a list in the order of construction: of every layer the
weights, a scale that was frozen while it trained (He's times whatever it is),
and the bias. Convolutions are turned by 180 degrees there.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from gans_jax.convert import network_pickle
from gans_jax.convert import snapshot
from gans_jax.core import errors

Tensors = Mapping[str, np.ndarray]

# Arguments of the functions that our network has no key for.
_FIXED = {'use_wscale': True, 'normalize_latents': True, 'use_pixelnorm': True,
          'use_leakyrelu': True, 'fmap_decay': 1.0, 'use_batchnorm': False,
          'use_layernorm': False, 'tanh_at_end': None,
          'mbdisc_kernels': None, 'pixelnorm_epsilon': 1e-8}


def from_pickle(networks: Mapping[str, network_pickle.Network],
                name: str) -> snapshot.Snapshot:
  """Converts a pickle of progressive_growing_of_gans, either branch.

  Args:
    networks: what `network_pickle.load` read.
    name: what errors call the file.

  Raises:
    UserError: another network, or a kind of it that is not here.
  """
  g, d = networks['G_ema'], networks.get('D')
  function = g.name.rpartition('.')[2]
  if function not in ('G_paper', 'G_progressive_8'):
    raise errors.UserError(
        f'{name} holds {g.name or "a network without a name"}, and not '
        "ProGAN's G_paper. Check the file and --format.")
  network_pickle.check_arguments(networks, _FIXED, name)
  theano = g.code == 'theano'
  resolution = g.arguments.get('resolution', 32)
  found = {}
  for key, network in networks.items():
    tensors = network.tensors
    if theano:
      tensors = dict(_names_of_theano(tensors, key == 'D', resolution, name))
    found[key] = (discriminator(tensors, name) if key == 'D' else
                  generator(tensors, name))
  fmap_base = g.arguments.get('fmap_base', 8192)
  fmap_max = g.arguments.get('fmap_max', 512)
  classes = g.arguments.get('label_size') or 0
  values: dict[str, Any] = {
      'data.resolution': resolution,
      'data.channels': g.arguments.get('num_channels', 1),
      'model.fmap_base': fmap_base,
      'model.fmap_max': fmap_max,
      'model.z_dim': g.arguments.get('latent_size') or min(fmap_base,
                                                           fmap_max),
      'model.fused_scale': not theano and g.arguments.get('fused_scale', True),
      'model.mbstd_order': 'strided',
  }
  if d is not None:
    values['model.mbstd_group'] = (
        16 if theano else d.arguments.get('mbstd_group_size', 4))
  if classes:
    values |= {'model.conditional': True, 'data.labels': 'class'}
  ema = found.pop('G_ema')
  return snapshot.Snapshot('progan', values, {'G': ema, **found}, {'G': ema},
                           classes)


def generator(tensors: Tensors, name: str) -> snapshot.Variables:
  """Returns the variables of `progan.Generator`, from TensorFlow's names."""
  result = {'params': {}, 'moving': {'lod': np.float32(0)}}
  for key, value in tensors.items():
    *path, last = key.split('/')
    if key == 'lod':
      result['moving']['lod'] = np.float32(value)
      continue
    if path[-1:] == ['Conv0_up'] and last == 'weight':
      value = value.transpose(0, 1, 3, 2)
    elif key == '4x4/Dense/weight':
      value = outputs_to_hwc(value)
    put(result['params'], path, last, value, name)
  return result


def discriminator(tensors: Tensors, name: str) -> snapshot.Variables:
  """Returns the variables of `progan.Discriminator`; StyleGAN's is alike."""
  result = {'params': {}}
  for key, value in tensors.items():
    *path, last = key.split('/')
    if key == 'lod':
      continue
    if key == '4x4/Dense0/weight':
      value = outputs_to_hwc(value.T).T
    put(result['params'], path, last, value, name)
  return result


def outputs_to_hwc(kernel: np.ndarray) -> np.ndarray:
  """Dense weights [I, C * 4 * 4] to [I, 4 * 4 * C]."""
  inputs, outputs = kernel.shape
  kernel = kernel.reshape(inputs, outputs // 16, 4, 4)
  return kernel.transpose(0, 2, 3, 1).reshape(inputs, outputs)


def put(tree: dict[str, Any], path: list[str], last: str, value: np.ndarray,
        name: str) -> None:
  """Puts a weight or bias into a tree of parameters, under our name.

  Raises:
    UserError: a name that no layer has.
  """
  last = {'weight': 'kernel'}.get(last, last)
  if not path or not re.fullmatch(r'\w+', last):
    raise errors.UserError(
        f'{name} has {"/".join((*path, last))!r}, which no network of this '
        'kind has. Check the file and --format.')
  for key in path:
    tree = tree.setdefault(key, {})
  tree[last] = np.array(value, np.float32, order='C')


def _names_of_theano(tensors: Tensors, is_d: bool, resolution: int, name: str
                     ) -> Iterator[tuple[str, np.ndarray]]:
  """Yields TensorFlow's (name, array) of a list in Theano's order."""
  values = iter(tensors.values())
  blocks = [2**i for i in range(3, int(resolution).bit_length())]

  def conv(w):
    return w.transpose(2, 3, 1, 0)[::-1, ::-1]

  def rgb(w):
    return w[None, None]

  if is_d:
    layers = [('FromRGB_lod0', 2**0.5, rgb)]
    for i, r in enumerate(reversed(blocks), 1):
      layers += [(f'{r}x{r}/Conv0', 2**0.5, conv),
                 (f'{r}x{r}/Conv1', 2**0.5, conv),
                 (f'FromRGB_lod{i}', 2**0.5, rgb)]
    layers += [
        ('4x4/Conv', 2**0.5, conv),
        ('4x4/Dense0', 2**0.5,
         lambda w: w[:, :, ::-1, ::-1].reshape(len(w), -1).T),
        ('4x4/Dense1', 1.0, lambda w: w)]
  else:
    layers = [('4x4/Dense', 2**0.5 / 4,
               lambda w: w.transpose(1, 0, 2, 3).reshape(w.shape[1], -1)),
              ('4x4/Conv', 2**0.5, conv)]
    layers += [(f'{r}x{r}/{layer}', 2**0.5, conv)
               for r in blocks for layer in ('Conv0', 'Conv1')]
    layers += [(f'ToRGB_lod{i}', 1.0, rgb) for i in range(len(blocks) + 1)]
  try:
    for layer, gain, change in layers:
      weight = change(next(values))
      # The scale is that of training; ours is gain / sqrt(fan_in).
      weight = weight * next(values) * (
          np.sqrt(np.prod(weight.shape[:-1])) / gain)
      yield f'{layer}/weight', weight
      yield f'{layer}/bias', next(values)
  except (StopIteration, ValueError) as e:
    raise errors.UserError(
        f'{name} has {len(tensors)} arrays, which are not those of a ProGAN '
        f'of {resolution} pixels ({e or "too few"}). Check the file.') from e
