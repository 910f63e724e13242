"""Compiler options, compiled programs and what they take, and their cache.

Users wait for the compiler first. On CPU, level 1 of the backend compiles a
fifth to a third faster than the default and the programs run as fast (to 3%);
level 0 is for tests, which run a few steps.
"""

from collections.abc import Callable
import logging
import os
import time
from typing import Any

import jax

from gans_jax.core import flops
from gans_jax.core import hlo


def options(level: int = -1,
            platform: str | None = None) -> dict[str, int] | None:
  """Returns compiler options for `jax.jit`.

  Args:
    level: optimization level of the CPU backend, 0 to 3; -1 chooses 1 on CPU.
      Other platforms have no use for it and get None.
    platform: what is compiled for; the default backend if None.
  """
  if (platform or jax.default_backend()) != 'cpu':
    return None
  return {'xla_backend_optimization_level': 1 if level < 0 else level}


def build(function: Callable[..., Any], args: Any, options: Any, devices: int,
          **jit_options: Any) -> dict[str, Any]:
  """Compiles; returns the program with the seconds and counts it took.

  Args:
    function: what to compile.
    args: its arguments, or their placed shapes.
    options: of the compiler.
    devices: size of the mesh.
    **jit_options: as `jax.jit` takes them.

  Returns:
    dict of compiled, trace_s, compile_s, flops (per device, evenly split),
    xla_flops (per device), memory (see `sizes`), collectives {kind: {count,
    bytes}}, those in a loop as often as they run.
  """
  start = time.perf_counter()
  traced = jax.jit(function, **jit_options).trace(*args)
  lowered = traced.lower()
  middle = time.perf_counter()
  logging.info('traced in %.1f s; now compiling', middle - start)
  compiled = lowered.compile(compiler_options=options)
  done = time.perf_counter()
  cost = compiled.cost_analysis() or {}
  return dict(
      compiled=compiled, trace_s=middle - start, compile_s=done - middle,
      # `flops.of`, without tracing once more.
      flops=flops.count(flops.needed(traced.jaxpr)) / devices,
      # With elementwise work, but the body of a loop (n_critic, microbatches)
      # only once, however often it runs.
      xla_flops=float(cost.get('flops', 0.0)), memory=sizes(compiled),
      collectives={kind: dict(count=count, bytes=size) for kind, (count, size)
                   in hlo.collectives(compiled, repeated=True).items()})


def sizes(compiled: Any) -> dict[str, int]:
  """Returns the bytes of a program on one device, {} where it does not tell.

  Returns:
    dict of argument, output, alias (of the output: what takes the place of a
    donated argument), temp, generated_code.
  """
  memory = compiled.memory_analysis()
  if memory is None:
    return {}
  return {name: int(getattr(memory, f'{name}_size_in_bytes'))
          for name in ('argument', 'output', 'alias', 'temp',
                       'generated_code')}


def cache_directory() -> str:
  """Returns where compiled programs and statistics are kept."""
  home = os.environ.get('GANS_JAX_CACHE')
  return home or os.path.join(os.path.expanduser('~'), '.cache', 'gans_jax')


def enable_cache(enabled: bool = True) -> None:
  """Keeps compiled programs that took over a second, for the next run.

  A directory that the user has set (JAX_COMPILATION_CACHE_DIR) is left alone.
  """
  if not enabled or jax.config.jax_compilation_cache_dir:
    return
  folder = os.path.join(cache_directory(), 'xla')
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return  # A read-only home costs compile time, not the run.
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)
