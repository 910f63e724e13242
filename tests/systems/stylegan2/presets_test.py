"""Presets of the official trainer: its table, the rule of 'auto', notes."""

import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.systems.stylegan2 import presets


# (resolution, devices): batch, gamma; the figures printed by the official
# train.py --dry-run.
@pytest.mark.parametrize('resolution, devices, batch, gamma', [
    (128, 1, 32, 0.1024), (256, 1, 16, 0.8192), (256, 8, 64, 0.2048),
    (512, 8, 64, 0.8192), (1024, 1, 4, 52.4288), (1024, 8, 32, 6.5536),
])
def test_auto(resolution, devices, batch, gamma):
  preset = presets.auto(resolution, devices)
  assert preset.batch == batch
  assert preset.gamma == pytest.approx(gamma, rel=1e-9)
  assert preset.mbstd == min(batch // devices, 4)
  assert preset.ema_kimg == batch * 10 / 32
  assert preset.width == (1.0 if resolution >= 512 else 0.5)
  assert preset.lr == (0.002 if resolution >= 1024 else 0.0025)
  assert (preset.mapping, preset.rampup) == (2, 0.05)


def test_auto_gives_every_device_an_image():
  assert presets.auto(256, 128).batch == 128
  assert presets.auto(256, 128).mbstd == 1


def test_presets_set_keys_that_exist():
  for name in presets.NAMES:
    config = config_lib.base('stylegan2')
    config_lib.assign(config, presets.values(name, 256, 8))
    assert config.preset.name == name
    assert config_lib.total_steps(config) > 100_000
    assert config.dtype == 'bfloat16' and config.model.conv_clamp == 256
    if name != 'cifar':
      assert config.model.D == 'resnet' and config.loss.style_mixing == 0.9


def test_cifar_and_its_baseline():
  cifar = presets.values('cifar', float32=True)
  assert cifar['dtype'] == 'float32'
  assert (cifar['model.D'], cifar['loss.pl_weight'],
          cifar['loss.style_mixing']) == ('orig', 0.0, 0.0)
  assert (cifar['batch_size'], cifar['model.mbstd_group'],
          cifar['loss.r1_gamma'], cifar['ema.kimg']) == (64, 32, 0.01, 500.0)
  baseline = presets.values('cifarbaseline', float32=True)
  changed = {k: v for k, v in cifar.items() if baseline.get(k) != v}
  assert changed == {'preset.name': 'cifar', 'model.mapping_layers': 2,
                     **presets.CIFAR}


def test_refuses():
  with pytest.raises(errors.UserError, match='paper256'):
    presets.values('paper265')
  with pytest.raises(errors.UserError, match='resolution 256 and 0 devices'):
    presets.values('auto', 256)


def test_notes_say_the_rule_and_what_differs():
  config = config_lib.base('stylegan2')
  assert presets.notes(config, 256) == ()
  config_lib.assign(config, presets.values('auto', 256, 8))
  (line,) = presets.notes(config, 256)
  for words in ('preset auto, for 256 px on 8 device(s)', 'batch 64',
                'mbstd 4', 'channel_base 16384', 'R1 gamma 0.2048',
                'EMA 20 kimg'):
    assert words in line
  config.loss.r1_gamma = 1.0
  _, changed = presets.notes(config, 256)
  assert changed == ('changed from the preset: loss.r1_gamma=1.0 '
                     '(preset: 0.2048)')
