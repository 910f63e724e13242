"""VQGAN on the shipped emoji, 64x64; nothing to download.

Esser, Rombach, Ommer 2021, arXiv:2012.09841; this data set is not theirs.
Rows:
  gan         16 x 16 codes of 512, as the official loss has it
  fixed_beta  beta at the commitment, as the paper writes it
  no_gan      without the discriminator
  l1          without it and without a perceptual distance: a VQ-VAE
  gumbel      the Gumbel quantizer

Command: python -m gans_jax.main --config=experiments/vqgan/emoji64.py:cpu \
    --workdir=runs/vqgan_emoji64
Hardware: one GPU; with `cpu` one core, a quarter of the channels.
Metric: reconstructions' fd1k_lite0 (it is not FID), and codebook;
logged.
"""

from gans_jax.core import config as config_lib

BATCH = 16
NO_GAN = {'loss.adversarial': 'none'}
ROWS = {
    'gan': {},
    'fixed_beta': {'loss.legacy_beta': False},
    'no_gan': NO_GAN,
    'l1': {**NO_GAN, 'loss.perceptual': 'none'},
    'gumbel': {'model.quantizer': 'gumbel', 'model.z_channels': 64,
               'model.embed_dim': 64, 'loss.kl_weight': 1e-8,
               'loss.temperature_end': 0.3,
               'loss.temperature_steps': 10_000},
}

# Twenty minutes on one core, 8 x 8 codes. In so few steps codes must start
# where the encoder's outputs are, and MaskGIT's entropy loss has to keep them
# in use. Groups of one channel would lose the colours, and the perceptual
# distance at its full weight had them wrong after 3,000 steps.
CPU = {'model.ch': 16, 'model.ch_mult': (1, 2, 2, 4),
       'model.num_res_blocks': 1, 'model.z_channels': 16,
       'model.embed_dim': 16, 'model.codes_limit': 0.6, 'model.ndf': 16,
       'model.groups': 4, 'loss.entropy_weight': 0.02, 'batch_size': 8,
       'total_steps': 4000, 'log_every': 25, 'sample_every': 500,
       'checkpoint_every': 500, 'evaluate_every': 2000,
       'loss.perceptual_weight': 0.25, 'loss.disc_start': 3000,
       'loss.disc_weight': 0.4, 'optimizer.AE.lr': 4e-4,
       'optimizer.AE.b1': 0.9, 'optimizer.AE.b2': 0.99,
       'optimizer.AE.warmup': 50, 'optimizer.D.lr': 2e-4}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='gan', cpu=False)
  config = config_lib.base('vqgan')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'model.ch': 64,
      'model.ch_mult': (1, 2, 2),
      'model.attn_resolutions': (),
      'model.codebook_size': 512,
      'model.z_channels': 64,
      'model.embed_dim': 64,
      'model.n_layers': 2,
      'batch_size': BATCH,
      'optimizer.AE.lr': 4.5e-6 * BATCH,
      'optimizer.D.lr': 4.5e-6 * BATCH,
      'loss.disc_start': 10_000,
      'total_steps': 30_000,
      'evaluate_every': 5000,
      'evaluate.metrics': ('fd1k_lite0', 'codebook'),
      'sample.rows': 8,
      'sample.columns': 12,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.ch': 8,
        'model.ch_mult': (1, 2),
        'model.num_res_blocks': 1,
        'model.z_channels': 8,
        'model.embed_dim': 8,
        'model.codebook_size': 32,
        'model.ndf': 4,
        'loss.perceptual': 'none',
        'loss.disc_start': 2,
    })
  return config
