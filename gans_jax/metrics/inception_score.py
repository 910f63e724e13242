"""Inception Score: are images distinct to a classifier, and of all classes?

  IS = exp E KL(p(y|x) || p(y)) = exp(H(E p) - E H(p)),   1 <= IS <= classes

Salimans et al., Improved Techniques for Training GANs, 2016, arXiv 1606.03498,
section 4; the mean over ten splits of 50,000 images. Published numbers take
the logits of the Inception network without their bias. The value depends on
the images in a split, and so on their order: improved-gan keeps the order of
generation, torch-fidelity shuffles with seed 2020. State which.
"""

from collections.abc import Callable

import numpy as np

from gans_jax.core import errors


def from_logits(logits: np.ndarray, splits: int = 10,
                shuffle_seed: int | None = None) -> tuple[float, float]:
  """Inception Score of classifier outputs before the softmax.

  Args:
    logits: [n, classes].
    splits: parts scored on their own.
    shuffle_seed: of the order; None for the order of the rows.

  Returns:
    Mean and (population) standard deviation over the splits.

  Raises:
    UserError: fewer images than splits, or a value that is not finite.
  """
  return _score(logits, _softmax, splits, shuffle_seed)


def from_probabilities(probabilities: np.ndarray, splits: int = 10,
                       shuffle_seed: int | None = None
                       ) -> tuple[float, float]:
  """As `from_logits`, of rows [n, classes] that are >= 0 and sum to one."""
  sums = np.sum(probabilities, axis=-1, dtype=np.float64)
  # A row that is NaN is left to the check that calls it so.
  if np.min(probabilities, initial=0) < 0 or (abs(sums - 1) > 1e-3).any():
    raise errors.UserError(
        'The Inception Score is of probabilities: >= 0, with a sum of 1 in '
        f'every row; found sums in [{sums.min():.4g}, {sums.max():.4g}]. Are '
        'these logits?')
  return _score(probabilities, lambda p: p, splits, shuffle_seed)


def _score(rows: np.ndarray, to_probabilities: Callable, splits: int,
           shuffle_seed: int | None) -> tuple[float, float]:
  rows = np.asarray(rows)
  n = len(rows)
  if rows.ndim != 2 or splits < 1:
    raise ValueError(f'Expected [n, classes] and splits >= 1; found '
                     f'{rows.shape} and {splits}.')
  if n < splits:
    raise errors.UserError(
        f'An Inception Score of {splits} splits needs {splits} images at '
        f'least (published ones have 50000), and there are {n}.')
  if not np.isfinite(rows).all():
    raise errors.UserError(
        'Inception Score: the classifier outputs hold NaN or infinity.')
  order = (np.arange(n) if shuffle_seed is None else
           np.random.RandomState(shuffle_seed).permutation(n))
  scores = []
  for i in range(splits):
    part = rows[order[i * n // splits:(i + 1) * n // splits]]
    p = to_probabilities(part.astype(np.float64))
    scores.append(np.exp(_entropy(p.mean(0)) - _entropy(p).mean()))
  return float(np.mean(scores)), float(np.std(scores))


def _softmax(logits: np.ndarray) -> np.ndarray:
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def _entropy(p: np.ndarray) -> np.ndarray:
  return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)
