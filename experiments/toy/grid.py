"""Mode collapse on a grid of 25 Gaussians: which objective finds every mode?

PacGAN (Lin et al. 2018, 1712.04086), tables 1 and 2, in the VEEGAN setting
(Srivastava et al. 2017, 1705.07761); WGAN-GP (1704.00028); Unrolled GAN (Metz
et al. 2017, 1611.02163).
`:row=` chooses what is put on PacGAN's nets: the objectives, penalties,
packing (`pac2` to `pac4`) and unrolling. The default length shows in a minute
or two what collapses; `full` is the papers' 400,000 steps.

Command: python -m gans_jax.main --config=experiments/toy/grid.py:row=ns \
    --workdir=runs/grid_ns
Hardware: two CPU cores; README.md of this folder has what they took.
Metric: `modes` (2,500 samples): modes covered, share of samples within three
standard deviations of a mode, and reverse KL of the modes' histogram.
Published figures of the PacGAN paper (10 runs): README.md.
"""

from gans_jax.core import config as config_lib

_CRITIC = {'loss.objective': 'wasserstein', 'loss.simultaneous': False,
           'loss.n_critic': 5}
ROWS = {
    'ns': {},
    'mm': {'loss.objective': 'minimax'},
    'lsgan': {'loss.objective': 'least_squares'},
    'hinge': {'loss.objective': 'hinge'},
    'wgan': {**_CRITIC, 'loss.clip': 0.1},
    'wgan_gp': {**_CRITIC, 'loss.penalty': 'wgan_gp',
                'loss.penalty_weight': 0.1, 'model.nets': 'wgan_gp'},
    'dragan': {'loss.penalty': 'dragan', 'loss.penalty_weight': 10.0},
    'r1': {'loss.penalty': 'r1', 'loss.penalty_weight': 0.1,
           'model.nets': 'wgan_gp'},
    'relativistic': {'loss.objective': 'relativistic_average'},
    'unrolled1': {'model.unroll': 1},
    'unrolled5': {'model.unroll': 5},
    'unrolled10': {'model.unroll': 10},
    'pac2': {'model.packing': 2},
    'pac3': {'model.packing': 3},
    'pac4': {'model.packing': 4},
}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='ns', full=False)
  config = config_lib.base('toy')
  config_lib.assign(config, {
      'data.source': 'mixture:grid25',
      'batch_size': 100,
      'total_steps': 400_000 if args.full else 5_000,
      'log_every': 100,
      'sample_every': 10_000 if args.full else 1_000,
      'checkpoint_every': 50_000 if args.full else 5_000,
      'evaluate_every': 10_000 if args.full else 1_000,
      'evaluate.metrics': ('modes',),
      'sample.rows': 50,
      'sample.columns': 50,
      **config_lib.row(ROWS, args.row),
  })
  if not args.full:
    # A short run learns at a higher rate than the papers' 1e-4.
    config.optimizer.G.lr = config.optimizer.D.lr = 1e-3
  if args.debug:
    config_lib.assign(config, {
        'total_steps': 6, 'log_every': 1, 'sample_every': 3,
        'checkpoint_every': 3, 'evaluate_every': 6, 'batch_size': 16,
        'model.width': 16, 'model.d_width': 16,
        'data.num_examples': 256})
  return config
