"""ADA by the number of training images: FFHQ, 256x256 (figure 7c).

Karras et al. 2020, arXiv:2006.06676. Rows: images, and FID against all 70,000
for StyleGAN2, with ADA, with ADA and bCR (1k and from 70k on as others quote
them, the rest from memory):
  1k   100.16  21.29  22.61      30k   12.31   5.46   4.57
  5k    49.68  10.96  10.58      70k    5.28   4.30   3.91
  10k   30.74   8.13   7.53      140k   3.71   3.81   3.62

`augment=none` is StyleGAN2, `augment=ada` the default, and `bcr` adds balanced
consistency regularization. 140k is 70k mirrored. Subsets are drawn with this
project's generator, not the authors'.

Data: python -m gans_jax.prepare --source=folder:images1024x1024/ \
    --out=data/ffhq256 --resolution=256 --filter=box
    (with another filter the FID of 70k rises from 4.3 to 5.3)
Command: python -m gans_jax.main \
    --config=experiments/stylegan2_ada/ffhq256.py:row=1k,augment=ada \
    --workdir=runs/ada_ffhq256
Hardware: not timed. The authors: 25,000 kimg on 8 V100.
Metric: fid50k_full against all 70,000, best snapshot (python -m
gans_jax.evaluate --workdir=DIR --metrics=fid50k_full; the weights of Inception
are yours to fetch). fd5k_lite0 is logged, and is not FID.
"""

from gans_jax.augment import controller
from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2
from gans_jax.systems.stylegan2 import presets


def _row(images, baseline, ada, ada_bcr, **values):
  return {'data.limit': images, 'paper/fid_baseline': baseline,
          'paper/fid_ada': ada, 'paper/fid_ada_bcr': ada_bcr, **values}


ROWS = {
    '1k': _row(1000, 100.16, 21.29, 22.61),
    '5k': _row(5000, 49.68, 10.96, 10.58),
    '10k': _row(10_000, 30.74, 8.13, 7.53),
    '30k': _row(30_000, 12.31, 5.46, 4.57),
    '70k': _row(0, 5.28, 4.30, 3.91),
    '140k': _row(0, 3.71, 3.81, 3.62, **{'data.flip': True}),
}

# Of the trainer's --cmethod=bcr: shifts of 8 pixels of 256, no flips.
BCR = {'loss.consistency.real': 10.0, 'loss.consistency.fake': 10.0,
       'loss.consistency.shift': 1 / 32, 'loss.consistency.flip': False}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='1k', augment='ada', bcr=False,
                              float32=False)
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {
      'data.source': 'prepared:data/ffhq256',
      'data.resolution': 256,
      'augment.kind': args.augment,
      'evaluate_every': 12_500,
      'evaluate.whole_data': True,
      'checkpoint_every': 2500,
  })
  config_lib.check_choice(config, 'augment.kind', controller.KINDS)
  config_lib.assign(config, presets.values('paper256', float32=args.float32))
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.bcr:
    config_lib.assign(config, BCR)
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY,
                               'dtype': 'float32'})
  return config
