"""VQ-VAE on the shipped emoji, 64 x 64; nothing is downloaded.

Van den Oord et al. 2017 (arXiv:1711.00937); not in the paper. f = 8: 8 x 8
tokens of 512 codes, the first stage of experiments/pixelcnn/emoji64.py.

Command: python -m gans_jax.main --config=experiments/vqvae/emoji64.py \
    --workdir=runs/vqvae_emoji
Hardware: one GPU, or a CPU of two cores with patience.
Time: 20,000 steps; not timed.
Metric: codebook, psnr, lpips_lite0 of reconstructions. Not run in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('vqvae')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'model.downsamples': 3,
      'loss.data_variance': 0.096,   # of x / 255, as measured
      'loss.revive_threshold': 0.1,
      'batch_size': 32,
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
