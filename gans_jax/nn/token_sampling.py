"""Drawing a token from its logits: temperature, top-k, top-p."""

import jax
import jax.numpy as jnp


def filter_logits(logits: jax.Array, temperature: float = 1.0, top_k: int = 0,
                  top_p: float = 1.0) -> jax.Array:
  """Divides by the temperature, then sets what is not to be drawn to -inf.

  The order is that of GPT's and VQGAN's samplers: top-p counts what top-k has
  left.

  Args:
    logits: [..., K].
    temperature: above 0.
    top_k: keep the k likeliest (all that equal the k-th); 0 keeps all.
    top_p: keep the likeliest until their probability exceeds p, always one
      (Holtzman et al. 2020, "nucleus"); 1 keeps all.
  """
  logits = logits.astype(jnp.float32) / temperature
  if 0 < top_k < logits.shape[-1]:
    kth = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits < kth, -jnp.inf, logits)
  if top_p < 1.0:
    ordered = jnp.flip(jnp.sort(logits, -1), -1)
    before = jnp.cumsum(jax.nn.softmax(ordered, -1), -1)
    # A token goes where those before it have exceeded p: never the first.
    before = jnp.pad(before[..., :-1],
                     [*[(0, 0)] * (logits.ndim - 1), (1, 0)])
    kept = jnp.where(before > top_p, jnp.inf, ordered)
    logits = jnp.where(logits < jnp.min(kept, -1, keepdims=True), -jnp.inf,
                       logits)
  return logits


def draw(logits: jax.Array, keys: jax.Array, position: jax.Array | int,
         temperature: float = 1.0, top_k: int = 0,
         top_p: float = 1.0) -> jax.Array:
  """Returns int32 [N] drawn from logits [N, K].

  Args:
    logits: [N, K].
    keys: [N], of whole sequences: row i depends on keys[i] alone.
    position: of the token in its sequence.
    temperature: 0 takes the likeliest.
    top_k: see `filter_logits`.
    top_p: see `filter_logits`.
  """
  if temperature == 0:
    return jnp.argmax(logits, -1).astype(jnp.int32)
  logits = filter_logits(logits, temperature, top_k, top_p)
  keys = jax.vmap(lambda key: jax.random.fold_in(key, position))(keys)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
