"""WGAN on the shipped emoji, 64x64; nothing to download.

Rows as in experiments/wgan/lsun64.py, and adam (the code's --adam).

Command: python -m gans_jax.main --config=experiments/wgan/emoji64.py \
    --workdir=runs/wgan_emoji64
Hardware: one GPU; not timed.
Metric: fd5k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'dcgan': {},
    'no_norm': {'model.norm_G': 'none'},
    'mlp': {'model.G': 'mlp', 'model.ngf': 512},
    'adam': {'optimizer.G.name': 'adam', 'optimizer.D.name': 'adam'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='dcgan')
  config = config_lib.base('wgan')
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
        'loss.critic_boost': 0,
        'batch_size': 8,
        'total_steps': 6,
        'total_kimg': 0.0,
        'log_every': 2,
        'sample_every': 3,
        'checkpoint_every': 2,
        'evaluate_every': 0,
    })
  return config
