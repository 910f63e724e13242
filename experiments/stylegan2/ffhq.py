"""StyleGAN2 on FFHQ, 1024x1024 (Karras et al. 2020, table 1).

Rows, with FID, path length (ppl2_wend), precision and recall of the paper.
F is in the README of the authors' repository; FIDs of A to E agree with
clean-fid's re-run of the authors' networks (in brackets); the others are from
memory.

  A        baseline StyleGAN             4.40 (4.39)  212.1  .721  .399
  B        + weight demodulation         4.39 (4.43)  175.4  .702  .425
  C        + lazy regularization         4.38 (4.40)  158.0  .719  .427
  D        + path length regularization  4.34 (4.34)  122.5  .715  .418
  E        + no growing, new G and D     3.31 (3.33)  124.5  .705  .449
  F        + large networks              2.84 (2.83)  145.0  .689  .492
  A_large  A with large networks         3.98         199.2  .716  .422

A is systems/stylegan.py, which updates D first; the authors' A, of the
repository of StyleGAN2, updates G first. A to D grow from 8x8 on.

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
from gans_jax.systems import stylegan
from gans_jax.systems import stylegan2

FIGURES = ('paper/fid', 'paper/ppl2_wend', 'paper/precision', 'paper/recall')
PAPER = {
    'A': (4.40, 212.1, 0.721, 0.399),
    'B': (4.39, 175.4, 0.702, 0.425),
    'C': (4.38, 158.0, 0.719, 0.427),
    'D': (4.34, 122.5, 0.715, 0.418),
    'E': (3.31, 124.5, 0.705, 0.449),
    'F': (2.84, 145.0, 0.689, 0.492),
    'A_large': (3.98, 199.2, 0.716, 0.422),
}
# Of systems/stylegan.py.
BASELINES = {'A': {}, 'A_large': {'model.fmap_base': 16384}}
VALUES = {
    **BASELINES, 'B': stylegan2.CONFIG_B, 'C': stylegan2.CONFIG_C,
    'D': stylegan2.CONFIG_D, 'E': stylegan2.CONFIG_E, 'F': stylegan2.CONFIG_F}
ROWS = {row: {**VALUES[row], **dict(zip(FIGURES, figures, strict=True))}
        for row, figures in PAPER.items()}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='F')
  baseline = args.row in BASELINES
  config = config_lib.base('stylegan' if baseline else 'stylegan2')
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
    tiny = stylegan.TINY if baseline else stylegan2.TINY
    if not baseline and config.growing.first_resolution:
      tiny = stylegan2.TINY_GROWING
    config_lib.assign(config, {**config_lib.DEBUG, **tiny})
  return config
