"""StyleGAN on the shipped emoji, 64x64; nothing to download.

Karras et al. 2019, arXiv:1812.04948. Not in the paper. Rows: B to F of table
1, wgan_gp, conditional (groups).

Command: python -m gans_jax.main --config=experiments/stylegan/emoji64.py:cpu \
    --workdir=runs/stylegan_emoji64
Hardware: one GPU; with the argument cpu, a small net on two cores.
Metric: fd5k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan

ROWS = {
    **stylegan.TABLE_1,
    'wgan_gp': {**stylegan.WGAN_GP, 'growing.lr': ()},
    'conditional': {'model.conditional': True, 'data.labels': 'group'},
}

# A narrow net: fifty minutes on one core.
CPU = {'model.fmap_base': 512, 'model.fmap_max': 64, 'model.z_dim': 64,
       'model.w_dim': 64, 'growing.batch_sizes': (), 'batch_size': 16,
       'growing.stable_kimg': 15.0, 'growing.fade_kimg': 15.0,
       'total_kimg': 150.0, 'log_every': 50, 'sample_every': 500,
       'checkpoint_every': 500, 'evaluate_every': 0, 'ema.kimg': 5.0,
       'evaluate.metrics': ('fd1k_lite0',)}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='F', cpu=False)
  config = config_lib.base('stylegan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'model.fmap_base': 4096,
      'model.fmap_max': 256,
      'model.z_dim': 256,
      'model.w_dim': 256,
      'growing.stable_kimg': 100.0,
      'growing.fade_kimg': 100.0,
      'growing.batch_sizes': ((8, 128), (16, 64)),
      'loss.r1_gamma': 1.0,
      'total_kimg': 1500.0,
      'evaluate_every': 5000,
  })
  if args.cpu:
    config_lib.assign(config, CPU)
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan.TINY})
    if config.model.conditional:
      config.data.labels = 'group'
  return config
