"""StyleGAN on CelebA-HQ, 1024x1024, with WGAN-GP: table 1, left column.

Karras et al. 2019, arXiv:1812.04948. Rows A to F, with the paper's FID (from
memory, and from an independent public source): 7.79, 6.11, 5.34, 5.07, 5.06,
5.17. Row A is systems/progan.py.

Data: as experiments/progan/celebahq1024.py
Command: python -m gans_jax.main \
    --config=experiments/stylegan/celebahq.py:row=F \
    --workdir=runs/stylegan_celebahq
Hardware: eight V100 there; not timed here.
Metric: fid50k 5.06 (row E).
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import progan
from gans_jax.systems import stylegan

FID = {'A': 7.79, 'B': 6.11, 'C': 5.34, 'D': 5.07, 'E': 5.06, 'F': 5.17}
BASELINE = {**progan.PRESETS['v2-8gpus'],
            'growing.lr': stylegan.WGAN_GP['growing.lr'],
            'total_kimg': 25_000.0}
ROWS = {
    'A': {**BASELINE, 'paper/fid50k': FID['A']},
    **{row: {**stylegan.WGAN_GP, **values, 'paper/fid50k': FID[row]}
       for row, values in stylegan.TABLE_1.items()}}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='F')
  system = progan if args.row == 'A' else stylegan
  config = config_lib.base(system.__name__.split('.')[-1])
  config_lib.assign(config, {
      'data.source': 'prepared:data/celebahq1024',
      'data.resolution': 1024,
      'data.flip': True,
      'total_kimg': 25_000.0,
      'evaluate_every': 20_000,
      'checkpoint_every': 2500,
      'evaluate.metrics': ('fid50k',),
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **system.TINY})
  return config
