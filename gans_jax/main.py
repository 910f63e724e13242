"""Trains: `python -m gans_jax.main --config=experiments/quickstart.py`."""

from gans_jax.core import cli

DESCRIPTION = """
Trains the system of a config file, and goes on by itself where the workdir
holds a run of the same model.

  python -m gans_jax.main --config=experiments/quickstart.py \\
      --workdir=runs/quickstart
  python -m gans_jax.main --config=experiments/wgan_gp/cifar10.py:row=resnet \\
      --workdir=runs/wgan_gp --config.batch_size=128 --config.seed=1
  python -m gans_jax.main --config=experiments/dcgan/emoji64.py:debug \\
      --workdir=/tmp/x --dry_run

Every key of a config can be set by --config.KEY=VALUE (nested keys with
dots, tuples as "a,b", booleans also as --noconfig.KEY).
"""


def arguments(argv: list[str]):
  """Parses the command line into (arguments, config overrides)."""
  from gans_jax.core import config as config_lib

  overrides, rest = config_lib.split_overrides(argv)
  parser = cli.parser('python -m gans_jax.main', DESCRIPTION)
  parser.add_argument(
      '--config', required=True, metavar='FILE.py[:ARGS]',
      help='an experiment, with its arguments after a colon')
  parser.add_argument(
      '--workdir', required=True, metavar='DIR',
      help='where config, checkpoints, samples, curves and the log go')
  parser.add_argument(
      '--dry_run', action='store_true',
      help='check everything, print the parameter table and the plan, and '
           'neither train nor write')
  several = parser.add_argument_group('runs of several processes')
  several.add_argument(
      '--distributed', action='store_true',
      help='join the processes of the cluster (TPU pod, SLURM, Kubernetes)')
  several.add_argument('--coordinator', metavar='HOST:PORT',
                       help='address of process 0, without a cluster')
  several.add_argument('--num_processes', type=int, metavar='N')
  several.add_argument('--process_id', type=int, metavar='I')
  several.add_argument(
      '--host_timeout', type=float, default=300.0, metavar='SECONDS',
      help='how long to wait for the others at the start (default 300)')
  return parser.parse_args(rest), overrides


def main(argv: list[str]) -> int:
  args, overrides = arguments(argv)

  from gans_jax.core import config as config_lib
  from gans_jax.core import hosts

  def load():
    return config_lib.apply_overrides(
        config_lib.load(args.config), overrides)

  config = hosts.join(args.coordinator, args.num_processes, args.process_id,
                      args.distributed, load, args.host_timeout)

  from gans_jax import train

  return train.train(config, args.workdir, dry_run=args.dry_run)


if __name__ == '__main__':
  cli.run(main)
