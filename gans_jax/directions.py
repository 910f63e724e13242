"""Sheets of directions: `python -m gans_jax.directions --workdir=DIR`."""

import os

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Finds directions of a style-based generator's latent space W without any
labels, and shows what they do: a sheet for every direction, with a row for
every seed and a column for every strength.

  python -m gans_jax.directions --workdir=runs/ffhq --method=sefa \\
      --directions=0-4 --seeds=0-3 --truncation=0.7
  python -m gans_jax.directions --workdir=runs/ffhq --method=ganspace \\
      --directions=0-9 --strengths=-2,-1,0,1,2 --layers=0-3

methods:
  sefa      closed-form factorization of the layers that --layers names
            (Shen and Zhou 2021); strengths are lengths in W
  ganspace  principal components of 10000 w (Harkonen et al. 2020); strengths
            are standard deviations

--layers also says which styles move. The directions are written to
METHOD.npz: `directions` [K, D], and `strengths`, the eigenvalues, or
`deviations`.
"""

SAMPLES = 10_000


def find(generator, method: str, layers: list[int] | None):
  """Returns (directions [K, D], {name: their strengths [K]}, unit [K]).

  Args:
    generator: a `sample.Generator` of a system with W.
    method: 'sefa' or 'ganspace'.
    layers: that SeFa factorizes; all by default.

  Raises:
    UserError: a system without W, or layers that it does not have.
  """
  import numpy as np

  from gans_jax.latent import ganspace
  from gans_jax.latent import sefa

  generator.require_w('Directions')
  if method == 'sefa':
    kernels = sefa.style_kernels(generator.variables['G']['params'], layers)
    directions, strengths = sefa.factorize(kernels)
    return directions, {'strengths': strengths}, np.ones(len(directions))
  z = np.random.RandomState(0).randn(
      SAMPLES, *generator.z([0]).shape[1:]).astype(np.float32)
  # In turn all classes of a conditional generator, as seeds have them.
  label = None
  if 'label' in generator.system.conditions:
    label = np.arange(SAMPLES) % generator.spec.num_classes
  w = [generator.w(z[i:i + 1000],
                   label=None if label is None else label[i:i + 1000])[:, 0]
       for i in range(0, SAMPLES, 1000)]
  found = ganspace.components(np.concatenate(w))
  return found.directions, {'deviations': found.deviations}, found.deviations


def main(argv: list[str]) -> int:
  parser = cli.parser('python -m gans_jax.directions', DESCRIPTION)
  add = parser.add_argument
  add('--workdir', required=True, metavar='DIR')
  add('--method', choices=['sefa', 'ganspace'], default='sefa')
  add('--directions', default='0-4', metavar='0-4', help='the strongest is 0')
  add('--strengths', default='-3,-1.5,0,1.5,3', metavar='-3,0,3')
  add('--layers', metavar='0-6', help='styles that move (default: all)')
  add('--seeds', default='0-3', metavar='0-3')
  add('--out', metavar='DIR', help='default: WORKDIR/directions')
  add('--step', type=int, help='which checkpoint (default: the newest)')
  add('--weights', choices=['ema', 'live'], default='ema')
  add('--truncation', type=float, default=1.0, metavar='PSI')
  add('--label', type=int, metavar='K', help='class of a conditional system')
  args = parser.parse_args(argv)

  import io

  import numpy as np

  from gans_jax import sample
  from gans_jax.core import files
  from gans_jax.core import images as images_lib
  from gans_jax.latent import edit

  seeds = sample.parse_seeds(args.seeds)
  wanted = sample.parse_seeds(args.directions, '--directions')
  strengths = sample.parse_numbers('--strengths', args.strengths)
  layers = args.layers and sample.parse_seeds(args.layers, '--layers')
  if not strengths:
    raise errors.UserError('--strengths is empty; write such as -3,0,3.')
  generator = sample.load(args.workdir, args.step, args.weights)
  generator.require_w('Directions')
  label = args.label
  if label is None and 'label' in generator.system.conditions:
    label = 0
  # Truncated before the move: a strength is the same at every psi.
  w = generator.w(seeds=seeds, label=label, truncation=args.truncation)
  if layers and max(layers) >= w.shape[1]:
    raise errors.UserError(
        f'--layers names the layer {max(layers)}, but this generator has '
        f'{w.shape[1]}, 0 to {w.shape[1] - 1}.')
  directions, facts, units = find(generator, args.method, layers)
  if max(wanted) >= len(directions):
    raise errors.UserError(
        f'--directions names {max(wanted)}, but there are {len(directions)}, '
        f'0 to {len(directions) - 1}.')
  out = args.out or os.path.join(args.workdir, 'directions')
  stream = io.BytesIO()
  np.savez(stream, directions=directions, **facts)
  made = [(f'{args.method}.npz', stream.getvalue())]
  for i in wanted:
    moved = edit.along(w, units[i] * directions[i], strengths, layers)
    images = generator(w=moved, label=label)
    made.append((f'{args.method}_{i:03d}.png', images_lib.to_png(
        images_lib.grid(images, len(strengths)))))
  for name, data in made:
    path = os.path.join(out, name)
    files.write_atomic(path, data)
    print(path)
  return cli.DONE


if __name__ == '__main__':
  cli.run(main)
