"""SAGAN on ImageNet at 128 pixels (Zhang et al. 2019, arXiv:1805.08318).

Rows, with FID / IS, from memory but for feat32's, which others confirm:
  table 1   none 22.96 / 42.87, feat8 22.98 / 43.15, feat16 22.14 / 45.94,
            feat32 18.28 / 51.43, feat64 18.65 / 52.52
  figure 3  sn_d diverges early, sn_gd 33.4 at 160,000 steps and then worse,
            sn_gd_ttur 22.96
  code      the released code: attention at 32, Adam's beta2 0.999, batch
            statistics over each of four towers

Nobody has come near with open code: 28.5 to 51.8 are reported.

Data: python -m gans_jax.prepare --source=folder:imagenet/train/ \
    --out=data/imagenet128 --resolution=128 --crop=center --filter=bilinear
Command: python -m gans_jax.main \
    --config=experiments/sagan/imagenet128.py:row=feat32 \
    --workdir=runs/sagan_imagenet
Hardware: 4 GPUs for several weeks (the authors'), a TPU host; not timed.
Metric: fid50k_full and is50k.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import sagan

ROWS = {
    **sagan.ATTENTION,
    **sagan.STABILIZATION,
    'code': {'model.attention': '32', 'optimizer.G.b2': 0.999,
             'optimizer.D.b2': 0.999, 'model.bn_scope': 'group:64'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='feat64')
  config = config_lib.base('sagan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/imagenet128',
      'data.resolution': 128,
      'data.labels': 'class',
      'batch_size': 256,
      'total_steps': 1000_000,
      'evaluate_every': 10_000,
      'checkpoint_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    if config.model.attention != 'none':
      config.model.attention = '8'
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group',
        'model.bn_scope': 'global',
        'model.ch_G': 8,
        'model.ch_D': 8,
        'model.z_dim': 8,
    })
  return config
