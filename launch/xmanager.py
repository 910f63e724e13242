"""Trains through XManager (`pip install xmanager`), on one machine a job.

  python launch/xmanager.py --executor=vertex --accelerator=a100 --count=8 \\
      -- --config=FILE.py --workdir=/gcs/BUCKET/runs/gan
  python launch/xmanager.py --executor=local --accelerator=local_gpu -- ...
  python launch/xmanager.py --dry_run -- --config=FILE.py --workdir=DIR

What follows `--` is the command line of `python -m gans_jax.main`. XManager
builds an image of this checkout with Docker, and runs it here (local), on
Vertex AI (vertex; a bucket is at /gcs/BUCKET there) or in a Kubernetes
cluster (kubernetes). A workdir that the container can reach makes a job that
is started again go on. For several hosts take tpu_pod.sh, gke.py or
slurm.sbatch. Not by `xmanager launch`: that takes this file's name for its
own.
"""

import argparse
from collections.abc import Sequence
import os
import shlex
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
EXECUTORS = {'local': 'Local', 'vertex': 'Vertex', 'kubernetes': 'Kubernetes'}


def instructions(extra: str) -> list[str]:
  """Returns the Docker instructions that install the package."""
  name = os.path.basename(ROOT)
  return ['RUN mkdir /src', 'WORKDIR /src', f'COPY {name}/ /src',
          f"RUN pip install --no-cache-dir '/src{extra}'"]


def entrypoint(main: Sequence[str]) -> list[str]:
  """Returns the shell commands of a job; XManager adds its own to the last."""
  return [shlex.join(['python', '-u', '-m', 'gans_jax.main', *main])]


def extra(accelerator: str) -> str:
  """Returns the pip extra that an accelerator needs."""
  if not accelerator:
    return ''
  return '[tpu]' if accelerator.lower().startswith('tpu') else '[cuda12]'


def _arguments(argv: Sequence[str]):
  parser = argparse.ArgumentParser(
      prog='python launch/xmanager.py', description=__doc__,
      usage='%(prog)s [--executor=...] [--accelerator=a100] [--count=8] '
            '[...] -- --config=FILE.py --workdir=DIR [...]',
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  parser.add_argument('--executor', choices=EXECUTORS, default='local')
  parser.add_argument('--accelerator', default='', metavar='NAME',
                      help='as XManager calls it: local_gpu, v100, a100, '
                           'h100, tpu_v5e; default: none')
  parser.add_argument('--count', default='1', metavar='N',
                      help='of accelerators, or a topology such as 2x2')
  parser.add_argument('--title', default='gans_jax')
  parser.add_argument('--image', default='python:3.12-slim',
                      help='that the image is built on')
  parser.add_argument('--dry_run', action='store_true',
                      help='print the image and the command, launch nothing')
  argv = list(argv)
  cut = argv.index('--') if '--' in argv else len(argv)
  args, main = parser.parse_args(argv[:cut]), argv[cut + 1:]
  if not main:
    parser.error('after `--` comes the command line of gans_jax.main: '
                 '-- --config=FILE.py --workdir=DIR')
  return args, main


def launch(args, main: Sequence[str]) -> None:
  """Builds the image and starts the job."""
  # This file has the name of the package that it needs.
  sys.path = [path for path in sys.path
              if os.path.abspath(path or '.') != HERE]
  from absl import flags
  from xmanager import xm
  from xmanager import xm_local

  flags.FLAGS(['xmanager', f'--xm_launch_script={__file__}'])
  needs = {}
  if args.accelerator:
    needs[args.accelerator] = (int(args.count) if args.count.isdigit()
                               else args.count)
  executor = getattr(xm_local, EXECUTORS[args.executor])(
      requirements=xm.JobRequirements(**needs))
  with xm_local.create_experiment(experiment_title=args.title) as experiment:
    spec = xm.PythonContainer(
        entrypoint=xm.CommandList(entrypoint(main)), path=ROOT,
        base_image=args.image,
        docker_instructions=instructions(extra(args.accelerator)))
    [executable] = experiment.package([
        xm.Packageable(executable_spec=spec, executor_spec=executor.Spec())])
    experiment.add(xm.Job(executable=executable, executor=executor))


def main(argv: Sequence[str]) -> int:
  args, rest = _arguments(argv)
  if args.dry_run:
    print(f'FROM {args.image}')
    print('\n'.join(instructions(extra(args.accelerator))))
    print('\n'.join(entrypoint(rest)))
    where = f' on {args.accelerator}={args.count}' if args.accelerator else ''
    print(f'# {args.title}: xm_local.{EXECUTORS[args.executor]}{where}')
    return 0
  launch(args, rest)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
