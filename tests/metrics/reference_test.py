"""Stored statistics: exact, complete, and never those of something else."""

import json
import pathlib

import numpy as np
import pytest

from gans_jax.metrics import frechet
from gans_jax.metrics import reference

FACTS = {'data': {'identity': 'abc', 'split': 'train'}, 'features': 'tiny'}


def _measured(n=50, seed=0):
  x = np.random.RandomState(seed).randn(n, 8).astype(np.float32)
  return reference.Reference(frechet.fit(x), {'value': 0.25, 'counts': [2, 3]})


def _never():
  raise AssertionError('measured again')


@pytest.mark.parametrize('n', [5, 50])  # Fewer and more than the dimension.
def test_round_trip_is_exact(tmp_path, n):
  made = _measured(n)
  first, cached = reference.get(FACTS, lambda: made, tmp_path)
  assert first is made and not cached
  second, cached = reference.get(FACTS, _never, tmp_path)
  assert cached and second.floor == made.floor
  assert second.gaussian.count == n
  for name in ('mean', 'covariance', 'factor'):
    np.testing.assert_array_equal(
        getattr(second.gaussian, name), getattr(made.gaussian, name))
  assert (second.gaussian.factor is None) == (n == 50)


@pytest.mark.parametrize('key, value', [
    ('features', 'other'), ('data', {'identity': 'abd', 'split': 'train'}),
    ('data', {'identity': 'abc', 'split': 'test'}), ('new', 1)])
def test_any_other_fact_is_another_measurement(tmp_path, key, value):
  reference.get(FACTS, _measured, tmp_path)
  other = _measured(seed=1)
  found, cached = reference.get({**FACTS, key: value}, lambda: other, tmp_path)
  assert found is other and not cached
  assert len(list(tmp_path.glob('*.npz'))) == 2


def test_a_file_that_describes_something_else_is_replaced(tmp_path, caplog):
  reference.get(FACTS, _measured, tmp_path)
  path, = tmp_path.glob('*.npz')
  with np.load(path) as file:
    arrays = dict(file)
  facts = json.loads(arrays['facts'].item())
  arrays['facts'] = json.dumps({**facts, 'features': 'other'})
  np.savez(path, **arrays)
  other = _measured(seed=1)
  found, cached = reference.get(FACTS, lambda: other, tmp_path)
  assert found is other and not cached
  assert 'describes other statistics' in caplog.text
  found, cached = reference.get(FACTS, _never, tmp_path)
  assert cached
  np.testing.assert_array_equal(found.gaussian.mean, other.gaussian.mean)


@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2], lambda data: b'',
    lambda data: b'not a zip archive'])
def test_a_damaged_file_is_replaced(tmp_path, damage, caplog):
  reference.get(FACTS, _measured, tmp_path)
  path, = tmp_path.glob('*.npz')
  path.write_bytes(damage(path.read_bytes()))
  _, cached = reference.get(FACTS, _measured, tmp_path)
  assert not cached and 'will be replaced' in caplog.text
  assert reference.get(FACTS, _never, tmp_path)[1]


def test_numbers_that_are_not_finite_are_refused(tmp_path, caplog):
  bad = _measured()
  bad.gaussian.mean[0] = np.nan
  reference.get(FACTS, lambda: bad, tmp_path)
  good = _measured()
  found, cached = reference.get(FACTS, lambda: good, tmp_path)
  assert found is good and not cached and 'damaged' in caplog.text


def test_data_without_a_name_is_not_kept(tmp_path):
  facts = {**FACTS, 'data': {'split': 'train'}}
  for _ in range(2):
    assert not reference.get(facts, _measured, tmp_path)[1]
  assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_and_fails_nothing(
    tmp_path, monkeypatch, caplog):

  def savez(file, **arrays):
    file.write(b'half')
    raise OSError('No space left on device')

  monkeypatch.setattr(np, 'savez', savez)
  made = _measured()
  assert reference.get(FACTS, lambda: made, tmp_path)[0] is made
  assert 'No space left' in caplog.text
  assert not list(tmp_path.iterdir())


def test_default_directory(monkeypatch, tmp_path):
  monkeypatch.setenv('GANS_JAX_CACHE', str(tmp_path / 'cache'))
  assert reference.default_dir().parent == tmp_path / 'cache'
  reference.get(FACTS, _measured)
  assert reference.get(FACTS, _never)[1]
  monkeypatch.delenv('GANS_JAX_CACHE')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  assert reference.default_dir().parent == pathlib.Path(
      tmp_path / 'home/.cache/gans_jax')
