"""Conditional GAN on MNIST: Mirza & Osindero 2014 (1411.1784), table 1, fig. 2.

row=mlp is the paper's (sec. 4.1; no code was released), row=conv the
conditional DCGAN of Newmu/dcgan_code, mnist/train_cond_dcgan.py.

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:mnist.
Command: python -m gans_jax.main --config=experiments/cgan/mnist.py:row=mlp \
    --workdir=runs/cgan_mnist --config.data.source=idx:FOLDER
Hardware: one GPU, or a CPU for row=mlp.
Time: 125,000 steps of row=mlp, 39,000 of row=conv; not measured on a GPU.
Metric: published: Parzen window log-likelihood 132 +- 1.8 for row=mlp (from
memory of the paper), which is not one of ours; fd5k_lite0 here (not FID). Not
run in full by us.
"""

from gans_jax.core import config as config_lib

SGD = {'name': 'sgd', 'lr': 0.1, 'lr_decay': 1.00004, 'lr_min': 1e-6,
       'momentum': 0.5, 'momentum_end': 0.7, 'momentum_ramp': 125_000}
ROWS = {
    'mlp': {
        'model.variant': 'mlp',
        'model.z': 'unit',
        'loss.l2': 0.0,
        'batch_size': 100,
        'total_steps': 125_000,
        **{f'optimizer.{player}.{key}': value
           for player in 'GD' for key, value in SGD.items()},
    },
    'conv': {
        'model.variant': 'conv',
        'batch_size': 128,
        # 200 epochs of 391 minibatches of 50,000 images; each trains G or D.
        'total_steps': 39_000,
    },
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='mlp')
  config = config_lib.base('cgan')
  config_lib.assign(config, {
      'data.source': 'tfds:mnist',
      'data.labels': 'class',
      'data.resolution': 28,
      'data.channels': 1,
      'log_every': 500,
      'sample_every': 5000,
      'checkpoint_every': 5000,
      'sample.rows': 10,
      'sample.columns': 10,
      **config_lib.row(ROWS, args.row),
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'data.labels': 'group', 'model.ch': 8,
        'model.fc': 16, 'model.width': 0.05})
  return config
