"""A Transformer over VQGAN's codes of Fashion-MNIST, padded to 32x32, grey.

Esser, Rombach, Ommer 2021, arXiv:2012.09841; this data set is not theirs.
Rows: none (unconditional), class (by the ten kinds of clothes).

Data: as of experiments/vqgan/fashion_mnist32.py, whose run is the tokenizer
Command: python -m gans_jax.main \
    --config=experiments/token_transformer/fashion_mnist32.py:row=class,cpu \
    --workdir=runs/gpt_fashion
Hardware: any GPU; with `cpu` one core.
Metric: fd1k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'none': {},
    'class': {'model.condition': 'class', 'data.labels': 'class'},
}

# The run whose figures README.md has: 6 minutes on one core.
CPU = {'model.layers': 4, 'model.width': 128, 'model.heads': 4,
       'batch_size': 32, 'optimizer.T.lr': 1e-3, 'optimizer.T.warmup': 100,
       'total_steps': 1500, 'log_every': 25, 'sample_every': 500,
       'checkpoint_every': 500, 'evaluate_every': 1500}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='none', cpu=False)
  config = config_lib.base('token_transformer')
  config_lib.assign(config, {
      'data.source': 'prepared:data/fashion32',
      'data.resolution': 32,
      'data.channels': 1,
      'data.tokenizer': 'runs/vqgan_fashion',
      'model.layers': 8,
      'model.width': 256,
      'model.heads': 8,
      'batch_size': 64,
      'optimizer.T.lr': 3e-4,
      'optimizer.T.warmup': 500,
      'total_steps': 20_000,
      'evaluate_every': 2000,
      'evaluate.metrics': ('fd1k_lite0',),
      'sample.rows': 10,
      'sample.columns': 10,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': (
            'group' if config.model.condition == 'class' else 'none'),
        'data.tokenizer': 'pixels:3',
        'model.layers': 2,
        'model.heads': 2,
        'model.width': 16,
    })
  return config
