"""Stored statistics: exact, complete, and never those of something else."""

import json
import pathlib

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import features
from gans_jax.metrics import frechet
from gans_jax.metrics import measures
from gans_jax.metrics import reference

FACTS = {'data': {'identity': 'abc', 'split': 'train'}, 'features': 'tiny'}
TAP = features.Tap(features.Extractor(
    name='tiny', weights_sha256='0', dims={'flat': 8}, size=2,
    resizer='clean', pixels='x', variables={}, apply=lambda *_: {}),
    'flat').facts()


def _measured(n=50, seed=0):
  x = np.random.RandomState(seed).randn(n, 8).astype(np.float32)
  return reference.Reference(measures.kept_gaussian(frechet.fit(x)),
                             {'value': 0.25, 'counts': [2, 3]})


@pytest.mark.parametrize('n', [5, 50])  # Fewer and more than the dimension.
def test_round_trip_is_exact(tmp_path, n):
  made = _measured(n)
  assert reference.find(FACTS, tmp_path) is None
  reference.keep(FACTS, made, tmp_path)
  found = reference.find(FACTS, tmp_path)
  assert found.floor == made.floor and set(found.kept) == set(made.kept)
  for name, array in made.kept.items():
    np.testing.assert_array_equal(found.kept[name], array)
    assert found.kept[name].dtype == array.dtype
  assert ('factor' in found.kept) == (n == 5)


@pytest.mark.parametrize('key, value', [
    ('features', 'other'), ('data', {'identity': 'abd', 'split': 'train'}),
    ('data', {'identity': 'abc', 'split': 'test'}), ('new', 1)])
def test_any_other_fact_is_another_measurement(tmp_path, key, value):
  reference.keep(FACTS, _measured(), tmp_path)
  assert reference.find({**FACTS, key: value}, tmp_path) is None
  reference.keep({**FACTS, key: value}, _measured(seed=1), tmp_path)
  assert len(list(tmp_path.glob('*.npz'))) == 2
  np.testing.assert_array_equal(
      reference.find(FACTS, tmp_path).kept['mu'], _measured().kept['mu'])


def test_a_file_that_describes_something_else_is_not_used(tmp_path, caplog):
  reference.keep(FACTS, _measured(), tmp_path)
  path, = tmp_path.glob('*.npz')
  with np.load(path) as file:
    arrays = dict(file)
  facts = json.loads(arrays['facts'].item())
  arrays['facts'] = json.dumps({**facts, 'features': 'other'})
  np.savez(path, **arrays)
  assert reference.find(FACTS, tmp_path) is None
  assert 'describes other statistics' in caplog.text
  reference.keep(FACTS, _measured(seed=1), tmp_path)
  np.testing.assert_array_equal(
      reference.find(FACTS, tmp_path).kept['mu'],
      _measured(seed=1).kept['mu'])


@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2], lambda data: b'',
    lambda data: b'not a zip archive'])
def test_a_damaged_file_is_not_used(tmp_path, damage, caplog):
  reference.keep(FACTS, _measured(), tmp_path)
  path, = tmp_path.glob('*.npz')
  path.write_bytes(damage(path.read_bytes()))
  assert reference.find(FACTS, tmp_path) is None
  assert 'will be replaced' in caplog.text
  reference.keep(FACTS, _measured(), tmp_path)
  assert reference.find(FACTS, tmp_path) is not None


def test_numbers_that_are_not_finite_are_refused(tmp_path, caplog):
  bad = _measured()
  bad.kept['mu'][0] = np.nan
  reference.keep(FACTS, bad, tmp_path)
  assert reference.find(FACTS, tmp_path) is None and 'damaged' in caplog.text


def test_data_without_a_name_is_not_kept(tmp_path):
  facts = {**FACTS, 'data': {'split': 'train'}}
  reference.keep(facts, _measured(), tmp_path)
  assert reference.find(facts, tmp_path) is None
  assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_and_fails_nothing(
    tmp_path, monkeypatch, caplog):

  def savez(file, **arrays):
    file.write(b'half')
    raise OSError('No space left on device')

  monkeypatch.setattr(np, 'savez', savez)
  reference.keep(FACTS, _measured(), tmp_path)
  assert 'No space left' in caplog.text
  assert not list(tmp_path.iterdir())
  with pytest.raises(errors.UserError, match='No space left'):
    reference.write_file(str(tmp_path / 'x.npz'), _measured(), TAP)
  assert not list(tmp_path.iterdir())


def test_default_directory(monkeypatch, tmp_path):
  monkeypatch.setenv('GANS_JAX_CACHE', str(tmp_path / 'cache'))
  assert reference.default_dir().parent == tmp_path / 'cache'
  reference.keep(FACTS, _measured())
  assert reference.find(FACTS) is not None
  monkeypatch.delenv('GANS_JAX_CACHE')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  assert reference.default_dir().parent == pathlib.Path(
      tmp_path / 'home/.cache/gans_jax')


def test_files_of_other_tools_are_read(tmp_path):
  """Their layout: `mu` and `sigma`, or `feats`, and nothing else."""
  made = _measured()
  path = tmp_path / 'cifar10.npz'
  np.savez(path, mu=made.kept['mu'], sigma=made.kept['sigma'])
  found = reference.read_file(str(path), TAP, 'fd')
  np.testing.assert_array_equal(found.kept['sigma'], made.kept['sigma'])
  assert found.facts['statistics'] == 'cifar10.npz'
  assert len(found.facts['sha256']) == 64 and 'count' not in found.facts
  x = np.random.RandomState(0).randn(20, 8).astype(np.float32)
  np.savez(path, feats=x)
  np.testing.assert_array_equal(
      reference.read_file(str(path), TAP, 'kd').kept['features'], x)


def test_our_files_have_their_names_and_come_back(tmp_path):
  for made, measure, keys in (
      (_measured(), 'fd', {'mu', 'sigma'}),
      (reference.Reference({'features': np.ones((9, 8), np.float32)}, {}),
       'kd', {'feats'})):
    path = str(tmp_path / f'{measure}.npz')
    reference.write_file(path, made, TAP)
    with np.load(path, allow_pickle=False) as file:
      assert keys <= set(file.files)
    found = reference.read_file(path, TAP, measure)
    for name, array in made.kept.items():
      np.testing.assert_array_equal(found.kept[name], array)
    assert found.floor == made.floor


def _save(path, **arrays):
  np.savez(path, **arrays)
  return str(path)


def test_files_that_cannot_be_compared_with(tmp_path):
  made = _measured()
  mu, sigma = made.kept['mu'], made.kept['sigma']

  def refused(path, words, measure='fd'):
    with pytest.raises(errors.UserError, match=words):
      reference.read_file(str(path), TAP, measure)

  refused(tmp_path / 'absent.npz', 'not a readable .npz')
  (tmp_path / 'text.npz').write_text('no archive')
  refused(tmp_path / 'text.npz', 'not a readable .npz')
  refused(_save(tmp_path / 'a.npz', mu=mu), "holds mu, .* needs mu and sigma")
  refused(_save(tmp_path / 'b.npz', mu=mu, sigma=sigma), 'needs feats', 'kd')
  refused(_save(tmp_path / 'c.npz', mu=mu[:4], sigma=sigma[:4, :4]),
          'another network')
  refused(_save(tmp_path / 'd.npz', mu=mu * np.nan, sigma=sigma),
          "NaN or infinity in 'mu'")
  refused(_save(tmp_path / 'I128_inception_moments.npz', mu=mu, sigma=sigma),
          'BigGAN')
  refused(_save(tmp_path / 'e.npz', mu=mu, sigma=sigma), 'Frechet', 'pr')
  reference.write_file(str(tmp_path / 'f.npz'), made,
                       {**TAP, 'resizer': 'tf1'})
  refused(tmp_path / 'f.npz', "resizer = 'tf1', and this metric has 'clean'")
