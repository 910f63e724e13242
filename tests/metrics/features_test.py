"""The feature stream: every image once, in order, on any mesh."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.metrics import features


@functools.cache  # One object, hence one compilation for each mesh.
def _tiny(resizer='clean', size=4):
  """A network whose features are the pixels."""
  return features.Extractor(
      name='tiny', weights_sha256='0',
      dims={'flat': size * size * 3, 'mean': 3}, size=size,
      resizer=resizer, pixels='x * s', variables={'s': np.float32(2)},
      apply=lambda v, x, platform: {
          'flat': x.reshape(len(x), -1) * v['s'], 'mean': x.mean((1, 2))})


def _extract(extractor, *args, tap='flat', **kwargs):
  tap = features.Tap(extractor, tap)
  return features.extract([tap], *args, **kwargs)[tap]


def _images(n, channels=3, size=4):
  return np.random.RandomState(0).randint(
      0, 256, (n, size, size, channels)).astype(np.uint8)


def _stream(x, batch):
  return ((x[i:i + batch], None) for i in range(0, len(x), batch))


@pytest.mark.parametrize('devices', [1, 3, 8])
@pytest.mark.parametrize('batch', [1, 5, 16, 37])
def test_order_and_number(devices, batch):
  x = _images(37)
  mesh = mesh_lib.make(data=devices, devices=jax.devices()[:devices])
  for num in (37, 30, 1):
    found = _extract(_tiny(), _stream(x, batch), num, mesh)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, 2.0 * x[:num].reshape(num, -1))


def test_model_axis_is_left_alone():
  x = _images(9)
  found = _extract(
      _tiny(), _stream(x, 4), 9, mesh_lib.make(data=4, model=2))
  np.testing.assert_array_equal(found, 2.0 * x.reshape(9, -1))


def test_padding_rows_are_not_counted():
  x = _images(12)
  valid = np.array([True, False, True, True])
  stream = [(x[i:i + 4], valid) for i in (0, 4, 8)]
  found = _extract(_tiny(), stream, 7)
  expected = x[[0, 2, 3, 4, 6, 7, 8]].reshape(7, -1) * 2.0
  np.testing.assert_array_equal(found, expected)


def test_no_batch_beyond_the_last_needed_is_asked_for():
  x = _images(12)

  def stream():
    yield x[:6], None
    yield x[6:], None
    raise AssertionError('asked for too much')

  assert len(_extract(_tiny(), stream(), 12)) == 12


def test_grey_is_repeated():
  x = _images(5, channels=1)
  found = _extract(_tiny(), _stream(x, 2), 5)
  np.testing.assert_array_equal(
      found.reshape(5, 4, 4, 3), 2.0 * np.repeat(x, 3, -1))


def test_the_named_resizer_is_used():
  x = _images(3, size=10)
  results = [_extract(_tiny(mode), _stream(x, 3), 3)
             for mode in ('clean', 'tf1', 'half_pixel')]
  for a, b in ((0, 1), (1, 2), (2, 0)):
    assert np.abs(results[a] - results[b]).mean() > 1


def test_compiles_once_for_one_stream():
  extractor = _tiny()
  traces = []
  counted = dataclasses.replace(
      extractor, apply=lambda v, x, platform: traces.append(x.shape) or
      extractor.apply(v, x, platform))
  for num in (21, 5, 13):  # Whole batches, and ragged ones.
    _extract(counted, _stream(_images(21), 5), num)
  assert len(traces) == 1


def test_progress():
  seen = []
  _extract(_tiny(), _stream(_images(10), 4), 9,
                   progress=lambda *args: seen.append(args))
  assert [(done, total) for done, total, _, _ in seen] == [
      (4, 9), (8, 9), (9, 9)]
  for done, total, rate, left in seen:
    assert left == pytest.approx((total - done) / rate)


@pytest.mark.parametrize('stream, match', [
    ([(_images(4), None)], 'ended after 4'),
    ([], 'ended after 0'),
    ([(_images(4).astype(np.float32), None)], r'float32 \[4, 4, 4, 3\]'),
    ([(_images(4, channels=4), None)], r'uint8 \[4, 4, 4, 4\]'),
    ([(_images(4), None), (_images(4, size=5), None)], 'one resolution'),
    ([(_images(2), None), (_images(4), None)], r'\[4, 4, 4, 3\] after \[2'),
])
def test_bad_streams(stream, match):
  with pytest.raises(errors.UserError, match=match):
    _extract(_tiny(), stream, 6)


def test_features_that_are_not_finite_are_no_result():
  x = _images(6)
  x[3] = 0
  broken = dataclasses.replace(
      _tiny(), apply=lambda v, x, platform: {
          'flat': x.reshape(len(x), -1) / x.max((1, 2, 3))[:, None]})
  with pytest.raises(errors.UserError, match='image 3 by tiny hold NaN'):
    _extract(broken, _stream(x, 2), 6)


def test_several_networks_and_pixels_in_one_pass():
  x = _images(9, size=8)
  small, large = _tiny(), _tiny(size=8)
  asked = []

  def stream():
    for i in range(0, 9, 4):
      asked.append(i)
      yield x[i:i + 4], None

  taps = [features.Tap(small, 'flat'), features.Tap(large, 'flat'),
          features.Tap(large, 'mean'), features.PIXELS]
  found = features.extract(taps, stream(), 7)
  assert asked == [0, 4]
  np.testing.assert_array_equal(found[features.PIXELS], x[:7])
  assert found[features.PIXELS].dtype == np.uint8
  np.testing.assert_array_equal(found[taps[1]], 2.0 * x[:7].reshape(7, -1))
  np.testing.assert_allclose(found[taps[2]], x[:7].mean((1, 2)), rtol=1e-6)
  np.testing.assert_allclose(
      found[taps[0]], _extract(small, _stream(x, 9), 7), rtol=1e-6)


def test_large_sets_lie_in_a_file(monkeypatch):
  x = _images(9)
  monkeypatch.setattr(features, '_IN_MEMORY', 100)
  found = _extract(_tiny(), _stream(x, 4), 9)
  assert isinstance(found, np.memmap)
  np.testing.assert_array_equal(found, 2.0 * x.reshape(9, -1))


def test_unknown_name():
  with pytest.raises(errors.UserError, match="'lite9'.*lite0"):
    features.get('lite9')


def test_lite0_goldens_through_the_stream():
  # Published values, reproduced there to 7e-6; 224 pixels, so that the
  # resizer is the identity.
  x = np.random.RandomState(0).randint(0, 256, (2, 224, 224, 3))
  mesh = mesh_lib.make(data=2, devices=jax.devices()[:2])
  found = _extract(
      features.get('lite0'), [(x.astype(np.uint8), None)], 2, mesh,
      tap='pooled')
  assert found.shape == (2, 1280)
  np.testing.assert_allclose(found.mean(1), [0.128707, 0.119647], atol=1e-6)
  np.testing.assert_allclose(found[0, :3], [0.634367, 0, 1.903593], atol=7e-6)


def test_lite0_does_not_depend_on_batch_or_devices():
  x = np.random.RandomState(1).randint(0, 256, (5, 32, 32, 3)).astype('u1')
  lite0 = features.get('lite0')
  whole = _extract(lite0, _stream(x, 5), 5, mesh_lib.make(), tap='pooled')
  one = mesh_lib.make(data=1, devices=jax.devices()[:1])
  np.testing.assert_allclose(
      _extract(lite0, _stream(x, 3), 5, one, tap='pooled'), whole,
      atol=1e-5)
