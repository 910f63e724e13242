"""Gated PixelCNN prior over the tokens of a VQ-VAE, Fashion-MNIST 28 x 28.

Van den Oord et al. 2016 (arXiv:1606.05328) over the codes of 2017
(arXiv:1711.00937); not in the papers. Class-conditional. First:
experiments/vqvae/fashion_mnist28.py in runs/vqvae_fashion.

Data: those of the first stage, from the same source.
Command: python -m gans_jax.main \
    --config=experiments/pixelcnn/fashion_mnist28.py \
    --workdir=runs/pixelcnn_fashion --config.data.source=idx:FOLDER
Hardware: one GPU, or a CPU of two cores.
Time: 20,000 steps; not timed.
Metric: fd5k_lite0 of samples (not FID); bits_per_token in the logs. Not run
    in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('pixelcnn')
  config_lib.assign(config, {
      'data.source': 'tfds:fashion_mnist',
      'data.resolution': 28,
      'data.channels': 1,
      'data.labels': 'class',
      'data.tokenizer': 'runs/vqvae_fashion',
      'model.class_conditional': True,
      'batch_size': 128,
      'total_steps': 20_000,
      'log_every': 100,
      'sample_every': 2000,
      'checkpoint_every': 2000,
      'sample.rows': 10,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.dim': 4,
        'model.layers': 2, 'model.head': 8, 'data.tokenizer': 'pixels:2',
        'model.class_conditional': False,
    })
  return config
