"""Gated PixelCNN prior over the tokens of a VQ-VAE, the shipped emoji 64 x 64.

Van den Oord et al. 2016 (arXiv:1606.05328) over the codes of 2017
(arXiv:1711.00937); not in the papers. By group of emoji. First:
experiments/vqvae/emoji64.py in runs/vqvae_emoji.

Command: python -m gans_jax.main --config=experiments/pixelcnn/emoji64.py \
    --workdir=runs/pixelcnn_emoji
Hardware: one GPU, or a CPU of two cores.
Time: 20,000 steps; not timed.
Metric: fd3k_lite0 of samples (not FID); bits_per_token in the logs. Not run
    in full by us.
"""

from gans_jax.core import config as config_lib


def get_config(arg=''):
  args = config_lib.parse_arg(arg)
  config = config_lib.base('pixelcnn')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'data.labels': 'group',
      'data.tokenizer': 'runs/vqvae_emoji',
      'model.class_conditional': True,
      'ema.decay': 0.999,
      'batch_size': 64,
      'total_steps': 20_000,
      'log_every': 100,
      'sample_every': 2000,
      'checkpoint_every': 2000,
      'sample.rows': 9,
  })
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG, 'model.dim': 4,
        'model.layers': 2, 'model.head': 8, 'data.tokenizer': 'pixels:2',
        'model.class_conditional': False,
    })
  return config
