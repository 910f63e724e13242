"""Gated PixelCNN on pixels: Fashion-MNIST, 28 x 28, 16 levels of grey.

Van den Oord et al. 2016 (arXiv:1606.05328), without a first stage; not in the
paper. `:levels=256` for all levels (bits_per_token is then bits/dim).

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:fashion_mnist.
Command: python -m gans_jax.main --config=experiments/pixelcnn/pixels28.py \
    --workdir=runs/pixelcnn_pixels --config.data.source=idx:FOLDER
Hardware: one GPU.
Time: 50,000 steps; not timed.
Metric: bits_per_token in the logs. Not run in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg, levels=16)
  config = config_lib.base('pixelcnn')
  config_lib.assign(config, {
      'data.source': 'tfds:fashion_mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'data.labels': 'class',
      'data.tokenizer': f'pixels:{args.levels}',
      'model.class_conditional': True,
      'batch_size': 64,
      'total_steps': 50_000,
      'log_every': 100,
      'sample_every': 5000,
      'checkpoint_every': 5000,
      'sample.rows': 10,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.dim': 4,
        'model.layers': 2, 'model.head': 8, 'data.tokenizer': 'pixels:2',
        'model.class_conditional': False,
    })
  return config
