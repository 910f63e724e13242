"""The Inception network of FID, of the Inception Score and of KID.

Szegedy et al., Rethinking the Inception Architecture for Computer Vision,
2015, arXiv 1512.00567, as the TensorFlow graph of 2015-12-05 holds it: the
network of Salimans et al. (2016, arXiv 1606.03498) and Heusel et al. (2017,
arXiv 1706.08500). It is not the Inception v3 of torchvision or Keras. Its
weights are others, its average pools leave padding out of the mean, its last
block pools by maximum, and it has 1008 classes, eight of which mean nothing.

Layers are named as in the weight file of pytorch-fid and torch-fidelity.
Weights: convert/inception.py, which folds batch normalization (epsilon 1e-3)
into the convolutions in float64.
"""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

INPUT_SIZE = 299
FEATURES = 2048
CLASSES = 1008
SPATIAL_CHANNELS = 7
SPATIAL_FEATURES = 17 * 17 * SPATIAL_CHANNELS

# By resizer: the pixel value m of (x - m) / m. TTUR, torch-fidelity, NVIDIA
# and clean-fid have 128, pytorch-fid has 127.5.
MIDPOINTS = {'tf1': 128.0, 'half_pixel': 127.5, 'clean': 128.0}

_SAME, _VALID = 'SAME', 'VALID'


class Conv(nn.Module):
  """Convolution with bias, then ReLU; always float32."""

  features: int
  kernel: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: str = _SAME

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    w = self.param('kernel', nn.initializers.he_normal(),
                   (*self.kernel, channels, self.features))
    b = self.param('bias', nn.initializers.zeros, (self.features,))
    # HIGHEST throughout: the default is bfloat16 on TPU, TF32 on GPU.
    if self.kernel == (1, 1):
      # On CPU as fast as the best convolution, at every size.
      y = jnp.dot(x.reshape(-1, channels), w[0, 0],
                  precision=lax.Precision.HIGHEST)
      y = y.reshape(*x.shape[:-1], self.features)
    else:
      # XLA on CPU convolves two to five times slower without any padding: one
      # column more, which is dropped, puts it on its fast path.
      dropped = int(self.padding == _VALID and self.stride == 1)
      y = lax.conv_general_dilated(
          x, w, (self.stride, self.stride),
          [(0, 0), (0, 1)] if dropped else self.padding,
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
          precision=lax.Precision.HIGHEST)
      y = y[:, :, :y.shape[2] - dropped]
    return nn.relu(y + b[None, None, None])


def max_pool(x: jax.Array, stride: int = 2) -> jax.Array:
  """Maxima of 3x3 windows; stride 1 keeps the size, with -inf outside.

  Args:
    x: [N, H, W, C].
    stride: of both axes, 1 or 2.
  """
  if stride == 1:
    x = _pad(x, -jnp.inf)
  return jax.tree.reduce(jnp.maximum, _windows(x, stride))


def mean_pool(x: jax.Array) -> jax.Array:
  """Means of 3x3 windows over the pixels that exist: 9, 6 or 4 of them.

  Args:
    x: [N, H, W, C].

  Returns:
    [N, H, W, C].
  """
  # Three neighbours along an axis, of which the outermost pixels have two.
  rows, columns = (
      jnp.full(n, 3.0).at[jnp.array([0, -1])].set(2.0) for n in x.shape[1:3])
  count = (rows[:, None] * columns[None])[None, :, :, None]
  return sum(_windows(_pad(x, 0.0), 1)) / count


def _pad(x, value):
  return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)


def _windows(x, stride) -> list[jax.Array]:
  """The nine pixels of every 3x3 window, as shifted copies of the image.

  XLA joins them into one loop; `lax.reduce_window` is ten times slower on CPU.
  """
  height, width = ((n - 3) // stride * stride + 1 for n in x.shape[1:3])
  return [x[:, i:i + height:stride, j:j + width:stride]
          for i in range(3) for j in range(3)]


def _chain(x: jax.Array, *layers: nn.Module) -> jax.Array:
  for layer in layers:
    x = layer(x)
  return x


class BlockA(nn.Module):
  """35x35; `pool_features` of the 224 + `pool_features` channels are pooled."""

  pool_features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.concatenate([
        Conv(64, name='branch1x1')(x),
        _chain(x, Conv(48, name='branch5x5_1'),
               Conv(64, (5, 5), name='branch5x5_2')),
        _chain(x, Conv(64, name='branch3x3dbl_1'),
               Conv(96, (3, 3), name='branch3x3dbl_2'),
               Conv(96, (3, 3), name='branch3x3dbl_3')),
        Conv(self.pool_features, name='branch_pool')(mean_pool(x)),
    ], -1)


class BlockB(nn.Module):
  """35x35 to 17x17; 480 channels more."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.concatenate([
        Conv(384, (3, 3), 2, _VALID, name='branch3x3')(x),
        _chain(x, Conv(64, name='branch3x3dbl_1'),
               Conv(96, (3, 3), name='branch3x3dbl_2'),
               Conv(96, (3, 3), 2, _VALID, name='branch3x3dbl_3')),
        max_pool(x),
    ], -1)


class BlockC(nn.Module):
  """17x17; 7x7 filters as pairs, through `width` channels, to 768."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.width
    return jnp.concatenate([
        Conv(192, name='branch1x1')(x),
        _chain(x, Conv(c, name='branch7x7_1'),
               Conv(c, (1, 7), name='branch7x7_2'),
               Conv(192, (7, 1), name='branch7x7_3')),
        _chain(x, Conv(c, name='branch7x7dbl_1'),
               Conv(c, (7, 1), name='branch7x7dbl_2'),
               Conv(c, (1, 7), name='branch7x7dbl_3'),
               Conv(c, (7, 1), name='branch7x7dbl_4'),
               Conv(192, (1, 7), name='branch7x7dbl_5')),
        Conv(192, name='branch_pool')(mean_pool(x)),
    ], -1)


class BlockD(nn.Module):
  """17x17 to 8x8; 512 channels more."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.concatenate([
        _chain(x, Conv(192, name='branch3x3_1'),
               Conv(320, (3, 3), 2, _VALID, name='branch3x3_2')),
        _chain(x, Conv(192, name='branch7x7x3_1'),
               Conv(192, (1, 7), name='branch7x7x3_2'),
               Conv(192, (7, 1), name='branch7x7x3_3'),
               Conv(192, (3, 3), 2, _VALID, name='branch7x7x3_4')),
        max_pool(x),
    ], -1)


class BlockE(nn.Module):
  """8x8, to 2048 channels.

  Attributes:
    pool_max: pools by maximum, as the last block of the graph does, instead of
      by mean.
  """

  pool_max: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    a = Conv(384, name='branch3x3_1')(x)
    b = _chain(x, Conv(448, name='branch3x3dbl_1'),
               Conv(384, (3, 3), name='branch3x3dbl_2'))
    pooled = max_pool(x, stride=1) if self.pool_max else mean_pool(x)
    return jnp.concatenate([
        Conv(320, name='branch1x1')(x),
        Conv(384, (1, 3), name='branch3x3_2a')(a),
        Conv(384, (3, 1), name='branch3x3_2b')(a),
        Conv(384, (1, 3), name='branch3x3dbl_3a')(b),
        Conv(384, (3, 1), name='branch3x3dbl_3b')(b),
        Conv(192, name='branch_pool')(pooled),
    ], -1)


class Classifier(nn.Module):
  """Class scores with and without their bias."""

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    w = self.param('kernel', nn.initializers.lecun_normal(),
                   (x.shape[-1], CLASSES))
    b = self.param('bias', nn.initializers.zeros, (CLASSES,))
    scores = jnp.dot(x, w, precision=lax.Precision.HIGHEST)
    return scores + b[None], scores


class FidInception(nn.Module):
  """The graph from resized pixels to features and class scores.

  94 convolutions of 21,751,136 weights and 17,216 biases, and 2,065,392
  parameters of the classifier; 5.7 billion multiplications for an image.

  Attributes:
    midpoint: the pixel value that becomes 0; see `MIDPOINTS`.
  """

  midpoint: float = 128.0

  @nn.compact
  def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
    """Returns every tap, by torch-fidelity's names where it has them.

    Args:
      x: float32 [N, 299, 299, 3] RGB in 0..255, resized and not rounded.

    Returns:
      '64', '192' and '768': spatial means [N, that many] after the two stem
      pools and the last 17x17 block. '2048': [N, 2048], the features of FID
      and KID. 'spatial': [N, 2023], those of sFID (Nash et al., 2021, arXiv
      2103.03841): 17x17 pixels of 7 channels, "mixed_6/conv" of the graph.
      'logits': [N, 1008]. 'logits_unbiased': [N, 1008] without the bias, as
      the Inception Score has them. What the caller leaves unused, the compiler
      leaves out.
    """
    taps = {}
    x = (x - self.midpoint) / self.midpoint
    x = Conv(32, (3, 3), 2, _VALID, name='Conv2d_1a_3x3')(x)
    x = Conv(32, (3, 3), 1, _VALID, name='Conv2d_2a_3x3')(x)
    x = Conv(64, (3, 3), name='Conv2d_2b_3x3')(x)  # [N, 147, 147, 64]
    x = max_pool(x)
    taps['64'] = x.mean((1, 2))
    x = Conv(80, name='Conv2d_3b_1x1')(x)
    x = Conv(192, (3, 3), 1, _VALID, name='Conv2d_4a_3x3')(x)
    x = max_pool(x)  # [N, 35, 35, 192]
    taps['192'] = x.mean((1, 2))
    x = BlockA(32, name='Mixed_5b')(x)
    x = BlockA(64, name='Mixed_5c')(x)
    x = BlockA(64, name='Mixed_5d')(x)
    x = BlockB(name='Mixed_6a')(x)  # [N, 17, 17, 768]
    x = BlockC(128, name='Mixed_6b')(x)
    x = BlockC(160, name='Mixed_6c')(x)
    x = BlockC(160, name='Mixed_6d')(x)
    # The first channels are those of the first branch.
    taps['spatial'] = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
    x = BlockC(192, name='Mixed_6e')(x)
    taps['768'] = x.mean((1, 2))
    x = BlockD(name='Mixed_7a')(x)  # [N, 8, 8, 1280]
    x = BlockE(pool_max=False, name='Mixed_7b')(x)
    x = BlockE(pool_max=True, name='Mixed_7c')(x)
    x = taps['2048'] = x.mean((1, 2))
    taps['logits'], taps['logits_unbiased'] = Classifier(name='fc')(x)
    return taps
