"""VAE on MNIST, the setting of Kingma & Welling 2013 (arXiv:1312.6114).

500 tanh units, minibatches of 100, Bernoulli decoder on grey levels; figure 2
plots the bound against samples seen for latents of 3, 5, 10, 20 and 200
numbers (`:z_dim=20`), figure 4b the manifold of a 2-D one (`:z_dim=2`, then
`python -m gans_jax.sample --workdir=DIR --manifold=0,1`). The bound per image
(`elbo`) reaches about -100 with 20 numbers after 10 million samples, read off
figure 2 from memory.

Data: the IDX files, `--config.data.source=idx:FOLDER`, or tfds:mnist.
Command: python -m gans_jax.main --config=experiments/vae/mnist.py \
    --workdir=runs/vae_mnist --config.data.source=idx:FOLDER
Hardware: a CPU.
Time: 100,000 steps (10 million images); not timed.
Metric: elbo in nats, in the logs. Not run in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg, z_dim=20)
  config = config_lib.base('vae')
  config_lib.assign(config, {
      'data.source': 'tfds:mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'model.z_dim': args.z_dim,
      'batch_size': 100,
      'total_steps': 100_000,
      'log_every': 500,
      'sample_every': 10_000,
      'checkpoint_every': 10_000,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.hidden': 8, 'model.z_dim': 4,
    })
  return config
