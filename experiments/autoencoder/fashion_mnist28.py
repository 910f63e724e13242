"""Autoencoder on Fashion-MNIST, 28 x 28, grey.

Hinton & Salakhutdinov 2006 (Science 313) in convolutional form; a code of 64
numbers. Not in the paper (the data are of 2017). The reconstruction that a
VAE and a VQ-VAE of the same size are compared with.

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:fashion_mnist.
Command: python -m gans_jax.main \
    --config=experiments/autoencoder/fashion_mnist28.py \
    --workdir=runs/ae_fashion --config.data.source=idx:FOLDER
Hardware: one GPU, or a CPU of two cores.
Time: 20,000 steps; not timed.
Metric: psnr and fd5k_lite0 of reconstructions (not FID). Not run in full.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('autoencoder')
  config_lib.assign(config, {
      'data.source': 'tfds:fashion_mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'model.dense': 64,
      'batch_size': 128,
      'total_steps': 20_000,
      'log_every': 100,
      'sample_every': 2000,
      'checkpoint_every': 2000,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.hidden': 8, 'model.residual_hidden': 4,
        'model.residual_layers': 1, 'model.code_dim': 4,
        'model.dense': 8,
    })
  return config
