"""What every converter hands to the command: a checkpoint of a system."""

import dataclasses
from typing import Any

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
