"""A run's metrics: which there are, and computing them for given weights.

Between the metrics, which know no system, and the systems, which know no
metric. Training and the commands `evaluate` and `compare` go through here.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import math
import time
from typing import Any

import jax
import numpy as np

from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.core import images as images_lib
from gans_jax.core import label_distribution
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import sampler as sampler_lib
from gans_jax.core import stages as stages_lib
from gans_jax.core import standing_statistics
from gans_jax.data import pipeline
from gans_jax.metrics import attributes
from gans_jax.metrics import codebook
from gans_jax.metrics import features
from gans_jax.metrics import gan_test
from gans_jax.metrics import measures
from gans_jax.metrics import pairs
from gans_jax.metrics import perceptual_path
from gans_jax.metrics import protocols
from gans_jax.metrics import reference as reference_lib
from gans_jax.metrics import seams
from gans_jax.metrics import separability

RESULTS = 'evaluations.jsonl'
MODES = 'modes'
CODEBOOK = 'codebook'
SEAMS = 'seams'
# Real images that attributes are learned from, at most.
_MOST_LABELLED = 10_000
# Images whose seams are measured: four times as large as others, and slow.
_SEAMS_OF = 16


@dataclasses.dataclass(frozen=True)
class Metrics:
  """Metrics by kind, parsed and checked.

  Attributes:
    sets: protocols of sets of images.
    paths: protocols of path lengths.
    pairs: names of metrics of pairs.
    separability: protocols of linear separability.
    gan_tests: protocols of GAN-test.
    codebook: whether the use of a codebook is measured.
    modes: whether points are measured.
    seams: whether those of larger images are measured.
  """

  sets: tuple[protocols.Protocol, ...] = ()
  paths: tuple[perceptual_path.Protocol, ...] = ()
  pairs: tuple[str, ...] = ()
  separability: tuple[attributes.Protocol, ...] = ()
  gan_tests: tuple[gan_test.Protocol, ...] = ()
  codebook: bool = False
  modes: bool = False
  seams: bool = False


def parse(names: Sequence[str], num: int = 0, preset: str = '') -> Metrics:
  """Sorts metric names by kind.

  Args:
    names: as in `--metrics`.
    num: replaces the number in the names, if positive.
    preset: of names of Inception features that have none of their own.

  Raises:
    UserError: no such metric.
  """
  sets, paths, of_pairs, separable, tests = [], [], [], [], []
  for name in names:
    if name in (MODES, CODEBOOK, SEAMS):
      continue
    if name in pairs.NAMES:
      of_pairs.append(name)
    elif (path := perceptual_path.parse(name, num)) is not None:
      paths.append(path)
    elif (attribute := attributes.parse(name, num)) is not None:
      separable.append(attribute)
    elif (test := gan_test.parse(name, num)) is not None:
      tests.append(test)
    else:
      sets.append(protocols.parse(name, preset, num))
  return Metrics(tuple(sets), tuple(paths), tuple(of_pairs), tuple(separable),
                 tuple(tests), CODEBOOK in names, MODES in names,
                 SEAMS in names)


def compared_with(config, dataset):
  """Returns the data that the images of a run are compared with.

  With `evaluate.whole_data` those are all images, whatever `data.limit` leaves
  to train on, as papers on few images have it (Karras et al. 2020,
  arXiv:2006.06676, fig. 7c).

  Args:
    config: the run's config.
    dataset: what it is trained on.
  """
  return dataset.whole if config.evaluate.whole_data else dataset


def check(metrics: Sequence[str], system, spec, num: int = 0,
          preset: str = '') -> None:
  """Refuses metrics that do not exist or do not fit system or data.

  Args:
    metrics: names.
    system: the System that is evaluated.
    spec: facts of the data that it is compared with.
    num: replaces the number in the names, if positive.
    preset: see `parse`.
  """
  points = hasattr(system, 'point_metrics')
  for name in metrics:
    if (name == MODES) != points:
      known = MODES if points else 'fd5k_lite0 and its like'
      raise errors.UserError(
          f'The metric {name!r} is not one for this system; it has: {known}. '
          'Set --config.evaluate.metrics (or --metrics).')
  found = parse(metrics, num, preset)
  if found.pairs and 'reconstruct' not in system.outputs:
    raise errors.UserError(
        f'The metric {found.pairs[0]!r} compares images with what they should '
        'be, and this system reconstructs none. Two folders of images are '
        'compared with --real and --fake.')
  if found.codebook and 'tokens' not in system.outputs:
    raise errors.UserError(
        "The metric 'codebook' counts the codes of a tokenizer, and this "
        'system has none.')
  if found.seams and not hasattr(system, 'borders'):
    raise errors.UserError(
        "The metric 'seams' is of images larger than those trained on, which "
        'this system does not sample through windows.')
  for asked in found.paths + found.separability:
    if asked.space == 'w' and 'w' not in system.conditions:
      raise errors.UserError(
          f'The metric {asked.name!r} is of the space W, which this system '
          f'has not. Ask for {asked.name.replace("_w", "_z")}.')
  if found.gan_tests and 'label' not in system.conditions:
    raise errors.UserError(
        f'The metric {found.gan_tests[0].name!r} asks for images of each '
        'class, and this system takes no label.')
  for protocol in found.sets:
    check_size = measures.MEASURES[protocol.measure].check_size
    if check_size is not None:
      check_size(*spec.image_shape[:2])
  real = protocols.dataset_images(
      None, spec.num_examples, spec.identity, 'train', None)
  protocols.check([p for p in found.sets if not p.split], {'': real})


def best_metric(metrics: Sequence[str], num: int = 0
                ) -> tuple[str, str] | None:
  """Returns what decides the best checkpoint: (name, 'min' or 'max')."""
  if not metrics:
    return None
  if metrics[0] == MODES:
    return 'modes/covered', 'max'
  found = parse(metrics[:1], num)
  if found.sets:
    protocol = found.sets[0]
    return protocol.name, measures.MEASURES[protocol.measure].better
  for asked in found.paths + found.separability:
    return asked.name, 'min'
  if found.gan_tests:
    return found.gan_tests[0].name, 'max'
  if found.codebook:
    return 'codebook', 'max'
  return metrics[0], 'max' if metrics[0] in pairs.HIGHER_IS_BETTER else 'min'


def append(path: str, result: dict[str, Any]) -> None:
  """Adds one line to a file of results; JSON has null for infinity."""
  if jax.process_index() == 0:
    text = json.dumps(jax.tree.map(_finite, result), allow_nan=False)
    try:
      with open(path, 'a', encoding='utf-8') as f:
        f.write(text + '\n')
    except OSError as error:
      raise files.cannot_write(path, error) from error


def _finite(leaf):
  return None if isinstance(leaf, float) and not math.isfinite(leaf) else leaf


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How images are generated for a metric; recorded with it.

  Attributes:
    batch_norm: 'running', 'batch' or 'standing[:N]'.
    truncation: psi; None for none.
    labels: 'empirical', 'uniform' or a class.
    seed: of latents and labels.
    options: others of the system, such as top_k.
  """

  batch_norm: str = 'running'
  truncation: float | None = None
  labels: str = 'empirical'
  seed: int = 0
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def all_options(self) -> dict[str, Any]:
    """Keyword arguments of the system's `generate`."""
    given = dict(self.options)
    if self.truncation is not None:
      given['truncation'] = self.truncation
    return given


class Evaluator:
  """Computes a run's metrics for given weights.

  Real images are measured once and their statistics kept in the cache.
  """

  def __init__(self, config, system, dataset, mesh, metrics=None,
               num: int = 0, batch_size: int = 0, quiet: bool = False,
               preset: str = '', sampling: Sampling | None = None,
               weights: dict[str, str] | None = None,
               reference: str = '', write_reference: str = '',
               labels: str = ''):
    """Prepares; refuses what cannot be computed.

    Args:
      config: the run's config.
      system: its System.
      dataset: the data that it is trained on; see `compared_with`.
      mesh: devices.
      metrics: names; the config's by default.
      num: replaces the number in the names, if positive.
      batch_size: images generated and measured at a time; 0 chooses.
      quiet: no progress in the log.
      preset: of names of Inception features that have none of their own.
      sampling: how images are generated.
      weights: files of weights, by network: inception, vgg16, alexnet,
        clip.
      reference: file of statistics to compare with, instead of the real
        images.
      write_reference: file to write the statistics of the real images to.
      labels: what the attributes of linear separability are, a value of
        `config.data.labels`; that of the config by default.
    """
    names = config.evaluate.metrics if metrics is None else metrics
    num = num or config.evaluate.num
    self.sampling, self._num = sampling or Sampling(), num
    self._dataset = compared_with(config, dataset)
    check(names, system, self._dataset.spec, num, preset)
    _check_sampling(system, self.sampling)
    self._config, self._system = config, system
    self._mesh = mesh
    self._batch_size = batch_size or config.evaluate.batch_size or 64
    self._weights = weights or {}
    self._progress = None if quiet else features.log_progress
    self._reference, self._write_reference = reference, write_reference
    self.metrics = parse(names, num, preset)
    self._attributes = labels or config.data.labels
    if self.metrics.separability and self._attributes == 'none':
      raise errors.UserError(
          f'{self.metrics.separability[0].name} needs classes to tell, and '
          "config.data.labels is 'none'. Say which with --attributes (emoji: "
          'group, subgroup, tone, vendor; others: class).')
    self._samplers = {}
    self._pool = None

  def __call__(self, variables, step: int, weights: str = 'ema'
               ) -> list[dict[str, Any]]:
    """Returns one result for each metric.

    Args:
      variables: {net: flax variables}.
      step: recorded with the results.
      weights: 'ema' or 'live', recorded too.
    """
    results = []
    if self.metrics.modes:
      results += self._points(variables, step, weights)
    if self.metrics.sets:
      results += self._sets(variables, step, weights)
    if self.metrics.paths:
      results += self._paths(variables, step, weights)
    if self.metrics.pairs:
      results += self._pairs(variables, step, weights)
    if self.metrics.separability:
      results += self._separability(variables, step, weights)
    if self.metrics.gan_tests:
      results += self._gan_tests(variables, step, weights)
    if self.metrics.codebook:
      results += self._codebook(variables, step, weights)
    if self.metrics.seams:
      results += self._seams(variables, step, weights)
    return [{**result, 'step': int(step)} for result in results]

  def real_images(self) -> dict[str, Any]:
    """Returns the real images {split: protocols.Images} of all metrics."""
    # Each process decodes its share, where the shares are equal.
    part, parts = mesh_lib.batch_part(self._mesh)
    if parts < jax.process_count() or self._batch_size % parts:
      part, parts = 0, 1
    found = {}
    for split in {p.split for p in self.metrics.sets} | {''}:
      dataset = self._dataset if split in ('', self._config.data.split) else (
          compared_with(self._config, pipeline.open_dataset(
              self._config.data, split)))

      def ordered(num, dataset=dataset):
        return pipeline.ordered_batches(
            dataset, self._batch_size, num, seed=0, keys=('image',),
            process_index=part, process_count=parts)

      found[split] = protocols.dataset_images(
          ordered, dataset.spec.num_examples, dataset.spec.identity,
          split or self._config.data.split, 0, parts)
    return found

  def fake_images(self, variables, step: int, weights: str):
    """Returns generated images, a `protocols.Images`; see `__call__`."""
    if sampler_lib.reconstructs(self._system):
      return self._reconstructions(variables, step, weights)
    sampler = self._sampler()
    variables = self._prepared(variables)

    def sample(keys):
      return sampler(variables, keys, self._conditions(keys))

    return protocols.generated_images(
        sample, self.sampling.seed, sampler.batch_size,
        **self.facts(step, weights))

  def facts(self, step: int, weights: str) -> dict[str, Any]:
    """Returns what results record about the generated images."""
    conditional = 'label' in self._system.conditions
    return dict(
        step=int(step), weights=weights,
        images_seen=stages_lib.of(self._config, self._system).images(
            int(step)),
        batch_norm=standing_statistics.describe(
            self.sampling.batch_norm, self._sampler().batch_size,
            standing_statistics.training_batch(self._config)),
        truncation=self.sampling.truncation,
        labels=self.sampling.labels if conditional else None,
        **({'options': dict(self.sampling.options)}
           if self.sampling.options else {}))

  def _sampler(self, float_images: bool = False):
    if float_images not in self._samplers:
      kind, _ = standing_statistics.parse(self.sampling.batch_norm)
      self._samplers[float_images] = sampler_lib.Sampler(
          self._system, self._mesh, self._batch_size,
          batch_statistics=kind == 'batch', float_images=float_images,
          **self.sampling.all_options)
    return self._samplers[float_images]

  def _prepared(self, variables):
    """Returns the variables with the statistics that were asked for."""
    standing_statistics.check(
        self._system, variables, self.sampling.batch_norm)
    kind, passes = standing_statistics.parse(self.sampling.batch_norm)
    if kind != 'standing':
      return variables
    return standing_statistics.accumulate(
        self._system, variables, self._mesh, passes=passes,
        batch_size=standing_statistics.training_batch(self._config),
        seed=self.sampling.seed, labels=self._labels(),
        **self.sampling.all_options)

  def _conditions(self, keys) -> dict[str, Any]:
    labels = self._labels()
    return {} if labels is None else {
        'label': label_distribution.draw(keys, labels)}

  def _labels(self):
    """Returns the labels to draw from, or None."""
    if 'label' not in self._system.conditions:
      return None
    if self._pool is None:
      empirical = None
      if self.sampling.labels == 'empirical':
        # A sample of them is enough, and decoding a million images is not.
        batches = pipeline.ordered_batches(
            self._dataset, 64, min(len(self._dataset), 10_000), seed=0,
            keys=('label',))
        empirical = np.concatenate(
            [batch['label'][valid] for batch, valid in batches])
      self._pool = label_distribution.pool(
          self.sampling.labels, self._dataset.spec.num_classes, empirical)
    return self._pool

  def _points(self, variables, step, weights):
    start = time.perf_counter()
    keys = rng.per_example(jax.random.key(self.sampling.seed), 0, 2500)
    found = self._system.point_metrics(self._sampler()(variables, keys))
    return [dict(metric=name, value=float(value),
                 fake=dict(count=2500, seed=self.sampling.seed,
                           **self.facts(step, weights)),
                 seconds=time.perf_counter() - start)
            for name, value in found.items()]

  def _sets(self, variables, step, weights):
    return compare_sets(
        self.metrics.sets, self.real_images(),
        self.fake_images(variables, step, weights), mesh=self._mesh,
        weights=extractor_weights(self._weights), progress=self._progress,
        reference=self._reference, write_reference=self._write_reference)

  def _paths(self, variables, step, weights):
    sampler = self._sampler(float_images=True)
    variables = self._prepared(variables)
    results = []
    for protocol in self.metrics.paths:

      def generate(latents, keys, space=protocol.space):
        return sampler(variables, keys,
                       {**self._conditions(keys), space: latents})

      def latents(keys, space=protocol.space):
        return self._latents(variables, keys, space)

      result = perceptual_path.compute(
          protocol, generate, latents, seed=self.sampling.seed,
          batch_size=sampler.batch_size, weights=self._weights.get('vgg16'),
          progress=self._progress('pairs of images') if self._progress
          else None)
      results.append({**result, 'fake': {
          'count': protocol.num, 'seed': self.sampling.seed,
          **self.facts(step, weights)}})
    return results

  def _latents(self, variables, keys, space: str):
    """Returns the latents of keys, in Z or W."""
    z = self._system.latents(keys)
    return z if space == 'z' else self._system.map_latents(
        variables, z, self._conditions(keys))

  def _separability(self, variables, step, weights):
    start = time.perf_counter()
    data = self._config.data.copy_and_resolve_references()
    data.labels = self._attributes
    dataset = compared_with(self._config, pipeline.open_dataset(data))
    rows, labels = self._labelled(dataset)
    num = len(rows)
    probe = attributes.fit(rows, labels, dataset.spec.num_classes)
    most = max(p.num for p in self.metrics.separability)
    fake = self.fake_images(variables, step, weights)
    found = probe.probabilities(self._features(
        fake.stream(most), most, 'generated images'))
    prepared = self._prepared(variables)
    keys = rng.per_example(jax.random.key(self.sampling.seed), 0, most)
    results = []
    for protocol in self.metrics.separability:
      latents = np.asarray(self._latents(
          prepared, keys[:protocol.num], protocol.space))
      value = separability.separability(
          latents.reshape(protocol.num, -1), found[:, :protocol.num],
          protocol.num // 2)
      results.append({
          'metric': protocol.name, 'value': value,
          'values': {'ls': value, 'probe_accuracy': probe.accuracy},
          'measure': 'linear separability of the more confident half',
          'attributes': self._attributes, 'features': _lite0().facts(),
          'real': {'count': num, 'identity': dataset.spec.identity},
          'fake': {'count': protocol.num, **fake.facts},
          'seconds': {'fake': round(time.perf_counter() - start, 3)}})
    return results

  def _features(self, batches, num: int, what: str) -> np.ndarray:
    """Returns offline features [num, d] of batches (images, valid)."""
    tap = _lite0()
    return features.extract(
        [tap], batches, num, self._mesh,
        self._progress(what) if self._progress else None)[tap]

  def _labelled(self, dataset) -> tuple[np.ndarray, np.ndarray]:
    """Returns features [n, d] of real images and their labels [n]."""
    num, labels = min(len(dataset), _MOST_LABELLED), []

    def stream():
      for batch, valid in pipeline.ordered_batches(
          dataset, self._batch_size, num, seed=0, keys=('image', 'label')):
        labels.append(batch['label'][valid])
        yield batch['image'], valid

    rows = self._features(stream(), num, 'real images')
    return rows, np.concatenate(labels)

  def _gan_tests(self, variables, step, weights):
    start = time.perf_counter()
    rows, labels = self._labelled(self._dataset)
    probe, real = gan_test.fit(rows, labels, self._dataset.spec.num_classes)
    most = max(p.num for p in self.metrics.gan_tests)
    fake = self.fake_images(variables, step, weights)
    found = self._features(fake.stream(most), most, 'generated images')
    asked = self._conditions(rng.per_example(
        jax.random.key(self.sampling.seed), 0, most))['label']
    results = []
    for protocol in self.metrics.gan_tests:
      value = gan_test.accuracy(
          probe, found[:protocol.num], asked[:protocol.num])
      results.append({
          'metric': protocol.name, 'value': value,
          'values': {'accuracy': value, 'accuracy_on_real': real},
          'measure': 'share of images recognised as the class asked for',
          'features': _lite0().facts(),
          'real': {'count': len(rows),
                   'identity': self._dataset.spec.identity},
          'fake': {'count': protocol.num, **fake.facts},
          'seconds': {'fake': round(time.perf_counter() - start, 3)}})
    return results

  def _codebook(self, variables, step, weights):
    start = time.perf_counter()
    tokens = jax.jit(self._system.outputs['tokens'])
    num = self._dataset.spec.num_examples
    keys = rng.per_example(
        jax.random.key(self.sampling.seed), 0, num + self._batch_size)
    batches = pipeline.ordered_batches(
        self._dataset, self._batch_size, num, keys=self._system.requires)
    counts = codebook.count(
        (np.asarray(tokens(variables, batch, keys[
            i * self._batch_size + np.arange(self._batch_size)]))[valid]
         for i, (batch, valid) in enumerate(batches)),
        self._system.codebook_size)
    usage = codebook.usage(counts)
    return [{
        'metric': CODEBOOK, 'value': usage,
        'values': {'usage': usage, 'perplexity': codebook.perplexity(counts)},
        'measure': 'share of the codes in use, over all images',
        'tokens': int(counts.sum()), 'codes': len(counts),
        'real': {'count': num, 'identity': self._dataset.spec.identity},
        'fake': self.facts(step, weights),
        'seconds': {'fake': round(time.perf_counter() - start, 3)}}]

  def _seams(self, variables, step, weights):
    """Those of images of twice the size, unless options say which."""
    start = time.perf_counter()
    count, grid = self._num or _SEAMS_OF, self._system.grid
    options = {'height': 2 * grid[0], 'width': 2 * grid[1],
               **self.sampling.all_options}
    sampler = sampler_lib.Sampler(
        self._system, self._mesh, min(count, self._batch_size), **options)
    keys = rng.per_example(jax.random.key(self.sampling.seed), 0, count)
    images = sampler(variables, keys, self._conditions(keys))
    pixels = images.shape[1] // options['height']
    rows, columns = (
        [pixels * line for line in lines]
        for lines in self._system.borders(options['height'], options['width']))
    value, std = seams.ratio(images, rows, columns, pixels)
    return [{
        'metric': SEAMS, 'value': value,
        'values': {'ratio': value, 'std': std},
        'measure': "steps of brightness at windows' borders over those beside",
        'rows': rows, 'columns': columns,
        'fake': {'count': count, 'seed': self.sampling.seed,
                 'shape': list(images.shape[1:]), **self.facts(step, weights)},
        'seconds': {'fake': round(time.perf_counter() - start, 3)}}]

  def _reconstructions(self, variables, step, weights):
    """Returns reconstructions of the real images, in their order."""

    reconstruct = jax.jit(lambda variables, batch, keys: images_lib.to_uint8(
        self._system.outputs['reconstruct'](variables, batch, keys)))

    def stream(num):
      keys = rng.per_example(
          jax.random.key(self.sampling.seed), 0, num + self._batch_size)
      batches = pipeline.ordered_batches(
          self._dataset, self._batch_size, num, seed=0,
          keys=self._system.requires)
      for i, (batch, valid) in enumerate(batches):
        rows = i * self._batch_size + jax.numpy.arange(self._batch_size)
        yield jax.device_get(
            reconstruct(variables, batch, keys[rows])), valid

    return protocols.Images(
        stream, self._dataset.spec.num_examples,
        {'of': 'reconstructions', 'seed': self.sampling.seed,
         **self.facts(step, weights)})

  def _pairs(self, variables, step, weights):
    real = self.real_images()['']
    fake = self._reconstructions(variables, step, weights)
    num = min(real.count, self._num or real.count)
    whole = ((batch['image'], valid) for batch, valid in
             pipeline.ordered_batches(self._dataset, self._batch_size, num,
                                      seed=0, keys=('image',)))
    results = pairs.compute(
        self.metrics.pairs, whole, fake.stream(num), num,
        self._weights, self._progress('pairs') if self._progress else None)
    return [{**r, 'real': real.facts, 'fake': fake.facts} for r in results]


def _lite0() -> features.Tap:
  """Returns the features that classes are told by."""
  return features.Tap(features.get('lite0'), 'pooled')


def extractor_weights(weights: dict[str, str]) -> dict[str, str]:
  """Returns files of weights by key of `features.EXTRACTORS`."""
  found = {p.extractor: weights['inception']
           for p in protocols.PRESETS.values() if weights.get('inception')}
  return found | {name: weights[name] for name in ('vgg16', 'clip')
                  if weights.get(name)}


def compare_sets(sets, reals, fake, *, mesh, weights, progress,
                 reference: str = '', write_reference: str = ''
                 ) -> list[dict[str, Any]]:
  """`protocols.compute`, with statistics read from or written to a file."""
  given = {}
  if reference or write_reference:
    taps = protocols.taps(sets, weights)
    if reference:
      given = {p: reference_lib.read_file(reference, taps[p].facts(), p.measure)
               for p in sets}
    if write_reference:
      if len(sets) > 1:
        raise errors.UserError(
            f'--write_reference={write_reference} holds the statistics of one '
            f'metric, and there are {len(sets)}. Ask for one, such as '
            f'{sets[0].name}.')
      found = protocols.real_statistics(
          sets, reals, taps, mesh=mesh, progress=progress)
      if not found:
        raise errors.UserError(
            f'{sets[0].name} keeps no statistics of real images: there is '
            f'nothing to write to {write_reference}.')
      reference_lib.write_file(
          write_reference, found[sets[0]], taps[sets[0]].facts())
  return protocols.compute(sets, reals, fake, mesh=mesh, weights=weights,
                           given=given, progress=progress)


def _check_sampling(system, sampling: Sampling) -> None:
  standing_statistics.parse(sampling.batch_norm)
  if sampling.truncation is not None and 'truncation' not in system.options:
    raise errors.UserError(
        f'--truncation is {sampling.truncation}, but this system has no '
        'truncation. Leave it out.')
  for name in sampling.options:
    if name not in system.options:
      raise errors.UserError(
          f'--option names {name!r}, which this system has not; it has: '
          f'{", ".join(system.options) or "none"}.')
  if sampling.labels != 'empirical' and 'label' not in system.conditions:
    raise errors.UserError(
        f'--labels is {sampling.labels!r}, but this system is not '
        'conditional: it takes no label.')
