"""StyleGAN2's table 2: generators and discriminators, FFHQ and LSUN cars.

Karras et al. 2020, section 4.1. Nine rows <G>_<D>, each of orig, skip,
resnet, at the width of config E; data= ffhq (1024x1024) or car (512x512).
The paper's FID / path length (from memory, the cell of E on FFHQ confirmed):

  FFHQ       D orig       D skip       D resnet
  G orig     4.32 / 265   4.18 / 235   3.58 / 269
  G skip     4.33 / 169   3.77 / 127   3.31 / 125
  G resnet   4.35 / 203   3.96 / 229   3.79 / 243

  car        D orig       D skip       D resnet
  G orig     3.75 / 905   3.23 / 758   3.25 / 802
  G skip     3.77 / 544   3.86 / 316   3.19 / 471
  G resnet   3.93 / 981   3.40 / 667   2.66 / 645

Data: as ffhq.py and lsun.py.
Command: python -m gans_jax.main \
    --config=experiments/stylegan2/table2.py:row=skip_resnet \
    --workdir=runs/stylegan2_table2
Hardware: not timed. The authors: 8 V100, 5 days 6 hours for skip_resnet.
Metric: as in ffhq.py.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2

# FID and path length on FFHQ, then on cars.
PAPER = {
    'orig_orig': (4.32, 265, 3.75, 905),
    'orig_skip': (4.18, 235, 3.23, 758),
    'orig_resnet': (3.58, 269, 3.25, 802),
    'skip_orig': (4.33, 169, 3.77, 544),
    'skip_skip': (3.77, 127, 3.86, 316),
    'skip_resnet': (3.31, 125, 3.19, 471),
    'resnet_orig': (4.35, 203, 3.93, 981),
    'resnet_skip': (3.96, 229, 3.40, 667),
    'resnet_resnet': (3.79, 243, 2.66, 645),
}
FIGURES = ('paper/fid', 'paper/ppl2_wend', 'paper/fid_car',
           'paper/ppl2_wend_car')
ROWS = {row: {**values, **dict(zip(FIGURES, PAPER[row], strict=True))}
        for row, values in stylegan2.TABLE_2.items()}
DATA = {
    'ffhq': {'data.source': 'prepared:data/ffhq1024', 'data.resolution': 1024,
             'data.flip': True, 'total_kimg': 25_000},
    'car': {'data.source': 'prepared:data/lsun_car', 'data.resolution': 512,
            'total_kimg': 57_000},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='skip_resnet', data='ffhq')
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {
      'evaluate_every': 12_500,
      'checkpoint_every': 2500,
  })
  config_lib.assign(config, config_lib.row(DATA, args.data))
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY})
  return config
