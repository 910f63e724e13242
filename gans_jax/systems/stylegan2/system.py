"""StyleGAN2's training and sampling; see the package."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import optax

from gans_jax.augment import controller as controller_lib
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import generation
from gans_jax.core import images
from gans_jax.core import mesh
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import stages as stages_lib
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.losses import adversarial
from gans_jax.losses import path_length
from gans_jax.losses import penalties
from gans_jax.losses import regularizers as regularizers_lib
from gans_jax.nn import growing
from gans_jax.nn import minibatch
from gans_jax.nn import w_space
from gans_jax.systems import progan
from gans_jax.systems.stylegan2 import networks
from gans_jax.systems.stylegan2 import presets

ConfigDict = config_dict.ConfigDict

NOISE_MODES = ('random', 'const', 'none')

# Table 1; config A is systems/stylegan.py as it stands. D grows as that does.
CONFIG_D: dict[str, Any] = {
    'model.G': 'orig', 'model.D': 'orig', 'model.channel_base': 16384,
    'growing.first_resolution': 8,
    'growing.batch_sizes': ((8, 256), (16, 128), (32, 64), (64, 32)),
    'growing.lr': ((128, 0.0015), (256, 0.002), (512, 0.003), (1024, 0.003)),
    'optimizer.G.lr': 1e-3, 'optimizer.D.lr': 1e-3}
CONFIG_C: dict[str, Any] = {**CONFIG_D, 'loss.pl_weight': 0.0}
CONFIG_B: dict[str, Any] = {**CONFIG_C, 'loss.pl_every': 1,
                            'loss.r1_every': 1}
# Without growing. Weights of R1 on other data: experiments/stylegan2.
CONFIG_E: dict[str, Any] = {'model.channel_base': 16384,
                            'loss.r1_gamma': 100.0}
CONFIG_F: dict[str, Any] = {'model.channel_base': 32768}

# Table 2, in the paper's order, on config E.
TABLE_2: dict[str, dict[str, Any]] = {
    f'{g}_{d}': {**CONFIG_E, 'model.G': g, 'model.D': d}
    for g in networks.ARCHITECTURES for d in networks.ARCHITECTURES}

# What the argument `debug` of experiments sets: seconds of compile time.
TINY: dict[str, Any] = {
    'model.channel_base': 64, 'model.channel_max': 8, 'model.z_dim': 8,
    'model.w_dim': 8, 'model.mapping_layers': 2, 'model.d_mapping_layers': 2,
    'loss.pl_every': 2, 'loss.r1_every': 3, 'data.resolution': 8,
    'compile.level': 0}
# The same of what grows: 8x8 and 16x16 in three stages of two steps.
TINY_GROWING: dict[str, Any] = {
    **TINY, 'data.resolution': 16, 'growing.repeats': 1,
    'growing.batch_sizes': (), 'growing.stable_kimg': 0.015,
    'growing.fade_kimg': 0.017}


def default_config() -> ConfigDict:
  """Returns every key that this system reads: config F, FFHQ."""
  adam = dict(b1=0.0, b2=0.99, eps=1e-8)
  return ConfigDict(dict(
      batch_size=32,
      model=dict(
          G='skip',                  # table 2: 'orig', 'skip', 'resnet'
          D='resnet',
          channel_base=32768,        # channels: base / resolution
          channel_max=512,
          z_dim=512,
          w_dim=512,
          mapping_layers=8,
          mapping_lr=0.01,
          conditional=False,         # by the class of data.labels
          d_mapping_layers=8,        # of its label; 0: the TensorFlow code
          mbstd_group=4,
          mbstd_channels=1,          # 0: none
          mbstd_order='contiguous',  # or 'strided', as in the code
          bf16_blocks=4,             # with dtype='bfloat16'
          conv_clamp=0.0,            # 256 in ADA's trainer; 0: none
          w_avg_beta=0.995,
      ),
      # Networks of figure 2d from first_resolution on; 0: nothing grows.
      growing=stages_lib.default_config(first_resolution=0),
      loss=dict(
          objective='non_saturating',
          r1_gamma=10.0,             # 0: none
          r1_every=16,
          r1_form='grad',            # or 'jvp'
          pl_weight=2.0,             # 0: none
          pl_every=4,
          pl_decay=0.01,
          pl_batch_shrink=2,
          pl_form='grad',            # or 'jvp'
          style_mixing=0.9,          # probability
          **regularizers_lib.loss_config(),
      ),
      optimizer=dict(
          G=optimizers.default_config('adam', 2e-3, **adam),
          D=optimizers.default_config('adam', 2e-3, **adam),
      ),
      # Half-life in images; rampup=0.05 in ADA's 'auto'.
      ema=dict(decay=0.0, start=0, kimg=10.0, rampup=0.0),
      augment={**regularizers_lib.augment_config(),
               **controller_lib.default_config()},
      preset=dict(name='', devices=0),  # what presets.py assigned
  ))


def image_shape_of(spec: spec_lib.DataSpec) -> networks.ImageShape:
  """(height, width, channels) of the data's images, refusing bad ones."""
  height, width, channels = spec.image_shape
  powers = all(n > 0 and n & (n - 1) == 0 for n in (height, width))
  if not powers or max(height, width) < 8 or (
      max(height, width) > 4 * min(height, width)):
    raise errors.UserError(
        f"The system 'stylegan2' makes images of {height} x {width}? It "
        'supports sides that are powers of two from 8 on, the longer at most '
        'four times the other. Set --config.data.resolution (28-pixel data '
        'sets: 32).')
  return height, width, channels


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  shape = image_shape_of(spec)
  stages = _stages(config, shape)
  parts = stages.parts if stages else stages_lib.of(config, None).parts
  _check(config, shape, parts)
  model = config.model
  pyramid = networks.Pyramid(shape, model.channel_base, model.channel_max,
                             jnp.dtype(config.dtype), model.bf16_blocks)
  classes = system_lib.num_classes(config, spec)
  clamp = model.conv_clamp or None
  first_lod = progan.first_lod(stages, spec.resolution) if stages else None
  nets = {
      'G': networks.Generator(pyramid, model.G, clamp, model.w_dim,
                              model.mapping_layers, classes, model.mapping_lr,
                              first_lod),
      'D': networks.Discriminator(
          pyramid, model.D, clamp, classes, model.d_mapping_layers,
          model.mapping_lr, model.mbstd_group, model.mbstd_channels,
          model.mbstd_order),
  }
  return System(config=config, nets=nets, stages=stages, stage=parts[-1],
                classes=classes,
                controller=controller_lib.create(config, spec),
                regularizers=regularizers_lib.create(
                    config, controller_lib.KINDS),
                objective=adversarial.get(config.loss.objective),
                image_shape=shape, num_ws=networks.num_ws(pyramid),
                noise_size=networks.noise_size(pyramid),
                requires=('image', 'label') if classes else ('image',),
                conditions=('label', 'w') if classes else ('w',))


def _stages(config: ConfigDict,
            shape: networks.ImageShape) -> stages_lib.Stages | None:
  """Returns the stages of a run that grows, None of one that does not."""
  if not config.growing.first_resolution:
    return None
  for key, value in (('model.G', 'orig'), ('model.D', 'orig'),
                     ('augment.kind', 'none'),
                     ('optimizer.G.lr_schedule', 'constant'),
                     ('optimizer.D.lr_schedule', 'constant')):
    found = config_lib.flatten(config)[key]
    if found != value:
      raise errors.UserError(
          f'config.growing.first_resolution is '
          f'{config.growing.first_resolution}, but config.{key} is {found!r}: '
          f'what grows supports {value!r} alone. Set it so, or '
          '--config.growing.first_resolution=0 for no growing.')
  if shape[0] != shape[1]:
    raise errors.UserError(
        f'Images of {shape[0]} x {shape[1]} do not grow: set '
        '--config.growing.first_resolution=0.')
  return stages_lib.growing(config, shape[0])


def make_optimizers(config: ConfigDict, stage: stages_lib.Stage
                    ) -> dict[str, optax.GradientTransformation]:
  """Returns {player: Adam of a stage, corrected for its lazy penalty}."""
  every = {'G': config.loss.pl_every, 'D': config.loss.r1_every}
  # Rates of a run that grows do not depend on its length.
  updates = 1 if stage.resolution else config_lib.total_steps(config)
  tx = {}
  for player, k in every.items():
    values = ConfigDict(config.optimizer[player].to_dict())
    values.lr = stages_lib.at_resolution(config.growing.lr, stage.resolution,
                                         values.lr)
    tx[player] = optimizers.make(optimizers.lazy_correction(values, k),
                                 updates)
  return tx


def _check(config: ConfigDict, shape: networks.ImageShape,
           stages: tuple[stages_lib.Stage, ...]) -> None:
  """Refuses values; see `create`."""
  model, loss = config.model, config.loss
  for key, choices in (
      ('model.G', networks.ARCHITECTURES), ('model.D', networks.ARCHITECTURES),
      ('model.mbstd_order', minibatch.ORDERS),
      ('loss.r1_form', ('grad', 'jvp')), ('loss.pl_form', ('grad', 'jvp'))):
    config_lib.check_choice(config, key, choices)
  config_lib.check_positive(
      config, 'model.channel_base', 'model.channel_max', 'model.z_dim',
      'model.w_dim', 'model.mapping_layers', 'model.mapping_lr',
      'model.mbstd_group', 'loss.r1_every', 'loss.pl_every',
      'loss.pl_batch_shrink')
  top = max(shape[:2])
  if model.channel_base < top:
    raise errors.UserError(
        f'config.model.channel_base is {model.channel_base}, which leaves no '
        f'channel at {top} pixels (channels are base / resolution): set it to '
        f'{top} or more.')
  for key in ('model.conv_clamp', 'model.bf16_blocks', 'model.mbstd_channels',
              'model.d_mapping_layers', 'loss.r1_gamma', 'loss.pl_weight'):
    value = config_lib.flatten(config)[key]
    if not value >= 0:
      raise errors.UserError(f'config.{key} is {value}, must be 0 or more.')
  for key, value in (('model.w_avg_beta', model.w_avg_beta),
                     ('loss.pl_decay', loss.pl_decay),
                     ('loss.style_mixing', loss.style_mixing)):
    if not 0.0 <= value <= 1.0:
      raise errors.UserError(f'config.{key} is {value}, expected 0 to 1.')
  for batch_size in {stage.batch_size: None for stage in stages}:
    _check_batch(config, batch_size)
  channels = min(model.channel_base // 4, model.channel_max)
  if model.mbstd_channels and channels % model.mbstd_channels:
    raise errors.UserError(
        f'config.model.mbstd_channels is {model.mbstd_channels}, which does '
        f'not divide the {channels} channels at 4x4.')


def _check_batch(config: ConfigDict, batch_size: int) -> None:
  """Refuses a batch that does not divide as model and loss need it."""
  model, loss = config.model, config.loss
  piece = batch_size // config.microbatches
  group = min(model.mbstd_group, piece)
  if model.mbstd_channels and piece % group:
    raise errors.UserError(
        f'config.model.mbstd_group is {model.mbstd_group}, which does not '
        f'divide the {piece} examples of a batch (batch_size / microbatches). '
        'Set it to a divisor.')
  shrink = loss.pl_batch_shrink * config.microbatches
  if loss.pl_weight and batch_size % shrink:
    raise errors.UserError(
        f'config.batch_size is {batch_size}, of which path length '
        f'regularization takes 1/{loss.pl_batch_shrink} in '
        f'{config.microbatches} microbatch(es): it must be a multiple of '
        f'{shrink}. Set --config.loss.pl_batch_shrink=1 or another batch.')


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """StyleGAN2; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  stages: stages_lib.Stages | None
  stage: stages_lib.Stage
  classes: int
  objective: adversarial.Objective
  image_shape: networks.ImageShape
  num_ws: int
  noise_size: int
  requires: tuple[str, ...]
  conditions: tuple[str, ...]
  controller: controller_lib.Controller
  regularizers: regularizers_lib.Regularizers

  players = {'G': ('G',), 'D': ('D',)}
  options = ('truncation', 'truncation_cutoff', 'noise')
  batches_per_step = 1
  outputs = {}

  @property
  def notes(self) -> tuple[str, ...]:
    return presets.notes(self.config, max(self.image_shape[:2]))

  def frozen(self) -> dict:
    return {}

  def loss_constants(self) -> dict:
    return self.controller.constants(self.config, self.requires)

  def at_stage(self, stage: stages_lib.Stage) -> 'System':
    """Returns the same system with the train step of `stage`."""
    return dataclasses.replace(self, stage=stage)

  @property
  def tx(self) -> dict[str, optax.GradientTransformation]:
    return make_optimizers(self.config, self.stage)

  @property
  def _here(self) -> networks.Pyramid:
    """Shapes at the stage, whose resolution is the highest."""
    pyramid = self.nets['G'].pyramid
    if not self.stages:
      return pyramid
    r = self.stage.resolution
    return dataclasses.replace(pyramid,
                               image_shape=(r, r, self.image_shape[2]))

  def _lod(self, state) -> jax.Array | None:
    """How far growing is, None where nothing grows."""
    if not self.stages:
      return None
    return growing.lod(self.image_shape[0], self.stage, state.step)

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z = jnp.zeros((1, self.config.model.z_dim))
    x = jnp.zeros((1, *self.image_shape))
    labels = jnp.zeros((1,), jnp.int32) if self.classes else None
    nets = {
        'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, labels, None),
        'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x, labels,
                                 0.0 if self.stages else None),
    }
    zero = jnp.zeros([], jnp.float32)
    aux = {'pl_mean': zero, 'lazy_logs': {
        name: zero for name in self._lazy_log_names()},
           **self.regularizers.init()}
    if memory := self.controller.init():
      aux['augment'] = memory
    return state_lib.create(key, nets, self.players, self.tx, ema=('G',),
                            aux=aux)

  def _lazy_log_names(self):
    names = []
    if self._lazy('G'):
      names += ['penalty/path_length', 'path_length/length', 'grad_norm/G_reg']
    if self._lazy('D'):
      names += ['penalty/r1', 'grad_norm/D_reg']
    return names

  def _lazy(self, player: str) -> bool:
    """Whether the player's penalty is an update of its own."""
    loss = self.config.loss
    weight, every = ((loss.pl_weight, loss.pl_every) if player == 'G' else
                     (loss.r1_gamma, loss.r1_every))
    return weight > 0 and every > 1

  # -- Sampling --

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], normal, row i from keys[i]."""
    return rng.normals(keys, self.config.model.z_dim)

  def map_latents(self, variables, z: jax.Array,
                  conditions=None) -> jax.Array:
    """Returns w [N, w_dim] of z, not truncated; see core/system.py.

    Args:
      variables: {'G': variables}.
      z: [N, z_dim].
      conditions: holds 'label' [N] where the model is conditional.
    """
    labels = (conditions or {}).get('label')
    return self.nets['G'].apply(variables['G'], z, labels, method='map')

  def generate(self, variables, keys: jax.Array, conditions=None, *,
               truncation: float = 1.0, truncation_cutoff: int | None = None,
               noise: str = 'random') -> jax.Array:
    """Returns images [N, H, W, C]; see core/system.py.

    Args:
      variables: {'G': variables}.
      keys: [N].
      conditions: may hold 'z' [N, z_dim], 'w' [N, w_dim] or [N, num_ws, w_dim]
        and 'label' [N] where the model is conditional; labels are drawn from
        the keys otherwise.
      truncation: psi; 1 for none.
      truncation_cutoff: layers that are truncated, counted from 4x4; all by
        default.
      noise: 'random' (image i's from keys[i]), 'const' (the fixed maps) or
        'none'.
    """
    if noise not in NOISE_MODES:
      raise errors.UserError(
          f'The sampling option noise is {noise!r}, expected one of: '
          f'{", ".join(NOISE_MODES)}.')
    ws = (conditions or {}).get('w')
    if ws is None:
      ws = self.map_latents(
          variables, generation.latents(self, keys, conditions),
          {'label': generation.labels(keys, conditions, self.classes)})
    ws = w_space.broadcast(ws, self.num_ws)
    if truncation != 1.0:
      ws = w_space.truncate(ws, variables['G']['moving']['w_avg'],
                            truncation, truncation_cutoff)
    maps = None
    if noise == 'random':
      maps = jax.vmap(lambda k: jax.random.normal(
          rng.named(k, 0, 'noise'), (self.noise_size,)))(keys)
    elif noise == 'const':
      maps = self.nets['G'].apply(variables['G'], method='constant_noise')
    return self.nets['G'].apply(variables['G'], ws, maps, method='synthesize')

  # -- Training --

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """G main, G path length, D main, D R1, average; see core/system.py."""
    batch = step.first_of(batch)
    real = {'image': images.to_unit(batch['image'])}
    if self.stages:
      state, real['image'] = self._grow(state, real['image'])
    if self.classes:
      real['label'] = batch['label']
    state, g_logs = self._g_main(state, real)
    if self._lazy('G'):
      state = self._when_due(state, 'G', self.config.loss.pl_every,
                             functools.partial(self._g_penalty, real=real))
    state, d_logs = self._d_main(state, real)
    if self._lazy('D'):
      state = self._when_due(state, 'D', self.config.loss.r1_every,
                             functools.partial(self._d_penalty, real=real))
    logs = {**d_logs, **g_logs, **state.aux['lazy_logs']}
    if self.stages:
      logs['lod'] = self._lod(state)
    if 'valid' in frozen:
      logs['logits/valid'] = self._valid_logits(state, frozen['valid'])
    state, logs = self._adapt(state, logs)
    if self.config.loss.pl_weight:
      logs['path_length/mean'] = state.aux['pl_mean']
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.stage.batch_size)
    state = step.finish(state, beta)
    # The average w and the fixed noise are copied, not averaged.
    copies = jax.tree.map(jnp.copy, state.mvars['G'])
    return state.replace(ema={'G': {**state.ema['G'], **copies}}), logs

  def _grow(self, state, real):
    """Returns (the state at its lod, real images that fade with it)."""
    state = growing.reset_optimizers(self.stage, state, self.players, self.tx)
    if self.stage.fade_images:
      real = growing.fade_images(real, self.stage.fade(state.step))
    return growing.keep_lod(state, self._lod(state)), real

  def _when_due(self, state, player: str, every: int, update):
    """Does `update(state) -> state` of one player at every k-th step."""
    def pick(s):
      return s.params[player], s.opt[player], s.mvars, s.aux

    def put(parts):
      params, opt, mvars, aux = parts
      return state.replace(params={**state.params, player: params},
                           opt={**state.opt, player: opt}, mvars=mvars,
                           aux=aux)

    # Only what the player changes goes through the condition: the rest of
    # the state would be copied.
    return put(jax.lax.cond(
        state.step % every == 0, lambda parts: pick(update(put(parts))),
        lambda parts: parts, pick(state)))

  def _draw(self, state, name: str, real, count: int, further: int = 0):
    """Draws what G needs for a pass.

    Args:
      state: the state.
      name: of the pass, which has latents of its own.
      real: 'label' [B] of real images, of which `count` are taken.
      count: images, a divisor of B.
      further: numbers to draw for each image beside those.

    Returns:
      (inputs, the cutoff of mixing or None): 'z' and 'z_mixed' [N, z_dim],
      'noise' [N, P], 'label' [N], 'further' [N, further].
    """
    z_dim, mixing = self.config.model.z_dim, self.config.loss.style_mixing
    sizes = {'z': z_dim, 'z_mixed': z_dim if mixing else 0,
             'noise': networks.noise_size(self._here), 'further': further}
    # One draw for all: random bits are a good part of the compile time.
    draws = mesh.shard_batch(jax.random.normal(
        rng.named(state.key, state.step, f'latents/{name}'),
        (count, sum(sizes.values()))))
    inputs, start = {}, 0
    for what, size in sizes.items():
      inputs[what] = draws[:, start:start + size]
      start += size
    if self.classes:
      stride = real['image'].shape[0] // count
      inputs['label'] = mesh.shard_batch(real['label'][::stride])
    if not mixing:
      return inputs, None
    key = rng.named(state.key, state.step, f'mixing/{name}')
    # Layers above the stage are not there yet.
    layers = networks.num_ws(self._here)
    cutoff = jax.random.randint(key, (), 1, layers)
    mixed = jax.random.bernoulli(jax.random.fold_in(key, 1), mixing)
    return inputs, jnp.where(mixed, cutoff, layers)

  def _augmentation_keys(self, state, name: str, count: int) -> jax.Array:
    key = rng.named(state.key, state.step, f'augment/{name}')
    return mesh.shard_batch(rng.per_example(key, 0, count))

  def _styles(self, params, mvars, inputs, cutoff):
    """Returns (ws [N, L, C], G's collections with the new average w)."""
    apply = functools.partial(self.nets['G'].apply, {'params': params, **mvars},
                              method='map')
    w = apply(inputs['z'], inputs.get('label'))
    average = mvars['moving']['w_avg']
    mean = jax.lax.stop_gradient(jnp.mean(w, 0))
    average = mean + self.config.model.w_avg_beta * (average - mean)
    ws = w_space.broadcast(w, self.num_ws)
    if cutoff is not None:
      layers = jnp.arange(self.num_ws).reshape(1, -1, 1)
      mixed = w_space.broadcast(
          apply(inputs['z_mixed'], inputs.get('label')), self.num_ws)
      ws = jnp.where(layers < cutoff, ws, mixed)
    return ws, {**mvars, 'moving': {**mvars['moving'], 'w_avg': average}}

  def _synthesize(self, params, mvars, ws, noise):
    return self.nets['G'].apply(
        {'params': params, **mvars}, ws, noise,
        stage=self.stage if self.stages else None, method='synthesize')

  def _images(self, params, mvars, inputs, cutoff):
    ws, changed = self._styles(params, mvars, inputs, cutoff)
    return self._synthesize(params, mvars, ws, inputs['noise']), changed

  def _seen(self, keys, x, state):
    """What D sees of images: ADA's augmentations, DiffAugment's, or x."""
    x = self.controller.augment(keys, x, state.aux.get('augment', {}))
    return self.regularizers.augment(keys, x)

  def _judge(self, params, labels, state, x):
    return self.nets['D'].apply({'params': params}, x, labels,
                                self._lod(state), self.stage)

  def _logits(self, params, keys, x, labels, state):
    return self._judge(params, labels, state, self._seen(keys, x, state))

  def _valid_logits(self, state, valid):
    """Mean of D on the next images of the validation set, augmented."""
    count = self.config.batch_size
    every = valid['image'].shape[0]
    start = jax.lax.rem(state.step, every) * (count % every)
    rows = (start + jnp.arange(count)) % every
    batch = mesh.shard_batch({k: v[rows] for k, v in valid.items()})
    keys = self._augmentation_keys(state, 'valid', count)
    return jnp.mean(self._logits(
        mesh.replicate(state.params['D']), keys,
        images.to_unit(batch['image']), batch.get('label'), state))

  def _adapt(self, state, logs):
    """Moves the strength of augmentation by what D made of the step."""
    if 'augment' not in state.aux:
      return state, logs
    memory = state.aux['augment']
    logs = {**logs, **self.controller.logs(memory)}
    memory = self.controller.update(memory, logs, state.step)
    return state.replace(aux={**state.aux, 'augment': memory}), logs

  def _update(self, state, player, loss_fn, inputs):
    return step.update_player(
        state, player, self.players[player], self.tx[player], loss_fn, inputs,
        self.config.microbatches)

  def _g_main(self, state, real):
    count = real['image'].shape[0]
    inputs, cutoff = self._draw(state, 'g', real, count)
    inputs['keys'] = self._augmentation_keys(state, 'g', count)
    inputs = {'main': inputs}
    penalized = self._with_penalty('G')
    if penalized:
      inputs['penalty'], pl_cutoff = self._path_inputs(state, real)
    if self.objective.g_uses_real:
      inputs['real'] = real
      inputs['real_keys'] = self._augmentation_keys(state, 'g_real', count)
    d_params = mesh.replicate(state.params['D'])

    def loss_fn(params, mvars, inputs):
      main = inputs['main']
      fake, changed = self._images(params['G'], mvars['G'], main, cutoff)
      logits = self._logits(d_params, main['keys'], fake, main.get('label'),
                            state)
      real_logits = None
      if self.objective.g_uses_real:
        real_logits = self._logits(
            d_params, inputs['real_keys'], inputs['real']['image'],
            inputs['real'].get('label'), state)
      value = self.objective.g_loss(real_logits, logits)
      logs = {'loss/g': value}
      if penalized:
        penalty, length, changed = self._path_length(
            params['G'], changed, inputs['penalty'], pl_cutoff, state.aux)
        logs |= {'penalty/path_length': penalty, 'path_length/length': length}
        value = value + penalty
      return value, ({'G': changed}, logs)

    state, logs = self._update(state, 'G', loss_fn, inputs)
    return (self._with_length(state, logs) if penalized else state), logs

  def _with_penalty(self, player: str) -> bool:
    """Whether the penalty is a term of the player's main loss."""
    loss = self.config.loss
    weight = loss.pl_weight if player == 'G' else loss.r1_gamma
    return weight > 0 and not self._lazy(player)

  def _path_inputs(self, state, real):
    count = real['image'].shape[0] // self.config.loss.pl_batch_shrink
    pieces = self.config.microbatches * _devices()
    if count % pieces:
      raise errors.UserError(
          f'Path length regularization takes {count} images (batch_size / '
          f'loss.pl_batch_shrink), which do not split over {pieces} '
          '(devices x microbatches). Set --config.loss.pl_batch_shrink=1, or '
          'another batch_size or number of devices.')
    return self._draw(state, 'pl', real, count,
                      math.prod(self._here.image_shape))

  def _path_length(self, params, mvars, inputs, cutoff, aux):
    """Returns (penalty, mean length, G's changed collections)."""
    loss = self.config.loss
    ws, changed = self._styles(params, mvars, inputs, cutoff)
    penalty, length = path_length.path_length(
        lambda ws: self._synthesize(params, mvars, ws, inputs['noise']),
        ws, inputs['further'].reshape(-1, *self._here.image_shape),
        aux['pl_mean'], loss.pl_weight, loss.pl_decay, loss.pl_form)
    return penalty, length, changed

  def _with_length(self, state, logs):
    """Moves the average of path lengths by that of the step."""
    mean = path_length.average(state.aux['pl_mean'],
                               logs['path_length/length'],
                               self.config.loss.pl_decay)
    return state.replace(aux={**state.aux, 'pl_mean': mean})

  def _g_penalty(self, state, real):
    inputs, cutoff = self._path_inputs(state, real)

    def loss_fn(params, mvars, inputs):
      penalty, length, changed = self._path_length(
          params['G'], mvars['G'], inputs, cutoff, state.aux)
      logs = {'penalty/path_length': penalty, 'path_length/length': length}
      return self.config.loss.pl_every * penalty, ({'G': changed}, logs)

    state, logs = self._update(state, 'G', loss_fn, inputs)
    return self._remember(self._with_length(state, logs), 'G', logs)

  def _remember(self, state, player, logs):
    """Keeps the logs of a penalty until it is next due."""
    logs = dict(logs)
    logs[f'grad_norm/{player}_reg'] = logs.pop(f'grad_norm/{player}')
    return state.replace(aux={**state.aux, 'lazy_logs': {
        **state.aux['lazy_logs'], **logs}})

  def _d_main(self, state, real):
    count = real['image'].shape[0]
    inputs, cutoff = self._draw(state, 'd', real, count)
    inputs = {'real': real, 'fake': inputs,
              'real_keys': self._augmentation_keys(state, 'd_real', count),
              'fake_keys': self._augmentation_keys(state, 'd_fake', count)}
    g_params = mesh.replicate(state.params['G'])

    def loss_fn(params, mvars, inputs):
      fake, changed = self._images(g_params, mvars['G'], inputs['fake'], cutoff)

      def judged(kind, x):
        keys = inputs[f'{kind}_keys']
        judge = functools.partial(self._judge, params['D'],
                                  inputs[kind].get('label'), state)
        x = self._seen(keys, x, state)
        return regularizers_lib.Judged(judge, x, judge(x), keys)

      fake = judged('fake', jax.lax.stop_gradient(fake))
      real = judged('real', inputs['real']['image'])
      value = self.objective.d_loss(real.logits, fake.logits)
      terms = self.regularizers.terms(state, real, fake)
      logs = {'loss/d': value,
              'logits/real': jnp.mean(real.logits),
              'logits/fake': jnp.mean(fake.logits),
              'signs/real': jnp.mean(jnp.sign(real.logits)),
              'signs/fake': jnp.mean(jnp.sign(fake.logits)), **terms}
      value = sum(terms.values(), value)
      if self._with_penalty('D'):
        logs['penalty/r1'] = self._r1(params['D'], inputs['real'],
                                      inputs['real_keys'], state)
        value = value + logs['penalty/r1']
      return value, ({'G': changed}, logs)

    return self.regularizers.remember(
        *self._update(state, 'D', loss_fn, inputs))

  def _r1(self, params, real, keys, state):
    loss = self.config.loss
    gamma = loss.r1_gamma
    if self.stages:
      gamma *= growing.pixel_scale(self.image_shape[0], self.stage)**2
    return penalties.r1(
        lambda x: self._logits(params, keys, x, real.get('label'), state),
        real['image'], gamma, loss.r1_form)

  def _d_penalty(self, state, real):
    inputs = {'real': real, 'keys': self._augmentation_keys(
        state, 'r1', real['image'].shape[0])}

    def loss_fn(params, mvars, inputs):
      del mvars
      penalty = self._r1(params['D'], inputs['real'], inputs['keys'], state)
      return self.config.loss.r1_every * penalty, ({}, {'penalty/r1': penalty})

    state, logs = self._update(state, 'D', loss_fn, inputs)
    return self._remember(state, 'D', logs)


def _devices() -> int:
  """Devices along the batch of the mesh in force."""
  current = jax.sharding.get_abstract_mesh()
  return 1 if current.empty else current.shape.get('data', 1)
