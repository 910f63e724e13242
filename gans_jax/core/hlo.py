"""Counting in a program: what the compiler made of it, and in which types.

The guards of a program that is meant for a pod are counts: no collective that
the algorithm does not need, no convolution that XLA turned into the form its
CPU backend runs in a naive loop, no float32 convolution in a bfloat16 block.
"""

from collections.abc import Iterator
import functools
import math
import re
from typing import Any

from jax.extend import core as jex_core
import numpy as np

COLLECTIVES = (
    'all-gather',
    'all-reduce',
    'all-to-all',
    'collective-broadcast',
    'collective-permute',
    'ragged-all-to-all',
    'reduce-scatter',
)

# `conv_general_dilated` and the three maps of gans_jax/nn/conv.py.
CONVOLUTIONS = frozenset((
    'conv_general_dilated',
    'conv2d',
    'conv2d_to_image',
    'conv2d_to_kernel',
))

# An instruction: `%name = type op(operands), attributes`.  The type is an array
# `f32[2,3]{1,0}` or a tuple of them.
_INSTRUCTION = re.compile(
    r'^\s*(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\(')
_ARRAY = re.compile(r'\b([a-z][a-z0-9]*)\[([\d,<= ]*)\]')
_DIM_LABELS = re.compile(r'dim_labels=(\w+)_(\w+)->(\w+)')

# A computation: `%name (parameters) -> type {`, its instructions, `}`.
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
_CALLED = re.compile(
    r'\b(body|condition|calls|to_apply|true_computation|false_computation|'
    r'branch_computations|called_computations)=(?:%?([\w.-]+)|\{([^}]*)\})')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INTEGER = re.compile(r'[su]\d+\[\]\S* constant\((\d+)\)')


def _text(compiled: Any) -> str:
  return compiled if isinstance(compiled, str) else compiled.as_text()


def _instructions(text: str) -> Iterator[tuple[str, str, str]]:
  """Yields (op, type of the result, line)."""
  for line in text.splitlines():
    match = _INSTRUCTION.match(line)
    if match:
      yield match.group(2), match.group(1), line


def _bytes(result: str) -> int:
  """Bytes of an HLO type, `f32[2,3]{1,0}` or a tuple of such."""
  total = 0
  for name, dims in _ARRAY.findall(result):
    shape = [int(re.sub(r'\D', '', d)) for d in dims.split(',') if d]
    # Types narrower than a byte (s4) count as stored packed.
    bits = 8 if name == 'pred' else int(re.search(r'\d+', name).group())
    total += -(-math.prod(shape) * bits // 8)
  return total


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns ({computation: its lines}, the name of the first to run)."""
  found, entry, name = {}, '', ''
  for line in text.splitlines():
    match = _COMPUTATION.match(line)
    if match:
      name = match.group(2)
      entry = name if match.group(1) else entry
    found.setdefault(name, []).append(line)
  return found, entry


def _called(line: str) -> list[tuple[str, str]]:
  """Returns (how, computation) of each that an instruction calls."""
  return [(how, name.strip().lstrip('%')) for how, one, several
          in _CALLED.findall(line) for name in (one or several).split(',')]


def _trips(line: str, computations: dict[str, list[str]]) -> int:
  """How often a while loop runs; 1 where nothing says."""
  known = _TRIPS.search(line)
  if known:
    return int(known.group(1))
  # As the TPU's compiler writes it: a counter is compared with a constant.
  condition = computations.get(dict(_called(line)).get('condition', ''), [])
  inner = [name for each in condition for _, name in _called(each)]
  lines = [*condition, *(each for name in inner
                         for each in computations.get(name, []))]
  return max((int(n) for each in lines for n in _INTEGER.findall(each)),
             default=1)


def runs(text: str) -> dict[str, int]:
  """How often each computation of a program runs, as far as the text says.

  The body of a `scan` runs as often as it is long, each branch of a condition
  once (as if it were due).

  Args:
    text: HLO of a whole module; in a piece of one, everything runs once.
  """
  computations, entry = _computations(text)
  if not entry:
    return dict.fromkeys(computations, 1)
  calls = {}  # computation -> [(caller, times)]
  for caller, lines in computations.items():
    for line in lines:
      for how, name in _called(line):
        times = _trips(line, computations) if how == 'body' else 1
        calls.setdefault(name, []).append((caller, times))

  @functools.cache
  def count(name):
    if name == entry:
      return 1
    return sum(count(caller) * times for caller, times in calls.get(name, ()))

  return {name: count(name) for name in computations}


def collectives(compiled: Any,
                repeated: bool = False) -> dict[str, tuple[int, int]]:
  """Collectives in a compiled program, as seen by one device.

  An asynchronous pair (`-start`, `-done`) is one collective.

  Args:
    compiled: `jax.jit(f).lower(...).compile()`, or its HLO text.
    repeated: an instruction inside a loop counts as often as it runs, see
      `runs`; otherwise once.

  Returns:
    {kind: (number of instructions, bytes of their results)}, only the kinds
    that occur; kinds are named as in HLO ('all-reduce', 'all-gather', ...).
  """
  text = _text(compiled)
  computations, _ = _computations(text)
  times = runs(text) if repeated else dict.fromkeys(computations, 1)
  found = {}
  for name, lines in computations.items():
    for op, result, _ in _instructions('\n'.join(lines)):
      # The result of a `-start` holds its operands too; `-done`'s does not.
      kind = op.removesuffix('-done')
      if kind in COLLECTIVES and times[name]:
        count, size = found.get(kind, (0, 0))
        found[kind] = (count + times[name],
                       size + times[name] * _bytes(result))
  return found


def reversed_convolutions(compiled: Any) -> int:
  """Convolutions that XLA on CPU runs in its naive loop (~100x slower).

  XLA exchanges the operands of a convolution whose kernel is larger than its
  image and asks for a reversed window; the CPU backend then neither brings
  the op to its canonical layout nor hands it to a fast library.  Both marks
  are counted: `rhs_reversal` in the window, and dimension labels other than
  batch, space, feature (as in `01fb_o01i->f01b`).  Layouts are free on other
  platforms: there only the first mark means something.

  Args:
    compiled: `jax.jit(f).lower(...).compile()`, or its HLO text.
  """
  count = 0
  for op, _, line in _instructions(_text(compiled)):
    if op == 'convolution':
      labels = _DIM_LABELS.search(line)
      image, _, output = labels.groups() if labels else ('bf', '', 'bf')
      plain = all(name[0] == 'b' and name[-1] == 'f'
                  for name in (image, output))
      count += 'rhs_reversal=' in line or not plain
  return count


def _jaxprs(value: Any) -> Iterator[jex_core.Jaxpr]:
  """Jaxprs in a parameter of an equation, alone or in (nested) sequences."""
  if isinstance(value, jex_core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, jex_core.Jaxpr):
    yield value
  elif isinstance(value, tuple | list):
    for item in value:
      yield from _jaxprs(item)


def equations(jaxpr: Any) -> Iterator[jex_core.JaxprEqn]:
  """Every equation of a jaxpr and of the jaxprs inside it (scan, cond, jit).

  Args:
    jaxpr: the result of `jax.make_jaxpr(f)(...)`, or a jaxpr inside one.
  """
  for inner in _jaxprs(jaxpr):
    for equation in inner.eqns:
      yield equation
      for value in equation.params.values():
        yield from equations(value)


def conv_operand_dtypes(jaxpr: Any) -> list[tuple[np.dtype, np.dtype]]:
  """Types of the two operands of every convolution, in program order.

  The guard of a precision policy: in a bfloat16 block all of them must be
  bfloat16.  One float64 NumPy scalar (`np.sqrt(2) * x`) is enough to turn the
  rest of a network to float32, without a word.

  Args:
    jaxpr: the result of `jax.make_jaxpr(f)(...)`.
  """
  return [
      tuple(np.dtype(operand.aval.dtype) for operand in equation.invars)
      for equation in equations(jaxpr)
      if equation.primitive.name in CONVOLUTIONS
  ]
