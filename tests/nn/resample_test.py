"""Resampling against its definition, in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import hlo
from gans_jax.nn import conv
from gans_jax.nn import resample

FORMS = ('shift', 'dw1d', 'mm')

# (taps, up, down, padding)
CASES = [
    ((1, 3, 3, 1), 1, 1, ((1, 2), (2, 1))),
    ((1, 3, 3, 1), 2, 1, ((2, 1), (2, 1))),
    ((1, 3, 3, 1), 1, 2, ((1, 1), (1, 1))),
    ((1, 2, 5), 1, 1, ((0, 3), (4, 0))),
    ((1, 2, 5), 2, 1, ((3, 0), (1, 4))),
    ((1, -2, 5, 0, 3), 2, 3, ((3, 1), (0, 5))),
    ((1, 2, 5), 3, 2, ((-2, 1), (1, -3))),
    ((1, 4, 2), 1, 1, ((-1, -2), (-2, 0))),
    ((1, 4, 2), 4, 2, ((2, 2), (2, 2))),
    ((2,), 2, 1, ((0, 0), (0, 0))),
    (((1, 2, 5), (3, -1)), (1, 2), (2, 1), ((1, 1), (0, 1))),
]


def _pair(value):
  return (value, value) if np.isscalar(value) else value


def direct(x, taps, up, down, padding, gain):
  """Zero insert, pad or crop, convolve, decimate: one step after another."""
  rows, columns = taps if np.ndim(taps[0]) else (taps, taps)
  kernel = gain * np.outer(rows, columns)[::-1, ::-1]
  n, h, w, c = x.shape
  (uh, uw), (dh, dw) = _pair(up), _pair(down)
  line = np.zeros((n, h * uh, w * uw, c))
  line[:, ::uh, ::uw] = x
  widths = [(0, 0)] + [(max(a, 0), max(b, 0)) for a, b in padding] + [(0, 0)]
  line = np.pad(line, widths)
  (top, bottom), (left, right) = [(max(-a, 0), max(-b, 0)) for a, b in padding]
  line = line[:, top:line.shape[1] - bottom, left:line.shape[2] - right]
  kh, kw = kernel.shape
  y = np.zeros((n, line.shape[1] - kh + 1, line.shape[2] - kw + 1, c))
  for i in range(y.shape[1]):
    for j in range(y.shape[2]):
      y[:, i, j] = np.einsum('nabc,ab->nc', line[:, i:i + kh, j:j + kw], kernel)
  return y[:, ::dh, ::dw]


def direct_matrix(shape, *args):
  """The definition as a matrix: it is linear in x."""
  size = int(np.prod(shape))
  basis = np.eye(size).reshape(size, *shape)
  return direct(basis, *args).reshape(size, -1)


@pytest.fixture
def x():
  return np.random.default_rng(0).normal(size=(2, 7, 6, 3))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', range(len(CASES)))
def test_upfirdn2d_equals_its_definition(x, case, form):
  taps, up, down, padding = CASES[case]
  y = resample.upfirdn2d(jnp.asarray(x, jnp.float32), taps, up, down, padding,
                         1.5, form)
  expected = direct(x, taps, up, down, padding, 1.5)
  assert y.shape == expected.shape
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', [1, 2, 4, 5, 6])
def test_gradients_of_upfirdn2d_are_the_transposed_matrix(case, form):
  taps, up, down, padding = CASES[case]
  shape = (6, 7, 2)
  matrix = direct_matrix(shape, taps, up, down, padding, 1.0)
  with jax.enable_x64(True):
    x = np.random.default_rng(1).normal(size=(1, *shape))

    def loss(x):
      y = resample.upfirdn2d(x, taps, up, down, padding, 1.0, form)
      return jnp.sum(y**3) / 6

    def penalty(x):
      return jnp.sum(jax.grad(loss)(x)**2) / 2

    # With y = xM: grad loss is (y^2 / 2) M^T = g, and that of |g|^2 / 2 is
    # (y * gM) M^T.
    first = jax.jit(jax.grad(loss))(x)
    second = jax.jit(jax.grad(penalty))(x)
  y = x.reshape(1, -1) @ matrix
  g = (y**2 / 2) @ matrix.T
  gg = (y * (g @ matrix)) @ matrix.T
  scale = np.abs(g).max()
  np.testing.assert_allclose(first.reshape(1, -1), g, rtol=1e-5,
                             atol=1e-5 * scale)
  scale = np.abs(gg).max()
  np.testing.assert_allclose(second.reshape(1, -1), gg, rtol=1e-5,
                             atol=1e-5 * scale)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('taps', [(1, 3, 3, 1), (1, 2, 1), (1, 1)])
def test_named_resamplers_have_the_official_padding(x, taps, form):
  x32 = jnp.asarray(x[:, :6], jnp.float32)
  x = x[:, :6]
  unit = np.asarray(taps) / np.sum(taps)
  k = len(taps)
  up = ((k + 1) // 2, (k - 2) // 2)
  down = ((k - 1) // 2, (k - 2) // 2)
  same = (k // 2, (k - 1) // 2)
  y = resample.upsample2d(x32, taps, gain=0.5, implementation=form)
  np.testing.assert_allclose(
      y, direct(x, unit, 2, 1, (up, up), 2.0), rtol=1e-5, atol=1e-5)
  y = resample.downsample2d(x32, taps, gain=0.5, implementation=form)
  np.testing.assert_allclose(
      y, direct(x, unit, 1, 2, (down, down), 0.5), rtol=1e-5, atol=1e-5)
  y = resample.blur(x32, taps, implementation=form)
  assert y.shape == x.shape
  np.testing.assert_allclose(
      y, direct(x, unit, 1, 1, (same, same), 1.0), rtol=1e-5, atol=1e-5)


def test_resampling_keeps_a_constant_image_inside():
  x = jnp.full((1, 8, 8, 1), 3.0)
  up = resample.upsample2d(x)
  assert up.shape == (1, 16, 16, 1)
  np.testing.assert_allclose(up[:, 1:-1, 1:-1], 3.0, rtol=1e-6)
  down = resample.downsample2d(x)
  assert down.shape == (1, 4, 4, 1)
  np.testing.assert_allclose(down[:, 1:-1, 1:-1], 3.0, rtol=1e-6)


def test_skip_upsampling_is_the_polyphase_formula(x):
  y = resample.upsample_skip(jnp.asarray(x, jnp.float32))

  def along(x, axis):
    x = np.moveaxis(x, axis, 0)
    zero = np.zeros_like(x[:1])
    back, ahead = np.concatenate([zero, x]), np.concatenate([x, zero])
    y = np.zeros((2 * len(x), *x.shape[1:]))
    y[0::2] = back[:-1] / 4 + 3 * x / 4
    y[1::2] = 3 * x / 4 + ahead[1:] / 4
    return np.moveaxis(y, 0, axis)

  np.testing.assert_allclose(y, along(along(x, 1), 2), rtol=1e-5, atol=1e-6)


def test_nearest_and_average(x):
  x = x[:, :6]
  y = resample.nearest_upsample(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(y, x.repeat(2, 1).repeat(2, 2), rtol=1e-6)
  y = resample.average_pool(jnp.asarray(x, jnp.float32))
  expected = sum(x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)) / 4
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match='not multiples of 2'):
    resample.average_pool(jnp.zeros((1, 5, 4, 1)))


REWRITES = [
    (resample.upsample_conv3x3, 3,
     lambda x, w: conv.conv2d(resample.nearest_upsample(x), w, 1, 1)),
    (resample.conv3x3_downsample, 3,
     lambda x, w: resample.average_pool(conv.conv2d(x, w, 1, 1))),
    (resample.upsample_conv1x1, 1,
     lambda x, w: conv.conv2d(resample.nearest_upsample(x), w)),
    (resample.conv1x1_downsample, 1,
     lambda x, w: resample.average_pool(conv.conv2d(x, w))),
]


@pytest.mark.parametrize('fast, k, plain', REWRITES)
def test_flop_rewrites_are_exact(fast, k, plain):
  rng = np.random.default_rng(2)
  with jax.enable_x64(True):
    x = jnp.asarray(rng.normal(size=(2, 6, 4, 3)))
    w = jnp.asarray(rng.normal(size=(k, k, 3, 5)))

    def everything(layer):
      def loss(x, w):
        return jnp.sum(jnp.sin(layer(x, w)))

      def penalty(x, w):
        return jnp.sum(jax.grad(loss)(x, w)**2)

      return jax.jit(lambda x, w: (
          layer(x, w), jax.grad(loss, (0, 1))(x, w),
          jax.grad(penalty, (0, 1))(x, w)))(x, w)

    for a, b in zip(jax.tree.leaves(everything(fast)),
                    jax.tree.leaves(everything(plain)), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_flop_rewrites_save_flops():
  x = jax.ShapeDtypeStruct((2, 16, 16, 32), jnp.float32)
  for fast, k, plain in REWRITES:
    w = jax.ShapeDtypeStruct((k, k, 32, 32), jnp.float32)
    few, many = [
        jax.jit(layer).lower(x, w).compile().cost_analysis()['flops']
        for layer in (fast, plain)]
    assert few < (0.52 if k == 3 else 0.3) * many


def test_shifts_need_no_convolution():
  x = jnp.ones((1, 8, 8, 4))

  def loss(x, form):
    y = resample.upsample2d(x, implementation=form)
    y = resample.blur(resample.downsample2d(y, implementation=form), (1, 2, 1),
                      implementation=form)
    return jnp.sum(y**2)

  program = jax.make_jaxpr(jax.grad(lambda x: loss(x, 'shift')))(x)
  assert not hlo.conv_operand_dtypes(program)
  program = jax.make_jaxpr(jax.grad(lambda x: loss(x, 'dw1d')))(x)
  assert hlo.conv_operand_dtypes(program)


@pytest.mark.parametrize('form', FORMS)
def test_bfloat16_stays_bfloat16(form):
  def layer(x, w):
    y = resample.upsample2d(x, gain=np.sqrt(2), implementation=form)
    y = resample.upsample_conv3x3(resample.blur(y, (1, 2, 1)), w)
    y = resample.conv3x3_downsample(y, w)
    y = resample.downsample2d(resample.upsample_skip(y), implementation=form)
    return resample.nearest_upsample(resample.average_pool(y))

  x, w = jnp.ones((1, 8, 8, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2),
                                                        jnp.bfloat16)
  assert layer(x, w).dtype == jnp.bfloat16
  program = jax.make_jaxpr(jax.grad(
      lambda x, w: jnp.sum(layer(x, w).astype(jnp.float32)), (0, 1)))(x, w)
  types = set(sum(hlo.conv_operand_dtypes(program), ()))
  assert types == {np.dtype(jnp.bfloat16)}


def test_auto_follows_the_platform(monkeypatch):
  assert resample.choose() == 'shift'  # the tests run on CPU
  assert resample.choose('mm') == 'mm'
  with pytest.raises(ValueError, match='none of auto, shift'):
    resample.choose('fft')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert resample.choose() == 'dw1d'
  # The mesh in force counts more than the machine: programs are compiled for
  # machines that are not there.
  seen = []
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
  with jax.set_mesh(mesh):
    jax.eval_shape(lambda: seen.append(resample.choose()))
  assert seen == ['shift']


def test_too_many_taps_are_refused():
  with pytest.raises(ValueError, match='do not fit'):
    resample.upfirdn2d(jnp.ones((1, 2, 2, 1)), (1, 1, 1))
