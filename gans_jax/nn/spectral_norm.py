"""Spectral normalization (Miyato et al. 2018, arXiv:1802.05957, algorithm 1).

A layer's weight, as a matrix W [in, out], is used as W / sigma, with sigma
its largest singular value, estimated by power iteration from the vectors of
the step before.

The vectors u [out] and v [in] are state, in the collection 'spectral', beside
the layer's name: no parameters, untouched by optimizers and by the orthogonal
regularization. A network only reads them,

  sigma = v W u,    d sigma / dW = v u'

so that it is the same function in training and evaluation, for any number of
devices and microbatches. The iteration is a function of its own, `advance`,
which a train step calls once for each update, on whole weights. Averaged
weights have vectors of their own, advanced in the same way.

The codes of the papers differ in what `Rule` holds. They also differ in when
they iterate (inside each forward pass, often twice in an update of D, and
some while sampling too), which changes nothing but how fast sigma is found,
and in that the SAGAN code differentiates the vectors, whose derivative is
zero once they are found.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gans_jax.nn import conv as conv_lib
from gans_jax.nn import resample as resample_lib

Initializer = nn.initializers.Initializer

# Iterations on the vectors that a network is created with, as PyTorch's
# parametrization does; others start from a random u.
WARM_UP = 15


@dataclasses.dataclass(frozen=True)
class Rule:
  """How singular vectors are found.

  Attributes:
    epsilon: keeps the normalization of a vector x from dividing by zero.
    form: where: 'add' x / (|x| + eps), 'max' x / max(|x|, eps),
      'max_square' x / sqrt(max(|x|^2, eps)), 'root' x / sqrt(|x|^2 + eps).
    iterations: of one `advance`.
    start: which vector an iteration starts from: 'out' u (first v = W u, then
      u = v W), 'in' v, 'auto' the shorter one.
    number: singular values that are followed; those after the first are for
      logs, kept apart by Gram-Schmidt.
    at_most: divide by max(1, sigma): weights are only ever made smaller.
  """

  epsilon: float = 1e-12
  form: str = 'max'
  iterations: int = 1
  start: str = 'out'
  number: int = 1
  at_most: bool = False


# Whose code does what.
RULES: dict[str, Rule] = {
    'sngan': Rule(1e-12, 'add'),             # pfnet-research/sngan_projection
    'sagan': Rule(1e-12, 'add'),             # brain-research
    'torch': Rule(1e-12, 'max'),
    'biggan_pytorch': Rule(1e-6, 'max'),     # its ImageNet scripts
    'tfhub': Rule(1e-4, 'root'),             # DeepMind's Sonnet 1, and Haiku
    'pretrained_biggan': Rule(1e-4, 'max'),  # huggingface
    'compare_gan': Rule(1e-12, 'max_square', start='auto'),
    'tfgan': Rule(1e-12, 'max_square', start='in', at_most=True),
    'flax': Rule(1e-12, 'root'),
}


def normalize(x: jax.Array, rule: Rule) -> jax.Array:
  """Returns x [n] divided by its length, by the rule's epsilon."""
  square = jnp.sum(jnp.square(x))
  if rule.form == 'add':
    return x / (jnp.sqrt(square) + rule.epsilon)
  if rule.form == 'max':
    return x / jnp.maximum(jnp.sqrt(square), rule.epsilon)
  if rule.form == 'max_square':
    return x * jax.lax.rsqrt(jnp.maximum(square, rule.epsilon))
  if rule.form == 'root':
    return x * jax.lax.rsqrt(square + rule.epsilon)
  raise ValueError(f'rule.form is {rule.form!r}')


def iterate(w: jax.Array, u: jax.Array, v: jax.Array,
            rule: Rule) -> tuple[jax.Array, jax.Array]:
  """Does the rule's power iterations.

  Args:
    w: [in, out] float32.
    u: [number, out], the vectors so far.
    v: [number, in]; not read where the rule starts from u.
    rule: how.

  Returns:
    (u, v), constants to differentiation.
  """
  w = jax.lax.stop_gradient(w)
  out_first = rule.start == 'out' or (
      rule.start == 'auto' and w.shape[1] <= w.shape[0])
  a, b, matrix = (u, v, w) if out_first else (v, u, w.T)

  def product(rows, m):
    """Normalized rows [number, x] m, each without the ones before it."""
    found = []
    for i in range(rule.number):
      x = m @ rows[i]
      for y in found:
        x = x - y * (jnp.sum(x * y) / jnp.sum(y * y))
      found.append(normalize(x, rule))
    return jnp.stack(found)

  for _ in range(rule.iterations):
    b = product(a, matrix)
    a = product(b, matrix.T)
  u, v = (a, b) if out_first else (b, a)
  return jax.lax.stop_gradient(u), jax.lax.stop_gradient(v)


def singular_values(w: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
  """Returns [number]: v_i W u_i."""
  return jnp.sum((v @ w) * u, 1)


def as_matrix(layer: Mapping[str, jax.Array]) -> jax.Array:
  """Returns the weight of a layer as [in, out], float32.

  A kernel [..., in, out] is flattened to its output channels. The rows of an
  embedding [classes, features] are its outputs: u has an entry for each class,
  as in the official codes (Flax has one for each feature).
  """
  if 'embedding' in layer:
    return layer['embedding'].astype(jnp.float32).T
  kernel = layer['kernel'].astype(jnp.float32)
  return kernel.reshape(-1, kernel.shape[-1])


def advance(params, vectors, rule: Rule):
  """Moves all vectors of a network by the rule's iterations.

  Args:
    params: the network's parameters, each whole on every device (a vector of
      a part of W is a vector of nothing).
    vectors: its collection 'spectral'.
    rule: how.

  Returns:
    The collection's new value.
  """
  if not _is_layer(vectors):
    return {name: advance(params[name], value, rule)
            for name, value in vectors.items()}
  u, v = iterate(as_matrix(params), vectors['u'], vectors['v'], rule)
  return {'u': u, 'v': v}


def advanced(params, mvars, rule: Rule | None):
  """Returns a network's collections with `advance` done, if it has vectors."""
  if 'spectral' not in mvars:
    return mvars
  return {**mvars, 'spectral': advance(params, mvars['spectral'], rule)}


def spectrum(params, vectors, prefix: str = '') -> dict[str, jax.Array]:
  """Returns {layer's path: singular values [number]}, largest first."""
  if _is_layer(vectors):
    return {prefix: singular_values(as_matrix(params), vectors['u'],
                                    vectors['v'])}
  found = {}
  for name, value in vectors.items():
    found.update(spectrum(params[name], value,
                          f'{prefix}/{name}' if prefix else name))
  return found


def _is_layer(vectors) -> bool:
  return not isinstance(vectors.get('u', {}), Mapping)


def _divide(module: nn.Module, layer: Mapping[str, jax.Array],
            rule: Rule | None) -> jax.Array:
  """Returns the layer's weight over sigma; adds the vectors to `module`."""
  (weight,) = layer.values()
  if rule is None:
    return weight
  w = as_matrix(layer)
  if not module.has_variable('spectral', 'u'):
    u = jax.random.normal(module.make_rng('params'),
                          (rule.number, w.shape[1]))
    v = jax.random.normal(module.make_rng('params'),
                          (rule.number, w.shape[0]))
    once = dataclasses.replace(rule, iterations=1)
    u, v = jax.lax.fori_loop(
        0, WARM_UP, lambda _, uv: iterate(w, *uv, once), (u, v))
    module.put_variable('spectral', 'u', u)
    module.put_variable('spectral', 'v', v)
  u, v = (module.get_variable('spectral', name) for name in 'uv')
  sigma = singular_values(w, u[:1], v[:1])[0]
  if rule.at_most:
    sigma = jnp.maximum(sigma, 1.0)
  return weight / sigma


class Conv(nn.Module):
  """3x3 or 1x1 convolution with SAME padding, normalized, resampled.

  Params `kernel` [k, k, I, O] and `bias` [O], float32. Upsampling (nearest)
  comes before the convolution, pooling (mean) after it; either is computed at
  the lower resolution (nn/resample.py): the same function and weights in 4/9
  of the work for 3x3, 1/4 for 1x1.

  Attributes:
    features: output channels O.
    kernel_size: 1 or 3.
    resample: 'none', 'up' or 'down', by 2.
    rule: of spectral normalization; None for none.
    use_bias: adds a bias.
    kernel_init: initializer of the kernel.
    bias_init: initializer of the bias.
    dtype: of the computation; the normalization is in float32.
  """

  features: int
  kernel_size: int
  resample: str = 'none'
  rule: Rule | None = None
  use_bias: bool = True
  kernel_init: Initializer = nn.initializers.glorot_uniform()
  bias_init: Initializer = nn.initializers.zeros
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, I] -> [N, h, w, O]."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    w = _divide(self, {'kernel': kernel}, self.rule).astype(self.dtype)
    y = _CONVOLUTIONS[self.resample, self.kernel_size](
        x.astype(self.dtype), w)
    if self.use_bias:
      bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
      y = y + bias.reshape(1, 1, 1, -1).astype(self.dtype)
    return y


_same = functools.partial(conv_lib.conv2d, padding='SAME')
_CONVOLUTIONS = {
    ('none', 1): _same,
    ('none', 3): _same,
    ('up', 1): resample_lib.upsample_conv1x1,
    ('up', 3): resample_lib.upsample_conv3x3,
    ('down', 1): resample_lib.conv1x1_downsample,
    ('down', 3): resample_lib.conv3x3_downsample,
}


class Dense(nn.Module):
  """Dense layer; params and attributes as in `Conv`."""

  features: int
  rule: Rule | None = None
  use_bias: bool = True
  kernel_init: Initializer = nn.initializers.glorot_uniform()
  bias_init: Initializer = nn.initializers.zeros
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, I] -> [N, features]."""
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    w = _divide(self, {'kernel': kernel}, self.rule).astype(self.dtype)
    y = x.astype(self.dtype) @ w
    if self.use_bias:
      bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
      y = y + bias.reshape(1, -1).astype(self.dtype)
    return y


class Embed(nn.Module):
  """Table of vectors: param `embedding` [num_classes, features].

  Attributes:
    num_classes: rows.
    features: columns.
    rule: as in `Conv`.
    embedding_init: initializer.
    dtype: of the result.
  """

  num_classes: int
  features: int
  rule: Rule | None = None
  embedding_init: Initializer = nn.initializers.glorot_uniform()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, labels: jax.Array) -> jax.Array:
    """Labels [N] in 0..num_classes-1 -> [N, features]."""
    table = self.param('embedding', self.embedding_init,
                       (self.num_classes, self.features), jnp.float32)
    table = _divide(self, {'embedding': table}, self.rule)
    return table.astype(self.dtype)[labels]
