"""VQ-VAE on ImageNet, 128 x 128 (van den Oord et al. 2017, arXiv:1711.00937).

Section 4.2: 32 x 32 x 1 latents of 512 codes, so f = 4; the prior over them is
experiments/pixelcnn. Figure 3 shows reconstructions; the paper has no figure
of their quality.

Data: a prepared set, `--config.data.source=prepared:PATH`.
Command: python -m gans_jax.main --config=experiments/vqvae/imagenet128.py \
    --workdir=runs/vqvae_imagenet --config.data.source=prepared:PATH
Hardware: 8 accelerators.
Time: 250,000 steps; not timed.
Metric: codebook and fd5k_lite0 of reconstructions. Not run by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('vqvae')
  config_lib.assign(config, {
      'data.source': 'prepared:imagenet128',
      'data.resolution': 128,
      'model.variant': 'paper',
      'model.hidden': 256,
      'model.residual_hidden': 256,
      'optimizer.AE.lr': 2e-4,
      'batch_size': 128,
      'total_steps': 250_000,
      'log_every': 100,
      'sample_every': 5000,
      'checkpoint_every': 5000,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.hidden': 8, 'model.residual_hidden': 4,
        'model.residual_layers': 1, 'model.code_dim': 4,
        'model.codes': 16,
    })
  return config
