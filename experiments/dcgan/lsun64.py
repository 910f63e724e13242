"""DCGAN on LSUN bedrooms, 64x64 (Radford et al. 2015, figures 2 and 3).

Rows: pytorch (pytorch/examples: 4x4 kernels, 64 channels, z normal),
torch (the same net, soumith/dcgan.torch's order of updates), paper (5x5
kernels, 128 channels, dense ends, z uniform, batch 128: Newmu/dcgan_code).

Data: python -m gans_jax.prepare --source=folder:bedroom_train/ \
    --out=data/lsun_bedroom64 --resolution=64 --crop=center --filter=bilinear
Command: python -m gans_jax.main \
    --config=experiments/dcgan/lsun64.py:row=paper \
    --workdir=runs/dcgan_lsun64
Hardware: one GPU or one TPU host; not timed.
Metric: the paper shows samples after one and five epochs and gives no number.
fd5k_lite0 is logged; it is not FID.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import dcgan

IMAGES = 3_033_042
ROWS = {
    'pytorch': {},
    'torch': {'loss.schedule': 'torch'},
    'paper': dcgan.PAPER,
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='pytorch', epochs=5)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/lsun_bedroom64',
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
