"""Schedules against the formulas of the papers, in Python floats."""

from ml_collections import config_dict
import pytest

from gans_jax.core import schedules


@pytest.mark.parametrize('images', [0, 640, 20_000, 10_000_000])
@pytest.mark.parametrize('rampup', [0.0, 0.05])
def test_half_life_average(images, rampup):
  half_life = 10_000.0
  if rampup:
    half_life = min(half_life, images * rampup)
  expected = 0.5 ** (64 / max(half_life, 1e-8))
  found = schedules.ema_beta_from_kimg(float(images), 64, 10.0, rampup)
  assert float(found) == pytest.approx(expected, rel=1e-5)


def ema_config(**values):
  return config_dict.ConfigDict(
      dict(decay=0.999, start=0, kimg=0.0, rampup=0.0) | values)


def test_half_life_means_half():
  beta = float(schedules.ema_beta(ema_config(kimg=1.0), 100, 10))
  assert beta**100 == pytest.approx(0.5, rel=1e-4)  # 100 x 10 = 1 kimg


def test_decay_starts_at_its_step():
  config = ema_config(decay=0.9999, start=20)
  assert float(schedules.ema_beta(config, 19, 64)) == 0.0
  assert float(schedules.ema_beta(config, 20, 64)) == pytest.approx(0.9999)


@pytest.mark.parametrize('images, expected', [
    (0, 2.0), (100, 2.0), (150, 1.5), (200, 1.0), (10_000, 1.0)])
def test_linear(images, expected):
  assert float(schedules.linear(float(images), 100, 200, 2.0, 1.0)
               ) == pytest.approx(expected)


def test_images_seen():
  assert float(schedules.images_seen(3, 64)) == 192
