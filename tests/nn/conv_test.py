"""The convolution triple against lax, torch and the definition."""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gans_jax.core import hlo
from gans_jax.nn import conv

P = jax.sharding.PartitionSpec
# Results do not depend on it, the time of the tests does.
FAST = {'xla_backend_optimization_level': 0}

# (height, width, kernel, stride, padding)
CASES = {
    'plain': (7, 6, (3, 3), 1, ((1, 1), (1, 1))),
    'stride 2': (8, 8, (4, 4), 2, ((1, 1), (1, 1))),
    'stride 2 VALID, a row unread': (8, 7, (3, 3), 2, ((0, 0), (0, 0))),
    'full padding': (5, 5, (3, 3), 1, ((2, 2), (2, 2))),
    'kernel larger than image': (4, 4, (5, 5), 1, ((2, 2), (2, 2))),
    'output larger than image, stride 2': (2, 2, (4, 4), 2, ((3, 3), (3, 3))),
    'all different, crop': (9, 7, (3, 2), (2, 3), ((1, 0), (-1, 2))),
    '1x1': (5, 4, (1, 1), 1, ((0, 0), (0, 0))),
}


def plain(x, w, stride=1, padding=((0, 0), (0, 0)), groups=1):
  stride = (stride, stride) if isinstance(stride, int) else stride
  return lax.conv_general_dilated(
      x, w, stride, padding, feature_group_count=groups,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def plain_transpose(x, w, stride, padding, output_padding=0):
  # foundations: kernel flipped, stride zeros, k-1-p around, op more at the end.
  k = w.shape[0]
  low = k - 1 - padding
  return lax.conv_general_dilated(
      x, w[::-1, ::-1], (1, 1), ((low, low + output_padding),) * 2,
      lhs_dilation=(stride, stride),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def normal(shape, seed, dtype=np.float64):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def _nhwc(tensor):
  return tensor.detach().numpy().transpose(0, 2, 3, 1)


def derivatives(layer):
  """Value, reverse, reverse twice, forward over reverse, reverse over forward.

  None of the scalars is quadratic in an argument, so no term of the second
  derivatives vanishes.
  """

  def loss(x, w):
    return jnp.sum(jnp.sin(layer(x, w)))

  def penalty(x, w):  # R1 has this form: a function of gradients
    gx, gw = jax.grad(loss, (0, 1))(x, w)
    return jnp.sum(gx**2) + jnp.sum(jnp.cos(gw))

  def slope(x, w):
    return jax.jvp(loss, (x, w), (jnp.cos(x), jnp.sin(w)))[1]

  def everything(x, w):
    grad = jax.grad(loss, (0, 1))
    return {
        'value': layer(x, w),
        'grad': grad(x, w),
        'grad of grad': jax.grad(penalty, (0, 1))(x, w),
        'jvp of grad': jax.jvp(grad, (x, w), (jnp.cos(x), jnp.sin(w))),
        'grad of jvp': jax.grad(slope, (0, 1))(x, w),
    }

  return jax.jit(everything, compiler_options=FAST)


def assert_trees_close(actual, expected, rtol):
  for (path, a), b in zip(jax.tree.leaves_with_path(actual),
                          jax.tree.leaves(expected), strict=True):
    assert a.shape == b.shape, path
    assert a.dtype == b.dtype, path
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max(),
                               err_msg=str(path))


@pytest.mark.parametrize('case', CASES)
def test_derivatives_equal_those_of_lax_in_float64(case):
  h, w, kernel, stride, padding = CASES[case]
  with jax.enable_x64(True):
    x, w = normal((2, h, w, 3), 0), normal((*kernel, 3, 4), 1)
    assert_trees_close(
        derivatives(lambda x, w: conv.conv2d(x, w, stride, padding))(x, w),
        derivatives(lambda x, w: plain(x, w, stride, padding))(x, w), 1e-12)


@pytest.mark.parametrize('case', ['stride 2', 'kernel larger than image'])
def test_derivatives_equal_those_of_lax_in_float32(case):
  h, w, kernel, stride, padding = CASES[case]
  x = normal((2, h, w, 3), 0, np.float32)
  w = normal((*kernel, 3, 4), 1, np.float32)
  assert_trees_close(
      derivatives(lambda x, w: conv.conv2d(x, w, stride, padding))(x, w),
      derivatives(lambda x, w: plain(x, w, stride, padding))(x, w), 1e-5)


@pytest.mark.parametrize('groups', [2, 4])
def test_feature_groups_equal_lax(groups):
  with jax.enable_x64(True):
    x, w = normal((2, 6, 5, 4), 0), normal((3, 3, 4 // groups, 8), 1)
    pads = ((1, 1), (0, 1))
    assert_trees_close(
        derivatives(
            lambda x, w: conv.conv2d(x, w, 2, pads, groups=groups))(x, w),
        derivatives(lambda x, w: plain(x, w, 2, pads, groups))(x, w), 1e-12)


def test_third_order_equals_lax():
  with jax.enable_x64(True):
    x, w = normal((1, 5, 5, 2), 0), normal((3, 3, 2, 2), 1)

    def third(layer):
      def value(x):
        return jnp.sum(jnp.sin(layer(x, w)))

      def penalty(x):
        return jnp.sum(jax.grad(value)(x)**2)

      def penalty_of_penalty(x):
        return jnp.sum(jax.grad(penalty)(x)**2)

      gradient = jax.grad(penalty_of_penalty)
      return jax.jit(gradient, compiler_options=FAST)(x)

    assert_trees_close(third(lambda x, w: conv.conv2d(x, w, 2, 1)),
                       third(lambda x, w: plain(x, w, 2, ((1, 1),) * 2)),
                       1e-12)


@pytest.mark.parametrize('k, s, p, op', [
    (4, 2, 1, 0), (3, 2, 1, 1), (4, 1, 0, 0), (5, 2, 2, 0), (5, 2, 2, 1),
    (3, 1, 1, 0), (2, 3, 0, 2)])
@pytest.mark.parametrize('size', [1, 5])
def test_transposed_convolution_equals_torch(size, k, s, p, op):
  if (size - 1) * s - 2 * p + k + op < 1:
    with pytest.raises(ValueError, match='leaves nothing'):
      conv.conv2d_transpose(jnp.ones((1, size, size, 1)),
                            jnp.ones((k, k, 1, 1)), s, p, op)
    return
  x, w = normal((2, size, size, 3), 0), normal((k, k, 3, 4), 1)
  tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
  tw = torch.tensor(w.transpose(2, 3, 0, 1), requires_grad=True)
  ty = torch.nn.functional.conv_transpose2d(
      tx, tw, stride=s, padding=p, output_padding=op)
  cotangent = normal(tuple(ty.shape), 2)
  ty.backward(torch.tensor(cotangent))

  with jax.enable_x64(True):
    y, pull = jax.vjp(
        lambda x, w: conv.conv2d_transpose(x, w, s, p, op), jnp.asarray(x),
        jnp.asarray(w))
    gx, gw = pull(jnp.asarray(cotangent.transpose(0, 2, 3, 1)))
  np.testing.assert_allclose(y, _nhwc(ty), rtol=1e-10, atol=1e-10)
  np.testing.assert_allclose(gx, _nhwc(tx.grad), rtol=1e-10, atol=1e-10)
  np.testing.assert_allclose(gw, tw.grad.numpy().transpose(2, 3, 0, 1),
                             rtol=1e-10, atol=1e-10)


def test_transposed_convolution_equals_lax_at_second_order():
  with jax.enable_x64(True):
    x, w = normal((2, 4, 4, 3), 0), normal((3, 3, 3, 4), 1)
    assert_trees_close(
        derivatives(lambda x, w: conv.conv2d_transpose(x, w, 2, 1, 1))(x, w),
        derivatives(lambda x, w: plain_transpose(x, w, 2, 1, 1))(x, w), 1e-12)


@pytest.mark.parametrize('k, s, p', [(4, 2, 1), (3, 2, 1), (3, 1, 1),
                                     (5, 2, 2)])
def test_convolution_equals_torch(k, s, p):
  x, w = normal((2, 7, 8, 3), 0), normal((k, k, 3, 4), 1)
  tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
  tw = torch.tensor(w.transpose(3, 2, 0, 1), requires_grad=True)
  ty = torch.nn.functional.conv2d(tx, tw, stride=s, padding=p)
  cotangent = normal(tuple(ty.shape), 2)
  ty.backward(torch.tensor(cotangent))
  with jax.enable_x64(True):
    y, pull = jax.vjp(lambda x, w: conv.conv2d(x, w, s, p), jnp.asarray(x),
                      jnp.asarray(w))
    gx, gw = pull(jnp.asarray(cotangent.transpose(0, 2, 3, 1)))
  np.testing.assert_allclose(y, _nhwc(ty), rtol=1e-10, atol=1e-10)
  np.testing.assert_allclose(gx, _nhwc(tx.grad), rtol=1e-10, atol=1e-10)
  np.testing.assert_allclose(gw, tw.grad.numpy().transpose(2, 3, 1, 0),
                             rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('size, k, s', [(8, 5, 2), (7, 5, 2), (8, 3, 2),
                                        (9, 4, 3), (6, 3, 1)])
def test_same_padding_is_that_of_tensorflow(size, k, s):
  total = max((-(-size // s) - 1) * s + k - size, 0)
  expected = (total // 2, total - total // 2)
  assert conv.explicit_padding('SAME', (size, size), (k, k),
                               (s, s)) == (expected, expected)
  x, w = normal((1, size, size, 2), 0), normal((k, k, 2, 2), 1)
  with jax.enable_x64(True):
    y = conv.conv2d(jnp.asarray(x), jnp.asarray(w), s, 'SAME')
    np.testing.assert_allclose(y, plain(x, w, s, (expected, expected)),
                               rtol=1e-12)


def test_bad_operands_are_refused():
  x, w = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 2))
  with pytest.raises(ValueError, match='has 2 channels'):
    conv.conv2d(x[..., :2], w)
  with pytest.raises(ValueError, match='does not fit'):
    conv.conv2d(x[:, :2], w, 1, 'VALID')
  with pytest.raises(TypeError, match='cast one of them'):
    conv.conv2d(x, w.astype(jnp.bfloat16))
  with pytest.raises(ValueError, match='takes x'):
    conv.conv2d(x[0], w)


# Transformations.


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('axes', [(0, None), (None, 0), (0, 0), (4, 1),
                                  (2, None), (None, 4)])
def test_vmap_equals_a_loop(axes, groups):
  b = 3
  with jax.enable_x64(True):
    x, w = normal((2, 5, 5, 4), 0), normal((3, 3, 4 // groups, 6), 1)

    def stacked(a, axis, seed):
      if axis is None:
        return jnp.asarray(a), [jnp.asarray(a)] * b
      parts = [jnp.asarray(a + normal(a.shape, seed + i)) for i in range(b)]
      return jnp.stack(parts, axis), parts

    xs, x_parts = stacked(x, axes[0], 10)
    ws, w_parts = stacked(w, axes[1], 20)

    def f(x, w):
      def loss(x, w):
        y = conv.conv2d(x, w, 2, 1, groups=groups)
        return jnp.sum(jnp.sin(y)), y

      gradients, y = jax.grad(loss, (0, 1), has_aux=True)(x, w)
      return y, gradients

    batched = jax.jit(jax.vmap(f, axes), compiler_options=FAST)(xs, ws)
    one = jax.jit(f, compiler_options=FAST)
    loop = [one(x, w) for x, w in zip(x_parts, w_parts, strict=True)]
    loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    assert_trees_close(batched, loop, 1e-12)


def test_grad_of_vmap_with_a_kernel_for_each_example():
  with jax.enable_x64(True):
    x, w = normal((3, 1, 5, 5, 2), 0), normal((3, 3, 3, 2, 2), 1)

    def penalty(layer):
      def loss(x, w):
        return jnp.sum(jnp.sin(jax.vmap(layer)(x, w)))
      return jax.jit(jax.grad(
          lambda x, w: jnp.sum(jax.grad(loss)(x, w)**2), (0, 1)))(x, w)

    assert_trees_close(
        penalty(lambda x, w: conv.conv2d(x, w, 2, 1)),
        penalty(lambda x, w: plain(x, w, 2, ((1, 1),) * 2)), 1e-12)


def test_scan_remat_eval_shape_and_eager():
  with jax.enable_x64(True):
    x, ws = normal((1, 4, 4, 2), 0), normal((3, 3, 3, 2, 2), 1)

    def loss(x, ws, layer, loop):
      step = jax.checkpoint(lambda x, w: jnp.sin(layer(x, w)))
      if loop:
        for w in ws:
          x = step(x, w)
      else:
        x, _ = lax.scan(lambda x, w: (step(x, w), None), x, ws)
      return jnp.sum(x**2)

    def penalty(x, ws, layer, loop):
      return jnp.sum(jax.grad(loss)(x, ws, layer, loop)**2)

    def ours(x, w):
      return conv.conv2d(x, w)

    def theirs(x, w):
      return plain(x, w, 1, ((1, 1),) * 2)

    got = jax.jit(jax.grad(penalty, (0, 1)), static_argnums=(2, 3))(
        x, ws, ours, False)
    want = jax.jit(jax.grad(penalty, (0, 1)), static_argnums=(2, 3))(
        x, ws, theirs, True)
    assert_trees_close(got, want, 1e-11)

    shape = jax.eval_shape(functools.partial(conv.conv2d, stride=2), x, ws[0])
    assert shape.shape == (1, 2, 2, 2)
    assert shape.dtype == np.float64
    # Without jit the primitives run one by one.
    np.testing.assert_allclose(
        jax.grad(lambda x: jnp.sum(ours(x, ws[0])**2))(x),
        jax.grad(lambda x: jnp.sum(theirs(x, ws[0])**2))(x), rtol=1e-10)


def _r1(layer, x, w):
  """Loss and R1 gradients of a layer, all of them sums over the batch."""
  def loss(x, w):
    return jnp.sum(jnp.sin(layer(x, w)))

  def penalty(x, w):
    return jnp.sum(jax.grad(loss)(x, w)**2)

  return jax.grad(loss, 1)(x, w), jax.grad(penalty, 1)(x, w)


@pytest.mark.parametrize('layer, reference', [
    (lambda x, w: conv.conv2d(x, w, 2, 1),
     lambda x, w: plain(x, w, 2, ((1, 1),) * 2)),
    (lambda x, w: conv.conv2d_transpose(x, w, 2, 1, 1),
     lambda x, w: plain_transpose(x, w, 2, 1, 1))])
def test_eight_devices_equal_one(layer, reference):
  x, w = normal((16, 6, 6, 2), 0, np.float32), normal((3, 3, 2, 4), 1,
                                                      np.float32)
  expected = jax.jit(functools.partial(_r1, layer))(x, w)
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
  assert mesh.size == 8
  with jax.set_mesh(mesh):
    # The data axis is split, the kernel replicated, as in every train step.
    xs = jax.device_put(x, jax.NamedSharding(mesh, P('data')))
    ws = jax.device_put(w, jax.NamedSharding(mesh, P()))
    compiled, plainly = [
        jax.jit(functools.partial(_r1, f), out_shardings=P()).lower(
            xs, ws).compile() for f in (layer, reference)]
    assert_trees_close(compiled(xs, ws), expected, 1e-5)
  # Only gradients of the kernel travel: one of the loss, two terms of R1's.
  assert hlo.collectives(compiled) == hlo.collectives(plainly)
  assert hlo.collectives(compiled)['all-reduce'] == (1, 3 * w.nbytes)
  assert set(hlo.collectives(compiled)) == {'all-reduce'}


@pytest.mark.parametrize('layer', [
    lambda x, w: conv.conv2d(x, w, 2, 1),
    lambda x, w: conv.conv2d_transpose(x, w, 2, 1, 1)])
def test_shard_map_sums_the_gradient_of_a_replicated_kernel(layer):
  x, w = normal((16, 6, 6, 2), 0, np.float32), normal((3, 3, 2, 4), 1,
                                                      np.float32)
  expected = jax.jit(functools.partial(_r1, layer))(x, w)
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
  mapped = jax.shard_map(functools.partial(_r1, layer), mesh=mesh,
                         in_specs=(P('data'), P()), out_specs=P())
  assert_trees_close(jax.jit(mapped)(x, w), expected, 1e-5)


# What XLA makes of it.


def _programs(layer, x, w):
  """Forward, backward and R1-type double backward, compiled."""
  def loss(x, w):
    return jnp.sum(jax.nn.softplus(layer(x, w)))

  def r1(x, w):
    return jnp.sum(jax.grad(loss)(x, w)**2)

  for f in (layer, jax.grad(loss, (0, 1)), jax.grad(r1, (0, 1))):
    yield jax.jit(f).lower(x, w).compile()


GUARDED = {
    # The one layer that lax differentiates without a reversal.
    'stride 1': ((8, 3), lambda x, w: conv.conv2d(x, w, 1, 1), None),
    'stride 2': ((8, 4), lambda x, w: conv.conv2d(x, w, 2, 1),
                 lambda x, w: plain(x, w, 2, ((1, 1),) * 2)),
    'stride 2 VALID': ((9, 3), lambda x, w: conv.conv2d(x, w, 2, 'VALID'),
                       lambda x, w: plain(x, w, 2)),
    'full': ((8, 3), lambda x, w: conv.conv2d(x, w, 1, 2),
             lambda x, w: plain(x, w, 1, ((2, 2),) * 2)),
    'transposed 3/2/0': ((8, 3),
                         lambda x, w: conv.conv2d_transpose(x, w, 2),
                         lambda x, w: plain_transpose(x, w, 2, 0)),
    'transposed 4/2/1': ((8, 4),
                         lambda x, w: conv.conv2d_transpose(x, w, 2, 1),
                         lambda x, w: plain_transpose(x, w, 2, 1)),
    'transposed 5/2/2 on 4x4': (
        (4, 5), lambda x, w: conv.conv2d_transpose(x, w, 2, 2, 1),
        lambda x, w: plain_transpose(x, w, 2, 2, 1)),
    '5x5 on 4x4': ((4, 5), lambda x, w: conv.conv2d(x, w, 1, 2),
                   lambda x, w: plain(x, w, 1, ((2, 2),) * 2)),
}


@pytest.mark.parametrize('name', GUARDED)
def test_no_reversed_convolution_at_any_order(name):
  (size, k), ours, theirs = GUARDED[name]
  x = jax.ShapeDtypeStruct((2, size, size, 8), jnp.float32)
  w = jax.ShapeDtypeStruct((k, k, 8, 8), jnp.float32)
  counts = [hlo.reversed_convolutions(p) for p in _programs(ours, x, w)]
  assert counts == [0, 0, 0]
  # The guard sees what it is there for.
  if theirs is not None:
    counts = [hlo.reversed_convolutions(p) for p in _programs(theirs, x, w)]
    assert sum(counts) > 0


@pytest.mark.parametrize('name', GUARDED)
def test_no_naive_convolution_in_a_loop_or_a_condition(name):
  """XLA on CPU brings axes to its fast order in the entry alone."""
  (size, k), layer, _ = GUARDED[name]
  x = jax.ShapeDtypeStruct((2, size, size, 8), jnp.float32)
  w = jax.ShapeDtypeStruct((k, k, 8, 8), jnp.float32)

  def loss(x, w):
    return jnp.sum(jax.nn.softplus(layer(x, w)))

  def r1(x, w):
    return jnp.sum(jax.grad(loss)(x, w)**2)

  def steps(x, w):
    def step(w, i):
      w = w - jax.grad(r1, 1)(x, w) - jax.grad(loss, 1)(x, w)
      return lax.cond(i % 2 == 0, lambda w: w - jax.grad(r1, 1)(x, w),
                      lambda w: w, w), None

    return lax.scan(step, w, jnp.arange(5))[0]

  compiled = jax.jit(steps).lower(x, w).compile()
  assert ' while(' in compiled.as_text()
  assert hlo.reversed_convolutions(compiled) == 0


# Of so many pixels that the kernel's gradient on CPU is a product.
LARGE = {
    'large': (17, 18, (3, 3), 1, ((1, 1), (1, 1))),
    'large, stride 2 VALID': (34, 33, (3, 3), 2, ((0, 0), (0, 0))),
    'large, crop': (40, 33, (3, 2), (2, 1), ((-1, 1), (1, 0))),
    'large 1x1': (16, 16, (1, 1), 1, ((0, 0), (0, 0))),
}


@pytest.mark.parametrize('case', [*CASES, *LARGE])
@pytest.mark.parametrize('groups', [1, 2])
def test_every_platform_computes_the_same(case, groups):
  """The forms for a GPU and for others, run here, equal that for a CPU."""
  h, w, kernel, stride, padding = {**CASES, **LARGE}[case]
  strides = (stride, stride) if isinstance(stride, int) else stride
  x = normal((2, h, w, 2 * groups), 0, np.float32)
  k = normal((*kernel, 2, 3 * groups), 1, np.float32)
  y = np.asarray(plain(x, k, stride, padding, groups))
  low = (padding[0][0], padding[1][0])
  for emit, operands, size in (
      (conv._forward, (x, k), y.shape[1:3]),
      (conv._to_image, (y, k), x.shape[1:3]),
      (conv._to_kernel, (x, y), k.shape[:2])):
    cpu, gpu, other = (
        emit(*operands, stride=strides, low=low, size=size, groups=groups,
             precision=None, platform=platform)
        for platform in ('cpu', 'gpu', 'any'))
    assert_trees_close([gpu, other], [cpu, cpu], 1e-5)


@pytest.mark.parametrize('case', LARGE)
@pytest.mark.parametrize('channels', [(1, 5), (5, 1), (4, 3)])
def test_gradients_of_kernels_however_their_taps_are_shifts(case, channels):
  """Few channels of one side take all the taps, equal ones share them."""
  h, w, kernel, stride, padding = LARGE[case]
  strides = (stride, stride) if isinstance(stride, int) else stride
  x = normal((2, h, w, channels[0]), 0)
  k = normal((*kernel, *channels), 1)
  with jax.enable_x64(True):
    y, pull = jax.vjp(lambda k: plain(jnp.asarray(x), k, stride, padding),
                      jnp.asarray(k))
    g = jnp.asarray(normal(y.shape, 2))
    found = conv._by_product(jnp.asarray(x), g, strides,
                             (padding[0][0], padding[1][0]), kernel, None)
    np.testing.assert_allclose(found, pull(g)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('size, taps, stride, products', [
    (16, 3, 1, 1), (16, 1, 1, 1), (16, 3, 2, 9), (15, 3, 1, 0), (16, 5, 1, 0)])
def test_gradients_of_kernels_are_products_on_cpu(size, taps, stride, products):
  image = jax.ShapeDtypeStruct((2, stride * size, stride * size, 3),
                               jnp.float32)
  output = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  for platform in ('cpu', 'gpu', 'any'):
    emitted = jax.make_jaxpr(functools.partial(
        conv._to_kernel, stride=(stride, stride), low=(taps // 2,) * 2,
        size=(taps, taps), groups=1, precision=None,
        platform=platform))(image, output)
    found = str(emitted).count('dot_general')
    assert found == (products if platform == 'cpu' else 0)


# Layers.


def test_conv_layer_has_the_parameters_and_values_of_flax():
  x = jnp.asarray(normal((2, 7, 7, 4), 0, np.float32))
  ours = conv.Conv(6, (3, 3), 2, 'SAME', groups=2)
  theirs = nn.Conv(6, (3, 3), 2, 'SAME', feature_group_count=2)
  variables = theirs.init(jax.random.key(0), x)
  params = ours.init(jax.random.key(0), x)
  assert jax.tree.all(jax.tree.map(
      lambda a, b: bool(jnp.all(a == b)), params, variables))
  variables['params']['bias'] += 0.5
  np.testing.assert_allclose(ours.apply(variables, x),
                             theirs.apply(variables, x), rtol=1e-5, atol=1e-5)
  bare = conv.Conv(6, 3, padding=((1, 1), (1, 1)), use_bias=False)
  params = bare.init(jax.random.key(0), x)['params']
  assert jax.tree.map(jnp.shape, params) == {'kernel': (3, 3, 4, 6)}


def test_transposed_layer_equals_that_of_torch():
  x = normal((2, 4, 4, 3), 0, np.float32)
  reference = torch.nn.ConvTranspose2d(3, 5, 3, 2, 1, output_padding=1)
  layer = conv.ConvTranspose(5, 3, 2, 1, 1)
  shapes = jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x)['params'])
  assert shapes == {'kernel': (3, 3, 3, 5), 'bias': (5,)}
  params = {
      'kernel': reference.weight.detach().numpy().transpose(2, 3, 0, 1),
      'bias': reference.bias.detach().numpy(),
  }
  y = layer.apply({'params': params}, x)
  expected = reference(torch.tensor(x.transpose(0, 3, 1, 2)))
  np.testing.assert_allclose(
      y, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('layer', [
    conv.Conv(4, 3, 2, 1, dtype=jnp.bfloat16),
    conv.ConvTranspose(4, 4, 2, 1, dtype=jnp.bfloat16)])
def test_layers_keep_float32_parameters_and_compute_in_dtype(layer):
  x = jnp.ones((1, 6, 6, 3))
  variables = layer.init(jax.random.key(0), x)
  assert {a.dtype for a in jax.tree.leaves(variables)} == {np.dtype('float32')}
  assert layer.apply(variables, x).dtype == jnp.bfloat16

  def loss(variables, x):
    return jnp.sum(layer.apply(variables, x).astype(jnp.float32))

  def penalty(variables, x):
    return jnp.sum(jax.grad(loss, 1)(variables, x)**2)

  program = jax.make_jaxpr(jax.grad(penalty))(variables, x)
  types = set(sum(hlo.conv_operand_dtypes(program), ()))
  assert types == {np.dtype(jnp.bfloat16)}
  gradients = jax.eval_shape(jax.grad(loss), variables, x)
  assert {a.dtype for a in jax.tree.leaves(gradients)} == {np.dtype('float32')}


def test_precision_reaches_every_derivative():
  x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))

  def lowered(layer):
    def loss(x, w):
      return jnp.sum(layer(x, w)**2)

    return jax.jit(jax.grad(loss, (0, 1))).lower(x, w).as_text()

  named = lowered(lambda x, w: conv.conv2d(x, w, precision='highest'))
  with jax.default_matmul_precision('highest'):
    default = lowered(conv.conv2d)
  for text in (named, default):
    assert text.count('stablehlo.convolution') == 3
    assert text.count('precision HIGHEST') == 2 * 3
