"""Compiler options and the cache of compiled programs.

Users wait for the compiler first. On CPU, level 1 of the backend compiles a
fifth to a third faster than the default and the programs run as fast (to 3%);
level 0 is for tests, which run a few steps.
"""

import os

import jax


def options(level: int = -1) -> dict[str, int] | None:
  """Returns compiler options for `jax.jit`.

  Args:
    level: optimization level of the CPU backend, 0 to 3; -1 chooses 1 on CPU.
      Other platforms have no use for it and get None.
  """
  if jax.default_backend() != 'cpu':
    return None
  return {'xla_backend_optimization_level': 1 if level < 0 else level}


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
