"""Weights of CLIP's image tower, from OpenAI's file.

ViT-L-14-336px.pt is a TorchScript archive in half precision of the whole of
CLIP; only keys `visual.*` are taken. A state_dict of the same keys, whole or
of the image tower alone, will do too.
"""

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from gans_jax.convert import published
from gans_jax.metrics import clip_vit

_SHA256 = '3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02'

CLIP = published.Published(
    what='CLIP ViT-L/14 at 336 pixels',
    url='https://openaipublic.azureedge.net/clip/models/'
        f'{_SHA256}/ViT-L-14-336px.pt',
    size=934_088_680,
    sha256=_SHA256,
    names=('ViT-L-14-336px.pt',),
    flag='--clip_weights',
    variable='GANS_JAX_CLIP_WEIGHTS',
    # Where OpenAI's package keeps it.
    folder='~/.cache/clip')


def load(path: str | os.PathLike | None = None) -> published.Weights:
  """Returns the weights of `clip_vit.ClipVit()`.

  Args:
    path: the value of their flag; see `published.find`.

  Raises:
    UserError: a file that is absent, damaged or of another network.
  """
  found = published.find(CLIP, path)
  sha256 = published.check_hash(found, (CLIP.sha256,), CLIP.what)
  tensors = published.state_dict(found, CLIP)
  return published.Weights(fold(tensors, os.fspath(found)), sha256)


def fold(tensors: Mapping[str, np.ndarray], name: str,
         net: clip_vit.ClipVit | None = None) -> dict[str, Any]:
  """Maps a state_dict to variables of the image tower, NumPy float32.

  Args:
    tensors: {key: array}.
    name: what errors call their source.
    net: the tower; by default that of ViT-L/14 at 336 pixels.

  Raises:
    UserError: keys missing, or shapes or values of another network.
  """
  net = net or clip_vit.ClipVit()
  width, patch = net.width, net.patch

  def take(key, *shape):
    return published.take(tensors, f'visual.{key}', shape, CLIP, name)

  def dense(weight, bias, features, inputs=width):
    # torch [O, I] -> [I, O].
    return {'kernel': np.ascontiguousarray(take(weight, features, inputs).T),
            'bias': take(bias, features)}

  def norm(module):
    return {'scale': take(f'{module}.weight', width),
            'bias': take(f'{module}.bias', width)}

  # torch [O, I, kh, kw] -> [kh, kw, I, O], which is that of a patch, flat.
  conv1 = take('conv1.weight', width, 3, patch, patch).transpose(2, 3, 1, 0)
  positions = (net.size // patch)**2 + 1
  params = {
      'conv1': {'kernel': conv1.reshape(patch * patch * 3, width)},
      'class_embedding': take('class_embedding', width),
      'positional_embedding': take('positional_embedding', positions, width),
      'ln_pre': norm('ln_pre'),
      'ln_post': norm('ln_post'),
      'proj': {'kernel': take('proj', width, net.features)},
  }
  for i in range(net.layers):
    block = f'transformer.resblocks.{i}'
    params[f'resblocks_{i}'] = {
        'ln_1': norm(f'{block}.ln_1'),
        # Queries, keys and values, in this order.
        'attn_in': dense(f'{block}.attn.in_proj_weight',
                         f'{block}.attn.in_proj_bias', 3 * width),
        'attn_out': dense(f'{block}.attn.out_proj.weight',
                          f'{block}.attn.out_proj.bias', width),
        'ln_2': norm(f'{block}.ln_2'),
        'c_fc': dense(f'{block}.mlp.c_fc.weight', f'{block}.mlp.c_fc.bias',
                      4 * width),
        'c_proj': dense(f'{block}.mlp.c_proj.weight',
                        f'{block}.mlp.c_proj.bias', width, 4 * width),
    }
  return {'params': params}
