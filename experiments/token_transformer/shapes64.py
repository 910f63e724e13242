"""Images of label maps: VQGAN's Transformer with a second tokenizer.

Esser, Rombach, Ommer 2021, arXiv:2012.09841, section 4.2 (semantic image
synthesis), on procedural scenes of shapes, 64x64, whose label maps are known.
Not a data set of the paper; its results on COCO-Stuff and ADE20K are FID 22.4
and 35.5.

Three runs: a VQGAN of images and one of label maps (both of
experiments/vqgan/shapes64.py), then this.

Command: python -m gans_jax.main \
    --config=experiments/token_transformer/shapes64.py \
    --workdir=runs/gpt_shapes
Hardware: one GPU.
Metric: grids of scenes and, below, of what their label maps became.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('token_transformer')
  config_lib.assign(config, {
      'data.source': 'shapes',
      'data.resolution': 64,
      'data.tokenizer': 'runs/vqgan_shapes',
      'data.cond_tokenizer': 'runs/vqgan_shapes_labels',
      'model.condition': 'tokens',
      'model.layers': 8,
      'model.width': 256,
      'model.heads': 8,
      'batch_size': 32,
      'optimizer.T.lr': 3e-4,
      'optimizer.T.warmup': 500,
      'total_steps': 20_000,
      'sample.rows': 4,
      'sample.columns': 8,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.tokenizer': 'pixels:3',
        'data.cond_tokenizer': 'pixels:2',
        'model.layers': 2,
        'model.heads': 2,
        'model.width': 16,
    })
  return config
