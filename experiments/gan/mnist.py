"""The GAN of 2014 on MNIST: the first row of its table 1.

Goodfellow et al. 2014, arXiv:1406.2661, sections 4 and 5, the released
setting mnist.yaml: MLPs of ReLU and maxout units, momentum SGD, batch 100.
`:row=algorithm1` alternates the players as in the paper's Algorithm 1,
`:row=minimax` lets G descend log(1 - D(G(z))) as in its equation 1.

Data: the IDX files, `--config.data.source=idx:PATH` (the published split of
50,000 training images is the first; ours takes all 60,000), or tfds:mnist.
Command: python -m gans_jax.main --config=experiments/gan/mnist.py \
    --workdir=runs/gan_mnist --config.data.source=idx:PATH
Hardware: any; 1,000 epochs of 500 updates take a GPU under an hour.
Metric: published: Parzen log-likelihood 225 +- 2 (from memory), which is not
implemented; fd5k_lite0 here (not FID). Not run by us.
"""

from gans_jax.core import config as config_lib

ROWS = {
    'released': {},
    'algorithm1': {'loss.simultaneous': False},
    'minimax': {'loss.objective': 'minimax'},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='released')
  config = config_lib.base('gan')
  config_lib.assign(config, {
      'data.source': 'tfds:mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'batch_size': 100,
      'total_steps': 500_000,
      'sample_every': 5000,
      'checkpoint_every': 10_000,
      **config_lib.row(ROWS, args.row),
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.g_hidden': 16, 'model.d_units': 8})
  return config
