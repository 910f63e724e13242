"""ProGAN on CIFAR-10, 32x32, unconditional and conditional.

Karras et al. 2018, arXiv:1710.10196, section 6.5 and appendix B: target 750
of the gradient penalty, both networks updated at once. Rows: unsupervised,
and labels (AC-GAN, as the code has it; the paper's number is of the first).

Command: python -m gans_jax.main --config=experiments/progan/cifar10.py \
    --workdir=runs/progan_cifar10
Hardware: one GPU; not timed.
Metric: is50k 8.80 +- .05 in the best run (from memory, and from an
    independent public source), 8.56 +- .06 over ten runs (from memory).
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import progan

ROWS = {
    'unsupervised': {'paper/is50k': 8.80},
    'labels': {'model.conditional': True, 'data.labels': 'class'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='unsupervised')
  config = config_lib.base('progan')
  config_lib.assign(config, {
      'data.source': 'cifar10:data/cifar-10-python.tar.gz',
      'data.resolution': 32,
      'evaluate_every': 50_000,
      'checkpoint_every': 10_000,
      'evaluate.metrics': ('is50k',),
      **progan.CIFAR10,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {**config_lib.DEBUG, **progan.TINY})
    if config.model.conditional:
      config.data.labels = 'group'
  return config
