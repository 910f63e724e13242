"""DCGAN on the shipped emoji, 64x64; nothing to download.

pytorch/examples' settings, with the average of weights that the paper did
not have (row=live turns it off).

Command: python -m gans_jax.main --config=experiments/dcgan/emoji64.py \
    --workdir=runs/dcgan_emoji64
Hardware: one GPU, or a patient CPU; not timed.
Metric: fd5k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'average': {'ema.decay': 0.999},
    'live': {},
    # Mescheder et al. 2018: DCGAN converges when regularized.
    'r1': {'ema.decay': 0.999, 'loss.penalty': 'r1',
           'loss.penalty_weight': 10.0},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='average')
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'total_steps': 20_000,
      'evaluate_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        'data.source': 'emoji:noto',
        'data.resolution': 16,
        'data.channels': 3,
        'data.labels': 'none',
        'data.limit': 64,
        'model.ngf': 4,
        'model.ndf': 4,
        'batch_size': 8,
        'total_steps': 6,
        'total_kimg': 0.0,
        'log_every': 2,
        'sample_every': 3,
        'checkpoint_every': 2,
        'evaluate_every': 0,
    })
  return config
