"""ViT-VQGAN on ImageNet, 256x256 (Yu et al. 2022, table 4 and ablation).

Rows: encoder and decoder of each size, and the ablation of codes, with the
published FID / IS of reconstructions of the validation images and the usage
of the codebook in batches of 256:
  ss          small, small   1.99 / 184.4, 95 %
  bb          base, base     1.55 / 190.2, 96 %
  sl          small, large   1.28 / 192.3, 95 %
  dim_256     3.68 / 160.1, 4 %     dim_128  2.77 / 173.9, 14 %
  dim_64      2.50 / 179.5, 37 %    dim_16   1.50 / 191.2, 95 %
  dim_8       1.52 / 189.5, 96 %    dim_4    3.68 / 143.8, 96 %
  no_l2_norm  5.44 / 123.6, 2 %
(the ablation is of bb).

Batch 256, 500,000 steps, Adam (.9, .99), rate 1e-4 after 50,000 steps of
warm-up, by a cosine to 5e-5, decay 1e-4.

Data: experiments/vqgan/imagenet.py's
Command: python -m gans_jax.main \
    --config=experiments/vit_vqgan/imagenet.py:row=ss \
    --workdir=runs/vit_vqgan_imagenet
Hardware: 128 TPUv4 in the paper; not run by us.
Metric: fid50k_val, is50k and codebook; fd5k_lite0 is logged, and is not FID.
"""

from gans_jax.core import config as config_lib

BASE = {'model.encoder': 'base', 'model.decoder': 'base'}
ROWS = {
    'ss': {'paper/rfid': '1.99'},
    'bb': {**BASE, 'paper/rfid': '1.55'},
    'sl': {'model.decoder': 'large', 'model.remat': True,
           'paper/rfid': '1.28'},
    'dim_256': {**BASE, 'model.code_dim': 256, 'paper/rfid': '3.68'},
    'dim_128': {**BASE, 'model.code_dim': 128, 'paper/rfid': '2.77'},
    'dim_64': {**BASE, 'model.code_dim': 64, 'paper/rfid': '2.50'},
    'dim_16': {**BASE, 'model.code_dim': 16, 'paper/rfid': '1.50'},
    'dim_8': {**BASE, 'model.code_dim': 8, 'paper/rfid': '1.52'},
    'dim_4': {**BASE, 'model.code_dim': 4, 'paper/rfid': '3.68'},
    'no_l2_norm': {**BASE, 'model.normalize': False, 'paper/rfid': '5.44'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='ss')
  config = config_lib.base('vit_vqgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/imagenet256',
      'data.resolution': 256,
      'batch_size': 256,
      'total_steps': 500_000,
      'evaluate_every': 50_000,
      'checkpoint_every': 10_000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.encoder': '',
        'model.decoder': '',
        'model.layers': 2,
        'model.heads': 2,
        'model.width': 16,
        'model.patch': 4,
        'model.codebook_size': 32,
        'model.channel_base': 64,
        'model.remat': False,
        'loss.perceptual': 'none',
        'optimizer.AE.warmup': 0,
        'optimizer.D.warmup': 0,
    })
  return config
