"""What changes during a run, as functions of images seen.

Images seen = step * batch_size, so that a schedule means the same for every
batch size; critic updates do not count twice.
"""

import jax
import jax.numpy as jnp


def images_seen(step: jax.Array | int, batch_size: int) -> jax.Array:
  """Returns step * batch_size in float32 (exact up to 16.7 M images)."""
  return jnp.asarray(step, jnp.float32) * batch_size


def linear(images: jax.Array, start: float, end: float, first: float,
           last: float) -> jax.Array:
  """Goes from `first` at `start` images to `last` at `end`, flat outside."""
  span = max(end - start, 1e-8)
  t = jnp.clip((images - start) / span, 0.0, 1.0)
  return first + (last - first) * t


def ema_beta_from_kimg(images: jax.Array, batch_size: int, ema_kimg: float,
                       rampup: float = 0.0) -> jax.Array:
  """Half-life form of the average (StyleGAN2-ADA's trainer).

  Args:
    images: images seen, float32 scalar.
    batch_size: images of one step.
    ema_kimg: half-life of the average, in thousands of images.
    rampup: if positive, the half-life is at most `rampup * images`, so that
      the average forgets its random start.

  Returns:
    0.5 ** (batch_size / half_life): the weight of the old average.
  """
  half_life = jnp.asarray(ema_kimg * 1000.0, jnp.float32)
  if rampup > 0:
    half_life = jnp.minimum(half_life, images * rampup)
  return 0.5 ** (batch_size / jnp.maximum(half_life, 1e-8))


def ema_beta(config, step: jax.Array, batch_size: int) -> jax.Array:
  """Returns the weight of the old average at `step` by the config's `ema`.

  `ema.kimg` > 0 chooses the half-life form with `ema.rampup`. Otherwise
  `ema.decay`, which from step `ema.start` on is used as it is (BigGAN starts
  at 20,000) and before it is 0: the average is a copy of the live weights.
  """
  if config.kimg > 0:
    return ema_beta_from_kimg(images_seen(step, batch_size), batch_size,
                              config.kimg, config.rampup)
  return jnp.where(step >= config.start, config.decay, 0.0)
