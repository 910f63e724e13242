"""Autoencoder on the shipped emoji, 64 x 64; nothing is downloaded.

Hinton & Salakhutdinov 2006 (Science 313) in convolutional form: the VQ-VAE's
nets (experiments/vqvae/emoji64.py) without its codebook, so what that loses to
quantization. `:dense=128` for a code of 128 numbers instead of 16 x 16 x 64.

Command: python -m gans_jax.main --config=experiments/autoencoder/emoji64.py \
    --workdir=runs/ae_emoji
Hardware: one GPU, or a CPU of two cores with patience.
Time: 20,000 steps; not timed.
Metric: psnr and lpips_lite0 of reconstructions (not FID). Not run in full.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg, dense=0)
  config = config_lib.base('autoencoder')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'model.dense': args.dense,
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
    })
  return config
