"""StyleGAN on LSUN bedrooms, cars and cats.

Karras et al. 2019, arXiv:1812.04948, appendix. Rows bedroom (256x256), car
(512x512 of which 512x384 are the picture, between black bars), cat (256x256);
whole sets, not mirrored.

Data: python -m gans_jax.prepare --source=folder:bedroom_train/ \
    --out=data/lsun_bedroom256 --resolution=256 --crop=center --filter=lanczos
Command: python -m gans_jax.main \
    --config=experiments/stylegan/lsun.py:row=bedroom \
    --workdir=runs/stylegan_bedroom
Hardware: eight V100 there; not timed here.
Metric: fid50k 2.65 bedroom, 3.27 car, 8.53 cat (from memory).
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan

ROWS = {
    'bedroom': {'data.source': 'prepared:data/lsun_bedroom256',
                'paper/fid50k': 2.65},
    'car': {'data.source': 'prepared:data/lsun_car512',
            'data.resolution': 512, 'paper/fid50k': 3.27},
    'cat': {'data.source': 'prepared:data/lsun_cat256', 'paper/fid50k': 8.53},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='bedroom')
  config = config_lib.base('stylegan')
  config_lib.assign(config, {
      'data.resolution': 256,
      'total_kimg': 25_000.0,
      'evaluate_every': 20_000,
      'checkpoint_every': 2500,
      'evaluate.metrics': ('fid50k',),
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan.TINY})
  return config
