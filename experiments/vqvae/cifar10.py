"""VQ-VAE on CIFAR-10 (van den Oord et al. 2017, arXiv:1711.00937).

Rows: the authors' example (Sonnet) with and without averages of the codebook,
and the paper's nets (section 4.1: 8 x 8 x 10 latents, 256 channels; see
systems/vqvae.py on the ten codes of a position).

Data: the archive, `--config.data.source=cifar:PATH`, or tfds:cifar10.
Command: python -m gans_jax.main --config=experiments/vqvae/cifar10.py:row=ema \
    --workdir=runs/vqvae_cifar10 --config.data.source=cifar:PATH
Hardware: one GPU.
Time: 10,000 steps (the example), 250,000 (the paper); not timed.
Metric: loss/recon and codebook/perplexity in the logs. Not run in full by us.
"""

from gans_jax.core import config as config_lib

ROWS = {
    # The example's log of the averaged codebook at step 10,000: recon 0.056,
    # perplexity 326.3 (0.105 and 71.8 at step 1000).
    'ema': {'paper/recon': 0.056, 'paper/perplexity': 326.3},
    'gradient': {'loss.codebook': 'gradient'},
    # Table of section 4.1: 4.67 bits/dim; VAE 4.51, VIMCO 5.14.
    'paper': {'paper/bits_per_dim': 4.67, 'model.variant': 'paper',
              'model.hidden': 256, 'model.residual_hidden': 256,
              'model.codes_per_position': 10, 'loss.codebook': 'gradient',
              'optimizer.AE.lr': 2e-4, 'batch_size': 128,
              'total_steps': 250_000},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='ema')
  config = config_lib.base('vqvae')
  config_lib.assign(config, {
      'data.source': 'tfds:cifar10',
      'data.resolution': 32,
      'batch_size': 32,
      'total_steps': 10_000,
      'log_every': 100,
      'sample_every': 1000,
      'checkpoint_every': 1000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.hidden': 8, 'model.residual_hidden': 4,
        'model.residual_layers': 1, 'model.code_dim': 4,
        'model.codes': 16,
    })
  return config
