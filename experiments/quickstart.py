"""Quickstart: a class-conditional GAN on emoji, minutes on a laptop's CPU.

Conditional GAN (Mirza & Osindero 2014) in its convolutional form; 9 groups of
the shipped emoji (people, animals, food, flags, ...), one to a row of the
sample grids.

Command: python -m gans_jax.main --config=experiments/quickstart.py \
    --workdir=runs/quickstart
Hardware: a CPU of two cores; under 5 minutes with compilation.
Metric: fd1k_lite0 at the start and at the end (1,000 generated images against
1,000 real ones; not FID).
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'model.variant': 'conv',
      'data.source': 'emoji:both',
      'data.labels': 'group',
      'data.resolution': 32,
      'batch_size': 64,
      'total_steps': 2000,
      'ema.decay': 0.99,
      'log_every': 50,
      'sample_every': 400,
      'checkpoint_every': 1000,
      'evaluate_every': 2000,
      'evaluate.metrics': ('fd1k_lite0',),
      'sample.rows': 9,
      'sample.columns': 10,
  })
  if args.debug:
    config_lib.assign(config, {
        'data.limit': 256,
        'data.resolution': 16,
        'batch_size': 16,
        'total_steps': 6,
        'log_every': 2,
        'sample_every': 3,
        'checkpoint_every': 2,
        'evaluate_every': 0,
    })
  return config
