"""Weak scaling, as the compiler sees it: collectives of 1 to 128 devices.

  python launch/weak_scaling.py

Compiles the train steps of DCGAN, StyleGAN2, BigGAN and VQGAN for meshes of
virtual CPU devices, with the same batch on each device, and prints in Markdown
what one device sends and computes in a step. A program scales if neither grows
with the mesh: gradients and batch statistics are summed once, and no device
does the work of another. Nets are those of the argument `debug` of their
experiments; the number of collectives does not depend on widths, their bytes
do. Nothing runs, and no data are read.

The penalties of StyleGAN2 count as if they were due.

exit codes: 0; 1 if the bytes or the work of a device differ between meshes.
"""

import argparse
from collections.abc import Sequence
import json
import os
import sys

from gans_jax.core import config as config_lib
from gans_jax.core import topology

DEVICES = (1, 2, 4, 8, 16, 64, 128)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Experiment, classes of its data, overrides.
MODELS = {
    'DCGAN': ('dcgan/emoji64.py:debug', 0, {}),
    'StyleGAN2': ('stylegan2/emoji64.py:debug', 0, {}),
    'BigGAN': ('biggan/emoji64.py:debug', 9, {}),
    'VQGAN': ('vqgan/emoji64.py:debug', 0, {}),
}
SAME = 1.01  # The partitioner may treat a mesh of 2 otherwise than one of 64.


def measure(model: str, devices: int, images: int) -> dict:
  """Returns what one device does in a step of a model.

  Args:
    model: key of `MODELS`.
    devices: of the mesh.
    images: of the batch, on each device.
  """
  path, num_classes, values = MODELS[model]
  config = config_lib.load(os.path.join(ROOT, 'experiments', path))
  config_lib.assign(config, {**values, 'batch_size': images * devices,
                             'mesh.data': devices})
  found = topology.fit(config, topology.spec_of_classes(config, num_classes),
                       topology.parse(f'cpu:{devices}'))
  kinds = found['collectives']
  return dict(
      model=model, devices=devices, images=images,
      parameters=sum(found['parameters'].values()),
      kinds={kind: c['count'] for kind, c in kinds.items()},
      collectives=sum(c['count'] for c in kinds.values()),
      bytes=sum(c['bytes'] for c in kinds.values()),
      # Of the compiled program: the even part of the work, if it is even.
      flops=found['xla_flops'])


def constant(rows: Sequence[dict]) -> bool:
  """Whether a device does and sends the same on every mesh.

  A single device sends nothing; it has the work of the others.
  """
  def same(values):
    return max(values, default=0) <= SAME * min(values, default=0)

  several = [row for row in rows if row['devices'] > 1]
  return (same([row['flops'] for row in rows])
          and all(same([row[key] for row in several])
                  for key in ('bytes', 'collectives')))


def table(rows: Sequence[dict]) -> str:
  """Returns Markdown: meshes down, models across."""
  models = {row['model']: row['parameters'] for row in rows}
  cells = {(row['devices'], row['model']): row for row in rows}
  head = [f'{model} ({n:,} parameters)' for model, n in models.items()]

  def text(row):
    kinds = ', '.join(f'{n} {kind}' for kind, n in row['kinds'].items())
    sent = f'{kinds}, {row["bytes"] / 1024:,.1f} KiB' if kinds else 'none'
    return f'{sent}; {row["flops"] / 1e6:,.1f} MFLOP'

  lines = [['devices', *head], ['---'] * (1 + len(models))]
  for size in sorted({row['devices'] for row in rows}):
    lines.append([str(size), *(
        text(cells[size, model]) if (size, model) in cells else ''
        for model in models)])
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def main(argv: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(
      prog='python launch/weak_scaling.py', description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--devices', default=','.join(map(str, DEVICES)),
                      metavar='N,N,...')
  parser.add_argument('--models', default=','.join(MODELS), metavar='A,B,...',
                      help=f'of {", ".join(MODELS)}')
  parser.add_argument('--images', type=int, default=4, metavar='N',
                      help='of the batch, on each device (default 4)')
  parser.add_argument('--json', metavar='FILE',
                      help='add a line for each mesh there')
  args = parser.parse_args(argv)
  sizes = [int(n) for n in args.devices.split(',')]
  models = args.models.split(',')
  unknown = sorted(set(models) - set(MODELS))
  if unknown or min(sizes) < 1 or args.images < 1:
    parser.error(f'models are {", ".join(MODELS)}'
                 + f', not {", ".join(unknown)}' * bool(unknown)
                 + '; numbers are at least 1')
  topology.start(topology.parse(f'cpu:{max(sizes)}'))
  rows = []
  for model in models:
    for size in sizes:
      rows.append(measure(model, size, args.images))
      print(f'{model} on {size}: {rows[-1]}', file=sys.stderr, flush=True)
      if args.json:
        with open(args.json, 'a') as file:
          file.write(json.dumps(rows[-1]) + '\n')
  print(f'{args.images} images on each device\n')
  print(table(rows))
  growing = [model for model in models
             if not constant([r for r in rows if r['model'] == model])]
  if growing:
    print(f'\nNOT constant on each device: {", ".join(growing)}')
  return 1 if growing else 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
