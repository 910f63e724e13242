"""Stages: the authors' schedule in closed form, images seen, bad values."""

import math

import numpy as np
import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import stages as stages_lib


def make(resolution=32, batches_per_step=1, batch_size=16, **growing):
  config = config_lib.ConfigDict({
      'batch_size': batch_size,
      'growing': stages_lib.default_config(**growing)})
  return stages_lib.growing(config, resolution, batches_per_step)


def official(images, resolution, first, stable, fade):
  """lod after `images` images, as the sheet has it, in thousands."""
  kimg = images / 1000
  phase = math.floor(kimg / (stable + fade)) if stable + fade else 0
  lod = math.log2(resolution) - math.log2(first) - phase
  if fade:
    lod -= max(kimg - phase * (stable + fade) - stable, 0) / fade
  return max(lod, 0.0)


@pytest.mark.parametrize('values, batches', [
    (dict(stable_kimg=0.6, fade_kimg=0.6), 1),
    # Borders that floats hold exactly, and batches that end on them.
    (dict(stable_kimg=0.5, fade_kimg=0.25, repeats=1, batch_sizes=((8, 10),)),
     1),
    (dict(stable_kimg=0.5, fade_kimg=0.7, first_resolution=8,
          batch_sizes=((8, 32), (16, 24), (64, 5))), 1),
    (dict(stable_kimg=0.75, fade_kimg=0.0, repeats=2), 5),
    (dict(stable_kimg=0.0, fade_kimg=0.8), 1),
    # A block of four batches is longer than a whole phase.
    (dict(stable_kimg=0.03, fade_kimg=0.02), 1),
    (dict(stable_kimg=0.0, fade_kimg=0.0, first_resolution=64), 1),
])
def test_stages_follow_the_official_schedule(values, batches):
  """Step by step, beside the formula looked up at every fourth minibatch."""
  stages = make(64, batches, **values)
  growing = stages_lib.default_config(**values)
  sizes = dict(growing.batch_sizes)
  step, images, changes, last = 0, 0, [], None
  while images < 9000:
    lod = official(images, 64, growing.first_resolution, growing.stable_kimg,
                   growing.fade_kimg)
    size = 64 // 2 ** math.floor(lod)
    if (math.floor(lod), math.ceil(lod)) != last:
      last = math.floor(lod), math.ceil(lod)
      changes.append(step)
    for _ in range(growing.repeats):
      stage = stages.at(step)
      assert stages.images(step) == images
      assert stage.resolution == size
      assert stage.batch_size == sizes.get(size, 16)
      assert bool(stage.fade_images) == (lod % 1 > 0)
      np.testing.assert_allclose(stage.fade(step), lod % 1, atol=2e-6)
      step, images = step + 1, images + stage.batch_size * batches
  assert [stage.first_step for stage in stages.parts] == changes
  assert stages.until(changes[-1]) == stages.parts[:-1] or len(changes) == 1
  assert stages.until(changes[-1] + 1) == stages.parts


def test_length_of_a_run():
  # 4x4 shows 64 of each 100 images in batches of 16, then 8x8 in eights.
  stages = make(8, stable_kimg=0.064, fade_kimg=0.064, repeats=1,
                batch_sizes=((8, 8),))
  assert [s.first_step for s in stages.parts] == [0, 5, 11]
  for images, steps in ((1, 1), (16, 1), (17, 2), (80, 5), (81, 6), (88, 6),
                        (128, 11), (129, 12), (1000, 120)):
    config = config_lib.ConfigDict({
        'total_steps': 0, 'total_kimg': images / 1000})
    assert stages.total_steps(config) == steps, images
    assert stages.images(steps) >= images > stages.images(steps - 1)
  config = config_lib.ConfigDict({'total_steps': 7, 'total_kimg': 0.0})
  assert stages.total_steps(config) == 7


def test_published_lengths():
  """1024x1024 from 4x4 at 600/600 is stable from 9600 kimg, from 8: 8400."""
  for first, kimg in ((4, 9600), (8, 8400)):
    stages = make(1024, batch_size=25, repeats=4, first_resolution=first)
    assert stages.parts[-1].first_image == kimg * 1000
    assert stages.parts[-1].resolution == 1024
    assert len(stages.parts) == 2 * math.log2(1024 / first) + 1


def test_a_system_without_stages_has_one():
  config = config_lib.ConfigDict({
      'batch_size': 24, 'total_steps': 0, 'total_kimg': 1.0})
  stages = stages_lib.of(config, object())
  assert stages.images(7) == 168
  assert stages.total_steps(config) == config_lib.total_steps(config) == 42
  assert stages.at(0) is stages.at(10**6)
  assert stages.at(3).fade(3) == 0
  system = object()
  assert stages_lib.view(system, stages.at(0)) is system


def test_late_images_are_counted_exactly():
  """Past 2^24 images, where float32 no longer tells one from the next."""
  stage = stages_lib.Stage(
      first_step=1_400_000, first_image=20_000_003, batch_size=3,
      images_per_step=3, fade_start=20_000_000, fade_images=12)
  assert stage.images(1_400_001) == 20_000_006
  np.testing.assert_allclose(stage.fade(1_400_001), 0.5)


@pytest.mark.parametrize('values, words', [
    (dict(first_resolution=6), 'first_resolution is 6'),
    (dict(first_resolution=64), 'from 4 to data.resolution, which is 32'),
    (dict(fade_kimg=-1.0), 'fade_kimg -1.0'),
    (dict(repeats=0), 'repeats 0'),
    (dict(stable_kimg=0.0, fade_kimg=0.0), 'no growing.*32'),
    (dict(batch_sizes=(4, 8)), 'growing.batch_sizes.*pairs'),
    (dict(lr=((8, 0.0),)), 'growing.lr.*positive'),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError, match=words):
    make(**values)
