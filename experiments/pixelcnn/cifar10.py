"""Gated PixelCNN prior over the tokens of a VQ-VAE, CIFAR-10.

Van den Oord et al. 2017 (arXiv:1711.00937), sizes of
ritheshkumar95/pytorch-vqvae; `:dim=256` for the larger net. First:
experiments/vqvae/cifar10.py:row=ema in runs/vqvae_cifar10. For comparison, on
pixels: Gated PixelCNN 3.03 bits/dim, FID 65.93, IS 4.60 (as tabulated in
DDPM, 2006.11239).

Data: those of the first stage, from the same source.
Command: python -m gans_jax.main --config=experiments/pixelcnn/cifar10.py \
    --workdir=runs/pixelcnn_cifar10 --config.data.source=cifar:PATH
Hardware: one GPU.
Time: 100 epochs, 39,000 steps; not timed.
Metric: fd5k_lite0 of samples (not FID); bits_per_token in the logs. Not run
    by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg, dim=64)
  config = config_lib.base('pixelcnn')
  config_lib.assign(config, {
      'data.source': 'tfds:cifar10',
      'data.resolution': 32,
      'data.labels': 'class',
      'data.tokenizer': 'runs/vqvae_cifar10',
      'model.dim': args.dim,
      'model.class_conditional': True,
      'batch_size': 128,
      'total_steps': 39_000,
      'log_every': 100,
      'sample_every': 3000,
      'checkpoint_every': 3000,
      'sample.rows': 10,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.dim': 4,
        'model.layers': 2, 'model.head': 8, 'data.tokenizer': 'pixels:2',
        'model.class_conditional': False,
    })
  return config
