"""MaskGIT over VQGAN's codes of the shipped emoji, 64x64, by group.

Chang et al. 2022, arXiv:2202.04200; this data set is not theirs.

Data: the tokenizer is a run of experiments/vqgan/emoji64.py
Command: python -m gans_jax.main \
    --config=experiments/maskgit/emoji64.py:cpu --workdir=runs/maskgit_emoji64
Hardware: one GPU; with `cpu` one core.
Metric: fd1k_lite0, logged; it is not FID.
"""

from gans_jax.core import config as config_lib

# 8 minutes on one core, on the 8 x 8 codes of the tokenizer's `cpu` form.
CPU = {'model.layers': 4, 'model.width': 128, 'model.heads': 4,
       'model.hidden': 512, 'batch_size': 32, 'optimizer.T.lr': 1e-3,
       'optimizer.T.warmup': 100, 'total_steps': 1500, 'log_every': 25,
       'sample_every': 500, 'checkpoint_every': 500, 'evaluate_every': 1500}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, cpu=False)
  config = config_lib.base('maskgit')
  config_lib.assign(config, {
      'data.source': 'emoji:both',
      'data.resolution': 64,
      'data.labels': 'group',
      'data.tokenizer': 'runs/vqgan_emoji64',
      'model.layers': 12,
      'model.width': 512,
      'model.heads': 8,
      'model.hidden': 2048,
      'batch_size': 64,
      'optimizer.T.lr': 3e-4,
      'optimizer.T.warmup': 500,
      'total_steps': 20_000,
      'evaluate_every': 2000,
      'evaluate.metrics': ('fd1k_lite0',),
      'sample.rows': 9,
      'sample.columns': 10,
  })
  if args.cpu:
    config_lib.assign(config, CPU)
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.labels': 'group',
        'data.tokenizer': 'pixels:3',
        'model.layers': 2,
        'model.heads': 2,
        'model.width': 16,
        'model.hidden': 32,
    })
  return config
