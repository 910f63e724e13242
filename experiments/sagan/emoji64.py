"""SAGAN on the shipped emoji, 64x64, by group; nothing to download.

Zhang et al. 2019, arXiv:1805.08318; not in the paper. Rows: feat32, feat16,
feat16_32, none, by the size of the maps that attend.

Command: python -m gans_jax.main --config=experiments/sagan/emoji64.py:cpu \
    --workdir=runs/sagan_emoji64
Hardware: one GPU; `cpu` is a small form, 40 minutes of one core.
Metric: fd3k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'feat32': {},
    'feat16': {'model.attention': '16'},
    'feat16_32': {'model.attention': '16_32'},
    'none': {'model.attention': 'none'},
}

CPU = {'model.ch_G': 8, 'model.ch_D': 8, 'batch_size': 32,
       'model.bn_decay': 0.99, 'model.bn_decay_out': 0.99, 'ema.decay': 0.995,
       'total_steps': 5000, 'log_every': 20, 'sample_every': 500,
       'checkpoint_every': 500, 'evaluate_every': 1000,
       'evaluate.metrics': ('fd1k_lite0',)}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='feat32', cpu=False)
  config = config_lib.base('sagan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.labels': 'group',
      'data.resolution': 64,
      'model.attention': '32',
      'batch_size': 64,
      'model.bn_decay_out': 0.999,
      'total_steps': 50_000,
      'ema.decay': 0.999,
      'sample.rows': 9,
      'sample.columns': 10,
      'evaluate_every': 5000,
      'evaluate.metrics': ('fd3k_lite0',),
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    if config.model.attention != 'none':
      config.model.attention = '8'
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group',
        'model.ch_G': 8,
        'model.ch_D': 8,
        'model.z_dim': 8,
    })
  return config
