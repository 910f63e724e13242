"""Weights of StyleGAN2 that are made again from their official names.

The stored outputs of tests/golden/stylegan2_networks.npz came of
stylegan2-ada-pytorch (training/networks.py, on CPU, its reference operations)
with every parameter and buffer of a network, by the name and shape it has
there, set to `value(name, shape)`; `draw` gave latents and images. Only the
outputs are stored.
"""

import zlib

import numpy as np


def draw(name: str, shape) -> np.ndarray:
  """N(0, 1), by the name alone."""
  seed = zlib.crc32(name.encode())
  return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def value(name: str, shape) -> np.ndarray:
  """The weight of an official name, in the official order of axes."""
  noise = draw(name, shape)
  if name.endswith('affine.bias'):
    return 1 + 0.2 * noise
  if name.endswith(('noise_strength', 'bias', 'w_avg')):
    # Biases of mapping layers are multiplied by 0.01 at run time.
    return 0.2 * noise * (100 if '.fc' in name and 'mapping' in name else 1)
  if name.startswith('mapping.fc'):
    return 100 * noise
  return noise


def tree(abstract, corner: int = 0):
  """Fills a tree of ours with `value`s of the official names.

  Args:
    abstract: params or collections of a network, shapes.
    corner: channels at 4x4, of the dense layer after it; 0 in a generator.
  """
  import jax

  def one(path, leaf):
    names = [entry.key for entry in path]
    shape, last = leaf.shape, names[-1]
    if last == 'w_avg':
      return value('mapping.w_avg', shape)
    if names[-1] == 'noise_const':
      return value('.'.join(['synthesis', *names[-3:]]), shape)
    name = '.'.join([*names[:-1], 'weight' if last == 'kernel' else last])
    if last == 'const':
      return np.moveaxis(value(name, (shape[2], *shape[:2])), 0, -1)
    if last != 'kernel':
      return value(name, shape)
    if len(shape) == 4:
      h, w, i, o = shape
      return value(name, (o, i, h, w)).transpose(2, 3, 1, 0)
    weight = value(name, shape[::-1]).T
    if names[-2] == 'fc' and corner:
      # Its inputs are flattened as [C, 4, 4] there, as [4, 4, C] here.
      weight = weight.reshape(corner, 4, 4, -1).transpose(1, 2, 0, 3)
      weight = weight.reshape(shape)
    return weight

  return jax.tree_util.tree_map_with_path(one, abstract)
