"""StyleGAN2 on LSUN car, cat, church and horse (Karras et al. 2020, table 3).

Rows: one for each data set, config F, with the paper's FID and path length
(FIDs confirmed, path lengths from memory):
  car     512x384 in 512x512   57,000 kimg   2.32   416
  cat     256x256              88,000 kimg   6.93   439
  church  256x256              88,000 kimg   3.86   342   R1 of 100
  horse   256x256             100,000 kimg   3.43   338   R1 of 100

Cars are pasted into black squares, and measured with the bars.

Data: python -m gans_jax.prepare --source=folder:cat/ --out=data/lsun_cat \
    --resolution=256 --crop=center (cars: --resolution=512 --crop=pad)
Command: python -m gans_jax.main \
    --config=experiments/stylegan2/lsun.py:row=cat \
    --workdir=runs/stylegan2_lsun
Hardware: not timed. The authors: 8 V100, 4 days 18 hours for 25,000 kimg at
256x256.
Metric: as in ffhq.py.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2


def _row(name, resolution, kimg, fid, ppl, **values):
  return {**stylegan2.CONFIG_F, 'data.source': f'prepared:data/lsun_{name}',
          'data.resolution': resolution, 'total_kimg': kimg,
          'paper/fid': fid, 'paper/ppl2_wend': ppl, **values}


ROWS = {
    'car': _row('car', 512, 57_000, 2.32, 416),
    'cat': _row('cat', 256, 88_000, 6.93, 439),
    'church': _row('church', 256, 88_000, 3.86, 342,
                   **{'loss.r1_gamma': 100.0}),
    'horse': _row('horse', 256, 100_000, 3.43, 338,
                  **{'loss.r1_gamma': 100.0}),
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='car')
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {
      'evaluate_every': 12_500,
      'checkpoint_every': 2500,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY})
  return config
