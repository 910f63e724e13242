"""Gated PixelCNN over tokens: van den Oord et al. 2016, arXiv:1606.05328.

Two stacks of convolutions. The vertical one sees all rows above, in a field
that grows without a blind spot (section 2.2, figure 2); the horizontal one
sees the row to the left, and the vertical one. A layer, for kernels k:

  v' = conv(v), (k // 2 + 1) x k, rows up to this one
  h' = conv(h), 1 x (k // 2 + 1), columns up to this one
  v <- gate(v' + c)                          gate([a, b]) = tanh(a) sigmoid(b)
  h <- W_out gate(W_vh v' + h' + c) (+ h)    c: the class embedding (eq. 4)

The first layer (k = 7, mask A) leaves out its own row of v, its own column of
h, and the sum with h; the vertical stack of row r then holds rows < r. Sizes
after ritheshkumar95/pytorch-vqvae, whose parameters are counted with the
entries that mask A sets to zero; so are these.

Sampling (`sample`) does all rows in one loop and keeps what it needs of
earlier positions: for each row the vertical stack once, for each position one
small product a layer. All of it costs about one evaluation of the whole grid,
where h w of them would do the same.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import conv


class Gated(nn.Module):
  """One layer of both stacks.

  Attributes:
    dim: channels C of either stack.
    kernel: k, odd.
    first: mask A, and no sum with h.
    num_classes: classes of c; 0 without.
  """

  dim: int
  kernel: int = 3
  first: bool = False
  num_classes: int = 0

  @nn.compact
  def __call__(self, v: jax.Array, h: jax.Array,
               labels: jax.Array | None = None):
    """Maps v, h [N, H, W, C] (and labels [N]) to the next v, h."""
    weights = masked(self._weights(), self.first)
    weights = jax.tree.map(lambda x: x.astype(v.dtype), weights)
    half = self.kernel // 2
    c = class_bias(weights, labels)
    if c is not None:
      c = c[:, None, None]
    v_raw = conv.conv2d(v, weights['v'], 1, ((half, 0), (half, half)))
    v_raw = v_raw + weights['v_bias'][None, None, None]
    h_raw = conv.conv2d(h, weights['h'], 1, ((0, 0), (half, 0)))
    h_raw = h_raw + weights['h_bias'][None, None, None]
    h_raw = h_raw + _dense(v_raw, weights, 'vh')
    if c is not None:
      v_raw, h_raw = v_raw + c, h_raw + c
    out = _dense(gate(h_raw), weights, 'out')
    return gate(v_raw), out if self.first else out + h

  def _weights(self) -> dict[str, jax.Array]:
    dim, half = self.dim, self.kernel // 2
    init = nn.initializers.xavier_uniform()
    shapes = {'v': (half + 1, self.kernel, dim, 2 * dim),
              'h': (1, half + 1, dim, 2 * dim), 'vh': (2 * dim, 2 * dim),
              'out': (dim, dim)}
    weights = {}
    for name, shape in shapes.items():
      weights[name] = self.param(name, init, shape, jnp.float32)
      weights[f'{name}_bias'] = self.param(
          f'{name}_bias', nn.initializers.zeros, shape[-1:], jnp.float32)
    if self.num_classes:
      weights['classes'] = self.param(
          'classes', nn.initializers.normal(1.0),
          (self.num_classes, 2 * dim), jnp.float32)
    return weights


def gate(x: jax.Array) -> jax.Array:
  """tanh(a) sigmoid(b) for x = [a, b] along the last axis (eq. 2)."""
  a, b = jnp.split(x, 2, axis=-1)
  return jnp.tanh(a) * jax.nn.sigmoid(b)


def masked(weights: Mapping[str, jax.Array], first: bool
           ) -> dict[str, jax.Array]:
  """Returns the weights with mask A, if it is the first layer."""
  if not first:
    return dict(weights)
  return {**weights, 'v': weights['v'].at[-1].set(0.0),
          'h': weights['h'].at[:, -1].set(0.0)}


def class_bias(weights, labels: jax.Array | None) -> jax.Array | None:
  """Returns c [N, 2 C], or None without classes."""
  if 'classes' not in weights:
    return None
  return weights['classes'][labels]


def _dense(x: jax.Array, weights, name: str) -> jax.Array:
  bias = weights[f'{name}_bias']
  return x @ weights[name] + bias.reshape(*[1] * (x.ndim - 1), -1)


class GatedPixelCNN(nn.Module):
  """p(token | tokens before it in reading order).

  Attributes:
    codes: K.
    dim: C.
    layers: including the first.
    kernel: of all but the first layer.
    first_kernel: of the first.
    head: channels of the hidden 1x1 layer of the output.
    num_classes: 0 for an unconditional model.
    dtype: of the computation.
  """

  codes: int
  dim: int = 64
  layers: int = 15
  kernel: int = 3
  first_kernel: int = 7
  head: int = 512
  num_classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array,
               labels: jax.Array | None = None) -> jax.Array:
    """Returns logits float32 [N, H, W, K].

    Args:
      tokens: int32 [N, H, W].
      labels: int32 [N], with classes.
    """
    table = self.param('tokens', nn.initializers.normal(1.0),
                       (self.codes, self.dim), jnp.float32)
    v = h = table.astype(self.dtype)[tokens]
    for i in range(self.layers):
      v, h = Gated(self.dim, self.first_kernel if i == 0 else self.kernel,
                   i == 0, self.num_classes, name=f'layer_{i}')(v, h, labels)
    weights = {}
    init = nn.initializers.xavier_uniform()
    for name, shape in (('head', (self.dim, self.head)),
                        ('logits', (self.head, self.codes))):
      weights[name] = self.param(name, init, shape, jnp.float32)
      weights[f'{name}_bias'] = self.param(
          f'{name}_bias', nn.initializers.zeros, shape[-1:], jnp.float32)
    return _head(h, jax.tree.map(lambda x: x.astype(self.dtype), weights))


def _head(h: jax.Array, weights) -> jax.Array:
  x = nn.relu(_dense(h, weights, 'head'))
  return _dense(x, weights, 'logits').astype(jnp.float32)


# --- Sampling -----------------------------------------------------------------


def sample(params: Mapping[str, Any], shape: tuple[int, int],
           keys: jax.Array, labels: jax.Array | None = None, *,
           temperature: float = 1.0, top_k: int = 0) -> jax.Array:
  """Draws grids of tokens; grid i depends on keys[i] and labels[i] alone.

  Args:
    params: of a `GatedPixelCNN`.
    shape: (H, W).
    keys: typed keys [N].
    labels: int32 [N], with classes.
    temperature: of the softmax; 0 takes the likeliest token.
    top_k: draw from the k likeliest alone; 0 from all.

  Returns:
    int32 [N, H, W].
  """
  height, width = shape
  count = keys.shape[0]
  names = sorted((name for name in params if name.startswith('layer_')),
                 key=lambda name: int(name.partition('_')[2]))
  layers = [masked(params[name], i == 0) for i, name in enumerate(names)]
  classes = [class_bias(weights, labels) for weights in layers]
  table = params['tokens']
  halves = [weights['v'].shape[1] // 2 for weights in layers]

  def shift(cache, new):
    """Appends along axis 1, and drops as many at its start."""
    return jnp.concatenate([cache, new], axis=1)[:, new.shape[1]:]

  def add_class(x, c):
    return x if c is None else x + c.reshape(
        count, *[1] * (x.ndim - 2), x.shape[-1])

  def one_position(caches, inputs):
    """Draws one token [N] from what the layers hold of the row so far."""
    from_above, position = inputs  # [L, N, 2 C], scalar
    h, new = jnp.zeros((count, table.shape[1])), []
    for i, weights in enumerate(layers):
      window = jnp.concatenate([caches[i], h[:, None]], axis=1)
      raw = jnp.einsum('nkc,kco->no', window, weights['h'][0])
      raw = raw + weights['h_bias'][None] + from_above[i]
      out = _dense(gate(raw), weights, 'out')
      new.append(h[:, None])
      h = out if i == 0 else out + h
    token = draw(_head(h, params), keys, position, temperature, top_k)
    new[0] = table[token][:, None]
    return [shift(c, x) for c, x in zip(caches, new, strict=True)], token

  def one_row(caches, row):
    v, from_above, new = jnp.zeros((count, 1, width, table.shape[1])), [], []
    for i, (weights, half) in enumerate(zip(layers, halves, strict=True)):
      window = jnp.concatenate([caches[i], v], axis=1)
      raw = conv.conv2d(window, weights['v'], 1, ((0, 0), (half, half)))
      raw = raw + weights['v_bias'][None, None, None]
      from_above.append(add_class(_dense(raw, weights, 'vh')[:, 0],
                                  classes[i]))
      new.append(v)
      v = gate(add_class(raw, classes[i]))
    from_above = jnp.moveaxis(jnp.stack(from_above), 2, 0)  # [W, L, N, 2 C]
    left = [jnp.zeros((count, half, table.shape[1])) for half in halves]
    _, tokens = jax.lax.scan(one_position, left,
                             (from_above, row * width + jnp.arange(width)))
    tokens = tokens.T  # [N, W]
    new[0] = table[tokens][:, None]
    return [shift(c, x) for c, x in zip(caches, new, strict=True)], tokens

  above = [jnp.zeros((count, half, width, table.shape[1])) for half in halves]
  _, rows = jax.lax.scan(one_row, above, jnp.arange(height))
  return jnp.swapaxes(rows, 0, 1)


def draw(logits: jax.Array, keys: jax.Array, position: jax.Array,
         temperature: float = 1.0, top_k: int = 0) -> jax.Array:
  """Draws tokens [N] from logits [N, K] by the keys of a position.

  The noise (Gumbel) is a function of keys[i] and the position.
  """
  if top_k:
    least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  noise = jax.vmap(lambda key: jax.random.gumbel(
      jax.random.fold_in(key, position), logits.shape[1:]))(keys)
  return jnp.argmax(logits + temperature * noise, axis=-1).astype(jnp.int32)
