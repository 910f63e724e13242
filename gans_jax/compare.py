"""Compares two runs: `python -m gans_jax.compare --a=DIR --b=DIR`.

Says whether a difference of a metric is more than the luck of the images that
were drawn: a paired bootstrap (gans_jax/metrics/bootstrap.py).
"""

import json
import os
import pathlib

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Is one run better than another, or are its images luckier? Prints a metric of
both and a confidence interval of the difference, a - b.

  python -m gans_jax.compare --a=runs/x --b=runs/y --metric=fd5k_lite0

Image i of both runs is made from the same random key, and each resample takes
the same images of both (paired bootstrap). It tells the noise of the images
alone: train again with other seeds to know that of training. Features are
kept in WORKDIR/features, so that the next comparison is quick. Both runs are
compared with the real images of run a.
"""


def main(argv: list[str]) -> int:
  parser = cli.parser('python -m gans_jax.compare', DESCRIPTION)
  add = parser.add_argument
  add('--a', required=True, metavar='DIR')
  add('--b', required=True, metavar='DIR')
  add('--metric', default='fd5k_lite0', metavar='NAME')
  add('--num', type=int, default=0, metavar='N',
      help='number of images, in place of the one in the name')
  add('--preset', default='', metavar='tf|pytorch|clean|nvidia')
  add('--step_a', type=int, metavar='STEP', help='default: the newest')
  add('--step_b', type=int, metavar='STEP', help='default: the newest')
  add('--weights', choices=['ema', 'live'], default='ema')
  add('--resamples', type=int, default=1000)
  add('--level', type=float, default=0.95, help='confidence')
  add('--batch_size', type=int, default=64)
  add('--out', default='', metavar='FILE.jsonl',
      help='where the result is added as one JSON line')
  for name in ('inception', 'vgg16', 'clip'):
    add(f'--{name}_weights', default='', metavar='FILE')
  args = parser.parse_args(argv)
  if not 0 < args.level < 1 or args.resamples < 10 or args.num < 0:
    raise errors.UserError(
        '--level must be between 0 and 1, --resamples at least 10, and --num '
        'not negative.')

  import dataclasses
  import logging

  import jax
  import numpy as np

  from gans_jax import evaluator as evaluator_lib
  from gans_jax import sample
  from gans_jax.core import mesh as mesh_lib
  from gans_jax.data import pipeline
  from gans_jax.metrics import bootstrap
  from gans_jax.metrics import features
  from gans_jax.metrics import measures
  from gans_jax.metrics import protocols

  logging.getLogger().setLevel(logging.INFO)
  weights = evaluator_lib.extractor_weights({
      name: path for name in ('inception', 'vgg16', 'clip')
      if (path := getattr(args, f'{name}_weights'))})
  parsed = evaluator_lib.parse([args.metric], args.num, args.preset)
  if not parsed.sets:
    raise errors.UserError(
        f'--metric is {args.metric!r}, which is not one of sets of images; '
        'expected one such as fd5k_lite0 or kid50k.')
  protocol, = parsed.sets
  measure = measures.MEASURES[protocol.measure]
  mesh = mesh_lib.make(devices=jax.local_devices())
  rows, values, stored = [], [], None
  tap = protocols.taps([protocol], weights)[protocol]
  for workdir, step in ((args.a, args.step_a), (args.b, args.step_b)):
    generator = sample.load(workdir, step, args.weights)
    dataset = pipeline.open_dataset(generator.config.data)
    evaluator = evaluator_lib.Evaluator(
        generator.config, generator.system, dataset, mesh, (protocol.name,),
        batch_size=args.batch_size)
    if stored is None:
      stored = protocols.real_statistics(
          [protocol], evaluator.real_images(), {protocol: tap}, mesh=mesh,
          progress=features.log_progress).get(protocol)
    fake = evaluator.fake_images(
        generator.variables, generator.step, generator.weights)
    rows.append(_features(workdir, tap, fake, protocol.num_fake, mesh))
    values.append(protocols.reduce(
        protocol, stored, rows[-1], tap, 0.0)['value'])

  kept = stored.kept if stored else {}
  few = len(rows[0]) <= rows[0].shape[-1]
  if protocol.measure == 'fd' and not few:
    interval = bootstrap.paired_frechet(
        *rows, measures.gaussian(kept), resamples=args.resamples,
        level=args.level, ddof=protocol.ddof)
  else:

    def metric(rows, kept):
      return next(iter(
          measure.values(kept, rows, protocol.ddof).values()))

    interval = bootstrap.paired(
        metric, *rows, kept, resamples=args.resamples, level=args.level,
        progress=features.log_progress('bootstrap', unit='resamples'))
  result = {
      'metric': protocol.name, 'a': args.a, 'b': args.b,
      'values': {'a': values[0], 'b': values[1]},
      **dataclasses.asdict(interval), 'images': protocol.num_fake,
      'features': tap.facts(), 'real': stored.facts if stored else None}
  if args.out:
    evaluator_lib.append(args.out, json.loads(
        json.dumps(result, default=np.ndarray.tolist)))
  better = 'a' if (interval.difference < 0) == (measure.better == 'min') else (
      'b')
  print(f'a: {protocol.name} {values[0]:.4g}   {args.a}')
  print(f'b: {protocol.name} {values[1]:.4g}   {args.b}')
  print(f'a - b = {interval.difference:.4g}, {args.level:.0%} interval '
        f'{interval.low:.4g} to {interval.high:.4g} ({args.resamples} '
        'resamples)')
  if interval.low <= 0 <= interval.high:
    print(f'no difference is shown by {protocol.num_fake} images')
  else:
    print(f'{better} is better, as far as the images drawn tell')
  return cli.DONE


def _features(workdir, tap, fake, num, mesh):
  """Returns the features of generated images, kept in the workdir."""
  import hashlib
  import io
  import logging

  import numpy as np

  from gans_jax.core import archives
  from gans_jax.core import files
  from gans_jax.metrics import features

  facts = json.dumps({'features': tap.facts(), 'fake': fake.facts},
                     sort_keys=True)
  name = hashlib.sha256(facts.encode()).hexdigest()[:16]
  path = pathlib.Path(workdir) / 'features' / f'{name}.npz'
  try:
    kept = archives.read_npz(path)
    if kept['facts'].tolist() == facts and len(kept['features']) >= num:
      return kept['features'][:num]
  except FileNotFoundError:
    pass
  except (OSError, ValueError, KeyError, TypeError) as e:
    logging.warning('%s is damaged and will be replaced: %s', path, e)
  rows = features.extract([tap], fake.stream(num), num, mesh,
                          features.log_progress('generated images'))[tap]
  stream = io.BytesIO()
  np.savez(stream, features=rows, facts=facts)
  os.makedirs(path.parent, exist_ok=True)
  files.write_atomic(os.fspath(path), stream.getvalue())
  return rows


if __name__ == '__main__':
  cli.run(main)
