"""Metrics by name: the name is the protocol, and the result says it in full.

  [preset_]metricN[_full][_split][_network]

`N` is a number of generated images, with k for thousands, and of as many real
ones; `_full` takes all real images of the split, and `_test` or `_val` another
split than the one trained on.

  fid50k_full, sfid50k, kid50k_full, is50k, fidinf50k    FID's Inception of 2015
  pr50k3_full, prdc10k                                   VGG16
  cmmd5k                                                 CLIP ViT-L/14-336
  swd16k, msssim20k                                      pixels
  fd5k_lite0, fdinf50k_lite0, kd5k_full_lite0, is5k_lite0, pr5k_lite0,
  prdc5k_lite0, mmd5k_lite0                              EfficientNet-Lite0

What is measured with EfficientNet-Lite0, whose weights are installed with the
package, has names of its own: it is no FID, and compares with none.

Before a metric of Inception features, the preset names what published values
silently differ in (metrics of one name and another preset do not compare):

  tf       (the default) TensorFlow 1's bilinear, divisor n - 1: TTUR,
           torch-fidelity
  pytorch  bilinear at half-pixel centres, (x - 127.5) / 127.5: pytorch-fid
  clean    antialiased bicubic: clean-fid
  nvidia   as tf, with the divisor n: the StyleGAN repositories

The distance between two finite samples of one distribution is far from zero
(its expectation falls like 1/N), so every distance carries a floor: the value
for disjoint sets of real images, of the same sizes where there are enough.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import difflib
import logging
import re
import time
from typing import Any

import jax
import numpy as np

from gans_jax.core import errors
from gans_jax.core import rng
from gans_jax.metrics import features
from gans_jax.metrics import frechet
from gans_jax.metrics import image_count
from gans_jax.metrics import measures
from gans_jax.metrics import moments as moments_lib
from gans_jax.metrics import reference

# Real images whose features are kept as rows; beyond, as moments alone.
MOST_ROWS = 200_000


@dataclasses.dataclass(frozen=True)
class Preset:
  """What tools that publish one metric differ in.

  Attributes:
    extractor: key of `features.EXTRACTORS`, which decides resizer and range.
    ddof: covariances are divided by n - ddof.
  """

  extractor: str
  ddof: int


PRESETS = {
    'tf': Preset('inception', 1),
    'pytorch': Preset('inception_pytorch', 1),
    'clean': Preset('inception_clean', 1),
    'nvidia': Preset('inception', 0),
}

# Names of metrics of one network: (measure, tap); None is the preset's.
_OF_INCEPTION = {
    'fid': ('fd', '2048'), 'sfid': ('fd', 'spatial'), 'kid': ('kd', '2048'),
    'kidall': ('kdall', '2048'), 'is': ('is', 'logits_unbiased'),
    'fidinf': ('fdinf', '2048'), 'isinf': ('isinf', 'logits_unbiased'),
}
_OF_ANOTHER = {'pr': ('pr', 'vgg16'), 'prdc': ('prdc', 'vgg16'),
               'cmmd': ('mmd', 'clip')}
_OF_PIXELS = ('swd', 'msssim')
# Names that are followed by a network, of which Lite0 serves them all.
_OF_NETWORK = {'lite0': ('fd', 'fdinf', 'kd', 'kdall', 'mmd', 'pr', 'prdc',
                         'is', 'isinf')}
_OF_OTHERS = ('pr', 'prdc', 'mmd')
# The layer that a network's features are.
TAPS = {'lite0': 'pooled', 'vgg16': 'fc2', 'clip': 'embedding',
        'inception': '2048'}
# Measures that need no rows of the real images.
_OF_MOMENTS = ('fd', 'fdinf')
_SPLITS = ('train', 'val', 'validation', 'test')

_NAME = re.compile(
    r'(?:(tf|pytorch|clean|nvidia)_)?([a-z]+)([0-9]+)(?:(k)(3)?)?(_full)?'
    rf'(?:_({"|".join(_SPLITS)}))?(?:_([a-z][a-z0-9]*))?')


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What a metric name says.

  Attributes:
    name: canonical spelling (`fd5k_lite0`, never `fd5000_lite0`).
    measure: key of `measures.MEASURES`.
    num_fake: generated images.
    all_real: against every real image of the split; else `num_fake` of them.
    extractor: key of `features.EXTRACTORS`; None for pixels.
    tap: layer of it.
    ddof: covariances are divided by n - ddof.
    split: of the real images; '' is the one that was trained on.
  """

  name: str
  measure: str
  num_fake: int
  all_real: bool
  extractor: str | None
  tap: str
  ddof: int = 1
  split: str = ''


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
  """A set of images to measure.

  Attributes:
    stream: num -> batches of at least `num` images; see `features.Stream`.
    count: images in the set; None when there is no end.
    facts: goes into every result, JSON-able. For real images `identity`, the
      hash of all that decides the pixels, `split` and `seed` of their order:
      with them the statistics are cached. For generated ones seed, step,
      truncation and the like.
    parts: into which the stream is split over processes; see
      `features.extract`.
  """

  stream: Callable[[int], features.Stream]
  count: int | None
  facts: dict[str, Any]
  parts: int = 1


def parse(name: str, preset: str = '', num: int = 0) -> Protocol:
  """Returns the protocol called `name`.

  Args:
    name: as at the head of this file.
    preset: for names of Inception features that have none of their own.
    num: replaces the number in the name, if positive.

  Raises:
    UserError: no such metric or preset.
  """
  if preset and preset not in PRESETS:
    raise errors.UserError(
        f'There is no preset {preset!r}; they are {", ".join(PRESETS)}.')
  match = _NAME.fullmatch(name)
  if match is None:
    raise _unknown(name)
  own_preset, word, digits, kilo, three, full, split, net = match.groups()
  inception = word in _OF_INCEPTION and net is None
  if (own_preset and not inception) or (three and word != 'pr') or (
      full and word in _OF_PIXELS):
    raise _unknown(name)
  preset = own_preset or preset or 'tf'
  ddof = 1
  if inception:
    measure, tap = _OF_INCEPTION[word]
    extractor, ddof = PRESETS[preset].extractor, PRESETS[preset].ddof
  elif word in _OF_ANOTHER and net is None:
    measure, extractor = _OF_ANOTHER[word]
    tap = TAPS[extractor]
  elif word in _OF_PIXELS and net is None:
    measure, extractor, tap = word, None, features.PIXELS.name
  elif net in features.EXTRACTORS and word in _OF_NETWORK.get(
      net, _OF_OTHERS):
    measure, extractor = word, net
    tap = 'logits' if word in ('is', 'isinf') else TAPS[net]
  else:
    raise _unknown(name)
  count = image_count.read(digits, kilo, num)
  least = measures.MEASURES[measure].least
  if count < least or (measure == 'msssim' and count % 2):
    raise errors.UserError(
        f'The metric {name!r} asks for {count} images; it needs '
        f'{"an even number of " if measure == "msssim" else ""}{least} at '
        'least.')
  size = image_count.write(count)
  canonical = (
      (f'{preset}_' if inception and preset != 'tf' else '') + word + size +
      ('3' if three and size.endswith('k') else '') + (full or '') +
      (f'_{split}' if split else '') + (f'_{net}' if net else ''))
  return Protocol(canonical, measure, count, bool(full), extractor, tap, ddof,
                  split or '')


def _unknown(name: str) -> errors.UserError:
  some = ['fid50k_full', 'kid50k_full', 'is50k', 'sfid50k', 'pr50k3_full',
          'prdc10k', 'cmmd5k', 'fidinf50k', 'swd16k', 'msssim20k',
          'fd5k_lite0', 'fd5k_full_lite0', 'kd5k_lite0', 'pr5k_lite0',
          'prdc5k_lite0', 'mmd5k_lite0', 'is5k_lite0']
  near = difflib.get_close_matches(name, some, 1, 0.6)
  return errors.UserError(
      f'There is no metric called {name!r}.'
      f'{f" Did you mean {near[0]}?" if near else ""} A name is a metric, a '
      'number of images such as 500 or 5k, _full for all real images, and '
      f'the network where it is not the usual one: {", ".join(some)}.')


def dataset_images(
    ordered_batches: Callable[[int], Iterator[tuple[dict, np.ndarray]]],
    count: int, identity: str, split: str, seed: int, parts: int = 1
) -> Images:
  """Returns the real images of a data set.

  Args:
    ordered_batches: num -> (batch, valid) pairs with the key 'image', in an
      order which `seed` decides.
    count: images in the split.
    identity: `DataSpec.identity`.
    split: name of the split.
    seed: of the order. A random one: the first images of a data set in the
      order of its files may be of a few classes alone.
    parts: into which the batches are split over processes.
  """

  def stream(num):
    return ((batch['image'], valid) for batch, valid in ordered_batches(num))

  facts = {'identity': identity, 'split': split, 'seed': seed}
  return Images(stream, count, facts, parts)


def generated_images(
    sample: Callable[[jax.Array], np.ndarray], seed: int, batch_size: int,
    **facts: Any) -> Images:
  """Returns the images of a generator.

  Args:
    sample: typed keys [batch_size] -> uint8 [batch_size, H, W, C]; image i
      depends on key i alone.
    seed: image i is made from `fold_in(key(seed), i)`, so that the set does
      not depend on batch size or devices.
    batch_size: of every call.
    **facts: goes into the results (step, truncation, ...).
  """

  def stream(num):
    count = -(-num // batch_size) * batch_size
    keys = rng.per_example(jax.random.key(seed), 0, count)
    for start in range(0, count, batch_size):
      # Indexed by an array: a slice would compile anew for every start.
      yield sample(keys[np.arange(start, start + batch_size)]), None

  return Images(stream, None, {'seed': seed, **facts})


def check(protocols: Sequence[Protocol], real: Mapping[str, Images],
          fake: Images | None = None) -> None:
  """Refuses metrics that need more images than there are; costs nothing.

  Args:
    protocols: the metrics.
    real: real images by `Protocol.split`.
    fake: generated images, where their number is known.

  Raises:
    UserError: says how many each needs.
  """
  for protocol in protocols:
    measure = measures.MEASURES[protocol.measure]
    if measure.keep is not None:
      _check_real(protocol, measure, real[protocol.split])
    if fake and fake.count is not None and fake.count < protocol.num_fake:
      raise errors.UserError(
          f'{protocol.name} needs {protocol.num_fake} generated images, and '
          f'there are {fake.count}. Make more, or ask for a smaller metric.')


def _check_real(protocol, measure, real) -> None:
  need = measure.least if protocol.all_real else protocol.num_fake
  if real.count is None or real.count >= need:
    return
  advice = 'Use a larger data set.'
  if real.count >= measure.least:
    smaller = parse(protocol.name, num=real.count - real.count % 2).name
    advice = f'Ask for fewer, such as {smaller}.'
    if not measure.even:
      everything = re.sub(r'(\d+k?3?)', r'\1_full', protocol.name, count=1)
      advice = (f'Ask for {everything} (against all real images) or for '
                f'fewer, such as {smaller}.')
  raise errors.UserError(
      f'{protocol.name} needs {need} real images, and the split '
      f'{real.facts.get("split", "given")!r} has {real.count}. {advice}')


def taps(protocols: Sequence[Protocol],
         weights: Mapping[str, str] | None = None
         ) -> dict[Protocol, features.Tap]:
  """Returns the features that each protocol is computed on.

  Args:
    protocols: the metrics.
    weights: files of weights, by key of `features.EXTRACTORS`.

  Raises:
    UserError: weights that are absent or damaged.
  """
  weights = weights or {}
  return {
      p: features.PIXELS if p.extractor is None else features.Tap(
          features.get(p.extractor, weights.get(p.extractor)), p.tap)
      for p in protocols}


def compute(
    protocols: Sequence[Protocol],
    real: Images | Mapping[str, Images],
    fake: Images,
    *,
    mesh: jax.sharding.Mesh | None = None,
    cache_dir: str | None = None,
    weights: Mapping[str, str] | None = None,
    given: Mapping[Protocol, reference.Reference] | None = None,
    progress: Callable[[str], features.Progress] | None =
    features.log_progress,
) -> list[dict[str, Any]]:
  """Computes metrics of one generator; each image is made and seen once.

  Args:
    protocols: what to compute; those of fewer images use the first of them.
    real: real images, by `Protocol.split` if there are several splits.
    fake: generated images.
    mesh: devices; all by default.
    cache_dir: where statistics of real images are kept; by default
      `reference.default_dir()`.
    weights: files of weights, by key of `features.EXTRACTORS`.
    given: statistics to use instead of measuring real images.
    progress: what is measured ('real', 'fake') -> callback, or None.

  Returns:
    One JSON-able dictionary for each protocol, in order.

  Raises:
    UserError: too few images, or images that no metric can use.
  """
  reals = {'': real} if isinstance(real, Images) else real
  given = given or {}
  check([p for p in protocols if p not in given], reals, fake)
  wanted = taps(protocols, weights)
  # Real images first: they find out soonest that something is missing.
  references = given | real_statistics(
      [p for p in protocols if p not in given], reals, wanted, mesh=mesh,
      cache_dir=cache_dir, progress=progress)
  start = time.perf_counter()
  num = max(p.num_fake for p in protocols)
  rows = features.extract(
      list(dict.fromkeys(wanted.values())), fake.stream(num), num, mesh,
      progress('generated images') if progress else None, fake.parts)
  seconds = time.perf_counter() - start
  return [
      {**reduce(p, references.get(p), rows[wanted[p]], wanted[p], seconds),
       'fake': {'count': p.num_fake, **fake.facts}} for p in protocols]


def reduce(protocol: Protocol, stored: reference.Reference | None,
           rows: np.ndarray, tap: features.Tap, seconds: float
           ) -> dict[str, Any]:
  """Returns the result of one metric, all but the facts of the images.

  Args:
    protocol: the metric.
    stored: what is kept of the real images; None where they do not matter.
    rows: features of generated images, `protocol.num_fake` at least.
    tap: what they are features of.
    seconds: that they took.
  """
  measure = measures.MEASURES[protocol.measure]
  start = time.perf_counter()
  values = measure.values(stored.kept if stored else {},
                          rows[:protocol.num_fake], protocol.ddof)
  result = {
      'metric': protocol.name,
      'value': next(iter(values.values())),
      'values': values,
      'measure': measure.title,
      'features': tap.facts(),
      'seconds': {
          'real': round(stored.seconds, 3) if stored else 0.0,
          'fake': round(seconds, 3),
          'reduce': round(time.perf_counter() - start, 3),
      },
  }
  if stored:
    result['real'] = stored.facts
  if stored and measure.distance:
    result['floor'] = stored.floor
  if protocol.measure in _OF_MOMENTS:
    result['divisor'] = f'n - {protocol.ddof}'
    dim = rows.shape[1]
    few = protocol.num_fake < dim or 'factor' in stored.kept
    result['route'] = 'nuclear' if few else 'eigh'
    if protocol.num_fake <= dim:
      floor = stored.floor.get('value')
      logging.warning(
          '%s: %d images do not determine a covariance in %d dimensions; '
          'read the value beside its floor, %s.', protocol.name,
          protocol.num_fake, dim, 'which is not available' if floor is None
          else f'{floor:.3f}')
  return result


def real_statistics(
    protocols: Sequence[Protocol], reals: Mapping[str, Images],
    wanted: Mapping[Protocol, features.Tap], *,
    mesh: jax.sharding.Mesh | None = None, cache_dir: str | None = None,
    progress: Callable[[str], features.Progress] | None = None,
) -> dict[Protocol, reference.Reference]:
  """Returns what metrics keep of the real images, measuring what is missing.

  Real images are looked at once for all of them. See `compute`.
  """
  found: dict[Protocol, reference.Reference] = {}
  missing: dict[str, list[Protocol]] = {}
  for protocol in protocols:
    if measures.MEASURES[protocol.measure].keep is None:
      continue
    images = reals[protocol.split]
    if images.count is None:
      raise ValueError('real images must be a set of known size')
    stored = reference.find(
        reference_facts(protocol, images, wanted[protocol]), cache_dir)
    if stored is None:
      missing.setdefault(protocol.split, []).append(protocol)
    else:
      found[protocol] = _with_facts(stored, protocol, images, True, 0.0)
  for split, group in missing.items():
    images = reals[split]
    large = [p for p in group if _count_real(p, images) > MOST_ROWS]
    small = [p for p in group if p not in large]
    made: dict[Protocol, reference.Reference] = {}

    def report(images=images):
      what = f'{images.facts.get("split", "")} images'.strip()
      return progress(f'real {what}') if progress else None

    start = time.perf_counter()
    for protocol in large:
      made[protocol] = _measure_stream(protocol, images, wanted[protocol],
                                       mesh, report())
    if small:
      num = max(_looks_at(p, images) for p in small)
      rows = features.extract(
          list(dict.fromkeys(wanted[p] for p in small)), images.stream(num),
          num, mesh, report(), images.parts)
      for protocol in small:
        made[protocol] = _measure_rows(
            protocol, images, rows[wanted[protocol]])
    seconds = time.perf_counter() - start
    for protocol, stored in made.items():
      reference.keep(reference_facts(protocol, images, wanted[protocol]),
                     stored, cache_dir)
      found[protocol] = _with_facts(stored, protocol, images, False, seconds)
  return found


def reference_facts(protocol: Protocol, real: Images, tap: features.Tap
                    ) -> dict[str, Any]:
  """Everything that the statistics of the real images depend on."""
  return {
      'data': dict(real.facts),
      'available': real.count,
      'count': _count_real(protocol, real),
      # It decides the floor, and nothing else.
      'num_fake': protocol.num_fake,
      'measure': protocol.measure,
      'ddof': protocol.ddof,
      'features': tap.facts(),
  }


def _with_facts(stored, protocol, images, cached, seconds
                ) -> reference.Reference:
  return dataclasses.replace(stored, seconds=seconds, facts={
      'count': _count_real(protocol, images), 'available': images.count,
      'cached': cached, **images.facts})


def _count_real(protocol: Protocol, real: Images) -> int:
  """Real images that the metric compares with."""
  if not protocol.all_real:
    return protocol.num_fake
  # Rows of all of ImageNet would fill the memory; its moments do not.
  return real.count if protocol.measure in _OF_MOMENTS else min(
      real.count, MOST_ROWS)


def _looks_at(protocol: Protocol, real: Images) -> int:
  """Real images that the metric and its floor look at."""
  count = _count_real(protocol, real)
  if protocol.all_real or not measures.MEASURES[protocol.measure].distance:
    return count
  # The floor needs others than those of the metric.
  return min(real.count, 2 * count)


def _floor_sizes(protocol: Protocol, total: int) -> tuple[int, int, bool]:
  """How `total` real images are split for the floor, and if as they should.

  The floor is of disjoint sets of the sizes that the metric compares: N and N,
  or for `_full` N and all the others (no more are left). With fewer than 2N
  images it is of two halves, which is too high.
  """
  n = protocol.num_fake
  if total >= 2 * n:
    return n, (total if protocol.all_real else 2 * n) - n, True
  even = measures.MEASURES[protocol.measure].even
  return total // 2, total // 2 if even else total - total // 2, False


def _floor(protocol: Protocol, total: int,
           value: Callable[[int, int], float]) -> dict[str, Any]:
  """The floor as results hold it; value: (first, second) sizes -> distance."""
  first, second, same = _floor_sizes(protocol, total)
  floor: dict[str, Any] = {'value': None, 'counts': None, 'same_counts': same}
  if min(first, second) >= measures.MEASURES[protocol.measure].least:
    floor['value'] = value(first, second)
    floor['counts'] = [first, second]
  else:
    floor['note'] = f'not available: {total} real images'
    return floor
  if not same:
    floor['note'] = (f'too high: {2 * protocol.num_fake} real images are '
                     f'needed for the same counts, and there are {total}')
  return floor


def _measure_rows(protocol: Protocol, real: Images, rows: np.ndarray
                  ) -> reference.Reference:
  measure = measures.MEASURES[protocol.measure]
  rows = rows[:_looks_at(protocol, real)]
  kept = measure.keep(rows[:_count_real(protocol, real)], protocol.ddof)
  if not measure.distance:
    return reference.Reference(kept, {})

  def value(first, second):
    others = measure.keep(rows[first:first + second], protocol.ddof)
    return next(iter(
        measure.values(others, rows[:first], protocol.ddof).values()))

  return reference.Reference(kept, _floor(protocol, len(rows), value))


def _measure_stream(protocol: Protocol, real: Images, tap: features.Tap, mesh,
                    progress) -> reference.Reference:
  """As `_measure_rows`, of `_OF_MOMENTS` and all images, without rows."""
  total = _looks_at(protocol, real)
  first, _, _ = _floor_sizes(protocol, total)
  parts: list[list[moments_lib.Moments]] = [[], []]
  done = 0
  for batch in features.batches([tap], real.stream(total), total, mesh,
                                progress, real.parts):
    rows = batch[tap]
    cut = max(first - done, 0)
    for part, piece in zip(parts, (rows[:cut], rows[cut:]), strict=True):
      if len(piece):
        part.append(moments_lib.of(piece))
        if len(part) == 2:
          part[:] = [moments_lib.merge(*part)]
    done += len(rows)
  (head,), (tail,) = parts
  a, b, whole = (frechet.of_moments(m, protocol.ddof)
                 for m in (head, tail, moments_lib.merge(head, tail)))
  floor = {} if not measures.MEASURES[protocol.measure].distance else _floor(
      protocol, total, lambda *_: frechet.distance(a, b))
  return reference.Reference(measures.kept_gaussian(whole), floor)
