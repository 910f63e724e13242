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
