"""Memory that a training step frees on a CPU is kept for the next one.

The GNU C library gives large blocks back to the system as soon as they are
free, and every step has them mapped and zeroed anew: up to a quarter of its
CPU time. Told to keep them, the process stays as large as it once was.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# Of <malloc.h>, with the values that mallopt(3) gives.
_M_TRIM_THRESHOLD, _NEVER = -1, -1
_M_TOP_PAD, _PAD = -2, 2**24  # bytes by which the heap grows
_M_MMAP_MAX = -4
# Blocks of other arenas than the first are mapped whatever M_MMAP_MAX says.
_M_ARENA_MAX = -8


def keep_freed() -> bool:
  """Makes the allocator keep freed memory; returns whether it does.

  Left alone are other allocators, processes that can have an accelerator
  (their hosts decode images on many threads, for which one arena is slow) and
  whatever the user has set. To be called before there are threads.
  """
  if (platform.libc_ver()[0] != 'glibc' or _set_by_user(os.environ)
      or not _cpu_alone(os.environ.get('JAX_PLATFORMS', ''))):
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all([mallopt(_M_ARENA_MAX, 1), mallopt(_M_MMAP_MAX, 0),
              mallopt(_M_TRIM_THRESHOLD, _NEVER), mallopt(_M_TOP_PAD, _PAD)])


def _set_by_user(environ) -> bool:
  return ('LD_PRELOAD' in environ
          or 'glibc.malloc' in environ.get('GLIBC_TUNABLES', '')
          or any(name.startswith('MALLOC_') for name in environ))


def _cpu_alone(platforms: str) -> bool:
  """Whether JAX will find no accelerator, told without starting it.

  Args:
    platforms: the environment's JAX_PLATFORMS.
  """
  if platforms:
    return platforms == 'cpu'
  # Where JAX looks for them: docs.jax.dev, "PJRT plugins".
  return not (importlib.util.find_spec('libtpu')
              or importlib.util.find_spec('jax_plugins')
              or importlib.metadata.entry_points(group='jax_plugins'))
