"""StyleGAN2 with ADA on CIFAR-10 (Karras et al. 2020, 2006.06676, figure 11).

Rows, with the published FID and Inception score (from memory, but for the two
tuned FIDs, which others quote):
  baseline     StyleGAN2                 8.32 +- .09   9.21 +- .09
  ada          + ADA                     5.33 +- .35  10.02 +- .07
  tuned        + settings for CIFAR-10   2.92 +- .05   9.83 +- .04
  cond_baseline, cond_ada, cond_tuned    6.96 +- .41   9.53 +- .06
      the same with labels               3.49 +- .17  10.24 +- .07
                                         2.42 +- .04  10.14 +- .09

`tuned` is the preset `cifar` of the authors' trainer, the others
`cifarbaseline`. No mirrored images.

Command: python -m gans_jax.main \
    --config=experiments/stylegan2_ada/cifar10.py:row=cond_tuned \
    --workdir=runs/ada_cifar10
    (data: the archive, at data/cifar-10-python.tar.gz)
Hardware: not timed. The authors: 100,000 kimg on two V100.
Metric: fid50k_full,is50k (python -m gans_jax.evaluate --workdir=DIR
--metrics=...; the weights of Inception are yours to fetch), best snapshot.
fd5k_lite0 is logged, and is neither.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import stylegan2
from gans_jax.systems.stylegan2 import presets

LABELS = {'model.conditional': True, 'data.labels': 'class'}
ROWS = {
    'baseline': {'augment.kind': 'none', 'paper/fid': '8.32 +- .09',
                 'paper/is': '9.21 +- .09'},
    'ada': {'augment.kind': 'ada', 'paper/fid': '5.33 +- .35',
            'paper/is': '10.02 +- .07'},
    'tuned': {'augment.kind': 'ada', 'paper/fid': '2.92 +- .05',
              'paper/is': '9.83 +- .04'},
    'cond_baseline': {**LABELS, 'augment.kind': 'none',
                      'paper/fid': '6.96 +- .41', 'paper/is': '9.53 +- .06'},
    'cond_ada': {**LABELS, 'augment.kind': 'ada', 'paper/fid': '3.49 +- .17',
                 'paper/is': '10.24 +- .07'},
    'cond_tuned': {**LABELS, 'augment.kind': 'ada',
                   'paper/fid': '2.42 +- .04', 'paper/is': '10.14 +- .09'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='tuned', float32=False)
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {
      'data.source': 'cifar:data/cifar-10-python.tar.gz',
      'data.resolution': 32,
      'evaluate_every': 15_000,
      'checkpoint_every': 5000,
  })
  name = 'cifar' if args.row.endswith('tuned') else 'cifarbaseline'
  config_lib.assign(config, presets.values(name, float32=args.float32))
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **stylegan2.TINY,
                               'dtype': 'float32'})
    if config.model.conditional:
      config.data.labels = 'group'
  return config
