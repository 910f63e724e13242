"""Precision and recall, density and coverage: sets as unions of k-NN balls.

The ball of a point reaches to its k-th nearest neighbour among the others of
its own set.

  precision  generated points within some real ball        (share)
  recall     real points within some generated ball        (share)
  density    real balls around a generated point, over k   (mean; may be > 1)
  coverage   real balls with a generated point inside      (share)

Precision and recall: Kynkaanniemi et al., Improved Precision and Recall Metric
for Assessing Generative Models, 2019, arXiv 1904.06991, equation 2: k = 3, and
the sphere belongs to the ball (<=). Density and coverage: Naeem et al.,
Reliable Fidelity and Diversity Metrics, 2020, arXiv 2002.09797, equations 4
and 5: k = 5, and it does not (<).

Of the pairs of points nearly all are much farther apart than any radius. They
are sorted out in steps, each of which does more work for fewer pairs:

1. Along orthonormal axes of which the first lead to most of the variance,

     |x - y|^2 >= sum over m axes (x_k - y_k)^2 + (|x'| - |y'|)^2

   where x' is the rest of x (Cauchy-Schwarz): a short float32 product for all
   pairs, and one of twice as many axes for those that may still be near.
2. For what is left, the squared distance in float32; and for all pairs, where
   the bound tells too few apart.
3. For what may be within a radius by a proven bound of that rounding, float64.

So the result is exact: points that are equal are at distance zero, and ties
are ties. Points are kept in an order in which neighbours are often in the same
block, which tells soon how near the nearest are.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures
import dataclasses
import os

import numpy as np
import threadpoolctl

from gans_jax.core import errors

_BLOCK = 2048
_PAIRS = 64  # Whose coordinates are gathered at a time, in a cache.
# The distance of two points alone takes as long as this many from a product:
# in float32, and in float64.
_GATHER_COST = 40
_EXACT_COST = 50
# In sets of so many points, leading axes are looked for; in a sample of the
# crowd, whose first points probe how well they tell neighbours from others.
_WORTH = 2**14
_CROWD = 2**14
_SAMPLE = 2**12
_PROBES = 2**8
_SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2)  # Of all axes.
_CELL = 64  # Points to a pivot.

# A slice or an array of indices.
Rows = slice | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Manifold:
  """A set of points and the squared distances to their nearest neighbours.

  Attributes:
    features: [n, d].
    squared: float64 [n, k], ascending; column j - 1 is of the j-th neighbour.
    points: the same, ready for products; None, if this is still to be done.
  """

  features: np.ndarray
  squared: np.ndarray
  points: '_Points | None' = dataclasses.field(default=None, repr=False)


def fit(features: np.ndarray, k: int = 5, like: Manifold | None = None
        ) -> Manifold:
  """Finds the `k` nearest neighbours of each of [n, d] among the others.

  Costs n^2 d / 2 multiplications at most, and twice the memory of float32
  features. A manifold serves every k up to this one: keep that of the real
  images.

  Args:
    features: [n, d].
    k: how many neighbours.
    like: what this is to be compared with, which saves the time to prepare
      both for it; it changes no result.

  Raises:
    UserError: fewer than k + 1 points, or a value that is not finite.
  """
  features = np.asarray(features)
  if features.ndim != 2 or k < 1:
    raise ValueError(f'Expected [n, d] and k >= 1; found {features.shape} '
                     f'and {k}.')
  if len(features) <= k:
    raise errors.UserError(
        f'{k} nearest neighbours need {k + 1} images at least, and there are '
        f'{len(features)}.')
  if not np.isfinite(features).all():
    raise errors.UserError(
        'Precision, recall, density and coverage: the features hold NaN or '
        'infinity.')
  if like is None or like.points is None:
    frame = _find_frame(features, k)
  else:
    frame = like.points.frame
  points = _points(features, frame)
  nearest = np.full((len(features), k), np.inf)
  blocks = _blocks(features)

  def within(i):
    pairs = _nearest_within(points, i, k)
    return pairs, pairs.exact()

  def between(ij):
    i, j = ij
    pairs = _near(points, i, points, j, nearest[i, -1], nearest[j, -1])
    return pairs, pairs.exact()

  # What is near in the same block bounds what is looked for in others.
  for pairs, squared in _parallel(within, blocks):
    _keep_nearest(nearest, pairs.i, squared)
  others = [(i, j) for i in blocks for j in blocks if i.start < j.start]
  for pairs, squared in _parallel(between, others):
    _keep_nearest(nearest, pairs.i, squared)
    _keep_nearest(nearest, pairs.j, squared)
  squared = np.empty_like(nearest)
  squared[points.order] = nearest
  return Manifold(features, squared, points)


def compare(real: Manifold, fake: Manifold, k_precision: int = 3,
            k_density: int = 5) -> dict[str, float]:
  """All four measures, and the F-score of the first two.

  Args:
    real: real images.
    fake: generated images; as many, if values are to be compared.
    k_precision: neighbours that make the balls of precision and recall.
    k_density: neighbours that make those of density and coverage.

  Returns:
    precision, recall, f_score and coverage in [0, 1]; density >= 0.
  """
  return {**precision_recall(real, fake, k_precision),
          **density_coverage(real, fake, k_density)}


def precision_recall(real: Manifold, fake: Manifold, k: int = 3
                     ) -> dict[str, float]:
  """precision, recall, and f_score, their harmonic mean; see `compare`."""
  x, y = _pair_of_sets(real, fake, k)
  x_radii, y_radii = real.squared[x.order, k - 1], fake.squared[y.order, k - 1]
  recalled, precise = np.zeros(len(x_radii), bool), np.zeros(len(y_radii), bool)
  none = np.float64(-np.inf)

  def found(tile):
    """Points of either set that are within a ball of the other."""
    rows, columns = tile
    # A point found within one ball is not looked for in others.
    here, there = recalled[rows], precise[columns]
    for i, j, x_limits, y_limits in (
        (~here, ~there, x_radii, y_radii), (here, ~there, x_radii, none),
        (~here, there, none, y_radii)):
      i = rows.start + np.flatnonzero(i)
      j = columns.start + np.flatnonzero(j)
      if len(i) and len(j):
        pairs = _near(
            x, i, y, j, x_limits if x_limits is none else x_limits[i],
            y_limits if y_limits is none else y_limits[j])
        yield (pairs.i[pairs.within(y_radii[pairs.j], np.less_equal)],
               pairs.j[pairs.within(x_radii[pairs.i], np.less_equal)])

  tiles = [(i, j) for i in _blocks(x.features) for j in _blocks(y.features)]
  # Blocks of one region first: most points are found there.
  tiles.sort(key=lambda ij: abs(ij[0].start / len(recalled) -
                                ij[1].start / len(precise)))
  for results in _parallel(lambda tile: list(found(tile)), tiles):
    for i, j in results:
      recalled[i] = True
      precise[j] = True
  precision, recall = float(precise.mean()), float(recalled.mean())
  return {'precision': precision, 'recall': recall,
          'f_score': 2 * precision * recall / max(1e-5, precision + recall)}


def density_coverage(real: Manifold, fake: Manifold, k: int = 5
                     ) -> dict[str, float]:
  """density and coverage; see `compare`."""
  x, y = _pair_of_sets(real, fake, k)
  radii = real.squared[x.order, k - 1]
  around = np.zeros(len(radii), np.int64)  # Generated points in each ball.

  def inside(tile):
    i, j = tile
    pairs = _near(x, i, y, j, radii[i], np.float64(-np.inf))
    return pairs.i[pairs.within(radii[pairs.i], np.less)]

  tiles = [(i, j) for i in _blocks(x.features) for j in _blocks(y.features)]
  for i in _parallel(inside, tiles):
    around += np.bincount(i, minlength=len(around))
  return {'density': float(around.sum() / (k * len(fake.features))),
          'coverage': float((around > 0).mean())}


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
  """Coordinates in which few products tell most points from one another.

  Any would do: it decides how long the rest takes, and no result.

  Attributes:
    centre: float64 [d], subtracted because rounding grows with norms.
    axes: float64 [d, m], orthonormal; m is even, and may be 0.
    pivots: float32 [c, m / 2], points; those nearest to one stay together.
  """

  centre: np.ndarray
  axes: np.ndarray
  pivots: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Points:
  """A set, ready for products.

  Attributes:
    features: [n, d] as given.
    frame: their coordinates.
    order: int [n]; the other arrays hold `features[order]`.
    centred: float32 [n, d].
    norms: float64 [n], squared, of `centred`.
    left: float32 [n, m / 2 + 3], the coordinates along the first half of the
      axes, the norm of the rest, and what makes a product with `right` of
      other points -1/2 of a squared distance. None where m = 0.
    right: float32 [n, m / 2 + 3].
    rest: float32 [n], the norm of the rest once more.
    more: float32 [n, m / 2 + 1], the coordinates along the second half of the
      axes, and the norm of what is then left.
  """

  features: np.ndarray
  frame: _Frame
  order: np.ndarray
  centred: np.ndarray
  norms: np.ndarray
  left: np.ndarray | None
  right: np.ndarray | None
  rest: np.ndarray | None
  more: np.ndarray | None

  def original(self, i: np.ndarray) -> np.ndarray:
    return self.features[self.order[i]]


def _points(features: np.ndarray, frame: _Frame) -> _Points:
  n, m = len(features), frame.axes.shape[1]
  centred = np.empty(features.shape, np.float32)
  norms, rest, cell = np.empty(n), np.empty(n, np.float32), np.empty(n, int)
  half = m // 2
  left = np.ones((n, half + 3), np.float32)
  more = np.empty((n, m - half + 1), np.float32)
  pivot_norms = np.vecdot(frame.pivots, frame.pivots)

  def fill(i):
    centred[i] = features[i] - frame.centre
    # Of what was rounded: the norm of the rest is a difference.
    x = centred[i].astype(np.float64)
    norms[i] = np.vecdot(x, x)
    along = x @ frame.axes
    lead = along[:, :half]
    rest[i] = np.sqrt(np.maximum(norms[i] - np.vecdot(lead, lead), 0))
    left[i, :half] = lead
    left[i, -3] = rest[i]
    left[i, -2] = norms[i] / -2
    more[i, :-1] = along[:, half:]
    more[i, -1] = np.sqrt(np.maximum(norms[i] - np.vecdot(along, along), 0))
    cell[i] = (left[i, :half] @ frame.pivots.T - pivot_norms / 2).argmax(1)

  for _ in _parallel(fill, _blocks(features)):
    pass
  if not m:
    return _Points(features, frame, np.arange(n), centred, norms, None, None,
                   None, None)
  order = np.argsort(cell, kind='stable')
  left = left[order]
  right = left.copy()
  right[:, [-2, -1]] = left[:, [-1, -2]]
  return _Points(features, frame, order, centred[order], norms[order], left,
                 right, rest[order], more[order])


@dataclasses.dataclass(frozen=True, eq=False)
class _Pairs:
  """Points of two sets that may be near one another.

  Attributes:
    x: a set.
    y: another, or the same.
    i: int [p], the points of `x`.
    j: int [p], of `y`.
    squared: float64 [p], squared distances, of float32 products.
    block: pairs that there are between the blocks they were found in.
    units: of rounding; a bound of errors is that many times 2^-24 in float32.
  """

  x: _Points
  y: _Points
  i: np.ndarray
  j: np.ndarray
  squared: np.ndarray
  block: int
  units: float

  def select(self, which: np.ndarray) -> '_Pairs':
    return dataclasses.replace(
        self, i=self.i[which], j=self.j[which], squared=self.squared[which])

  def within(self, radii: np.ndarray, less: np.ufunc) -> np.ndarray:
    """Whether distances are below squared radii [p], bool [p].

    Args:
      radii: float64 [p].
      less: np.less or np.less_equal, which decides ties.
    """
    slack = self.units * 2.0**-24
    inside = self.squared < radii - slack
    doubtful = np.flatnonzero(~inside & (self.squared <= radii + slack))
    squared, radii = self.exact(doubtful), radii[doubtful]
    tied = abs(squared - radii) <= self.units * 2.0**-53
    inside[doubtful] = less(np.where(tied, radii, squared), radii)
    return inside

  def exact(self, which: Rows = slice(None)) -> np.ndarray:
    """Squared distances in float64; what differs by rounding is equal."""
    i, j = self.i[which], self.j[which]
    if len(i) * _EXACT_COST > self.block:
      (rows, i), (columns, j) = (
          np.unique(k, return_inverse=True) for k in (i, j))
      u = self.x.original(rows) - self.x.frame.centre
      v = self.y.original(columns) - self.x.frame.centre
      squared = ((u * u).sum(1)[:, None] + (v * v).sum(1)[None] -
                 2 * (u @ v.T))[i, j]
    else:
      squared = np.empty(len(i))
      for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        delta = self.x.original(i[part]).astype(np.float64)
        delta -= self.y.original(j[part])
        squared[part] = np.vecdot(delta, delta)
    squared[squared <= self.units * 2.0**-53] = 0
    return squared


def _near(x: _Points, i: Rows, y: _Points, j: Rows, x_limits: np.ndarray,
          y_limits: np.ndarray) -> _Pairs:
  """Pairs that may be as near as the limit of either point, or nearer.

  Args:
    x: a set.
    i: points of it, m of them.
    y: another, or the same.
    j: points of it, n.
    x_limits: squared, float64 [m] or [].
    y_limits: squared, float64 [n] or [].
  """
  rows, columns = np.arange(len(x.norms))[i], np.arange(len(y.norms))[j]
  units = _units(x, i, y, j)
  x_limits, y_limits = (
      np.broadcast_to(limits + units * 2.0**-24, len(indices))
      for limits, indices in ((x_limits, rows), (y_limits, columns)))
  size = len(rows) * len(columns)

  def narrowed(a, b, squared):
    near = (squared <= x_limits[a]) | (squared <= y_limits[b])
    return a[near], b[near], squared[near]

  if x.left is not None:
    # Of upper bounds of what `_halves` is, first those for all pairs.
    bounds = x.left[i] @ y.right[j].T
    a, b = _above(bounds, x_limits, y_limits)
    if len(a) * _GATHER_COST < 3 * size:
      # Of what these leave, those by twice as many axes.
      u, v = rows[a], columns[b]
      rest = x.rest[u] * y.rest[v] - _products(x.more, u, y.more, v)
      a, b, _ = narrowed(a, b, -2.0 * (bounds[a, b] - rest))
      if len(a) * _GATHER_COST < size:
        u, v = rows[a], columns[b]
        a, b, squared = narrowed(
            a, b, x.norms[u] + y.norms[v] -
            2.0 * _products(x.centred, u, y.centred, v))
        return _Pairs(x, y, rows[a], columns[b], squared, size, units)
  halves = _halves(x, i, y, j)
  a, b = _above(halves, x_limits, y_limits)
  return _Pairs(x, y, rows[a], columns[b], -2.0 * halves[a, b], size, units)


def _halves(x: _Points, i: Rows, y: _Points, j: Rows) -> np.ndarray:
  """-1/2 of all squared distances, float32 [m, n]."""
  halves = x.centred[i] @ y.centred[j].T
  halves -= (x.norms[i, None] / 2).astype(np.float32)
  halves -= (y.norms[j] / 2).astype(np.float32)
  return halves


def _products(x: np.ndarray, i: np.ndarray, y: np.ndarray, j: np.ndarray
              ) -> np.ndarray:
  """Inner products of rows of two arrays, float32 [p]."""
  found = np.empty(len(i), np.float32)
  for start in range(0, len(i), _PAIRS):
    part = slice(start, start + _PAIRS)
    found[part] = np.vecdot(x[i[part]], y[j[part]])
  return found


def _above(halves: np.ndarray, x_limits: np.ndarray, y_limits: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray]:
  """Where -1/2 of a squared distance is within either limit, rows, columns."""
  near = None
  for limits, axis in ((x_limits, 1), (y_limits, 0)):
    least = (limits / -2).astype(np.float32)
    if (least < np.inf).any():
      found = halves >= np.expand_dims(least, axis)
      near = found if near is None else near | found
  if near is None:
    return np.empty(0, int), np.empty(0, int)
  return np.divmod(np.flatnonzero(near), near.shape[1])


def _units(x: _Points, i: Rows, y: _Points, j: Rows) -> float:
  """Bound of errors of squared distances, in units of the last place of 1."""
  # An inner product is wrong by at most d |u| |v| units of rounding, and
  # counts twice; as much again covers points, norms, limits and axes.
  return 4 * (x.features.shape[1] + 8) * max(
      x.norms[i].max(), y.norms[j].max())


def _nearest_within(points: _Points, block: slice, k: int) -> _Pairs:
  """Pairs (i, j) of a block, all that may be i and one of k nearest to it."""
  halves = _halves(points, block, points, block)
  np.fill_diagonal(halves, -np.inf)  # No point is a neighbour of itself.
  units = _units(points, block, points, block)
  limits = np.full(len(halves), np.inf)
  if k < len(halves):
    kth = -2.0 * np.partition(halves, -k, axis=1)[:, -k]
    limits = kth + 2 * units * 2.0**-24
  a, b = _above(halves, limits, np.full(len(halves), -np.inf))
  pairs = _Pairs(points, points, block.start + a, block.start + b,
                 -2.0 * halves[a, b], halves.size, units)
  return pairs.select(a != b)


def _keep_nearest(nearest: np.ndarray, rows: np.ndarray, squared: np.ndarray
                  ) -> None:
  """Updates `nearest`, float64 [n, k] ascending, with distances [p] of rows."""
  k = nearest.shape[1]
  order = np.lexsort((squared, rows))
  rows, squared = rows[order], squared[order]
  rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
  keep = rank < k
  changed, position = np.unique(rows[keep], return_inverse=True)
  found = np.full((len(changed), k), np.inf)
  found[position, rank[keep]] = squared[keep]
  found = np.concatenate([nearest[changed], found], axis=1)
  nearest[changed] = np.sort(found, axis=1)[:, :k]


def _parallel(function: Callable, arguments: Iterable) -> Iterator:
  """As `map`, with a call on every core.

  The results of earlier calls are used while later ones are at work. Products
  on one core each: else those that wait for one product would keep cores busy
  that others compare on.
  """
  with (threadpoolctl.threadpool_limits(1, user_api='blas'),
        futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool):
    yield from pool.map(function, arguments)


def _blocks(features: np.ndarray) -> list[slice]:
  n = len(features)
  return [slice(i, min(i + _BLOCK, n)) for i in range(0, n, _BLOCK)]


def _pair_of_sets(real: Manifold, fake: Manifold, k: int
                  ) -> tuple[_Points, _Points]:
  if real.features.shape[1] != fake.features.shape[1]:
    raise ValueError(f'Features of {real.features.shape[1]} and '
                     f'{fake.features.shape[1]} dimensions do not compare.')
  if not 1 <= k <= min(real.squared.shape[1], fake.squared.shape[1]):
    raise ValueError(f'The manifolds were fitted for no k = {k}.')
  x, y = real.points, fake.points
  if x is None:
    x = _points(real.features,
                _find_frame(real.features, k) if y is None else y.frame)
  if y is None or y.frame is not x.frame:
    y = _points(fake.features, x.frame)
  return x, y


def _find_frame(features: np.ndarray, k: int) -> _Frame:
  """Axes near the principal ones of a sample, as many as save most time."""
  n, d = features.shape
  most = int(_SHARES[-1] * d)
  centre = features.mean(0, dtype=np.float64)
  if n < _WORTH or not most:
    return _Frame(centre, np.empty((d, 0)), np.empty((1, 0), np.float32))
  chosen = np.random.RandomState(0).permutation(n)[:_CROWD]
  crowd = (features[chosen] - centre).astype(np.float32)
  half = min(_SAMPLE, len(crowd) // 2)
  axes = _principal(crowd[:half], most)
  # Of points that the axes were not fitted to.
  others = crowd[half:]
  k = min(k, len(others))
  nearest = _squared(others[:_PROBES], others)
  np.fill_diagonal(nearest, np.inf)
  nearest = np.partition(nearest, k - 1, axis=1)[:, k - 1, None]
  others = others[:_SAMPLE]
  norms = np.vecdot(others, others)
  along = others @ axes.astype(np.float32)

  def undecided(m):
    rest = norms - np.vecdot(along[:, :m], along[:, :m])
    bounds = np.concatenate(
        [along[:, :m], np.sqrt(np.maximum(rest, 0))[:, None]], axis=1)
    near = _squared(bounds[:_PROBES], bounds) <= nearest
    return 2 * np.mean(near)  # The radius of either point decides.

  best, least = 0, 1.0
  for share in _SHARES:
    m = 2 * (min(int(share * d), axes.shape[1]) // 2)
    half = m // 2
    cost = half / d + _GATHER_COST * (
        half / d * undecided(half) + undecided(m))
    if m and cost < least:
      best, least = m, cost
  pivots = along[:n // _CELL, :best // 2]
  if best:
    pivots = pivots[np.argsort(pivots[:, 0])]  # Neighbours, roughly.
  return _Frame(centre, axes[:, :best], pivots)


def _principal(sample: np.ndarray, count: int) -> np.ndarray:
  """Axes [d, count or fewer], near the principal ones of a sample [n, d].

  Two steps of the power method from random axes.
  """
  axes = np.random.RandomState(0).randn(sample.shape[1], count)
  for _ in range(2):
    # Small ones may be lost in large ones, unless they are far from parallel.
    gram = axes.T @ axes
    gram += (1e-9 * np.trace(gram) / count + 1e-300) * np.eye(count)
    axes = np.linalg.solve(np.linalg.cholesky(gram), axes.T).T
    axes = (sample.T @ (sample @ axes.astype(np.float32))).astype(np.float64)
  squares, mix = np.linalg.eigh(axes.T @ axes)
  keep = squares > 1e-10 * squares[-1]
  axes = axes @ (mix[:, keep] / np.sqrt(squares[keep]))[:, ::-1]
  # Newton's step to the nearest orthonormal ones: errors are squared.
  return 1.5 * axes - 0.5 * (axes @ (axes.T @ axes))


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Squared distances of [m, d] and [n, d], roughly."""
  lengths = (np.vecdot(z, z) for z in (x, y))
  return np.add.outer(*lengths) - 2 * (x @ y.T)
