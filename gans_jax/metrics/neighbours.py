"""Nearest rows of a stream: what training images a sample is most like."""

from collections.abc import Iterable

import numpy as np


def nearest(queries: np.ndarray, batches: Iterable[np.ndarray], count: int
            ) -> tuple[np.ndarray, np.ndarray]:
  """Finds the rows that are nearest to each query, by Euclidean distance.

  Args:
    queries: float [N, D].
    batches: float [B, D] each; all together M rows, `count` at least.
    count: rows for each query.

  Returns:
    (indices int64 [N, count], distances float64 [N, count]), nearest first;
    of equal ones the first.
  """
  queries = queries.astype(np.float64)
  best = np.full((len(queries), 0), np.inf)
  indices = np.zeros((len(queries), 0), np.int64)
  start = 0
  for batch in batches:
    # One by one, not by |a|^2 - 2ab + |b|^2, which cancels where they are
    # close.
    found = np.stack([
        np.sqrt(np.square(batch.astype(np.float64) - q[None]).sum(1))
        for q in queries])
    best = np.concatenate([best, found], 1)
    indices = np.concatenate([
        indices, np.broadcast_to(start + np.arange(len(batch)),
                                 found.shape)], 1)
    order = np.argsort(best, 1, kind='stable')[:, :count]
    best = np.take_along_axis(best, order, 1)
    indices = np.take_along_axis(indices, order, 1)
    start += len(batch)
  return indices, best
