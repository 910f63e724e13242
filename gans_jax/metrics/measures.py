"""From features to numbers: what each metric keeps of the real images, and how
it compares the generated ones with that.

A measure knows no network and no images; `protocols.py` says which features
it is given, and of how many images.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from gans_jax.metrics import fid_infinity
from gans_jax.metrics import frechet
from gans_jax.metrics import inception_score
from gans_jax.metrics import kernel_distance
from gans_jax.metrics import manifold
from gans_jax.metrics import ms_ssim
from gans_jax.metrics import swd

# What is kept of real images: arrays by name, so that a file can hold them.
Kept = dict[str, np.ndarray]

_KID_SUBSET = 1000
_IS_SPLITS = 10


@dataclasses.dataclass(frozen=True)
class Measure:
  """A way to turn features into numbers.

  Attributes:
    title: in words, for the record.
    values: (kept, generated rows [n, ...], ddof) -> {name: value}; the first
      is the metric's value.
    keep: (real rows [n, ...], ddof) -> what `values` needs of them; None where
      it looks at generated images alone.
    distance: it has a floor, the value for real images against real ones.
    better: 'min' or 'max', which way the first value improves.
    least: images that it needs.
    even: it needs as many real images as generated ones.
    check_size: refuses a height and width of images, where not all will do.
  """

  title: str
  values: Callable[[Kept, np.ndarray, int], dict[str, float]]
  keep: Callable[[np.ndarray, int], Kept] | None = None
  distance: bool = False
  better: str = 'min'
  least: int = 2
  even: bool = False
  check_size: Callable[[int, int], None] | None = None


def kept_gaussian(gaussian: frechet.Gaussian) -> Kept:
  """A Gaussian as arrays, `mu` and `sigma` named as in pytorch-fid's files."""
  kept = {'mu': gaussian.mean, 'sigma': gaussian.covariance,
          'count': np.asarray(gaussian.count)}
  if gaussian.factor is not None:
    kept['factor'] = gaussian.factor
  return kept


def gaussian(kept: Kept) -> frechet.Gaussian:
  """The inverse of `kept_gaussian`."""
  return frechet.Gaussian(int(kept['count']), kept['mu'], kept['sigma'],
                          kept.get('factor'))


def _fit(rows, ddof):
  return kept_gaussian(frechet.fit(rows, ddof))


def _rows(rows, ddof):
  del ddof
  return {'features': np.asarray(rows)}


def _frechet(kept, rows, ddof):
  return {'fd': frechet.distance(gaussian(kept), frechet.fit(rows, ddof))}


def _frechet_infinity(kept, rows, ddof):
  line = fid_infinity.frechet_distance(rows, gaussian(kept), ddof=ddof)
  return {'fd_infinity': line.value, 'slope': line.slope}


def _kernel(kept, rows, ddof):
  del ddof
  real = kept['features']
  size = min(_KID_SUBSET, len(real), len(rows))
  if size == len(real) == len(rows):  # All subsets would be equal.
    return {'kd': kernel_distance.kid_full(rows, real), 'subset_size': size}
  mean, std = kernel_distance.kid(rows, real, size=size)
  return {'kd': mean, 'std': std, 'subset_size': size}


def _kernel_all(kept, rows, ddof):
  del ddof
  return {'kd': kernel_distance.kid_full(rows, kept['features'])}


def _mmd(kept, rows, ddof):
  del ddof
  return {'mmd': kernel_distance.cmmd(rows, kept['features'])}


def _balls(k):

  def keep(rows, ddof):
    del ddof
    fitted = manifold.fit(rows, k)
    return {'features': fitted.features, 'squared': fitted.squared}

  return keep


def _manifolds(kept, rows, k):
  real = manifold.Manifold(kept['features'], kept['squared'])
  return real, manifold.fit(rows, k, like=real)


def _precision_recall(kept, rows, ddof):
  del ddof
  return manifold.precision_recall(*_manifolds(kept, rows, 3), 3)


def _density_coverage(kept, rows, ddof):
  del ddof
  found = manifold.compare(*_manifolds(kept, rows, 5), 5, 5)
  return {name: found[name]
          for name in ('density', 'coverage', 'precision', 'recall')}


def _inception_score(kept, rows, ddof):
  del kept, ddof
  splits = min(_IS_SPLITS, len(rows) // 2)
  mean, std = inception_score.from_logits(rows, splits=splits)
  return {'is': mean, 'std': std, 'splits': splits}


def _inception_score_infinity(kept, rows, ddof):
  del kept, ddof
  line = fid_infinity.inception_score(rows)
  return {'is_infinity': line.value, 'slope': line.slope}


def _sliced(kept, rows, ddof):
  del ddof
  found = swd.swd(kept['features'], rows)
  return {'average': found.pop('average'), **found}


def _similarity(kept, rows, ddof):
  del kept, ddof
  return {'ms_ssim': ms_ssim.diversity(rows)}


MEASURES = {
    'fd': Measure(
        'Frechet distance', _frechet, _fit, distance=True),
    'fdinf': Measure(
        'Frechet distance, extrapolated to infinitely many images',
        _frechet_infinity, _fit, least=5014),
    'kd': Measure(
        'unbiased squared MMD, cubic kernel, mean of 100 subsets', _kernel,
        _rows, distance=True),
    'kdall': Measure(
        'unbiased squared MMD, cubic kernel, all pairs', _kernel_all, _rows,
        distance=True),
    'mmd': Measure(
        'biased squared MMD x 1000, Gaussian kernel of width 10 on unit '
        'vectors', _mmd, _rows, distance=True),
    'pr': Measure(
        'precision and recall, 3 nearest neighbours', _precision_recall,
        _balls(3), better='max', least=4),
    'prdc': Measure(
        'density and coverage, 5 nearest neighbours', _density_coverage,
        _balls(5), better='max', least=6),
    'is': Measure(
        'inception score, mean of splits', _inception_score, better='max'),
    'isinf': Measure(
        'inception score, extrapolated to infinitely many images',
        _inception_score_infinity, better='max', least=5014),
    'swd': Measure(
        'sliced Wasserstein distance x 1000 of patches', _sliced, _rows,
        distance=True, least=1, even=True, check_size=swd.check_size),
    'msssim': Measure(
        'mean MS-SSIM of pairs', _similarity, check_size=ms_ssim.check_size),
}
