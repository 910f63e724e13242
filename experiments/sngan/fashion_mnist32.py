"""SNGAN on Fashion-MNIST, padded to 32x32, grey, by its ten classes.

Miyato et al. 2018, arXiv:1802.05957 and 1802.05637. Not in the papers; the
network and settings are those for CIFAR-10.

Rows: projection, acgan, concat, and none (no labels at all).

Data: python -m gans_jax.prepare --source=idx:fashion-mnist/ \
    --out=data/fashion32 --resolution=32 --crop=pad --channels=1
Command: python -m gans_jax.main \
    --config=experiments/sngan/fashion_mnist32.py:cpu \
    --workdir=runs/sngan_fashion
Hardware: any GPU; `cpu` is a small form, 6 minutes of one core.
Metric: fd5k_lite0 is logged; it is not FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'projection': {},
    'acgan': {'model.conditioning': 'acgan'},
    'concat': {'model.conditioning': 'concat'},
    'none': {'model.conditioning': 'none', 'data.labels': 'none'},
}

CPU = {'model.ch_G': 32, 'model.ch_D': 32, 'batch_size': 32,
       'loss.n_critic': 2, 'loss.generator_batches': 1, 'total_steps': 2000,
       'log_every': 20, 'sample_every': 200, 'checkpoint_every': 500,
       'evaluate_every': 500, 'evaluate.metrics': ('fd1k_lite0',),
       'optimizer.G.lr_schedule': 'constant',
       'optimizer.D.lr_schedule': 'constant', 'ema.decay': 0.99}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='projection', cpu=False)
  config = config_lib.base('sngan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/fashion32',
      'data.resolution': 32,
      'data.channels': 1,
      'data.labels': 'class',
      'total_steps': 20_000,
      'sample.rows': 10,
      'sample.columns': 10,
      'evaluate_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    labels = 'none' if config.model.conditioning == 'none' else 'group'
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': labels,
        'loss.n_critic': 2,
        'model.ch_G': 4,
        'model.ch_D': 4,
        'model.z_dim': 8,
    })
  return config
