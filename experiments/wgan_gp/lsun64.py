"""WGAN-GP on LSUN bedrooms, 64x64: figure 2, any architecture by any method.

Gulrajani et al. 2017, arXiv:1704.00028.
Rows (figure 2, top to bottom): dcgan, constant (no batch norm and the same
number of filters everywhere in G), mlp (4 layers of 512 ReLU units as G),
no_norm (in neither net), gated, tanh, resnet101; and pyramid, the ResNet that
the authors' code recommends. Methods (left to right): dcgan, lsgan, wgan,
wgan_gp.

Data: python -m gans_jax.prepare --source=folder:bedroom_train/ \
    --out=data/lsun_bedroom64 --resolution=64 --crop=center --filter=bilinear
Command: python -m gans_jax.main \
    --config=experiments/wgan_gp/lsun64.py:row=tanh,method=lsgan \
    --workdir=runs/wgan_gp_lsun64
Hardware: one GPU or one TPU host; not timed. The code: 200,000 updates.
Metric: the paper shows samples: only WGAN-GP trains every row.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import wgan_gp

ROWS = {
    **wgan_gp.ARCHITECTURES,
    'pyramid': {**wgan_gp.ARCHITECTURES['dcgan'],
                'model.G': 'resnet_pyramid', 'model.D': 'resnet_pyramid'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='dcgan', method='wgan_gp')
  config = config_lib.base('wgan_gp')
  config_lib.assign(config, {
      'data.source': 'prepared:data/lsun_bedroom64',
      'data.resolution': 64,
      'total_steps': 200_000,
      'evaluate_every': 10_000,
      'checkpoint_every': 5000,
  })
  row = config_lib.row(ROWS, args.row)
  config_lib.assign(config, wgan_gp.method(args.method, row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.dim_G': 4,
        'model.dim_D': 4,
        'model.z_dim': 8,
    })
  return config
