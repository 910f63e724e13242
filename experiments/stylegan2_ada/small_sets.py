"""ADA on data sets of a few thousand images (figure 9, from scratch).

Karras et al. 2020, arXiv:2006.06676. Rows: a data set, with FID and KID x 1000
of StyleGAN2 and with ADA (all but cats confirmed by clean-fid's re-runs):
  metfaces   1,336 at 1024  57.26 / 35.66   18.22 / 2.41
  brecahad   1,944 at 512   97.72 / 89.76   15.71 / 2.88
  afhq_cat   5,153 at 512    5.13 / 1.54     3.55 / .66
  afhq_dog   4,739 at 512   19.37 / 9.62     7.40 / 1.16
  afhq_wild  4,738 at 512    3.48 / .77      3.05 / .45

`augment=none` is StyleGAN2. Images are mirrored. The figures with transfer
learning and with frozen layers of D are in README.md; neither is here.

Data: python -m gans_jax.prepare --source=folder:metfaces/images/ \
    --out=data/metfaces --resolution=1024 (the others: --resolution=512)
Command: python -m gans_jax.main \
    --config=experiments/stylegan2_ada/small_sets.py:row=afhq_dog \
    --workdir=runs/ada_small_sets
Hardware: not timed. The authors: 25,000 kimg on 8 V100.
Metric: fid50k_full,kid50k_full, best snapshot (python -m gans_jax.evaluate
--workdir=DIR --metrics=...; the weights of Inception are yours to fetch).
fd5k_full_lite0 (the sets are small) is logged, and is neither.
"""

from gans_jax.augment import controller
from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2
from gans_jax.systems.stylegan2 import presets


def _row(name, resolution, baseline, ada):
  return {'data.source': f'prepared:data/{name}', 'data.resolution': resolution,
          'paper/fid_kid_baseline': baseline, 'paper/fid_kid_ada': ada}


ROWS = {
    'metfaces': _row('metfaces', 1024, (57.26, 35.66), (18.22, 2.41)),
    'brecahad': _row('brecahad', 512, (97.72, 89.76), (15.71, 2.88)),
    'afhq_cat': _row('afhq_cat', 512, (5.13, 1.54), (3.55, 0.66)),
    'afhq_dog': _row('afhq_dog', 512, (19.37, 9.62), (7.40, 1.16)),
    'afhq_wild': _row('afhq_wild', 512, (3.48, 0.77), (3.05, 0.45)),
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='afhq_dog', augment='ada',
                              float32=False)
  config = config_lib.base('stylegan2')
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  config_lib.assign(config, {
      'data.flip': True,
      'augment.kind': args.augment,
      'evaluate_every': 12_500,
      'evaluate.metrics': ('fd5k_full_lite0',),
      'checkpoint_every': 2500,
  })
  config_lib.check_choice(config, 'augment.kind', controller.KINDS)
  config_lib.assign(config, presets.values(
      f'paper{config.data.resolution}', float32=args.float32))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY,
                               'dtype': 'float32'})
  return config
