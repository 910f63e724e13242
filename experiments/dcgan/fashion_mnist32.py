"""DCGAN on Fashion-MNIST, padded to 32x32, grey: 25 epochs.

Not in the paper; pytorch/examples' network at 32 pixels (G 1,066,880 and D
661,248 parameters with one channel).

Data: python -m gans_jax.prepare --source=idx:fashion-mnist/ \
    --out=data/fashion32 --resolution=32 --crop=pad --channels=1
Command: python -m gans_jax.main --config=experiments/dcgan/fashion_mnist32.py \
    --workdir=runs/dcgan_fashion
Hardware: a CPU of a few cores, or any GPU; not timed.
Metric: fd5k_lite0 is logged; it is not FID. For orientation, the large-scale
study (1711.10337) has FID 26.5 +- 1.6 for NS GAN with another network.
"""

from gans_jax.core import config as config_lib

IMAGES = 60_000


def get_config(arg=''):
  args = config_lib.parse_arg(arg, epochs=25)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/fashion32',
      'data.resolution': 32,
      'data.channels': 1,
      'total_kimg': args.epochs * IMAGES / 1000,
      'evaluate_every': 5000,
  })
  if args.debug:
    config_lib.assign(config, {
        'data.source': 'emoji:noto',
        'data.resolution': 16,
        'data.channels': 3,
        'data.labels': 'none',
        'data.limit': 64,
        'model.ngf': 4,
        'model.ndf': 4,
        'batch_size': 8,
        'total_steps': 6,
        'total_kimg': 0.0,
        'log_every': 2,
        'sample_every': 3,
        'checkpoint_every': 2,
        'evaluate_every': 0,
    })
  return config
