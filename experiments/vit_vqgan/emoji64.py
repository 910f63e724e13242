"""ViT-VQGAN on the shipped emoji, 64x64; nothing to download.

Yu et al. 2022, arXiv:2110.04627; this data set is not theirs. 16 x 16 codes of
512, patches of 4 pixels.

Command: python -m gans_jax.main --config=experiments/vit_vqgan/emoji64.py:cpu \
    --workdir=runs/vit_vqgan_emoji64
Hardware: one GPU; with `cpu` two cores.
Metric: reconstructions' fd1k_lite0 (it is not FID), and codebook; logged.
"""

from gans_jax.core import config as config_lib

# A quarter of an hour on two cores.
CPU = {'model.layers': 2, 'model.width': 128, 'model.heads': 4,
       'model.channel_base': 512, 'batch_size': 8, 'total_steps': 1500,
       'log_every': 25, 'sample_every': 250, 'checkpoint_every': 500,
       'evaluate_every': 500, 'optimizer.AE.lr': 1e-3,
       'optimizer.AE.lr_min': 1e-4, 'optimizer.AE.warmup': 100,
       'optimizer.D.warmup': 100}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, cpu=False)
  config = config_lib.base('vit_vqgan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'model.encoder': '',
      'model.decoder': '',
      'model.layers': 8,
      'model.heads': 8,
      'model.width': 256,
      'model.patch': 4,
      'model.codebook_size': 512,
      'model.channel_base': 4096,
      'batch_size': 32,
      'optimizer.AE.warmup': 1000,
      'optimizer.D.warmup': 1000,
      'total_steps': 30_000,
      'evaluate_every': 5000,
      'evaluate.metrics': ('fd1k_lite0', 'codebook'),
      'sample.rows': 8,
      'sample.columns': 12,
  })
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.layers': 2,
        'model.heads': 2,
        'model.width': 16,
        'model.codebook_size': 32,
        'model.channel_base': 64,
        'loss.perceptual': 'none',
        'optimizer.AE.warmup': 0,
        'optimizer.D.warmup': 0,
    })
  return config
