"""DCGAN on CelebA, 64x64, pytorch/examples' settings: 25 epochs.

Radford, Metz & Chintala 2015, arXiv:1511.06434.
The paper's faces (section 5, figures 7 and 8: 350,000 images scraped from the
web) were never published; CelebA has taken their place in the field.

Data: python -m gans_jax.prepare --source=folder:img_align_celeba/ \
    --out=data/celeba64 --resolution=64 --crop=center --filter=bilinear
Command: python -m gans_jax.main --config=experiments/dcgan/celeba64.py \
    --workdir=runs/dcgan_celeba64
Hardware: one GPU; not timed.
Metric: none in the paper. fd5k_lite0 is logged; it is not FID.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import dcgan

IMAGES = 202_599
ROWS = {
    'pytorch': {},
    'torch': {'loss.schedule': 'torch'},
    'paper': dcgan.PAPER,
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='pytorch', epochs=25)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/celeba64',
      'data.resolution': 64,
      'total_kimg': args.epochs * IMAGES / 1000,
      'evaluate_every': 10_000,
      'checkpoint_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.ngf': 4,
        'model.ndf': 4,
    })
  return config
