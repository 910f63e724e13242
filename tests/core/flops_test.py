"""FLOPs of programs, against closed forms and against XLA's own count."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import flops
from gans_jax.nn import conv

P = jax.sharding.PartitionSpec
N, SIZE, K, IN, OUT = 3, 8, 4, 5, 6


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def product(x):
  """A matrix product of 2 * 4**3 FLOPs."""
  return x @ x


SQUARE, PRODUCT = array(4, 4), 2 * 4**3


def test_matrix_products():
  assert flops.of(jnp.matmul, array(3, 4), array(4, 5)) == 2 * 3 * 4 * 5
  assert flops.of(jnp.dot, array(7), array(7)) == 2 * 7
  # Batch axes count once, all contracted ones do.
  assert flops.of(lambda a, b: jnp.einsum('bijk,bjkl->bil', a, b),
                  array(2, 3, 4, 5), array(2, 4, 5, 6)) == (
                      2 * 2 * 3 * 4 * 5 * 6)
  gradient = jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), (0, 1))
  assert flops.of(gradient, array(3, 4), array(4, 5)) == 3 * 2 * 3 * 4 * 5


def lax_conv(x, w, stride=1, padding='SAME', **options):
  return lax.conv_general_dilated(
      x, w, (stride, stride), padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **options)


@pytest.mark.parametrize('function', [
    lax_conv, lambda x, w, s, p: conv.conv2d(x, w, s, p)])
def test_convolutions(function):
  x, w = array(N, SIZE, SIZE, IN), array(K, K, IN, OUT)
  for stride, padding, size in ((1, 'SAME', 8), (2, 'SAME', 4),
                                (1, 'VALID', 5), (3, 'VALID', 2)):
    assert flops.of(lambda x, w, s=stride, p=padding: function(x, w, s, p),
                    x, w) == 2 * N * size**2 * K**2 * IN * OUT


def test_feature_groups():
  x, w = array(N, SIZE, SIZE, 2 * IN), array(K, K, IN, 2 * OUT)
  expected = 2 * N * SIZE**2 * K**2 * IN * 2 * OUT
  assert flops.of(lambda x, w: lax_conv(x, w, feature_group_count=2),
                  x, w) == expected
  grouped = jax.grad(
      lambda x, w: jnp.sum(conv.conv2d(x, w, groups=2) ** 2), (0, 1))
  assert flops.of(grouped, x, w) == 3 * expected


def test_zeros_between_pixels_are_no_work():
  def up(x, w):
    return lax.conv_transpose(x, w, (2, 2), 'SAME',
                              dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  x, w = array(N, SIZE, SIZE, IN), array(K, K, IN, OUT)
  assert jax.eval_shape(up, x, w).shape == (N, 2 * SIZE, 2 * SIZE, OUT)
  once = 2 * N * SIZE**2 * K**2 * IN * OUT
  assert flops.of(up, x, w) == once
  # Nor are they in the gradient of a strided convolution, which `lax` and
  # ours write differently.
  for down in (lax_conv, conv.conv2d):
    gradient = jax.grad(lambda x, w, f=down: jnp.sum(f(x, w, 2) ** 2), (0, 1))
    assert flops.of(gradient, array(N, 2 * SIZE, 2 * SIZE, IN), w) == 3 * once


def strided(x, w):
  return conv.conv2d(x, w, 2, 1)


def transposed(x, w):
  return conv.conv2d_transpose(x, w, 2, 1)


@pytest.mark.parametrize('function,pixels', [(strided, 4**2),
                                             (transposed, 8**2)])
def test_triple(function, pixels):
  x, w = array(N, SIZE, SIZE, IN), array(K, K, IN, OUT)
  # Each map of the triple costs what the convolution does.
  once = 2 * N * pixels * K**2 * IN * OUT

  def loss(x, w):
    return jnp.sum(jnp.square(function(x, w)))

  assert flops.of(function, x, w) == once
  # Forward, and one transpose for each operand that is asked for.
  assert flops.of(jax.grad(loss, 0), x, w) == 2 * once
  assert flops.of(jax.grad(loss, 1), x, w) == 2 * once
  assert flops.of(jax.value_and_grad(loss, (0, 1)), x, w) == 3 * once
  # Value and two tangents.
  assert flops.of(lambda x, w: jax.jvp(function, (x, w), (x, w)),
                  x, w) == 3 * once

  def penalty(w, x):
    return jnp.sum(jnp.square(jax.grad(loss)(x, w)))

  # The penalty is y = F(x, w), g = T(y, w). Its gradient in w adds W and F
  # for T, then W for F.
  assert flops.of(penalty, w, x) == 2 * once
  assert flops.of(jax.value_and_grad(penalty), w, x) == 5 * once


def test_loops_count_as_often_as_they_run():
  def five(x):
    return lax.scan(lambda x, _: (product(x), None), x, None, 5)[0]

  assert flops.of(five, SQUARE) == 5 * PRODUCT
  assert flops.of(lambda x: lax.scan(
      lambda x, _: (five(x), None), x, None, 3)[0], SQUARE) == 15 * PRODUCT
  # Forward once and twice back: two operands of each product.
  assert flops.of(jax.grad(lambda x: jnp.sum(five(x))),
                  SQUARE) == 3 * 5 * PRODUCT
  # Known bounds make a scan of it.
  assert flops.of(lambda x: lax.fori_loop(0, 5, lambda i, x: product(x), x),
                  SQUARE) == 5 * PRODUCT
  # Unknown ones do not.
  assert flops.of(lambda x, n: lax.fori_loop(0, n, lambda i, x: product(x), x),
                  SQUARE, jax.ShapeDtypeStruct((), jnp.int32)) == PRODUCT


def test_conditions_count_as_their_dearest_branch():
  def choose(i, x):
    return lax.switch(i, [lambda x: x, lambda x: product(product(x)),
                          product], x)

  index = jax.ShapeDtypeStruct((), jnp.int32)
  assert flops.of(choose, index, SQUARE) == 2 * PRODUCT
  assert flops.of(lambda i, x: lax.scan(
      lambda x, _: (choose(i, x), None), x, None, 3)[0],
      index, SQUARE) == 6 * PRODUCT


@jax.custom_vjp
def custom(x):
  return product(x)


custom.defvjp(lambda x: (product(x), x), lambda x, g: (g,))


def test_functions_within_functions():
  inner = jax.jit(product)
  assert flops.of(lambda x: inner(inner(x)), SQUARE) == 2 * PRODUCT
  assert flops.of(custom, SQUARE) == PRODUCT
  assert flops.of(jax.vmap(product), array(7, 4, 4)) == 7 * PRODUCT
  # What is computed again counts again: two products and, for each, one more
  # on the way back and its two transposes (of the last, no value is needed).
  twice = jax.checkpoint(lambda x: jnp.sum(product(product(x))))
  assert flops.of(jax.value_and_grad(twice), SQUARE) == (2 + 1 + 4) * PRODUCT


def test_shard_map_counts_all_devices():
  mesh = jax.make_mesh((2, 4), ('data', 'model'),
                       axis_types=(jax.sharding.AxisType.Auto,) * 2)
  x, w = array(16, 4), array(4, 5)
  for axes, expected in ((('data', 'model'), 1), (('data',), 1), ((), 2)):
    split = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P(axes), P()),
                          out_specs=P(axes), axis_names={'data', *axes})
    # Without an axis of its own, 'data' does the same work twice.
    assert flops.of(split, x, w) == expected * 2 * 16 * 4 * 5


def test_what_no_result_needs_does_not_count():
  x, w = array(N, SIZE, SIZE, IN), array(K, K, IN, OUT)

  def wasteful(x, w):
    conv.conv2d(x, w)
    return x + 1

  assert flops.of(wasteful, x, w) == 0
  assert flops.count(jax.make_jaxpr(wasteful)(x, w)) == (
      2 * N * SIZE**2 * K**2 * IN * OUT)

  # Through jit and scan: the second of two carries is dropped.
  def both(carry, _):
    a, b = carry
    return (product(a), jax.jit(product)(b)), product(a)

  def first(a, b):
    return lax.scan(both, (a, b), None, 3)[0][0]

  assert flops.of(first, SQUARE, SQUARE) == 3 * PRODUCT


def test_xla_agrees_without_padding_and_loops():
  def net(x, kernels):
    for w in kernels:
      x = jax.nn.relu(conv.conv2d(x, w, padding='VALID'))
    return x.reshape(x.shape[0], -1)[:, :100] @ jnp.ones((100, 10))

  x = np.ones((2, 12, 12, 8), np.float32)
  kernels = [np.ones((3, 3, i, o), np.float32)
             for i, o in ((8, 16), (16, 16), (16, 32))]
  counted = flops.of(net, x, kernels)
  assert counted == 2 * 2 * 9 * (
      10**2 * 8 * 16 + 8**2 * 16 * 16 + 6**2 * 16 * 32) + 2 * 2 * 100 * 10
  cost = jax.jit(net).lower(x, kernels).compile().cost_analysis()
  assert cost['flops'] == pytest.approx(counted, rel=0.02)
