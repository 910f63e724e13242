"""Projects: `python -m gans_jax.project --workdir=DIR --target=IMAGE`."""

import os

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Finds the latent of a style-based generator whose image is nearest to a
picture, and writes

  target.png        the picture as the generator sees it
  projected.png     its nearest image, with the generator's own noise
  comparison.png    both, side by side
  projected_w.npz   the latent, w [1, num_ws, D], as NVIDIA's projector does
  progress.png      an animated PNG of the search beside the target

  python -m gans_jax.project --workdir=runs/ffhq --target=portrait.png
  python -m gans_jax.project --workdir=runs/ffhq --target=portrait.png \\
      --latent=w_plus --steps=2000
  python -m gans_jax.sample --workdir=runs/ffhq \\
      --projected_w=projection/projected_w.npz

--distance=lpips_vgg is the published one and needs two files of weights (it
says which); lite0 needs none. By default it is the first where the files are
found, else the second.
"""


def read_target(path: str, resolution: int, channels: int):
  """Reads a picture: cropped to its central square, and resized (Lanczos).

  Args:
    path: of an image file.
    resolution: that it is brought to.
    channels: 3, or 1 for greyscale.

  Returns:
    uint8 [resolution, resolution, channels].

  Raises:
    UserError: no image there.
  """
  import logging

  import numpy as np
  from PIL import Image

  from gans_jax.data import transforms

  try:
    with Image.open(path, formats=transforms.FORMATS) as image:
      image = image.convert('L' if channels == 1 else 'RGB')
  except Exception as error:  # Damaged images raise nearly every type.
    raise errors.UserError(
        f'--target is {path}, which cannot be read as an image ({error}). '
        'Give a PNG or JPEG file.') from error
  width, height = image.size
  if (width, height) != (resolution, resolution):
    side = min(width, height)
    logging.warning(
        '%s has %d x %d pixels: its central square is taken and resized to '
        'the %d x %d of the generator', path, width, height, resolution,
        resolution)
    image = image.crop(((width - side) // 2, (height - side) // 2,
                        (width + side) // 2, (height + side) // 2))
    image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
  return np.asarray(image, np.uint8).reshape(resolution, resolution, channels)


def distance(name: str, weights: str | None = None):
  """Returns (name, function of (variables, x, y), variables) of a distance.

  Args:
    name: 'lpips_vgg', 'lite0' or 'auto'.
    weights: file of LPIPS's trunk, where it is not found by itself.

  Raises:
    UserError: weights that are not on this machine.
  """
  import jax
  import jax.numpy as jnp

  from gans_jax.convert import lpips as convert_lpips
  from gans_jax.metrics import efficientnet_lite
  from gans_jax.metrics import efflp
  from gans_jax.metrics import lpips

  def in_colour(function):
    def apply(variables, x, y):
      if x.shape[-1] == 1:
        x, y = (jnp.repeat(image, 3, -1) for image in (x, y))
      return function(variables, x, y)
    return apply

  if name != 'lite0':
    try:
      loaded = convert_lpips.load_lpips('vgg', weights)
      return 'lpips_vgg', in_colour(lpips.LPIPS('vgg').apply), loaded.variables
    except errors.UserError:
      if name == 'lpips_vgg' or weights:
        raise
  form = 'shifted' if jax.default_backend() == 'cpu' else 'lax'
  return 'lite0', in_colour(
      lambda variables, x, y: efflp.distance(variables, x, y, form)
  ), efficientnet_lite.load_variables()


def project(generator, target, *, metric, label=None, steps: int = 1000,
            latent: str = 'w', seed: int = 0):
  """Projects a picture with a trained generator.

  Args:
    generator: a `sample.Generator` of a system with W.
    target: uint8 [H, W, C], of the generator's size.
    metric: (function, variables) of `distance`.
    label: class of a conditional generator; 0 by default.
    steps: of the search.
    latent: 'w' or 'w_plus'.
    seed: of the search's noise.

  Yields:
    `projection.Step` after every step.

  Raises:
    UserError: a system without W.
  """
  import jax
  import numpy as np

  from gans_jax.latent import projection

  generator.require_w('Projections')
  system = generator.system
  conditions = {}
  if 'label' in system.conditions:
    label = 0 if label is None else label
    conditions['label'] = generator.labels([0], label)
  z = np.random.RandomState(123).randn(
      projection.SAMPLES, *generator.z([0]).shape[1:]).astype(np.float32)
  w = [generator.w(part, label=label)[:, 0]
       for part in np.split(z, 10)]
  mean, deviation = projection.statistics(np.concatenate(w))
  noise = dict(generator.variables['G']).get('noise', {})
  options = {'noise': 'const'} if 'noise' in system.options else {}

  def synthesize(variables, w, noise):
    if noise:
      variables = {**variables, 'G': {**variables['G'], 'noise': noise}}
    return system.generate(variables, generator.keys([0]),
                           {**conditions, 'w': w}, **options)

  # One picture is the work of one device.
  variables, weights = jax.device_put(
      ({'G': generator.variables['G']}, metric[1]), jax.local_devices()[0])
  yield from projection.project(
      synthesize, metric[0], (variables, weights), target, mean, deviation,
      system.num_ws, noise, steps=steps, latent=latent, seed=seed)


def main(argv: list[str]) -> int:
  parser = cli.parser('python -m gans_jax.project', DESCRIPTION)
  add = parser.add_argument
  add('--workdir', required=True, metavar='DIR')
  add('--target', required=True, metavar='IMAGE')
  add('--out', metavar='DIR', help='default: WORKDIR/projection')
  add('--checkpoint_step', type=int, metavar='STEP',
      help='which checkpoint (default: the newest)')
  add('--weights', choices=['ema', 'live'], default='ema')
  add('--latent', choices=['w', 'w_plus'], default='w',
      help='one w for all layers, or one for each')
  add('--steps', type=int, default=1000)
  add('--label', type=int, metavar='K', help='class of a conditional system')
  add('--seed', type=int, default=0)
  add('--distance', choices=['auto', 'lpips_vgg', 'lite0'], default='auto')
  add('--vgg16_weights', metavar='FILE', help='of lpips_vgg')
  add('--frames', type=int, default=50, help='of the animation')
  args = parser.parse_args(argv)

  import io

  import numpy as np
  import tqdm

  from gans_jax import sample
  from gans_jax.core import files
  from gans_jax.core import images as images_lib

  if args.steps < 1 or args.frames < 1 or args.seed < 0:
    raise errors.UserError(
        '--steps and --frames must be at least 1, and --seed not negative.')
  generator = sample.load(args.workdir, args.checkpoint_step, args.weights)
  generator.require_w('Projections')
  spec = generator.spec
  height, width, _ = spec.image_shape
  if height != width:
    raise errors.UserError(
        f'Projections are of squares, but {args.workdir} makes images of '
        f'{width}x{height}.')
  target = read_target(args.target, spec.resolution, spec.channels)
  name, function, weights = distance(args.distance, args.vgg16_weights)
  print(f'distance: {name}')
  shown = set(np.linspace(1, args.steps, min(args.frames, args.steps),
                          dtype=int))
  kept = []
  search = project(generator, target, metric=(function, weights),
                   label=args.label, steps=args.steps, latent=args.latent,
                   seed=args.seed)
  # tqdm says how fast it goes and how long it will take.
  with tqdm.tqdm(search, total=args.steps, unit='step', desc='project') as bar:
    for step in bar:
      bar.set_postfix(distance=f'{step.distance:.4f}',
                      loss=f'{step.loss:.4f}', refresh=False)
      if step.number in shown:
        kept.append(step.w)
  print(f'distance {step.distance:.4f}, loss {step.loss:.4f} '
        f'({name}, step {step.number})')

  label = args.label
  if label is None and 'label' in generator.system.conditions:
    label = 0
  found = generator(w=np.stack(kept), label=label)
  beside = [np.concatenate([target, image], 1) for image in found]
  stream = io.BytesIO()
  np.savez(stream, w=kept[-1][None])
  out = args.out or os.path.join(args.workdir, 'projection')
  for file, data in (('target.png', images_lib.to_png(target)),
                     ('projected.png', images_lib.to_png(found[-1])),
                     ('comparison.png', images_lib.to_png(beside[-1])),
                     ('progress.png', sample.animation(beside, 100)),
                     ('projected_w.npz', stream.getvalue())):
    path = os.path.join(out, file)
    files.write_atomic(path, data)
    print(path)
  return cli.DONE


if __name__ == '__main__':
  cli.run(main)
