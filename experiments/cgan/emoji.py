"""Conditional GAN on the shipped emoji, by group; nothing is downloaded.

Mirza & Osindero 2014, arXiv:1411.1784, in the convolutional form of
Newmu/dcgan_code, on the pictures of both vendors (6,972); 9 groups (faces,
people, animals, food, places, activities, objects, symbols, flags), one to a
row of the sample grids. `:resolution=64` for native size (one more layer),
`:labels=subgroup` (98), `tone` (6) or `vendor` (2) for other classes.
experiments/quickstart.py is the short form.

Command: python -m gans_jax.main --config=experiments/cgan/emoji.py \
    --workdir=runs/cgan_emoji
Hardware: one GPU.
Time: 2 million images, 15,625 steps; not measured on a GPU.
Metric: fd3k_lite0 (not FID). Not run in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg, resolution=32, labels='group')
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.labels': args.labels,
      'data.resolution': args.resolution,
      # The code's 1e-8 divides by nearly nothing where a map is flat, as the
      # white background makes some.
      'model.bn_epsilon': 1e-5,
      'batch_size': 128,
      'total_kimg': 2000.0,
      'ema.decay': 0.999,
      'sample_every': 1000,
      'checkpoint_every': 5000,
      'evaluate_every': 5000,
      'evaluate.metrics': ('fd3k_lite0',),
      'sample.rows': 9,
      'sample.columns': 10,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'data.labels': args.labels, 'model.ch': 8,
        'model.fc': 16})
  return config
