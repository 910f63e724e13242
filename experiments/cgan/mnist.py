"""Conditional GAN on MNIST, by digit.

Mirza & Osindero 2014, arXiv:1411.1784, section 4.1 (`:row=mlp`), and the
conditional DCGAN of Newmu/dcgan_code (`:row=conv`).

Data: the IDX files, `--config.data.source=idx:PATH`, or tfds:mnist.
Command: python -m gans_jax.main --config=experiments/cgan/mnist.py:row=mlp \
    --workdir=runs/cgan_mnist --config.data.source=idx:PATH
Hardware: any; a GPU takes under an hour.
Metric: published: Parzen log-likelihood 132 +- 1.8 (from memory), which is not
implemented; fd5k_lite0 here (not FID). Not run by us.
"""

from gans_jax.core import config as config_lib
from gans_jax.core import optimizers

ROWS = {
    'mlp': {'model.variant': 'mlp', 'model.z': 'unit', 'batch_size': 100,
            'loss.l2': 0.0},
    'conv': {'batch_size': 128},
}
# Section 4.1: 0.1, divided by 1.00004 per update down to 1e-6; momentum to 0.7.
SGD = dict(momentum=0.5, momentum_end=0.7, momentum_ramp=125_000,
           lr_decay=1.00004, lr_min=1e-6)


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='mlp')
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'data.source': 'tfds:mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'data.labels': 'class',
      'total_steps': 100_000,
      'sample.rows': 10,
      'sample.columns': 10,
      'sample_every': 2000,
      'checkpoint_every': 10_000,
      **config_lib.row(ROWS, args.row),
  })
  if args.row == 'mlp':
    for player in ('G', 'D'):
      config.optimizer[player] = optimizers.default_config('sgd', 0.1, **SGD)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'data.labels': 'group', 'model.ch': 8,
        'model.fc': 16, 'model.width': 0.05})
  return config
