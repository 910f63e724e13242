"""Conditional GAN on Fashion-MNIST, by the ten kinds of clothing.

Mirza & Osindero 2014, arXiv:1411.1784; not in the paper: the convolutional net
of experiments/cgan/mnist.py:row=conv (Newmu/dcgan_code) on 60,000 images.

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:fashion_mnist.
Command: python -m gans_jax.main --config=experiments/cgan/fashion_mnist.py \
    --workdir=runs/cgan_fashion --config.data.source=idx:FOLDER
Hardware: one GPU.
Time: 47,000 steps (100 epochs); not measured on a GPU.
Metric: fd5k_lite0 (not FID). Not run in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'data.source': 'tfds:fashion_mnist',
      'data.labels': 'class',
      'data.resolution': 28,
      'data.channels': 1,
      'batch_size': 128,
      'total_steps': 47_000,
      'log_every': 500,
      'sample_every': 5000,
      'checkpoint_every': 5000,
      'sample.rows': 10,
      'sample.columns': 10,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'data.labels': 'group', 'model.ch': 8,
        'model.fc': 16})
  return config
