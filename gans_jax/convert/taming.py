"""Checkpoints of CompVis/taming-transformers: VQGAN and its Transformer.

A release is two files: a .ckpt of PyTorch Lightning and the .yaml beside it.
The .ckpt is a dict whose `state_dict` has the weights; the rest (optimizers,
callbacks) is ignored, and nothing of it is executed.

  VQModel, GumbelVQ: encoder.*, decoder.*, quantize.*, quant_conv.*,
    post_quant_conv.*, and often loss.discriminator.*.
  Net2NetTransformer: transformer.*, first_stage_model.* and
    cond_stage_model.*, which are VQModels.

Latent diffusion's autoencoders with a codebook (VQModelInterface) are the
same files.
"""

from collections.abc import Mapping
import glob
import os
import re
from typing import Any

import numpy as np

from gans_jax.convert import snapshot
from gans_jax.convert import torch_file
from gans_jax.core import errors

State = Mapping[str, np.ndarray]
Variables = dict[str, Any]

# Beginnings of the keys of the autoencoder.
_AUTOENCODER = ('encoder.', 'decoder.', 'quantize.', 'quant_conv.',
                'post_quant_conv.')
_DISCRIMINATOR = 'loss.discriminator.main.'
_PREFIXES = {'tokenizer': 'first_stage_model.',
             'cond_tokenizer': 'cond_stage_model.'}
_LEVEL = re.compile(r'^(encoder|decoder)\.(down|up|mid)\.(.+)$')


# --- Files --------------------------------------------------------------------


def load_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns the weights of a .ckpt by their keys.

  Raises:
    UserError: not a checkpoint of PyTorch Lightning, or damaged.
  """
  value = torch_file.load(path, ignore_others=True)
  state = value.get('state_dict', value) if isinstance(value, dict) else None
  state = {key: array for key, array in (state or {}).items()
           if isinstance(array, np.ndarray)}
  if not state:
    raise errors.UserError(
        f'{os.fspath(path)} holds no weights; expected the .ckpt of a VQGAN '
        "or Transformer of taming-transformers, a dict with a 'state_dict'. "
        'Check the path.')
  return state


def find_yaml(checkpoint: str | os.PathLike) -> str:
  """Returns the .yaml that belongs to a .ckpt, by its place.

  Of the same name, or model.yaml in the same folder, or the newest
  configs/*-project.yaml of a run whose checkpoints/ the file is in.

  Raises:
    UserError: there is none.
  """
  name = os.fspath(checkpoint)
  folder = os.path.dirname(os.path.abspath(name))
  found = [os.path.splitext(name)[0] + '.yaml',
           os.path.join(folder, 'model.yaml'),
           *sorted(glob.glob(os.path.join(os.path.dirname(folder), 'configs',
                                          '*-project.yaml')), reverse=True)]
  for path in found:
    if os.path.isfile(path):
      return path
  raise errors.UserError(
      f'There is no .yaml beside {name} (looked for {found[0]}, {found[1]} and '
      '../configs/*-project.yaml). Name it with --yaml=FILE: the sizes of the '
      'networks are there.')


def load_yaml(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the `model` of a .yaml: {'target': ..., 'params': {...}}.

  Raises:
    UserError: missing, not YAML, or without a model.
  """
  import yaml

  class Loader(yaml.SafeLoader):
    """Without references, which can stand for billions of values."""

    def compose_node(self, parent, index):
      if self.check_event(yaml.AliasEvent):
        raise yaml.YAMLError('it has references (*name)')
      return super().compose_node(parent, index)

  name = os.fspath(path)
  try:
    with open(path, encoding='utf-8') as file:
      found = yaml.load(file, Loader)
  except OSError as e:
    raise errors.UserError(
        f'{name} cannot be read: {e.strerror or e}. Expected the .yaml beside '
        'the .ckpt; check the path.') from e
  except Exception as e:  # Dates and numbers raise what Python's do.
    raise errors.UserError(
        f'{name} is no YAML of plain values ({" ".join(str(e).split())}). '
        'Fetch it again.') from e
  model = found.get('model') if isinstance(found, dict) else None
  if not isinstance(model, dict) or not isinstance(
      model.get('params'), dict):
    raise errors.UserError(
        f"{name} has no 'model' with 'params'; expected the .yaml beside a "
        '.ckpt of taming-transformers (configs/*-project.yaml or model.yaml).')
  return model


def snapshots(checkpoint: str | os.PathLike, path: str | None = None
              ) -> dict[str, snapshot.Snapshot]:
  """Reads a release.

  Args:
    checkpoint: the .ckpt.
    path: the .yaml; by default the one beside it.

  Returns:
    {'': VQGAN}; or {'tokenizer': VQGAN, 'cond_tokenizer': VQGAN (where the
    condition has one), 'transformer': Transformer}, whose config's
    data.tokenizer and data.cond_tokenizer are still to be set.

  Raises:
    UserError: files that are missing, damaged or of other networks.
  """
  path = path or find_yaml(checkpoint)
  with snapshot.reading(f'{checkpoint} or {path}'):
    return _snapshots(load_yaml(path), load_state(checkpoint), path)


def _snapshots(model: Mapping[str, Any], state: State, path: str
               ) -> dict[str, snapshot.Snapshot]:
  if 'transformer_config' not in model['params']:
    return {'': _vqgan(model, state, path, 'image')}
  params = model['params']
  settings = transformer_settings(model, path)
  found = {'tokenizer': _vqgan(params['first_stage_config'],
                               stage(state, 'tokenizer'), path, 'image')}
  classes = 0
  if settings['model.condition'] == 'tokens':
    key = params.get('cond_stage_key', 'depth')
    found['cond_tokenizer'] = _vqgan(
        params['cond_stage_config'], stage(state, 'cond_tokenizer'), path, key)
  settings |= {name: found['tokenizer'].settings[name] for name in (
      'data.resolution', 'data.channels')}
  if settings['model.condition'] == 'class':
    classes = params['cond_stage_config']['params']['n_classes']
  extra = found['cond_tokenizer'].extra if 'cond_tokenizer' in found else ()
  found['transformer'] = snapshot.Snapshot(
      'token_transformer', settings, {'T': transformer(state)},
      num_classes=classes, extra=extra)
  return found


def _vqgan(model: Mapping[str, Any], state: State, path: str,
           key: str) -> snapshot.Snapshot:
  settings = vqgan_settings(model, path)
  size = (settings['data.resolution'],) * 2
  extra: tuple[Any, ...] = ()
  if 'model.key' in settings:
    extra = ((settings['model.key'], size, 'int32'),)
  elif key != 'image':
    # Such as depth: another picture of the same example.
    settings['model.key'] = key
    extra = ((key, (*size, settings.pop('data.channels')), 'uint8'),)
  nets = {'AE': autoencoder(state)}
  critic = discriminator(state)
  if critic and settings.get('loss.adversarial') != 'none':
    nets['D'] = critic
    settings['model.ndf'] = critic['params']['conv_0']['kernel'].shape[-1]
  return snapshot.Snapshot('vqgan', settings, nets, extra=extra)


# --- VQGAN --------------------------------------------------------------------


def vqgan_settings(model: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns {dotted config key: value} of `systems/vqgan.py`.

  Args:
    model: the `model` (or first stage) of a .yaml.
    name: what errors call it.

  Raises:
    UserError: a key is missing, or asks for what is not supported.
  """
  params = model['params']
  try:
    layers = params['ddconfig']
    settings = {
        'data.resolution': layers['resolution'],
        'model.ch': layers['ch'],
        'model.ch_mult': tuple(layers['ch_mult']),
        'model.num_res_blocks': layers['num_res_blocks'],
        'model.attn_resolutions': tuple(layers['attn_resolutions']),
        'model.z_channels': layers['z_channels'],
        'model.codebook_size': params['n_embed'],
        'model.embed_dim': params['embed_dim'],
    }
  except (KeyError, TypeError) as e:
    raise errors.UserError(
        f'{name} lacks the key {e} of a VQGAN (ddconfig, n_embed, '
        'embed_dim). Give the .yaml beside the .ckpt.') from e
  if layers.get('double_z'):
    raise errors.UserError(
        f'{name} has double_z: it is the autoencoder of a normal '
        'distribution (AutoencoderKL), which has no codebook.')
  channels = layers['in_channels']
  if params.get('remap'):
    raise errors.UserError(
        f'{name} remaps its codes by {params["remap"]}, which is not '
        'supported: convert the model without remap.')
  if str(model.get('target', '')).endswith('GumbelVQ'):
    settings['model.quantizer'] = 'gumbel'
  if channels > 3:
    settings |= {'model.key': 'label_map', 'model.num_labels': channels,
                 'loss.adversarial': 'none', 'loss.perceptual': 'none'}
  else:
    settings['data.channels'] = channels
  loss = (params.get('lossconfig') or {}).get('params') or {}
  for key, ours in (('disc_start', 'disc_start'),
                    ('disc_weight', 'disc_weight'),
                    ('codebook_weight', 'codebook_weight'),
                    ('perceptual_weight', 'perceptual_weight')):
    if key in loss:
      settings[f'loss.{ours}'] = loss[key]
  if 'disc_num_layers' in loss:
    settings['model.n_layers'] = loss['disc_num_layers']
  return settings


def autoencoder(state: State) -> Variables:
  """Returns the variables of `vqgan.Autoencoder`.

  Args:
    state: with keys that start by 'encoder.' and so on; others are ignored.
  """
  params: dict[str, Any] = {}
  for key, value in state.items():
    if key.startswith(_AUTOENCODER):
      _put(params, our_path(key), value)
  return {'params': params}


def discriminator(state: State) -> Variables | None:
  """Returns the variables of `patchgan.Discriminator`; None if absent."""
  modules: dict[int, dict[str, np.ndarray]] = {}
  for key, value in state.items():
    if key.startswith(_DISCRIMINATOR):
      index, leaf = key.removeprefix(_DISCRIMINATOR).split('.')
      modules.setdefault(int(index), {})[leaf] = value
  if not modules:
    return None
  variables = {'params': {}, 'batch_stats': {}}
  convolutions = [i for i in sorted(modules)
                  if modules[i]['weight'].ndim == 4]
  for n, i in enumerate(convolutions):
    name = 'conv_out' if i == convolutions[-1] else f'conv_{n}'
    layer = {'kernel': _kernel(modules[i]['weight'])}
    if 'bias' in modules[i]:
      layer['bias'] = _array(modules[i]['bias'])
    variables['params'][name] = layer
    bn = modules.get(i + 1, {})
    if 'running_mean' in bn:
      variables['params'][f'norm_{n}'] = {
          'scale': _array(bn['weight']), 'bias': _array(bn['bias'])}
      variables['batch_stats'][f'norm_{n}'] = {
          'mean': _array(bn['running_mean']),
          'var': _array(bn['running_var'])}
  return variables


def our_path(key: str) -> tuple[str, ...]:
  """Our names for the key of a weight of the autoencoder."""
  if key in ('quantize.embedding.weight', 'quantize.embed.weight'):
    return 'quantize', 'codes'
  match = _LEVEL.match(key)
  if not match:
    return tuple(key.split('.'))
  net, part, rest = match.groups()
  words = rest.split('.')
  # down.0.block.1.norm1.weight, up.1.upsample.conv.weight, mid.attn_1.q.bias.
  size = 1 if part == 'mid' else 3 if words[1] in ('block', 'attn') else 2
  return net, '_'.join([part, *words[:size]]), *words[size:]


def _put(params: dict[str, Any], path: tuple[str, ...], value) -> None:
  *modules, leaf = path
  for module in modules:
    params = params.setdefault(module, {})
  value = np.asarray(value)
  if leaf == 'weight':
    leaf = 'kernel' if value.ndim == 4 else 'scale'
  params[leaf] = _kernel(value) if value.ndim == 4 else _array(value)


def _kernel(weight: np.ndarray) -> np.ndarray:
  """torch [O, I, kh, kw] -> [kh, kw, I, O]."""
  return np.ascontiguousarray(np.transpose(weight, (2, 3, 1, 0)), np.float32)


def _array(value) -> np.ndarray:
  return np.array(value, np.float32)


# --- Transformer --------------------------------------------------------------


def stage(state: State, which: str) -> dict[str, np.ndarray]:
  """Returns the weights of a Transformer's 'tokenizer' or 'cond_tokenizer'."""
  prefix = _PREFIXES[which]
  return {key.removeprefix(prefix): value for key, value in state.items()
          if key.startswith(prefix)}


def transformer(state: State) -> Variables:
  """Returns the variables of `transformer.GPT`.

  Args:
    state: of a Net2NetTransformer, keys 'transformer.*', or of a GPT alone.

  Raises:
    UserError: keys of another network.
  """
  if any(key.startswith('transformer.') for key in state):
    state = {key.removeprefix('transformer.'): value
             for key, value in state.items() if key.startswith('transformer.')}
  params: dict[str, Any] = {}
  blocks: dict[int, dict[str, Any]] = {}
  for key, value in state.items():
    if key.endswith('.attn.mask'):
      continue
    words = key.split('.')
    target = params
    if words[0] == 'blocks':
      target = blocks.setdefault(int(words[1]), {})
      words = words[2:]
    *modules, leaf = ['_'.join(words[:2]), *words[2:]] if (
        words[0] == 'mlp') else words
    for module in modules:
      target = target.setdefault(module, {})
    value = _array(value)
    if leaf == 'weight' and value.ndim == 2:
      # torch [O, I] -> [I, O]; an embedding stays as it is.
      if modules == ['tok_emb']:
        leaf = 'embedding'
      else:
        leaf, value = 'kernel', np.ascontiguousarray(value.T)
    elif leaf == 'weight':
      leaf = 'scale'
    target[leaf] = value
  if not blocks or 'tok_emb' not in params:
    raise errors.UserError(
        'The checkpoint has no Transformer: expected keys '
        "'transformer.tok_emb.weight' and 'transformer.blocks.0...', found "
        f'{", ".join(list(state)[:3]) or "none of them"}.')
  params['pos_emb'] = params['pos_emb'][0]
  params['blocks'] = _stack([blocks[i] for i in sorted(blocks)])
  return {'params': params}


def _stack(trees: list[dict[str, Any]]) -> dict[str, Any]:
  return {key: _stack([tree[key] for tree in trees])
          if isinstance(value, dict) else np.stack([t[key] for t in trees])
          for key, value in trees[0].items()}


def transformer_settings(model: Mapping[str, Any], name: str
                         ) -> dict[str, Any]:
  """Returns {dotted config key: value} of `systems/token_transformer.py`.

  Args:
    model: the `model` of a .yaml.
    name: what errors call it.

  Raises:
    UserError: a key is missing, or asks for what is not supported.
  """
  params = model['params']
  try:
    net = params['transformer_config']['params']
    settings = {'model.layers': net['n_layer'], 'model.heads': net['n_head'],
                'model.width': net['n_embd']}
  except (KeyError, TypeError) as e:
    raise errors.UserError(
        f'{name} lacks the key {e} of a Transformer (transformer_config). '
        'Give the .yaml beside the .ckpt.') from e
  permuter = (params.get('permuter_config') or {}).get('target', 'Identity')
  if not permuter.endswith('.Identity') and permuter != 'Identity':
    raise errors.UserError(
        f'{name} orders its tokens by {permuter}; only the row-major order '
        'is supported.')
  condition = str((params.get('cond_stage_config') or {}).get('target', ''))
  condition = condition.rpartition('.')[2]
  kinds = {'SOSProvider': 'none', 'Labelator': 'class', 'VQModel': 'tokens',
           'VQSegmentationModel': 'tokens', '__is_unconditional__': 'none'}
  if condition not in kinds:
    raise errors.UserError(
        f'{name} is conditioned by {condition or "nothing"}; supported are '
        f'{", ".join(kinds)}.')
  settings['model.condition'] = kinds[condition]
  settings['model.vocabulary'] = net['vocab_size']
  settings['model.positions'] = net['block_size']
  settings['model.bidirectional'] = net.get('n_unmasked', 0)
  settings['model.keep'] = float(params.get('pkeep', 1.0))
  settings['model.dropout'] = float(net.get('resid_pdrop', 0.0))
  return settings
