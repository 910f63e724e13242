"""Vector quantization: van den Oord et al. 2017, arXiv:1711.00937, section 3.

A codebook e [K, D] and vectors z [..., D]:

  k(z) = argmin_j |z - e_j|^2                        eq. 1: `nearest`
  q    = e_k(z), whose gradient is handed to z       eq. 2: `straight_through`
  |sg[z] - q|^2 + beta |z - sg[q]|^2                 eq. 3: `codebook_loss`,
                                                     `commitment_loss`

Both terms are means over all numbers, as in the authors' code (Sonnet) and in
taming-transformers, and take the q of `Codebook`, before `straight_through`.

Instead of the first term, the codebook may be an average of the vectors that
fall to each code (appendix A.1). With n_j vectors of sum m_j in a batch and
decay g

  N_j <- g N_j + (1 - g) n_j,   M_j <- g M_j + (1 - g) m_j
  e_j <- M_j / N'_j,   N' = (N + eps) / (sum N + K eps) * sum N

Start-up: N_j = 1 and M_j = e_j, a code weighing as one vector a batch, and a
code moves only in a step that gives it vectors. (The other two starts in use
throw codes away at the first step: from N = 0 with M = e every code without
vectors grows about 1/eps-fold; Sonnet's average without the bias of its start
sends it to exactly 0. Where every code has vectors, the formulas are the
paper's.)

The average belongs to a whole step, not to its microbatches, so a loss
function hands `statistics` out with its logs and the step applies
`ema_update`:

  z = encoder(x);  codes = quantizer.codes(variables)    # [K, D]
  indices = quantizer.nearest(z, codes)
  q = quantizer.embed(codes, indices)
  loss = ... + quantizer.vq_loss(z, q, beta)             # or commitment alone
  x_hat = decoder(quantizer.straight_through(z, q))

Indices, sums and averages are of the global batch: on a mesh the sums over a
batch that is split over devices are all-reduced by the compiler, and every
device holds the same codebook.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

# Whatever the precision of the rest: in bfloat16, the default of a TPU's
# matrix products, other codes are nearest.
_EXACT = jax.lax.Precision.HIGHEST

COLLECTION = 'codebook'  # of an averaged codebook's variables


def nearest(z: jax.Array, codes: jax.Array) -> jax.Array:
  """Returns the index of the nearest code; the lowest of equally near ones.

  One matrix product: |z|^2 is the same for all codes and left out.

  Args:
    z: [..., D].
    codes: [K, D].

  Returns:
    int32 [...], in [0, K).
  """
  codes = codes.astype(jnp.float32)
  flat = z.astype(jnp.float32).reshape(-1, z.shape[-1])
  distance = (jnp.sum(codes**2, axis=1)[None]
              + jnp.dot(flat, -2.0 * codes.T, precision=_EXACT))
  return jnp.argmin(distance, axis=1).astype(jnp.int32).reshape(z.shape[:-1])


def embed(codes: jax.Array, indices: jax.Array) -> jax.Array:
  """Returns the codes [..., D] of `indices` [...], each in [0, K)."""
  return jnp.take(codes, indices, axis=0, mode='clip')


def straight_through(z: jax.Array, q: jax.Array) -> jax.Array:
  """Returns q, whose gradient goes to z as it is, and none to the codes.

  The value is q exactly, which z + sg[q - z] is only up to rounding.
  """
  return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))


def codebook_loss(z: jax.Array, q: jax.Array) -> jax.Array:
  """mean |sg[z] - q|^2, float32 scalar: moves the codes alone."""
  z = jax.lax.stop_gradient(z).astype(jnp.float32)
  return jnp.mean((q.astype(jnp.float32) - z)**2)


def commitment_loss(z: jax.Array, q: jax.Array) -> jax.Array:
  """mean |z - sg[q]|^2, float32 scalar: moves the encoder alone."""
  return codebook_loss(q, z)


def vq_loss(z: jax.Array, q: jax.Array, beta: float,
            legacy: bool = False) -> jax.Array:
  """Returns codebook + beta * commitment loss.

  Args:
    z: what the encoder gave, [..., D].
    q: its codes, [..., D], before `straight_through`.
    beta: weight of the commitment; 0.25 in the paper.
    legacy: put beta at the codebook's term instead, as the loss did that all
      published VQGANs were trained with. The value is the same.
  """
  codebook, commitment = codebook_loss(z, q), commitment_loss(z, q)
  if legacy:
    return beta * codebook + commitment
  return codebook + beta * commitment


# --- Codebooks ----------------------------------------------------------------


class Codebook(nn.Module):
  """The variables of a codebook; its functions are those of this module.

  Attributes:
    size: K, number of codes.
    dim: D, of each code.
    ema: codes are averages, in the collection 'codebook' {codes [K, D],
      count [K], sum [K, D]}, and no parameters; otherwise the parameter
      `codes`.
    codes_init: of the codes [K, D]; by default U(-1/K, 1/K).
  """

  size: int
  dim: int
  ema: bool = False
  codes_init: Any = None

  @nn.compact
  def __call__(self) -> jax.Array:
    """Returns the codes, float32 [K, D]."""
    init = self.codes_init or uniform_init(1.0 / self.size)
    shape = (self.size, self.dim)
    if not self.ema:
      return self.param('codes', init, shape, jnp.float32)
    start = None
    if self.is_initializing():
      start = ema_start(init(self.make_rng('params'), shape, jnp.float32))
    variables = {
        name: self.variable(COLLECTION, name, lambda name=name: start[name])
        for name in ('codes', 'count', 'sum')}
    return variables['codes'].value


def uniform_init(limit: float):
  """Initializer U(-limit, limit).

  1/K: taming-transformers; sqrt(3/D): Sonnet; sqrt(3/K): MaskGIT.
  """
  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init


def codes(variables: Mapping[str, Any]) -> jax.Array:
  """Returns the codes [K, D] out of the variables of a `Codebook`."""
  return variables.get(COLLECTION, variables.get('params'))['codes']


# --- Averages of what falls to each code --------------------------------------


def statistics(z: jax.Array, indices: jax.Array,
               size: int) -> tuple[jax.Array, jax.Array]:
  """Returns what fell to each code.

  Args:
    z: [..., D].
    indices: [...], from `nearest`.
    size: K.

  Returns:
    (n float32 [K], m float32 [K, D]): how many vectors, and their sum.
  """
  flat = jax.lax.stop_gradient(z).astype(jnp.float32)
  flat = flat.reshape(-1, z.shape[-1])
  ones = jnp.ones_like(flat[:, :1])
  sums = _sum_by(jnp.concatenate([flat, ones], axis=1), indices.reshape(-1),
                 size)
  return sums[:, -1], sums[:, :-1]


def _sum_by(values: jax.Array, indices: jax.Array, size: int) -> jax.Array:
  """Sums rows [n, D] by their index: [size, D]."""

  def scatter(values, indices):
    return jax.ops.segment_sum(values, indices, size)

  def product(values, indices):
    # The order in which a GPU scatters is another in every run.
    return jnp.dot(jax.nn.one_hot(indices, size).T, values, precision=_EXACT)

  return jax.lax.platform_dependent(values, indices, cpu=scatter,
                                    default=product)


def ema_start(codes: jax.Array) -> dict[str, jax.Array]:
  """Returns the collection of step 0; see the module."""
  return {'codes': codes, 'count': jnp.ones(codes.shape[:1], jnp.float32),
          'sum': jnp.copy(codes)}


def ema_update(state: Mapping[str, jax.Array], n: jax.Array, m: jax.Array,
               decay: float = 0.99, epsilon: float = 1e-5
               ) -> dict[str, jax.Array]:
  """Moves the codes to the averages of what falls to them.

  Args:
    state: {'codes', 'count', 'sum'}.
    n: [K], of the whole batch.
    m: [K, D], of the whole batch.
    decay: g.
    epsilon: of the Laplace smoothing N'.

  Returns:
    The new state.
  """
  count = decay * state['count'] + (1.0 - decay) * n
  total = decay * state['sum'] + (1.0 - decay) * m
  mass = jnp.sum(count)
  smooth = (count + epsilon) / (mass + count.size * epsilon) * mass
  moved = total / smooth[:, None]
  return {'codes': jnp.where(n[:, None] > 0, moved, state['codes']),
          'count': count, 'sum': total}


def revive(codes: jax.Array, count: jax.Array, pool: jax.Array,
           key: jax.Array, threshold: float
           ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Replaces codes that hardly anything falls to (Jukebox, 2005.00341).

  A replaced code counts as twice the threshold (1 at least): unused again it
  stays for the time in which the average halves.

  Args:
    codes: [K, D].
    count: averaged vectors per batch, [K].
    pool: what the encoder gives now, [..., D], to draw new codes from.
    key: of the draw, the same on every device.
    threshold: codes of a lower count are replaced.

  Returns:
    (codes, count, which were replaced bool [K]).
  """
  dead = count < threshold
  pool = pool.astype(jnp.float32).reshape(-1, pool.shape[-1])
  drawn = pool[jax.random.randint(key, count.shape, 0, pool.shape[0])]
  return (jnp.where(dead[:, None], drawn, codes),
          jnp.where(dead, max(1.0, 2.0 * threshold), count), dead)


def revive_ema(state: Mapping[str, jax.Array], pool: jax.Array,
               key: jax.Array, threshold: float) -> dict[str, jax.Array]:
  """`revive` for the collection of an averaged codebook."""
  codes, count, dead = revive(state['codes'], state['count'], pool, key,
                              threshold)
  total = jnp.where(dead[:, None], codes * count[:, None], state['sum'])
  return {'codes': codes, 'count': count, 'sum': total}


# --- Health -------------------------------------------------------------------


def perplexity(n: jax.Array) -> jax.Array:
  """exp(-sum p log(p + 1e-10)) of the counts [K]: codes in even use."""
  p = n / jnp.sum(n)
  return jnp.exp(-jnp.sum(p * jnp.log(p + 1e-10)))


def usage(n: jax.Array) -> jax.Array:
  """Share of the codes that occur at all, of the counts [K]."""
  return jnp.mean((n > 0).astype(jnp.float32))
