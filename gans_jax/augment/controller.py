"""The strength of ADA's augmentations during a run.

Karras et al. 2020, arXiv:2006.06676, section 3.1. Two heuristics say how far
D overfits, 0 not at all and 1 completely:

  'ada'    r_t = E[sign(D(x))] over training images x
  'adarv'  r_v = (E[D(x)] - E[D(v)]) / (E[D(x)] - E[D(G(z))]), with a
           validation set of images v that D is not trained on

where D sees everything augmented. Every four iterations the mean since the
last time is compared with a target, and p moves by a fixed step, so that it
could go from 0 to 1 in `kimg` thousand images (500, or 100 for a run that
starts from trained weights). p stays at or above 0; nothing but `cap` holds it
at 1, as in the code: above 1 it does no more than 1, and has to come back.

'fixed' keeps p; 'none' augments nothing. 'diffaugment' has no strength, and is
not done here: losses/regularizers.py.

Deviation: r_t is from D's main update alone. The PyTorch code counts the
images of the pass for R1, every sixteenth iteration, once more.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from gans_jax.augment import ada
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.data import pipeline as pipeline_lib
from gans_jax.data import spec as spec_lib

ConfigDict = config_dict.ConfigDict
Memory = dict[str, jax.Array]

KINDS = ('none', 'fixed', 'ada', 'adarv', 'diffaugment')
TARGETS = {'ada': 0.6, 'adarv': 0.5}
# Means over a step's batch that each heuristic averages over iterations.
STATISTICS = {'ada': ('signs/real',),
              'adarv': ('logits/real', 'logits/fake', 'logits/valid')}


def default_config() -> ConfigDict:
  """Returns the keys of `config.augment`."""
  return ConfigDict(dict(
      kind='none',        # 'fixed', 'ada', 'adarv', 'diffaugment'
      pipeline='bgc',     # transformations, see augment/ada.py
      p=0.0,              # of 'fixed'; of the others at the start
      target=-1.0,        # -1: 0.6 of 'ada', 0.5 of 'adarv'
      kimg=500.0,         # in which p can go from 0 to 1
      every=4,            # iterations from one adjustment to the next
      cap=0.0,            # largest p; 0: none
      # Images of 'adarv', none of them in the training data.
      valid_source='',    # '' is data.source
      valid_split='test',
      valid_num=2048,     # as many of them are kept on every device
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'Controller':
  """Builds the controller that `config.augment` asks for.

  Args:
    config: a full config, with `default_config()` as `augment`.
    spec: facts about the data.

  Raises:
    UserError: a value that it refuses.
  """
  augment = config.augment
  config_lib.check_choice(config, 'augment.kind', KINDS)
  config_lib.check_choice(config, 'augment.pipeline', tuple(ada.SETS))
  config_lib.check_positive(config, 'augment.kimg', 'augment.every',
                            'augment.valid_num')
  for key in ('p', 'cap'):
    if not augment[key] >= 0:
      raise errors.UserError(
          f'config.augment.{key} is {augment[key]}, must be 0 or more.')
  if augment.kind == 'fixed' and not 0 < augment.p <= 1:
    raise errors.UserError(
        f"config.augment.kind is 'fixed' and config.augment.p is {augment.p}: "
        'set p, the probability of each augmentation, above 0 and up to 1.')
  if not (0 <= augment.target <= 1 or augment.target == -1):
    raise errors.UserError(
        f'config.augment.target is {augment.target}, expected 0 to 1, or -1 '
        'for the default.')
  pipeline = ada.pipeline(augment.pipeline)
  kind = 'none' if augment.kind == 'diffaugment' else augment.kind
  if kind != 'none' and pipeline.contrast and spec.channels not in (1, 3):
    raise errors.UserError(
        f'config.augment.pipeline is {augment.pipeline!r}, which changes '
        f'colours, but the images have {spec.channels} channels: it takes 1 '
        "or 3. Set --config.augment.pipeline=bg, or kind='none'.")
  target = augment.target
  if target == -1:
    target = TARGETS.get(kind, 0.0)
  return Controller(kind=kind, pipeline=pipeline, target=target,
                    start=augment.p, every=augment.every, cap=augment.cap,
                    step_size=config.batch_size * augment.every
                    / (augment.kimg * 1000))


@dataclasses.dataclass(frozen=True)
class Controller:
  """Augments, and adapts how much.

  Attributes:
    kind: of `KINDS` but 'diffaugment'.
    pipeline: the augmentations.
    target: of the heuristic.
    start: p at the start.
    every: iterations from one adjustment to the next.
    step_size: by which p moves.
    cap: largest p; 0 for none.
  """

  kind: str
  pipeline: ada.Pipeline
  target: float
  start: float
  every: int
  step_size: float
  cap: float = 0.0

  def constants(self, config: ConfigDict,
                keys: Sequence[str]) -> dict[str, Any]:
    """Reads the validation images of 'adarv'.

    Args:
      config: a full config.
      keys: what is needed of each example, such as ('image', 'label').

    Returns:
      {'valid': {key: [M, ...]}}, or {}.

    Raises:
      UserError: no such images.
    """
    if self.kind != 'adarv':
      return {}
    augment = config.augment
    data = config.data.copy_and_resolve_references()
    if augment.valid_source:
      data.source = augment.valid_source
    data.limit = augment.valid_num
    dataset = pipeline_lib.open_dataset(data, augment.valid_split)
    examples = [dataset[i] for i in range(len(dataset))]
    return {'valid': {key: np.stack([e[key] for e in examples])
                      for key in keys}}

  @property
  def adapts(self) -> bool:
    return self.kind in STATISTICS

  def init(self) -> Memory:
    """Returns what is remembered from step to step, checkpointed in `aux`."""
    if self.kind == 'none':
      return {}
    memory = {'p': jnp.asarray(self.start, jnp.float32)}
    if self.adapts:
      memory['r'] = jnp.zeros([], jnp.float32)
      memory['sums'] = {name: jnp.zeros([], jnp.float32)
                        for name in STATISTICS[self.kind]}
    return memory

  def augment(self, keys: jax.Array, images: jax.Array,
              memory: Memory) -> jax.Array:
    """Returns what D sees of images [N, H, W, C], by keys [N]."""
    if self.kind == 'none':
      return images
    return ada.augment(keys, images, memory['p'], self.pipeline)

  def update(self, memory: Memory, statistics: Mapping[str, jax.Array],
             step: jax.Array) -> Memory:
    """Returns the memory after a step.

    Args:
      memory: before it.
      statistics: has those of `STATISTICS`, means over the global batch.
      step: int32 scalar, steps done before it.
    """
    if not self.adapts:
      return memory
    sums = {name: total + statistics[name].astype(jnp.float32)
            for name, total in memory['sums'].items()}
    r = self._heuristic({name: x / self.every for name, x in sums.items()})
    p = jnp.maximum(
        memory['p'] + jnp.sign(r - self.target) * self.step_size, 0.0)
    if self.cap:
      p = jnp.minimum(p, self.cap)
    due = (step + 1) % self.every == 0
    return {'p': jnp.where(due, p, memory['p']),
            'r': jnp.where(due, r, memory['r']),
            'sums': {name: jnp.where(due, 0.0, x) for name, x in sums.items()}}

  def _heuristic(self, means: Mapping[str, jax.Array]) -> jax.Array:
    if self.kind == 'ada':
      return means['signs/real']
    real = means['logits/real']
    # A D that prefers the generated images overfits nothing.
    spread = jnp.maximum(real - means['logits/fake'], 1e-8)
    return (real - means['logits/valid']) / spread

  def logs(self, memory: Memory) -> dict[str, jax.Array]:
    """Returns p and the heuristic's last value, by name."""
    return {f'augment/{name}': memory[name] for name in ('p', 'r')
            if name in memory}
