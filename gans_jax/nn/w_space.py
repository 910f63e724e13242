"""Latents w of style-based generators: one for each layer, truncated.

Karras et al. 2019, StyleGAN, arXiv:1812.04948, section 3.1 and appendix B.
"""

import jax
import jax.numpy as jnp


def broadcast(w: jax.Array, layers: int) -> jax.Array:
  """w [N, C] -> [N, layers, C]; such as already are so pass."""
  if w.ndim == 3:
    return w
  return jnp.broadcast_to(w[:, None], (w.shape[0], layers, w.shape[1]))


def truncate(ws: jax.Array, w_avg: jax.Array, psi: float,
             cutoff: int | None = None) -> jax.Array:
  """w_avg + psi (w - w_avg) in the first `cutoff` layers, all by default."""
  pulled = w_avg[None, None] + psi * (ws - w_avg[None, None])
  layers = jnp.arange(ws.shape[1]).reshape(1, -1, 1)
  return jnp.where(layers < (ws.shape[1] if cutoff is None else cutoff),
                   pulled, ws)
