"""Published checkpoints of google-research/maskgit.

Each is one file of Flax's msgpack: {'params': tree of arrays}, read as data.

  tokenizer    encoder, decoder, quantizer: `systems/vqgan.py`,
               model.nets='maskgit'
  transformer  Embed_0, TransformerLayer_0.., MlmLayer_0: `systems/maskgit.py`
"""

from collections.abc import Mapping
import os
import re
from typing import Any

import numpy as np

from gans_jax.convert import snapshot
from gans_jax.core import errors

Tree = Mapping[str, Any]
Variables = dict[str, Any]

CLASSES = 1000


def load(path: str | os.PathLike) -> Tree:
  """Returns the parameters of a checkpoint, NumPy arrays.

  Raises:
    UserError: missing, damaged or another file.
  """
  import flax.serialization

  name = os.fspath(path)
  try:
    with open(path, 'rb') as file:
      found = flax.serialization.msgpack_restore(file.read())
  except OSError as e:
    raise errors.UserError(
        f'{name} cannot be read: {e.strerror or e}. Expected a checkpoint of '
        'MaskGIT; check the path.') from e
  except Exception as e:  # Damaged files raise nearly every type there is.
    raise errors.UserError(
        f'{name} is no checkpoint of Flax ({type(e).__name__}: {e}). Fetch it '
        'again.') from e
  params = found.get('params') if isinstance(found, Mapping) else None
  if not isinstance(params, Mapping) or not (
      {'encoder', 'decoder', 'quantizer'} <= set(params)
      or 'Embed_0' in params):
    raise errors.UserError(
        f"{name} is not of MaskGIT: expected 'params' with encoder, decoder "
        'and quantizer, or with Embed_0.')
  return params


def read(tokenizer: str, transformer_path: str | None = None
         ) -> dict[str, snapshot.Snapshot]:
  """Reads one or both files of a release.

  Args:
    tokenizer: file of the tokenizer.
    transformer_path: file of the Transformer.

  Returns:
    {'': tokenizer}, or {'tokenizer': ..., 'transformer': ...}.

  Raises:
    UserError: files that are missing, damaged or of other networks.
  """
  with snapshot.reading(' or '.join(filter(None, (
      tokenizer, transformer_path)))):
    return _read(tokenizer, transformer_path)


def _read(tokenizer: str, transformer_path: str | None
          ) -> dict[str, snapshot.Snapshot]:
  params = load(tokenizer)
  if 'encoder' not in params:
    raise errors.UserError(
        f'{tokenizer} is the Transformer. Give the tokenizer as --checkpoint, '
        'and this file as --transformer.')
  layers = None
  if transformer_path:
    layers = load(transformer_path)
    if 'Embed_0' not in layers:
      raise errors.UserError(
          f'{transformer_path} is a tokenizer; --transformer expects the '
          'other file.')
  codes, dim = np.shape(params['quantizer']['codebook'])
  grid = 16
  if layers is not None:
    positions = np.shape(
        layers['Embed_0']['position_embeddings']['embedding'])[0]
    grid = round((positions - 1)**0.5)
  shared = {'data.resolution': 16 * grid, 'data.channels': 3}
  first = snapshot.Snapshot('vqgan', {
      **shared, 'model.nets': 'maskgit', 'model.codebook_size': int(codes),
      'model.embed_dim': int(dim), 'loss.legacy_beta': False,
      'loss.entropy_weight': 0.1,
      'model.ch': int(np.shape(params['encoder']['Conv_0']['kernel'])[3]),
  }, {'AE': autoencoder(params)})
  if layers is None:
    return {'': first}
  heads, size = np.shape(layers['TransformerLayer_0']['Attention_0'][
      'self_attention']['query']['kernel'])[1:]
  hidden = np.shape(layers['TransformerLayer_0']['Mlp_0'][
      'intermediate_output']['kernel'])[1]
  second = snapshot.Snapshot('maskgit', {
      **shared, 'model.layers': sum(key.startswith('TransformerLayer_')
                                    for key in layers),
      'model.heads': int(heads), 'model.width': int(heads * size),
      'model.hidden': int(hidden),
  }, {'T': transformer(layers)}, num_classes=CLASSES)
  return {'tokenizer': first, 'transformer': second}


def autoencoder(params: Tree, blocks: int = 2) -> Variables:
  """Returns the variables of `vqgan.Autoencoder(nets='maskgit')`.

  Args:
    params: of the tokenizer.
    blocks: residual blocks on each level.
  """
  found = {'quantize': {'codes': _array(params['quantizer']['codebook'])}}
  for net in ('encoder', 'decoder'):
    theirs, ours = params[net], {}
    levels = sum(key.startswith('ResBlock_') for key in theirs) // blocks - 1
    for key, value in theirs.items():
      kind, _, number = key.partition('_')
      number = int(number)
      if kind == 'ResBlock':
        stage, j = divmod(number, blocks)
        if net == 'encoder':
          name = 'mid' if stage == levels else f'down_{stage}'
        else:
          name = 'mid' if stage == 0 else f'up_{levels - stage}'
        ours[f'{name}_block_{j}'] = {
            _RES[part]: _leaves(value[part]) for part in value}
      elif kind == 'GroupNorm':
        ours['norm_out'] = _leaves(value)
      else:
        last = max(int(k.partition('_')[2]) for k in theirs
                   if k.startswith('Conv_'))
        name = ('conv_in' if number == 0 else 'conv_out' if number == last
                else f'up_{levels - number}_conv')
        ours[name] = _leaves(value)
    found[net] = ours
  return {'params': found}


_RES = {'GroupNorm_0': 'norm1', 'Conv_0': 'conv1', 'GroupNorm_1': 'norm2',
        'Conv_1': 'conv2', 'Conv_2': 'shortcut'}


def transformer(params: Tree) -> Variables:
  """Returns the variables of `masked_transformer.MaskedTransformer`."""
  embed, mlm = params['Embed_0'], params['MlmLayer_0']
  numbers = sorted(int(re.sub(r'\D', '', key)) for key in params
                   if key.startswith('TransformerLayer_'))
  layers = [_layer(params[f'TransformerLayer_{i}']) for i in numbers]
  return {'params': {
      'word_embeddings': _leaves(embed['word_embeddings']),
      'position_embeddings': _leaves(embed['position_embeddings']),
      'embeddings_ln': _leaves(embed['embeddings_ln']),
      'layers': _stack(layers),
      'mlm_dense': _leaves(mlm['mlm_dense']),
      'mlm_ln': _leaves(mlm['mlm_ln']),
      'mlm_bias': _array(mlm['mlm_bias']['bias']),
  }}


def _layer(params: Tree) -> dict[str, Any]:
  attention, mlp = params['Attention_0'], params['Mlp_0']
  heads = attention['self_attention']
  width = np.shape(heads['query']['kernel'])[0]
  ours = {name: {'kernel': _array(heads[name]['kernel']).reshape(width, -1),
                 'bias': _array(heads[name]['bias']).reshape(-1)}
          for name in ('query', 'key', 'value')}
  ours['proj'] = {
      'kernel': _array(heads['out']['kernel']).reshape(-1, width),
      'bias': _array(heads['out']['bias'])}
  return {'attention': ours,
          'attention_ln': _leaves(attention['attention_output_ln']),
          'mlp_in': _leaves(mlp['intermediate_output']),
          'mlp_out': _leaves(mlp['layer_output']),
          'mlp_ln': _leaves(mlp['layer_output_ln'])}


def _leaves(tree: Tree) -> dict[str, np.ndarray]:
  return {key: _array(value) for key, value in tree.items()}


def _stack(trees: list[dict[str, Any]]) -> dict[str, Any]:
  return {key: _stack([tree[key] for tree in trees])
          if isinstance(value, dict) else np.stack([t[key] for t in trees])
          for key, value in trees[0].items()}


def _array(value) -> np.ndarray:
  return np.array(value, np.float32)
