"""SNGAN and the projection discriminator.

Miyato, Kataoka, Koyama, Yoshida 2018, "Spectral Normalization for Generative
Adversarial Networks", arXiv:1802.05957 (SN), and Miyato & Koyama 2018,
"cGANs with Projection Discriminator", arXiv:1802.05637 (P): the ResNets of
both (SN tables 4 and 5, P figure 14), in the authors' code
(pfnet-research/sngan_projection).

  G: z -> dense -> blocks, each up by 2 -> BN, ReLU, 3x3, tanh; with classes,
     batch normalization has a scale and an offset for each.
  D: blocks -> ReLU, sum over positions = h; every layer spectrally normalized.

How D is told the class y, model.conditioning:

  'none'        D = w h + b, and G without classes too
  'projection'  D = w h + b + <e(y), h>                 (P, equation 3)
  'concat'      e(y), of 128 channels, beside the maps after the third block
  'acgan'       D = w h + b, and class logits C h:      (Odena et al. 2017)
                L_D = L_hinge - E log p(y|x) - E log p(y|G(z,y)),
                L_G = -E D - E log p(y|G(z,y))

  resolution  G: blocks' channels       D: blocks' channels (* without pooling)
  to 32       ch each                   ch ch ch* ch*
  48          4 2 1 ch, from 8 ch @6    1 2 4 8 16* ch
  64          8 4 2 1 ch, from 16 ch    1 2 4 8 16 ch
  128         16 8 4 2 1 ch, from 16    1 2 4 8 16 16* ch
  256         16 8 8 4 2 1 ch, from 16  1 2 4 8 8 16 16* ch

Loss: hinge (P; SN equations 16 and 17). Dequantized images; Adam(0, 0.9), 5
updates of D for one of G, whose batch is twice D's.

Deviations:
1. n_dis updates of D, then one of G; the code updates G first. The order is
   the same from the first update of D on.
2. One power iteration before each update, whose vectors all its passes share
   (the code iterates in each pass through D: 2 n_dis + 1 times a step).
3. The learning rate decays at every update of its player, not once a step.
4. The code's running statistics move whenever G runs; here in G's update.
5. At 32 pixels and below, the map for 'concat' is the one after the last
   pooling (the code has 'concat' at 128 alone).
6. Weights of AC-GAN's losses are from memory of Odena et al.: one each.
7. Resampled convolutions are computed at the lower resolution: the same
   function (nn/spectral_norm.py).
"""

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

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import generation
from gans_jax.core import images
from gans_jax.core import mesh
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.data import spec as spec_lib
from gans_jax.losses import adversarial
from gans_jax.losses import classification
from gans_jax.losses import regularizers as regularizers_lib
from gans_jax.nn import gan_blocks
from gans_jax.nn import norm
from gans_jax.nn import spectral_norm

ConfigDict = config_dict.ConfigDict

CONDITIONING = ('projection', 'concat', 'acgan', 'none')
# Whose networks at 64 pixels: PyTorch-StudioGAN's D does not pool in its last
# block, and its BigGAN's G has half of the channels.
LAYOUTS = ('paper', 'studiogan')
CONCAT_CHANNELS = 128
BN_EPSILON = 2e-5  # Chainer's
# 3x3 layers of blocks are Glorot-uniform with gain sqrt(2); others gain 1.
BLOCK_INIT = nn.initializers.variance_scaling(2.0, 'fan_avg', 'uniform')


@dataclasses.dataclass(frozen=True)
class Plan:
  """Channels of a pair of networks.

  Attributes:
    bottom: side of G's first map.
    stem: its channels.
    g: output channels of G's blocks.
    d: output channels of D's blocks.
    pooled: how many of these halve the resolution, from the first on.
  """

  bottom: int
  stem: int
  g: tuple[int, ...]
  d: tuple[int, ...]
  pooled: int


_PLANS = {
    48: Plan(6, 8, (4, 2, 1), (1, 2, 4, 8, 16), 4),
    64: Plan(4, 16, (8, 4, 2, 1), (1, 2, 4, 8, 16), 5),
    128: Plan(4, 16, (16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    256: Plan(4, 16, (16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}


def plan(system: str, resolution: int, ch_g: int, ch_d: int,
         layout: str = 'paper') -> Plan:
  """Returns the channels at a resolution; `layout` is of `LAYOUTS`.

  Raises:
    UserError: there are no networks for it.
  """
  if resolution in (8, 16, 32):
    ups = int(math.log2(resolution)) - 2
    return Plan(4, ch_g, (ch_g,) * ups, (ch_d,) * 4, 2)
  if resolution not in _PLANS:
    raise errors.UserError(
        f'The system {system!r} supports the resolutions 8, 16, 32, 48, 64, '
        f'128 and 256, but data.resolution is {resolution}. Set '
        '--config.data.resolution (28-pixel data sets: 32).')
  found = _PLANS[resolution]
  if (layout, resolution) == ('studiogan', 64):
    found = dataclasses.replace(found, pooled=4)
  return dataclasses.replace(
      found, stem=found.stem * ch_g, g=tuple(ch_g * n for n in found.g),
      d=tuple(ch_d * n for n in found.d))


# --- Networks ---------------------------------------------------------------


class Generator(nn.Module):
  """(z [N, z_dim], labels [N] or None) -> images in [-1, 1].

  Attributes:
    plan: channels.
    channels: of the images.
    num_classes: of conditional batch normalization; 0 without.
    bn_scope: whose statistics, see `norm.BatchNorm`.
    dtype: of the computation; the image is float32.
  """

  plan: Plan
  channels: int = 3
  num_classes: int = 0
  bn_scope: str = 'global'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array | None,
               train: bool) -> jax.Array:
    statistics = dict(epsilon=BN_EPSILON, statistics=self.bn_scope)
    unconditional = functools.partial(gan_blocks.Unconditional, **statistics)
    conditional = unconditional
    if self.num_classes:
      conditional = functools.partial(
          norm.ConditionalBatchNorm, self.num_classes, **statistics)
    conv = functools.partial(spectral_norm.Conv, dtype=self.dtype)
    size, stem = self.plan.bottom, self.plan.stem
    x = spectral_norm.Dense(size * size * stem, dtype=self.dtype,
                            name='dense')(z)
    x = x.reshape(-1, size, size, stem)
    for features in self.plan.g:
      size *= 2
      block = gan_blocks.GBlock(
          features, conditional,
          functools.partial(conv, kernel_init=BLOCK_INIT), conv,
          name=f'up_{size}')
      x = block(x, labels, train)
    x = nn.relu(unconditional(name='bn_out')(x, None, train))
    x = conv(self.channels, 3, name='conv_out')(x)
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """(images, labels or None) -> (logits [N], class logits [N, K] or None).

  Attributes:
    plan: channels.
    conditioning: of `CONDITIONING`.
    num_classes: K.
    rule: of spectral normalization.
    dtype: of the computation; logits are float32.
  """

  plan: Plan
  conditioning: str = 'projection'
  num_classes: int = 0
  rule: spectral_norm.Rule = spectral_norm.RULES['sngan']
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, labels: jax.Array | None):
    layers = dict(rule=self.rule, dtype=self.dtype)
    conv = functools.partial(spectral_norm.Conv, **layers)
    embed = functools.partial(spectral_norm.Embed, self.num_classes,
                              rule=self.rule, name='embed')
    x = x.astype(self.dtype)
    for i, features in enumerate(self.plan.d):
      first = i == 0
      block = gan_blocks.DBlock(
          features, features if first else x.shape[-1],
          functools.partial(conv, kernel_init=BLOCK_INIT), conv, first=first,
          down=i < self.plan.pooled, name=f'block_{i}')
      x = block(x)
      if self.conditioning == 'concat' and i == min(2, self.plan.pooled - 1):
        e = embed(CONCAT_CHANNELS, dtype=self.dtype)(labels)
        e = jnp.broadcast_to(e[:, None, None, :], (*x.shape[:3], e.shape[-1]))
        x = jnp.concatenate([x, e], -1)
    h = gan_blocks.sum_pool(x)
    dense = functools.partial(spectral_norm.Dense, rule=self.rule)
    # The code's network for CIFAR-10 has no bias here.
    flat = len(set(self.plan.d)) == 1
    logits = dense(1, use_bias=not flat, name='dense')(h)[:, 0]
    class_logits = None
    if self.conditioning == 'projection':
      e = embed(self.plan.d[-1])(labels)
      logits = logits + gan_blocks.projection(h, e)
    elif self.conditioning == 'acgan':
      class_logits = dense(self.num_classes, name='dense_class')(h)
    return logits, class_logits


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: conditional CIFAR-10."""
  adam = dict(b1=0.0, b2=0.9, lr_schedule='linear')
  return ConfigDict(dict(
      model=dict(
          z_dim=128,
          ch_G=256,
          ch_D=128,
          conditioning='projection',
          bn_scope='global',         # 'device', 'group:K'
          layout='paper',            # or 'studiogan', at 64 pixels
          spectral_norm='sngan',     # of spectral_norm.RULES
          spectral_iterations=1,
      ),
      loss=dict(
          objective='hinge',
          n_critic=5,
          generator_batches=2,       # G's batch, in batches of D
          dequantize=True,           # x / 128 - 1 + U(0, 1/128)
          acgan_D=1.0,               # weight of the class loss in L_D
          acgan_G=1.0,               # and in L_G
          acgan_fake=True,           # D learns classes on fakes as well
          **regularizers_lib.loss_config(),
      ),
      augment=regularizers_lib.augment_config(),
      optimizer=dict(
          G=optimizers.default_config('adam', 2e-4, **adam),
          D=optimizers.default_config('adam', 2e-4, **adam),
      ),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def spectral_rule(config: ConfigDict) -> spectral_norm.Rule:
  """Returns the rule that the config names."""
  config_lib.check_choice(config, 'model.spectral_norm',
                          tuple(spectral_norm.RULES))
  config_lib.check_positive(config, 'model.spectral_iterations')
  return dataclasses.replace(
      spectral_norm.RULES[config.model.spectral_norm],
      iterations=config.model.spectral_iterations)


def check(config: ConfigDict, spec: spec_lib.DataSpec) -> None:
  """Refuses values of the keys that SNGAN and SAGAN share."""
  model, loss = config.model, config.loss
  config_lib.check_choice(config, 'model.conditioning', CONDITIONING)
  config_lib.check_choice(config, 'model.layout', LAYOUTS)
  config_lib.check_positive(config, 'model.z_dim', 'model.ch_G', 'model.ch_D',
                            'loss.n_critic', 'loss.generator_batches')
  norm.check_scope('model.bn_scope', model.bn_scope)
  if model.conditioning != 'none' and not spec.num_classes:
    raise errors.UserError(
        f'config.model.conditioning is {model.conditioning!r}, but the data '
        "have no labels. Set --config.data.labels (such as 'class'), or "
        '--config.model.conditioning=none.')
  objective = adversarial.get(loss.objective)
  if objective.g_uses_real:
    raise errors.UserError(
        f'config.loss.objective={loss.objective!r} compares each generated '
        'image with a real one, of another class here. Use one that does not, '
        "such as 'hinge' or 'non_saturating'.")


def make(config: ConfigDict, spec: spec_lib.DataSpec,
         nets: Mapping[str, nn.Module], classes: int,
         rule: spectral_norm.Rule) -> 'System':
  """Puts two networks and their optimizers together."""
  steps = config_lib.total_steps(config)
  n_critic = config.loss.n_critic
  return System(
      config=config, nets=nets, classes=classes, rule=rule,
      tx={'G': optimizers.make(config.optimizer.G, steps),
          'D': optimizers.make(config.optimizer.D, steps * n_critic)},
      objective=adversarial.get(config.loss.objective),
      regularizers=regularizers_lib.create(config),
      batches_per_step=n_critic,
      image_shape=(spec.resolution, spec.resolution, spec.channels),
      requires=('image', 'label') if classes else ('image',),
      conditions=('label',) if classes else ())


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  check(config, spec)
  model, dtype = config.model, jnp.dtype(config.dtype)
  classes = 0 if model.conditioning == 'none' else spec.num_classes
  channels = plan('sngan', spec.resolution, model.ch_G, model.ch_D,
                  model.layout)
  rule = spectral_rule(config)
  nets = {
      'G': Generator(channels, spec.channels, classes, model.bn_scope, dtype),
      'D': Discriminator(channels, model.conditioning, classes, rule, dtype),
  }
  return make(config, spec, nets, classes, rule)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """SNGAN, and SAGAN; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  classes: int
  rule: spectral_norm.Rule
  objective: adversarial.Objective
  regularizers: regularizers_lib.Regularizers
  batches_per_step: int
  image_shape: tuple[int, int, int]
  requires: tuple[str, ...]
  conditions: tuple[str, ...]

  players = {'G': ('G',), 'D': ('D',)}
  options = ()
  outputs = {}

  def frozen(self) -> dict:
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    z = jnp.zeros((2, self.config.model.z_dim))
    x = jnp.zeros((2, *self.image_shape))
    labels = jnp.zeros((2,), jnp.int32) if self.classes else None
    nets = {
        'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, labels,
                                 train=True),
        'D': self.nets['D'].init(rng.named(key, 0, 'init/D'), x, labels),
    }
    return state_lib.create(key, nets, self.players, self.tx, ema=('G',),
                            aux=self.regularizers.init())

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim], normal, row i from keys[i]."""
    return rng.normals(keys, self.config.model.z_dim)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Returns images [N, R, R, C] in [-1, 1]; see core/system.py.

    Args:
      variables: {'G': variables}.
      keys: [N].
      conditions: may hold 'z' [N, z_dim], and 'label' [N] where the model is
        conditional; labels are drawn from the keys otherwise.
    """
    return self._apply_g(variables, keys, conditions, train=False)[0]

  def generate_by_batch(self, variables, keys: jax.Array, conditions=None):
    """As `generate`, by the batch's statistics; see core/system.py."""
    return self._apply_g(variables, keys, conditions, train=True)

  def attention_maps(self, variables, keys: jax.Array, conditions=None
                     ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the images, and what each attention block of G attends to.

    Returns:
      (images, {block: [N, H * W, H * W / 4]}): row q of a map is the weight
      of the keys, H/2 x W/2 of them, for position q. {} without attention.
    """
    probed = {'G': {**variables['G'], 'attention': {}}}
    image, changed = self._apply_g(probed, keys, conditions, train=False)
    found = changed['G'].get('attention', {})
    return image, {name: tree['maps'][0] for name, tree in found.items()}

  def _apply_g(self, variables, keys, conditions, train: bool):
    return generation.apply_generator(
        self, variables, generation.latents(self, keys, conditions),
        generation.labels(keys, conditions, self.classes), train=train)

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """n_critic updates of D, then one of G; see core/system.py."""
    del frozen
    loss, microbatches = self.config.loss, self.config.microbatches
    size = batch['image'].shape[1]

    def draw(sampler, name, i, *args, **kwargs):
      key = jax.random.fold_in(rng.named(state.key, state.step, name), i)
      return mesh.shard_batch(sampler(key, *args, **kwargs))

    def latents(name, i, count):
      inputs = {'z': draw(jax.random.normal, f'z/{name}', i,
                          (count, self.config.model.z_dim))}
      if self.classes:
        inputs['z_label'] = draw(jax.random.randint, f'label/{name}', i,
                                 (count,), 0, self.classes)
      return inputs

    def update_d(state, sub, i):
      real = images.to_unit(sub['image'])
      if loss.dequantize:
        # 1/127.5 -> 1/128, and the width of a grey level filled.
        real = (real + 1.0) * (127.5 / 128.0) - 1.0
        real = real + draw(jax.random.uniform, 'dequantize', i, real.shape,
                           maxval=1.0 / 128.0)
      inputs = {'image': real, **latents('d', i, size),
                **self.regularizers.keys(state, 'D', size, i)}
      if self.classes:
        inputs['label'] = sub['label']
      state = self._iterate(state, 'D')
      return self.regularizers.remember(*step.update_player(
          state, 'D', self.players['D'], self.tx['D'],
          functools.partial(self.d_loss, state), inputs, microbatches))

    state = self._iterate(state, 'G')
    state, d_logs = step.scan_batches(update_d, state, batch)
    state = self._iterate(state, 'D')
    count = size * loss.generator_batches
    inputs = {**latents('g', 0, count),
              **self.regularizers.keys(state, 'G', count)}
    state, g_logs = step.update_player(
        state, 'G', self.players['G'], self.tx['G'],
        functools.partial(self.g_loss, state), inputs, microbatches)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    state = step.finish(state, beta)
    return self._iterate_average(state), {**d_logs, **g_logs}

  def _iterate(self, state, net: str):
    """The power iteration before an update, at the weights that it meets."""
    mvars = spectral_norm.advanced(mesh.replicate(state.params[net]),
                                   state.mvars[net], self.rule)
    return state.replace(mvars={**state.mvars, net: mvars})

  def _iterate_average(self, state):
    """The averaged weights' own vectors: averages are no unit vectors."""
    average = dict(state.ema['G'])
    params = average.pop('params')
    average = spectral_norm.advanced(mesh.replicate(params), average,
                                     self.rule)
    return state.replace(ema={'G': {'params': params, **average}})

  def d_loss(self, state, params, mvars, inputs):
    """L_D, with G as in `state`."""
    loss = self.config.loss
    fake, _ = state_lib.apply_net(
        self.nets['G'], mesh.replicate(state.params['G']), mvars['G'],
        inputs['z'], inputs.get('z_label'), train=True)
    fake = jax.lax.stop_gradient(fake)

    def judge(x, labels):
      return state_lib.apply_net(self.nets['D'], params['D'], mvars['D'], x,
                                 labels)[0]

    def judged(kind, x, labels):
      keys = inputs.get(f'augment_{kind}')
      x = self.regularizers.augment(keys, x)
      logits, classes = judge(x, labels)
      return classes, regularizers_lib.Judged(
          lambda x: judge(x, labels)[0], x, logits, keys)

    real_classes, real = judged('real', inputs['image'], inputs.get('label'))
    fake_classes, fake = judged('fake', fake, inputs.get('z_label'))
    value = self.objective.d_loss(real.logits, fake.logits)
    terms = self.regularizers.terms(state, real, fake)
    logs = {'loss/d': value, **logit_logs(real.logits, fake.logits), **terms}
    value = sum(terms.values(), value)
    if real_classes is not None:
      class_loss = classification.cross_entropy(real_classes, inputs['label'])
      logs['loss/class_real'] = class_loss
      if loss.acgan_fake:
        class_loss += classification.cross_entropy(fake_classes,
                                                   inputs['z_label'])
      value = value + loss.acgan_D * class_loss
    return value, ({}, logs)

  def g_loss(self, state, params, mvars, inputs):
    """L_G, with D as in `state`."""
    labels = inputs.get('z_label')
    fake, changed = state_lib.apply_net(
        self.nets['G'], params['G'], mvars['G'], inputs['z'], labels,
        train=True)
    fake = self.regularizers.augment(inputs.get('augment_fake'), fake)
    (logits, classes), _ = state_lib.apply_net(
        self.nets['D'], mesh.replicate(state.params['D']), mvars['D'], fake,
        labels)
    value = self.objective.g_loss(None, logits)
    logs = {'loss/g': value}
    if classes is not None:
      class_loss = classification.cross_entropy(classes, labels)
      logs['loss/class_fake'] = class_loss
      value = value + self.config.loss.acgan_G * class_loss
    return value, ({'G': changed}, logs)


def logit_logs(real: jax.Array, fake: jax.Array) -> dict[str, jax.Array]:
  """Means of logits [N], and how often D is right."""
  return {'logits/real': jnp.mean(real), 'logits/fake': jnp.mean(fake),
          'accuracy/real': jnp.mean((real > 0).astype(jnp.float32)),
          'accuracy/fake': jnp.mean((fake < 0).astype(jnp.float32))}
