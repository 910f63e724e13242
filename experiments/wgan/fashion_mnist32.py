"""WGAN on Fashion-MNIST, padded to 32x32, grey.

Arjovsky, Chintala & Bottou 2017, arXiv:1701.07875.
Not in the paper; its network at 32 pixels.

Data: python -m gans_jax.prepare --source=idx:fashion-mnist/ \
    --out=data/fashion32 --resolution=32 --crop=pad --channels=1
Command: python -m gans_jax.main --config=experiments/wgan/fashion_mnist32.py \
    --workdir=runs/wgan_fashion
Hardware: any GPU; not timed.
Metric: fd5k_lite0 is logged; it is not FID. For orientation, the large-scale
study (1711.10337) has FID 21.5 +- 1.6 for WGAN with another network and Adam.
"""

from gans_jax.core import config as config_lib

# The run whose figures README.md has: minutes on two cores.
CPU = {'model.ngf': 32, 'model.ndf': 32, 'batch_size': 64, 'total_steps': 1500,
       'log_every': 50, 'sample_every': 250, 'checkpoint_every': 750,
       'evaluate_every': 750, 'evaluate.metrics': ('fd1k_lite0',)}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, cpu=False)
  config = config_lib.base('wgan')
  config_lib.assign(config, {
      'data.source': 'prepared:data/fashion32',
      'data.resolution': 32,
      'data.channels': 1,
      'total_steps': 20_000,
      'evaluate_every': 5000,
  })
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'model.ngf': 4,
        'model.ndf': 4,
        'loss.critic_boost': 0,
    })
  return config
