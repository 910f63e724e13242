"""DCGAN on the shipped emoji, 64x64; nothing to download.

Radford, Metz & Chintala 2015, arXiv:1511.06434.
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

# The run whose figures README.md has: minutes on two cores.
CPU = {'model.ngf': 32, 'model.ndf': 32, 'batch_size': 64, 'total_steps': 1200,
       'log_every': 50, 'sample_every': 200, 'checkpoint_every': 600,
       'evaluate_every': 600, 'evaluate.metrics': ('fd1k_lite0',),
       'ema.decay': 0.99}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='average', cpu=False)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'total_steps': 20_000,
      'evaluate_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.ngf': 4,
        'model.ndf': 4,
    })
  return config
