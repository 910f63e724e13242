"""Weights of LPIPS and of VGG16's features, from torchvision and from lpips.

Trunks are the classifiers of torchvision, keys `features.N.weight`. The heads
of LPIPS version 0.1 are a few hundred numbers for each tap, keys
`lin{k}.model.1.weight`; the Python package `lpips` ships them.
"""

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from gans_jax.convert import published
from gans_jax.core import errors
from gans_jax.metrics import alexnet
from gans_jax.metrics import lpips
from gans_jax.metrics import vgg

TRUNKS = {
    'vgg': published.Published(
        what='VGG16 of torchvision (IMAGENET1K_V1)',
        url='https://download.pytorch.org/models/vgg16-397923af.pth',
        size=553_433_881,
        sha256=(
            '397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0'),
        names=('vgg16-397923af.pth',),
        flag='--vgg16_weights',
        variable='GANS_JAX_VGG16_WEIGHTS'),
    'alex': published.Published(
        what='AlexNet of torchvision (IMAGENET1K_V1)',
        url='https://download.pytorch.org/models/alexnet-owt-7be5be79.pth',
        size=244_408_911,
        sha256=(
            '7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02'),
        names=('alexnet-owt-7be5be79.pth',),
        flag='--alexnet_weights',
        variable='GANS_JAX_ALEXNET_WEIGHTS'),
}
_HEADS_URL = ('https://raw.githubusercontent.com/richzhang/'
              'PerceptualSimilarity/master/lpips/weights/v0.1/')
HEADS = {
    'vgg': published.Published(
        what='the LPIPS heads (v0.1) for VGG16',
        url=_HEADS_URL + 'vgg.pth',
        size=7_289,
        sha256=(
            'a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868'),
        # The last is torch-fidelity's.
        names=('lpips_v0.1_vgg.pth', 'weights-vgg16-lpips.pth'),
        flag='--lpips_vgg_heads',
        variable='GANS_JAX_LPIPS_VGG_HEADS',
        package=('lpips', 'weights/v0.1/vgg.pth')),
    'alex': published.Published(
        what='the LPIPS heads (v0.1) for AlexNet',
        url=_HEADS_URL + 'alex.pth',
        size=6_009,
        sha256=(
            'df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0'),
        names=('lpips_v0.1_alex.pth',),
        flag='--lpips_alex_heads',
        variable='GANS_JAX_LPIPS_ALEX_HEADS',
        package=('lpips', 'weights/v0.1/alex.pth')),
}

# torchvision's number of each convolution among its layers.
_INDICES = {
    'vgg': dict(zip(
        (f'conv{i}_{j}' for i, stage in enumerate(vgg.STAGES, 1)
         for j in range(1, len(stage) + 1)),
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), strict=True)),
    'alex': dict(zip(
        (f'conv{i}' for i in range(1, len(alexnet.LAYERS) + 1)),
        (0, 3, 6, 8, 10), strict=True)),
}
_KERNELS = {
    'vgg': [(channels, 3) for stage in vgg.STAGES for channels in stage],
    'alex': [layer[:2] for layer in alexnet.LAYERS],
}
_TAPS = {
    'vgg': [stage[-1] for stage in vgg.STAGES],
    'alex': [layer[0] for layer in alexnet.LAYERS],
}


def load_lpips(net: str, trunk: str | os.PathLike | None = None,
               heads: str | os.PathLike | None = None) -> published.Weights:
  """Reads the weights of `lpips.LPIPS(net)`.

  Args:
    net: 'vgg' or 'alex'.
    trunk: the value of the trunk's flag; see `published.find`.
    heads: the value of the heads' flag.

  Returns:
    Weights whose hash is that of the trunk's file, '+', that of the heads'.

  Raises:
    UserError: a file that is absent, damaged or of another network.
  """
  assert net in lpips.TRUNKS, net
  tensors, name, trunk_hash = _read(TRUNKS[net], trunk)
  params = {'trunk': fold_trunk(tensors, net, name)}
  tensors, name, heads_hash = _read(HEADS[net], heads)
  params |= fold_heads(tensors, net, name)
  return published.Weights(
      {'params': params}, f'{trunk_hash}+{heads_hash}')


def load_vgg16(path: str | os.PathLike | None = None) -> published.Weights:
  """Reads the weights of `vgg.VGG16`.

  Args:
    path: the value of its flag; see `published.find`.

  Raises:
    UserError: a file that is absent, damaged or of another network.
  """
  tensors, name, sha256 = _read(TRUNKS['vgg'], path)
  return published.Weights(fold_vgg16(tensors, name), sha256)


def fold_trunk(tensors: Mapping[str, np.ndarray], net: str,
               name: str) -> dict[str, Any]:
  """Maps a state_dict of torchvision to parameters of the trunk.

  Args:
    tensors: {key: array}.
    net: 'vgg' or 'alex'.
    name: what errors call their source.

  Raises:
    UserError: keys missing, or shapes or values of another network.
  """
  params, channels = {}, 3
  layers = zip(_INDICES[net].items(), _KERNELS[net], strict=True)
  for (module, index), (features, size) in layers:
    # torch [O, I, kh, kw] -> [kh, kw, I, O].
    kernel = published.take(
        tensors, f'features.{index}.weight', (features, channels, size, size),
        TRUNKS[net], name)
    bias = published.take(
        tensors, f'features.{index}.bias', (features,), TRUNKS[net], name)
    params[module] = {
        'kernel': np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)),
        'bias': bias}
    channels = features
  return params


def fold_heads(tensors: Mapping[str, np.ndarray], net: str,
               name: str) -> dict[str, Any]:
  """Maps a file of heads to parameters `head_0` ... of `lpips.LPIPS`.

  See `fold_trunk`.
  """
  params = {}
  for i, channels in enumerate(_TAPS[net]):
    key = f'lin{i}.model.1.weight'
    head = published.take(
        tensors, key, (1, channels, 1, 1), HEADS[net], name)
    if (head < 0).any():
      raise errors.UserError(
          f'{name} has negative weights in {key!r}; those of LPIPS are never '
          f'negative. Fetch {HEADS[net].url}.')
    params[f'head_{i}'] = head.reshape(channels)
  return params


def fold_vgg16(tensors: Mapping[str, np.ndarray], name: str,
               features: int = vgg.FEATURES) -> dict[str, Any]:
  """Maps a state_dict of torchvision to variables of `vgg.VGG16(features)`.

  See `fold_trunk`.
  """
  file = TRUNKS['vgg']
  params = {'trunk': fold_trunk(tensors, 'vgg', name)}
  channels, pixels = vgg.STAGES[-1][-1], vgg.INPUT_SIZE // 32
  for module, index, inputs in (('fc1', 0, channels * pixels**2),
                                ('fc2', 3, features)):
    weight = published.take(
        tensors, f'classifier.{index}.weight', (features, inputs), file, name)
    if module == 'fc1':
      # torch flattens [C, H, W], we [H, W, C].
      weight = weight.reshape(features, channels, pixels, pixels)
      weight = weight.transpose(0, 2, 3, 1).reshape(features, inputs)
    params[module] = {
        'kernel': np.ascontiguousarray(weight.T),
        'bias': published.take(
            tensors, f'classifier.{index}.bias', (features,), file, name)}
  return {'params': params}


def _read(file: published.Published, path):
  """Returns ({key: array}, file name, hash)."""
  found = published.find(file, path)
  sha256 = published.check_hash(found, (file.sha256,), file.what)
  return published.state_dict(found, file), os.fspath(found), sha256
