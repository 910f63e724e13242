"""GAN on CIFAR-10: Goodfellow et al. 2014 (1406.2661), figures 2c and 2d.

The released settings: row=mlp (figure 2c, cifar10_fully_connected.yaml; 89 M
and 37 M parameters) and row=conv (figure 2d, cifar10_convolutional.yaml; 65 M
and 12 M). 40,000 images, the last 10,000 being for validation.

Data: tfds:cifar10, or the archive, `--config.data.source=cifar:PATH` and
`--config.data.split=train` for all 50,000 images.
Command: python -m gans_jax.main --config=experiments/gan/cifar10.py:row=conv \
    --workdir=runs/gan_cifar10
Hardware: one GPU; 2 GB for the state of row=mlp.
Time: 100,000 steps (250 to 320 epochs); not measured on a GPU.
Metric: published: samples alone, no figure; fd5k_lite0 here (not FID). Not
run in full by us.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'mlp': {
        'model.variant': 'cifar_mlp',
        'model.d_units': 1600,
        'batch_size': 100,
        'optimizer.G.lr': 0.025,
        'optimizer.D.lr': 0.025,
        'optimizer.G.momentum_ramp': 100_000,  # 250 epochs of 400 updates
        'optimizer.D.momentum_ramp': 100_000,
    },
    'conv': {
        'model.variant': 'cifar_conv',
        'batch_size': 128,
        'optimizer.G.lr': 0.004,
        'optimizer.D.lr': 0.004,
        'optimizer.G.momentum_ramp': 78_125,  # 250 epochs of 312.5
        'optimizer.D.momentum_ramp': 78_125,
    },
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='conv')
  config = config_lib.base('gan')
  config_lib.assign(config, {
      'data.source': 'tfds:cifar10',
      'data.split': 'train[:40000]',
      'data.resolution': 32,
      'model.z': 'normal',       # the code's default noise
      'model.g_hidden': 8000,
      'total_steps': 100_000,
      'log_every': 500,
      'sample_every': 5000,
      'checkpoint_every': 5000,
      'sample.rows': 10,
      'sample.columns': 10,
      **config_lib.row(ROWS, args.row),
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'data.split': 'train', 'data.resolution': 32,
        'model.z_dim': 8, 'model.g_hidden': 16, 'model.d_units': 8})
  return config
