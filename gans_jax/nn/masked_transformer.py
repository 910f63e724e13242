"""BERT over codes, the Transformer of MaskGIT.

Chang et al. 2022, arXiv:2202.04200, in the form of its authors' code: BERT
(Devlin et al. 2019), normalization last, GELU by tanh, and an output layer
that shares the embeddings. Layers are stacked, as in nn/transformer.py.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import dropout as dropout_lib
from gans_jax.nn import transformer

EPSILON = 1e-12  # of layer normalization, BERT's.
INIT = nn.initializers.truncated_normal(0.02)


class Layer(nn.Module):
  """norm(x + attention(x)), then norm(x + MLP(x)).

  Attributes:
    heads: of attention.
    hidden: width inside the MLP.
    drop: probability of dropout.
    dtype: of the computation.
  """

  heads: int
  hidden: int
  drop: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, layer, keys):
    norm = functools.partial(nn.LayerNorm, epsilon=EPSILON, dtype=self.dtype)
    dense = functools.partial(nn.Dense, kernel_init=INIT, dtype=self.dtype)
    y, _ = transformer.Attention(
        self.heads, self.drop, self.dtype, INIT, name='attention')(
            x, keys=keys, layer=layer)
    x = norm(name='attention_ln')(x + y)
    y = nn.gelu(dense(self.hidden, name='mlp_in')(x))
    y = dense(x.shape[-1], name='mlp_out')(y)
    y = dropout_lib.dropout(y, keys, 1.0 - self.drop, 3 * layer + 2)
    return norm(name='mlp_ln')(x + y), None


class MaskedTransformer(nn.Module):
  """Tokens [N, S] -> logits of every position, float32 [N, S, vocabulary].

  Attributes:
    vocabulary: codes, classes and the mask.
    positions: the longest S.
    layers: number of them.
    heads: of attention.
    width: C.
    hidden: width inside the MLPs.
    drop: probability of dropout, everywhere the same.
    remat: compute layers again in the backward pass, for less memory.
    dtype: of the computation.
  """

  vocabulary: int
  positions: int
  layers: int = 24
  heads: int = 16
  width: int = 768
  hidden: int = 3072
  drop: float = 0.1
  remat: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, tokens: jax.Array, keys: jax.Array | None = None
               ) -> jax.Array:
    """Returns the logits.

    Args:
      tokens: int32 [N, S].
      keys: of dropout, [N]; None for none.
    """
    norm = functools.partial(nn.LayerNorm, epsilon=EPSILON, dtype=self.dtype)
    embed = functools.partial(nn.Embed, features=self.width,
                              embedding_init=INIT, dtype=self.dtype)
    words = embed(self.vocabulary, name='word_embeddings')
    places = embed(self.positions, name='position_embeddings')
    x = words(tokens) + places(jnp.arange(tokens.shape[1]))[None]
    x = norm(name='embeddings_ln')(x)
    x = dropout_lib.dropout(x, keys, 1.0 - self.drop, 3 * self.layers)
    layer = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
    x, _ = nn.scan(
        layer, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(0, nn.broadcast), length=self.layers)(
            self.heads, self.hidden, self.drop, self.dtype, name='layers')(
                x, jnp.arange(self.layers), keys)
    x = nn.gelu(nn.Dense(self.width, kernel_init=INIT, dtype=self.dtype,
                         name='mlm_dense')(x))
    x = norm(name='mlm_ln')(x)
    bias = self.param('mlm_bias', nn.initializers.zeros, (self.vocabulary,),
                      jnp.float32)
    return words.attend(x).astype(jnp.float32) + bias[None, None]
