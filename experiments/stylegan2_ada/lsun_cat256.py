"""ADA by the number of training images: LSUN cat, 256x256 (figure 7c).

Karras et al. 2020, arXiv:2006.06676. Rows: images, and FID against 200,000 for
StyleGAN2, with ADA, with ADA and bCR (from memory):
  1k   186.91  43.25  38.82      30k   15.90  10.50   9.68
  5k    96.44  16.95  16.80      100k   8.56   9.26   8.73
  10k   50.66  13.13  12.90      200k   7.98   9.22   9.03

Arguments as in ffhq256.py.

Data: python -m gans_jax.prepare --source=folder:cat/ --out=data/lsun_cat \
    --resolution=256 --crop=center
    (the authors take 200,000 of the images; --limit=200000 draws as many)
Command: python -m gans_jax.main \
    --config=experiments/stylegan2_ada/lsun_cat256.py:row=10k,augment=ada \
    --workdir=runs/ada_lsun_cat
Hardware: not timed. The authors: 25,000 kimg on 8 V100.
Metric: as in ffhq256.py.
"""

from gans_jax.augment import controller
from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2
from gans_jax.systems.stylegan2 import presets


def _row(images, baseline, ada, ada_bcr):
  return {'data.limit': images, 'paper/fid_baseline': baseline,
          'paper/fid_ada': ada, 'paper/fid_ada_bcr': ada_bcr}


ROWS = {
    '1k': _row(1000, 186.91, 43.25, 38.82),
    '5k': _row(5000, 96.44, 16.95, 16.80),
    '10k': _row(10_000, 50.66, 13.13, 12.90),
    '30k': _row(30_000, 15.90, 10.50, 9.68),
    '100k': _row(100_000, 8.56, 9.26, 8.73),
    '200k': _row(200_000, 7.98, 9.22, 9.03),
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='10k', augment='ada', float32=False)
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {
      'data.source': 'prepared:data/lsun_cat',
      'data.resolution': 256,
      'augment.kind': args.augment,
      'evaluate_every': 12_500,
      'evaluate.whole_data': True,
      'checkpoint_every': 2500,
  })
  config_lib.check_choice(config, 'augment.kind', controller.KINDS)
  config_lib.assign(config, presets.values('paper256', float32=args.float32))
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY,
                               'dtype': 'float32'})
  return config
