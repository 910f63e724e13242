"""WGAN-GP on the shipped emoji, 64x64; nothing to download.

Rows: pyramid (the ResNet that the authors' code recommends at 64 pixels),
dcgan, one_sided (section 4), jvp (the penalty by forward mode: the same
gradient, for comparing speed).

Command: python -m gans_jax.main --config=experiments/wgan_gp/emoji64.py \
    --workdir=runs/wgan_gp_emoji64
Hardware: one GPU; not timed.
Metric: fd5k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import wgan_gp

PYRAMID = {**wgan_gp.ARCHITECTURES['dcgan'], 'ema.decay': 0.999,
           'model.G': 'resnet_pyramid', 'model.D': 'resnet_pyramid'}
ROWS = {
    'pyramid': PYRAMID,
    'dcgan': {**wgan_gp.ARCHITECTURES['dcgan'], 'ema.decay': 0.999},
    'one_sided': {**PYRAMID, 'loss.penalty': 'wgan_lp'},
    'jvp': {**PYRAMID, 'loss.penalty_form': 'jvp'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='pyramid')
  config = config_lib.base('wgan_gp')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'total_steps': 20_000,
      'evaluate_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        'data.source': 'emoji:noto',
        'data.resolution': 16,
        'data.channels': 3,
        'data.labels': 'none',
        'data.limit': 64,
        'model.dim_G': 4,
        'model.dim_D': 4,
        'model.z_dim': 8,
        'batch_size': 8,
        'total_steps': 6,
        'total_kimg': 0.0,
        'log_every': 2,
        'sample_every': 3,
        'checkpoint_every': 2,
        'evaluate_every': 0,
    })
  return config
