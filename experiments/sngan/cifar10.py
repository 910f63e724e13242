"""SNGAN ResNet on CIFAR-10 (Miyato et al. 2018; Miyato & Koyama 2018).

Rows, with the published IS and FID (5,000 generated against the 10,000 test
images, not comparable with FIDs of 50,000):
  unconditional  SN ResNet                        8.22 +- .05   21.7 +- .21
  projection     with the projection discriminator 8.62         17.5
  long           projection, 100,000 steps (torch-mimicry, bilinear upsampling
                 there: 8.25, FID 10.84 of 50,000 against the training set)

Command: python -m gans_jax.main \
    --config=experiments/sngan/cifar10.py:row=projection \
    --workdir=runs/sngan_cifar10
    (data: the archive, at data/cifar-10-python.tar.gz)
Hardware: one GPU; not timed. Others: .28 s a step (PyTorch, one GPU).
Metric: fid50k_full and is50k, by batch statistics as the authors' code
(--batch_norm=batch); fd5k_lite0 is logged, and is neither.
"""

from gans_jax.core import config as config_lib

_UNCONDITIONAL = {'model.conditioning': 'none', 'data.labels': 'none'}

ROWS = {
    'unconditional': {**_UNCONDITIONAL, 'paper/is': '8.22 +- .05',
                      'paper/fid': '21.7 +- .21'},
    'projection': {'paper/is': 8.62, 'paper/fid': 17.5},
    'long': {'total_steps': 100_000},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='projection')
  config = config_lib.base('sngan')
  config_lib.assign(config, {
      'data.source': 'cifar:data/cifar-10-python.tar.gz',
      'data.resolution': 32,
      'data.labels': 'class',
      'total_steps': 50_000,
      'sample.rows': 10,
      'sample.columns': 10,
      'evaluate_every': 5000,
      'checkpoint_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    labels = 'none' if config.model.conditioning == 'none' else 'group'
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': labels,
        'loss.n_critic': 2,
        'model.ch_G': 4,
        'model.ch_D': 4,
        'model.z_dim': 8,
    })
  return config
