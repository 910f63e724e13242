"""VGG16, the features of LPIPS, of PPL and of precision and recall.

Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image
Recognition, 2014, arXiv 1409.1556, configuration D, with the ImageNet weights
of torchvision (IMAGENET1K_V1), which convert/lpips.py reads.
"""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from gans_jax.nn import conv

INPUT_SIZE = 224
FEATURES = 4096

# Of RGB in 0..1, over ImageNet: torchvision's.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Channels of the convolutions between two pools.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512),
          (512, 512, 512))


class Conv(nn.Module):
  """Convolution with bias and padding on all sides, then ReLU; float32."""

  features: int
  kernel: int = 3
  stride: int = 1
  padding: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k = self.kernel
    w = self.param('kernel', nn.initializers.he_normal(),
                   (k, k, x.shape[-1], self.features))
    b = self.param('bias', nn.initializers.zeros, (self.features,))
    # HIGHEST: the default is bfloat16 on TPU, TF32 on GPU.
    y = conv.conv2d(x, w, self.stride, self.padding,
                    precision=lax.Precision.HIGHEST)
    return nn.relu(y + b[None, None, None])


class Trunk(nn.Module):
  """The 13 convolutions: 14,714,688 parameters."""

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    """Returns relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.

    Args:
      x: float32 [N, H, W, 3] RGB, normalized by `MEAN` and `STD`; H and W of
        at least 16 pixels.

    Returns:
      [N, H/s, W/s, C], rounded down, with s = 1, 2, 4, 8, 16 and C = 64, 128,
      256, 512, 512.
    """
    taps = []
    for i, stage in enumerate(STAGES, 1):
      if taps:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for j, channels in enumerate(stage, 1):
        x = Conv(channels, name=f'conv{i}_{j}')(x)
      taps.append(x)
    return taps


class VGG16(nn.Module):
  """Up to the second fully connected layer: 134,260,544 parameters.

  The features of improved precision and recall: Kynkaanniemi et al., 2019,
  arXiv 1904.06991.

  Attributes:
    features: width of both fully connected layers.
  """

  features: int = FEATURES

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns fc2 after its ReLU, [N, features].

    Args:
      x: float32 [N, 224, 224, 3] RGB in 0..255.

    Raises:
      ValueError: another size, where torchvision would resample.
    """
    if x.shape[1:] != (INPUT_SIZE, INPUT_SIZE, 3):
      raise ValueError(f'images [N, 224, 224, 3] were expected, not {x.shape}')
    mean, std = (255.0 * jnp.array(v)[None, None, None] for v in (MEAN, STD))
    x = Trunk(name='trunk')((x - mean) / std)[-1]
    x = nn.max_pool(x, (2, 2), (2, 2))  # [N, 7, 7, 512]
    x = x.reshape(len(x), -1)
    for name in ('fc1', 'fc2'):
      x = nn.relu(nn.Dense(
          self.features, precision=lax.Precision.HIGHEST, name=name)(x))
    return x
