"""Will it fit: a config's train step compiled for devices that nobody holds.

The compiler of TPUs (the package `libtpu`) works on any machine. Given a
slice, it compiles for it, lays out its memory, and refuses a program that is
too large, as it would there. Inputs are shapes with shardings: nothing of the
state's size is allocated.

`v5e:4x8` is a slice of 4 x 8 chips. `cpu:32` are 32 virtual devices of this
machine and need no package: the partitioner is the same, so that work and
collectives are those of a pod, but the memory of a TPU is not known.

The compiler is asked for its least effort, which tells memory in a small part
of the time: BigGAN-128 on v5e:4x8 takes 4,734 MiB of temporaries by it, in 91
seconds of a core, and 4,791 by full effort, in 13 minutes. What grows with
effort is the program's own code, there from 67 to 296 MiB.
JAX_EXEC_TIME_OPTIMIZATION_EFFORT=0 asks for all that a run gets.
"""

from collections.abc import Callable
import contextlib
import dataclasses
from importlib import metadata
import importlib.util
import itertools
import logging
import math
import os
import re
import time
from typing import Any

import jax
import numpy as np

from gans_jax.core import compilation
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import stages as stages_lib
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.core import workdir as workdir_lib
from gans_jax.data import spec as spec_lib

GIB = 2**30
_EFFORT = 'JAX_EXEC_TIME_OPTIMIZATION_EFFORT'


@dataclasses.dataclass(frozen=True)
class Chip:
  """A generation of TPU.

  Attributes:
    hbm: GiB of memory of a chip, as published.
    available: GiB of it that the compiler (libtpu 0.0.42) gives the programs
      of one device.
    cores: of a chip.
    devices: of a chip: 1 where its cores work as one and share the memory.
    slices: that are on offer, chips along each axis.
    options: of the compiler.
  """

  hbm: int
  available: float
  cores: int
  devices: int
  slices: tuple[tuple[int, ...], ...]
  options: tuple[tuple[str, Any], ...] = ()


_FLAT = ((2, 2), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SINGLE = ((1, 1), (2, 2), (2, 4), *_FLAT[1:])
# Parts of a cube of 4 x 4 x 4, and cubes side by side.
_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), *(
    tuple(4 * n for n in sides)
    for sides in itertools.combinations_with_replacement(range(1, 9), 3)
    if math.prod(sides) <= 32))

# Chips and slices: cloud.google.com/tpu/docs, the page of each generation.
CHIPS = {
    'v2': Chip(16, 7.48, 2, 2, _FLAT),
    'v3': Chip(32, 15.48, 2, 2, (*_FLAT, (16, 32), (32, 32))),
    # Without the option libtpu makes two devices of a chip; on hardware JAX
    # makes one.
    'v4': Chip(32, 30.75, 2, 1, _CUBES, (('chip_config_name', 'megacore'),)),
    'v5e': Chip(16, 15.75, 1, 1, _SINGLE),
    'v5p': Chip(95, 95.74, 2, 1, _CUBES),
    'v6e': Chip(32, 31.25, 1, 1, _SINGLE),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to compile for.

  Attributes:
    name: as written by the user.
    generation: of TPU, a key of `CHIPS`; 'cpu'.
    shape: chips along each axis; of a CPU (number of devices,).
  """

  name: str
  generation: str
  shape: tuple[int, ...]

  @property
  def chip(self) -> Chip | None:
    return CHIPS.get(self.generation)

  @property
  def chips(self) -> int:
    return math.prod(self.shape)


def _joined(shape) -> str:
  return 'x'.join(map(str, shape))


def parse(name: str) -> Topology:
  """Reads 'v5e:4x8' or 'cpu:8'.

  Raises:
    UserError: there is no such slice; names those that there are.
  """
  generation, _, text = name.partition(':')
  shape = ()
  if re.fullmatch(r'[1-9]\d{0,3}(x[1-9]\d{0,3}){0,2}', text):
    shape = tuple(map(int, text.split('x')))
  if generation == 'cpu' and len(shape) == 1:
    return Topology(name, generation, shape)
  chip = CHIPS.get(generation)
  if chip is None:
    some = ', '.join(f'{g}:{_joined(c.slices[3])}' for g, c in CHIPS.items())
    raise errors.UserError(
        f'--topology is {name!r}; expected a slice of TPUs by generation and '
        f'chips ({some}, ...), or virtual devices of this machine (cpu:8).')
  if shape not in chip.slices:
    every = ', '.join(f'{generation}:{_joined(s)}' for s in chip.slices)
    raise errors.UserError(
        f'--topology is {name!r}, but there is no such slice of {generation}. '
        f'Slices: {every}.')
  return Topology(name, generation, shape)


def start(topology: Topology) -> None:
  """Readies JAX, before it has started, to compile for a topology.

  Whatever accelerators this machine has are left alone.

  Raises:
    UserError: the TPU's compiler is not installed.
  """
  if topology.chip and importlib.util.find_spec('libtpu') is None:
    devices = topology.chips * topology.chip.devices
    raise errors.UserError(
        f'--topology={topology.name} needs the compiler of TPUs, the package '
        "libtpu: pip install 'gans_jax[tpu]' (in a checkout: pip install -e "
        f"'.[tpu]'). Without it --topology=cpu:{devices} tells work and "
        'collectives for as many devices, but no memory.')
  # Of a machine that libtpu would otherwise ask for its hosts, in vain.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_WORKER_ID', '0')
  # Two at a time: no TPU is held that they could both want.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  jax.config.update('jax_platforms', 'cpu')
  if topology.chip and _EFFORT not in os.environ:
    jax.config.update(_EFFORT.lower(), -1.0)
  if not topology.chip:
    try:
      jax.config.update('jax_num_cpu_devices', topology.chips)
    except RuntimeError:
      pass  # JAX has started; `devices` counts what there is.


def devices(topology: Topology) -> list[jax.Device]:
  """Returns the devices of a topology, which can be compiled for.

  Raises:
    UserError: more CPU devices than JAX has started with.
  """
  if not topology.chip:
    found = jax.devices('cpu')
    if len(found) < topology.chips:
      raise errors.UserError(
          f'--topology={topology.name}, but JAX has started with {len(found)} '
          f'CPU device(s): set JAX_NUM_CPU_DEVICES={topology.chips}.')
    return found[:topology.chips]
  from jax.experimental import topologies

  options = dict(topology.chip.options)
  if topology.shape == (1, 1):
    options['chips_per_host_bounds'] = (1, 1, 1)
  return list(topologies.get_topology_desc(
      platform='tpu', topology_name=topology.name, **options).devices)


def spec_of_classes(config: config_lib.ConfigDict,
                    num_classes: int) -> spec_lib.DataSpec:
  """Returns what a data set of so many classes would promise."""
  return spec_lib.image_spec(
      resolution=config.data.resolution, channels=config.data.channels,
      num_examples=10**6, num_classes=num_classes, facts={})


def last_stage(config: config_lib.ConfigDict, spec: spec_lib.DataSpec):
  """Returns (system, stage) of the end of a run, where nets are largest."""
  grown = system_lib.create(config, spec)
  stage = stages_lib.of(config, grown).parts[-1]
  stage = dataclasses.replace(stage, first_step=0, first_image=0)
  return stages_lib.view(grown, stage), stage


def inputs(system, stage: stages_lib.Stage, spec: spec_lib.DataSpec,
           mesh: jax.sharding.Mesh, seed: int = 0):
  """Returns (state, batch, frozen) of a train step, as placed shapes."""
  def place(tree, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        tree, shardings)

  def whole(tree):
    sharding = jax.sharding.NamedSharding(mesh, mesh_lib.P())
    return place(tree, jax.tree.map(lambda _: sharding, tree))

  abstract = system_lib.abstract_state(system, seed)
  shapes = {key: (shape, dtype) for key, shape, dtype in spec.shapes}
  batch = {}
  for key in system.requires:
    shape, dtype = shapes[key]
    batch[key] = jax.ShapeDtypeStruct(
        (system.batches_per_step, stage.batch_size, *shape), np.dtype(dtype),
        sharding=mesh_lib.batch_sharding(mesh, 1))
  constants = jax.eval_shape(
      lambda: {**system.frozen(), **system_lib.loss_constants(system)})
  return (place(abstract, mesh_lib.shardings(abstract, mesh)), batch,
          whole(constants))


def device_bytes(tree) -> int:
  """Bytes of placed shapes on one device, without padding."""
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
             for x in jax.tree.leaves(tree))


def parts(state: state_lib.TrainState, batch, frozen) -> dict[str, int]:
  """Returns {what: bytes on one device} of the arguments of a step."""
  rest = [getattr(state, field.name) for field in dataclasses.fields(state)
          if field.name not in ('params', 'opt', 'ema')]
  return dict(
      parameters=device_bytes(state.params), optimizer=device_bytes(state.opt),
      average=device_bytes(state.ema), other=device_bytes(rest),
      batch=device_bytes(batch), constants=device_bytes(frozen))


def needed(sizes: dict[str, int]) -> int:
  """Bytes that a program takes on a device while it runs.

  Args:
    sizes: as `compilation.sizes` gives them.
  """
  return (sizes['argument'] + sizes['output'] - sizes['alias']
          + sizes['temp'] + sizes['generated_code'])


_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_REFUSALS = (
    # While it lays out memory; everything is counted.
    r'Used (?P<total>[\d.]+)(?P<unit>[KMGT]?) of [\d.]+[KMGT]? hbm',
    # Before it does; arguments are not.
    r'HLO temporaries \((?P<temp>[\d.]+)(?P<unit>[KMGT]?)\) exceeds',
)


def refused(message: str, arguments: int) -> int:
  """Returns the bytes that a refused program would take; 0 if untold.

  Args:
    message: of the compiler.
    arguments: bytes of the program's arguments.
  """
  for pattern in _REFUSALS:
    match = re.search(pattern, message)
    if match:
      size = int(float(match[1]) * _UNITS[match['unit']])
      return size + ('temp' in match.groupdict()) * arguments
  return 0


def fit(config: config_lib.ConfigDict, spec: spec_lib.DataSpec,
        topology: Topology) -> dict[str, Any]:
  """Compiles the train step of a config for a topology.

  Args:
    config: a full config.
    spec: of its data.
    topology: the devices.

  Returns:
    JSON-able dict: facts of the devices and the config; `arguments`, see
    `parts`; `fits` (None of a CPU) with `needed` and `available` bytes of a
    device; `memory` as `compilation.sizes`, empty if refused; flops (of a
    device), collectives of a step, trace_s, compile_s.

  Raises:
    UserError: what the config's own command would refuse.
  """
  config_lib.validate(config)
  mesh = mesh_lib.make(config.mesh.data, config.mesh.model, devices(topology))
  system, stage = last_stage(config, spec)
  mesh_lib.check_batch(stage.batch_size, config.microbatches, mesh,
                       stage.resolution)
  device, chip = mesh.devices.flat[0], topology.chip
  result = dict(
      config=config_lib.to_json(config), topology=topology.name,
      versions=versions(), effort=jax.config.jax_exec_time_optimization_effort,
      device=device.device_kind, chips=topology.chips,
      devices=mesh.size, mesh=dict(mesh.shape), batch_size=stage.batch_size)
  # Not yet in the mesh, whose devices can hold no array, not even a key.
  args = inputs(system, stage, spec, mesh, config.seed)
  shardings = jax.tree.map(lambda x: x.sharding, args[0])
  replicated = jax.sharding.NamedSharding(mesh, mesh_lib.P())
  result.update(
      arguments=parts(*args), parameters={
          net: state_lib.count(tree) for net, tree in args[0].params.items()})
  start_s = time.perf_counter()
  try:
    with jax.set_mesh(mesh):
      found = compilation.build(
          system.train_step, args,
          # The code that a CPU would run is of no interest.
          compilation.options(0, device.platform), mesh.size,
          donate_argnums=0, out_shardings=(shardings, replicated))
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    refusal = str(error).split('\n\n')[0]
    found = dict(
        refusal=refusal,
        needed=refused(refusal, sum(result['arguments'].values())),
        trace_s=0.0, compile_s=time.perf_counter() - start_s)
  else:
    del found['compiled']
    found['needed'] = needed(found['memory'])
  result.update(found)
  if chip is None:
    return {**result, 'fits': None, 'available': 0}
  available = int(chip.available * GIB)
  return {**result, 'available': available,
          'fits': 'refusal' not in result and result['needed'] <= available}


def versions() -> dict[str, str]:
  """As `workdir.versions`, with that of the TPU's compiler."""
  found = workdir_lib.versions()
  with contextlib.suppress(metadata.PackageNotFoundError):
    found['libtpu'] = metadata.version('libtpu')
  return found


def largest_batch(config: config_lib.ConfigDict, spec: spec_lib.DataSpec,
                  topology: Topology, first: dict[str, Any]) -> dict[str, Any]:
  """Finds the largest batch that fits, of powers of two on every device.

  Args:
    config: a full config.
    spec: of its data.
    topology: the devices.
    first: what `fit` found for the config as it is.

  Returns:
    dict of batch_size (0: none fits), needed (bytes), too_large (the next,
    which does not fit, and its bytes), compilations (beside the first).
  """
  unit = first['mesh']['data'] * config.microbatches
  tried = {first['batch_size']: first}
  compilations = 0

  def attempt(batch: int) -> dict[str, Any]:
    nonlocal compilations
    if batch not in tried:
      other = config_lib.ConfigDict(config.to_dict())
      other.batch_size = batch
      if 'growing' in other:
        other.growing.batch_sizes = ()
      compilations += 1
      logging.info('compilation %d of the search: batch %d, %g a device',
                   compilations, batch, batch / first['mesh']['data'])
      try:
        tried[batch] = fit(other, spec, topology)
      except errors.UserError as error:
        logging.info('not possible: %s', error)
        tried[batch] = dict(fits=False, needed=0)
    return tried[batch]

  found = search(attempt, unit, first)
  return {**found, 'compilations': compilations}


def search(attempt: Callable[[int], dict[str, Any]], unit: int,
           first: dict[str, Any], most: int = 2**20) -> dict[str, Any]:
  """Finds the largest `unit` * 2^k that fits.

  Memory is a constant and a part that grows with the batch. The state and the
  first result tell both for the first attempt; after that the last two results
  do, because a program needs constant memory beside its state as well.

  Args:
    attempt: batch -> dict of fits and needed (bytes; 0: not known).
    unit: the smallest batch.
    first: a result with batch_size, needed, available and arguments.
    most: the largest batch to look at.
  """
  state = sum(first['arguments'].values()) - first['arguments']['batch']
  known = {0: state}
  if first['needed']:
    known[first['batch_size']] = first['needed']
  # unit * 2^low is known to fit, unit * 2^high not to.
  low, high = -1, math.floor(math.log2(max(most / unit, 1))) + 1
  found, above = dict(needed=0), dict(needed=0)
  while high - low > 1:
    guess = _most(known, first['available']) or first['batch_size'] / 2
    power = math.floor(math.log2(max(guess, 1) / unit))
    power = min(max(power, low + 1), high - 1)
    batch = unit * 2**power
    result = attempt(batch)
    if result['needed']:
      known[batch] = result['needed']
    if result['fits']:
      low, found = power, result
    else:
      high, above = power, result
  return dict(batch_size=unit * 2**low if low >= 0 else 0,
              needed=found['needed'], too_large=unit * 2**high,
              too_large_needed=above['needed'])


def _most(known: dict[int, float], available: float) -> float | None:
  """Returns the batch at which the last two results' line has it all."""
  if len(known) < 2:
    return None
  (batch, needed), (other, there) = list(known.items())[-2:]
  slope = max((there - needed) / (other - batch), 1e-9)
  return other + (available - there) / slope


def table(result: dict[str, Any], peak: float = 0.0) -> str:
  """Returns the result as a table for people.

  Args:
    result: of `fit`, with `largest` of `largest_batch` if there is one.
    peak: FLOP/s of a device; 0 for unknown.
  """
  chip = parse(result['topology']).chip
  local = result['batch_size'] / result['mesh']['data']
  config = result['config']
  where = f'{result["chips"]} chips' if chip else 'of this machine'
  lines = [
      f'{config["system"]}, {config["data"]["resolution"]} pixels, batch '
      f'{result["batch_size"]} ({local:g} on each row of the mesh) in '
      f'{config["microbatches"]} microbatch(es)',
      f'{result["topology"]}: {result["devices"]} x {result["device"]} '
      f'({where}), mesh data {result["mesh"]["data"]} x model '
      f'{result["mesh"]["model"]}', '']
  lines += ['memory of a device, MiB']
  rows = dict(result['arguments'])
  memory = result.get('memory') or {}
  if chip and memory:
    rows['padding'] = memory['argument'] - sum(result['arguments'].values())
    rows['temporary'] = memory['temp']
    rows['program'] = memory['generated_code']
    rows['results'] = memory['output'] - memory['alias']
  lines += [f'  {name:<12}{size / 2**20:>12,.1f}'
            for name, size in rows.items() if size]
  lines += [*_verdict(result, chip), '']
  if 'collectives' in result:
    lines += ['collectives of a step, by one device']
    lines += [f'  {kind:<20}{c["count"]:>6}{c["bytes"] / 2**20:>12,.2f} MiB'
              for kind, c in result['collectives'].items()] or ['  none']
  if 'flops' in result:
    time = (f', {result["flops"] / peak * 1e3:,.1f} ms at its bfloat16 peak'
            if peak else '')
    lines += [f'work of a device {result["flops"] / 1e9:,.4g} GFLOP a step'
              f'{time}']
  lines += [f'traced in {result["trace_s"]:.1f} s, compiled in '
            f'{result["compile_s"]:.1f} s' + (
                f' with effort {result["effort"]:g} (full: {_EFFORT}=0)'
                if result['effort'] else '')]
  if 'largest' in result:
    lines += [_largest(result)]
  return '\n'.join(lines)


def _verdict(result, chip: Chip | None) -> list[str]:
  if chip is None:
    return ['  what a TPU needs beside this, its compiler tells '
            '(--topology=v5e:4x8)']
  needed_gib, available = (result[k] / GIB for k in ('needed', 'available'))
  part = 'core' if chip.devices > 1 else 'chip'
  has = (f'{available:.2f} GiB that a program has of the '
         f'{chip.hbm / chip.devices:g} GiB of a {part}')
  if result['fits']:
    return [f'  {"needed":<12}{needed_gib * 1024:>12,.1f}',
            f'  fits: {needed_gib:.2f} of {has} '
            f'({needed_gib / available:.0%})']
  if result['needed']:
    return [f'  DOES NOT FIT: about {needed_gib:.2f} GiB, where there are '
            f'{has}']
  return [f'  DOES NOT FIT the {has}']


def _largest(result) -> str:
  found = result['largest']
  count = f'({found["compilations"]} more compilation(s))'
  above = (f', about {found["too_large_needed"] / GIB:.1f} GiB'
           if found['too_large_needed'] else '')
  if not found['batch_size']:
    return (f'largest batch: none; not even {found["too_large"]} fits{above} '
            f'{count}')
  return (f'largest batch that fits: {found["batch_size"]} '
          f'({found["needed"] / GIB:.2f} GiB of a device); '
          f'{found["too_large"]} does not{above} {count}')
