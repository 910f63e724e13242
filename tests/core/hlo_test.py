"""Counts in programs whose counts are known."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import hlo

P = jax.sharding.PartitionSpec


def _mesh():
  return jax.sharding.Mesh(np.array(jax.devices()), ('data',))


def test_collectives_and_their_bytes():
  mesh = _mesh()
  split = jax.NamedSharding(mesh, P('data'))
  whole = jax.NamedSharding(mesh, P())
  x = jax.device_put(np.ones((16, 3), np.float32), split)

  total = jax.jit(lambda x: jnp.sum(x, 0), out_shardings=whole)
  assert hlo.collectives(total.lower(x).compile()) == {
      'all-reduce': (1, 3 * 4)}

  gather = jax.jit(lambda x: x * 2, out_shardings=whole)
  assert hlo.collectives(gather.lower(x).compile()) == {
      'all-gather': (1, 16 * 3 * 4)}

  local = jax.jit(lambda x: x * 2, out_shardings=split)
  assert hlo.collectives(local.lower(x).compile()) == {}

  def shift(x):
    return lax.ppermute(x, 'data', [(i, (i + 1) % 8) for i in range(8)])

  shift = jax.jit(jax.shard_map(shift, mesh=mesh, in_specs=P('data'),
                                out_specs=P('data')))
  assert hlo.collectives(shift.lower(x).compile()) == {
      'collective-permute': (1, 2 * 3 * 4)}


def test_asynchronous_pairs_and_tuples_count_once():
  # As the TPU and GPU compilers write them.
  text = '''
  %ag = (f32[2,3]{1,0:T(8,128)}, f32[16,3]{1,0}) all-gather-start(%p)
  %agd = f32[16,3]{1,0:T(8,128)} all-gather-done(%ag)
  ROOT %ar.1 = (f32[4]{0}, bf16[2,5]{1,0}, f32[]) all-reduce(%a, %b, %c)
  %t = (f32[4]{0}, /*index=1*/pred[3]{0}) tuple(%a), metadata={op="all-reduce("}
  %rs = s4[6]{0} reduce-scatter(%q)
'''
  assert hlo.collectives(text) == {
      'all-gather': (1, 16 * 3 * 4),
      'all-reduce': (1, 4 * 4 + 10 * 2 + 4),
      'reduce-scatter': (1, 3),
  }


def test_a_loop_counts_as_often_as_it_runs():
  mesh = _mesh()
  x = jax.ShapeDtypeStruct((16, 3), np.float32,
                           sharding=jax.NamedSharding(mesh, P('data')))

  def sums(x):
    def body(total, i):
      def inner(total, j):
        return total + jnp.sum(x * total[None] * j, 0), None

      return lax.scan(inner, total, jnp.arange(3.0))[0] + i, None

    total, _ = lax.scan(body, jnp.zeros(3), jnp.arange(5.0))
    return total + jnp.sum(x)

  program = jax.jit(sums).lower(x).compile()
  once, size = hlo.collectives(program)['all-reduce']
  assert (once, size) == (2, 3 * 4 + 4)
  assert hlo.collectives(program, repeated=True) == {
      'all-reduce': (5 * 3 + 1, 15 * 3 * 4 + 4)}


def test_a_loop_of_the_tpu_compiler():
  text = '''
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[]{:T(128)} add(%a, %b)
}

%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %ar = f32[4]{0:T(128)} all-reduce(%x), channel_id=1, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[4]{0}) tuple(%i, %ar)
}

%condition.1 (p: (s32[], f32[4])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%due (p: f32[4]) -> f32[4] {
  ROOT %ag = f32[4]{0} all-gather(%p), dimensions={0}
}

%not_due (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]{0}) while(%t.0), condition=%condition.1, body=%body.1
  ROOT %c = f32[4]{0} conditional(%q, %p, %p), true_computation=%due, ''' + (
      '''false_computation=%not_due
}
''')
  assert hlo.runs(text) == {'': 0, 'add': 5, 'body.1': 5, 'condition.1': 1,
                            'due': 1, 'not_due': 1, 'main': 1}
  assert hlo.collectives(text, repeated=True) == {
      'all-reduce': (5, 5 * 16), 'all-gather': (1, 16)}
  assert hlo.collectives(text)['all-reduce'] == (1, 16)


def _conv(x, w, padding):
  return lax.conv_general_dilated(
      x, w, (1, 1), ((padding, padding),) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def test_reversed_convolutions_of_a_known_case():
  x, w = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
  forward = jax.jit(lambda x, w: _conv(x, w, 1)).lower(x, w).compile()
  assert hlo.reversed_convolutions(forward) == 0
  # A kernel larger than its image: exchanged by XLA.
  forward = jax.jit(lambda x, w: _conv(x, w, 1)).lower(w.reshape(4, 3, 3, 4),
                                                       jnp.ones((5, 5, 4, 4)))
  assert hlo.reversed_convolutions(forward.compile()) == 1


def test_reversed_convolutions_of_text():
  line = '  ROOT %a = f32[4,8,8,2]{3,2,1,0} convolution(%x, %w), '
  plain = 'dim_labels=b01f_01io->b01f'
  count = hlo.reversed_convolutions
  assert count(line + 'window={size=3x3 pad=1_1x1_1}, ' + plain) == 0
  assert count(line + 'window={size=9x9 rhs_reversal=1x1}, ' + plain) == 1
  assert count(line + 'window={size=9x9}, dim_labels=01fb_o01i->f01b') == 1
  assert count('  %d = f32[2]{0} add(%x, %y), metadata={op="rhs_reversal= '
               'convolution("}') == 0


def test_conv_operand_dtypes_looks_into_everything():
  def layer(x, w):
    return _conv(x, w, 1)

  def nested(x, w):
    step = jax.checkpoint(lambda x, _: (layer(x, w), None))
    x, _ = lax.scan(step, x, None, length=2)
    x = lax.cond(x[0, 0, 0, 0] > 0, layer, lambda x, w: x, x, w)
    x = jax.jit(layer)(x, w)
    return layer(x.astype(jnp.float32), w.astype(jnp.float32))

  x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
  w = jnp.ones((3, 3, 2, 2), jnp.bfloat16)
  half, single = np.dtype(jnp.bfloat16), np.dtype(np.float32)
  found = hlo.conv_operand_dtypes(jax.make_jaxpr(nested)(x, w))
  assert found == [(half, half)] * 3 + [(single, single)]


def test_conv_operand_dtypes_sees_the_float64_constant_trap():
  x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
  w = jnp.ones((3, 3, 2, 2), jnp.bfloat16)

  def trapped(x, w):
    x = x * np.sqrt(2)
    return _conv(x, w.astype(x.dtype), 1)

  def safe(x, w):
    x = x * float(np.sqrt(2))
    return _conv(x, w.astype(x.dtype), 1)

  (types,) = hlo.conv_operand_dtypes(jax.make_jaxpr(trapped)(x, w))
  assert types == (np.float32, np.float32)
  (types,) = hlo.conv_operand_dtypes(jax.make_jaxpr(safe)(x, w))
  assert types == (jnp.bfloat16, jnp.bfloat16)
