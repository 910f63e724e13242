"""ProGAN's table 1: CelebA and LSUN bedrooms at 128x128, rows a to h.

Karras et al. 2018, arXiv:1710.10196. 10 million images shown, in the Theano
code's settings; CelebA is mirrored, LSUN is not.

  a   Gulrajani et al. 2017        f   e + equalized learning rate
  b   a + progressive growing      g   f + pixelwise normalization
  c   b + small minibatch          h   g at full capacity, trained longer
  d   c + revised training         e*  d + minibatch discrimination
  e   d + minibatch stddev

The published figures below are SWD x 1000, the mean of four levels, and
MS-SSIM, from memory; those of SWD of a, b, c, h and of MS-SSIM of a and h
also from an independent public source.

Data: img_align_celeba (178 x 218) cut to columns 25 to 152 and rows 57 to
    184, with any tool, then
    python -m gans_jax.prepare --source=folder:celeba_cut/ \
    --out=data/celeba128 --resolution=128
Command: python -m gans_jax.main \
    --config=experiments/progan/celeba128.py:row=g,data=celeba \
    --workdir=runs/progan_celeba128_g
Hardware: one GPU; not timed.
Metric: swd16k, msssim20k.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import progan

# (CelebA SWD, MS-SSIM), (LSUN bedroom SWD, MS-SSIM).
PUBLISHED = {
    'a': ((9.28, .2854), (11.25, .0587)),
    'b': ((4.28, .2838), (7.60, .0615)),
    'c': ((46.23, .4065), (49.52, .1061)),
    'd': ((8.07, .3027), (6.54, .0662)),
    'e*': ((9.84, .3057), (8.43, .0648)),
    'e': ((7.04, .2950), (6.48, .0671)),
    'f': ((4.39, .2902), (4.02, .0668)),
    'g': ((3.56, .2845), (4.01, .0640)),
    'h': ((2.96, .2828), (3.31, .0636)),
}
ROWS = {
    row: {**values, 'paper/celeba': PUBLISHED[row][0],
          'paper/lsun_bedroom': PUBLISHED[row][1]}
    for row, values in progan.TABLE_1.items()}
DATA = {
    'celeba': {'data.source': 'prepared:data/celeba128', 'data.flip': True},
    'bedroom': {'data.source': 'prepared:data/lsun_bedroom128'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='g', data='celeba')
  config = config_lib.base('progan')
  config_lib.assign(config, {
      'data.resolution': 128,
      'evaluate_every': 50_000,
      'checkpoint_every': 5000,
      'evaluate.metrics': ('swd16k', 'msssim20k'),
  })
  config_lib.assign(config, config_lib.row(DATA, args.data))
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **progan.TINY})
    if args.row == 'a':  # does not grow
      config.growing.first_resolution = config.data.resolution
  return config
