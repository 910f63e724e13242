"""VQGAN on ImageNet, 256x256 (Esser et al. 2021, table 4, "Taming").

Rows, with the published FID of reconstructions of the 50,000 validation
images (against them / against the training images):
  f16_1024   16 x 16 codes of 1,024                       7.94 / 10.54
  f16_16384  16 x 16 codes of 16,384                      4.98 / 7.41
  gumbel_f8  32 x 32 codes of 8,192, Gumbel quantizer     1.49 / 3.24

Settings of configs/imagenet_vqgan.yaml: batch 12 (one GPU), the rate
4.5e-6 a sample, random crops, no flips. That of the Gumbel model was not
published: its temperature here is the default.

Data: python -m gans_jax.prepare --source=folder:imagenet/train \
    --out=data/imagenet256 --resolution=256 --crop=center
Command: python -m gans_jax.main \
    --config=experiments/vqgan/imagenet.py:row=f16_16384 \
    --workdir=runs/vqgan_imagenet
Hardware: one GPU of 40 GB; officially weeks. Not run by us.
Metric: python -m gans_jax.evaluate --workdir=DIR
--metrics=fid50k_val,codebook; fd5k_lite0 is logged, and is not FID.
"""

from gans_jax.core import config as config_lib

BATCH = 12
ROWS = {
    'f16_1024': {'paper/rfid': '7.94'},
    'f16_16384': {'model.codebook_size': 16384, 'paper/rfid': '4.98'},
    'gumbel_f8': {'model.quantizer': 'gumbel', 'model.codebook_size': 8192,
                  'model.ch_mult': (1, 1, 2, 4),
                  'model.attn_resolutions': (32,), 'paper/rfid': '1.49'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='f16_1024')
  config = config_lib.base('vqgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/imagenet256',
      'data.resolution': 256,
      'batch_size': BATCH,
      'optimizer.AE.lr': 4.5e-6 * BATCH,
      'optimizer.D.lr': 4.5e-6 * BATCH,
      'loss.disc_start': 250_001,
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
