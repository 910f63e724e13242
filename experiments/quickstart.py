"""Quickstart: a class-conditional GAN on emoji, minutes on a laptop's CPU.

Conditional GAN (Mirza & Osindero 2014, arXiv:1411.1784) in its convolutional
form, on three groups of the shipped emoji: flags, food, smileys; one to a row
of the sample grids, again and again.

Command: python -m gans_jax.main --config=experiments/quickstart.py \
    --workdir=runs/quickstart
Hardware: a CPU of two cores; under 5 minutes with compilation.
Metric: fd500_lite0 of the untrained and of the trained net (500 generated
images against 500 real ones; not FID).
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'model.variant': 'conv',
      'model.ch': 32,
      'model.fc': 512,
      'data.source': 'emoji:both',
      'data.groups': ('Flags', 'Food & Drink', 'Smileys & Emotion'),
      'data.labels': 'group',
      'data.resolution': 32,
      'batch_size': 32,
      'total_steps': 1200,
      # Higher than the code's 2e-4, for a short run.
      'optimizer.G.lr': 5e-4,
      'optimizer.D.lr': 5e-4,
      'ema.decay': 0.99,
      'log_every': 25,
      'sample_every': 200,
      'checkpoint_every': 600,
      'evaluate_every': 1200,
      'evaluate.metrics': ('fd500_lite0',),
      'sample.rows': 6,
      'sample.columns': 10,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'data.groups': (), 'data.labels': 'group',
        'model.ch': 8, 'model.fc': 16})
  return config
