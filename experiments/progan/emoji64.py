"""ProGAN on the shipped emoji, 64x64; nothing to download.

Karras et al. 2018, arXiv:1710.10196. Not in the paper. Rows: grow (4x4 to
64x64 in five stages and four fades), fixed (64x64 from the start), labels
(AC-GAN, by group).

Command: python -m gans_jax.main --config=experiments/progan/emoji64.py:cpu \
    --workdir=runs/progan_emoji64
Hardware: one GPU; with the argument cpu, a small net on two cores.
Metric: fd5k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import progan

ROWS = {
    'grow': {},
    'fixed': {'growing.first_resolution': 64, 'growing.stable_kimg': 0.0,
              'growing.fade_kimg': 0.0},
    'labels': {'model.conditional': True, 'data.labels': 'group'},
}

# A narrow net: forty minutes on one core.
CPU = {'model.fmap_base': 512, 'model.fmap_max': 64, 'model.z_dim': 64,
       'growing.stable_kimg': 12.0, 'growing.fade_kimg': 12.0,
       'growing.batch_sizes': (), 'growing.lr': (), 'batch_size': 16,
       'total_kimg': 150.0, 'log_every': 50, 'sample_every': 500,
       'checkpoint_every': 500, 'evaluate_every': 0, 'ema.decay': 0.99,
       'evaluate.metrics': ('fd1k_lite0',)}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='grow', cpu=False)
  config = config_lib.base('progan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'model.fmap_base': 4096,
      'model.fmap_max': 256,
      'model.z_dim': 256,
      'growing.stable_kimg': 100.0,
      'growing.fade_kimg': 100.0,
      'growing.batch_sizes': ((4, 128), (8, 128), (16, 64)),
      'batch_size': 32,
      'total_kimg': 1500.0,
      'evaluate_every': 5000,
  })
  if args.cpu:
    config_lib.assign(config, CPU)
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **progan.TINY})
    if args.row == 'fixed':
      config.growing.first_resolution = config.data.resolution
    if config.model.conditional:
      config.data.labels = 'group'
  return config
