"""WGAN on the shipped emoji, 64x64; nothing to download.

Arjovsky, Chintala & Bottou 2017, arXiv:1701.07875.
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

# The run whose figures README.md has: minutes on two cores.
CPU = {'model.ngf': 32, 'model.ndf': 32, 'batch_size': 64, 'total_steps': 1500,
       'log_every': 50, 'sample_every': 250, 'checkpoint_every': 750,
       'evaluate_every': 750, 'evaluate.metrics': ('fd1k_lite0',)}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='dcgan', cpu=False)
  config = config_lib.base('wgan')
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
        'loss.critic_boost': 0,
    })
  return config
