"""The BigGAN modules of TF-Hub: deepmind/biggan-128, -256 and -512, /2.

Variables by the names of these modules, such as `Generator/GBlock_1/conv0/w/
ema_b999900`, become the state dict of BigGAN-PyTorch, whose names
convert/biggan.py knows:

  conv0, conv1         conv1, conv2; [kh, kw, in, out] -> [out, in, kh, kw]
  HyperBN, HyperBN_1   bn1, bn2: gamma is gain, beta is bias
  G_Z/G_linear         outputs [4, 4, C] -> [C, 4, 4]
  linear/w             the shared embedding

u is not averaged: it is the live weights', as the vector to start from. The
inputs of HyperBN are (z, e(y)): model.order='z_first'. The statistics of batch
normalization are the accumulated ones as they stand, of latents that are not
truncated; that is how BigGAN-PyTorch's converter takes them.

BigGAN-deep (/1) has its statistics in the graph, and not among the variables:
it is read from pytorch-pretrained-BigGAN's files (convert/biggan.py).
"""

from collections.abc import Mapping

import numpy as np

from gans_jax.convert import biggan
from gans_jax.convert import snapshot as snapshot_lib
from gans_jax.convert import tensor_bundle
from gans_jax.core import archives
from gans_jax.core import errors

_AVERAGE = '/ema_b999900'
# The block that attention follows, by the number of blocks.
_ATTENTION = {5: 3, 6: 4, 7: 3}


def load(path: str) -> dict[str, np.ndarray]:
  """Returns variables by name.

  Args:
    path: directory of a module, its variables.index, or an .npz of the
      variables; names there may begin with 'module/' and end with ':0'.

  Raises:
    UserError: neither, or a damaged one.
  """
  if not path.endswith('.npz'):
    found = tensor_bundle.load(path)
  else:
    try:
      found = archives.read_npz(path)
    except (OSError, ValueError) as error:
      raise errors.UserError(
          f'{path} cannot be read as .npz ({error}). Expected the variables '
          'of a BigGAN of TF-Hub by name.') from error
  return {name.removeprefix('module/').removesuffix(':0'): x
          for name, x in found.items()}


def snapshot(variables: Mapping[str, np.ndarray]) -> snapshot_lib.Snapshot:
  """Returns what a workdir is made of.

  Args:
    variables: of `load`.

  Raises:
    UserError: of another module.
  """
  if any(name.startswith('Generator/GenZ/') for name in variables):
    raise errors.UserError(
        'These are the variables of BigGAN-deep (biggan-deep-.../1), which '
        'lack the statistics of batch normalization. Convert the files of '
        'pytorch-pretrained-BigGAN by --format=pretrained_biggan instead.')
  found = biggan.snapshot(state_dict(variables))
  found.settings.update({'model.order': 'z_first',
                         'model.spectral_norm': 'tfhub',
                         'model.bn_epsilon': 1e-4})
  return found


def state_dict(variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays of a generator by the names of BigGAN-PyTorch."""
  state = {}

  def get(name):
    if name not in variables:
      raise errors.UserError(
          f'The variables have no {name!r}, which a BigGAN of TF-Hub '
          '(biggan-128/2, -256/2, -512/2) has. Check the file and --format.')
    return np.asarray(variables[name])

  def put(key, name, bias=True):
    """A normalized layer."""
    weight = get(f'{name}/w{_AVERAGE}')
    state[f'{key}.weight'] = weight.transpose(
        (3, 2, 0, 1) if weight.ndim == 4 else (1, 0))
    state[f'{key}.u0'] = get(f'{name}/u0').reshape(1, -1)
    if bias:
      state[f'{key}.bias'] = get(f'{name}/b{_AVERAGE}').reshape(-1)

  def statistics(key, name):
    for ours in ('mean', 'var'):
      state[f'{key}.stored_{ours}'] = get(
          f'{name}/accumulated_{ours}').reshape(-1)

  state['shared.weight'] = get(f'linear/w{_AVERAGE}')
  put('linear', 'Generator/G_Z/G_linear')
  for part, axis in (('weight', 0), ('bias', 0), ('u0', 1)):
    x = np.moveaxis(state[f'linear.{part}'], axis, 0)
    x = x.reshape(16, -1, *x.shape[1:]).swapaxes(0, 1)
    state[f'linear.{part}'] = np.moveaxis(
        x.reshape(-1, *x.shape[2:]), 0, axis)

  blocks = sum(name.startswith('Generator/GBlock')
               and name.endswith(f'/conv0/w{_AVERAGE}') for name in variables)
  if blocks not in _ATTENTION:
    raise errors.UserError(
        f'The generator has {blocks} blocks; the BigGANs of TF-Hub have 5, 6 '
        'or 7. Check the file and --format.')
  for i in range(blocks):
    theirs = f'Generator/GBlock{f"_{i}" if i else ""}'
    for key, name in (('conv1', 'conv0'), ('conv2', 'conv1'),
                      ('conv_sc', 'conv_sc')):
      put(f'blocks.{i}.0.{key}', f'{theirs}/{name}')
    for key, suffix in (('bn1', ''), ('bn2', '_1')):
      for part, name in (('gain', 'gamma'), ('bias', 'beta')):
        put(f'blocks.{i}.0.{key}.{part}', f'{theirs}/HyperBN{suffix}/{name}',
            bias=False)
      statistics(f'blocks.{i}.0.{key}', f'{theirs}/CrossReplicaBN{suffix}')
  key = f'blocks.{_ATTENTION[blocks]}.1'
  for part in ('theta', 'phi', 'g', 'o'):
    put(f'{key}.{part}', 'Generator/attention/' + {'o': 'o_conv'}.get(
        part, part), bias=False)
  state[f'{key}.gamma'] = get(f'Generator/attention/gamma{_AVERAGE}')
  last = 'Generator/ScaledCrossReplicaBN'
  state['output_layer.0.gain'] = get(f'{last}/gamma{_AVERAGE}').reshape(-1)
  state['output_layer.0.bias'] = get(f'{last}/beta{_AVERAGE}').reshape(-1)
  statistics('output_layer.0', f'{last}bn')
  put('output_layer.2', 'Generator/conv_2d')
  return state
