"""BigGAN on ImageNet at 128, 256 and 512 pixels.

Brock, Donahue & Simonyan 2019, arXiv:1809.11096. Rows of table 1 (128 pixels;
FID / IS, from memory), then of table 2 (FID / IS without truncation; those of
128 pixels are confirmed, the others from memory):
  batch512 15.30 / 58.77, batch1024 14.88 / 63.03, batch2048 12.39 / 76.85,
  ch96 9.54 / 92.98, shared 9.18 / 94.94, skip_z 8.73 / 98.76,
  ortho 8.51 / 99.31, ch64 10.48 / 86.90
  biggan256 8.7 / 142.3, biggan512 8.1 / 144.2
  deep128 5.7 / 124.5, deep256 6.9 / 171.4, deep512 7.5 / 152.8
  pytorch   BigGAN-PyTorch's script for eight GPUs: 256 images, accumulated 8
            times, 1 update of D: 9.77 / 87.4 after 130,000 steps

Data: python -m gans_jax.prepare --source=folder:imagenet/train/ \
    --out=data/imagenet128 --resolution=128 --crop=center --filter=area
Command: python -m gans_jax.main \
    --config=experiments/biggan/imagenet.py:row=ortho \
    --workdir=runs/biggan_imagenet --config.model.remat=true
Hardware: 128 to 512 TPU v3 cores (the authors'), 24 to 48 hours. Batches that
do not fit: --config.microbatches, --config.model.remat, --config.mesh.model.
Metric: fid50k_full and is50k with --batch_norm=standing:100.
"""

from gans_jax.core import config as config_lib
from gans_jax.systems import biggan

_DEEP = {'model.variant': 'deep', 'model.ch_G': 128, 'model.ch_D': 128,
         'model.z_dim': 128}
_SLOW = {'optimizer.G.lr': 2.5e-5, 'optimizer.D.lr': 2.5e-5}
_256 = {'data.source': 'prepared:data/imagenet256', 'data.resolution': 256}
_512 = {'data.source': 'prepared:data/imagenet512', 'data.resolution': 512}

ROWS = {
    **biggan.TABLE_1,
    'biggan256': {**_256, 'model.z_dim': 140, 'paper/fid': '8.7 +- .1',
                  'paper/is': '142.3 +- 2'},
    'biggan512': {**_512, 'model.z_dim': 128, 'paper/fid': 8.1,
                  'paper/is': 144.2},
    'deep128': {**_DEEP, 'paper/fid': '5.7 +- .3', 'paper/is': '124.5 +- 2'},
    'deep256': {**_DEEP, **_SLOW, **_256, 'paper/fid': '6.9 +- .2',
                'paper/is': '171.4 +- 2'},
    'deep512': {**_DEEP, **_SLOW, **_512, 'paper/fid': 7.5,
                'paper/is': 152.8},
    'pytorch': {'microbatches': 8, 'loss.n_critic': 1, 'loss.ortho_G': 0.0,
                'optimizer.G.lr': 1e-4, 'optimizer.D.lr': 4e-4,
                'optimizer.G.eps': 1e-6, 'optimizer.D.eps': 1e-6,
                'model.bn_epsilon': 1e-5, 'model.bn_scope': 'group:32',
                'model.spectral_norm': 'biggan_pytorch',
                'total_steps': 150_000},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='ortho')
  config = config_lib.base('biggan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/imagenet128',
      'data.resolution': 128,
      'data.labels': 'class',
      'batch_size': 2048,
      'total_steps': 250_000,
      'evaluate_every': 5000,
      'checkpoint_every': 1000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group',
        'microbatches': 1,
        'model.bn_scope': 'global',
        'model.ch_G': 2,
        'model.ch_D': 2,
        'model.shared_dim': 8,
        'model.z_dim': 12,
        'ema.start': 2,
    })
  return config
