"""Devices: one mesh with axes ('data', 'model'), for one device or thousands.

Axis types are Auto: the compiler places the work, and the few constraints
below say what it may not decide for itself.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import re

import jax
from jax.sharding import NamedSharding
import numpy as np

from gans_jax.core import errors

P = jax.sharding.PartitionSpec
AXES = ('data', 'model')


def make(data: int = -1, model: int = 1,
         devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """Builds the mesh.

  Args:
    data: devices along the batch; -1 takes all that are left.
    model: devices along which parameters may be split.
    devices: the devices to use, all of the job's by default.

  Raises:
    UserError: the sizes do not fit the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  if model < 1 or len(devices) % model:
    raise errors.UserError(
        f'mesh.model is {model}, but there are {len(devices)} devices: the '
        'number of devices must be a multiple of it. Set --config.mesh.model '
        'to a divisor.')
  if data == -1:
    data = len(devices) // model
  if data < 1 or data * model > len(devices):
    raise errors.UserError(
        f'mesh.data x mesh.model is {data} x {model}, but there are '
        f'{len(devices)} devices. Use --config.mesh.data=-1 for all of them.')
  used = data * model
  if jax.process_count() > 1 and used != len(devices):
    raise errors.UserError(
        f'mesh.data x mesh.model is {data} x {model} = {used}, but the '
        f'{jax.process_count()} processes hold {len(devices)} devices, and '
        'in a run of several processes all must take part. Use '
        '--config.mesh.data=-1.')
  # Some of the devices of this job lie in no particular shape.
  some = len(devices) < len(jax.devices()) and devices[0] in jax.devices()
  if used == len(devices) and not some:
    grid = arrange(devices, data, model)
  else:
    grid = np.asarray(devices[:used]).reshape(data, model)
  return jax.sharding.Mesh(grid, AXES)


def arrange(devices: Sequence[jax.Device], data: int,
            model: int) -> np.ndarray:
  """Returns all devices as an array [data, model], neighbours side by side.

  Rows are sorted by process, so that each feeds successive rows of a batch;
  on the torus of a TPU the hosts would alternate. The order means nothing to
  an all-reduce.
  """
  from jax.experimental import mesh_utils

  # Splitting is for a `model` that is none of the torus's own sizes, such as
  # 2 on 4 x 8.
  grid = mesh_utils.create_device_mesh(
      (data, model), devices=devices, allow_split_physical_axes=True)
  return grid[sorted(range(data), key=lambda i: _processes(grid[i]))]


def _processes(devices) -> list[int]:
  return sorted({device.process_index for device in devices})


def batch_part(mesh: jax.sharding.Mesh,
               process_index: int | None = None) -> tuple[int, int]:
  """Returns which part of every batch a process feeds, and of how many.

  Of P processes the p-th feeds part (p, P), unless parameters are split over
  processes: those that share a row of the mesh feed the same examples.

  Args:
    mesh: the mesh.
    process_index: the process; this one by default.

  Raises:
    UserError: the rows of the mesh do not divide into such parts.
  """
  if process_index is None:
    process_index = jax.process_index()
  rows = {}  # process -> the rows of the mesh that its devices are in
  for i, devices in enumerate(mesh.devices):
    for process in _processes(devices):
      rows[process] = (*rows.get(process, ()), i)
  parts = sorted(set(rows.values()))
  if ([i for part in parts for i in part] != list(range(len(mesh.devices)))
      or len({len(part) for part in parts}) > 1):
    raise errors.UserError(
        f'mesh.model is {mesh.devices.shape[1]}, which splits parameters over '
        'some devices of a process and others of its neighbours, so that no '
        'process has examples of its own. Set --config.mesh.model to a '
        'divisor or a multiple of the devices of one process '
        f'({mesh.devices.size // len(rows)}).')
  return parts.index(rows[process_index]), len(parts)


def check_batch(batch_size: int, microbatches: int,
                mesh: jax.sharding.Mesh, resolution: int = 0) -> None:
  """Refuses a batch that does not split evenly over microbatches and mesh.

  Args:
    batch_size: of all devices.
    microbatches: pieces of it.
    mesh: the devices.
    resolution: of the stage that has this batch size; 0: the run has one.
  """
  devices = mesh.shape['data']
  if batch_size % (devices * microbatches):
    key = 'growing.batch_sizes' if resolution else 'batch_size'
    where = f'the batch size at resolution {resolution}' if resolution else key
    raise errors.UserError(
        f'{where} is {batch_size}, which does not split into '
        f'{microbatches} microbatch(es) on {devices} device(s) along the '
        f"mesh axis 'data': it must be a multiple of "
        f'{devices * microbatches}. Set --config.{key}, '
        '--config.microbatches or --config.mesh.data.')


def shard_batch(tree, axis: int = 0):
  """Constrains the batch axis of every array to the mesh axis 'data'.

  Without it, an array drawn inside jit is computed whole by every device.
  Outside a mesh (plain unit tests) it does nothing.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or 'data' not in mesh.axis_names:
    return tree
  spec = P(*([None] * axis), 'data')
  return jax.tree.map(
      lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def platform() -> str:
  """Returns what is compiled for: 'cpu', 'gpu' or 'tpu'.

  That of the mesh in force (`jax.set_mesh`), which may be of a machine that
  is only compiled for, else that of the default backend.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return getattr(device, 'platform', None) or jax.default_backend()


def replicate(tree):
  """Constrains every array to be whole on every device."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return tree
  return jax.tree.map(
      lambda x: jax.lax.with_sharding_constraint(x, P()), tree)


def batch_sharding(mesh: jax.sharding.Mesh, axis: int = 0) -> NamedSharding:
  """Sharding of an array whose axis number `axis` is the batch."""
  return NamedSharding(mesh, P(*([None] * axis), 'data'))


def to_global(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh,
              axis: int = 1) -> dict[str, jax.Array]:
  """Makes global arrays of this process's rows of a batch.

  Args:
    batch: host arrays whose axis number `axis` holds this process's examples.
    mesh: the mesh.
    axis: 1 for the training layout [n_sub, batch, ...].
  """
  sharding = batch_sharding(mesh, axis)
  return {
      name: jax.make_array_from_process_local_data(sharding, value)
      for name, value in batch.items()
  }


def to_host(tree):
  """Returns global arrays as whole NumPy arrays on every process."""
  if jax.process_count() == 1:
    return jax.tree.map(np.asarray, tree)
  from jax.experimental import multihost_utils

  def fetch(x):
    if x.is_fully_replicated or x.is_fully_addressable:
      return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))

  return jax.tree.map(fetch, tree)


def path_name(path) -> str:
  """Returns 'params/G/Dense_0/kernel' for a key path of a tree."""
  parts = []
  for entry in path:
    for attribute in ('key', 'name', 'idx'):
      if hasattr(entry, attribute):
        parts.append(str(getattr(entry, attribute)))
        break
  return '/'.join(parts)


def split_largest_axis(shape: Sequence[int], model: int,
                       at_least: int = 2**14) -> P:
  """Spec that splits the largest axis divisible by `model` over 'model'.

  Arrays of fewer than `at_least` elements stay whole: moving them costs more
  than holding them. Of equal axes the last is taken (output channels).
  """
  if model == 1 or int(np.prod(shape)) < at_least:
    return P()
  sizes = [n if n % model == 0 else 0 for n in shape]
  best = max(sizes, default=0)
  if best == 0:
    return P()
  axis = len(sizes) - 1 - sizes[::-1].index(best)
  return P(*([None] * axis), 'model')


# (pattern of the path, rule): the first that matches decides. 'split' is
# `split_largest_axis`, 'replicate' keeps the array whole.
Rules = Sequence[tuple[str, str]]
DEFAULT_RULES: Rules = (
    (r'^(params|opt|ema)/', 'split'),
    (r'.*', 'replicate'),
)


def shardings(abstract_state, mesh: jax.sharding.Mesh,
              rules: Rules = DEFAULT_RULES):
  """Gives every array of a state its sharding by regular expressions.

  Args:
    abstract_state: tree of ShapeDtypeStruct, from `jax.eval_shape`.
    mesh: the mesh.
    rules: pairs (regular expression searched in the path, rule name).

  Returns:
    A tree of NamedSharding of the same structure.
  """
  model = mesh.shape['model']

  def one(path, leaf):
    name = path_name(path)
    for pattern, rule in rules:
      if re.search(pattern, name):
        if rule == 'split' and not jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key):
          return NamedSharding(mesh, split_largest_axis(leaf.shape, model))
        return NamedSharding(mesh, P())
    raise errors.UserError(
        f'No sharding rule matches {name!r}; end the rules with '
        "('.*', 'replicate').")

  return jax.tree_util.tree_map_with_path(one, abstract_state)


def initialize_distributed(coordinator: str | None, processes: int | None,
                           process_id: int | None, auto: bool) -> None:
  """Joins the processes of a job, before any device is touched.

  Args:
    coordinator: 'host:port' of process 0, or None.
    processes: number of processes.
    process_id: this process's number.
    auto: take all three from the cluster (TPU pod, SLURM, Kubernetes, MPI).

  Raises:
    UserError: half of the settings are missing, or no cluster was found.
  """
  given = [x is not None for x in (coordinator, processes, process_id)]
  if not any(given) and not auto:
    return
  if any(given) and not all(given):
    raise errors.UserError(
        'Of --coordinator, --num_processes and --process_id only some were '
        'given; a run of several processes needs all three (or '
        '--distributed on a cluster that JAX knows).')
  try:
    jax.distributed.initialize(coordinator, processes, process_id)
  except ValueError as error:
    raise errors.UserError(
        f'--distributed found no cluster to join: {error}. Give '
        '--coordinator=HOST:PORT --num_processes=N --process_id=I instead.'
    ) from error
