"""ProGAN on LSUN, 256x256, one network for each of 30 categories.

Karras et al. 2018, arXiv:1710.10196, figures 12 to 17. Rows: bedroom and dog
(whole sets, not mirrored), and cat, for the other 28: the first 100,000
images, mirrored.

Data: the images of one category cut to squares and resized by Lanczos's
    filter, as the authors' tool does,
    python -m gans_jax.prepare --source=folder:bedroom_train/ \
    --out=data/lsun_bedroom256 --resolution=256 --crop=center --filter=lanczos
Command: python -m gans_jax.main \
    --config=experiments/progan/lsun.py:row=bedroom \
    --workdir=runs/progan_bedroom
Hardware: one GPU; not timed.
Metric: the paper shows samples; fid50k is logged.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import progan

ROWS = {
    'bedroom': {'data.source': 'prepared:data/lsun_bedroom256'},
    'dog': {'data.source': 'prepared:data/lsun_dog256'},
    'cat': {'data.source': 'prepared:data/lsun_cat256', 'data.flip': True},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='bedroom')
  config = config_lib.base('progan')
  config_lib.assign(config, {
      'data.resolution': 256,
      'model.mbstd_group': 16,
      'growing.stable_kimg': 800.0,
      'growing.fade_kimg': 800.0,
      'optimizer.rampup_kimg': 40.0,
      'total_kimg': 20_000.0,
      'evaluate_every': 50_000,
      'checkpoint_every': 5000,
      'evaluate.metrics': ('fid50k',),
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **progan.TINY})
  return config
