"""WGAN-GP on Fashion-MNIST, padded to 32x32, grey.

Gulrajani et al. 2017, arXiv:1704.00028.
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

# The run whose figures README.md has: minutes on two cores.
CPU = {'model.dim_G': 16, 'model.dim_D': 16, 'batch_size': 32,
       'total_steps': 1000, 'log_every': 20, 'sample_every': 200,
       'checkpoint_every': 500, 'evaluate_every': 500,
       'optimizer.G.lr': 5e-4, 'optimizer.D.lr': 5e-4,
       'evaluate.metrics': ('fd1k_lite0',)}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='unsupervised', cpu=False)
  config = config_lib.base('wgan_gp')
  config_lib.assign(config, {
      'data.source': 'prepared:data/fashion32',
      'data.resolution': 32,
      'data.channels': 1,
      'total_steps': 20_000,
      'evaluate_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group' if config.model.conditional else 'none',
        'model.dim_G': 4,
        'model.dim_D': 4,
        'model.z_dim': 8,
    })
  return config
