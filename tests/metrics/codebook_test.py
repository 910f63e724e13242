"""Usage and perplexity of hand-made token sets."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import codebook


def test_uniform_single_and_uneven_codes():
  uniform = np.full(64, 10)
  assert codebook.usage(uniform) == 1
  assert codebook.perplexity(uniform) == pytest.approx(64, rel=1e-7)
  single = np.eye(64)[5] * 1000
  assert codebook.usage(single) == 1 / 64
  assert codebook.perplexity(single) == pytest.approx(1, abs=1e-9)
  # Two codes of 3/4 and 1/4.
  uneven = np.array([3, 1, 0, 0])
  assert codebook.usage(uneven) == 0.5
  assert codebook.perplexity(uneven) == pytest.approx(
      4 / 3**0.75, rel=1e-9)


def test_counts_of_the_whole_set_exceed_those_of_a_batch():
  tokens = np.random.RandomState(0).randint(0, 512, (20, 4, 8, 8))
  counts = codebook.count(tokens, 512)
  assert counts.sum() == tokens.size and counts.dtype == np.int64
  np.testing.assert_array_equal(codebook.count([tokens], 512), counts)
  batch = codebook.count(tokens[:1], 512)
  assert codebook.usage(batch) < 0.5 < codebook.usage(counts) == 1
  assert codebook.perplexity(batch) < codebook.perplexity(counts)


def test_refusals():
  for tokens in ([np.array([0, 8])], [np.array([-1])]):
    with pytest.raises(errors.UserError, match='indices 0 to 7'):
      codebook.count(tokens, 8)
  with pytest.raises(errors.UserError, match='1 token'):
    codebook.count([], 8)
  with pytest.raises(errors.UserError, match='1 token'):
    codebook.perplexity(np.zeros(8))
  with pytest.raises(ValueError, match='integers'):
    codebook.count([np.array([1.0])], 8)
