"""Official weights of StyleGAN (TensorFlow).

Names and layouts are those of systems/stylegan.py, but for

  const                [1, C, 4, 4] -> [4, 4, C]
  4x4/Dense            (no constant input) outputs [C, 4, 4] -> [4, 4, C]
  Noise/weight         noise_weight
  noise{i}             [1, 1, r, r], two for each resolution, from 4x4 on
  Conv0_up             flipped where the file's network and ours do not fuse
                       upsampling at the same resolutions
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from gans_jax.convert import network_pickle
from gans_jax.convert import progan
from gans_jax.convert import snapshot
from gans_jax.core import errors
from gans_jax.systems import stylegan

# Arguments of the functions that our network has no key for.
_FIXED = {'use_wscale': True, 'normalize_latents': True, 'fmap_decay': 1.0,
          'nonlinearity': 'lrelu', 'mapping_nonlinearity': 'lrelu',
          'blur_filter': [1, 2, 1], 'mbstd_num_features': 1}


def from_pickle(networks: Mapping[str, network_pickle.Network],
                name: str) -> snapshot.Snapshot:
  """Converts a pickle of NVlabs/stylegan.

  Args:
    networks: what `network_pickle.load` read.
    name: what errors call the file.

  Raises:
    UserError: another network, or a kind of it that is not here.
  """
  g, d = networks['G_ema'], networks.get('D')
  if g.code != 'tensorflow' or not g.name.endswith('G_style'):
    raise errors.UserError(
        f'{name} holds {g.name or "a network without a name"}, and not '
        "StyleGAN's G_style. Check the file and --format.")
  network_pickle.check_arguments(networks, _FIXED, name)
  found = {key: progan.discriminator(network.tensors, name) if key == 'D' else
           generator(network.tensors, network.arguments, name)
           for key, network in networks.items()}
  arguments = g.arguments
  classes = arguments.get('label_size') or 0
  values: dict[str, Any] = {
      'data.resolution': arguments.get('resolution', 1024),
      'data.channels': arguments.get('num_channels', 3),
      'model.fmap_base': arguments.get('fmap_base', 8192),
      'model.fmap_max': arguments.get('fmap_max', 512),
      'model.z_dim': arguments.get('latent_size', 512),
      'model.w_dim': arguments.get('dlatent_size', 512),
      'model.mapping_layers': arguments.get('mapping_layers', 8),
      'model.mapping_lr': arguments.get('mapping_lrmul', 0.01),
      'model.styles': arguments.get('use_styles', True),
      'model.instance_norm': arguments.get('use_instance_norm', True),
      'model.pixel_norm': arguments.get('use_pixel_norm', False),
      'model.const_input': arguments.get('const_input_layer', True),
      'model.noise': bool(arguments.get('use_noise', True)),
      'model.mbstd_order': 'strided',
  }
  if not values['model.styles']:
    values['loss.style_mixing'] = 0.0
  if d is not None:
    values['model.mbstd_group'] = d.arguments.get('mbstd_group_size', 4)
  if classes:
    values |= {'model.conditional': True, 'data.labels': 'class'}
  ema = found.pop('G_ema')
  return snapshot.Snapshot('stylegan', values, {'G': ema, **found}, {'G': ema},
                           classes)


def generator(tensors: progan.Tensors, arguments: Mapping[str, Any],
              name: str) -> snapshot.Variables:
  """Returns the variables of `stylegan.Generator`.

  Args:
    tensors: by the names of the file.
    arguments: of its constructor.
    name: what errors call the file.
  """
  result = {'params': {}, 'moving': {'lod': np.float32(0)}}
  constant = arguments.get('const_input_layer', True)
  fused = arguments.get('fused_scale', 'auto')
  for key, value in tensors.items():
    *path, last = key.split('/')
    if last == 'dlatent_avg':
      result['moving']['w_avg'] = np.array(value, np.float32)
      continue
    if last == 'lod':
      result['moving']['lod'] = np.float32(value)
      continue
    if match := re.fullmatch(r'synthesis/noise(\d+)', key):
      i = int(match[1])
      r = 2**(i // 2 + 2)
      layers = ('Conv0_up', 'Conv1')
      if r == 4:
        layers = ('Const' if constant else 'Dense', 'Conv')
      block = result.setdefault('noise', {}).setdefault(f'{r}x{r}', {})
      block[layers[i % 2]] = {'noise_const': np.array(value[0, 0],
                                                      np.float32)}
      continue
    if last == 'const':
      value = value[0].transpose(1, 2, 0)
    elif key == 'synthesis/4x4/Dense/weight':
      value = progan.outputs_to_hwc(value)
    elif path[-1:] == ['Noise']:
      path, last = path[:-1], 'noise_weight'
    elif path[-1:] == ['Conv0_up'] and last == 'weight':
      r = int(path[-2].partition('x')[0])
      ours = r >= stylegan.FUSED_FROM
      if ours != (ours if fused == 'auto' else bool(fused)):
        value = value[::-1, ::-1]
    progan.put(result['params'], path, last, value, name)
  return result
