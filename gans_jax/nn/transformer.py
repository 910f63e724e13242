"""GPT, the Transformer of VQGAN's second stage, with a cache for sampling.

Radford et al. 2019 (GPT-2) as minGPT and taming-transformers have it: learned
positions, normalization first, four separate projections with biases, exact
GELU, an output layer of its own without bias, and N(0, 0.02) throughout (no
smaller residual layers).

All layers are one module under `nn.scan`: their parameters are stacked
[layers, ...], and the compiler sees one layer, whatever their number.

Sampling keeps keys and values of what has been read (the cache), so that a
token costs one position. Cached logits are the same function of the tokens.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.core import errors
from gans_jax.nn import dropout as dropout_lib

EPSILON = 1e-5  # of layer normalization, PyTorch's; Flax's own is 1e-6.
INIT = nn.initializers.normal(0.02)

# (keys, values), [layers, N, S, heads, width / heads] each.
Cache = tuple[jax.Array, jax.Array]


class Attention(nn.Module):
  """Self-attention of several heads.

  Attributes:
    heads: number of heads.
    drop: probability that a weight, and a result, is dropped.
    dtype: of the computation; softmax is float32.
    kernel_init: initializer of the four projections.
  """

  heads: int
  drop: float = 0.0
  dtype: Any = None
  kernel_init: nn.initializers.Initializer = INIT

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, cache=None,
               keys=None, layer: jax.Array | int = 0):
    """Attends to the positions of x, and to those of the cache before them.

    Args:
      x: [N, S, C].
      mask: bool [S, S], or [S, P + S] with a cache of P positions: which
        positions are seen; None for all.
      cache: None, or keys and values [N, P, heads, C / heads].
      keys: of dropout, [N], or None.
      layer: number of this layer, for dropout.

    Returns:
      (y [N, S, C], (keys, values) of x [N, S, heads, C / heads]).
    """
    n, s, c = x.shape
    q, k, v = (
        nn.Dense(c, kernel_init=self.kernel_init, dtype=self.dtype,
                 name=name)(x).reshape(n, s, self.heads, c // self.heads)
        for name in ('query', 'key', 'value'))
    seen = [(k, v)] if cache is None else [cache, (k, v)]
    logits = jnp.concatenate([
        jnp.einsum('nqhc,nkhc->nhqk', q, part) for part, _ in seen], -1)
    logits = logits.astype(jnp.float32) / math.sqrt(c // self.heads)
    if mask is not None:
      logits = jnp.where(mask[None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, -1)
    weights = dropout_lib.dropout(weights, keys, 1.0 - self.drop, 3 * layer)
    weights, start, y = weights.astype(v.dtype), 0, 0.0
    for _, part in seen:
      stop = start + part.shape[1]
      y = y + jnp.einsum('nhqk,nkhc->nqhc', weights[..., start:stop], part)
      start = stop
    y = nn.Dense(c, kernel_init=self.kernel_init, dtype=self.dtype,
                 name='proj')(y.reshape(n, s, c))
    y = dropout_lib.dropout(y, keys, 1.0 - self.drop, 3 * layer + 1)
    return y, (k, v)


def check_heads(width: int, heads: int) -> None:
  """Refuses widths (config.model.width) that heads do not divide.

  Raises:
    UserError: such a width.
  """
  if width % heads:
    raise errors.UserError(
        f'config.model.width is {width}, which {heads} heads '
        '(config.model.heads) do not divide.')


class Block(nn.Module):
  """x + attention(norm(x)), then x + MLP(norm(x)); attributes as above."""

  heads: int
  drop: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, layer, cache, mask, keys):
    norm = functools.partial(nn.LayerNorm, epsilon=EPSILON, dtype=self.dtype)
    y, found = Attention(self.heads, self.drop, self.dtype, name='attn')(
        norm(name='ln1')(x), mask, cache, keys, layer)
    x = x + y
    y = nn.Dense(4 * x.shape[-1], kernel_init=INIT, dtype=self.dtype,
                 name='mlp_0')(norm(name='ln2')(x))
    y = nn.Dense(x.shape[-1], kernel_init=INIT, dtype=self.dtype,
                 name='mlp_2')(nn.gelu(y, approximate=False))
    y = dropout_lib.dropout(y, keys, 1.0 - self.drop, 3 * layer + 2)
    return x + y, found


class GPT(nn.Module):
  """Tokens [N, S] -> logits of the token after each, float32 [N, S, K].

  Params: tok_emb, pos_emb [positions, width], blocks (stacked), ln_f, head.

  Attributes:
    vocabulary: K.
    positions: the longest S.
    layers: number of blocks.
    heads: of attention.
    width: C.
    drop: probability of dropout, everywhere the same.
    bidirectional: the first so many positions see each other (n_unmasked).
    remat: compute blocks again in the backward pass, for less memory.
    dtype: of the computation.
  """

  vocabulary: int
  positions: int
  layers: int = 24
  heads: int = 16
  width: int = 1024
  drop: float = 0.0
  bidirectional: int = 0
  remat: bool = False
  dtype: Any = None

  def setup(self):
    self.tok_emb = nn.Embed(self.vocabulary, self.width, embedding_init=INIT,
                            dtype=self.dtype)
    self.pos_emb = self.param('pos_emb', nn.initializers.zeros,
                              (self.positions, self.width), jnp.float32)
    block = nn.remat(Block, prevent_cse=False) if self.remat else Block
    stacked = nn.scan(
        block, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(0, 0, nn.broadcast, nn.broadcast), length=self.layers)
    self.blocks = stacked(self.heads, self.drop, self.dtype)
    self.ln_f = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype)
    self.head = nn.Dense(self.vocabulary, use_bias=False, kernel_init=INIT,
                         dtype=self.dtype)

  def _run(self, tokens, first, mask, cache=None, keys=None):
    """Returns (features [N, S, C], keys and values of every layer)."""
    places = jax.lax.dynamic_slice_in_dim(self.pos_emb, first,
                                          tokens.shape[1])
    x = self.tok_emb(tokens)
    x = x + places[None].astype(x.dtype)
    x = dropout_lib.dropout(x, keys, 1.0 - self.drop, 3 * self.layers)
    return self.blocks(x, jnp.arange(self.layers), cache, mask, keys)

  def _mask(self, s: int) -> jax.Array:
    i = jnp.arange(s)
    mask = i[:, None] >= i[None]
    # Both of the first positions.
    both = jnp.maximum(i[:, None], i[None]) < self.bidirectional
    return mask | both

  def _logits(self, x: jax.Array) -> jax.Array:
    return self.head(self.ln_f(x)).astype(jnp.float32)

  def __call__(self, tokens: jax.Array, keys: jax.Array | None = None
               ) -> jax.Array:
    """Returns all logits.

    Args:
      tokens: int32 [N, S], S at most `positions`.
      keys: of dropout, [N]; None for none.
    """
    x, _ = self._run(tokens, 0, self._mask(tokens.shape[1]), keys=keys)
    return self._logits(x)

  def at(self, tokens: jax.Array, position: jax.Array) -> jax.Array:
    """Returns the logits [N, K] after the tokens up to `position`."""
    x, _ = self._run(tokens, 0, self._mask(tokens.shape[1]))
    x = jax.lax.dynamic_index_in_dim(x, position, 1, keepdims=False)
    return self._logits(x)

  def start(self, tokens: jax.Array, length: int
            ) -> tuple[jax.Array, Cache]:
    """Reads the beginning [N, P] of sequences that get `length` tokens.

    Returns:
      (logits [N, K] of the next token, cache).
    """
    s = tokens.shape[1]
    x, cache = self._run(tokens, 0, self._mask(s))
    room = [(0, 0), (0, 0), (0, length - s), (0, 0), (0, 0)]
    return self._logits(x[:, -1]), tuple(jnp.pad(part, room) for part in cache)

  def step(self, token: jax.Array, cache: Cache, position: jax.Array
           ) -> tuple[jax.Array, Cache]:
    """Reads one more token [N], at `position` (an int32 scalar).

    Returns:
      (logits [N, K] of the next token, cache).
    """
    length = cache[0].shape[2]
    mask = jnp.concatenate([jnp.arange(length) < position,
                            jnp.ones([1], bool)])[None]
    x, found = self._run(token[:, None], position, mask, cache)
    cache = tuple(
        jax.lax.dynamic_update_slice_in_dim(whole, new, position, 2)
        for whole, new in zip(cache, found, strict=True))
    return self._logits(x[:, 0]), cache


def decays(params) -> Any:
  """Which parameters AdamW decays: kernels, as in the official code.

  Not biases, normalizations, embeddings and positions.
  """
  def one(path, leaf):
    del leaf
    return getattr(path[-1], 'key', None) == 'kernel'

  return jax.tree_util.tree_map_with_path(one, params)


def sample(net: GPT, variables, prefix: jax.Array, count: int,
           draw: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
  """Returns `count` tokens after a prefix, int32 [N, count].

  One loop, for use inside jit.

  Args:
    net: the Transformer.
    variables: its variables.
    prefix: int32 [N, P], P of at least 1.
    count: tokens to draw; P + count - 1 is at most `positions`.
    draw: (logits [N, K], number of the token among `count`) -> int32 [N].
  """
  p = prefix.shape[1]
  logits, cache = net.apply(variables, prefix, p + count - 1, method='start')

  def one(i, carry):
    tokens, logits, cache = carry
    token = draw(logits, i)
    tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], i, 1)
    return tokens, *net.apply(variables, token, cache, p + i, method='step')

  tokens = jnp.zeros((prefix.shape[0], count), jnp.int32)
  tokens, logits, _ = jax.lax.fori_loop(
      0, count - 1, one, (tokens, logits, cache))
  return tokens.at[:, -1].set(draw(logits, count - 1))


def sample_uncached(net: GPT, variables, prefix: jax.Array, count: int,
                    draw: Callable[[jax.Array, jax.Array], jax.Array]
                    ) -> jax.Array:
  """As `sample`, reading the whole sequence for every token."""
  p = prefix.shape[1]
  tokens = jnp.concatenate([
      prefix.astype(jnp.int32),
      jnp.zeros((prefix.shape[0], count - 1), jnp.int32)], 1)
  out = jnp.zeros((prefix.shape[0], count), jnp.int32)

  def one(i, carry):
    tokens, out = carry
    token = draw(net.apply(variables, tokens, p + i - 1, method='at'), i)
    out = jax.lax.dynamic_update_slice_in_dim(out, token[:, None], i, 1)
    # The last token is not read: it falls on the one before it.
    place = jnp.minimum(p + i, tokens.shape[1] - 1)
    read = jnp.where(i < count - 1, token, tokens[:, place])
    tokens = jax.lax.dynamic_update_slice_in_dim(
        tokens, read[:, None], place, 1)
    return tokens, out

  return jax.lax.fori_loop(0, count, one, (tokens, out))[1]
