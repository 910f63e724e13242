"""Filters of logits, against definitions written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.nn import token_sampling


def by_hand(row, temperature, top_k, top_p):
  """The set of tokens that can be drawn, by the likeliest first."""
  row = np.asarray(row, np.float64) / temperature
  order = np.argsort(-row, kind='stable')
  if top_k:
    order = order[:top_k]
  p = np.exp(row[order] - row[order].max())
  p /= p.sum()
  kept, mass = set(), 0.0
  for token, share in zip(order, p, strict=True):
    if mass > top_p:
      break
    kept.add(int(token))
    mass += share
  return kept


@pytest.mark.parametrize('temperature, top_k, top_p', [
    (1.0, 0, 1.0), (1.0, 5, 1.0), (0.5, 0, 0.9), (2.0, 12, 0.6),
    (1.0, 0, 1e-9), (1.0, 99, 0.3)])
def test_what_is_kept(temperature, top_k, top_p):
  logits = np.random.default_rng(0).normal(0, 2, (6, 30)).astype(np.float32)
  found = np.asarray(token_sampling.filter_logits(
      jnp.asarray(logits), temperature, top_k, top_p))
  for row, ours in zip(logits, found, strict=True):
    kept = {int(i) for i in np.flatnonzero(np.isfinite(ours))}
    assert kept == by_hand(row, temperature, top_k, top_p)
    i = sorted(kept)
    np.testing.assert_allclose(ours[i], row[i] / temperature, rtol=1e-6)


def test_draws_follow_the_softmax_of_what_is_kept():
  logits = jnp.broadcast_to(jnp.log(jnp.array([.5, .3, .15, .05]))[None],
                            (4000, 4))
  keys = jax.random.split(jax.random.key(0), 4000)
  tokens = token_sampling.draw(logits, keys, 3, top_k=2)
  share = np.bincount(tokens, minlength=4) / 4000
  np.testing.assert_allclose(share, [.625, .375, 0, 0], atol=0.03)


def test_a_row_depends_on_its_key_and_position_alone():
  logits = jnp.zeros((8, 50))
  keys = jax.random.split(jax.random.key(0), 8)
  tokens = token_sampling.draw(logits, keys, 5)
  np.testing.assert_array_equal(
      tokens[3:5], token_sampling.draw(logits[3:5], keys[3:5], 5))
  assert not np.array_equal(tokens, token_sampling.draw(logits, keys, 6))


def test_temperature_zero_takes_the_likeliest():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 9)))
  keys = jax.random.split(jax.random.key(0), 5)
  np.testing.assert_array_equal(
      token_sampling.draw(logits, keys, 0, temperature=0.0),
      np.argmax(logits, -1))
