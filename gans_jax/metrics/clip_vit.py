"""The image tower of CLIP ViT-L/14 at 336 pixels, the features of CMMD.

Radford et al., Learning Transferable Visual Models From Natural Language
Supervision, 2021, arXiv 2103.00020, section 2.4: a Vision Transformer
(Dosovitskiy et al., 2020, arXiv 2010.11929) with one layer normalization more,
before the first block. CMMD: Jayasumana et al., Rethinking FID, 2024, arXiv
2401.09603, which crops and resizes as `resize.resize(..., 'pillow_uint8')`.

Layers are named as in OpenAI's weight file, which convert/clip.py reads.
"""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

INPUT_SIZE = 336
FEATURES = 768

# Of RGB in 0..1, over CLIP's training images.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def _dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
  # HIGHEST throughout: the default is bfloat16 on TPU, TF32 on GPU.
  return nn.Dense(features, use_bias, precision=lax.Precision.HIGHEST,
                  name=name)


def _norm(name: str) -> nn.LayerNorm:
  # The fast variance, E x^2 - (E x)^2, loses digits where the mean is large.
  return nn.LayerNorm(1e-5, use_fast_variance=False, name=name)


def quick_gelu(x: jax.Array) -> jax.Array:
  """The approximation of GELU that CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)


class Block(nn.Module):
  """Self-attention, then a perceptron, both on normalized input.

  Attributes:
    heads: of the attention; they divide the width.
  """

  heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    n, tokens, width = x.shape
    y = _dense(3 * width, 'attn_in')(_norm('ln_1')(x))
    y = y.reshape(n, tokens, 3, self.heads, width // self.heads)
    q, k, v = (y[:, :, i] for i in range(3))
    scores = jnp.einsum('nqhc,nkhc->nhqk', q / q.shape[-1] ** 0.5, k,
                        precision=lax.Precision.HIGHEST)
    y = jnp.einsum('nhqk,nkhc->nqhc', jax.nn.softmax(scores), v,
                   precision=lax.Precision.HIGHEST)
    x = x + _dense(width, 'attn_out')(y.reshape(n, tokens, width))
    y = quick_gelu(_dense(4 * width, 'c_fc')(_norm('ln_2')(x)))
    return x + _dense(width, 'c_proj')(y)


class ClipVit(nn.Module):
  """From resized pixels to the embedding: 304,293,888 parameters.

  Attributes:
    size: height and width of images.
    patch: of the squares that become tokens.
    width: of a token.
    layers: number of blocks.
    heads: of every attention.
    features: length of the embedding.
  """

  size: int = INPUT_SIZE
  patch: int = 14
  width: int = 1024
  layers: int = 24
  heads: int = 16
  features: int = FEATURES

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns embeddings [N, features], not normalized.

    Args:
      x: float32 [N, size, size, 3] RGB in 0..255.

    Raises:
      ValueError: another size, for which there are no positions.
    """
    if x.shape[1:] != (self.size, self.size, 3):
      raise ValueError(f'images [N, {self.size}, {self.size}, 3] were '
                       f'expected, not {x.shape}')
    mean, std = (jnp.array(v)[None, None, None] for v in (MEAN, STD))
    x = (x / 255 - mean) / std
    # [N, (size/patch)^2, patch * patch * 3], the patches row by row.
    n, grid, p = len(x), self.size // self.patch, self.patch
    x = x.reshape(n, grid, p, grid, p, 3).swapaxes(2, 3)
    x = x.reshape(n, grid * grid, p * p * 3)
    x = _dense(self.width, 'conv1', use_bias=False)(x)

    small = nn.initializers.normal(self.width ** -0.5)
    token = self.param('class_embedding', small, (self.width,))
    token = jnp.broadcast_to(token, (n, 1, self.width))
    positions = self.param('positional_embedding', small,
                           (grid * grid + 1, self.width))
    x = jnp.concatenate([token, x], 1) + positions[None]
    x = _norm('ln_pre')(x)
    for i in range(self.layers):
      x = Block(self.heads, name=f'resblocks_{i}')(x)
    return _dense(self.features, 'proj', use_bias=False)(
        _norm('ln_post')(x[:, 0]))
