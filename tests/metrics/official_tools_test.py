"""Metrics on one pair of feature sets, by us and by the published packages.

pytorch-fid 0.3.0, torch-fidelity 0.4.0 and prdc 0.2 on the same arrays, which
look like pooled activations: not negative, correlated, of unequal variances.
"""

import numpy as np
import official
import prdc
import pytest
import scipy.linalg
import torch

from gans_jax.metrics import frechet
from gans_jax.metrics import inception_score
from gans_jax.metrics import kernel_distance
from gans_jax.metrics import manifold

fid_score = official.package('pytorch_fid.fid_score')
metric_fid = official.package('torch_fidelity.metric_fid')
metric_isc = official.package('torch_fidelity.metric_isc')
metric_kid = official.package('torch_fidelity.metric_kid')
metric_prc = official.package('torch_fidelity.metric_prc')


@pytest.fixture(scope='module')
def features():
  """Generated and real, float32 [900, 48] and [700, 48]."""
  r = np.random.RandomState(0)
  mix = r.randn(48, 48) / np.arange(1, 49)[:, None]**0.5
  fake = np.maximum(r.randn(900, 48) @ mix + 0.6, 0)
  real = np.maximum(r.randn(700, 48) @ mix * 1.15 + 0.5, 0)
  return fake.astype(np.float32), real.astype(np.float32)


def _statistics(x):
  x = x.astype(np.float64)
  return x.mean(0), np.cov(x, rowvar=False)


def test_frechet_distance_of_pytorch_fid(features, monkeypatch):
  # It asks sqrtm for two values, by an argument that SciPy 1.18 removed. The
  # second is an error estimate that it throws away.
  root = scipy.linalg.sqrtm
  monkeypatch.setattr(
      fid_score.linalg, 'sqrtm', lambda matrix, disp=True: (root(matrix), 0))
  (fake_mean, fake_cov), (real_mean, real_cov) = map(_statistics, features)
  expected = fid_score.calculate_frechet_distance(
      fake_mean, fake_cov, real_mean, real_cov)
  assert expected > 0.1
  assert frechet.distance(*map(frechet.fit, features)) == pytest.approx(
      expected, rel=1e-11)


def test_frechet_distance_of_torch_fidelity(features):
  stats = [metric_fid.fid_features_to_statistics(
      torch.from_numpy(f.astype(np.float64))) for f in features]
  expected = metric_fid.fid_statistics_to_metric(*stats, verbose=False)
  assert frechet.distance(*map(frechet.fit, features)) == pytest.approx(
      expected[metric_fid.KEY_METRIC_FID], rel=1e-11)


def test_golden_value_of_torch_fidelity():
  # With means in float32, as it takes them: 9e-8 from pytorch-fid's.
  r = np.random.RandomState(0)
  x = r.randn(600, 16).astype(np.float32)
  y = (r.randn(500, 16) * 1.2 + 0.3).astype(np.float32)
  fitted = [frechet.Gaussian(
      len(f), f.mean(0).astype(np.float64), np.cov(f, rowvar=False))
            for f in (x, y)]
  assert frechet.distance(*fitted) == pytest.approx(2.86179200599, abs=2e-7)
  stats = [metric_fid.fid_features_to_statistics(torch.from_numpy(f))
           for f in (x, y)]
  assert metric_fid.fid_statistics_to_metric(
      *stats, verbose=False)[metric_fid.KEY_METRIC_FID] == pytest.approx(
          2.86179200599, abs=1e-7)


def test_frechet_distance_of_fewer_images_than_dimensions(features):
  # Roots of singular products: theirs are good to half of the digits.
  few = [f[:n] for f, n in zip(features, (30, 40), strict=True)]
  stats = [metric_fid.fid_features_to_statistics(
      torch.from_numpy(f.astype(np.float64))) for f in few]
  expected = metric_fid.fid_statistics_to_metric(*stats, verbose=False)
  fitted = [frechet.fit(f) for f in few]
  assert frechet.route(*fitted) == 'nuclear'
  assert frechet.distance(*fitted) == pytest.approx(
      expected[metric_fid.KEY_METRIC_FID], rel=1e-6)


@pytest.mark.parametrize('subsets, size, seed', [
    (20, 300, 2020), (7, 700, 5)])
def test_kernel_distance_of_torch_fidelity(features, subsets, size, seed):
  expected = metric_kid.kid_features_to_metric(
      *[torch.from_numpy(f.astype(np.float64)) for f in features],
      kid_subsets=subsets, kid_subset_size=size, rng_seed=seed, verbose=False)
  mean, std = kernel_distance.kid(*features, subsets, size, seed)
  assert mean == pytest.approx(
      expected[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-5)
  assert std == pytest.approx(
      expected[metric_kid.KEY_METRIC_KID_STD], rel=1e-4)


def test_kernel_distance_over_all_pairs_of_torch_fidelity(features):
  x, y = (f.astype(np.float64)[:700] for f in features)
  assert kernel_distance.kid_full(x, y) == pytest.approx(
      metric_kid.kernel_mmd(x, y), rel=1e-5)


@pytest.mark.parametrize('splits, seed', [(10, 2020), (1, 7), (3, None)])
def test_inception_score_of_torch_fidelity(features, splits, seed):
  logits = 3 * features[0][:, :20]
  expected = metric_isc.isc_features_to_metric(
      torch.from_numpy(logits), splits, shuffle=seed is not None,
      rng_seed=seed)
  assert inception_score.from_logits(logits, splits, seed) == pytest.approx(
      (expected[metric_isc.KEY_METRIC_ISC_MEAN],
       expected[metric_isc.KEY_METRIC_ISC_STD]), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize('k', [1, 3, 5])
def test_precision_and_recall_of_torch_fidelity(features, k):
  expected = metric_prc.prc_features_to_metric(
      *map(torch.from_numpy, features), prc_neighborhood=k,
      prc_batch_size=256, save_cpu_ram=True, verbose=False)
  fake, real = (manifold.fit(f) for f in features)
  found = manifold.compare(real, fake, k_precision=k)
  assert 0.1 < found['recall'] < 0.9
  for key in ('precision', 'recall', 'f_score'):
    assert found[key] == pytest.approx(expected[key], abs=1e-6)


@pytest.mark.parametrize('k', [1, 3, 5])
def test_precision_recall_density_coverage_of_prdc(features, k):
  fake, real = (manifold.fit(f) for f in features)
  expected = prdc.compute_prdc(features[1], features[0], nearest_k=k)
  found = manifold.compare(real, fake, k_precision=k, k_density=k)
  for key, value in expected.items():
    assert found[key] == pytest.approx(value, abs=1e-6)
