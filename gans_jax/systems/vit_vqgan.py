"""ViT-VQGAN: a tokenizer of Transformers, with codes on a sphere.

Yu et al. 2022, "Vector-quantized Image Modeling with Improved VQGAN",
arXiv:2110.04627, section 3. There is no official code.

  Encoder (3.1): patches of 8 x 8 pixels, a linear layer, learned positions, a
  Vision Transformer, and at its output two linear layers with tanh between.
  The decoder is its mirror image.
  Codes (3.2): a linear layer to a few dimensions (32), where both z and the
  codes are l2-normalized, so that the nearest code is that of the largest
  cosine; a linear layer back up. Codes start as N(0, 1).
  Loss (3.3):
    L = L_VQ + 0.1 L_adv + 0.1 L_perceptual + 0.1 L_logit-laplace + L_2
  with the discriminator of StyleGAN2, logistic.

Sizes (table 1): `SIZES`, of encoder and decoder each.

The second stage is `token_transformer`, class-conditional, on the codes.

Deviations, or what the paper leaves open:

1. The decoder gives (mu, ln b) for each number of the image, as DALL-E's
   does. x' = 0.8 x + 0.1 for x in [0, 1], sigmoid(mu) is the estimate of x',
   and the other losses see the image that it stands for.
2. R1 (loss.r1, at every 16th step): in the unofficial code; StyleGAN2's.
3. Where the weights of the paper's perceptual network are absent,
   loss.perceptual='auto' takes another distance, named in the logs.
"""

from collections.abc import Mapping
import dataclasses
import functools
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
from gans_jax.core import step as step_lib
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib
from gans_jax.losses import adversarial
from gans_jax.losses import penalties
from gans_jax.losses import perceptual as perceptual_lib
from gans_jax.nn import quantizer
from gans_jax.nn import transformer
from gans_jax.systems.stylegan2 import networks

ConfigDict = config_dict.ConfigDict

# Blocks, heads, width; the MLP is four times as wide (table 1).
SIZES = {'small': (8, 8, 512), 'base': (12, 12, 768), 'large': (32, 16, 1280)}


# --- Networks ---------------------------------------------------------------


class VisionTransformer(nn.Module):
  """Vectors of patches [N, S, C] -> features [N, S, width].

  Attributes:
    layers: blocks.
    heads: of attention.
    width: of the blocks.
    remat: compute blocks again in the backward pass, for less memory.
    dtype: of the computation.
  """

  layers: int
  heads: int
  width: int
  remat: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dense = functools.partial(nn.Dense, kernel_init=transformer.INIT,
                              dtype=self.dtype)
    x = dense(self.width, name='embed')(x)
    places = self.param('pos_emb', transformer.INIT,
                        (x.shape[1], self.width), jnp.float32)
    x = x + places[None].astype(x.dtype)
    block = (nn.remat(transformer.Block, prevent_cse=False) if self.remat else
             transformer.Block)
    x, _ = nn.scan(
        block, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(0, 0, nn.broadcast, nn.broadcast), length=self.layers)(
            self.heads, 0.0, self.dtype, name='blocks')(
                x, jnp.arange(self.layers), None, None, None)
    x = nn.LayerNorm(epsilon=transformer.EPSILON, dtype=self.dtype,
                     name='norm')(x)
    x = jnp.tanh(dense(4 * self.width, name='ffn_0')(x))
    return dense(self.width, name='ffn_1')(x)


class Autoencoder(nn.Module):
  """Encoder, quantizer and decoder.

  Attributes:
    encoder_size, decoder_size: (blocks, heads, width).
    patch: side of a patch in pixels.
    channels: of the images.
    codebook_size: K.
    code_dim: D.
    normalize: l2-normalize z and codes.
    beta: weight of the commitment.
    remat, dtype: as in `VisionTransformer`.
  """

  encoder_size: tuple[int, int, int]
  decoder_size: tuple[int, int, int]
  patch: int
  channels: int
  codebook_size: int
  code_dim: int
  normalize: bool = True
  beta: float = 0.25
  remat: bool = False
  dtype: Any = None

  def setup(self):
    self.encoder = VisionTransformer(*self.encoder_size, self.remat,
                                     self.dtype)
    self.decoder = VisionTransformer(*self.decoder_size, self.remat,
                                     self.dtype)
    dense = functools.partial(nn.Dense, kernel_init=transformer.INIT)
    self.to_code = dense(self.code_dim)
    self.to_pixels = dense(self.patch**2 * 2 * self.channels)
    self.quantize = quantizer.Codebook(
        self.codebook_size, self.code_dim,
        codes_init=nn.initializers.normal(1.0))

  def codes(self) -> jax.Array:
    """Returns the codes [K, D]."""
    codes = self.quantize()
    return unit(codes) if self.normalize else codes

  def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images [N, H, W, C] -> (q [N, h, w, D], indices, L_VQ)."""
    n, height, width, _ = x.shape
    grid = height // self.patch, width // self.patch
    z = self.encoder(patches(x, self.patch).reshape(n, grid[0] * grid[1], -1))
    z = self.to_code(z).astype(jnp.float32).reshape(n, *grid, -1)
    z = unit(z) if self.normalize else z
    codes = self.codes()
    indices = quantizer.nearest(z, codes)
    q = quantizer.embed(codes, indices)
    loss = quantizer.vq_loss(z, q, self.beta)
    return quantizer.straight_through(z, q), indices, loss

  def decode(self, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[N, h, w, D] -> (mu, ln b), float32 [N, H, W, C] each."""
    n, h, w, _ = q.shape
    x = self.to_pixels(self.decoder(q.reshape(n, h * w, -1)))
    x = x.astype(jnp.float32).reshape(n, h, w, -1)
    return tuple(jnp.split(from_patches(x, self.patch), 2, -1))

  def decode_tokens(self, tokens: jax.Array) -> jax.Array:
    """int32 [N, h, w] -> images [N, H, W, C] in [-1, 1] or beyond."""
    return to_image(self.decode(quantizer.embed(self.codes(), tokens))[0])

  def __call__(self, x: jax.Array):
    """Returns (mu, ln b, indices, L_VQ)."""
    q, indices, loss = self.encode(x)
    return *self.decode(q), indices, loss


def unit(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
  """x / |x| over the last axis, float32."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + epsilon)


def patches(x: jax.Array, side: int) -> jax.Array:
  """[N, H, W, C] -> [N, H/side, W/side, side * side * C]."""
  n, height, width, c = x.shape
  x = x.reshape(n, height // side, side, width // side, side, c)
  return jnp.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(
      n, height // side, width // side, -1)


def from_patches(x: jax.Array, side: int) -> jax.Array:
  """Undoes `patches`."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, side, side, c // side**2)
  return jnp.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(
      n, h * side, w * side, -1)


# --- Losses -----------------------------------------------------------------


def to_image(mu: jax.Array) -> jax.Array:
  """The image in [-1, 1] (or a little beyond) that sigmoid(mu) stands for."""
  return 2.0 * (jax.nn.sigmoid(mu) - 0.1) / 0.8 - 1.0


def logit_laplace(x: jax.Array, mu: jax.Array, ln_b: jax.Array) -> jax.Array:
  """-log density of x, a mean over numbers.

  Ramesh et al. 2021 (DALL-E), appendix A.3: x' = 0.8 x + 0.1 of x in [0, 1],

    -log p = ln(2 b x' (1 - x')) + |logit(x') - mu| / b

  Args:
    x: images in [-1, 1].
    mu: of the shape of x.
    ln_b: the same.
  """
  squeezed = 0.4 * (x + 1.0) + 0.1
  logit = jnp.log(squeezed) - jnp.log1p(-squeezed)
  return jnp.mean(jnp.log(2.0 * squeezed * (1.0 - squeezed)) + ln_b
                  + jnp.abs(logit - mu) * jnp.exp(-ln_b))


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: the small model's."""
  adam = dict(b1=0.9, b2=0.99, weight_decay=1e-4, warmup=50_000,
              lr_schedule='cosine', lr_min=5e-5)
  return ConfigDict(dict(
      model=dict(
          encoder='small',           # of `SIZES`, or ''
          decoder='small',
          layers=0,                  # without a size: of both
          heads=0,
          width=0,
          patch=8,
          codebook_size=8192,
          code_dim=32,
          normalize=True,
          channel_base=32768,        # of D, times resolution
          remat=False,
      ),
      loss=dict(
          beta=0.25,
          l2=1.0,
          logit_laplace=0.1,
          adversarial=0.1,
          perceptual='auto',         # 'lpips_vgg', 'lite0', 'none'
          perceptual_weight=0.1,
          r1=10.0,                   # gamma
          r1_every=16,
      ),
      optimizer=dict(
          AE=optimizers.default_config('adam', 1e-4, **adam),
          D=optimizers.default_config('adam', 1e-4, **adam),
      ),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  model, loss = config.model, config.loss
  system_lib.check_square_power_of_two('vit_vqgan', spec, 8)
  config_lib.check_positive(config, 'model.patch', 'model.codebook_size',
                            'model.code_dim', 'model.channel_base',
                            'loss.r1_every')
  sizes = {}
  for net in ('encoder', 'decoder'):
    config_lib.check_choice(config, f'model.{net}', (*SIZES, ''))
    sizes[net] = SIZES.get(model[net], (model.layers, model.heads,
                                        model.width))
    layers, heads, width = sizes[net]
    if min(sizes[net]) < 1 or width % heads:
      raise errors.UserError(
          f"config.model.{net} is '', and layers={layers}, heads={heads}, "
          f'width={width}: all must be above 0, and heads divide the width.')
  if spec.resolution % model.patch:
    raise errors.UserError(
        f'config.model.patch is {model.patch}, which does not divide '
        f'data.resolution, {spec.resolution}.')
  perceptual = None
  config_lib.check_choice(config, 'loss.perceptual', perceptual_lib.CHOICES)
  if loss.perceptual_weight:
    perceptual = perceptual_lib.choose(loss.perceptual)
  shape = (spec.resolution, spec.resolution, spec.channels)
  dtype = jnp.dtype(config.dtype)
  nets = {'AE': Autoencoder(
      sizes['encoder'], sizes['decoder'], model.patch, spec.channels,
      model.codebook_size, model.code_dim, model.normalize, loss.beta,
      model.remat, dtype)}
  if loss.adversarial:
    nets['D'] = networks.Discriminator(
        networks.Pyramid(shape, model.channel_base, dtype=dtype))
  steps = config_lib.total_steps(config)
  tx = {net: optimizers.make(config.optimizer[net], steps,
                             transformer.decays) for net in nets}
  return System(config=config, nets=nets, perceptual=perceptual, tx=tx,
                image_shape=shape)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """ViT-VQGAN; the members are those of core/system.py and tokenizer.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  perceptual: perceptual_lib.Perceptual | None
  tx: Mapping[str, optax.GradientTransformation]
  image_shape: tuple[int, int, int]

  requires = ('image',)
  conditions = ()
  options = ()
  batches_per_step = 1
  tokenizer_nets = ('AE',)
  objective = adversarial.get('non_saturating')

  @property
  def players(self) -> dict[str, tuple[str, ...]]:
    return {net: (net,) for net in self.nets}

  @property
  def codebook_size(self) -> int:
    return self.config.model.codebook_size

  @property
  def notes(self) -> tuple[str, ...]:
    return ((f'perceptual loss: {self.perceptual.name}',) if self.perceptual
            else ())

  @property
  def outputs(self):
    return {'reconstruct': self._reconstruct, 'tokens': self._tokens,
            'decode': self._decode}

  def frozen(self) -> dict:
    return {}

  def loss_constants(self) -> dict:
    return perceptual_lib.constants(self.perceptual)

  def init(self, key: jax.Array) -> state_lib.TrainState:
    x = jnp.zeros((2, *self.image_shape))
    nets = {net: module.init(rng.named(key, 0, f'init/{net}'), x)
            for net, module in self.nets.items()}
    return state_lib.create(key, nets, self.players, self.tx, ema=('AE',))

  # -- What it makes

  def _apply(self, variables, *args, method=None):
    return self.nets['AE'].apply(variables['AE'], *args, method=method)

  def _tokens(self, variables, batch, keys=None) -> jax.Array:
    del keys
    return self._apply(variables, images.to_unit(batch['image']),
                       method='encode')[1]

  def _decode(self, variables, batch, keys=None) -> jax.Array:
    del keys
    return jnp.clip(self._apply(variables, batch['tokens'],
                                method='decode_tokens'), -1.0, 1.0)

  def _reconstruct(self, variables, batch, keys=None) -> jax.Array:
    del keys
    mu = self._apply(variables, images.to_unit(batch['image']))[0]
    return jnp.clip(to_image(mu), -1.0, 1.0)

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns codes int32 [N, h, w], each of which is as likely as any."""
    side = self.image_shape[0] // self.config.model.patch
    return jax.vmap(lambda key: jax.random.randint(
        key, (side, side), 0, self.codebook_size))(keys)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Returns the images of random codes, or of `conditions['z']`."""
    tokens = (conditions or {}).get('z')
    tokens = self.latents(keys) if tokens is None else tokens
    return self._decode(variables, {'tokens': tokens})

  # -- How it trains

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """Updates the autoencoder, then D on its new reconstructions."""
    x = mesh.shard_batch(images.to_unit(step_lib.first_of(batch)['image']))
    state, logs = step_lib.update_player(
        state, 'AE', self.players['AE'], self.tx['AE'],
        functools.partial(self.ae_loss, state, frozen), {'x': x},
        self.config.microbatches)
    if 'D' in self.nets:
      state, d_logs = step_lib.update_player(
          state, 'D', self.players['D'], self.tx['D'],
          functools.partial(self.d_loss, state), {'x': x},
          self.config.microbatches)
      logs = {**logs, **d_logs}
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step_lib.finish(state, beta), logs

  def ae_loss(self, state, frozen, params, mvars, inputs):
    """The sum of section 3.3; D as in `state`."""
    del mvars
    loss, x = self.config.loss, inputs['x']
    mu, ln_b, indices, vq = self.nets['AE'].apply({'params': params['AE']}, x)
    x_hat = to_image(mu)
    # On [0, 1], as the paper's table has it.
    l2 = jnp.mean(jnp.square(0.5 * (x - x_hat)))
    laplace = logit_laplace(x, mu, ln_b)
    value = vq + loss.l2 * l2 + loss.logit_laplace * laplace
    logs = {'loss/vq': vq, 'loss/l2': l2, 'loss/logit_laplace': laplace}
    if self.perceptual:
      distance = perceptual_lib.value(self.perceptual, frozen, x_hat, x)
      logs[f'loss/{self.perceptual.name}'] = distance
      value = value + loss.perceptual_weight * distance
    if 'D' in self.nets:
      logits = self.nets['D'].apply(
          {'params': mesh.replicate(state.params['D'])}, x_hat)
      g = self.objective.g_loss(None, logits)
      logs['loss/g'] = g
      value = value + loss.adversarial * g
    used = jnp.bincount(indices.reshape(-1), length=self.codebook_size)
    logs |= {'loss/ae': value, 'codebook/usage': quantizer.usage(used),
             'codebook/perplexity': quantizer.perplexity(
                 used.astype(jnp.float32))}
    return value, ({}, logs)

  def d_loss(self, state, params, mvars, inputs):
    """The logistic loss and R1."""
    del mvars
    loss, x = self.config.loss, inputs['x']
    mu = self.nets['AE'].apply(
        {'params': mesh.replicate(state.params['AE'])}, x)[0]

    def critic(x):
      return self.nets['D'].apply({'params': params['D']}, x)

    real, fake = critic(x), critic(jax.lax.stop_gradient(to_image(mu)))
    value = self.objective.d_loss(real, fake)
    logs = {'loss/d': value, 'logits/real': jnp.mean(real),
            'logits/fake': jnp.mean(fake)}
    if loss.r1:
      penalty = step_lib.lazily(
          state.step, loss.r1_every,
          lambda x: penalties.r1(critic, x, loss.r1), x)
      logs['penalty/r1'] = penalty
      value = value + penalty
    return value, ({}, logs)
