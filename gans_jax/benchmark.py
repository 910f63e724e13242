"""Measures: `python -m gans_jax.benchmark --config=experiments/...`.

Run it on new hardware before anything else.
"""

from collections.abc import Callable
import json
import logging
import time

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Times a config's train step on the devices at hand: tracing and compile time,
milliseconds and images a second of the whole step and of each phase (data,
D, G, penalties, EMA), memory, FLOPs against the device's peak, and the
collectives in the compiled program. Trains nothing, writes nothing but --json.

  python -m gans_jax.benchmark --config=experiments/dcgan/emoji64.py
  python -m gans_jax.benchmark --config=experiments/wgan_gp/cifar10.py \\
      --config.batch_size=128 --repeat=30 --json=step.json

A row "G (after D)" is what G's update takes on top of the D update that it
follows; "penalty" is what it adds to D's. Parts overlap in the whole step,
which may be faster than their sum.

"GFLOP" is the work of the convolutions and matrix products that the phase
asks for, a device's even part of it: critic updates and microbatches as often
as they run, a lazy penalty as if it were due at every step. "share" is that
work, per second, over the peak of the device: the published dense bfloat16
figure of a known accelerator, otherwise a float32 matrix product measured
here.

Will it fit? --topology compiles the step for devices that are not here and
runs nothing: memory of a device, collectives, work, compile time. A slice of
TPUs needs the package libtpu (pip install 'gans_jax[tpu]') and no TPU; virtual
CPU devices need nothing and tell no memory. The data need not be here either
if --num_classes says what they are. BigGAN at 128 pixels takes a core minutes.

  python -m gans_jax.benchmark --config=experiments/biggan/imagenet.py \\
      --topology=v5e:4x8 --num_classes=1000 --config.model.remat=true
  python -m gans_jax.benchmark --config=experiments/dcgan/emoji64.py \\
      --topology=cpu:8
"""

# Dense peak per device in TFLOP/s, bfloat16, as published by the makers.
PEAK_TFLOPS = {
    'TPU v2': 22.5, 'TPU v3': 61.5, 'TPU v4': 275.0, 'TPU v5 lite': 197.0,
    'TPU v5e': 197.0, 'TPU v5': 459.0, 'TPU v5p': 459.0,
    'TPU v6 lite': 918.0, 'TPU v6e': 918.0,
    'NVIDIA A100': 312.0, 'NVIDIA H100': 989.0, 'NVIDIA H200': 989.0,
    'NVIDIA V100': 125.0, 'Tesla V100': 125.0,
}


def known(kind: str) -> str:
  """Returns the key of `PEAK_TFLOPS` for a kind of device, or ''."""
  return max((name for name in PEAK_TFLOPS if kind.startswith(name)),
             key=len, default='')


def peak_flops(device) -> tuple[float, str]:
  """Returns (peak FLOP/s of one device, where the figure is from)."""
  name = known(device.device_kind)
  if name:
    return PEAK_TFLOPS[name] * 1e12, f'published bfloat16 peak of {name}'
  return measured_matmul(device), 'float32 2048 x 2048 matrix product, measured'


def measured_matmul(device, size: int = 2048) -> float:
  """Returns FLOP/s of the fastest of five matrix products."""
  import jax
  import jax.numpy as jnp

  a = jax.device_put(jnp.ones((size, size), jnp.float32), device)
  product = jax.jit(lambda x: x @ x)
  jax.block_until_ready(product(a))
  best = float('inf')
  for _ in range(5):
    start = time.perf_counter()
    jax.block_until_ready(product(a))
    best = min(best, time.perf_counter() - start)
  # The devices of a CPU share its cores: each gets its part.
  shared = jax.local_device_count() if device.platform == 'cpu' else 1
  return 2 * size**3 / best / shared


def median_seconds(call, repeat: int) -> dict[str, float]:
  """Runs `call()` (which blocks) once to warm up, then `repeat` times."""
  call()
  seconds = []
  for _ in range(repeat):
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)
  seconds.sort()
  return dict(median_s=seconds[len(seconds) // 2], min_s=seconds[0],
              max_s=seconds[-1])


def step_without_others(system, *players: str):
  """Returns the train step with the results of these players alone."""
  def part(state, batch, frozen):
    after = system.train_step(state, batch, frozen)[0]
    return [({net: after.params[net] for net in system.players[player]},
             after.opt[player]) for player in players]

  return part


def time_part(function, args, options, devices: int,
              repeat: int) -> tuple[dict, dict]:
  """Returns the dicts of `compilation.build` and `median_seconds`."""
  import jax

  from gans_jax.core import compilation

  found = compilation.build(function, args, options, devices)
  compiled = found.pop('compiled')
  return found, median_seconds(
      lambda: jax.block_until_ready(compiled(*args)), repeat)


def difference(whole: tuple[dict, dict], part: tuple[dict, dict]
               ) -> tuple[dict, dict]:
  """Returns what `whole` takes on top of `part`: seconds and FLOPs.

  Compile times, memory and collectives are those of `whole`.
  """
  seconds = {name: max(whole[1][name] - part[1][name], 0.0)
             for name in whole[1]}
  flops = {name: max(whole[0][name] - part[0][name], 0.0)
           for name in ('flops', 'xla_flops')}
  return {**whole[0], **flops, 'on_top': True}, seconds


def in_turn(parts: dict[str, tuple[dict, dict]],
            together: Callable[[str, str], float]) -> dict[str, tuple]:
  """Separates updates of players that follow each other.

  In an alternating game the later player's program holds the earlier one's
  update; it is then told as what it takes on top.

  Args:
    parts: {player: what `time_part` returns}.
    together: returns the FLOPs (per device) of a program that does the
      updates of two players.
  """
  order = sorted(parts, key=lambda name: parts[name][0]['flops'])
  rows = {}
  for i, name in enumerate(order):
    before = order[i - 1] if i else None
    # Nested: the later program lacks nothing of both updates. Being larger
    # says nothing: after five critic updates that of G adds little, and
    # simultaneous players may differ by any factor.
    if before and (together(before, name) - parts[name][0]['flops']
                   < 0.01 * parts[before][0]['flops']):
      rows[f'{name} (after {before})'] = difference(
          parts[name], parts[before])
    else:
      rows[name] = parts[name]
  return rows


def without_penalty(config):
  """Returns the config without its gradient penalty, or None without one."""
  from ml_collections import config_dict

  if 'loss' not in config or config.loss.get('penalty', 'none') == 'none':
    return None
  bare = config_dict.ConfigDict(config.to_dict())
  bare.loss.penalty = 'none'
  return bare


def benchmark(config, repeat: int = 10) -> dict:
  """Measures the step of a config; see the module.

  Args:
    config: a full config.
    repeat: timed runs of each phase, after one to warm up.

  Returns:
    JSON-able dict: facts of the machine and `phases`, a list of dicts.
  """
  import dataclasses

  import jax
  import numpy as np

  from gans_jax.core import compilation
  from gans_jax.core import config as config_lib
  from gans_jax.core import flops
  from gans_jax.core import mesh as mesh_lib
  from gans_jax.core import schedules
  from gans_jax.core import stages as stages_lib
  from gans_jax.core import step as step_lib
  from gans_jax.core import system as system_lib
  from gans_jax.core import workdir as workdir_lib
  from gans_jax.data import pipeline

  config_lib.validate(config)
  if repeat < 1:
    raise errors.UserError('--repeat must be at least 1.')
  mesh = mesh_lib.make(config.mesh.data, config.mesh.model)
  mesh_lib.check_batch(config.batch_size, config.microbatches, mesh)
  dataset = pipeline.open_dataset(config.data)
  grown = system_lib.create(config, dataset.spec)
  # A system that grows is measured as it ends.
  stages = stages_lib.of(config, grown)
  stage = dataclasses.replace(stages.parts[-1], first_step=0, first_image=0)
  system = stages_lib.view(grown, stage)
  mesh_lib.check_batch(stage.batch_size, config.microbatches, mesh,
                       stage.resolution)
  iterator = pipeline.train_iterator(
      dataset, batch_size=stage.batch_size,
      batches_per_step=system.batches_per_step, seed=config.seed,
      process_index=jax.process_index(), process_count=jax.process_count(),
      workers=config.data.workers, prefetch=config.data.prefetch,
      flip=config.data.flip, keys=system.requires)
  options = compilation.options(config.compile.level)
  peak, peak_source = peak_flops(mesh.devices.flat[0])
  images = stage.batch_size
  rows = []

  def add(name, found, seconds, per_call=images):
    row = dict(name=name, **found, **seconds)
    if seconds['median_s'] > 0:
      row['images_per_second'] = per_call / seconds['median_s']
    if row.get('flops') and seconds['median_s'] > 0:
      row['share_of_peak'] = row['flops'] / seconds['median_s'] / peak
    rows.append(row)

  with jax.set_mesh(mesh):
    abstract = system_lib.abstract_state(system, config.seed)
    shardings = mesh_lib.shardings(abstract, mesh)
    replicated = jax.sharding.NamedSharding(mesh, mesh_lib.P())
    state = jax.jit(system.init, out_shardings=shardings,
                    compiler_options=compilation.options(0))(
                        jax.random.key(config.seed))
    frozen = jax.device_put(
        {**system.frozen(), **system_lib.loss_constants(system)}, replicated)
    next(iterator)  # Starting the readers is no part of the rate.
    add('data', {}, median_seconds(lambda: next(iterator), repeat),
        images * system.batches_per_step)
    batch = mesh_lib.to_global(next(iterator), mesh)

    # A phase is the step's program with all other results left out: the
    # compiler drops what they alone needed.
    args = (state, batch, frozen)

    def measure(function):
      return time_part(function, args, options, mesh.size, repeat)

    def together(*players):
      return flops.of(step_without_others(system, *players),
                      *args) / mesh.size

    parts = {name: measure(step_without_others(system, name))
             for name in system.players}
    for name, row in in_turn(parts, together).items():
      add(name, *row)
    bare = without_penalty(config)
    if bare is not None and 'D' in parts:
      plain = measure(step_without_others(stages_lib.view(
          system_lib.create(bare, dataset.spec), stage), 'D'))
      add(f'penalty {config.loss.penalty}', *difference(parts['D'], plain))
    add('EMA', *measure(
        lambda state, batch, frozen: step_lib.finish(
            state, schedules.ema_beta(config.ema, state.step, images)).ema))

    found = compilation.build(
        system.train_step, args, options, mesh.size,
        donate_argnums=0, out_shardings=(shardings, replicated))
    compiled = found.pop('compiled')

    def whole_step():
      nonlocal state
      state, logs = compiled(state, batch, frozen)
      jax.block_until_ready((state, logs))

    add('whole step', found, median_seconds(whole_step, repeat))

  device = mesh.devices.flat[0]
  stats = device.memory_stats() or {}
  return dict(
      config=config_lib.to_json(config), versions=workdir_lib.versions(),
      device=device.device_kind, platform=device.platform,
      devices=mesh.size, mesh=dict(mesh.shape), repeat=repeat,
      batch_size=images, peak_flops_per_device=peak, peak_source=peak_source,
      peak_memory_bytes=int(stats.get('peak_bytes_in_use', 0))
      or resident_bytes(),
      parameters={net: int(sum(np.prod(x.shape) for x in jax.tree.leaves(t)))
                  for net, t in abstract.params.items()},
      phases=rows)


def resident_bytes() -> int:
  """Returns the most memory that this process has held, in bytes."""
  import resource
  import sys

  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == 'darwin' else 1024)


def table(result: dict) -> str:
  """Returns the result as a table for people."""
  names = max(len(row['name']) for row in result['phases']) + 2
  lines = [
      f'{result["devices"]} x {result["device"]} ({result["platform"]}), '
      f'batch {result["batch_size"]}, median of {result["repeat"]}',
      f'peak per device {result["peak_flops_per_device"] / 1e9:,.0f} GFLOP/s '
      f'({result["peak_source"]})',
      f'peak memory {result["peak_memory_bytes"] / 2**20:,.0f} MiB',
      '',
      f'{"phase":<{names}}{"trace s":>9}{"compile s":>11}{"ms":>10}'
      f'{"img/s":>10}{"GFLOP":>9}{"share":>8}{"temp MiB":>10}  collectives',
  ]
  for row in result['phases']:
    collectives = ', '.join(
        f'{c["count"]} {kind} {c["bytes"] / 2**20:.2f} MiB'
        for kind, c in row.get('collectives', {}).items())
    share = row.get('share_of_peak')
    lines.append(
        f'{row["name"]:<{names}}{row.get("trace_s", 0):>9.2f}'
        f'{row.get("compile_s", 0):>11.2f}{row["median_s"] * 1e3:>10.2f}'
        f'{row.get("images_per_second", 0):>10.0f}'
        f'{row.get("flops", 0) / 1e9:>9.2f}'
        f'{f"{share:.0%}" if share else "-":>8}'
        f'{row.get("memory", {}).get("temp", 0) / 2**20:>10.1f}  '
        f'{collectives or "-"}')
  return '\n'.join(lines)


def will_it_fit(config, name: str, num_classes: int | None,
                largest_batch: bool) -> dict:
  """Compiles a config's step for devices that are not here.

  Args:
    config: a full config.
    name: of a topology, such as 'v5e:4x8'.
    num_classes: of the data, which are then not opened; or None.
    largest_batch: search it.

  Returns:
    What `topology.fit` does, `largest`, and `table` for people.
  """
  from gans_jax.core import topology as topology_lib
  from gans_jax.data import pipeline

  topology = topology_lib.parse(name)
  if largest_batch and not topology.chip:
    raise errors.UserError(
        f'--largest_batch needs the memory of a TPU, which --topology={name} '
        'has not.')
  topology_lib.start(topology)
  # How far it is: the compiler may take minutes.
  logging.getLogger().setLevel(logging.INFO)
  if num_classes is None:
    try:
      spec = pipeline.open_dataset(config.data).spec
    except errors.UserError as error:
      raise errors.UserError(
          f'{error} To compile without the data, say how many classes they '
          'have: --num_classes=N.') from error
  else:
    spec = topology_lib.spec_of_classes(config, num_classes)
  result = topology_lib.fit(config, spec, topology)
  if largest_batch:
    result['largest'] = topology_lib.largest_batch(
        config, spec, topology, result)
  peak = PEAK_TFLOPS.get(known(result['device']), 0.0) * 1e12
  return {**result, 'table': topology_lib.table(result, peak)}


def main(argv: list[str]) -> int:
  from gans_jax.core import config as config_lib

  overrides, rest = config_lib.split_overrides(argv)
  parser = cli.parser('python -m gans_jax.benchmark', DESCRIPTION)
  parser.add_argument('--config', required=True, metavar='FILE.py[:ARGS]')
  parser.add_argument('--repeat', type=int, default=10,
                      help='timed runs of each phase')
  parser.add_argument('--json', metavar='FILE',
                      help='write the whole result there')
  parser.add_argument('--topology', metavar='v5e:4x8|cpu:8',
                      help='compile for these devices, and run nothing')
  parser.add_argument('--largest_batch', action='store_true',
                      help='with --topology: search the largest batch that '
                           'fits; compiles about three times')
  parser.add_argument('--num_classes', type=int, metavar='N',
                      help='with --topology: take the data as labelled by N '
                           'classes (0: unlabelled) and do not open them')
  args = parser.parse_args(rest)
  config = config_lib.load(args.config)
  config_lib.apply_overrides(config, overrides)
  if args.topology:
    result = will_it_fit(config, args.topology, args.num_classes,
                         args.largest_batch)
    print(result.pop('table'))
  elif args.largest_batch or args.num_classes is not None:
    raise errors.UserError(
        '--largest_batch and --num_classes need --topology, such as '
        '--topology=v5e:4x8.')
  else:
    result = benchmark(config, args.repeat)
    print(table(result))
  if args.json:
    from gans_jax.core import files

    files.write_atomic(args.json, json.dumps(result, indent=2).encode())
    print(args.json)
  return cli.DONE


if __name__ == '__main__':
  cli.run(main)
