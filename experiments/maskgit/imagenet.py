"""MaskGIT on ImageNet (Chang et al. 2022, tables 1 and 3).

Rows: class-conditional at 256 and 512 pixels, and the schedules of table 3
(256 pixels), with the published FID / IS and the best number of steps T:
  256 6.18 / 182.1, T 8        512 7.32 / 156.0, T 12
  exponential 7.89 / 156.3, 8  cubic 7.26 / 165.2, 9
  square 6.35 / 179.9, 10      cosine 6.06 / 181.5, 10
  linear 7.51 / 113.2, 16      sqrt 12.33 / 99.0, 32
  logarithmic 29.17 / 47.9, 60
(with 5 % accepted by a classifier: 256 4.02 / 355.6, 512 4.46 / 342.0). The
figures of single schedules are from a summary of the paper.

The authors' config: batch 256, Adam (.9, .96), rate 1e-4 after 5,000 updates
of warm-up, decay 0.045, 2 million steps; random crops, flips.

Data: experiments/vqgan/imagenet.py's; the tokenizer is a run of it with
--config.model.nets=maskgit, or the published one (python -m gans_jax.convert
--format=maskgit)
Command: python -m gans_jax.main \
    --config=experiments/maskgit/imagenet.py:row=256 --workdir=runs/maskgit
Hardware: a slice of 16 TPU cores, about four days; not run by us.
Metric: fid50k_full and is50k; fd5k_lite0 is logged, and is not FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    '256': {'paper/fid': '6.18', 'paper/is': '182.1'},
    '512': {'data.source': 'prepared:data/imagenet512', 'data.resolution': 512,
            'data.tokenizer': 'runs/maskgit_tokenizer512',
            'paper/fid': '7.32', 'paper/is': '156.0'},
    'exponential': {'loss.schedule': 'exponential', 'paper/fid': '7.89'},
    'cubic': {'loss.schedule': 'cubic', 'paper/fid': '7.26'},
    'square': {'loss.schedule': 'square', 'paper/fid': '6.35'},
    'cosine': {'paper/fid': '6.06'},
    'linear': {'loss.schedule': 'linear', 'paper/fid': '7.51'},
    'sqrt': {'loss.schedule': 'sqrt', 'paper/fid': '12.33'},
    'logarithmic': {'loss.schedule': 'logarithmic', 'paper/fid': '29.17'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='256')
  config = config_lib.base('maskgit')
  config_lib.assign(config, {
      'data.source': 'prepared:data/imagenet256',
      'data.resolution': 256,
      'data.labels': 'class',
      'data.tokenizer': 'runs/maskgit_tokenizer',
      'batch_size': 256,
      'total_steps': 2_000_000,
      'evaluate_every': 50_000,
      'checkpoint_every': 10_000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group',
        'data.tokenizer': 'pixels:3',
        'model.layers': 2,
        'model.heads': 2,
        'model.width': 16,
        'model.hidden': 32,
    })
  return config
