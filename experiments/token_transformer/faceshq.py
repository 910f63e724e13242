"""A Transformer over VQGAN's codes of faces, 256x256 (Esser et al. 2021).

Rows, with the published FID (256 codes, unconditional):
  celebahq  28 layers of 1024, 355,055,616 parameters   10.2 (k 400)
  ffhq      the same                                      9.6 (k 300)
  big       24 layers of 1664, 801,798,400 parameters

Training stopped at the least validation loss: CelebA-HQ at epoch 13, FFHQ at
epoch 10. Later checkpoints, which had memorised, scored better: 3.86, 2.68.

Data: python -m gans_jax.prepare --source=folder:ffhq/ --out=data/ffhq256 \
    --resolution=256 (celebahq likewise); the tokenizer is the run of
    experiments/vqgan/faceshq.py
Command: python -m gans_jax.main \
    --config=experiments/token_transformer/faceshq.py:row=ffhq \
    --workdir=runs/gpt_ffhq
Hardware: one GPU of 40 GB; not run by us.
Metric: fid50k_full; fd5k_lite0 is logged, and is not FID.
"""

from gans_jax.core import config as config_lib

BATCH = 16
ROWS = {
    'celebahq': {'data.source': 'prepared:data/celebahq256',
                 'paper/fid': '10.2'},
    'ffhq': {'paper/fid': '9.6'},
    'big': {'model.layers': 24, 'model.width': 1664},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='ffhq')
  config = config_lib.base('token_transformer')
  config_lib.assign(config, {
      'data.source': 'prepared:data/ffhq256',
      'data.resolution': 256,
      'data.tokenizer': 'runs/vqgan_faceshq',
      'batch_size': BATCH,
      'optimizer.T.lr': 4.5e-6 * BATCH,
      'total_steps': 50_000,
      'evaluate_every': 5000,
      'checkpoint_every': 5000,
      'sample.rows': 4,
      'sample.columns': 8,
  })
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  if args.debug:
    config_lib.assign(config, {
        **config_lib.DEBUG,
        'data.tokenizer': 'pixels:3',
        'model.layers': 2,
        'model.heads': 2,
        'model.width': 16,
    })
  return config
