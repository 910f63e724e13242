"""GAN on Fashion-MNIST, with the MNIST setting of Goodfellow et al. 2014.

Not in the paper (the data are of 2017). The nearest published figure is for
other nets: NS GAN 26.5 +- 1.6 FID, with the large-scale study's protocol
(1711.10337: 10,000 generated against 10,000 test images, InceptionV3).

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:fashion_mnist.
Command: python -m gans_jax.main --config=experiments/gan/fashion_mnist.py \
    --workdir=runs/gan_fashion --config.data.source=idx:FOLDER
Hardware: one GPU, or a CPU of two cores; not timed.
Time: 125,000 steps.
Metric: fd5k_lite0 (not FID). Not run in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('gan')
  config_lib.assign(config, {
      'data.source': 'tfds:fashion_mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'batch_size': 100,
      'total_steps': 125_000,
      'log_every': 500,
      'sample_every': 5000,
      'checkpoint_every': 5000,
      'sample.rows': 10,
      'sample.columns': 10,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.g_hidden': 16, 'model.d_units': 8})
  return config
