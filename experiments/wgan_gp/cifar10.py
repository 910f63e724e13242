"""WGAN-GP on CIFAR-10 (Gulrajani et al. 2017, table 3).

Rows, with the published Inception score on 50,000 images:
  unsupervised  ResNet                              7.86 +- .07
  supervised    ResNet, conditional, AC-GAN critic  8.42 +- .10
  conv          gan_cifar.py of the authors' code   not in the table

Others have found 8.15 to 8.3 for the supervised row with the authors' own
code (improved_wgan_training#33).

Command: python -m gans_jax.main \
    --config=experiments/wgan_gp/cifar10.py:row=supervised \
    --workdir=runs/wgan_gp_cifar10
    (data: the archive, at data/cifar-10-python.tar.gz)
Hardware: one GPU; not timed. The code: 100,000 generator updates on two GPUs.
Metric: is50k, by batch statistics as the authors' code: python -m
gans_jax.evaluate --workdir=DIR --metrics=is50k --batch_norm=batch (the weights
of the network of 2015 are yours to fetch). fd5k_lite0 is logged, and is
neither IS nor FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'unsupervised': {'paper/is': '7.86 +- .07'},
    'supervised': {'model.conditional': True, 'data.labels': 'class',
                   'paper/is': '8.42 +- .10'},
    'conv': {'model.G': 'conv', 'model.D': 'conv',
             'loss.generator_batches': 1, 'loss.dequantize': False,
             'optimizer.G.lr': 1e-4, 'optimizer.D.lr': 1e-4,
             'optimizer.G.b1': 0.5, 'optimizer.D.b1': 0.5,
             'optimizer.G.lr_schedule': 'constant',
             'optimizer.D.lr_schedule': 'constant',
             'total_steps': 200_000},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='unsupervised')
  config = config_lib.base('wgan_gp')
  config_lib.assign(config, {
      'data.source': 'cifar:data/cifar-10-python.tar.gz',
      'data.resolution': 32,
      'total_steps': 100_000,
      'evaluate_every': 10_000,
      'checkpoint_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group' if config.model.conditional else 'none',
        'model.dim_G': 4,
        'model.dim_D': 4,
        'model.z_dim': 8,
    })
  return config
