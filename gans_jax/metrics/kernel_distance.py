"""Squared maximum mean discrepancy between two sets of features.

  MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

KID: Binkowski et al., Demystifying MMD GANs, 2018, arXiv 1801.01401, section
4: k = (x.y / d + 1)^3 on Inception features, without bias (x and x' differ),
so that it may be negative; on other features it is "KD". CMMD: Jayasumana et
al., Rethinking FID, 2024, arXiv 2401.09603, section 4: a Gaussian kernel of
width 10 on normalised CLIP embeddings, with the bias (x = x' is counted),
times 1000.

No more than one block of a kernel matrix is in memory. Inner products are in
float32: their rounding has no sign, and averages out over the pairs. Sums are
in float64.
"""

from collections.abc import Callable
from collections.abc import Iterator

import numpy as np

from gans_jax.core import errors

_BLOCK = 2048  # A block of the kernel fits in the third cache.
_CMMD_SIGMA = 10.0
_CMMD_SCALE = 1000.0

# float32 inner products [m, n] -> kernel [m, n]
Kernel = Callable[[np.ndarray], np.ndarray]


def kid(fake: np.ndarray, real: np.ndarray, subsets: int = 100,
        size: int = 1000, seed: int = 2020) -> tuple[float, float]:
  """Kernel distance on random subsets, the protocol of the published numbers.

  Args:
    fake: [m, d].
    real: [n, d].
    subsets: number of pairs of subsets.
    size: rows of each, drawn without replacement; a part of the protocol,
      for the spread depends on it.
    seed: with 2020 the subsets are those of torch-fidelity.

  Returns:
    Mean and (population) standard deviation over the subsets.

  Raises:
    UserError: fewer than `size` rows, or a value that is not finite.
  """
  if size < 2 or subsets < 1:
    raise ValueError(f'{subsets} subsets of {size} give no unbiased distance')
  fake, real = _checked('KID', fake, real, size)
  random = np.random.RandomState(seed)
  values = []
  for _ in range(subsets):
    x = fake[random.choice(len(fake), size, replace=False)]
    y = real[random.choice(len(real), size, replace=False)]
    values.append(_unbiased(x, y))
  return float(np.mean(values)), float(np.std(values))


def kid_full(fake: np.ndarray, real: np.ndarray) -> float:
  """Kernel distance over all pairs of [m, d] and [n, d]; no subset chosen.

  It has the expectation of `kid` and a lower variance, for (m + n)^2 d
  multiplications.

  Raises:
    UserError: fewer than two rows, or a value that is not finite.
  """
  return _unbiased(*_checked('KID over all pairs', fake, real, 2))


def cmmd(fake: np.ndarray, real: np.ndarray) -> float:
  """CLIP maximum mean discrepancy of embeddings [m, d] and [n, d]; >= 0.

  Rows are normalised here. What is summed is k - 1, small and negative: the
  ones cancel, and in float32 they would take four of the digits with them.

  Raises:
    UserError: no row, or one that is zero or not finite.
  """
  x, y = (_normalised(f) for f in _checked('CMMD', fake, real, 1))
  # The pairs x = x' add k - 1 = 0.
  return _CMMD_SCALE * (
      _sum_within(x, _gaussian_less_one) / len(x)**2 +
      _sum_within(y, _gaussian_less_one) / len(y)**2 -
      2 * _sum_between(x, y, _gaussian_less_one) / (len(x) * len(y)))


def _unbiased(x: np.ndarray, y: np.ndarray) -> float:
  m, n, d = len(x), len(y), x.shape[1]

  def cubic(products):
    products *= np.float32(1 / d)
    products += 1
    return products * products * products

  return (_sum_within(x, cubic) / (m * (m - 1)) +
          _sum_within(y, cubic) / (n * (n - 1)) -
          2 * _sum_between(x, y, cubic) / (m * n))


def _gaussian_less_one(cosines: np.ndarray) -> np.ndarray:
  """exp(-|x - y|^2 / 2 sigma^2) - 1 of unit vectors."""
  # Four terms of the series: |t| <= 1/50, so that the fifth is below float32.
  t = (cosines - 1) * np.float32(1 / _CMMD_SIGMA**2)
  return t * (1 + t / 2 * (1 + t / 3 * (1 + t / 4)))


def _sum_within(x: np.ndarray, kernel: Kernel) -> float:
  """Sum over ordered pairs of different rows; each block above the diagonal
  stands for its mirror image, too."""
  total = 0.0
  for i, rows in enumerate(_blocks(x)):
    block = kernel(rows @ rows.T)
    total += block.sum(dtype=np.float64) - np.trace(block, dtype=np.float64)
    total += 2 * _sum_between(rows, x[(i + 1) * _BLOCK:], kernel)
  return float(total)


def _sum_between(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
  return float(sum(
      kernel(rows @ columns.T).sum(dtype=np.float64)
      for rows in _blocks(x) for columns in _blocks(y)))


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
  return (x[i:i + _BLOCK] for i in range(0, len(x), _BLOCK))


def _normalised(x: np.ndarray) -> np.ndarray:
  norms = np.sqrt(np.einsum('nd,nd->n', x, x, dtype=np.float64))
  if not norms.all():
    raise errors.UserError(
        f'CMMD compares directions, and embedding {np.argmin(norms)} is zero; '
        'look at its image and at what computed it.')
  return (x / norms[:, None]).astype(np.float32)


def _checked(metric: str, fake: np.ndarray, real: np.ndarray, need: int
             ) -> tuple[np.ndarray, np.ndarray]:
  """Both in float32."""
  checked = []
  for name, features in (('generated', fake), ('real', real)):
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or features.shape[1] != np.shape(real)[-1]:
      raise ValueError('Expected features [m, d] and [n, d]; found '
                       f'{np.shape(fake)} and {np.shape(real)}.')
    if len(features) < need:
      raise errors.UserError(
          f'{metric} needs {need} {name} images at least, and there are '
          f'{len(features)}.')
    if not np.isfinite(features).all():
      raise errors.UserError(
          f'{metric}: the features of {name} images hold NaN or infinity.')
    checked.append(features)
  return checked[0], checked[1]
