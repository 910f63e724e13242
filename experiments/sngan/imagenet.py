"""SNGAN with labels on ImageNet at 128 pixels (Miyato & Koyama 2018).

Rows, with the published IS / intra-FID; the first and the last from memory:
  acgan          AC-GAN                          28.5 / 260.0
  concat         class beside the maps of D      21.1 / 141.2
  projection     450,000 steps                   29.7 / 103.1, FID 27.62
  projection850  850,000 steps                   36.8 /  92.4
  projection64   64 pixels, 250,000 steps        no figure

`model.bn_scope=group:32` has the statistics of the authors' four GPUs (32
images of G on each).

Data: python -m gans_jax.prepare --source=folder:imagenet/train/ \
    --out=data/imagenet128 --resolution=128 --crop=center --filter=bilinear
    (the authors leave out images with a side below 256)
Command: python -m gans_jax.main \
    --config=experiments/sngan/imagenet.py:row=concat \
    --workdir=runs/sngan_imagenet
Hardware: 4 GPUs (the authors'), or one TPU host; not timed.
Metric: is50k; intra-FID, FID within each class, has no preset here.
"""

from gans_jax.core import config as config_lib

_LATE = {'optimizer.G.lr_linear_from': 8 / 9,  # 400,000 of 450,000
         'optimizer.D.lr_linear_from': 8 / 9, 'total_steps': 450_000}

ROWS = {
    'acgan': {**_LATE, 'model.conditioning': 'acgan', 'paper/is': 28.5,
              'paper/intra_fid': 260.0},
    'concat': {**_LATE, 'model.conditioning': 'concat', 'paper/is': 21.1,
               'paper/intra_fid': 141.2},
    'projection': {**_LATE, 'paper/is': 29.7, 'paper/intra_fid': 103.1},
    'projection850': {
        **_LATE, 'total_steps': 850_000,
        'optimizer.G.lr_linear_from': 16 / 17,
        'optimizer.D.lr_linear_from': 16 / 17,
        'paper/is': 36.8, 'paper/intra_fid': 92.4},
    'projection64': {
        'data.source': 'prepared:data/imagenet64', 'data.resolution': 64,
        'total_steps': 250_000, 'loss.generator_batches': 1,
        'optimizer.G.lr_linear_from': 0.8,
        'optimizer.D.lr_linear_from': 0.8},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='projection')
  config = config_lib.base('sngan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/imagenet128',
      'data.resolution': 128,
      'data.labels': 'class',
      'model.ch_G': 64,
      'model.ch_D': 64,
      'evaluate_every': 10_000,
      'checkpoint_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group',
        'loss.n_critic': 2,
        'model.ch_G': 4,
        'model.ch_D': 4,
        'model.z_dim': 8,
    })
  return config
