"""DCGAN on Fashion-MNIST, padded to 32x32, grey: 25 epochs.

Radford, Metz & Chintala 2015, arXiv:1511.06434.
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

# The run whose figures README.md has: minutes on two cores.
CPU = {'model.ngf': 32, 'model.ndf': 32, 'batch_size': 64, 'total_kimg': 0.0,
       'total_steps': 3000, 'log_every': 50, 'sample_every': 500,
       'checkpoint_every': 1500, 'evaluate_every': 1500,
       'evaluate.metrics': ('fd1k_lite0',)}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, epochs=25, cpu=False)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/fashion32',
      'data.resolution': 32,
      'data.channels': 1,
      'total_kimg': args.epochs * IMAGES / 1000,
      'evaluate_every': 5000,
  })
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.ngf': 4,
        'model.ndf': 4,
    })
  return config
