"""BigGAN on CIFAR-10 on one GPU (Brock et al. 2019, arXiv:1809.11096).

Rows:
  pytorch     BigGAN-PyTorch's script: no shared embedding, no attention; it
              gives no figure (others, with flips and 250,000 steps: IS 9.06,
              FID 9.59 of 10,000)
  studiogan   channels 96, shared embedding and skip-z, flips, 100,000 steps;
              StudioGAN reports IS 9.96, FID 4.16 with its own variant of the
              networks (attention, other widths), which this is not
  mit         `pytorch` with flips and 250,000 steps, of data-efficient-gans:
              IS 9.06, FID 9.59; and with
  diffaugment      translation,cutout             IS 9.16, FID 8.70
  cr               consistency of weight 10       IS 9.20, FID 9.06
  diffaugment_cr   cutout, and consistency        IS 9.17, FID 8.49
  lecam            weight 0.3 (google/lecam-gan)  FID 8.31, as others quote it
The figures of the last five are of 10,000 images, of the best snapshot. With
data.limit=5000 (10% of the data, another subset than theirs): `mit` 7.62,
39.78; `diffaugment` 8.09, 22.40; `cr` 7.66, 37.45.
The paper's own figures: IS 9.22, FID 14.73.

Command: python -m gans_jax.main --config=experiments/biggan/cifar10.py \
    --workdir=runs/biggan_cifar10
    (data: the archive, at data/cifar-10-python.tar.gz)
Hardware: one GPU; others: .41 s a step of 5 updates of D (a TITAN RTX).
Metric: fid50k_full and is50k; fd5k_lite0 is logged, and is neither.
"""

from gans_jax.core import config as config_lib

_BETAS = {f'optimizer.{player}.b1': 0.5 for player in 'GD'}

ROWS = {
    'pytorch': {'model.shared': False, 'model.hierarchical': False,
                'model.init': 'normal', 'batch_size': 50, 'loss.n_critic': 4,
                'total_steps': 125_000},
    'studiogan': {**_BETAS, 'data.flip': True, 'model.ch_G': 96,
                  'model.ch_D': 48, 'model.z_dim': 80, 'batch_size': 64,
                  'loss.n_critic': 5, 'total_steps': 100_000},
}
_MIT = {**ROWS['pytorch'], 'data.flip': True, 'total_steps': 250_000}
_CR = {'loss.consistency.real': 10.0}
ROWS |= {
    'mit': {**_MIT, 'paper/is': 9.06, 'paper/fid': 9.59},
    'diffaugment': {**_MIT, 'augment.kind': 'diffaugment',
                    'augment.policy': 'translation,cutout',
                    'paper/is': 9.16, 'paper/fid': 8.70},
    'cr': {**_MIT, **_CR, 'paper/is': 9.20, 'paper/fid': 9.06},
    'diffaugment_cr': {**_MIT, **_CR, 'augment.kind': 'diffaugment',
                       'augment.policy': 'cutout', 'paper/is': 9.17,
                       'paper/fid': 8.49},
    'lecam': {**_MIT, 'loss.lecam.weight': 0.3, 'loss.lecam.decay': 0.9,
              'paper/fid': 8.31},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='pytorch')
  config = config_lib.base('biggan')
  config_lib.assign(config, {
      'data.source': 'cifar:data/cifar-10-python.tar.gz',
      'data.resolution': 32,
      'data.labels': 'class',
      'model.ch_G': 64,
      'model.ch_D': 64,
      'model.z_dim': 128,
      'model.bn_epsilon': 1e-5,
      'model.spectral_norm': 'biggan_pytorch',
      'loss.ortho_G': 0.0,
      'optimizer.G.lr': 2e-4,
      'optimizer.D.lr': 2e-4,
      'ema.start': 1000,
      'sample.rows': 10,
      'sample.columns': 10,
      'evaluate_every': 5000,
      'checkpoint_every': 5000,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
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
