"""Evaluates: `python -m gans_jax.evaluate --workdir=DIR --metrics=fd5k_lite0`.

A metric's name is its protocol (gans_jax/metrics/protocols.py); every result
is one JSON line in DIR/evaluations.jsonl with the protocol in full.
"""

from collections.abc import Sequence
import os
import time
from typing import Any

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Computes metrics of a run's checkpoints and appends them, one JSON line each,
to WORKDIR/evaluations.jsonl; or of two sets of images, without any model.

  python -m gans_jax.evaluate --workdir=runs/quickstart --metrics=fd5k_lite0
  python -m gans_jax.evaluate --workdir=runs/x --metrics=fd5k_lite0 --step=all
  python -m gans_jax.evaluate --workdir=runs/x --metrics=fd5k_lite0 --watch
  python -m gans_jax.evaluate --workdir=runs/x \\
      --metrics=fid50k_full,kid50k_full,is50k,pr50k3_full
  python -m gans_jax.evaluate --real=folder:A --fake=zip:B.zip \\
      --metrics=fd5k_lite0,psnr

A name is a metric, a number of images, _full for all real images, _test or
_val for another split, and the network where it is not the usual one:

  fid sfid kid is fidinf isinf     the Inception network of FID; the preset
                                   (--preset, or before the name as in
                                   clean_fid50k_full) says whose variant
  pr prdc                          VGG16
  cmmd                             CLIP
  fd fdinf kd mmd is pr prdc       with _lite0: EfficientNet-Lite0
  swd msssim                       pixels
  pplN_zfull _zend _wfull _wend    path length; ppl2_N_...: without crop;
                                   ..._lite0
  lsN_z_lite0 _w_lite0             linear separability of classes
                                   (--attributes)
  psnr ssim lpips_vgg lpips_alex lpips_lite0
                                   of pairs: reconstructions, or two folders
  codebook                         usage and perplexity, of a tokenizer
  seams                            of a prior that samples larger images: steps
                                   of brightness at its windows' borders over
                                   those beside them, 1 where none shows
  modes                            of a run on points (experiments/toy)

Weights of EfficientNet-Lite0 are installed with the package: what is measured
with it needs no download, has a name of its own (never FID), and does not
compare with FID. Other weights are searched for; what is absent is named with
address and hash. The floor printed beside a distance is that of real images
to other real ones.

--baseline measures what a run has to be better than, in its place, and adds
the results to WORKDIR/baselines.jsonl:

  pca, pca:BITS        of a tokenizer: its images coded by their principal
                       components, in as many bits as its codes take, with
                       BITS (8) for each number
  independent_codes    of a prior: codes drawn each for itself, with the
                       frequencies that they have at their place
"""

# Whose weights can be named.
WEIGHTS = ('inception', 'vgg16', 'alexnet', 'clip')


def line(result: dict[str, Any]) -> str:
  """Returns a result in one line for people."""
  values = {name: value for name, value in result.get('values', {}).items()
            if isinstance(value, float)}
  std = values.pop('std', None)
  if len(values) > 1:
    text = ', '.join(f'{name} {value:.4g}' for name, value in values.items())
  else:
    text = f'{result["value"]:.4g}'
  if std is not None:
    text += f' +- {std:.2g}'
  text = f'{result["metric"]} {text}'
  if 'baseline' in result:
    text = f'baseline {result["baseline"]["name"]}: {text}'
  if 'step' in result:
    text = f'step {result["step"]}: {text}'
  floor = result.get('floor', {})
  if floor.get('value') is not None:
    text += (f' (floor, real against real: {floor["value"]:.4g}'
             f'{"" if floor["same_counts"] else ", fewer images"})')
  return text


def of_two_sets(real: str, fake: str, names: Sequence[str], *, num: int,
                batch_size: int, preset: str, weights: dict[str, str],
                reference: str, write_reference: str) -> list[dict[str, Any]]:
  """Compares two sets of images, given as data sources.

  Args:
    real: data source such as 'folder:PATH' or 'zip:PATH'; '' with
      `reference`.
    fake: likewise.
    names: metrics.
    num: replaces the number in the names, if positive.
    batch_size: images at a time.
    preset: see `parse`.
    weights: see `Evaluator`.
    reference: file of statistics instead of `real`.
    write_reference: file to write the statistics of `real` to.

  Returns:
    One result for each metric.
  """
  import logging

  from gans_jax import evaluator as evaluator_lib
  from gans_jax.core import mesh as mesh_lib
  from gans_jax.metrics import features
  from gans_jax.metrics import pairs

  metrics = evaluator_lib.parse(names, num, preset)
  if metrics.modes or metrics.codebook or metrics.paths + metrics.separability:
    raise errors.UserError(
        f'One of {", ".join(names)} needs a model: give --workdir, or ask for '
        'metrics of sets or pairs of images.')
  # Real images in a random order, for a folder is sorted; generated ones in
  # their own, in which the inception score is split.
  fakes, fake_shape = _source_images(fake, batch_size, None)
  reals = {}
  if real:
    images, real_shape = _source_images(real, batch_size, 0)
    reals[''] = images
    if real_shape != fake_shape:
      logging.warning(
          '%s has images of %s and %s of %s: metrics of sets of different '
          'sizes compare the resizing too.', real, real_shape, fake,
          fake_shape)
  elif metrics.pairs or not reference:
    raise errors.UserError(
        '--fake needs --real=SOURCE (such as folder:PATH) to compare with, or '
        '--reference=FILE.npz.')
  mesh = mesh_lib.make()
  results = []
  if metrics.sets:
    if any(p.split for p in metrics.sets):
      raise errors.UserError(
          'Metrics of two sets of images know no splits: name the images of '
          'the split with --real.')
    results += evaluator_lib.compare_sets(
        metrics.sets, reals, fakes, mesh=mesh, progress=features.log_progress,
        weights=evaluator_lib.extractor_weights(weights),
        reference=reference, write_reference=write_reference)
  if metrics.pairs:
    in_order, _ = _source_images(real, batch_size, None)
    if in_order.count != fakes.count:
      raise errors.UserError(
          f'{metrics.pairs[0]} compares images one by one, but {real} has '
          f'{in_order.count} and {fake} {fakes.count}.')
    results += [
        {**r, 'real': in_order.facts, 'fake': fakes.facts}
        for r in pairs.compute(
            metrics.pairs, in_order.stream(in_order.count),
            fakes.stream(fakes.count), fakes.count, weights,
            features.log_progress('pairs'))]
  return results


def _source_images(source: str, batch_size: int, seed: int | None):
  """Returns (protocols.Images, shape) of a data source, at its own size."""
  from gans_jax.core import config as config_lib
  from gans_jax.data import pipeline
  from gans_jax.metrics import protocols

  dataset = pipeline.open_dataset(config_lib.data_config(
      source=source, resolution=0))
  spec = dataset.spec

  def ordered(num):
    return pipeline.ordered_batches(
        dataset, batch_size, num, seed=seed, keys=('image',))

  images = protocols.dataset_images(
      ordered, spec.num_examples, spec.identity, 'given', seed)
  images.facts['source'] = source
  return images, spec.image_shape


def _truncation_curve(args, names, sampling, weights) -> None:
  """Measures a checkpoint at every truncation of --truncation_curve."""
  import dataclasses

  import jax

  from gans_jax import evaluator as evaluator_lib
  from gans_jax import sample
  from gans_jax import truncation_curve
  from gans_jax.core import mesh as mesh_lib
  from gans_jax.data import pipeline

  truncations = sample.parse_numbers('--truncation_curve',
                                     args.truncation_curve)
  step = int(args.step) if args.step.isdigit() else None
  generator = sample.load(args.workdir, step, args.weights)
  dataset = pipeline.open_dataset(generator.config.data)

  def evaluate(truncation: float):
    evaluator = evaluator_lib.Evaluator(
        generator.config, generator.system, dataset,
        mesh_lib.make(devices=jax.local_devices()),
        names or truncation_curve.METRICS, args.num, args.batch_size,
        preset=args.preset, weights=weights, reference=args.reference,
        sampling=dataclasses.replace(sampling, truncation=truncation))
    return evaluator(generator.variables, generator.step, generator.weights)

  def report(result):
    print(f'truncation {result["fake"]["truncation"]:g}: {line(result)}')

  truncation_curve.measure(evaluate, truncations, args.workdir, report)
  print(os.path.join(args.workdir, truncation_curve.PICTURE))


def main(argv: list[str]) -> int:
  parser = cli.parser('python -m gans_jax.evaluate', DESCRIPTION)
  add = parser.add_argument
  add('--workdir', default='', metavar='DIR')
  add('--real', default='', metavar='SOURCE',
      help='with --fake: images such as folder:PATH, zip:PATH, prepared:PATH')
  add('--fake', default='', metavar='SOURCE', help='in place of --workdir')
  add('--metrics', default='', metavar='A,B',
      help="default: the config's evaluate.metrics")
  add('--num', type=int, default=0, metavar='N',
      help='number of images, in place of the one in the names; of pairs, '
           'all by default')
  add('--step', default='latest', metavar='latest|all|N')
  add('--watch', action='store_true',
      help='every checkpoint there is, and each new one until the run is '
           'complete')
  add('--weights', choices=['ema', 'live'], default='ema')
  add('--batch_norm', default='running', metavar='running|batch|standing[:N]')
  add('--truncation', type=float, metavar='PSI')
  add('--truncation_curve', default='', metavar='2,1,0.5',
      help='fidelity against variety: the metrics at each truncation, in '
           'WORKDIR/truncation_curve.jsonl and .png')
  add('--labels', default='empirical', metavar='empirical|uniform|K')
  add('--option', action='append', default=[], metavar='NAME=VALUE',
      help='of sampling, such as top_k=100 of a system that draws tokens; may '
           'be given again')
  add('--seed', type=int, default=0, help='of latents and labels')
  add('--baseline', default='', metavar='pca[:BITS]|independent_codes',
      help='what the run has to be better than, in its place; see above')
  add('--attributes', default='', metavar='LABELS',
      help="of lsN_...: a value of data.labels (default: the config's)")
  add('--preset', default='', metavar='tf|pytorch|clean|nvidia',
      help='whose variant of FID, KID and IS (default: tf)')
  add('--reference', default='', metavar='FILE.npz',
      help='statistics (pytorch-fid, clean-fid, ours) instead of real images')
  add('--write_reference', default='', metavar='FILE.npz',
      help='writes the statistics of the real images for such tools')
  add('--out', default='', metavar='FILE.jsonl',
      help='of --real and --fake: where results are added, one JSON line each')
  add('--batch_size', type=int, default=0)
  for name in WEIGHTS:
    add(f'--{name}_weights', default='', metavar='FILE')
  args = parser.parse_args(argv)
  if args.num < 0 or args.batch_size < 0 or args.seed < 0:
    raise errors.UserError(
        '--num, --batch_size and --seed cannot be negative.')
  if args.step not in ('latest', 'all') and not args.step.isdigit():
    raise errors.UserError(
        f"--step is {args.step!r}, expected 'latest', 'all' or a number.")
  if args.watch and args.step.isdigit():
    raise errors.UserError(
        f'--watch takes every checkpoint, but --step is {args.step}: leave '
        'one of them out.')
  if args.baseline and (args.watch or args.step == 'all' or args.fake):
    raise errors.UserError(
        f'--baseline={args.baseline} does not learn: it is measured once, '
        'beside one checkpoint of --workdir. Leave out --watch, --step=all and '
        '--fake.')
  if args.truncation_curve and (
      args.truncation is not None or args.watch or args.step == 'all'
      or args.fake or args.baseline):
    raise errors.UserError(
        '--truncation_curve has its own truncations, and is of one checkpoint '
        'of --workdir. Leave out --truncation, --watch, --step=all, '
        '--baseline and --fake.')
  if bool(args.workdir) == bool(args.fake):
    raise errors.UserError(
        'Give --workdir=DIR for a run, or --real=SOURCE and --fake=SOURCE for '
        'two sets of images.')
  names = tuple(filter(None, args.metrics.split(',')))
  weights = {name: path for name in WEIGHTS
             if (path := getattr(args, f'{name}_weights'))}

  import logging

  from gans_jax import evaluator as evaluator_lib

  logging.getLogger().setLevel(logging.INFO)
  if args.fake:
    results = of_two_sets(
        args.real, args.fake, names or ('fd5k_lite0',), num=args.num,
        batch_size=args.batch_size or 64, preset=args.preset, weights=weights,
        reference=args.reference, write_reference=args.write_reference)
    for result in results:
      if args.out:
        evaluator_lib.append(args.out, result)
      print(line(result))
    return cli.DONE

  import jax

  from gans_jax import baselines
  from gans_jax import sample
  from gans_jax.core import checkpoint as checkpoint_lib
  from gans_jax.core import curves
  from gans_jax.core import mesh as mesh_lib
  from gans_jax.core import stages as stages_lib
  from gans_jax.data import pipeline

  sampling = evaluator_lib.Sampling(
      args.batch_norm, args.truncation, args.labels, args.seed,
      sample.parse_options(args.option))
  if args.truncation_curve:
    _truncation_curve(args, names, sampling, weights)
    return cli.DONE
  checkpoints = checkpoint_lib.Checkpointer(args.workdir)
  evaluator, done = None, set()
  while True:
    steps = checkpoints.steps()
    if args.step == 'latest' and not args.watch:
      steps = steps[-1:]
    elif args.step.isdigit():
      steps = [int(args.step)]
    todo = [s for s in steps if s not in done] or ([] if done else [None])
    for step in todo:
      generator = sample.load(args.workdir, step, args.weights)
      if evaluator is None:
        dataset = pipeline.open_dataset(generator.config.data)
        if dataset.spec.identity != generator.spec.identity:
          logging.warning(
              'the data set has changed since training (identity %s, then '
              '%s): the metric is against the one that is there now',
              dataset.spec.identity, generator.spec.identity)
        system = generator.system
        if args.baseline:
          baseline = baselines.create(
              args.baseline, generator.config, system, generator.variables,
              dataset)
          system = baseline.system
          names = names or tuple(
              name for name in generator.config.evaluate.metrics
              if name != evaluator_lib.CODEBOOK)
        evaluator = evaluator_lib.Evaluator(
            generator.config, system, dataset,
            mesh_lib.make(devices=jax.local_devices()),
            names or None, args.num, args.batch_size, preset=args.preset,
            sampling=sampling, weights=weights, reference=args.reference,
            write_reference=args.write_reference, labels=args.attributes)
      variables, file = generator.variables, evaluator_lib.RESULTS
      if args.baseline:
        variables, file = baseline.variables, baselines.RESULTS
      for result in evaluator(variables, generator.step, generator.weights):
        if args.baseline:
          result = {**result, 'baseline': dict(baseline.facts)}
        evaluator_lib.append(os.path.join(args.workdir, file), result)
        print(line(result))
      done.add(generator.step)
      curves.plot(args.workdir)
    if not args.watch:
      return cli.DONE
    stages = stages_lib.of(generator.config, generator.system)
    if max(done) >= stages.total_steps(generator.config):
      return cli.DONE
    time.sleep(10)


if __name__ == '__main__':
  cli.run(main)
