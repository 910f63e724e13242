"""Metrics by name: the name is the protocol, and the result says it in full.

  fd{N}_lite0         N generated images against N real ones
  fd{N}_full_lite0    N generated images against all real ones

N is a number, with k for thousands: `fd5k_lite0`, `fd500_full_lite0`. "fd" is
the Frechet distance with covariances over n - 1, and "lite0" the features of
EfficientNet-Lite0 after Pillow's antialiased bicubic. It is never called FID,
and its values compare with no FID.

The distance between two finite samples of one distribution is far from zero
(its expectation falls like 1/N), so every result carries a floor: the distance
between disjoint sets of real images, of the same sizes where there are enough.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
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
from gans_jax.metrics import reference


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What a metric name says.

  Attributes:
    name: canonical spelling (`fd5k_lite0`, never `fd5000_lite0`).
    num_fake: generated images.
    all_real: against every real image of the split; else `num_fake` of them.
    extractor: key of `features.EXTRACTORS`.
    ddof: covariances are divided by n - ddof.
  """

  name: str
  num_fake: int
  all_real: bool
  extractor: str
  ddof: int = 1


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
  """

  stream: Callable[[int], features.Stream]
  count: int | None
  facts: dict[str, Any]


def parse(name: str) -> Protocol:
  """Returns the protocol called `name`.

  Raises:
    UserError: no such metric.
  """
  match = re.fullmatch(r'fd(\d+)(k?)(_full)?_([a-z0-9]+)', name)
  if match is None or match[4] not in features.EXTRACTORS:
    raise errors.UserError(
        f'There is no metric called {name!r}. Known are fd{{N}}_lite0 (N '
        'generated images against N real ones) and fd{N}_full_lite0 (against '
        'all real ones), with N such as 500 or 5k.')
  num = int(match[1]) * (1000 if match[2] else 1)
  if num < 2:
    raise errors.UserError(
        f'The metric {name!r} asks for {num} images; a covariance needs two '
        'at least.')
  size = f'{num // 1000}k' if num % 1000 == 0 else str(num)
  full = match[3] or ''
  return Protocol(f'fd{size}{full}_{match[4]}', num, bool(full), match[4])


def dataset_images(
    ordered_batches: Callable[[int], Iterator[tuple[dict, np.ndarray]]],
    count: int, identity: str, split: str, seed: int) -> Images:
  """Returns the real images of a data set.

  Args:
    ordered_batches: num -> (batch, valid) pairs with the key 'image', in an
      order which `seed` decides.
    count: images in the split.
    identity: `DataSpec.identity`.
    split: name of the split.
    seed: of the order. A random one: the first images of a data set in the
      order of its files may be of a few classes alone.
  """

  def stream(num):
    return ((batch['image'], valid) for batch, valid in ordered_batches(num))

  return Images(
      stream, count, {'identity': identity, 'split': split, 'seed': seed})


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


def check(protocols: Sequence[Protocol], real: Images,
          fake: Images | None = None) -> None:
  """Refuses metrics that need more images than there are; costs nothing.

  Raises:
    UserError: says how many each needs.
  """
  for protocol in protocols:
    need = 2 if protocol.all_real else protocol.num_fake
    if real.count is not None and real.count < need:
      everything = protocol.name.replace('_', '_full_', 1)
      advice = (
          'Use a larger data set.' if real.count < 2 else
          f'Ask for {everything} (against all real images) or for fewer, such '
          f'as fd{real.count}_{protocol.extractor}.')
      raise errors.UserError(
          f'{protocol.name} needs {need} real images, and the split '
          f'{real.facts.get("split", "given")!r} has {real.count}. {advice}')
    if fake and fake.count is not None and fake.count < protocol.num_fake:
      raise errors.UserError(
          f'{protocol.name} needs {protocol.num_fake} generated images, and '
          f'there are {fake.count}. Make more, or ask for a smaller metric.')


def compute(
    protocols: Sequence[Protocol],
    real: Images,
    fake: Images,
    *,
    mesh: jax.sharding.Mesh | None = None,
    cache_dir: str | None = None,
    progress: Callable[[str], features.Progress] | None =
    features.log_progress,
) -> list[dict[str, Any]]:
  """Computes metrics of one generator; each image is made and seen once.

  Args:
    protocols: what to compute; those with one extractor share its features,
      each using the first of them.
    real: real images.
    fake: generated images.
    mesh: devices; all by default.
    cache_dir: where statistics of real images are kept; by default
      `reference.default_dir()`.
    progress: what is measured ('real', 'fake') -> callback, or None.

  Returns:
    One JSON-able dictionary for each protocol, in order.

  Raises:
    UserError: too few images, or images that no metric can use.
  """
  check(protocols, real, fake)
  extractors = {p.extractor: features.get(p.extractor) for p in protocols}
  results: dict[Protocol, dict[str, Any]] = {}
  for name, extractor in extractors.items():
    group = [p for p in protocols if p.extractor == name]

    def seen(images, what, num, extractor=extractor):
      report = progress(f'{what} images') if progress else None
      return features.extract(
          extractor, images.stream(num), num, mesh, report)

    # Real images first: they find out soonest that something is missing.
    references = {}
    for protocol in group:
      start = time.perf_counter()
      stored, cached = reference.get(
          _reference_facts(protocol, real, extractor),
          lambda p=protocol, s=seen: _measure_real(p, real, s), cache_dir)
      references[protocol] = (stored, cached, time.perf_counter() - start)
    start = time.perf_counter()
    fakes = seen(fake, 'generated', max(p.num_fake for p in group))
    seconds_fake = time.perf_counter() - start

    for protocol in group:
      stored, cached, seconds_real = references[protocol]
      start = time.perf_counter()
      fitted = frechet.fit(fakes[:protocol.num_fake], protocol.ddof)
      value = frechet.distance(stored.gaussian, fitted)
      results[protocol] = {
          'metric': protocol.name,
          'value': value,
          'floor': stored.floor,
          'real': {'count': stored.gaussian.count, 'available': real.count,
                   'cached': cached, **real.facts},
          'fake': {'count': protocol.num_fake, **fake.facts},
          'features': extractor.facts(),
          'divisor': f'n - {protocol.ddof}',
          'route': frechet.route(stored.gaussian, fitted),
          'seconds': {
              'real': round(seconds_real, 3),
              'fake': round(seconds_fake, 3),
              'reduce': round(time.perf_counter() - start, 3),
          },
      }
      if protocol.num_fake <= extractor.dim:
        logging.warning(
            '%s: %d images do not determine a covariance in %d dimensions; '
            'read the value beside its floor, %s.', protocol.name,
            protocol.num_fake, extractor.dim,
            'which is not available' if stored.floor['value'] is None else
            f'{stored.floor["value"]:.3f}')
  return [results[p] for p in protocols]


def _reference_facts(protocol: Protocol, real: Images,
                     extractor: features.Extractor) -> dict[str, Any]:
  """Everything that the statistics of the real images depend on."""
  return {
      'data': dict(real.facts),
      'available': real.count,
      'count': real.count if protocol.all_real else protocol.num_fake,
      # It decides the floor, and nothing else.
      'num_fake': protocol.num_fake,
      'ddof': protocol.ddof,
      'features': extractor.facts(),
  }


def _measure_real(protocol: Protocol, real: Images, seen
                  ) -> reference.Reference:
  """Fits the real images, and the floor under the metric.

  The floor is a distance of disjoint real sets of the sizes the protocol
  compares: N and N, or for `_full` N and all the others (no more are left).
  With fewer than 2N images it is of two halves, which is too high.
  """
  n = protocol.num_fake
  if real.count is None:
    raise ValueError('real images must be a set of known size')
  count = real.count if protocol.all_real else n
  # The floor needs others than those of the metric.
  rows = seen(real, 'real',
              real.count if protocol.all_real else min(real.count, 2 * n))
  total = len(rows)
  same = total >= 2 * n
  first = n if same else total // 2
  second = total - first
  floor: dict[str, Any] = {'value': None, 'counts': None, 'same_counts': same}
  if min(first, second) > protocol.ddof:
    floor['value'] = frechet.distance(
        frechet.fit(rows[:first], protocol.ddof),
        frechet.fit(rows[first:], protocol.ddof))
    floor['counts'] = [first, second]
  if floor['value'] is None:
    floor['note'] = f'not available: {total} real images'
  elif not same:
    floor['note'] = (f'too high: {2 * n} real images are needed for the same '
                     f'counts, and there are {total}')
  return reference.Reference(frechet.fit(rows[:count], protocol.ddof), floor)
