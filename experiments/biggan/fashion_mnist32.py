"""BigGAN on Fashion-MNIST, padded to 32x32, grey, by its ten classes.

Brock et al. 2019, arXiv:1809.11096; not in the paper. Rows: biggan, deep.

Data: python -m gans_jax.prepare --source=idx:fashion-mnist/ \
    --out=data/fashion32 --resolution=32 --crop=pad --channels=1
Command: python -m gans_jax.main \
    --config=experiments/biggan/fashion_mnist32.py:cpu \
    --workdir=runs/biggan_fashion
Hardware: any GPU; `cpu` is a small form, 25 minutes of one core.
Metric: fd5k_lite0 is logged; it is not FID.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'biggan': {},
    'deep': {'model.variant': 'deep', 'model.ch_G': 64, 'model.ch_D': 64},
}

CPU = {'model.ch_G': 12, 'model.ch_D': 12, 'batch_size': 32,
       'loss.n_critic': 1, 'total_steps': 5000, 'log_every': 20,
       'sample_every': 500, 'checkpoint_every': 500, 'evaluate_every': 500,
       'evaluate.metrics': ('fd1k_lite0',), 'ema.decay': 0.999,
       'ema.start': 100}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='biggan', cpu=False)
  config = config_lib.base('biggan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/fashion32',
      'data.resolution': 32,
      'data.channels': 1,
      'data.labels': 'class',
      'model.ch_G': 32,
      'model.ch_D': 32,
      'model.z_dim': 80,
      'batch_size': 64,
      'optimizer.G.lr': 2e-4,
      'optimizer.D.lr': 2e-4,
      'ema.start': 1000,
      'ema.decay': 0.999,
      'total_steps': 20_000,
      'sample.rows': 10,
      'sample.columns': 10,
      'evaluate_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group',
        'loss.n_critic': 2,
        'model.ch_G': 2,
        'model.ch_D': 2,
        'model.shared_dim': 8,
        'model.z_dim': 12,
        'ema.start': 2,
    })
  return config
