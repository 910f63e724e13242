"""Stages of a run: what changes at once, such as resolution and batch size.

Most systems have one stage. A system that grows (ProGAN, Karras et al. 2018,
arXiv:1710.10196, section 2 and appendix A) has a member `stages`; its
`at_stage(stage)` is the system whose `train_step` does that stage's steps.
A stage has static shapes, so that its step compiles once; how far a fade has
come is traced.

Images seen, of a growing system, are the real images shown to the
discriminator: every batch of a step counts, as in the authors' schedule.
Which stage a step belongs to follows from its number alone, and so do the
images seen: a run resumes exactly, inside a fade too.
"""

import bisect
import dataclasses
import math

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from gans_jax.core import errors


@dataclasses.dataclass(frozen=True)
class Stage:
  """Steps of one kind, from `first_step` to the next stage's.

  Attributes:
    first_step: its first step.
    first_image: images seen before that step.
    batch_size: images of one batch, over all devices.
    images_per_step: images seen in one step.
    resolution: of the images it trains on; 0 is that of the data.
    fade_start: images seen when the fade-in of the resolution began.
    fade_images: images that the fade takes; 0 where nothing fades.
    repeats: steps between two looks at how far the fade is.
  """

  first_step: int
  first_image: int
  batch_size: int
  images_per_step: int
  resolution: int = 0
  fade_start: int = 0
  fade_images: int = 0
  repeats: int = 1

  def images(self, step: int) -> int:
    """Images seen before `step`, one of this stage or the one after it."""
    return self.first_image + (step - self.first_step) * self.images_per_step

  def fade(self, step: jax.Array | int) -> jax.Array:
    """Weight of the lower resolution at a step: float32, falls from 1 to 0.

    It is lod - floor(lod) of the authors' code.
    """
    if not self.fade_images:
      return jnp.zeros([], jnp.float32)
    # Counted from the stage's start: whole runs exceed float32's integers.
    blocks = (jnp.asarray(step, jnp.int32) - self.first_step) // self.repeats
    images = (self.first_image - self.fade_start
              + blocks * (self.repeats * self.images_per_step))
    return 1.0 - images.astype(jnp.float32) / self.fade_images


@dataclasses.dataclass(frozen=True)
class Stages:
  """The stages of a run, the last of which does not end.

  Attributes:
    parts: in their order.
  """

  parts: tuple[Stage, ...]

  def at(self, step: int) -> Stage:
    """Returns the stage of a step."""
    firsts = [stage.first_step for stage in self.parts]
    return self.parts[bisect.bisect_right(firsts, step) - 1]

  def until(self, step: int) -> tuple[Stage, ...]:
    """Returns the stages with steps before `step`."""
    return tuple(s for s in self.parts if s.first_step < max(step, 1))

  def images(self, step: int) -> int:
    """Images seen before a step: after `step` steps."""
    return self.at(step).images(step)

  def total_steps(self, config) -> int:
    """Steps of the whole run, from total_steps or total_kimg."""
    if config.total_steps:
      return config.total_steps
    images = config.total_kimg * 1000
    firsts = [stage.first_image for stage in self.parts]
    stage = self.parts[max(bisect.bisect_left(firsts, images) - 1, 0)]
    return stage.first_step + math.ceil(
        (images - stage.first_image) / stage.images_per_step)


def of(config, system) -> Stages:
  """Returns the stages of a system: its own, or the one that it has."""
  stages = getattr(system, 'stages', None)
  if stages is not None:
    return stages
  return Stages((Stage(first_step=0, first_image=0,
                       batch_size=config.batch_size,
                       images_per_step=config.batch_size),))


def view(system, stage: Stage):
  """Returns the system that does the steps of a stage."""
  return system.at_stage(stage) if hasattr(system, 'at_stage') else system


# --- Growing ----------------------------------------------------------------


def default_config(**values) -> config_dict.ConfigDict:
  """Returns the keys of `config.growing`.

  A phase shows stable_kimg thousands of images at one resolution, then
  fade_kimg while the next one fades in. Both 0: no growing.
  """
  config = config_dict.ConfigDict(dict(
      first_resolution=4,
      stable_kimg=600.0,
      fade_kimg=600.0,
      repeats=4,                 # steps between two looks at the schedule
      batch_sizes=(),            # ((resolution, size), ...); else batch_size
      lr=(),                     # ((resolution, rate), ...); else optimizer's
  ))
  config.update(values)
  return config


def at_resolution(pairs, resolution: int, default: float) -> float:
  """Reads ((resolution, value), ...); other resolutions have `default`."""
  return {int(r): value for r, value in pairs}.get(resolution, default)


def growing(config, resolution: int, batches_per_step: int = 1) -> Stages:
  """Returns the stages of progressive growing.

  As the authors' TrainingSchedule: with T stable and F fading images,

    phase = floor(images / (T + F))
    lod = log2(resolution / first_resolution) - phase
          - max(images - phase (T + F) - T, 0) / F,  at least 0,

  looked up every `repeats` steps; floor(lod) tells the resolution, and a new
  stage begins where floor(lod) or ceil(lod) changes.

  Args:
    config: a full config with `growing`, see `default_config`.
    resolution: of the data, where growing ends.
    batches_per_step: batches that a step shows (n_critic).

  Raises:
    UserError: values that make no schedule.
  """
  grow = config.growing
  _check(config, resolution)
  stable, fade = round(grow.stable_kimg * 1000), round(grow.fade_kimg * 1000)
  parts, step, images = [], 0, 0

  def add(size: int, end: float, fade_start: int = 0, fade_images: int = 0):
    """Adds the steps at resolution `size` that begin before `end` images."""
    nonlocal step, images
    batch = at_resolution(grow.batch_sizes, size, config.batch_size)
    shown = batch * batches_per_step * grow.repeats
    blocks = 1 if end == math.inf else math.ceil((end - images) / shown)
    if blocks > 0:
      parts.append(Stage(
          first_step=step, first_image=images, batch_size=batch,
          images_per_step=batch * batches_per_step, resolution=size,
          fade_start=fade_start, fade_images=fade_images,
          repeats=grow.repeats))
      step += blocks * grow.repeats
      images += blocks * shown

  size, start = grow.first_resolution, 0
  while size < resolution:
    # At exactly T images nothing has begun to fade: that block is stable.
    add(size, start + stable + (1 if fade else 0))
    size *= 2
    add(size, start + stable + fade, start + stable, fade)
    start += stable + fade
  add(size, math.inf)
  return Stages(tuple(parts))


def _check(config, resolution: int) -> None:
  grow = config.growing
  first = grow.first_resolution
  if first < 4 or first & (first - 1) or first > resolution:
    raise errors.UserError(
        f'config.growing.first_resolution is {first}; expected a power of two '
        f'from 4 to data.resolution, which is {resolution}.')
  if min(grow.stable_kimg, grow.fade_kimg) < 0 or grow.repeats < 1:
    raise errors.UserError(
        f'config.growing has stable_kimg {grow.stable_kimg}, fade_kimg '
        f'{grow.fade_kimg} and repeats {grow.repeats}; expected 0 or more, 0 '
        'or more, and 1 or more.')
  if grow.stable_kimg + grow.fade_kimg < 1e-3 and first < resolution:
    raise errors.UserError(
        'config.growing.stable_kimg and fade_kimg are both 0, which is no '
        f'growing, but first_resolution is {first}: set it to '
        f'data.resolution, {resolution}.')
  for key in ('batch_sizes', 'lr'):
    try:
      pairs = [(int(r), float(value)) for r, value in grow[key]]
    except (TypeError, ValueError):
      pairs = None
    if pairs is None or any(r < 4 or value <= 0 for r, value in pairs):
      raise errors.UserError(
          f'config.growing.{key} is {grow[key]!r}; expected pairs of a '
          'resolution and a positive number, such as ((4, 128), (8, 64)).')
