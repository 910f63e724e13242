"""Named random keys: a key is a function of (seed, step, what it is for)."""

import zlib

import jax


def named(key: jax.Array, step: jax.Array | int, name: str) -> jax.Array:
  """Returns the key of one use at one step.

  Names are hashed by CRC-32, which, unlike `hash`, is the same in every
  process and on every machine.

  Args:
    key: typed PRNG key of the run.
    step: int32 scalar, traced or not.
    name: what the key is for, such as 'z' or 'd/dropout'.
  """
  key = jax.random.fold_in(key, step)
  return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def per_example(key: jax.Array, start: int, count: int) -> jax.Array:
  """Returns keys [count] of examples `start`, `start + 1`, ...

  Example i has the same key whatever the batch it is drawn in.
  """
  indices = jax.numpy.arange(start, start + count)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)


def normals(keys: jax.Array, *shape: int) -> jax.Array:
  """Returns N(0, 1) [N, *shape], row i from keys[i] alone."""
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def labels(keys: jax.Array, classes: int) -> jax.Array:
  """Returns classes int32 [N], all as likely, row i from keys[i] alone."""
  return jax.vmap(lambda key: jax.random.randint(
      named(key, 0, 'label'), (), 0, classes))(keys)


def from_seeds(seeds) -> jax.Array:
  """Returns one typed key for each integer seed, as an array of keys [N]."""
  return jax.vmap(jax.random.key)(jax.numpy.asarray(seeds, 'uint32'))
