"""Neural Discrete Representation Learning (VQ-VAE).

Van den Oord, Vinyals, Kavukcuoglu 2017, arXiv:1711.00937. Code of the authors:
google-deepmind/sonnet, nets/vqvae.py and examples/vqvae_example.ipynb (no code
of the paper's own encoders and priors was released).

Implemented: the discrete bottleneck (eq. 1, 2; nn/quantizer.py), the loss
(eq. 3) with the codebook moved by its gradient or by averages (appendix A.1),
the nets of both sources, tokens out and in for a prior (systems/pixelcnn.py,
systems/token_transformer.py).

  model.variant          sonnet (the example)         paper (section 4.1)
  E                      conv 4x4 s2 -> C/2           conv 4x4 s2 -> C
                         conv 4x4 s2 -> C             conv 4x4 s2 -> C
                         conv 3x3    -> C
  both                   R x [ReLU, conv 3x3 -> c, ReLU, conv 1x1 -> C, +], ReLU
                         (in paper without the last ReLU)
  to codes               conv 1x1 -> D
  G                      conv 3x3 -> C, then E's blocks, upwards with
                         transposed convolutions 4x4 s2
  C, c, R                128, 32, 2                   256, 256, 2
  codes                  K 512, D 64

`model.downsamples` is 2 in both (f = 4): 32 x 32 -> 8 x 8, 128 -> 32.

Loss: mean (x - x^)^2 / `loss.data_variance` + the terms of nn/quantizer.py
with `loss.beta`; images in [-0.5, 0.5]. Training keeps the prior over codes
uniform, so its KL is constant (h w log K) and left out; `generate` draws from
that prior, which gives no pictures: those come from a second stage.

Deviations:
1. The averages of the codebook start otherwise (nn/quantizer.py).
2. `loss.revive_threshold`: codes in less use than this many vectors a batch
   are replaced by encodings of the current batch; 0 (as published) never.
3. CIFAR-10 in the paper: latents 8 x 8 x 10. How ten codes a position are made
   is not said; `model.codes_per_position` lets D numbers pass for each.
4. No padding other than zeros, no weight decay, as in the example.
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
from gans_jax.core import images
from gans_jax.core import mesh
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.data import spec as spec_lib
from gans_jax.nn import conv
from gans_jax.nn import quantizer

ConfigDict = config_dict.ConfigDict

VARIANTS = ('sonnet', 'paper')
CODEBOOKS = ('ema', 'gradient')
CIFAR10_VARIANCE = 0.0632704  # of x / 255, the example's 40,000 images


def sonnet_init(key, shape, dtype=jnp.float32):
  """Normal of deviation 1 / sqrt(fan in), cut off at two deviations."""
  std = 1.0 / math.sqrt(math.prod(shape[:-1]))
  return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


class ResidualStack(nn.Module):
  """`layers` x [ReLU, conv 3x3, ReLU, conv 1x1, + input], ReLU."""

  hidden: int
  layers: int
  last_relu: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    layer = functools.partial(conv.Conv, kernel_init=sonnet_init,
                              dtype=self.dtype)
    for i in range(self.layers):
      h = layer(self.hidden, 3, name=f'conv3_{i}')(nn.relu(x))
      x = x + layer(x.shape[-1], 1, name=f'conv1_{i}')(nn.relu(h))
    return nn.relu(x) if self.last_relu else x


class Encoder(nn.Module):
  """Images [N, H, W, C] -> z [N, H/f, W/f, features], float32.

  Attributes:
    features: of z.
    hidden: C of the module's table.
    residual_hidden: c.
    residual_layers: R.
    downsamples: log2 f.
    variant: of VARIANTS.
    dtype: of the computation.
  """

  features: int
  hidden: int = 128
  residual_hidden: int = 32
  residual_layers: int = 2
  downsamples: int = 2
  variant: str = 'sonnet'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    layer = functools.partial(conv.Conv, kernel_init=sonnet_init,
                              dtype=self.dtype)
    sonnet = self.variant == 'sonnet'
    x = x.astype(self.dtype)
    for i in range(self.downsamples):
      width = self.hidden // 2 if sonnet and i == 0 else self.hidden
      x = layer(width, 4, 2, ((1, 1), (1, 1)), name=f'down_{i}')(x)
      # A residual block of the paper's begins with the ReLU.
      if sonnet or i + 1 < self.downsamples:
        x = nn.relu(x)
    if sonnet:
      x = nn.relu(layer(self.hidden, 3, name='conv')(x))
    x = ResidualStack(self.residual_hidden, self.residual_layers, sonnet,
                      self.dtype, name='residual')(x)
    return layer(self.features, 1, name='to_codes')(x).astype(jnp.float32)


class Decoder(nn.Module):
  """q [N, h, w, D] -> images [N, f h, f w, channels], float32, unbounded.

  The attributes are those of `Encoder`.
  """

  channels: int
  hidden: int = 128
  residual_hidden: int = 32
  residual_layers: int = 2
  downsamples: int = 2
  variant: str = 'sonnet'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, q: jax.Array) -> jax.Array:
    sonnet = self.variant == 'sonnet'
    x = conv.Conv(self.hidden, 3, kernel_init=sonnet_init, dtype=self.dtype,
                  name='conv')(q.astype(self.dtype))
    x = ResidualStack(self.residual_hidden, self.residual_layers, sonnet,
                      self.dtype, name='residual')(x)
    for i in reversed(range(self.downsamples)):
      width = self.hidden // 2 if sonnet and i == 1 else self.hidden
      x = conv.ConvTranspose(
          self.channels if i == 0 else width, 4, 2, 1,
          kernel_init=sonnet_init, dtype=self.dtype, name=f'up_{i}')(x)
      x = nn.relu(x) if i else x
    return x.astype(jnp.float32)


# --- System -------------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: the example's values."""
  return ConfigDict(dict(
      model=dict(
          variant='sonnet',          # or 'paper'
          hidden=128,
          residual_hidden=32,
          residual_layers=2,
          downsamples=2,
          codes=512,                 # K
          code_dim=64,               # D
          codes_per_position=1,
      ),
      loss=dict(
          codebook='ema',            # or 'gradient', eq. 3
          beta=0.25,
          ema_decay=0.99,
          ema_epsilon=1e-5,
          revive_threshold=0.0,
          data_variance=CIFAR10_VARIANCE,  # of x / 255
      ),
      optimizer=dict(AE=optimizers.default_config('adam', 3e-4)),
      # The weights are sampled as they are: an average of weight 0.
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def check_downsamples(config: ConfigDict, spec: spec_lib.DataSpec) -> None:
  """Refuses a resolution that `model.downsamples` does not divide evenly."""
  factor = 2**config.model.downsamples
  if spec.resolution % factor or spec.resolution < 2 * factor:
    raise errors.UserError(
        f'config.model.downsamples is {config.model.downsamples}, which '
        f'shrinks an image {factor}-fold, but data.resolution is '
        f'{spec.resolution}: it must be a multiple of {factor}, and twice it '
        'at least. Change one of them.')


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  config_lib.check_choice(config, 'model.variant', VARIANTS)
  config_lib.check_choice(config, 'loss.codebook', CODEBOOKS)
  config_lib.check_positive(
      config, 'model.hidden', 'model.residual_hidden', 'model.downsamples',
      'model.codes', 'model.code_dim', 'model.codes_per_position',
      'loss.data_variance', 'loss.ema_epsilon')
  check_downsamples(config, spec)
  loss, model = config.loss, config.model
  if not 0.0 <= loss.ema_decay < 1.0 or loss.beta < 0 or (
      loss.revive_threshold < 0):
    raise errors.UserError(
        f'config.loss has ema_decay {loss.ema_decay}, beta {loss.beta} and '
        f'revive_threshold {loss.revive_threshold}: the first must be in '
        '[0, 1), the others 0 or more.')
  if loss.revive_threshold and loss.codebook != 'ema':
    raise errors.UserError(
        f'config.loss.revive_threshold is {loss.revive_threshold}, which needs '
        "the averages of the codes, but loss.codebook is 'gradient'. Set "
        "--config.loss.codebook=ema, or revive_threshold=0.")
  shared = dict(
      hidden=model.hidden, residual_hidden=model.residual_hidden,
      residual_layers=model.residual_layers, downsamples=model.downsamples,
      variant=model.variant, dtype=jnp.dtype(config.dtype))
  limit = math.sqrt(3.0 / model.code_dim)
  nets = {
      'E': Encoder(model.code_dim * model.codes_per_position, **shared),
      'VQ': quantizer.Codebook(model.codes, model.code_dim,
                               loss.codebook == 'ema',
                               quantizer.uniform_init(limit)),
      'G': Decoder(spec.channels, **shared),
  }
  tx = {'AE': optimizers.make(config.optimizer.AE,
                              config_lib.total_steps(config))}
  side = spec.resolution // 2**model.downsamples
  return System(config=config, nets=nets, tx=tx, grid=(side, side),
                image_shape=(spec.resolution, spec.resolution, spec.channels))


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """VQ-VAE; the members are those of core/system.py and core/tokenizer.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  grid: tuple[int, int]
  image_shape: tuple[int, int, int]

  players = {'AE': ('E', 'VQ', 'G')}
  tokenizer_nets = ('E', 'VQ', 'G')
  requires = ('image',)
  conditions = ()
  options = ()
  batches_per_step = 1

  @property
  def codebook_size(self) -> int:
    return self.config.model.codes

  @property
  def outputs(self):
    return {'reconstruct': self._reconstruct, 'tokens': self._tokens,
            'decode': self._decode}

  def frozen(self) -> dict:
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    model = self.config.model
    x = jnp.zeros((2, *self.image_shape))
    q = jnp.zeros((2, *self.grid, model.code_dim * model.codes_per_position))
    nets = {
        'E': self.nets['E'].init(rng.named(key, 0, 'init/E'), x),
        'VQ': {'params': {},
               **self.nets['VQ'].init(rng.named(key, 0, 'init/VQ'))},
        'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), q),
    }
    return state_lib.create(key, nets, self.players, self.tx,
                            ema=('E', 'VQ', 'G'))

  # --- Outputs ---

  def _tokens(self, variables, batch, keys=None) -> jax.Array:
    """Returns int32 [N, h, w], or [N, h, w, codes_per_position]."""
    del keys
    x = images.to_unit(batch['image']) / 2.0
    z = self._encode(variables['E'], x)
    tokens = quantizer.nearest(z, quantizer.codes(variables['VQ']))
    return tokens[..., 0] if tokens.shape[-1] == 1 else tokens

  def _decode(self, variables, batch, keys=None) -> jax.Array:
    del keys
    tokens = batch['tokens'].reshape(
        -1, *self.grid, self.config.model.codes_per_position)
    q = quantizer.embed(quantizer.codes(variables['VQ']), tokens)
    return self._show(self._generate(variables['G'], q))

  def _reconstruct(self, variables, batch, keys=None) -> jax.Array:
    tokens = self._tokens(variables, batch)
    return self._decode(variables, {'tokens': tokens}, keys)

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns codes from the uniform prior, int32 [N, h, w(, codes)]."""
    model = self.config.model
    more = model.codes_per_position
    shape = (*self.grid, more) if more > 1 else self.grid
    return jax.vmap(
        lambda k: jax.random.randint(k, shape, 0, model.codes))(keys)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Decodes codes of the uniform prior, or `conditions['z']`."""
    z = (conditions or {}).get('z')
    z = self.latents(keys) if z is None else z
    return self._decode(variables, {'tokens': z})

  # --- Nets: z and q are [N, h, w, codes_per_position, D] ---

  def _encode(self, variables, x: jax.Array) -> jax.Array:
    z = self.nets['E'].apply(variables, x)
    return z.reshape(*z.shape[:3], -1, self.config.model.code_dim)

  def _generate(self, variables, q: jax.Array) -> jax.Array:
    return self.nets['G'].apply(variables, q.reshape(*q.shape[:3], -1))

  def _show(self, x: jax.Array) -> jax.Array:
    return jnp.clip(2.0 * x, -1.0, 1.0)

  # --- Training ---

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """One update of E, G and the codebook; see core/system.py."""
    del frozen
    config = self.config
    x = images.to_unit(step.first_of(batch)['image']) / 2.0
    state, logs = step.update_player(
        state, 'AE', self.players['AE'], self.tx['AE'], self.loss,
        {'image': x}, config.microbatches)
    # Logs are means over microbatches; these two are sums over the batch.
    n, m = (config.microbatches * logs.pop(name)
            for name in ('codebook/n', 'codebook/m'))
    if config.loss.codebook == 'ema':
      codebook = quantizer.ema_update(
          state.mvars['VQ'][quantizer.COLLECTION], n, m,
          config.loss.ema_decay, config.loss.ema_epsilon)
      if config.loss.revive_threshold:
        logs['codebook/revived'] = jnp.sum(
            codebook['count'] < config.loss.revive_threshold, dtype=jnp.float32)
        codebook = self._revive(state, codebook, x)
      state = state.replace(mvars={
          **state.mvars, 'VQ': {quantizer.COLLECTION: codebook}})
    logs['codebook/perplexity'] = quantizer.perplexity(n)
    logs['codebook/usage'] = quantizer.usage(n)
    beta = schedules.ema_beta(config.ema, state.step, config.batch_size)
    return step.finish(state, beta), logs

  def loss(self, params, mvars, inputs):
    """Eq. 3 with a Gaussian decoder of the data's variance."""
    loss, x = self.config.loss, inputs['image']
    z = self._encode({'params': params['E']}, x)
    codes = quantizer.codes({'params': params['VQ'], **mvars['VQ']})
    indices = quantizer.nearest(z, codes)
    q = quantizer.embed(codes, indices)
    x_hat = self._generate({'params': params['G']},
                           quantizer.straight_through(z, q))
    recon = jnp.mean((x_hat - x)**2) / loss.data_variance
    commitment = quantizer.commitment_loss(z, q)
    total = recon + loss.beta * commitment
    if loss.codebook == 'gradient':
      total = total + quantizer.codebook_loss(z, q)
    n, m = quantizer.statistics(z, indices, self.config.model.codes)
    return total, ({}, {
        'loss/ae': total, 'loss/recon': recon, 'loss/commitment': commitment,
        'codebook/n': n, 'codebook/m': m})

  def _revive(self, state, codebook, x):
    """Replaces unused codes; the batch is encoded again only then."""
    threshold = self.config.loss.revive_threshold

    def replaced(codebook):
      z = self._encode({'params': mesh.replicate(state.params['E'])}, x)
      return quantizer.revive_ema(
          codebook, z, rng.named(state.key, state.step, 'revive'), threshold)

    return jax.lax.cond(jnp.any(codebook['count'] < threshold), replaced,
                        lambda codebook: codebook, codebook)
