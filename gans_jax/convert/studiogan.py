"""Checkpoints of PyTorch-StudioGAN: SNGAN, SAGAN, BigGAN, BigGAN-deep.

Files are model=G-..., G_ema-..., D-best-weights-step=N.pth, of the backbones
resnet (SNGAN and SAGAN), big_resnet and big_resnet_deep_legacy; that of
big_resnet_deep_studiogan is another network.

Its SNGAN has the "wide" discriminator of SAGAN, so both become systems/
sagan.py, SNGAN with model.attention='none' and model.spectral_G=False.

Names: conv2d0 is the shortcut, conv2d1, conv2d2, ... the layers in order; a
block of attention is an entry of `blocks` of its own, `conv1x1_attn` its last
layer and `sigma` its gamma. Layouts are BigGAN-PyTorch's (convert/biggan.py);
u and v are both kept.

Two things that SAGAN here has not are folded into numbers, and come out the
same in sampling: the tables of conditional batch normalization, which are
spectrally normalized there, are divided by their singular value; and variances
are raised by what the epsilon there (1e-4) is larger. A training that goes on
goes on with normalization as it is here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gans_jax.convert import biggan as biggan_convert
from gans_jax.convert import snapshot as snapshot_lib
from gans_jax.core import errors
from gans_jax.nn import norm
from gans_jax.systems import sngan

State = biggan_convert.State
Variables = biggan_convert.Variables

_EPSILON = 1e-4
_IGNORED = r'.*\.num_batches_tracked'
_PARTS = {'theta': 'theta', 'phi': 'phi', 'g': 'g', 'o': 'attn'}


def state_dict(checkpoint: Any, name: str) -> State:
  """Returns the weights in what a file of StudioGAN holds.

  Args:
    checkpoint: of `torch_file.load`.
    name: what errors call the file.

  Raises:
    UserError: another file.
  """
  state = checkpoint.get('state_dict') if isinstance(
      checkpoint, Mapping) else None
  if not isinstance(state, Mapping):
    raise errors.UserError(
        f'{name} is no checkpoint of PyTorch-StudioGAN: expected a dictionary '
        "with the weights as 'state_dict'. Check the file and --format.")
  return state


def snapshot(g_state: State, d_state: State | None = None,
             ema_state: State | None = None) -> snapshot_lib.Snapshot:
  """Returns what a workdir is made of.

  Args:
    g_state: of G (or G_ema).
    d_state: of D, if there is one.
    ema_state: of G_ema, where `g_state` is not.

  Raises:
    UserError: networks that are not here, or not of each other.
  """
  variables = generator(g_state)
  nets, ema = {'G': variables}, biggan_convert.ema_of(generator, ema_state)
  if d_state is not None:
    nets['D'] = discriminator(d_state)
  if 'shared.weight' in g_state:
    values, classes = _biggan(g_state, nets)
    return snapshot_lib.Snapshot('biggan', values, nets, ema, classes)
  values, classes = _sagan(nets)
  return snapshot_lib.Snapshot('sagan', values, nets, ema, classes)


def generator(state: State) -> Variables:
  """Returns the variables of G.

  Args:
    state: its state dict.

  Raises:
    UserError: another network.
  """
  out = biggan_convert.Writer(state, "a generator of StudioGAN's")
  kinds = _kinds(state)
  big, deep = 'shared.weight' in out, _is_deep(state)
  if deep and not big or 'blocks.0.0.deconv0.weight' in out:
    raise errors.UserError(
        'The generator is of a backbone that is not read. Those of resnet, '
        'big_resnet and big_resnet_deep_legacy are.')
  if deep and 'blocks.0.0.conv2d0.weight_orig' in out:
    raise errors.UserError(
        'The generator is of the backbone big_resnet_deep_studiogan, which '
        'has other blocks than BigGAN-deep. Those of big_resnet_deep_legacy '
        'are read.')
  if big:
    out.table('shared', 'shared')
  elif _gain(out) == _linear(state).shape[1]:
    raise errors.UserError(
        "The generator is a BigGAN without classes (or a SAGAN with as many "
        'classes as z has components): the system biggan is conditional.')
  stem = _linear(state).shape[0] // 16
  out.layer('dense', 'linear0',
            np.arange(16 * stem).reshape(stem, 16).T.reshape(-1))
  block = 0
  for i, kind in enumerate(kinds):
    key = f'blocks.{i}.0'
    if kind == 'attention':
      # After the block that ended at the size before.
      last = block // 2 - 1 if deep else block - 1
      _attention(out, f'attention_{8 << last}', key)
      continue
    path = f'up_{8 << (block // 2 if deep else block)}'
    path += f'_{"ab"[block % 2]}' if deep else ''
    for k in range(1, 5 if deep else 3):
      out.layer(f'{path}/conv{k}', f'{key}.conv2d{k}')
      _norm(out, f'{path}/bn{k}', f'{key}.bn{k}', big)
    if not deep:
      out.layer(f'{path}/conv_sc', f'{key}.conv2d0')
    block += 1
  _norm(out, 'bn_out', 'bn4', big)
  out.layer('conv_out', 'conv2d5')
  return out.result(_IGNORED)


def discriminator(state: State) -> Variables:
  """Returns the variables of D, see `generator`."""
  out = biggan_convert.Writer(
      state, "a discriminator of StudioGAN's with projection (d_cond_mtd PD) "
      'or without classes')
  kinds, deep = _kinds(state), _is_deep(state)
  if deep:
    out.layer('conv_in', 'input_conv')
  blocks = kinds.count('block') // (2 if deep else 1)
  # As of convert/biggan.py: all but the last halve the size (deep: all).
  resolution = 2 ** (blocks + (2 if deep else 1))
  block = 0
  for i, kind in enumerate(kinds):
    key = f'blocks.{i}.0'
    if kind == 'attention':
      _attention(out, f'attention_{resolution >> (block // (1 + deep))}', key)
      continue
    path = (f'block_{block // 2}_{"ab"[block % 2]}' if deep else
            f'block_{block}')
    for k in range(1, 5 if deep else 3):
      out.layer(f'{path}/conv{k}', f'{key}.conv2d{k}')
    if f'{key}.conv2d0.weight_orig' in out:
      out.layer(f'{path}/conv_sc', f'{key}.conv2d0')
    block += 1
  out.layer('dense', 'linear1')
  if 'embedding.weight_orig' in out:
    out.table('embed', 'embedding')
  return out.result(_IGNORED)


def _kinds(state: State) -> list[str]:
  """Returns 'block' or 'attention' for each entry of `blocks`."""
  numbers = {int(key.split('.')[1]) for key in state
             if key.startswith('blocks.')}
  if not numbers or numbers != set(range(len(numbers))):
    raise errors.UserError(
        'The checkpoint has no blocks.0, blocks.1, ..., which a network of '
        "StudioGAN's resnet, big_resnet or big_resnet_deep_legacy has. Check "
        'the file and the format.')
  return ['attention' if f'blocks.{i}.0.sigma' in state else 'block'
          for i in sorted(numbers)]


def _is_deep(state: State) -> bool:
  return any(f'blocks.0.0.conv2d4.{name}' in state
             for name in ('weight', 'weight_orig'))


def _linear(state: State) -> np.ndarray:
  """Returns the weight of the first layer [out, in]."""
  for name in ('weight_orig', 'weight'):
    if f'linear0.{name}' in state:
      return state[f'linear0.{name}']
  raise errors.UserError(
      "The checkpoint has no 'linear0', the first layer of a generator of "
      "StudioGAN's. Were the files of G and D exchanged?")


def _gain(out: biggan_convert.Writer) -> int:
  """Returns the inputs of the first normalization's gain; 0 without."""
  for name in ('weight_orig', 'weight'):
    if f'blocks.0.0.bn1.gain.{name}' in out:
      return out.get(f'blocks.0.0.bn1.gain.{name}').shape[1]
  return 0


def _attention(out: biggan_convert.Writer, path: str, key: str) -> None:
  out.attention(path, {ours: f'{key}.conv1x1_{theirs}'
                       for ours, theirs in _PARTS.items()},
                out.get(f'{key}.sigma'))


def _norm(out: biggan_convert.Writer, path: str, key: str, big: bool) -> None:
  """Puts a batch normalization: BigGAN's, of classes, or of neither."""
  plain = f'{key}.running_var' in out
  statistics = key if plain else f'{key}.bn'
  # Bias and gain of BigGAN's are layers; its epsilon is a key of the config.
  more = 0.0 if big else _EPSILON - norm.BatchNorm.epsilon
  out.put('batch_stats', f'{path}/norm',
          mean=out.get(f'{statistics}.running_mean'),
          var=out.get(f'{statistics}.running_var') + np.float32(more))
  if plain:
    out.put('params', f'{path}/norm', scale=out.get(f'{key}.weight'),
            bias=out.get(f'{key}.bias'))
  elif big:
    for name in ('gain', 'bias'):
      out.layer(f'{path}/{name}', f'{key}.{name}')
  else:
    out.put('params', path, scale=1.0 + _table(out, f'{key}.gain'),
            bias=_table(out, f'{key}.bias'))


def _table(out: biggan_convert.Writer, key: str) -> np.ndarray:
  """Returns [classes, channels] of a layer on one-hot labels, normalized."""
  if f'{key}.weight' in out:
    return out.get(f'{key}.weight').T
  weight = out.get(f'{key}.weight_orig')
  u, v = out.get(f'{key}.weight_u'), out.get(f'{key}.weight_v')
  return weight.T / (u @ weight @ v)


def _biggan(g_state: State, nets: Mapping[str, Variables]):
  """Returns (settings, classes) of a BigGAN."""
  deep = _is_deep(g_state)
  classes, shared_dim = g_state['shared.weight'].shape
  values = biggan_convert.of_generator(nets['G'], deep)
  inputs = _linear(g_state).shape[1]
  chunks = len(biggan_convert.widths(nets['G'], 'up', deep)) + 1
  values |= {
      'model.shared': True,
      'model.hierarchical': True,
      'model.shared_dim': shared_dim,
      'model.z_dim': inputs - shared_dim if deep else inputs * chunks,
      'model.order': 'class_first',
      'model.spectral_norm': 'biggan_pytorch',
      'model.bn_epsilon': _EPSILON,
  }
  if 'D' in nets:
    values |= biggan_convert.of_discriminator(nets['D'], deep, values)
  return values, classes


def _sagan(nets: Mapping[str, Variables]):
  """Returns (settings, classes) of a SNGAN or SAGAN."""
  params = nets['G']['params']
  g = biggan_convert.widths(nets['G'], 'up', False)
  resolution = 4 << len(g)
  unit = sngan.plan('sagan', resolution, 1, 1, 'studiogan')
  inputs, outputs = params['dense']['kernel'].shape
  ch = outputs // 16 // unit.stem
  if g != [ch * n for n in unit.g]:
    raise errors.UserError(
        f'The generator for {resolution} pixels has blocks of '
        f'{", ".join(map(str, g))} channels; no SNGAN and no SAGAN has such '
        'widths. Check the file and the format.')
  classes = params['up_8']['bn1'].get('bias', np.zeros([0, 0])).shape[0]
  attention = biggan_convert.attention_text(nets['G'])
  values = {
      'data.resolution': resolution,
      'data.channels': params['conv_out']['kernel'].shape[-1],
      'data.labels': 'class' if classes else 'none',
      'model.conditioning': 'projection' if classes else 'none',
      'model.layout': 'studiogan',
      'model.attention': attention,
      'model.spectral_G': 'spectral' in nets['G'],
      'model.spectral_norm': 'biggan_pytorch',  # an epsilon of 1e-6
      'model.z_dim': inputs,
      'model.ch_G': ch,
      'model.ch_D': ch,
  }
  if 'D' in nets:
    d = biggan_convert.widths(nets['D'], 'block', False)
    if d != [d[-1] // unit.d[-1] * n for n in unit.d]:
      raise errors.UserError(
          f'The discriminator has blocks of {", ".join(map(str, d)) or "no"} '
          f'channels, which is not that of a generator for {resolution} '
          'pixels. Check that both files are of one run.')
    values['model.ch_D'] = d[-1] // unit.d[-1]
    theirs = biggan_convert.attention_text(nets['D'])
    if theirs != attention:
      raise errors.UserError(
          f'The generator attends at {attention}, the discriminator at '
          f'{theirs}: the system sagan has one place for both. Leave out '
          '--discriminator.')
  return values, classes
