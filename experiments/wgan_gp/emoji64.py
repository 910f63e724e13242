"""WGAN-GP on the shipped emoji, 64x64; nothing to download.

Gulrajani et al. 2017, arXiv:1704.00028.
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

# The run whose figures README.md has: minutes on two cores.
CPU = {'model.dim_G': 16, 'model.dim_D': 16, 'batch_size': 32,
       'total_steps': 1000, 'log_every': 20, 'sample_every': 200,
       'checkpoint_every': 500, 'evaluate_every': 500, 'ema.decay': 0.99,
       'optimizer.G.lr': 5e-4, 'optimizer.D.lr': 5e-4,
       'evaluate.metrics': ('fd1k_lite0',)}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='pyramid', cpu=False)
  config = config_lib.base('wgan_gp')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'total_steps': 20_000,
      'evaluate_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.dim_G': 4,
        'model.dim_D': 4,
        'model.z_dim': 8,
    })
  return config
