"""StyleGAN2 on the shipped emoji, 64x64; nothing to download.

Karras et al. 2020, arXiv:1912.04958. Not in the paper; the rates, R1 and
average of ADA's `auto` at this resolution, without its augmentation.
Rows: F (skip, residual), no_path_length, no_mixing, conditional (groups).

Command: python -m gans_jax.main --config=experiments/stylegan2/emoji64.py \
    --workdir=runs/stylegan2_emoji64
Hardware: one GPU; with the argument cpu, some hours on two cores.
Metric: fd5k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2

ROWS = {
    'F': {},
    'no_path_length': {'loss.pl_weight': 0.0},
    'no_mixing': {'loss.style_mixing': 0.0},
    'conditional': {'model.conditional': True, 'data.labels': 'group'},
}

# A narrow net: what two cores can do. With gamma 0.0256 its D wins at once
# (fd1k_lite0 281 after 8 kimg, of 278 untrained).
CPU = {'model.channel_base': 1024, 'model.channel_max': 64,
       'model.z_dim': 128, 'model.w_dim': 128, 'batch_size': 16,
       'total_kimg': 200.0, 'log_every': 50, 'sample_every': 1000,
       'checkpoint_every': 1000, 'evaluate_every': 2500,
       'evaluate.metrics': ('fd1k_lite0',), 'ema.kimg': 2.0,
       'loss.r1_gamma': 1.0}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='F', cpu=False)
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'total_kimg': 2000.0,
      'evaluate_every': 5000,
      'model.channel_base': 16384,
      'model.mapping_layers': 2,
      # 0.0002 * 64^2 / 32, as `auto` has it.
      'loss.r1_gamma': 0.0256,
      'optimizer.G.lr': 2.5e-3,
      'optimizer.D.lr': 2.5e-3,
      'ema.rampup': 0.05,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY})
    if config.model.conditional:
      config.data.labels = 'group'
  return config
