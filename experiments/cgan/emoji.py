"""Conditional GAN on the shipped emoji, by group: the quickstart at length.

Mirza & Osindero 2014, arXiv:1411.1784, in the convolutional form of
Newmu/dcgan_code. `:resolution=64` for native size.

Command: python -m gans_jax.main --config=experiments/cgan/emoji.py \
    --workdir=runs/cgan_emoji
Hardware: one GPU, minutes.
Metric: fd3k_lite0 (not FID). Not run in full by us; see quickstart.py.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg, resolution=32, labels='group')
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': args.resolution,
      'data.labels': args.labels,
      'batch_size': 128,
      'total_kimg': 2000.0,
      'ema.decay': 0.999,
      'sample.rows': 9,
      'checkpoint_every': 5000,
      'evaluate_every': 5000,
      'evaluate.metrics': ('fd3k_lite0',),
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'data.labels': args.labels, 'model.ch': 8,
        'model.fc': 16})
  return config
