"""VAE on Fashion-MNIST, 28 x 28, grey.

Kingma & Welling 2013 (arXiv:1312.6114) with convolutional nets and a Gaussian
decoder. Not in the paper (the data are of 2017). Published FID of a VAE on
these data, with the large-scale study's nets and protocol (1711.10337, from
memory): 58.7 +- 1.2. `:z_dim=2` for the manifold (sample --manifold=0,1).

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:fashion_mnist.
Command: python -m gans_jax.main --config=experiments/vae/fashion_mnist28.py \
    --workdir=runs/vae_fashion --config.data.source=idx:FOLDER
Hardware: one GPU, or a CPU of two cores.
Time: 50,000 steps; not timed.
Metric: fd5k_lite0 of samples (not FID); elbo in the logs. Not run in full.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg, z_dim=32)
  config = config_lib.base('vae')
  config_lib.assign(config, {
      'data.source': 'tfds:fashion_mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'model.variant': 'conv',
      'model.z_dim': args.z_dim,
      'model.hidden': 128,
      'loss.decoder': 'gaussian',
      'loss.std': 0.2,
      'batch_size': 128,
      'total_steps': 50_000,
      'log_every': 100,
      'sample_every': 5000,
      'checkpoint_every': 5000,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.hidden': 8, 'model.z_dim': 4,
    })
  return config
