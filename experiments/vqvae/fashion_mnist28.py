"""VQ-VAE on Fashion-MNIST, 28 x 28: 7 x 7 tokens of 256 codes.

Van den Oord et al. 2017 (arXiv:1711.00937); not in the paper. The first stage
of experiments/pixelcnn/fashion_mnist28.py.

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:fashion_mnist.
Command: python -m gans_jax.main --config=experiments/vqvae/fashion_mnist28.py \
    --workdir=runs/vqvae_fashion --config.data.source=idx:FOLDER
Hardware: one GPU, or a CPU of two cores.
Time: 20,000 steps; not timed.
Metric: codebook, psnr, fd5k_lite0 of reconstructions. Not run in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('vqvae')
  config_lib.assign(config, {
      'data.source': 'tfds:fashion_mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'model.codes': 256,
      'model.code_dim': 32,
      'loss.data_variance': 0.125,   # of x / 255, as measured
      'loss.revive_threshold': 0.1,
      'batch_size': 64,
      'total_steps': 20_000,
      'log_every': 100,
      'sample_every': 2000,
      'checkpoint_every': 2000,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.hidden': 8, 'model.residual_hidden': 4,
        'model.residual_layers': 1, 'model.code_dim': 4,
        'model.codes': 16,
    })
  return config
