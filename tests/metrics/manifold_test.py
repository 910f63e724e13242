"""Precision, recall, density, coverage: against whole distance matrices."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import manifold


def _golden_manifolds(k=5):
  r = np.random.RandomState(0)
  fake = r.randn(600, 16).astype(np.float32)
  real = (r.randn(500, 16) * 1.2 + 0.3).astype(np.float32)
  return manifold.fit(real, k), manifold.fit(fake, k)


def _plain(real, fake, k_precision, k_density):
  """The definitions, on all distances at once."""
  real, fake = real.astype(np.float64), fake.astype(np.float64)

  def squared(a, b):
    return ((a[:, None] - b[None])**2).sum(-1)

  def radii(a, k):
    return np.sort(squared(a, a), axis=1)[:, k]

  d = squared(real, fake)
  inside = d < radii(real, k_density)[:, None]
  return {
      'precision': (d <= radii(real, k_precision)[:, None]).any(0).mean(),
      'recall': (d <= radii(fake, k_precision)[None]).any(1).mean(),
      'density': inside.sum() / (k_density * len(fake)),
      'coverage': inside.any(1).mean(),
  }


def test_values_of_the_published_tools():
  real, fake = _golden_manifolds()
  # torch-fidelity 0.4.0 (k = 3) and prdc 0.2 (k = 5).
  assert manifold.compare(real, fake) == pytest.approx({
      'precision': 0.9333333, 'recall': 0.446, 'f_score': 0.6035766,
      'density': 1.6413333, 'coverage': 0.96}, abs=1e-7)
  # prdc 0.2: precision and recall for k = 5, density and coverage for 3.
  other = manifold.compare(real, fake, k_precision=5, k_density=3)
  del other['f_score']
  assert other == pytest.approx({
      'precision': 0.9633333, 'recall': 0.57,
      'density': 1.7344444, 'coverage': 0.88}, abs=1e-7)


@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
@pytest.mark.parametrize('d', [2, 64, 515])
def test_a_set_and_itself_is_perfect(d, scale):
  # Every k-th neighbour lies on the sphere: inside for precision and recall,
  # outside for density, where each ball holds itself and k - 1 others.
  x = np.random.RandomState(0).randn(300, d).astype(np.float32) * scale + 5
  found = manifold.compare(manifold.fit(x), manifold.fit(x.copy()))
  assert found == {'precision': 1, 'recall': 1, 'f_score': 1, 'density': 1,
                   'coverage': 1}


def test_ties_on_a_lattice():
  x = np.stack(np.meshgrid(*[np.arange(6.0)] * 2), -1).reshape(-1, 2)
  y = x[::2] + [1, 0]
  for k in (1, 3, 4):
    found = manifold.compare(manifold.fit(x), manifold.fit(y), k, k)
    expected = _plain(x, y, k, k)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize('block', [16, 37, 4096])
@pytest.mark.parametrize('gather_cost', [0, 50, 10**9])
def test_any_blocks_and_any_route_are_the_definition(
    block, gather_cost, monkeypatch):
  monkeypatch.setattr(manifold, '_BLOCK', block)
  monkeypatch.setattr(manifold, '_EXACT_COST', gather_cost)
  r = np.random.RandomState(1)
  real = r.randn(97, 8).astype(np.float32)
  fake = np.concatenate([real[::3], r.randn(70, 8)]).astype(np.float32)
  real_manifold = manifold.fit(real)
  distances = np.sqrt(((real[:, None] - real[None])**2).sum(-1))
  np.testing.assert_allclose(
      np.sqrt(real_manifold.squared), np.sort(distances, 1)[:, 1:6], rtol=1e-5)
  found = manifold.compare(real_manifold, manifold.fit(fake))
  expected = _plain(real, fake, 3, 5)
  assert {key: found[key] for key in expected} == expected


def _clustered(seed, n=330, d=64, rank=64):
  """Points of 25 classes, with variances that fall like 1/k."""
  shared, r = np.random.RandomState(0), np.random.RandomState(seed)
  centres = shared.randn(25, rank)
  mix = np.linalg.qr(shared.randn(d, d))[0][:rank]
  mix /= np.sqrt(np.arange(1, rank + 1))[:, None]
  x = (centres[r.randint(0, 25, n)] + 0.5 * r.randn(n, rank)) @ mix
  return np.maximum(x + 0.2, 0).astype(np.float32)


# No pair is looked at alone; some are; all are that a bound does not rule out.
@pytest.mark.parametrize('gather_cost, share', [
    (10**9, 1 / 4), (10, 1 / 16), (0, 1 / 2)])
@pytest.mark.parametrize('case', [
    'classes', 'far from the origin', 'few dimensions', 'of two dimensions',
    'collapse', 'isotropic', 'all equal'])
def test_leading_axes_change_nothing(case, gather_cost, share, monkeypatch):
  real, fake = _clustered(1), _clustered(2, n=280)
  if case == 'far from the origin':
    real, fake = real + 300, fake + 300
  elif case == 'few dimensions':
    real, fake = (_clustered(i, rank=3) for i in (1, 2))
  elif case == 'of two dimensions':
    real, fake = real[:, :2], fake[:, :2]
  elif case == 'collapse':
    fake = real[:12][np.arange(280) % 12]
  elif case == 'isotropic':
    real, fake = np.random.RandomState(3).randn(2, 250, 64)
  elif case == 'all equal':
    real, fake = np.ones((2, 170, 64), np.float32)
  monkeypatch.setattr(manifold, '_BLOCK', 150)
  plain = manifold.fit(real), manifold.fit(fake)
  assert plain[0].points.left is None
  expected = manifold.compare(*plain)
  monkeypatch.setattr(manifold, '_WORTH', 0)
  monkeypatch.setattr(manifold, '_SHARES', (share,))
  monkeypatch.setattr(manifold, '_GATHER_COST', 0)  # Else no axes are worth it.
  fitted = manifold.fit(real)
  assert (fitted.points.left is None) == (
      case in ('of two dimensions', 'all equal'))
  monkeypatch.setattr(manifold, '_GATHER_COST', gather_cost)
  for other in (manifold.fit(fake, like=fitted), manifold.fit(fake)):
    np.testing.assert_allclose(
        other.squared, plain[1].squared, rtol=1e-11, atol=1e-11)
    assert manifold.compare(fitted, other) == expected
  # As it is read from a file.
  bare = manifold.Manifold(fitted.features, fitted.squared)
  assert manifold.compare(bare, other) == expected
  assert manifold.compare(bare, manifold.Manifold(
      other.features, other.squared)) == expected


def test_axes_are_orthonormal_and_lead_to_the_variance():
  x = _clustered(1, n=2000)
  x = x - x.mean(0)
  axes = manifold._principal(x, 16)
  np.testing.assert_allclose(axes.T @ axes, np.eye(16), atol=1e-12)
  best = np.linalg.eigvalsh(x.T @ x)[::-1]
  along = ((x @ axes)**2).sum(0)
  assert along[:4].sum() > 0.99 * best[:4].sum()
  assert along.sum() > 0.97 * best[:16].sum()
  # No more of them than dimensions that points differ in.
  flat = np.random.RandomState(0).randn(100, 5) @ np.eye(5, 40)
  assert manifold._principal(flat.astype(np.float32), 8).shape == (40, 5)


def test_a_bound_rules_most_pairs_out():
  x = _clustered(1, n=900)
  points = manifold._points(x, manifold._Frame(
      x.mean(0, dtype=np.float64), manifold._principal(x - x.mean(0), 32),
      np.zeros((1, 16), np.float32)))
  bounds = -2 * (points.left @ points.right.T)
  squared = ((x[:, None] - x[None])**2).sum(-1)
  assert (bounds <= squared + 1e-5).all()
  radii = np.sort(squared, axis=1)[:, 3]
  assert np.mean(bounds <= radii[:, None]) < 0.05


@pytest.mark.parametrize('noise', [0, 1e-6, 1e-3])
def test_collapse_far_from_the_origin(noise, monkeypatch):
  # Twelve images over and over: float32 products cannot tell them apart.
  monkeypatch.setattr(manifold, '_BLOCK', 100)
  r = np.random.RandomState(2)
  real = (r.randn(250, 32) + 100).astype(np.float32)
  fake = (real[:12][np.arange(300) % 12].astype(np.float64)
          + noise * r.randn(300, 32))
  found = manifold.compare(manifold.fit(real), manifold.fit(fake))
  expected = _plain(real, fake, 3, 5)
  assert {key: found[key] for key in expected} == pytest.approx(expected)
  assert found['precision'] == 1 and found['recall'] <= 12 / 250


def test_identical_points_have_radius_zero():
  x = np.full((20, 7), 0.1, np.float32)
  same = manifold.fit(x)
  assert not same.squared.any()
  # Zero is within a ball of radius zero, and not below it.
  assert manifold.compare(same, same) == {
      'precision': 1, 'recall': 1, 'f_score': 1, 'density': 0, 'coverage': 0}


def test_narrow_within_wide_is_precise_and_recalls_little():
  r = np.random.RandomState(3)
  wide, narrow = r.randn(500, 8), 0.2 * r.randn(500, 8)
  found = manifold.compare(manifold.fit(wide), manifold.fit(narrow))
  assert found['precision'] > 0.8 and found['recall'] < 0.3
  swapped = manifold.compare(manifold.fit(narrow), manifold.fit(wide))
  assert (swapped['precision'], swapped['recall']) == (
      found['recall'], found['precision'])


def test_disjoint_sets_score_zero():
  x = np.random.RandomState(4).randn(50, 3)
  assert set(manifold.compare(
      manifold.fit(x), manifold.fit(x + 1000)).values()) == {0}


def test_invariances():
  r = np.random.RandomState(5)
  x, y = r.randn(200, 10), r.randn(150, 10) * 1.1 + 0.1
  rotation = np.linalg.qr(r.randn(10, 10))[0]
  value = manifold.compare(manifold.fit(x), manifold.fit(y))
  for move in (lambda f: f @ rotation + 3, lambda f: f * 1e-4,
               lambda f: f[::-1]):
    assert manifold.compare(
        manifold.fit(move(x)), manifold.fit(move(y))) == value


def test_fewer_neighbours_of_one_fit():
  real, fake = _golden_manifolds(5)
  assert manifold.compare(*_golden_manifolds(3), 3, 2) == manifold.compare(
      real, fake, 3, 2)
  with pytest.raises(ValueError, match='no k = 6'):
    manifold.compare(real, fake, 6)


def test_refusals():
  with pytest.raises(errors.UserError, match='5 nearest .* need 6 images'):
    manifold.fit(np.zeros((5, 3)))
  with pytest.raises(errors.UserError, match='NaN'):
    manifold.fit(np.full((9, 3), np.inf))
  with pytest.raises(ValueError, match='Expected'):
    manifold.fit(np.zeros((9, 3)), k=0)
  r = np.random.RandomState(0)
  with pytest.raises(ValueError, match='4 and 3 dimensions'):
    manifold.compare(manifold.fit(r.randn(9, 4)), manifold.fit(r.randn(9, 3)))
