"""Trains on TPU slices of a GKE cluster: fills in gke.yaml and applies it.

  python launch/gke.py --name=gan --topology=v5e:4x4 --image=IMAGE \\
      --claim=CLAIM -- --config=FILE.py --workdir=/mnt/shared/runs/gan
  kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=gan --prefix
  kubectl delete jobset gan

What follows `--` is the command line of `python -m gans_jax.main`. CLAIM is a
PersistentVolumeClaim with access mode ReadWriteMany (Filestore), mounted at
--mount in every pod: the workdir must be below it. The cluster needs the
JobSet controller and node pools of that topology; the image, the package.

An evicted pod saves (SIGTERM, 120 seconds), all pods are started again and
go on from the checkpoint, --restarts times. Bad input and alarms end the job.
"""

import argparse
from collections.abc import Sequence
import json
import math
import os
import re
import string
import subprocess
import sys

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'gke.yaml')
# What GKE calls the chips that `benchmark --topology` knows.
ACCELERATORS = {
    'v4': 'tpu-v4-podslice', 'v5e': 'tpu-v5-lite-podslice',
    'v5p': 'tpu-v5p-slice', 'v6e': 'tpu-v6e-slice', 'v7x': 'tpu7x'}


def render(template: str, args, main: Sequence[str]) -> str:
  """Returns the manifest.

  Args:
    template: text of gke.yaml.
    args: from `_arguments`.
    main: command line of gans_jax.main.
  """
  kind, _, topology = args.topology.partition(':')
  chips = math.prod(int(n) for n in topology.split('x'))
  each = args.chips_per_host or min(chips, 4)
  command = ['python', '-u', '-m', 'gans_jax.main', '--distributed', *main]
  text = template.replace('#spot ', '') if args.spot else template
  # Whatever a value is, as JSON it is one YAML value.
  values = dict(
      name=args.name, accelerator=ACCELERATORS[kind], topology=topology,
      image=args.image, mount=args.mount, claim=args.claim, command=command)
  return string.Template(text).substitute(
      {key: json.dumps(value) for key, value in values.items()},
      slices=args.slices, restarts=args.restarts, hosts=chips // each,
      chips=each)


def _arguments(argv: Sequence[str]):
  parser = argparse.ArgumentParser(
      prog='python launch/gke.py', description=__doc__,
      usage='%(prog)s --name=NAME --topology=v5e:4x4 --image=IMAGE '
            '--claim=CLAIM [...] -- --config=FILE.py --workdir=DIR [...]',
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  parser.add_argument('--name', required=True)
  parser.add_argument('--topology', required=True, metavar='CHIP:AxB[xC]',
                      help=f'of a slice; chips: {", ".join(ACCELERATORS)}')
  parser.add_argument('--image', required=True)
  parser.add_argument('--claim', required=True,
                      help='PersistentVolumeClaim that all pods share')
  parser.add_argument('--mount', default='/mnt/shared', metavar='DIR',
                      help='where it is mounted (default /mnt/shared)')
  parser.add_argument('--slices', type=int, default=1, metavar='N')
  parser.add_argument('--chips_per_host', type=int, default=0, metavar='N',
                      help='default 4; 8 for v5e:2x4 or v6e:2x4 on one host')
  parser.add_argument('--restarts', type=int, default=100, metavar='N')
  parser.add_argument('--spot', action='store_true')
  parser.add_argument('--dry_run', action='store_true',
                      help='print the manifest and apply nothing')
  argv = list(argv)
  cut = argv.index('--') if '--' in argv else len(argv)
  args, main = parser.parse_args(argv[:cut]), argv[cut + 1:]
  kind, _, topology = args.topology.partition(':')
  if kind not in ACCELERATORS or not re.fullmatch(
      r'[1-9]\d*(x[1-9]\d*){1,2}', topology):
    parser.error(f'--topology={args.topology}: expected such as v5e:4x4; '
                 f'chips: {", ".join(ACCELERATORS)}')
  chips = math.prod(int(n) for n in topology.split('x'))
  if args.chips_per_host < 0 or chips % (args.chips_per_host or min(4, chips)):
    parser.error(f'--topology={args.topology}: {chips} chips do not divide '
                 'into hosts; set --chips_per_host')
  if not re.fullmatch(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?', args.name):
    parser.error(f'--name={args.name}: expected lower-case letters, digits '
                 'and dashes, at most 40')
  if args.slices < 1 or args.restarts < 0:
    parser.error('--slices must be at least 1, --restarts 0')
  if not main:
    parser.error('after `--` comes the command line of gans_jax.main: '
                 '-- --config=FILE.py --workdir=DIR')
  return args, main


def main(argv: Sequence[str]) -> int:
  args, rest = _arguments(argv)
  with open(TEMPLATE, encoding='utf-8') as f:
    manifest = render(f.read(), args, rest)
  if args.dry_run:
    print(manifest)
    print('# kubectl apply -f -')
    return 0
  return subprocess.run(['kubectl', 'apply', '-f', '-'], input=manifest,
                        text=True, check=False).returncode


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
