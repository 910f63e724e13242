"""GAN on MNIST: Goodfellow et al. 2014 (1406.2661), table 1 and figure 2a.

The released setting (mnist.yaml of goodfeli/adversarial): 784-1200-1200
generator, maxout discriminator with dropout, momentum SGD, batch 100.
row=algorithm1 plays the paper's Algorithm 1 (D first, then G
against the new D) instead of the code's simultaneous steps, row=minimax eq. 1
as it stands, row=gaussian takes normal noise.

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:mnist. The
setting trains on the first 50,000 images (tfds: data.split='train[:50000]'),
ours on all 60,000.
Command: python -m gans_jax.main --config=experiments/gan/mnist.py \
    --workdir=runs/gan_mnist --config.data.source=idx:FOLDER
Hardware: one GPU, or a CPU of two cores; not timed.
Time: 125,000 steps, until the momentum stops rising.
Metric: published: Parzen window log-likelihood 225 +- 2 (10,000 samples, from
memory of the paper), which is not one of ours; fd5k_lite0 here (not FID). Not
run in full by us.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'released': {},
    'algorithm1': {'loss.simultaneous': False},
    'minimax': {'loss.simultaneous': False, 'loss.objective': 'minimax'},
    'gaussian': {'model.z': 'normal'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='released')
  config = config_lib.base('gan')
  config_lib.assign(config, {
      'data.source': 'tfds:mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'batch_size': 100,
      'total_steps': 125_000,
      'log_every': 500,
      'sample_every': 5000,
      'checkpoint_every': 5000,
      'sample.rows': 10,
      'sample.columns': 10,
      **config_lib.row(ROWS, args.row),
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.g_hidden': 16, 'model.d_units': 8})
  return config
