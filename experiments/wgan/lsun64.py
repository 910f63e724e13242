"""WGAN on LSUN bedrooms, 64x64 (Arjovsky et al. 2017, figures 3 and 5 to 7).

Rows: dcgan (figure 5), no_norm (figure 6: the code's --noBN), mlp (figure 7:
MLP generator, DCGAN critic), both_mlp (figure 3, bottom: training failed at a
high rate, and the estimate said so).

Data: python -m gans_jax.prepare --source=folder:bedroom_train/ \
    --out=data/lsun_bedroom64 --resolution=64 --crop=center --filter=bilinear
Command: python -m gans_jax.main --config=experiments/wgan/lsun64.py:row=mlp \
    --workdir=runs/wgan_lsun64
Hardware: one GPU or one TPU host; not timed. The critic reads 5 minibatches a
step: 237,000 steps are the code's 25 epochs.
Metric: the paper shows samples, and `wasserstein` against generator updates.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'dcgan': {},
    'no_norm': {'model.norm_G': 'none'},
    'mlp': {'model.G': 'mlp', 'model.ngf': 512},
    'both_mlp': {'model.G': 'mlp', 'model.ngf': 512, 'model.D': 'mlp',
                 'model.ndf': 512},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='dcgan')
  config = config_lib.base('wgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/lsun_bedroom64',
      'data.resolution': 64,
      'total_steps': 237_000,
      'evaluate_every': 10_000,
      'checkpoint_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.ngf': 4,
        'model.ndf': 4,
        'loss.critic_boost': 0,
    })
  return config
