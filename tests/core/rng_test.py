"""Keys: a function of seed, step and name, and of nothing else."""

import jax
import numpy as np

from gans_jax.core import rng


def test_names_and_steps_give_different_keys():
  key = jax.random.key(0)
  keys = [rng.named(key, step, name)
          for step in range(5) for name in ('z', 'd', 'g', 'eps')]
  assert len({tuple(np.asarray(jax.random.key_data(k))) for k in keys}) == 20


def test_names_hash_alike_in_every_process():
  # CRC-32 of 'z' is 0x62d277af: Python's own hash differs from run to run.
  expected = jax.random.fold_in(
      jax.random.fold_in(jax.random.key(7), 3), 0x62D277AF)
  assert jax.random.key_data(rng.named(jax.random.key(7), 3, 'z')).tolist(
      ) == jax.random.key_data(expected).tolist()


def test_examples_keep_their_keys_in_any_batch():
  key = jax.random.key(1)
  whole = jax.random.key_data(rng.per_example(key, 0, 10))
  part = jax.random.key_data(rng.per_example(key, 4, 3))
  np.testing.assert_array_equal(whole[4:7], part)


def test_seeds():
  keys = rng.from_seeds([5, 2**32 - 1])
  np.testing.assert_array_equal(
      jax.random.key_data(keys[0]), jax.random.key_data(jax.random.key(5)))


def test_rows_depend_on_their_keys_alone():
  keys = rng.per_example(jax.random.key(3), 0, 4)
  values, labels = rng.normals(keys, 2, 3), rng.labels(keys, 5)
  assert values.shape == (4, 2, 3)
  for i in range(4):
    np.testing.assert_array_equal(
        values[i], jax.random.normal(keys[i], (2, 3)))
    assert labels[i] == jax.random.randint(
        rng.named(keys[i], 0, 'label'), (), 0, 5)
