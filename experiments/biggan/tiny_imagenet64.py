"""BigGAN on Tiny-ImageNet, 64x64, 200 classes (Brock et al. 2019).

arXiv:1809.11096; not in the paper. StudioGAN reports IS 12.00, FID 31.9
(10,000 images) with its own variant.

Rows: biggan, deep.

Data: python -m gans_jax.prepare --source=folder:tiny-imagenet-200/train/ \
    --out=data/tiny_imagenet64 --resolution=64
Command: python -m gans_jax.main \
    --config=experiments/biggan/tiny_imagenet64.py \
    --workdir=runs/biggan_tiny
Hardware: one GPU; not timed.
Metric: fid50k_full and is50k; fd5k_lite0 is logged, and is neither.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'biggan': {'model.ch_G': 80, 'model.ch_D': 80, 'model.z_dim': 100},
    'deep': {'model.variant': 'deep', 'model.ch_G': 64, 'model.ch_D': 64,
             'model.z_dim': 128},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='biggan')
  config = config_lib.base('biggan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/tiny_imagenet64',
      'data.resolution': 64,
      'data.labels': 'class',
      'data.flip': True,
      'batch_size': 256,
      'loss.n_critic': 1,
      'optimizer.G.lr': 1e-4,
      'optimizer.D.lr': 4e-4,
      'total_steps': 100_000,
      'evaluate_every': 5000,
      'checkpoint_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group',
        'model.ch_G': 2,
        'model.ch_D': 2,
        'model.shared_dim': 8,
        'model.z_dim': 12,
        'ema.start': 2,
    })
  return config
