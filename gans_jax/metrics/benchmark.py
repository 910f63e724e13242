"""Times metrics: `python -m gans_jax.metrics.benchmark`."""

import logging
import resource
import time

import numpy as np

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Times the arithmetic of metrics on features that are made up: Frechet distance,
kernel distance (100 subsets of 1000) and precision and recall (k = 3) of as
many generated as real images; and, with --extractor, the network that the
offline metrics take features from.

  python -m gans_jax.metrics.benchmark
  python -m gans_jax.metrics.benchmark --features=isotropic --images=10000
  python -m gans_jax.metrics.benchmark --extractor

Precision and recall take as long as nearest neighbours are hard to tell from
other points, which is for --features to say:

  classes    like those of a network: not negative, 1000 classes that make up
             half of the variance, which falls like 1/k over principal axes
  power      one Gaussian, variance falling like 1/k
  isotropic  one Gaussian, the same variance along every axis: all points are
             nearly as far from one another as the nearest ones
"""

KINDS = ('classes', 'power', 'isotropic')
_CLASSES = 1000
_SUBSETS, _SUBSET_SIZE = 100, 1000
_BLOCK = 4096


def make_features(kind: str, images: int, dim: int, seed: int) -> np.ndarray:
  """Features of one set; sets of other seeds have the same distribution.

  Args:
    kind: one of `KINDS`.
    images: how many.
    dim: of a feature vector.
    seed: of the images.

  Returns:
    float32 [images, dim].
  """
  shared = np.random.default_rng(0)
  random = np.random.default_rng([1, seed])
  out = np.empty((images, dim), np.float32)
  scale = np.sqrt(1 / np.arange(1, dim + 1, dtype=np.float32))
  if kind == 'isotropic':
    scale[:] = 1
  rotation = np.linalg.qr(shared.standard_normal((dim, dim)))[0]
  rotation = rotation.astype(np.float32) * scale[:, None]
  centres = shared.standard_normal((_CLASSES, dim), dtype=np.float32)
  deviation = np.sqrt(np.sum(scale**2) / dim)
  for start in range(0, images, _BLOCK):
    z = random.standard_normal((min(_BLOCK, images - start), dim),
                               dtype=np.float32)
    if kind == 'classes':
      z += centres[random.integers(0, _CLASSES, len(z))]
      z *= np.float32(0.5**0.5)
    z = z @ rotation
    if kind == 'classes':
      z = np.maximum(z + deviation, 0)
    out[start:start + len(z)] = z
  return out


def arithmetic(kind: str, images: int, dim: int) -> dict[str, float]:
  """Seconds of each metric, and 'peak GB', the process's memory at most."""
  from gans_jax.metrics import frechet
  from gans_jax.metrics import kernel_distance
  from gans_jax.metrics import manifold

  fake, real = (make_features(kind, images, dim, seed) for seed in (1, 2))
  # Generated images are less varied.
  fake *= np.float32(0.97)
  size = min(_SUBSET_SIZE, images)
  found = {}

  def timed(name, run):
    start = time.perf_counter()
    values = run()
    found[name] = time.perf_counter() - start
    logging.info('%s: %.1f s (%s)', name, found[name], values)

  timed('Frechet distance', lambda: frechet.distance(
      frechet.fit(real), frechet.fit(fake)))
  timed(f'kernel distance, {_SUBSETS} x {size}', lambda: kernel_distance.kid(
      fake, real, _SUBSETS, size))

  def precision_recall():
    fitted = manifold.fit(real, 3)
    return manifold.precision_recall(
        fitted, manifold.fit(fake, 3, like=fitted))

  timed('precision and recall', precision_recall)
  found['all three'] = sum(found.values())
  found['peak GB'] = (
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
  return found


def extractor(images: int, repeat: int = 3) -> float:
  """Seconds per image of EfficientNet-Lite0 on images of its own size."""
  from gans_jax.metrics import features

  network = features.get('lite0')
  taps = [features.Tap(network, 'pooled')]
  pixels = np.random.RandomState(0).randint(
      0, 256, (images, network.size, network.size, 3)).astype(np.uint8)
  best = np.inf
  for _ in range(repeat + 1):  # The first one compiles.
    start = time.perf_counter()
    features.extract(taps, [(pixels, None)], images)
    best = min(best, time.perf_counter() - start)
  return best / images


def main(argv: list[str]) -> int:
  parser = cli.parser('python -m gans_jax.metrics.benchmark', DESCRIPTION)
  parser.add_argument('--images', type=int, default=50000,
                      help='generated, and real ones')
  parser.add_argument('--dim', type=int, default=2048,
                      help='of a feature vector')
  parser.add_argument('--features', choices=KINDS, default=KINDS[0])
  parser.add_argument('--extractor', action='store_true',
                      help='time the feature network instead')
  args = parser.parse_args(argv)
  if args.images < 4 or args.dim < 1:
    raise errors.UserError(
        f'A benchmark needs --images=4 and --dim=1 at least; found '
        f'{args.images} and {args.dim}.')
  if args.extractor:
    images = min(args.images, 64)
    print(f'EfficientNet-Lite0: {1000 * extractor(images):.2f} ms per image, '
          f'{images} images at once')
    return cli.DONE
  print(f'{args.images} + {args.images} {args.features} features of '
        f'{args.dim} dimensions')
  for name, value in arithmetic(
      args.features, args.images, args.dim).items():
    unit = '' if name == 'peak GB' else ' s'
    print(f'{name:<28}{value:>8.1f}{unit}')
  return cli.DONE


if __name__ == '__main__':
  cli.run(main)
