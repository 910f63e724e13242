"""VQGANs of scenes of shapes and of their label maps, 64x64.

Esser, Rombach, Ommer 2021, arXiv:2012.09841, the two first stages of semantic
image synthesis (configs/coco_cond_stage.yaml for the second), on procedural
scenes. Rows: image, labels (one-hot maps of 7 classes, no discriminator).

Command: python -m gans_jax.main \
    --config=experiments/vqgan/shapes64.py:row=labels \
    --workdir=runs/vqgan_shapes_labels
Hardware: one GPU.
Metric: codebook; of row image also fd1k_lite0 of reconstructions.
"""

from gans_jax.core import config as config_lib

BATCH = 16
ROWS = {
    'image': {'evaluate.metrics': ('fd1k_lite0', 'codebook')},
    'labels': {'model.key': 'label_map', 'model.num_labels': 7,
               'loss.adversarial': 'none', 'loss.perceptual': 'none',
               'evaluate.metrics': ('codebook',)},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='image')
  config = config_lib.base('vqgan')
  config_lib.assign(config, {
      'data.source': 'shapes',
      'data.resolution': 64,
      'model.ch': 64,
      'model.ch_mult': (1, 1, 2, 2),
      'model.attn_resolutions': (8,),
      'model.codebook_size': 256,
      'model.z_channels': 64,
      'model.embed_dim': 64,
      'model.n_layers': 2,
      'batch_size': BATCH,
      'optimizer.AE.lr': 4.5e-6 * BATCH,
      'optimizer.D.lr': 4.5e-6 * BATCH,
      'loss.disc_start': 10_000,
      'total_steps': 30_000,
      'evaluate_every': 5000,
      'sample.rows': 8,
      'sample.columns': 12,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.source': 'shapes',
        'data.num_examples': 64,
        'data.limit': 0,
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
