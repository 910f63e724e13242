"""How much of its codebook a tokenizer uses.

Both numbers are of a whole validation set: of one batch they are lower, for a
batch has fewer tokens than the codebook has codes. State the tokens counted.
"""

from collections.abc import Iterable

import numpy as np

from gans_jax.core import errors


def count(tokens: Iterable[np.ndarray], size: int) -> np.ndarray:
  """How often each code occurs, int64 [size].

  Args:
    tokens: batches of code indices, integers of any shape in [0, size).
    size: codes in the codebook.

  Raises:
    UserError: no tokens, or one that is no code.
  """
  counts = np.zeros(size, np.int64)
  for batch in tokens:
    batch = np.asarray(batch)
    if batch.dtype.kind not in 'iu':
      raise ValueError(f'Code indices are integers; found {batch.dtype}.')
    if batch.size and not 0 <= batch.min() <= batch.max() < size:
      raise errors.UserError(
          f'A codebook of {size} codes has the indices 0 to {size - 1}; found '
          f'{batch.min()} to {batch.max()}.')
    counts += np.bincount(batch.ravel(), minlength=size)
  _check(counts)
  return counts


def usage(counts: np.ndarray) -> float:
  """Share of codes [size] that occur at all, in (0, 1]."""
  return float(np.mean(_check(counts) > 0))


def perplexity(counts: np.ndarray) -> float:
  """Codes that would be as hard to guess if all were equally frequent.

  exp(-sum p log(p + 1e-10)), as in VQ-VAE's and VQGAN's code, in [1, size].
  """
  p = _check(counts) / np.sum(counts)
  return float(np.exp(-np.sum(p * np.log(p + 1e-10))))


def _check(counts: np.ndarray) -> np.ndarray:
  counts = np.asarray(counts)
  if not counts.any():
    raise errors.UserError(
        'Codebook usage needs 1 token at least, and there are none.')
  return counts
