"""BigGAN on the shipped emoji, 64x64, by class; nothing to download.

Brock et al. 2019, arXiv:1809.11096; not in the paper. Rows: group (9 classes),
subgroup (98), deep (subgroup).

Command: python -m gans_jax.main --config=experiments/biggan/emoji64.py:cpu \
    --workdir=runs/biggan_emoji64
Hardware: one GPU; `cpu` is a small form, 25 minutes of one core.
Metric: fd3k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'group': {},
    'subgroup': {'data.labels': 'subgroup'},
    'deep': {'data.labels': 'subgroup', 'model.variant': 'deep',
             'model.ch_G': 64, 'model.ch_D': 64},
}

CPU = {'model.ch_G': 8, 'model.ch_D': 8, 'batch_size': 32,
       'loss.n_critic': 1, 'total_steps': 2000, 'log_every': 20,
       'sample_every': 200, 'checkpoint_every': 500, 'evaluate_every': 500,
       'evaluate.metrics': ('fd1k_lite0',), 'ema.decay': 0.99,
       'ema.start': 100}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='group', cpu=False)
  config = config_lib.base('biggan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.labels': 'group',
      'data.resolution': 64,
      'model.ch_G': 32,
      'model.ch_D': 32,
      'model.z_dim': 100,
      'batch_size': 64,
      'optimizer.G.lr': 1e-4,
      'optimizer.D.lr': 4e-4,
      'ema.start': 1000,
      'ema.decay': 0.999,
      'total_steps': 50_000,
      'sample.rows': 9,
      'sample.columns': 10,
      'evaluate_every': 5000,
      'evaluate.metrics': ('fd3k_lite0',),
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': config.data.labels,
        'loss.n_critic': 2,
        'model.ch_G': 2,
        'model.ch_D': 2,
        'model.shared_dim': 8,
        'model.z_dim': 12,
        'ema.start': 2,
    })
  return config
