"""Samples: `python -m gans_jax.sample --workdir=DIR --seeds=0-15`.

And from Python: `G = gans_jax.load(DIR)`; `images = G(seeds=[1, 2])`.
"""

import io
import json
import os
import zipfile

from gans_jax.core import archives
from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Writes images of a trained or converted generator: one file for each seed and
a grid of all. The same seed gives the same image whatever else is asked for.

  python -m gans_jax.sample --workdir=runs/quickstart --seeds=0-15
  python -m gans_jax.sample --workdir=runs/x --label=3 --seeds=0-63
  python -m gans_jax.sample --workdir=runs/x --interpolate=0-7 --frames=30
  python -m gans_jax.sample --workdir=runs/x --num=50000 --format=zip
  python -m gans_jax.sample --workdir=runs/ffhq --seeds=0-31 --truncation=0.7
  python -m gans_jax.sample --workdir=runs/ffhq \\
      --style_mix=85,100,75:55,821,1789:0-6
  python -m gans_jax.sample --workdir=runs/biggan --truncation_sweep=2,1,.5,.04
  python -m gans_jax.sample --workdir=runs/biggan --class_interpolate=3,7
  python -m gans_jax.sample --workdir=runs/sagan --attention --seeds=0-7

Systems with a latent space W (StyleGAN and its successors) draw the latent of
a seed as NVIDIA's tools do, and so make their images: --style_mix shows rows
of seeds with the styles of columns of seeds in some layers, --interpolate
walks in W, and --projected_w draws what `python -m gans_jax.project` found.

Of a conditional system --classes has a row for each class, and
--class_interpolate walks through classes at fixed z, a row for each seed.
--attention draws images with query points and, in a point's colour, what the
generator attends to there. --neighbours finds the training images that are
most like each sample, by EfficientNet-Lite0's features.

--batch_norm chooses what a generator with batch normalization is normalized
by: the running averages of training (the default), the statistics of each
batch of samples ('batch': a seed's image then depends on the seeds beside it
and on --batch_size), or standing statistics as BigGAN's ('standing:N': plain
averages over N batches of fresh latents, and of labels of all classes alike,
as large as those of training).
"""


def load(workdir: str, step: int | None = None, weights: str = 'ema',
         batch_size: int = 64) -> 'Generator':
  """Loads the generator of a workdir.

  Args:
    workdir: directory of a run or of a converted checkpoint.
    step: which checkpoint; the newest by default.
    weights: 'ema' (averaged, where the system has an average) or 'live'.
    batch_size: images generated at a time.

  Returns:
    A `Generator`.

  Raises:
    UserError: no checkpoint there, or not of ours.
  """
  return Generator(workdir, step, weights, batch_size)


class Generator:
  """A trained generator: `G(seeds=[1, 2])` gives uint8 [2, H, W, C].

  Attributes:
    system: its System.
    config: its config.
    spec: facts about the data it was trained on.
    step: generator updates it has seen.
    variables: {net: flax variables}.
  """

  def __init__(self, workdir: str, step: int | None, weights: str,
               batch_size: int):
    import jax

    from gans_jax.core import checkpoint as checkpoint_lib
    from gans_jax.core import compilation
    from gans_jax.core import config as config_lib
    from gans_jax.core import mesh as mesh_lib
    from gans_jax.core import system as system_lib
    from gans_jax.data import spec as spec_lib

    if weights not in ('ema', 'live'):
      raise errors.UserError(
          f"weights is {weights!r}, expected 'ema' or 'live'.")
    compilation.enable_cache()
    if not os.path.isdir(workdir):
      raise errors.UserError(
          f'The workdir {workdir!r} does not exist (looked from '
          f'{os.getcwd()}). Give the directory that training wrote.')
    restored = checkpoint_lib.Checkpointer(workdir).restore_variables(
        step, ['params', 'mvars', 'ema'])
    items, meta, self.step = restored.state, restored.meta, restored.step
    self.config = config_lib.from_json(meta['config'])
    self.spec = spec_lib.from_json(meta['spec'])
    self.system = system_lib.create(self.config, self.spec)
    self.variables = {
        net: {'params': params, **items.get('mvars', {}).get(net, {})}
        for net, params in items['params'].items()}
    self.weights = 'live'
    if weights == 'ema' and items.get('ema'):
      self.variables.update(items['ema'])
      self.weights = 'ema'
    self.variables.update(self.system.frozen())
    self.workdir = workdir
    self.batch_size = batch_size
    self._mesh = mesh_lib.make(devices=jax.local_devices())
    self.variables = jax.device_put(
        self.variables, jax.sharding.NamedSharding(self._mesh, mesh_lib.P()))
    self._samplers = {}
    self._standing = {}
    self._map = None

  def keys(self, seeds):
    """Returns the random keys of integer seeds."""
    from gans_jax.core import rng

    return rng.from_seeds(seeds)

  @property
  def has_w(self) -> bool:
    """Whether the system has a latent space W."""
    return hasattr(self.system, 'map_latents')

  def z(self, seeds):
    """Returns the latents of integer seeds, float32 [N, ...].

    Those of a system with W are what NVIDIA's tools draw for these seeds.
    """
    import jax
    import numpy as np

    if not self.has_w:
      return self.system.latents(self.keys(seeds))
    shape = jax.eval_shape(self.system.latents, self.keys([0])).shape
    return np.concatenate([
        np.random.RandomState(seed).randn(*shape) for seed in seeds
    ]).astype(np.float32)

  def w(self, z=None, *, seeds=None, label=None, truncation=1.0):
    """Returns latents of W, float32 NumPy [N, num_ws, D].

    Args:
      z: latents [N, ...].
      seeds: integers instead, one for each.
      label: as in `__call__`.
      truncation: psi; 1 for none.

    Raises:
      UserError: a system without W, or no such class.
    """
    import jax
    import numpy as np

    self.require_w('Latents w')
    if z is None:
      z = self.z(seeds)
    z = np.asarray(z)
    conditions = self.conditions(
        np.arange(len(z)) if seeds is None else seeds, label)
    if self._map is None:
      self._map = jax.jit(self.system.map_latents)
    w = np.asarray(self._map(self.variables, z, conditions))
    if w.ndim == 2:
      w = np.broadcast_to(w[:, None], (len(w), self.system.num_ws, w.shape[1]))
    if truncation != 1:
      mean = np.asarray(self.variables['G']['moving']['w_avg'])
      w = mean + np.float32(truncation) * (w - mean)
    return np.array(w)

  def require_w(self, what: str) -> None:
    """Raises UserError where the system has no W; `what` needs it."""
    if not self.has_w:
      raise errors.UserError(
          f'{what} need a latent space W, as StyleGAN and its successors have '
          f'it; the system {self.config.system!r} of this run has none.')

  def __call__(self, seeds=None, *, keys=None, z=None, w=None, label=None,
               batch_norm='running', **options):
    """Generates.

    Args:
      seeds: integers, one for each image.
      keys: typed keys instead of seeds.
      z: latents [N, ...] instead of both.
      w: latents [N, num_ws, D] of W instead.
      label: class, or one for each image. By default the class of a
        conditional generator is the seed modulo the number of classes (with
        `keys` or `z`: the position).
      batch_norm: 'running', 'batch' or 'standing:N'
        (core/standing_statistics.py). With 'batch' an image depends on the
        others of its batch, and so on `batch_size`.
      **options: what the system's `generate` takes, such as truncation.
        Noise inputs are the fixed ones by default (noise='const'), as in
        NVIDIA's tools.

    Returns:
      uint8 [N, H, W, C]; float32 [N, 2] of a system that makes points.
    """
    batches = self.batches(seeds, keys=keys, z=z, w=w, label=label,
                           batch_norm=batch_norm, **options)
    import numpy as np

    return np.concatenate(list(batches))

  def batches(self, seeds=None, *, keys=None, z=None, w=None, label=None,
              batch_norm='running', **options):
    """As `__call__`, a batch at a time."""
    import numpy as np

    from gans_jax.core import sampler as sampler_lib
    from gans_jax.core import standing_statistics

    kind, _ = standing_statistics.parse(batch_norm)
    standing_statistics.check(self.system, self.variables, batch_norm)
    for name in options:
      if name not in self.system.options:
        known = ', '.join(self.system.options) or 'none'
        raise errors.UserError(
            f'The system {self.config.system!r} has no sampling option '
            f'{name!r}; it has: {known}.')
    if 'noise' in self.system.options:
      options = {'noise': 'const', **options}
    conditions = {}
    if w is not None:
      self.require_w('Latents w')
      conditions['w'] = np.asarray(w)
      seeds = np.arange(len(w))
    elif z is not None:
      conditions['z'] = np.asarray(z)
      seeds = np.arange(len(z))
    elif keys is None and self.has_w and seeds is not None and len(seeds):
      conditions['z'] = self.z(seeds)
    if keys is not None:
      seeds = np.arange(keys.shape[0])
    else:
      if seeds is None or len(seeds) == 0:
        raise errors.UserError('No seeds were given: at least one is needed.')
      keys = self.keys(np.asarray(seeds))
    count = keys.shape[0]
    conditions |= self.conditions(seeds, label)
    by_batch = kind == 'batch'
    name = by_batch, *sorted(options.items())
    size = self.batch_size if by_batch else min(self.batch_size, count)
    if name not in self._samplers or self._samplers[name].batch_size < size:
      self._samplers[name] = sampler_lib.Sampler(
          self.system, self._mesh, size, batch_statistics=by_batch, **options)
    return self._samplers[name].batches(
        self.variables_for(batch_norm, **options), keys, conditions)

  def variables_for(self, batch_norm: str = 'running', **options):
    """Returns the variables {net: ...} with the statistics asked for."""
    from gans_jax.core import standing_statistics

    kind, passes = standing_statistics.parse(batch_norm)
    standing_statistics.check(self.system, self.variables, batch_norm)
    return (self._standing_variables(passes, options) if kind == 'standing'
            else self.variables)

  def conditions(self, seeds, label):
    """Returns {'label': classes} of a conditional system, else {}."""
    if 'label' in self.system.conditions:
      return {'label': self.labels(seeds, label)}
    if label is not None:
      raise errors.UserError(
          f'The system {self.config.system!r} of this run is not '
          'conditional: it takes no label.')
    return {}

  def _standing_variables(self, passes: int, options):
    """Returns the variables with standing statistics, computed once."""
    from gans_jax.core import label_distribution
    from gans_jax.core import standing_statistics

    name = passes, *sorted(options.items())
    if name not in self._standing:
      labels = None
      if 'label' in self.system.conditions:
        labels = label_distribution.pool('uniform', self.spec.num_classes)
      self._standing[name] = standing_statistics.accumulate(
          self.system, self.variables, self._mesh, passes=passes,
          batch_size=standing_statistics.training_batch(self.config),
          labels=labels, **options)
    return self._standing[name]

  def labels(self, seeds, label=None):
    """Returns the classes int32 [N] of `seeds`; see `__call__`."""
    import numpy as np

    classes = self.spec.num_classes
    if label is None:
      return (np.asarray(seeds) % classes).astype(np.int32)
    labels = np.asarray(label, np.int32)
    if labels.ndim and labels.shape != (len(seeds),):
      raise errors.UserError(
          f'There are {labels.size} labels for {len(seeds)} images; expected '
          'one, or one for each.')
    labels = np.broadcast_to(labels, (len(seeds),))
    if labels.min() < 0 or labels.max() >= classes:
      names = ''
      if self.spec.class_names:
        names = ': ' + ', '.join(
            f'{i} {n}' for i, n in enumerate(self.spec.class_names[:20]))
      raise errors.UserError(
          f'The label is {label}, but there are {classes} classes, 0 to '
          f'{classes - 1}{names}.')
    return labels


def parse_seeds(text: str, flag: str = '--seeds') -> list[int]:
  """Parses '0-15,20,31' into integers; errors name `flag`."""
  seeds = []
  for part in text.split(','):
    first, dash, last = part.strip().partition('-')
    try:
      low = int(first)
      high = int(last) if dash else low
    except ValueError as error:
      raise errors.UserError(
          f'{flag} is {text!r}, expected numbers and ranges such as '
          "'0-15,20'.") from error
    if high < low:
      raise errors.UserError(
          f'{flag} has the range {part.strip()!r}, which is empty: write '
          'the smaller number first.')
    seeds.extend(range(low, high + 1))
  if seeds and (min(seeds) < 0 or max(seeds) >= 2**32):
    raise errors.UserError(f'{flag} must be from 0 to 4294967295.')
  return seeds


def parse_numbers(flag: str, text: str | None) -> list[float]:
  """Parses '1,0.7' into floats."""
  try:
    return [float(number) for number in (text or '').split(',') if number]
  except ValueError as error:
    raise errors.UserError(
        f"{flag} is {text!r}, expected numbers such as '1,0.7,0.5'."
    ) from error


def interpolate(generator: Generator, seeds: list[int], frames: int,
                label=None, **options):
  """Walks from latent to latent.

  In W, where there is one, the walk is straight. In Z it is spherical: the
  norm of the latents stays what the generator knows.

  Args:
    generator: the generator.
    seeds: at least two; the walk does not return to the first.
    frames: images from one seed to the next.
    label: as in `Generator`.
    **options: as in `Generator`.

  Returns:
    uint8 [(len(seeds) - 1) * frames + 1, H, W, C].
  """
  import numpy as np

  if len(seeds) < 2:
    raise errors.UserError('--interpolate needs at least two seeds.')
  if label is None and 'label' in generator.system.conditions:
    label = 0
  if generator.has_w:
    space, between = 'w', lerp
    stops = generator.w(seeds=seeds, label=label)
  else:
    space, between = 'z', slerp
    stops = np.asarray(generator.z(seeds))
  path = [between(stops[i], stops[i + 1], t)
          for i in range(len(seeds) - 1)
          for t in np.arange(frames) / frames]
  return generator(**{space: np.stack([*path, stops[-1]])}, label=label,
                   **options)


def lerp(a, b, t: float):
  """The point t of the way from a to b."""
  import numpy as np

  return ((1 - t) * a + t * b).astype(np.float32)


def slerp(a, b, t: float):
  """Great-circle interpolation with linearly interpolated norm (White 2016).

  Falls back to the straight line where the vectors are parallel.
  """
  import numpy as np

  if t in (0, 1):
    return (a, b)[int(t)]  # Exactly: the images at the ends are the seeds'.
  norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
  cosine = np.clip(np.sum(a * b) / max(norm_a * norm_b, 1e-12), -1, 1)
  angle = np.arccos(cosine)
  if np.sin(angle) < 1e-6:
    return ((1 - t) * a + t * b).astype(np.float32)
  unit = (np.sin((1 - t) * angle) * a / norm_a
          + np.sin(t * angle) * b / norm_b) / np.sin(angle)
  return (unit * ((1 - t) * norm_a + t * norm_b)).astype(np.float32)


def style_mix(generator: Generator, rows: list[int], columns: list[int],
              layers: list[int] | None = None, label=None, **options):
  """Draws images of `rows` with the styles of `columns` in some layers.

  Args:
    generator: of a system with W.
    rows: seeds.
    columns: seeds.
    layers: of the w that come from the columns; by default NVIDIA's 0 to 6.
    label: as in `Generator`; one for all.
    **options: as in `Generator`.

  Returns:
    uint8 [(len(rows) + 1) * (len(columns) + 1), H, W, C], row by row: the
    images of the seeds are at the left and above.
  """
  import numpy as np

  from gans_jax.latent import style_mixing

  if label is None and 'label' in generator.system.conditions:
    label = 0
  w = generator.w(seeds=rows + columns, label=label)
  count = w.shape[1]
  layers = [i for i in range(7) if i < count] if layers is None else layers
  if max(layers) >= count:
    raise errors.UserError(
        f'--style_mix names the layer {max(layers)}, but this generator has '
        f'{count}, 0 to {count - 1}.')
  at_left, above = w[:len(rows)], w[len(rows):]
  mixed = style_mixing.mix(at_left, above, layers)
  images = generator(w=np.concatenate([w, mixed]), label=label, **options)
  return style_mixing.sheet(images[:len(rows)], images[len(rows):len(w)],
                            images[len(w):])


def parse_style_mix(text: str):
  """Parses 'ROWS:COLUMNS[:LAYERS]' into seeds, seeds, layers or None."""
  parts = text.split(':')
  if len(parts) not in (2, 3):
    raise errors.UserError(
        f'--style_mix is {text!r}, expected the seeds of the rows, of the '
        "columns and (if you like) layers, such as '85,100:55,821:0-6'.")
  numbers = [parse_seeds(part, '--style_mix') for part in parts]
  return *numbers[:2], numbers[2] if len(parts) == 3 else None


def read_w(path: str, generator: Generator):
  """Reads latents from a file of the official projector's form.

  Args:
    path: .npz whose key `w` holds [N, num_ws, D].
    generator: whose latents they should be.

  Raises:
    UserError: a file that is absent or of another form.
  """
  import numpy as np

  generator.require_w('Projected latents')
  expected = generator.w(generator.z([0])).shape[1:]
  try:
    w = np.asarray(archives.read_npz(path)['w'], np.float32)
  except (OSError, KeyError, ValueError) as error:
    raise errors.UserError(
        f'{path} cannot be read as latents ({error}). Expected an .npz file '
        'with an array w, as `python -m gans_jax.project` writes it.'
    ) from error
  if w.ndim != 3 or w.shape[1:] != expected or not len(w):
    raise errors.UserError(
        f'{path} holds w of shape {list(w.shape)}, but the latents of this '
        f'generator are [N, {expected[0]}, {expected[1]}]. Is it of another '
        'generator?')
  return w


def write_many(generator: Generator, seeds, path: str, form: str,
               label=None, **options) -> None:
  """Writes many images: a folder of PNG files or one zip.

  Either has the layout of StyleGAN2-ADA's data sets (00000/img00000000.png
  and dataset.json), so that it can be trained on and evaluated anywhere. The
  zip appears under its name only when it is whole.

  Raises:
    UserError: no space, no permission.
  """
  from gans_jax.core import files

  # First of all: it refuses what cannot be sampled.
  batches = generator.batches(seeds, label=label, **options)
  try:
    if form == 'zip':
      os.makedirs(os.path.dirname(path), exist_ok=True)
      partial = f'{path}.partial'
      with zipfile.ZipFile(partial, 'w', zipfile.ZIP_STORED) as archive:
        _write_many(generator, seeds, batches, archive.writestr, label)
      os.replace(partial, path)
      return

    def write(name: str, data: bytes | str) -> None:
      file = os.path.join(path, name)
      os.makedirs(os.path.dirname(file), exist_ok=True)
      with open(file, 'wb') as f:
        f.write(data.encode() if isinstance(data, str) else data)

    _write_many(generator, seeds, batches, write, label)
  except OSError as error:
    raise files.cannot_write(path, error) from error


def _write_many(generator, seeds, batches, write, label) -> None:
  """Calls `write(name, content)` for every image and for dataset.json."""
  import numpy as np
  import tqdm

  from gans_jax.core import images as images_lib

  index = {'labels': None}
  if 'label' in generator.system.conditions:
    labels = generator.labels(seeds, label)
    index = {'labels': []}
    if generator.spec.class_names:
      index['class_names'] = list(generator.spec.class_names)
  i = 0
  with tqdm.tqdm(total=len(seeds), unit='img', desc='sampling') as bar:
    for batch in batches:
      for image in np.asarray(batch):
        name = f'{i // 1000:05d}/img{i:08d}.png'
        write(name, images_lib.to_png(image))
        if index['labels'] is not None:
          index['labels'].append([name, int(labels[i])])
        i += 1
      bar.update(len(batch))
  write('dataset.json', json.dumps(index))


def animation(frames, milliseconds: int = 40) -> bytes:
  """Encodes uint8 [N, H, W, C] as an animated PNG, which loses nothing."""
  from PIL import Image

  pictures = [Image.fromarray(f[..., 0] if f.shape[-1] == 1 else f)
              for f in frames]
  stream = io.BytesIO()
  pictures[0].save(stream, 'PNG', save_all=True, append_images=pictures[1:],
                   duration=milliseconds, loop=0)
  return stream.getvalue()


def parse_options(items: list[str]) -> dict[str, int | float | str]:
  """Parses 'top_k=100' and such into numbers, and what is none into words."""
  found = {}
  for item in items:
    name, equals, text = item.partition('=')
    if not name or not equals or not text:
      raise errors.UserError(
          f"--option is {item!r}, expected NAME=VALUE, such as 'top_k=100'.")
    found[name] = text
    for kind in (float, int):
      try:
        found[name] = kind(text)
      except ValueError:
        pass
  return found


# Each of these flags is a picture of its own.
_PICTURES = ('num', 'interpolate', 'manifold', 'style_mix', 'projected_w',
             'truncation_sweep', 'classes', 'class_interpolate', 'attention',
             'neighbours')


def _check_flags(args) -> None:
  """Refuses flags that contradict each other."""
  given = [f'--{name}' for name in _PICTURES
           if getattr(args, name) not in (None, False)]
  if len(given) > 1:
    raise errors.UserError(
        f'{given[0]} and {given[1]} are two kinds of pictures. Ask for them '
        'one after the other.')
  for flag, other in (('truncation', 'truncation_sweep'), ('label', 'classes'),
                      ('label', 'class_interpolate')):
    if None not in (getattr(args, flag), getattr(args, other)):
      raise errors.UserError(
          f'--{other} says by itself what --{flag} says. Leave out --{flag}.')
  if args.neighbours is not None and args.neighbours < 1:
    raise errors.UserError('--neighbours must be at least 1.')


def _sheets(args, generator: Generator, seeds: list[int], options
            ) -> dict[str, bytes]:
  """Returns {file: content} of the flags of gans_jax/sheets.py; {} without."""
  if not (args.classes or args.class_interpolate or args.attention
          or args.neighbours):
    return {}
  from gans_jax import sheets
  from gans_jax.core import images as images_lib

  if not generator.spec.resolution:
    raise errors.UserError(
        f'The sheets need a system of images, and {generator.config.system!r} '
        'makes points. Use --seeds.')

  def png(tiles, columns):
    return images_lib.to_png(images_lib.grid(tiles, columns))

  if args.classes:
    classes = (list(range(generator.spec.num_classes))
               if args.classes == 'all' else
               parse_seeds(args.classes, '--classes'))
    tiles = sheets.by_class(generator, classes, seeds, **options)
    return {'classes.png': png(tiles, len(seeds))}
  if args.class_interpolate:
    classes = parse_seeds(args.class_interpolate, '--class_interpolate')
    rows = sheets.between_classes(generator, classes, seeds, args.frames,
                                  **options)
    import numpy as np

    moving = np.stack([images_lib.grid(frame) for frame in rows.swapaxes(0, 1)])
    return {'class_interpolation.png': animation(moving),
            'class_interpolation_strip.png': png(
                rows.reshape(-1, *rows.shape[2:]), rows.shape[1])}
  if args.attention:
    tiles = sheets.attention(generator, seeds, args.label, **options)
    return {'attention.png': png(tiles, 1 + len(sheets.QUERIES))}
  import logging

  from gans_jax.data import pipeline
  from gans_jax.metrics import features

  dataset = pipeline.open_dataset(generator.config.data)
  if dataset.spec.identity != generator.spec.identity:
    logging.warning('the data set is not the one of the training, or has '
                    'changed since: neighbours are from the one that is '
                    'there now')
  samples = generator(seeds, label=args.label, **options)
  tiles, facts = sheets.neighbours(
      generator, samples, args.neighbours, dataset,
      features.log_progress('training images'))
  lines = [json.dumps({'seed': seed, **row}) + '\n'
           for seed, row in zip(seeds, facts, strict=True)]
  return {'neighbours.png': png(tiles, 1 + args.neighbours),
          'neighbours.jsonl': ''.join(lines).encode()}


def main(argv: list[str]) -> int:
  parser = cli.parser('python -m gans_jax.sample', DESCRIPTION)
  add = parser.add_argument
  add('--workdir', required=True, metavar='DIR')
  add('--seeds', default='0-15', metavar='0-15,20')
  add('--out', metavar='DIR', help='default: WORKDIR/generated')
  add('--step', type=int, help='which checkpoint (default: the newest)')
  add('--weights', choices=['ema', 'live'], default='ema')
  add('--label', type=int, metavar='K',
      help='class of a conditional system (default: all in turn)')
  add('--truncation', type=float, metavar='PSI')
  add('--truncation_cutoff', type=int, metavar='N',
      help="truncate the first N layers only (default: the system's)")
  add('--noise', choices=['none', 'const', 'random'],
      help='noise inputs of style-based systems (default: const; metrics '
           'have random)')
  add('--option', action='append', default=[], metavar='NAME=VALUE',
      help='of the system, such as temperature=0.9, top_k=100 or top_p=0.95 '
           'of one that draws tokens; may be given again')
  add('--truncation_sweep', metavar='1,0.7,0.5',
      help='one grid, a row for each value')
  add('--batch_norm', default='running', metavar='running|batch|standing[:N]',
      help='statistics of batch normalization; see above')
  add('--interpolate', metavar='0-7',
      help='a strip and an animated PNG through these seeds')
  add('--frames', type=int, default=16, help='images between two seeds')
  add('--style_mix', metavar='ROWS:COLS[:LAYERS]',
      help='a sheet of seeds with the styles of seeds (layers 0-6)')
  add('--projected_w', metavar='FILE.npz',
      help='latents that `python -m gans_jax.project` wrote')
  add('--manifold', metavar='0,1',
      help='a sheet over two numbers of the (Gaussian) latent, --frames to a '
           'side; the others are those of the first seed')
  add('--classes', metavar='all|0-9',
      help='a sheet with a row for each class, a column for each seed')
  add('--class_interpolate', metavar='3,7',
      help='a strip and an animated PNG through these classes at fixed z')
  add('--attention', action='store_true',
      help='query points, and what self-attention attends to there')
  add('--neighbours', type=int, metavar='N',
      help='beside each sample the N nearest training images')
  add('--num', type=int, metavar='N', help='seeds 0 to N - 1')
  add('--format', choices=['png', 'zip'], default='png',
      help='of --num: a folder or a zip; both can be trained on')
  add('--batch_size', type=int, default=64)
  args = parser.parse_args(argv)

  from gans_jax.core import files
  from gans_jax.core import images as images_lib
  from gans_jax.core import sampler as sampler_lib

  if args.frames < 1 or args.batch_size < 1 or (
      args.num is not None and args.num < 1):
    raise errors.UserError(
        '--frames, --batch_size and --num must be at least 1.')
  _check_flags(args)
  seeds = parse_seeds(args.interpolate or args.seeds)
  sweep = parse_numbers('--truncation_sweep', args.truncation_sweep)
  generator = load(args.workdir, args.step, args.weights, args.batch_size)
  if (args.num or args.interpolate) and not generator.spec.resolution:
    raise errors.UserError(
        '--num and --interpolate need a system of images, and '
        f'{generator.config.system!r} makes points. Use --seeds.')
  out = args.out or os.path.join(args.workdir, 'generated')
  options = {'batch_norm': args.batch_norm, **parse_options(args.option)}
  for name in ('truncation', 'truncation_cutoff', 'noise'):
    if getattr(args, name) is not None:
      options[name] = getattr(args, name)
  columns = None

  def write(name: str, data: bytes) -> None:
    path = os.path.join(out, name)
    files.write_atomic(path, data)
    print(path)

  if drawn := _sheets(args, generator, seeds, options):
    for name, data in drawn.items():
      write(name, data)
    return cli.DONE
  if args.num:
    ending = '.zip' if args.format == 'zip' else ''
    out = os.path.join(out, f'samples_{args.num}{ending}')
    write_many(generator, list(range(args.num)), out, args.format,
               args.label, **options)
    print(out)
    return cli.DONE
  if args.interpolate:
    frames = interpolate(generator, seeds, args.frames, args.label,
                         **options)
    write('interpolation.png', animation(frames))
    write('interpolation_strip.png', images_lib.to_png(
        images_lib.grid(frames, args.frames)))
    return cli.DONE
  if args.manifold:
    import numpy as np

    from gans_jax.latent import manifold

    dims = [int(d) for d in parse_numbers('--manifold', args.manifold)]
    base = np.asarray(generator.z(seeds[:1])[0])
    z = manifold.sheet(base, dims, args.frames)
    tiles = generator(z=z, label=args.label or (
        0 if 'label' in generator.system.conditions else None), **options)
    write('manifold.png', images_lib.to_png(
        images_lib.grid(tiles, args.frames)))
    return cli.DONE
  if args.style_mix:
    rows, columns, layers = parse_style_mix(args.style_mix)
    tiles = style_mix(generator, rows, columns, layers, args.label, **options)
    write('style_mix.png', images_lib.to_png(
        images_lib.grid(tiles, len(columns) + 1)))
    return cli.DONE
  if args.projected_w:
    images = generator(w=read_w(args.projected_w, generator),
                       label=args.label, **options)
    for i, image in enumerate(images):
      write(f'projected{i:02d}.png', images_lib.to_png(image))
    return cli.DONE
  if sweep:
    import numpy as np

    rows = [generator(seeds, label=args.label, **{**options,
                                                  'truncation': psi})
            for psi in sweep]
    samples, columns = np.concatenate(rows), len(seeds)
  else:
    samples = generator(seeds, label=args.label, **options)
    if samples.ndim == 4:
      for seed, image in zip(seeds, samples, strict=True):
        write(f'seed{seed:04d}.png', images_lib.to_png(image))
  write('grid.png', images_lib.to_png(
      sampler_lib.picture(samples, columns)))
  return cli.DONE


if __name__ == '__main__':
  cli.run(main)
