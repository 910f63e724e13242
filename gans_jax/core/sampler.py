"""Images from a generator, any number of them, on any mesh.

Sample i depends on key i alone: the batch size and the devices are a matter
of speed.
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

  def __init__(self, system, mesh: jax.sharding.Mesh, batch_size: int,
               **options: Any):
    """Prepares a sampler.

    Args:
      system: a System.
      mesh: devices to work on.
      batch_size: rounded up to a multiple of the mesh's data axis.
      **options: keyword arguments of `system.generate`.
    """
    devices = mesh.shape['data']
    self.batch_size = -(-batch_size // devices) * devices
    self._mesh = mesh

    def generate(variables, keys, conditions):
      keys, conditions = mesh_lib.shard_batch((keys, conditions))
      out = system.generate(variables, keys, conditions, **options)
      if out.ndim == 4:
        out = images_lib.to_uint8(out)
      return mesh_lib.shard_batch(out)

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
    for start in range(0, total, self.batch_size):
      index = np.arange(start, start + self.batch_size).clip(max=total - 1)
      part = {name: jnp.asarray(value)[index]
              for name, value in conditions.items()}
      with jax.set_mesh(self._mesh):
        out = self._generate(variables, keys[index], part)
      yield mesh_lib.to_host(out)[:total - start]

  def __call__(self, variables, keys, conditions=None) -> np.ndarray:
    """Returns all samples of `batches` as one array."""
    return np.concatenate(list(self.batches(variables, keys, conditions)))


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
