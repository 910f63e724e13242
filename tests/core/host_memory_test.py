"""Whether freed memory stays, counted as the page faults of taking it again."""

import json
import os
import platform
import subprocess
import sys

import pytest
import runs

# Takes, fills and frees 64 MiB time after time, in a thread as XLA does.
PROGRAM = """
import ctypes, json, resource, threading
from gans_jax.core import host_memory
kept = host_memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size, faults = 2**26, []
def work():
  for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    libc.memset(block, 1, ctypes.c_size_t(size))
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(json.dumps([kept, faults]))
"""


def call(**environ):
  base = {k: v for k, v in os.environ.items()
          if not k.startswith(('MALLOC_', 'GLIBC_', 'JAX_', 'LD_'))}
  out = subprocess.run(
      [sys.executable, '-c', PROGRAM], cwd=runs.ROOT, check=True,
      capture_output=True, text=True, env={**base, **environ}).stdout
  return json.loads(out)


def test_what_is_freed_is_not_mapped_again():
  kept, faults = call(JAX_PLATFORMS='cpu')
  assert kept == (platform.libc_ver()[0] == 'glibc')
  if kept:
    assert faults[0] > 30 and max(faults[1:]) < 10


@pytest.mark.parametrize('environ', [
    {'JAX_PLATFORMS': 'cpu', 'MALLOC_TRIM_THRESHOLD_': '131072'},
    {'JAX_PLATFORMS': 'cpu', 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'},
    {'JAX_PLATFORMS': 'cuda'}, {'JAX_PLATFORMS': 'tpu,cpu'}])
def test_left_alone(environ):
  kept, faults = call(**environ)
  assert not kept and min(faults) > 30


def test_an_accelerator_that_jax_may_find(tmp_path):
  """By its plugin's namespace package, whether or not it works."""
  (tmp_path / 'jax_plugins' / 'some').mkdir(parents=True)
  path = os.pathsep.join([str(tmp_path), str(runs.ROOT)])
  assert call(PYTHONPATH=path)[0] is False
