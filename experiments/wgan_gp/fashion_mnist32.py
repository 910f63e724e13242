"""WGAN-GP on Fashion-MNIST, padded to 32x32, grey.

Not in the paper; its ResNet for CIFAR-10 (row=supervised: with labels).

Data: python -m gans_jax.prepare --source=idx:fashion-mnist/ \
    --out=data/fashion32 --resolution=32 --crop=pad --channels=1
Command: python -m gans_jax.main \
    --config=experiments/wgan_gp/fashion_mnist32.py --workdir=runs/gp_fashion
Hardware: any GPU; not timed.
Metric: fd5k_lite0 is logged; it is not FID. For orientation, the large-scale
study (1711.10337) has FID 24.5 +- 2.1 for WGAN-GP with another network.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'unsupervised': {},
    'supervised': {'model.conditional': True, 'data.labels': 'class'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='unsupervised')
  config = config_lib.base('wgan_gp')
  config_lib.assign(config, {
      'data.source': 'prepared:data/fashion32',
      'data.resolution': 32,
      'data.channels': 1,
      'total_steps': 20_000,
      'evaluate_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        'data.source': 'emoji:noto',
        'data.resolution': 16,
        'data.channels': 3,
        'data.labels': 'group' if config.model.conditional else 'none',
        'data.limit': 64,
        'model.dim_G': 4,
        'model.dim_D': 4,
        'model.z_dim': 8,
        'batch_size': 8,
        'total_steps': 6,
        'total_kimg': 0.0,
        'log_every': 2,
        'sample_every': 3,
        'checkpoint_every': 2,
        'evaluate_every': 0,
    })
  return config
