"""Eight virtual CPU devices, and no silent broadcasting between ranks.

Programs of tests run once or twice, and are not worth optimizing.
"""

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='session')
def cache_folder(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def compile_cache(cache_folder):
  """Programs are compiled once for all tests of the commands."""
  import runs

  with runs.compile_cache(cache_folder):
    yield
