"""A Transformer over VQGAN's codes of ImageNet (Esser et al. 2021, tables).

Rows: the paper's experiments on ImageNet, 16 x 16 codes, 16 heads:
  in        unconditional, 24 layers of 1024        NLL 4.78 a code
  c_in      class-conditional, the same              (304.7 M parameters)
  c_in_big  class-conditional, 48 layers of 1536     FID 15.78, IS 74.3
            (K 16,384, 1.4 G parameters; k 973, p 0.88; best FID 5.20 with
            5 % accepted by a classifier)

The rate is 4.5e-6 times the batch, constant; AdamW, decay 0.01. The large one
took 2.4 million steps of 16 x 8 images, 45.8 days of one A100.

Data: experiments/vqgan/imagenet.py's, and its run as the tokenizer
Command: python -m gans_jax.main \
    --config=experiments/token_transformer/imagenet.py:row=c_in \
    --workdir=runs/gpt_imagenet
Hardware: one A100 and more. Not run by us.
Metric: python -m gans_jax.evaluate --workdir=DIR --metrics=fid50k_full;
fd5k_lite0 is logged, and is not FID.
"""

from gans_jax.core import config as config_lib

BATCH = 16
CLASS = {'model.condition': 'class', 'data.labels': 'class'}
ROWS = {
    'in': {'paper/nll': '4.78'},
    'c_in': CLASS,
    'c_in_big': {**CLASS, 'model.layers': 48, 'model.width': 1536,
                 'model.remat': True, 'batch_size': 128,
                 'optimizer.T.lr': 4.5e-6 * 128, 'microbatches': 8,
                 'data.tokenizer': 'runs/vqgan_imagenet_16384',
                 'total_steps': 2_400_000, 'paper/fid': '15.78'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='in')
  config = config_lib.base('token_transformer')
  config_lib.assign(config, {
      'data.source': 'prepared:data/imagenet256',
      'data.resolution': 256,
      'data.tokenizer': 'runs/vqgan_imagenet',
      'model.layers': 24,
      'batch_size': BATCH,
      'optimizer.T.lr': 4.5e-6 * BATCH,
      'total_steps': 1_000_000,
      'evaluate_every': 50_000,
      'checkpoint_every': 10_000,
      'sample.rows': 4,
      'sample.columns': 8,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.tokenizer': 'pixels:3',
        'data.labels': (
            'group' if config.model.condition == 'class' else 'none'),
        'model.layers': 2,
        'model.heads': 2,
        'model.width': 16,
        'microbatches': 1,
    })
  return config
