"""Progressive growing: how two resolutions are blended (ProGAN, section 2).

lod, the level of detail, is log2(R / r) at resolution r of a network that
ends at R, and fractional between two resolutions, where the weight of the
lower one is lod - floor(lod).
"""

import jax
import jax.numpy as jnp

from gans_jax.core import stages as stages_lib
from gans_jax.nn import resample


def lerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
  """a + (b - a) t."""
  return a + (b - a) * t


def sizes(resolution: int) -> list[int]:
  """4, 8, ..., resolution."""
  return [2**i for i in range(2, resolution.bit_length())]


def fade_images(x: jax.Array, fade: jax.Array) -> jax.Array:
  """Blends images with their own lower resolution: reals fade as fakes do.

  Args:
    x: [N, r, r, C].
    fade: weight of the lower resolution, scalar in [0, 1].
  """
  return lerp(x, resample.nearest_upsample(resample.average_pool(x)), fade)


class Blend:
  """Which resolutions take part, with which weight; images as they add up.

  At a stage that is its resolution and, in a fade, the one below. Without a
  stage it is every resolution from 4 to R, and the lod alone says which of
  them is seen.

  Attributes:
    resolution: the highest that takes part.
    image: what `add` has made so far, [N, r, r, C].
  """

  def __init__(self, last: int, lod: jax.Array | float,
               stage: stages_lib.Stage | None):
    """Prepares.

    Args:
      last: R.
      lod: float32 scalar.
      stage: of the run, or None.
    """
    self._last = last
    self._lod = lod
    self._stage = stage
    self.resolution = stage.resolution if stage else last
    self.image = None

  def lod_of(self, r: int) -> int:
    """log2(R / r)."""
    return self._last.bit_length() - r.bit_length()

  def wants(self, r: int) -> bool:
    """Whether resolution r is converted from or to colours."""
    if self._stage is None or r == self.resolution:
      return True
    return bool(self._stage.fade_images) and r == self.resolution // 2

  def weight(self, r: int) -> jax.Array:
    """Weight of what is below resolution r, in [0, 1]."""
    return jnp.clip(jnp.asarray(self._lod, jnp.float32) - self.lod_of(r),
                    0.0, 1.0)

  def add(self, r: int, rgb: jax.Array) -> None:
    """Adds the colours of resolution r; from the lowest to the highest."""
    if self.image is not None:
      rgb = lerp(rgb, resample.nearest_upsample(self.image), self.weight(r))
    self.image = rgb


# --- Parts of a train step --------------------------------------------------


def lod(last: int, stage: stages_lib.Stage,
        step: jax.Array) -> jax.Array:
  """The level of detail at a step, float32; `last` is R."""
  whole = last.bit_length() - stage.resolution.bit_length()
  return whole + stage.fade(step)


def pixel_scale(last: int, stage: stages_lib.Stage) -> float:
  """r / R: what D's values are multiplied by inside a gradient penalty.

  D of the authors' codes takes R^2 pixels at every stage and averages f x f
  of them, f = R / r. Each then has 1 / f^2 of the gradient of a pixel here,
  and there are f^2 times as many: the norm is 1 / f of ours. So

    R1:       gamma / 2 |grad|^2 / f^2
    WGAN-GP:  (|grad| / f - 1)^2

  Args:
    last: R.
    stage: of resolution r.
  """
  return stage.resolution / last


def reset_optimizers(stage: stages_lib.Stage, state, players, tx):
  """Returns the state with new optimizer states, at a stage's first step.

  As in the authors' codes, whenever floor(lod) or ceil(lod) changes.

  Args:
    stage: the stage.
    state: TrainState.
    players: {player: its nets}.
    tx: {player: optimizer}.
  """
  if not stage.first_step:
    return state
  fresh = {name: tx[name].init({net: state.params[net] for net in nets})
           for name, nets in players.items()}
  now = state.step == stage.first_step
  return state.replace(opt=jax.tree.map(
      lambda new, old: jnp.where(now, new, old), fresh, state.opt))


def keep_lod(state, lod: jax.Array):
  """Returns the state with the lod that its generator has come to."""
  moving = {**state.mvars['G']['moving'], 'lod': lod}
  return state.replace(mvars={
      **state.mvars, 'G': {**state.mvars['G'], 'moving': moving}})


def copy_collections(state):
  """Copies the generator's collections to its average: they are no weights.
  """
  copies = jax.tree.map(jnp.copy, state.mvars['G'])
  return state.replace(ema={
      **state.ema, 'G': {'params': state.ema['G']['params'], **copies}})
