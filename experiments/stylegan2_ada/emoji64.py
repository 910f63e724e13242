"""StyleGAN2 with and without ADA on one vendor's emoji, 64x64.

Karras et al. 2020, arXiv:2006.06676. Not in the paper; nothing to download.
3,486 images: where the paper finds that D overfits. The authors' preset
`auto` for 64 pixels on one device.
Rows: ada, none (the same without), fixed (p=0.2 throughout), diffaugment
(Zhao et al. 2020, arXiv:2006.10738, its three augmentations).

Command: python -m gans_jax.main --config=experiments/stylegan2_ada/emoji64.py \
    --workdir=runs/ada_emoji64
Hardware: one GPU; with the argument cpu, an hour and more on one core.
Metric: fd5k_full_lite0 (5,000 against all images, of which there are fewer),
logged; it is not FID.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2
from gans_jax.systems.stylegan2 import presets

ROWS = {
    'ada': {'augment.kind': 'ada'},
    'none': {'augment.kind': 'none'},
    'fixed': {'augment.kind': 'fixed', 'augment.p': 0.2},
    'diffaugment': {'augment.kind': 'diffaugment'},
}

# A narrow net in float32, and p that moves in time to matter. With the preset's
# gamma of 0.0256 its D wins at once (fd1k_lite0 281 after 8 kimg, of 278).
CPU = {'model.channel_base': 1024, 'model.channel_max': 64,
       'model.z_dim': 128, 'model.w_dim': 128, 'batch_size': 16,
       'total_kimg': 200.0, 'log_every': 50, 'sample_every': 1000,
       'checkpoint_every': 1000, 'evaluate_every': 2500,
       'evaluate.metrics': ('fd1k_lite0',), 'ema.kimg': 2.0,
       'augment.kimg': 100.0, 'loss.r1_gamma': 1.0, 'dtype': 'float32'}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='ada', float32=False, cpu=False)
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {
      'data.source': 'emoji:noto',
      'data.resolution': 64,
      'evaluate_every': 5000,
      'evaluate.metrics': ('fd5k_full_lite0',),
  })
  config_lib.assign(config, presets.values('auto', 64, 1, args.float32))
  config_lib.assign(config, {'total_kimg': 2000.0})
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY,
                               'dtype': 'float32'})
  return config
