"""AlexNet, the trunk of LPIPS as it is usually reported.

Krizhevsky, One weird trick for parallelizing convolutional neural networks,
2014, arXiv 1404.5997, with the ImageNet weights of torchvision
(IMAGENET1K_V1), which convert/lpips.py reads.
"""

import flax.linen as nn
import jax

from gans_jax.metrics import vgg

# Channels, kernel, stride and padding; of the convolutions with a pool before.
LAYERS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1),
          (256, 3, 1, 1))
_POOLED = (2, 3)


class Trunk(nn.Module):
  """The five convolutions: 2,469,696 parameters."""

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    """Returns relu1 to relu5.

    Args:
      x: float32 [N, H, W, 3] RGB, normalized by `vgg.MEAN` and `vgg.STD`; H
        and W of at least 31 pixels.

    Returns:
      Of 64, 192, 384, 256 and 256 channels; for H = W = 64 of 15, 7, 3, 3 and
      3 pixels height and width.
    """
    taps = []
    for i, layer in enumerate(LAYERS, 1):
      if i in _POOLED:
        x = nn.max_pool(x, (3, 3), (2, 2))
      x = vgg.Conv(*layer, name=f'conv{i}')(x)
      taps.append(x)
    return taps
