"""StyleGAN2 on FFHQ, 1024x1024 (Karras et al. 2020, table 1).

Rows, with FID, path length (ppl2_wend), precision and recall of the paper
(F: README of the authors' repository; E: FID as confirmed by clean-fid's
re-run, 3.33, the others from memory):
  E  skip generator, residual discriminator, no growing   3.31  124.5 .705 .449
  F  the same, twice as wide at high resolution           2.84  145.0 .689 .492

Rows A to D grow; they are not in this file.

Data: python -m gans_jax.prepare --source=folder:images1024x1024/ \
    --out=data/ffhq1024 --resolution=1024
Command: python -m gans_jax.main --config=experiments/stylegan2/ffhq.py:row=F \
    --workdir=runs/stylegan2_ffhq
Hardware: not timed. The authors: 25,000 kimg on 8 V100, 9 days 18 hours (F),
5 days 6 hours (E).
Metric: fid50k and ppl2_50k_wend (python -m gans_jax.evaluate --workdir=DIR
--metrics=...; the weights of Inception and VGG16 are yours to fetch).
fd5k_lite0 is logged, and is not FID.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2

ROWS = {
    'E': {**stylegan2.CONFIG_E, 'paper/fid': 3.31, 'paper/ppl2_wend': 124.5,
          'paper/precision': 0.705, 'paper/recall': 0.449},
    'F': {**stylegan2.CONFIG_F, 'paper/fid': 2.84, 'paper/ppl2_wend': 145.0,
          'paper/precision': 0.689, 'paper/recall': 0.492},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='F')
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {
      'data.source': 'prepared:data/ffhq1024',
      'data.resolution': 1024,
      'data.flip': True,
      'total_kimg': 25_000,
      'evaluate_every': 12_500,
      'checkpoint_every': 2500,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY})
  return config
