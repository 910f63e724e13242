"""Images from a generator, any number of them, on any mesh.

Sample i depends on key i alone: the batch size and the devices are a matter
of speed. With batch statistics it also depends on the rest of its batch, and
so on the batch size, but still not on the devices.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import images as images_lib
from gans_jax.core import mesh as mesh_lib


class Sampler:
  """Generates with a fixed batch shape, so that it compiles once.

  Attributes:
    batch_size: samples per call of the compiled function.
  """

  def __init__(self, system, mesh: jax.sharding.Mesh, batch_size: int, *,
               batch_statistics: bool = False, float_images: bool = False,
               **options: Any):
    """Prepares a sampler.

    Args:
      system: a System.
      mesh: devices to work on.
      batch_size: rounded up to a multiple of the mesh's data axis, unless
        batch statistics are asked for: then it is part of the result.
      batch_statistics: normalize each batch by its own statistics (a system
        with `generate_by_batch`). Successive keys make a batch; the last one
        is filled up with the first keys, so that no image is normalized with
        a handful of others; of fewer keys than batch_size all are one batch.
      float_images: yield images as they are, float32 in [-1, 1].
      **options: keyword arguments of `system.generate`.
    """
    devices = mesh.shape['data']
    if not batch_statistics:
      batch_size = -(-batch_size // devices) * devices
    self.batch_size = batch_size
    self._batch_statistics = batch_statistics
    self._mesh = mesh

    def generate(variables, keys, conditions):
      keys, conditions = place((keys, conditions))
      if batch_statistics:
        out, _ = system.generate_by_batch(variables, keys, conditions,
                                          **options)
      else:
        out = system.generate(variables, keys, conditions, **options)
      if out.ndim == 4 and not float_images:
        out = images_lib.to_uint8(out)
      return place(out)

    self._generate = jax.jit(generate)

  def batches(self, variables, keys: jax.Array,
              conditions: Mapping[str, np.ndarray] | None = None
              ) -> Iterator[np.ndarray]:
    """Yields the samples of `keys` in order.

    Args:
      variables: {net: flax variables}.
      keys: typed keys [N].
      conditions: arrays [N, ...].

    Yields:
      uint8 [n, H, W, C] (float32 [n, 2] where a system makes points), whole
      on every process, N rows in all.
    """
    conditions = dict(conditions or {})
    total = keys.shape[0]
    size = self.batch_size
    if self._batch_statistics:
      size = min(size, total)
    for start in range(0, total, size):
      index = np.arange(start, start + size) % total
      part = {name: jnp.asarray(value)[index]
              for name, value in conditions.items()}
      with jax.set_mesh(self._mesh):
        out = self._generate(variables, keys[index], part)
      yield mesh_lib.to_host(out)[:total - start]

  def __call__(self, variables, keys, conditions=None) -> np.ndarray:
    """Returns all samples of `batches` as one array."""
    return np.concatenate(list(self.batches(variables, keys, conditions)))


def reconstructs(system) -> bool:
  """Whether a system is judged by reconstructions, for want of a prior."""
  return 'reconstruct' in system.outputs and not getattr(
      system, 'has_prior', False)


class Reconstructor:
  """Some images of a data set, and below each row what becomes of them.

  Attributes:
    originals: uint8 [rows * columns, H, W, C].
  """

  def __init__(self, system, mesh: jax.sharding.Mesh, dataset, rows: int,
               columns: int, seed: int = 0):
    """Draws the images; of a small data set some come twice."""
    self._mesh, self._columns = mesh, columns
    order = np.random.default_rng(seed).permutation(len(dataset))
    keys = tuple(dict.fromkeys(('image', *system.requires)))
    found = dataset.take(np.resize(order, rows * columns), keys)
    self._batch = {key: found[key] for key in system.requires}
    self.originals = np.asarray(found['image'])

    def run(variables, batch, keys):
      batch, keys = place((batch, keys))
      out = system.outputs['reconstruct'](variables, batch, keys)
      return place(images_lib.to_uint8(out))

    self._reconstruct = jax.jit(run)

  def __call__(self, variables, keys, conditions=None) -> np.ndarray:
    """Returns rows of originals and reconstructions in turn, uint8."""
    del conditions
    with jax.set_mesh(self._mesh):
      out = mesh_lib.to_host(self._reconstruct(variables, self._batch, keys))
    rows = [x.reshape(-1, self._columns, *x.shape[1:])
            for x in (self.originals, out)]
    return np.stack(rows, 1).reshape(-1, *out.shape[1:])


def place(tree):
  """Splits the batch over the devices; whole on each where it does not split.

  For use inside jit. Every leaf has the batch as its first axis.
  """
  mesh = jax.sharding.get_abstract_mesh()
  size = jax.tree.leaves(tree)[0].shape[0]
  if mesh.empty or size % mesh.shape['data']:
    return mesh_lib.replicate(tree)
  return mesh_lib.shard_batch(tree)


def fixed_conditions(system, spec, rows: int, columns: int
                     ) -> dict[str, np.ndarray]:
  """Returns the conditions of a grid: one class to a row, from the first."""
  if 'label' not in system.conditions:
    return {}
  labels = np.arange(rows) % spec.num_classes
  return {'label': np.repeat(labels, columns).astype(np.int32)}


def picture(samples: np.ndarray, columns: int) -> np.ndarray:
  """Returns uint8 [H, W, C]: a grid of images, or a scatter of points."""
  if samples.ndim == 4:
    return images_lib.enlarge(images_lib.grid(samples, columns), 256)
  from gans_jax.core import curves

  return curves.scatter(samples)
