"""Settings of the official trainer of StyleGAN2-ADA, by its option --cfg.

NVlabs/stylegan2-ada-pytorch, train.py; 'cifarbaseline' is in the TensorFlow
repository alone. Karras et al. 2020, arXiv:2006.06676, appendix C.

  stylegan2         config F of StyleGAN2
  paper256, paper512, paper1024   the ADA paper
  cifar             tuned for CIFAR-10: no path length, no style mixing, a
                    discriminator without residual connections
  cifarbaseline     the same without these three changes, 8 mapping layers
  auto              by resolution and number of devices

With float32=False, the four highest resolutions compute in bfloat16, where
the trainer has float16; it clamps activations to 256 in both.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from ml_collections import config_dict

from gans_jax.core import config as config_lib
from gans_jax.core import errors

ConfigDict = config_dict.ConfigDict


@dataclasses.dataclass(frozen=True)
class Preset:
  """One row of the trainer's table.

  Attributes:
    kimg: length of training, in thousands of images.
    batch: images in a step.
    mbstd: group of the minibatch standard deviation.
    width: 1 for channel_base 32768.
    lr: learning rate of G and D.
    gamma: weight of R1.
    ema_kimg: half-life of the average.
    rampup: of the average; 0 for none.
    mapping: layers of the mapping network.
    devices: on which it was made (mbstd groups are parts of batch / devices).
  """

  kimg: float
  batch: int
  mbstd: int
  width: float
  lr: float
  gamma: float
  ema_kimg: float
  rampup: float
  mapping: int
  devices: int


TABLE = {
    #                         kimg  batch mbstd width lr    gamma ema ramp map g
    'stylegan2': Preset(25_000.0, 32, 4, 1.0, 0.0020, 10.0, 10.0, 0.0, 8, 8),
    'paper256': Preset(25_000.0, 64, 8, 0.5, 0.0025, 1.0, 20.0, 0.0, 8, 8),
    'paper512': Preset(25_000.0, 64, 8, 1.0, 0.0025, 0.5, 20.0, 0.0, 8, 8),
    'paper1024': Preset(25_000.0, 32, 4, 1.0, 0.0020, 2.0, 10.0, 0.0, 8, 8),
    'cifar': Preset(100_000.0, 64, 32, 1.0, 0.0025, 0.01, 500.0, 0.05, 2, 2),
    'cifarbaseline':
        Preset(100_000.0, 64, 32, 1.0, 0.0025, 0.01, 500.0, 0.05, 8, 2),
}
NAMES = ('auto', *TABLE)

# What 'cifar' changes beside the table.
CIFAR = {'loss.pl_weight': 0.0, 'loss.style_mixing': 0.0, 'model.D': 'orig'}
# Transfer learning: p moves faster, and the average is good from the start.
RESUME = {'augment.kimg': 100.0, 'ema.rampup': 0.0}


def auto(resolution: int, devices: int) -> Preset:
  """The rule of 'auto': the largest batch up to 64 that memory allows.

  Args:
    resolution: in pixels.
    devices: that train together, of 16 GB in the authors' case.
  """
  batch = max(min(devices * min(4096 // resolution, 32), 64), devices)
  return Preset(
      kimg=25_000.0, batch=batch, mbstd=min(batch // devices, 4),
      width=1.0 if resolution >= 512 else 0.5,
      lr=0.002 if resolution >= 1024 else 0.0025,
      gamma=0.0002 * resolution**2 / batch, ema_kimg=batch * 10 / 32,
      rampup=0.05, mapping=2, devices=devices)


def values(name: str, resolution: int = 0, devices: int = 0,
           float32: bool = False) -> dict[str, Any]:
  """Returns {dotted key: value} of a preset, for `config.assign`.

  Args:
    name: of `NAMES`.
    resolution: in pixels; needed for 'auto' alone.
    devices: for 'auto': that train together. The other presets are what they
      are on any number.
    float32: computes in float32 throughout.

  Raises:
    UserError: no such preset, or 'auto' without resolution and devices.
  """
  if name not in NAMES:
    raise errors.UserError(
        f'There is no preset {name!r}. {config_lib.nearest(name, NAMES)} '
        f'Presets: {", ".join(NAMES)}.')
  preset = TABLE.get(name)
  if preset is None:
    if resolution < 4 or devices < 1:
      raise errors.UserError(
          f"The preset 'auto' was given resolution {resolution} and {devices} "
          'devices. It needs both: the resolution of the data, and the number '
          'of devices that train together.')
    preset = auto(resolution, devices)
  result = {
      'preset.name': name, 'preset.devices': preset.devices,
      **_assigned(preset),
      'model.conv_clamp': 256.0, 'model.bf16_blocks': 4,
      'dtype': 'float32' if float32 else 'bfloat16',
  }
  return {**result, **CIFAR} if name == 'cifar' else result


def _assigned(preset: Preset) -> dict[str, Any]:
  """The keys that the table's columns set."""
  return {
      'total_kimg': preset.kimg, 'batch_size': preset.batch,
      'model.mbstd_group': preset.mbstd,
      'model.channel_base': int(preset.width * 32768),
      'model.mapping_layers': preset.mapping,
      'optimizer.G.lr': preset.lr, 'optimizer.D.lr': preset.lr,
      'loss.r1_gamma': preset.gamma,
      'ema.kimg': preset.ema_kimg, 'ema.rampup': preset.rampup,
  }


def notes(config: ConfigDict, resolution: int) -> tuple[str, ...]:
  """Says which rule a config follows and where it does not.

  Args:
    config: with `preset.name`, '' for none, and `preset.devices`.
    resolution: of the data.

  Returns:
    Sentences for the plan of the run.
  """
  name, devices = config.preset.name, config.preset.devices
  if not name:
    return ()
  expected = values(name, resolution, devices, config.dtype == 'float32')
  by = f'for {resolution} px on {devices} device(s)' if name == 'auto' else (
      f'made on {devices} devices')
  line = (f'preset {name}, {by}: batch {expected["batch_size"]}, mbstd '
          f'{expected["model.mbstd_group"]}, channel_base '
          f'{expected["model.channel_base"]}, lr '
          f'{expected["optimizer.G.lr"]:g}, R1 gamma '
          f'{expected["loss.r1_gamma"]:g}, EMA {expected["ema.kimg"]:g} kimg, '
          f'ramp-up {expected["ema.rampup"]:g}, '
          f'{expected["model.mapping_layers"]} mapping layers, '
          f'{expected["total_kimg"]:g} kimg')
  return (line, *_differences(config, expected))


def _differences(config: ConfigDict,
                 expected: Mapping[str, Any]) -> tuple[str, ...]:
  found = config_lib.flatten(config)
  changed = [f'{key}={found[key]} (preset: {value})'
             for key, value in expected.items() if found[key] != value]
  return (f'changed from the preset: {", ".join(changed)}',) if changed else ()
