"""StyleGAN on FFHQ, 1024x1024: tables 1, 2 and 4 of the paper.

Karras et al. 2019, arXiv:1812.04948. Rows, with the paper's FID (from memory;
F: 4.4159 in the README of the authors' repository):

  A  ProGAN baseline   8.04    mix50          4.41
  B  + tuning          5.25    mix100         4.83
  C  + mapping, styles 4.85    traditional-8  4.87
  D  - old input       4.88    style-0        5.06
  E  + noise           4.42    style-1        4.60
  F  + mixing          4.40    style-2        4.43

E is table 2's 0%, F its 90% and table 4's style-based 8, B its traditional 0.
Row A is systems/progan.py with WGAN-GP, at the learning rates that it stands.
resolution=512 or 256 trains on smaller images (the code's ffhq512, ffhq256).

Data: the 70,000 aligned PNGs of 1024 pixels,
    python -m gans_jax.prepare --source=folder:ffhq/images1024x1024/ \
    --out=data/ffhq1024 --resolution=1024
Command: python -m gans_jax.main --config=experiments/stylegan/ffhq.py:row=F \
    --workdir=runs/stylegan_ffhq
Hardware: eight V100 there, 6 days 14 hours; not timed here.
Metric: fid50k 4.40; ppl50k_wfull 234.0 (table 3, F; from memory).
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import progan
from gans_jax.systems import stylegan

FID = {'A': 8.04, 'B': 5.25, 'C': 4.85, 'D': 4.88, 'E': 4.42, 'F': 4.40,
       'mix50': 4.41, 'mix100': 4.83, 'traditional-8': 4.87, 'style-0': 5.06,
       'style-1': 4.60, 'style-2': 4.43}
BASELINE = {**progan.PRESETS['v2-8gpus'],
            'growing.lr': stylegan.WGAN_GP['growing.lr'],
            'total_kimg': 25_000.0}
VALUES = {'A': BASELINE, **stylegan.TABLE_1, **stylegan.TABLE_2,
          **stylegan.TABLE_4}
ROWS = {row: {**VALUES[row], 'paper/fid50k': fid} for row, fid in FID.items()}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='F', resolution=1024)
  system = progan if args.row == 'A' else stylegan
  config = config_lib.base(system.__name__.split('.')[-1])
  config_lib.assign(config, {
      'data.source': f'prepared:data/ffhq{args.resolution}',
      'data.resolution': args.resolution,
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
