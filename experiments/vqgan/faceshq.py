"""VQGAN on faces, 256x256: CelebA-HQ and FFHQ together (Esser et al. 2021).

Settings of configs/faceshq_vqgan.yaml: 25,000 + 60,000 images, batch 3, the
discriminator from step 30,001 on. Rows are the downsampling factors of table
8, whose authors measured LPIPS of reconstructions (and trained a Transformer
on 16 x 16 codes of each):

  f2 .11+-.02, f4 .20+-.03, f8 .23+-.04, f16 .38+-.07, f32 .63+-.08,
  f64 .66+-.11

They name the factors, not the channels of each: ch_mult is this file's.

Data: both sets in one folder, then python -m gans_jax.prepare \
    --source=folder:faceshq/ --out=data/faceshq256 --resolution=256
Command: python -m gans_jax.main --config=experiments/vqgan/faceshq.py \
    --workdir=runs/vqgan_faceshq
Hardware: one GPU; not run by us.
Metric: LPIPS of reconstructions, and codebook (python -m gans_jax.evaluate
--workdir=DIR --metrics=lpips_vgg,codebook).
"""

from gans_jax.core import config as config_lib

BATCH = 3
ROWS = {
    'f2': {'model.ch_mult': (1, 4), 'paper/lpips': '0.11 +- 0.02'},
    'f4': {'model.ch_mult': (1, 2, 4), 'paper/lpips': '0.20 +- 0.03'},
    'f8': {'model.ch_mult': (1, 2, 2, 4), 'paper/lpips': '0.23 +- 0.04'},
    'f16': {'paper/lpips': '0.38 +- 0.07'},
    'f32': {'model.ch_mult': (1, 1, 1, 2, 2, 4),
            'paper/lpips': '0.63 +- 0.08'},
    'f64': {'model.ch_mult': (1, 1, 1, 1, 2, 2, 4),
            'paper/lpips': '0.66 +- 0.11'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='f16')
  config = config_lib.base('vqgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/faceshq256',
      'data.resolution': 256,
      'batch_size': BATCH,
      'optimizer.AE.lr': 4.5e-6 * BATCH,
      'optimizer.D.lr': 4.5e-6 * BATCH,
      'loss.disc_start': 30_001,
      'total_steps': 600_000,
      'evaluate_every': 50_000,
      'checkpoint_every': 10_000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.ch': 8,
        'model.ch_mult': (1, 2),
        'model.num_res_blocks': 1,
        'model.attn_resolutions': (8,),
        'model.z_channels': 8,
        'model.embed_dim': 8,
        'model.codebook_size': 32,
        'model.ndf': 4,
        'model.n_layers': 2,
        'loss.perceptual': 'none',
        'loss.disc_start': 2,
    })
  return config
