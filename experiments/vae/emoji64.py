"""VAE on the shipped emoji, 64 x 64; nothing is downloaded.

Kingma & Welling 2013 (arXiv:1312.6114) with convolutional nets and a Gaussian
decoder; not in the paper. `:beta=4` for a beta-VAE (Higgins et al. 2017).

Command: python -m gans_jax.main --config=experiments/vae/emoji64.py \
    --workdir=runs/vae_emoji
Hardware: one GPU, or a CPU of two cores with patience.
Time: 30,000 steps; not timed.
Metric: fd3k_lite0 of samples (not FID); elbo in the logs. Not run in full.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg, beta=1.0)
  config = config_lib.base('vae')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'model.variant': 'conv',
      'model.z_dim': 128,
      'model.hidden': 128,
      'loss.decoder': 'gaussian',
      'loss.std': 0.2,
      'loss.beta': args.beta,
      'batch_size': 64,
      'total_steps': 30_000,
      'log_every': 100,
      'sample_every': 2000,
      'checkpoint_every': 2000,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.hidden': 8, 'model.z_dim': 4,
    })
  return config
