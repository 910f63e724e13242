"""ProGAN on CelebA-HQ, 1024x1024: the paper's run, and the code's presets.

Karras et al. 2018, arXiv:1710.10196. Rows: v1 (the paper's: 16 images or
fewer a batch, 800,000 images for each stage and fade), v2-1gpu to v2-8gpus
(larger batches, 600,000).

Data: 30,000 images, made from CelebA by the authors' script, then
    python -m gans_jax.prepare --source=folder:celebahq/ \
    --out=data/celebahq1024 --resolution=1024
Command: python -m gans_jax.main \
    --config=experiments/progan/celebahq1024.py:row=v2-8gpus \
    --workdir=runs/progan_celebahq
Hardware: v1 one GPU, v2 as its name says; not timed. Paper: 4 days on eight
    V100 (code: 2 for v2-8gpus).
Metric: fid50k 7.30; swd16k 5.44, at 1024 ... 16 pixels 7.48 7.24 6.08 3.51
    3.55 3.02 7.22 (from memory, and from an independent public source).
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import progan

ROWS = {
    **progan.PRESETS,
    # "-fp16" there; see README.md of the repository on bfloat16.
    'v2-8gpus-bfloat16': {**progan.PRESETS['v2-8gpus'], 'dtype': 'bfloat16'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='v2-8gpus')
  config = config_lib.base('progan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/celebahq1024',
      'data.resolution': 1024,
      'data.flip': True,
      'evaluate_every': 20_000,
      'checkpoint_every': 2500,
      'evaluate.metrics': ('fid50k', 'swd16k'),
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **progan.TINY})
  return config
