"""Eight virtual CPU devices, and no silent broadcasting between ranks."""

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def cache_folder(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def compile_cache(cache_folder):
  """Programs are compiled once for all tests of the commands."""
  import runs

  with runs.compile_cache(cache_folder):
    yield


@pytest.fixture(scope='module')
def quick_compiler():
  """Programs that run once or twice are not worth optimizing."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
