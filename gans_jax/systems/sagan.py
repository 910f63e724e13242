"""SAGAN: Self-Attention Generative Adversarial Networks.

Zhang, Goodfellow, Metaxas, Odena 2019, arXiv:1805.08318, in the authors' code
(brain-research/self-attention-gan): SNGAN's networks at its width 64 with

  - a self-attention block where maps have a given size, in both networks
    (nn/attention.py);
  - spectral normalization of every layer of G as well, the tables of
    conditional batch normalization excepted;
  - "wide" blocks in D, and Glorot's initializer with gain 1 everywhere;
  - two time scales: learning rates 1e-4 of G and 4e-4 of D, one update each.

  Row                            Config
  table 1, "SAGAN, feat_k"       model.attention='k', `ATTENTION`
  figure 3, stabilization        `STABILIZATION`
  loss 'kl_loss' of the code     loss.objective='reverse_kl'

In G attention follows the block that ends at its size, in D the block that
does. model.attention names sizes, such as '64' or '32_64', or 'none'.

Published headline figures are the row at 64; the released code attends at 32.

The steps, losses and conditioning are SNGAN's (systems/sngan.py), whose
deviations 2, 4 and 7 hold here. Further ones:
1. The paper's Adam is (0, 0.9); the code leaves beta2 at TensorFlow's 0.999.
   The default is the paper's.
2. The code has no average of weights; ema.decay adds one.
3. Batch normalization is over the global batch; the code's is over each of
   four towers (model.bn_scope='group:64').
4. The code differentiates the singular vectors (nn/spectral_norm.py).
5. Running averages have the code's decay, of the last layer 0.9999: until some
   30,000 steps images made with them are those of statistics that start at 0
   and 1. Shorter runs lower model.bn_decay_out, or are sampled and measured
   with --batch_norm=standing:16.
6. Of table 1, the rows that replace attention by a residual block are not
   here: neither paper nor code says which block.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import optimizers
from gans_jax.data import spec as spec_lib
from gans_jax.nn import attention
from gans_jax.nn import gan_blocks
from gans_jax.nn import norm
from gans_jax.nn import spectral_norm
from gans_jax.systems import sngan

ConfigDict = config_dict.ConfigDict

# Table 1, FID / IS from memory.
ATTENTION: dict[str, dict[str, Any]] = {
    'none': {'model.attention': 'none', 'paper/fid': 22.96,
             'paper/is': 42.87},
    'feat8': {'model.attention': '8', 'paper/fid': 22.98, 'paper/is': 43.15},
    'feat16': {'model.attention': '16', 'paper/fid': 22.14,
               'paper/is': 45.94},
    'feat32': {'model.attention': '32', 'paper/fid': 18.28,
               'paper/is': 51.43},
    'feat64': {'model.attention': '64', 'paper/fid': 18.65,
               'paper/is': 52.52},
}

# Figure 3, without attention; FID from memory.
STABILIZATION: dict[str, dict[str, Any]] = {
    'sn_d': {'model.attention': 'none', 'model.spectral_G': False,
             'optimizer.G.lr': 2e-4, 'optimizer.D.lr': 2e-4,
             'paper/fid': 'diverges early'},
    'sn_gd': {'model.attention': 'none', 'optimizer.G.lr': 2e-4,
              'optimizer.D.lr': 2e-4,
              'paper/fid': '33.4 at 160,000 steps, then worse'},
    'sn_gd_ttur': {'model.attention': 'none', 'paper/fid': 22.96},
}


# --- Networks ---------------------------------------------------------------


class Generator(nn.Module):
  """(z [N, z_dim], labels [N] or None) -> images in [-1, 1].

  Attributes:
    plan: channels.
    attention: sizes of the maps that have a block.
    channels: of the images.
    num_classes: of conditional batch normalization; 0 without.
    rule: of spectral normalization; None for none.
    bn_scope: whose statistics, see `norm.BatchNorm`.
    bn_decay: weights of the old running averages, of the conditional layers
      and of the last one.
    dtype: of the computation; the image is float32.
  """

  plan: sngan.Plan
  attention: tuple[int, ...]
  channels: int = 3
  num_classes: int = 0
  rule: spectral_norm.Rule | None = None
  bn_scope: str = 'global'
  bn_decay: tuple[float, float] = (0.999, 0.9999)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array | None,
               train: bool) -> jax.Array:
    layers = dict(rule=self.rule, dtype=self.dtype)
    conv = functools.partial(spectral_norm.Conv, **layers)
    unconditional = functools.partial(gan_blocks.Unconditional,
                                      statistics=self.bn_scope)
    decay, decay_out = self.bn_decay
    conditional = functools.partial(unconditional, decay)
    if self.num_classes:
      conditional = functools.partial(
          norm.ConditionalBatchNorm, self.num_classes, decay,
          statistics=self.bn_scope)
    size, stem = self.plan.bottom, self.plan.stem
    x = spectral_norm.Dense(size * size * stem, name='dense', **layers)(z)
    x = x.reshape(-1, size, size, stem)
    for features in self.plan.g:
      size *= 2
      x = gan_blocks.GBlock(features, conditional, conv, conv,
                            name=f'up_{size}')(x, labels, train)
      if size in self.attention:
        x = attention.SelfAttention(name=f'attention_{size}', **layers)(x)
    x = unconditional(decay_out, name='bn_out')(x, None, train)
    x = conv(self.channels, 3, name='conv_out')(nn.relu(x))
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """(images, labels or None) -> (logits [N], None).

  Attributes:
    plan: channels.
    attention: sizes of the maps that have a block.
    num_classes: of the projection; 0 without.
    rule: of spectral normalization.
    dtype: of the computation; logits are float32.
  """

  plan: sngan.Plan
  attention: tuple[int, ...]
  num_classes: int = 0
  rule: spectral_norm.Rule = spectral_norm.RULES['sagan']
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, labels: jax.Array | None):
    layers = dict(rule=self.rule, dtype=self.dtype)
    conv = functools.partial(spectral_norm.Conv, **layers)
    x = x.astype(self.dtype)
    for i, features in enumerate(self.plan.d):
      down = i < self.plan.pooled
      x = gan_blocks.DBlock(features, features, conv, conv, first=i == 0,
                            down=down, name=f'block_{i}')(x)
      size = x.shape[1]
      if down and size in self.attention:
        x = attention.SelfAttention(name=f'attention_{size}', **layers)(x)
    h = gan_blocks.sum_pool(x)
    logits = spectral_norm.Dense(1, self.rule, name='dense')(h)[:, 0]
    if self.num_classes:
      e = spectral_norm.Embed(self.num_classes, self.plan.d[-1], self.rule,
                              name='embed')(labels)
      logits = logits + gan_blocks.projection(h, e)
    return logits, None


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: ImageNet's."""
  config = sngan.default_config()
  adam = dict(b1=0.0, b2=0.9)
  config.optimizer.G = optimizers.default_config('adam', 1e-4, **adam)
  config.optimizer.D = optimizers.default_config('adam', 4e-4, **adam)
  config.model.update(dict(ch_G=64, ch_D=64, spectral_norm='sagan',
                           attention='64', spectral_G=True,
                           bn_decay=0.999,       # of running averages
                           bn_decay_out=0.9999))  # of G's last layer's
  config.loss.update(dict(n_critic=1, generator_batches=1, dequantize=False))
  return config


def attention_sizes(config: ConfigDict, sizes: dict[str, set[int]]
                    ) -> tuple[int, ...]:
  """Parses model.attention.

  Args:
    config: the config.
    sizes: {'G': sizes of G's maps, 'D': of D's}.

  Raises:
    UserError: it is not 'none' or sizes that both networks have.
  """
  text = config.model.attention
  if text == 'none':
    return ()
  parts = text.split('_')
  both = sizes['G'] & sizes['D']
  if not all(part.isdecimal() and int(part) in both for part in parts):
    raise errors.UserError(
        f"config.model.attention is {text!r}, expected 'none' or sizes of "
        'maps that both networks have at this resolution '
        f'({", ".join(map(str, sorted(both))) or "there are none"}), joined '
        "by '_', such as '32_64'.")
  return tuple(int(part) for part in parts)


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> sngan.System:
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  sngan.check(config, spec)
  config_lib.check_choice(config, 'model.conditioning', ('projection', 'none'))
  model, dtype = config.model, jnp.dtype(config.dtype)
  for key in ('bn_decay', 'bn_decay_out'):
    if not 0.0 <= model[key] < 1.0:
      raise errors.UserError(
          f'config.model.{key} is {model[key]}, must be in [0, 1).')
  classes = 0 if model.conditioning == 'none' else spec.num_classes
  plan = sngan.plan('sagan', spec.resolution, model.ch_G, model.ch_D,
                    model.layout)
  sizes = attention_sizes(config, {
      'G': {plan.bottom << (i + 1) for i in range(len(plan.g))},
      'D': {spec.resolution >> (i + 1) for i in range(plan.pooled)}})
  narrowest = min(*plan.g, *plan.d)
  if sizes and narrowest < 8:
    raise errors.UserError(
        f'config.model.attention is {model.attention!r}, but the networks '
        f'have maps of {narrowest} channels, and attention divides them by '
        '8. Raise model.ch_G and model.ch_D, or set it to none.')
  rule = sngan.spectral_rule(config)
  nets = {
      'G': Generator(plan, sizes, spec.channels, classes,
                     rule if model.spectral_G else None, model.bn_scope,
                     (model.bn_decay, model.bn_decay_out), dtype),
      'D': Discriminator(plan, sizes, classes, rule, dtype),
  }
  return sngan.make(config, spec, nets, classes, rule)
