"""Model FLOPs: the convolutions and matrix products that a function asks for.

Counted in the program as written, over all devices, before the compiler
merges, pads, splits or repeats anything. XLA's own figure
(`compiled.cost_analysis()`) counts the body of a loop once, however often it
runs: a step of five critic updates as little more than one of them.

A multiplication and the addition after it are two FLOPs. Padding counts as
pixels, zeros between pixels do not; elementwise work is left out.
"""

from collections.abc import Callable
from collections.abc import Iterator
import math
from typing import Any

import jax
from jax.extend import core as jex_core
from jax.interpreters import partial_eval


def of(function: Callable[..., Any], *args: Any) -> float:
  """FLOPs of `function(*args)`, without what none of its results needs.

  Args:
    function: any function that `jax.jit` takes.
    *args: arrays, or trees of arrays or of ShapeDtypeStruct.
  """
  return count(needed(jax.make_jaxpr(function)(*args)))


def needed(jaxpr: Any) -> jex_core.Jaxpr:
  """Returns a jaxpr without what none of its results needs."""
  return partial_eval.dce_jaxpr(_open(jaxpr), True)[0]


def count(jaxpr: Any) -> float:
  """FLOPs of a jaxpr and of the jaxprs inside it.

  A scan counts as often as it runs, a condition as its dearest branch (a lazy
  penalty as if it were due), a shard_map on all devices of its manual axes. A
  while loop counts once: nothing says how often it runs. What
  `jax.checkpoint` computes again counts again.

  Args:
    jaxpr: the result of `jax.make_jaxpr(f)(...)`, or a jaxpr inside one.
  """
  return sum((_equation(equation) for equation in _open(jaxpr).eqns), 0.0)


def _open(jaxpr: Any) -> jex_core.Jaxpr:
  return jaxpr.jaxpr if isinstance(jaxpr, jex_core.ClosedJaxpr) else jaxpr


def _inner(value: Any) -> Iterator[Any]:
  """Jaxprs in a parameter of an equation, alone or in (nested) sequences."""
  if isinstance(value, jex_core.ClosedJaxpr | jex_core.Jaxpr):
    yield value
  elif isinstance(value, tuple | list):
    for item in value:
      yield from _inner(item)


def _equation(equation: jex_core.JaxprEqn) -> float:
  name, params = equation.primitive.name, equation.params
  if name in _RULES:
    shapes = [x.aval.shape for x in (*equation.invars, *equation.outvars)]
    return 2.0 * _RULES[name](*shapes, params)
  parts = [count(jaxpr) for value in params.values() for jaxpr in _inner(value)]
  if name == 'cond':
    return max(parts)
  if name == 'scan':
    return params['length'] * sum(parts)
  if name == 'shard_map':
    # The shapes inside are those of one device.
    devices = math.prod(params['mesh'].shape[axis]
                        for axis in params['newly_manual_axes'])
    return devices * sum(parts)
  return sum(parts, 0.0)


# Multiplications of one equation by its shapes (operands, result) and
# parameters.


def _dot_general(a, b, out, params):
  del b
  (contracted, _), _ = params['dimension_numbers']
  return math.prod(out) * math.prod(a[i] for i in contracted)


def _conv_general_dilated(image, kernel, out, params):
  del image
  # Input features (of one group) and space; all but the output features.
  taps = [kernel[i] for i in params['dimension_numbers'].rhs_spec[1:]]
  return math.prod(out) * math.prod(taps) / math.prod(params['lhs_dilation'])


# The maps of gans_jax/nn/conv.py are one trilinear form with a different array
# left out, and cost the same: for x [N, H, W, G*I], w [kh, kw, I, G*O] and
# y [N, h, w, G*O], each pixel of y and tap of w multiplies I x G*O pairs.


def _conv2d(x, w, y, params):
  del x, params
  return math.prod(y) * math.prod(w[:3])


def _conv2d_to_image(y, w, x, params):
  return _conv2d(x, w, y, params)


def _conv2d_to_kernel(x, y, w, params):
  return _conv2d(x, w, y, params)


_RULES = {
    'dot_general': _dot_general,
    'conv_general_dilated': _conv_general_dilated,
    'conv2d': _conv2d,
    'conv2d_to_image': _conv2d_to_image,
    'conv2d_to_kernel': _conv2d_to_kernel,
}
