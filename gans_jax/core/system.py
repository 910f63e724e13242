"""The contract between a paper's module and everything else.

A system is a frozen dataclass `System` in gans_jax/systems/<name>.py, made by
that module's `create(config, spec)`; there is no class to inherit from. The
module also has `default_config()`, a ConfigDict with every key of `model`,
`optimizer`, `loss` and whatever else the system reads.

Members of a System:
  nets: {name: linen module}.
  players: {player: tuple of nets}, what one optimizer updates.
  requires: batch keys it needs.
  conditions: names of what `generate` can be conditioned on ('label').
  options: names of what `generate` takes as keyword arguments.
  batches_per_step: batches that one train step consumes (n_critic).
  init(key) -> TrainState.
  train_step(state, batch, frozen) -> (state, logs): pure, jitted by the
    caller. Batch leaves are [batches_per_step, B, ...]; logs are float32
    scalars named 'loss/d', 'logits/real', ...
  latents(keys [N]) -> z [N, ...].
  generate(variables, keys [N], conditions, **options) -> float32
    [N, H, W, C] in [-1, 1]. Image i depends on keys[i] and on row i of the
    conditions alone. `conditions` may hold 'z' to replace the latents.
  generate_by_batch(variables, keys, conditions, **options) -> (the same in
    the networks' training mode, {net: its changed collections}): batch
    normalization uses the statistics of these N samples, which then depend on
    each other. Where a generator can have batch normalization.
  map_latents(variables, z, conditions) -> w [N, ...], the latents that
    `conditions` may hold as 'w'. Where there is such a space.
  num_ws: layers that a w enters; 'w' may be [N, num_ws, ...], one for each.
    The average w is `variables['G']['moving']['w_avg']`.
  outputs: {name: fn(variables, batch, keys)} for paired tasks: 'reconstruct'
    gives images [N, H, W, C] in [-1, 1], 'tokens' int [N, ...] below
    `codebook_size`.
  has_prior: True of a system that reconstructs and yet has a distribution of
    its own to draw from (VAE): samples, not reconstructions, are shown and
    scored.
  frozen() -> {name: tree}: pretrained constants, neither trained nor
    checkpointed (core/tokenizer.py). `generate` and `outputs` find them among
    their variables, {**variables, **frozen}; `train_step` is given them too.
  loss_constants() -> {name: tree}: what `train_step` alone needs beside them,
    such as the network of a perceptual distance. Where there is such; a
    trained system samples without.
  stages, at_stage(stage): of a system that changes batch size or resolution
    on its way; see core/stages.py. The members above are then of the whole
    run, those of `at_stage(stage)` the same but for its `train_step`.
"""

import jax

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.data import spec as spec_lib


def create(config: config_lib.ConfigDict, spec: spec_lib.DataSpec):
  """Builds the system that a config names.

  Args:
    config: a full config, as `config.base` gives.
    spec: facts about the data.

  Raises:
    UserError: no such system, a value it refuses, or batch keys that the
      data set does not have.
  """
  module = config_lib.system_module(config.system)
  height, width, _ = spec.image_shape
  if height != width and not getattr(module, 'ANY_ASPECT', False):
    raise errors.UserError(
        f'The images of {config.data.source!r} are {width}x{height}, but the '
        f'system {config.system!r} makes squares (stylegan2 makes others '
        'too). Prepare square ones with `python -m gans_jax.prepare '
        '--crop=center`.')
  system = module.create(config, spec)
  missing = [key for key in system.requires if key not in spec.keys]
  if missing:
    hint = ''
    if 'label' in missing:
      hint = (" For labels set --config.data.labels (such as 'class'; emoji: "
              "'group', 'subgroup', 'tone', 'vendor').")
    raise errors.UserError(
        f'The system {config.system!r} needs {", ".join(missing)} in every '
        f'batch, but the data source {config.data.source!r} with '
        f'data.labels={config.data.labels!r} gives only '
        f'{", ".join(spec.keys)}.{hint}')
  return system


def loss_constants(system) -> dict:
  """Returns what `train_step` needs beside `frozen()`; {} of most systems.

  Raises:
    UserError: what it is read from is missing.
  """
  return getattr(system, 'loss_constants', dict)()


def abstract_state(system, seed: int = 0):
  """Returns the TrainState as shapes, without computing anything."""
  return jax.eval_shape(system.init, jax.random.key(seed))


def check_square_power_of_two(system: str, spec: spec_lib.DataSpec,
                              smallest: int) -> None:
  """Refuses resolutions that are not a power of two of at least `smallest`."""
  r = spec.resolution
  if r < smallest or r & (r - 1):
    raise errors.UserError(
        f'The system {system!r} supports resolutions that are powers of two '
        f'from {smallest} on, but data.resolution is {r}. Set '
        f'--config.data.resolution (28-pixel data sets: 32).')


def num_classes(config: config_lib.ConfigDict, spec: spec_lib.DataSpec,
                key: str = 'conditional') -> int:
  """Returns the classes where model.<key> is set; 0 where it is off.

  Raises:
    UserError: the data have no labels.
  """
  if not config.model[key]:
    return 0
  if not spec.num_classes:
    raise errors.UserError(
        f'config.model.{key} is set, but the data have no labels. Set '
        "--config.data.labels (such as 'class'; emoji: 'group'), or "
        f'--config.model.{key}=false.')
  return spec.num_classes
