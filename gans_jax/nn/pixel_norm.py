"""Pixelwise normalization (Karras et al. 2018, ProGAN, section 4.2)."""

import jax
import jax.numpy as jnp


def pixel_norm(x: jax.Array, epsilon: float = 1e-8) -> jax.Array:
  """x / sqrt(mean over the last axis of x^2 + epsilon).

  The mean is float32 whatever the type of x. Also the normalization of
  latents (StyleGAN) and of embedded labels (StyleGAN2-ADA).

  Args:
    x: [..., C].
    epsilon: added to the mean.
  """
  y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  factor = jax.lax.rsqrt(
      jnp.mean(jnp.square(y), -1, keepdims=True) + epsilon)
  return (y * factor).astype(x.dtype)
