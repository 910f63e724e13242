"""Data sets of random tokens for the priors' tests."""

import numpy as np

from gans_jax.data import spec as spec_lib


def spec(codes: int, grid: tuple[int, int], classes: int = 3,
         cond_grid: tuple[int, int] | None = None) -> spec_lib.DataSpec:
  """Images whose tokens, and those of a condition, are stored."""
  grids = {'tokens': grid, 'cond_tokens': cond_grid}
  grids = {key: shape for key, shape in grids.items() if shape}
  return spec_lib.DataSpec(
      16, 3, classes, 100, (*grids, 'label'),
      tuple((key, shape, 'int32') for key, shape in grids.items()),
      tokenizers=tuple((key, f'{name}@1', codes)
                       for key, name in zip(grids, 'ab', strict=False)))


def batch(system, codes: int, n: int = 8, seed: int = 0) -> dict:
  """Batches [1, n, ...] of what `system` requires; 3 classes."""
  draw = np.random.default_rng(seed)
  found = {'tokens': draw.integers(0, codes, (1, n, *system.grid), np.int32),
           'label': draw.integers(0, 3, (1, n), np.int32)}
  if getattr(system, 'cond_grid', None):
    found['cond_tokens'] = draw.integers(
        0, codes, (1, n, *system.cond_grid), np.int32)
  return {key: found[key] for key in system.requires}
