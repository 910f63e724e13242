"""What every converter hands to the command: a checkpoint of a system."""

from collections.abc import Iterator
import contextlib
import dataclasses
from typing import Any

from gans_jax.core import errors

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
  """Weights with the config that they imply.

  Attributes:
    system: its name.
    settings: {dotted config key: value}, `data.resolution` and
      `data.channels` among them.
    nets: {net: Flax variables}, the live weights. Nets that the file lacks
      are left as the system initializes them.
    ema: {net: Flax variables}, averaged ones; by default the live ones.
    num_classes: of the labels; 0 without.
    extra: (key, shape, dtype name) of what batches hold beside images.
  """

  system: str
  settings: dict[str, Any]
  nets: dict[str, Variables]
  ema: dict[str, Variables] = dataclasses.field(default_factory=dict)
  num_classes: int = 0
  extra: tuple[tuple[str, tuple[int, ...], str], ...] = ()


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
  """Says of arrays and settings of another kind than a network has where.

  Raises:
    UserError: what is read within is of another network, or damaged.
  """
  try:
    yield
  except (ArithmeticError, AttributeError, IndexError, KeyError,
          RecursionError, TypeError, ValueError) as e:
    raise errors.UserError(
        f'{path} has a part that no such network has ({type(e).__name__}: '
        f'{str(e):.300}). Check the file and --format.') from e
