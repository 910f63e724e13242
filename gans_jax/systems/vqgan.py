"""VQGAN, the first stage of "Taming Transformers".

Esser, Rombach, Ommer 2021, arXiv:2012.09841; CompVis/taming-transformers.
Section 3.1: a convolutional autoencoder (table 7, nn/vqgan_blocks.py) whose
map of f-times smaller size is quantized code by code, trained by

  L_AE = |x - x^| + perceptual(x, x^) + lambda g(x^) + L_VQ,  g = -E D(x^)
  lambda = w |grad L_rec| / (|grad g| + 1e-4), at most 1e4 w        eq. 7
  L_D  = 1/2 (E relu(1 - D(x)) + E relu(1 + D(x^)))

with gradients at the kernel of the decoder's last layer, and a discriminator
of patches. Layers, constants and initializers are the official code's.
model.D='stylegan2' has that of StyleGAN2 instead, as later tokenizers do, for
which there is R1 (loss.r1, at every loss.r1_every-th step).

The factor f is 2^(levels - 1) of model.ch_mult. model.quantizer: 'vq', or
'gumbel' (the official f = 8 model), whose temperature falls by a cosine.

The code's numbers, which the paper does not have or has otherwise:

1. loss.legacy_beta: the loss that every published VQGAN was trained with has
   its beta at the codebook's term, not at the commitment's. True by default.
2. The 1e-4 and the bound of lambda (1e-6 and none in the paper).
3. Before step loss.disc_start the discriminator counts for nothing and does
   not train. It then starts untrained: loss.disc_lead trains it that many
   steps ahead, loss.disc_ramp lets g's weight grow over so many steps. Steps
   are those of the autoencoder.
4. D's update follows the autoencoder's, on the same images, whose
   reconstructions are computed anew.
5. Codes start within 1/K of 0, and need as many steps to reach the encoder's
   outputs as these are times the learning rate away: a short run sets
   model.codes_limit.
6. The learning rate is 4.5e-6 times the images of a batch, for both nets,
   with no schedule: the experiments set it.

Deviations:

1. lambda is that of the global batch (of a microbatch, with microbatches);
   officially of each device.
2. The official perceptual loss is LPIPS with its dropout left on. Here it is
   off; and where the weights of LPIPS are absent, loss.perceptual='auto'
   takes another distance, whose name stands in the logs.
3. Tokens of the Gumbel quantizer are the likeliest codes; officially drawn.
4. D's work is skipped, not multiplied by 0, before it counts: running
   averages of its batch normalization start later.

model.nets='maskgit' has MaskGIT's tokenizer in their place (Chang et al. 2022,
arXiv:2202.04200): its networks (nn/maskgit_blocks.py, images in [0, 1]), the
initializer of its codes, and loss.entropy_weight E H(p) - H(E p) of the
softmax p of negative distances by loss.entropy_temperature, which keeps codes
in use. Its discriminator (StyleGAN's) and classifier features are not here:
it trains by the losses above.

model.key='label_map' is the first stage of conditions: one-hot maps of
model.num_labels classes in and logits out, cross-entropy of each class by
itself (officially `BCELossWithQuant`), no perceptual term and no
discriminator.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import flax.struct
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
from gans_jax.data import spec as spec_lib
from gans_jax.losses import penalties
from gans_jax.losses import perceptual as perceptual_lib
from gans_jax.nn import conv
from gans_jax.nn import gumbel_quantizer
from gans_jax.nn import maskgit_blocks
from gans_jax.nn import norm
from gans_jax.nn import patchgan
from gans_jax.nn import quantizer
from gans_jax.nn import vqgan_blocks
from gans_jax.systems.stylegan2 import networks

ConfigDict = config_dict.ConfigDict

NETS = ('taming', 'maskgit')
DISCRIMINATORS = ('patchgan', 'stylegan2')
QUANTIZERS = ('vq', 'gumbel')
ADVERSARIAL = ('hinge', 'vanilla', 'none')
LAMBDA_EPSILON = 1e-4
LAMBDA_MAX = 1e4


# --- Networks ---------------------------------------------------------------


@flax.struct.dataclass
class Code:
  """What a map became.

  Attributes:
    q: codes [N, h, w, D], with their gradient to the encoder.
    indices: int32 [N, h, w].
    loss: L_VQ, float32 scalar.
  """

  q: jax.Array
  indices: jax.Array
  loss: jax.Array


class Autoencoder(nn.Module):
  """Encoder, quantizer and decoder.

  Attributes:
    ch, ch_mult, num_res_blocks, attn_resolutions, resolution, z_channels: of
      encoder and decoder, see `vqgan_blocks.Encoder`.
    channels: of the images.
    codebook_size: K.
    embed_dim: D, of each code.
    codes_limit: codes start at U(-limit, limit); 0 for the authors' limit.
    kind: one of `QUANTIZERS`.
    beta: weight inside L_VQ.
    legacy: which of its terms has it, see the module.
    kl_weight: of the Gumbel quantizer's KL.
    entropy_weight: of the entropy loss, 0 for none.
    entropy_temperature: of its softmax.
    nets: one of `NETS`.
    groups: of the normalization.
    dtype: of encoder and decoder.
  """

  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  attn_resolutions: tuple[int, ...]
  resolution: int
  z_channels: int
  channels: int
  codebook_size: int
  embed_dim: int
  codes_limit: float = 0.0
  kind: str = 'vq'
  beta: float = 0.25
  legacy: bool = True
  kl_weight: float = 1e-8
  entropy_weight: float = 0.0
  entropy_temperature: float = 0.01
  nets: str = 'taming'
  groups: int = 32
  dtype: Any = None

  def setup(self):
    if self.nets == 'maskgit':
      shared = dict(ch=self.ch, ch_mult=self.ch_mult, groups=self.groups,
                    num_res_blocks=self.num_res_blocks, dtype=self.dtype)
      self.encoder = maskgit_blocks.Encoder(**shared, embed_dim=self.embed_dim)
      self.decoder = maskgit_blocks.Decoder(**shared,
                                            out_channels=self.channels)
      self.quantize = self._codebook((3.0 / self.codebook_size)**0.5)
      return
    shared = dict(ch=self.ch, ch_mult=self.ch_mult,
                  num_res_blocks=self.num_res_blocks,
                  attn_resolutions=self.attn_resolutions, groups=self.groups,
                  resolution=self.resolution, dtype=self.dtype)
    self.encoder = vqgan_blocks.Encoder(**shared, z_channels=self.z_channels)
    self.decoder = vqgan_blocks.Decoder(**shared, out_channels=self.channels)
    self.quant_conv = vqgan_blocks.torch_conv(
        self.z_channels, self.embed_dim, 1)
    self.post_quant_conv = vqgan_blocks.torch_conv(
        self.embed_dim, self.z_channels, 1)
    if self.kind == 'vq':
      self.quantize = self._codebook(1.0 / self.codebook_size)
    else:
      self.quantize = gumbel_quantizer.GumbelQuantizer(
          self.codebook_size, self.embed_dim)

  def _codebook(self, limit: float) -> quantizer.Codebook:
    return quantizer.Codebook(
        self.codebook_size, self.embed_dim,
        codes_init=quantizer.uniform_init(self.codes_limit or limit))

  def encode(self, x: jax.Array, keys: jax.Array | None = None,
             temperature: jax.Array | float = 1.0) -> Code:
    """Quantizes images [N, R, R, channels].

    Args:
      x: images.
      keys: [N], of the Gumbel quantizer's noise in training.
      temperature: of the Gumbel quantizer.
    """
    if self.nets == 'maskgit':
      z = self.encoder(0.5 * (x + 1.0))
    else:
      z = self.quant_conv(self.encoder(x))  # [N, R/f, R/f, D], float32
    if self.kind == 'gumbel':
      q, indices, kl = self.quantize(z, keys, temperature)
      return Code(q, indices, self.kl_weight * kl)
    codes = self.quantize()
    indices = quantizer.nearest(z, codes)
    q = quantizer.embed(codes, indices)
    loss = quantizer.vq_loss(z, q, self.beta, self.legacy)
    if self.entropy_weight:
      loss = loss + self.entropy_weight * entropy_loss(
          z, codes, self.entropy_temperature)
    return Code(quantizer.straight_through(z, q), indices, loss)

  def decode(self, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[N, h, w, D] -> (images [N, R, R, channels], see `Decoder`)."""
    if self.nets == 'maskgit':
      x, features = self.decoder(q)
      # In [-1, 1]; the layer is half of what it was for `adaptive_weight`,
      # which is a ratio.
      return 2.0 * x - 1.0, features
    return self.decoder(self.post_quant_conv(q))

  def decode_tokens(self, tokens: jax.Array) -> jax.Array:
    """int32 [N, h, w] -> images [N, R, R, channels]."""
    codes = (self.quantize() if self.kind == 'vq' else self.quantize.codes)
    return self.decode(quantizer.embed(codes, tokens))[0]

  def __call__(self, x: jax.Array, keys: jax.Array | None = None,
               temperature: jax.Array | float = 1.0):
    """Returns (x^, the input of the last layer, `Code`)."""
    code = self.encode(x, keys, temperature)
    return *self.decode(code.q), code


# --- Losses -----------------------------------------------------------------


def adaptive_weight(features: jax.Array, kernel: jax.Array, nll: jax.Array,
                    g: jax.Array, weight: float
                    ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Equation 7: lambda, and the two norms that it is made of.

  x^ = conv(features, kernel) + bias is linear in the kernel, so that the
  gradient there needs that layer alone.

  Args:
    features: input of the last layer, [N, R, R, ch].
    kernel: of the last layer, [3, 3, ch, C].
    nll: gradient of the reconstruction loss at x^, [N, R, R, C].
    g: gradient of g at x^, the same.
    weight: w.

  Returns:
    (lambda, |grad L_rec|, |grad g|), float32 scalars.
  """
  features, kernel = (jax.lax.stop_gradient(x).astype(jnp.float32)
                      for x in (features, kernel))
  _, pull = jax.vjp(lambda w: conv.conv2d(features, w, 1, 1), kernel)
  norms = [jnp.sqrt(jnp.sum(jnp.square(pull(cotangent)[0])))
           for cotangent in (nll, g)]
  ratio = norms[0] / (norms[1] + LAMBDA_EPSILON)
  return weight * jnp.clip(ratio, 0.0, LAMBDA_MAX), *norms


def with_gradient(value: jax.Array, x: jax.Array,
                  gradient: jax.Array) -> jax.Array:
  """Returns `value`, whose gradient at x is `gradient`."""
  inner = jnp.sum(x * jax.lax.stop_gradient(gradient))
  return inner + jax.lax.stop_gradient(value - inner)


def d_objective(name: str, real: jax.Array, fake: jax.Array) -> jax.Array:
  """L_D of float32 logits of any shape: 'hinge' or 'vanilla', halved."""
  activation = {'hinge': lambda x: jax.nn.relu(1.0 + x),
                'vanilla': jax.nn.softplus}[name]
  return 0.5 * (jnp.mean(activation(-real)) + jnp.mean(activation(fake)))


def entropy_loss(z: jax.Array, codes: jax.Array,
                 temperature: float) -> jax.Array:
  """E H(p) - H(E p), p = softmax(-|z - e|^2 / temperature) (MaskGIT's code).

  Sure of each vector, and even over all of them.

  Args:
    z: [..., D].
    codes: [K, D].
    temperature: of the softmax.
  """
  flat = z.astype(jnp.float32).reshape(-1, z.shape[-1])
  distance = (jnp.sum(flat**2, 1)[:, None] + jnp.sum(codes**2, 1)[None]
              - 2.0 * jnp.dot(flat, codes.T,
                              precision=jax.lax.Precision.HIGHEST))
  log_p = jax.nn.log_softmax(-distance / temperature, -1)
  p = jnp.exp(log_p)
  mean = jnp.mean(p, 0)
  return (-jnp.mean(jnp.sum(p * log_p, -1))
          + jnp.sum(mean * jnp.log(mean + 1e-5)))


def label_map_loss(logits: jax.Array, target: jax.Array) -> jax.Array:
  """Mean of the binary cross-entropies of all classes at all pixels."""
  return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target))


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: the f = 16 model's."""
  adam = dict(b1=0.5, b2=0.9)
  return ConfigDict(dict(
      model=dict(
          nets='taming',             # or 'maskgit'
          key='image',               # what is encoded; or 'label_map'
          num_labels=0,              # classes of 'label_map'
          ch=128,
          ch_mult=(1, 1, 2, 2, 4),
          num_res_blocks=2,
          attn_resolutions=(16,),
          groups=32,                 # of the normalization
          z_channels=256,
          quantizer='vq',            # or 'gumbel'
          codebook_size=1024,
          embed_dim=256,
          codes_limit=0.0,           # 'vq': codes start at U(-limit, limit)
          D='patchgan',              # or 'stylegan2'
          ndf=64,
          n_layers=3,
          bn_scope='global',         # 'device', as the official code
          channel_base=16384,        # stylegan2: channels times resolution
      ),
      loss=dict(
          beta=0.25,
          legacy_beta=True,
          codebook_weight=1.0,
          entropy_weight=0.0,        # 'vq': 0.1 in MaskGIT
          entropy_temperature=0.01,
          pixel_weight=1.0,
          perceptual='auto',         # 'lpips_vgg', 'lite0', 'none'
          perceptual_weight=1.0,
          adversarial='hinge',       # 'vanilla', 'none'
          disc_weight=0.8,           # w of lambda
          adaptive=True,             # otherwise lambda = disc_weight
          disc_start=10_000,
          disc_lead=0,
          disc_ramp=0,
          r1=0.0,                    # gamma
          r1_every=16,
          kl_weight=1e-8,            # gumbel
          temperature=1.0,           # gumbel: at step 0
          temperature_end=1.0,       # gumbel: from temperature_steps on
          temperature_steps=1,
      ),
      optimizer=dict(
          AE=optimizers.default_config('adam', 5.4e-5, **adam),
          D=optimizers.default_config('adam', 5.4e-5, **adam),
      ),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  model, loss = config.model, config.loss
  config_lib.check_choice(config, 'model.nets', NETS)
  config_lib.check_choice(config, 'model.quantizer', QUANTIZERS)
  config_lib.check_choice(config, 'model.D', DISCRIMINATORS)
  config_lib.check_choice(config, 'loss.adversarial', ADVERSARIAL)
  config_lib.check_choice(config, 'loss.perceptual', perceptual_lib.CHOICES)
  config_lib.check_positive(
      config, 'model.ch', 'model.num_res_blocks', 'model.z_channels',
      'model.groups',
      'model.codebook_size', 'model.embed_dim', 'model.ndf', 'model.n_layers',
      'loss.temperature', 'loss.temperature_end', 'loss.entropy_temperature',
      'loss.r1_every', 'model.channel_base')
  if model.codes_limit < 0:
    raise errors.UserError(
        f'config.model.codes_limit is {model.codes_limit}, expected 0 (the '
        "authors') or more.")
  norm.check_scope('model.bn_scope', model.bn_scope)
  factor = 2**(len(model.ch_mult) - 1)
  if not model.ch_mult or spec.resolution % factor or not spec.resolution:
    raise errors.UserError(
        f'config.model.ch_mult={model.ch_mult} makes maps {factor} times '
        f'smaller than the images, but data.resolution is {spec.resolution}, '
        'which is no multiple of it. Give ch_mult fewer levels, or change '
        '--config.data.resolution.')
  for key in ('disc_start', 'disc_lead', 'disc_ramp'):
    if loss[key] < 0:
      raise errors.UserError(
          f'config.loss.{key} is {loss[key]}; expected steps, 0 or more.')
  if model.quantizer == 'gumbel' and model.z_channels != model.embed_dim:
    raise errors.UserError(
        f'config.model.embed_dim is {model.embed_dim} and z_channels '
        f'{model.z_channels}, but the Gumbel quantizer needs them equal.')
  if model.nets == 'maskgit' and (
      model.quantizer != 'vq' or model.key != 'image'):
    raise errors.UserError(
        f"config.model.nets is 'maskgit' with quantizer={model.quantizer!r} "
        f"and key={model.key!r}; these networks have 'vq' and 'image' alone.")
  labels = model.key == 'label_map'
  if labels != (model.num_labels > 0):
    raise errors.UserError(
        f'config.model.num_labels is {model.num_labels} with model.key='
        f"{model.key!r}; expected the number of classes with key='label_map', "
        'and 0 with images.')
  channels = spec.channels
  for key, shape, _ in spec.shapes:
    if key == model.key and len(shape) == 3:
      channels = shape[-1]
  channels = model.num_labels or channels
  perceptual = None
  if not labels and loss.perceptual_weight:
    perceptual = perceptual_lib.choose(loss.perceptual)
  if perceptual and channels not in (1, 3):
    raise errors.UserError(
        f'The images of {model.key!r} have {channels} channels, and perceptual '
        'distances take 1 or 3. Set --config.loss.perceptual=none.')
  dtype = jnp.dtype(config.dtype)
  nets = {'AE': Autoencoder(
      ch=model.ch, ch_mult=tuple(model.ch_mult),
      num_res_blocks=model.num_res_blocks,
      attn_resolutions=tuple(model.attn_resolutions),
      resolution=spec.resolution, z_channels=model.z_channels,
      channels=channels, codebook_size=model.codebook_size,
      embed_dim=model.embed_dim,
      codes_limit=model.codes_limit, kind=model.quantizer, beta=loss.beta,
      legacy=loss.legacy_beta, kl_weight=loss.kl_weight,
      entropy_weight=loss.entropy_weight,
      entropy_temperature=loss.entropy_temperature, nets=model.nets,
      groups=model.groups, dtype=dtype)}
  if not labels and loss.adversarial != 'none':
    nets['D'] = discriminator(
        config, (spec.resolution, spec.resolution, channels), dtype)
  steps = config_lib.total_steps(config)
  return System(
      config=config, nets=nets, perceptual=perceptual,
      tx={net: optimizers.make(config.optimizer[net], steps) for net in nets},
      image_shape=(spec.resolution, spec.resolution, channels),
      requires=(model.key,))


def discriminator(config: ConfigDict, shape: tuple[int, int, int],
                  dtype: Any) -> nn.Module:
  """Returns `model.D` for images of a shape (H, W, C).

  Raises:
    UserError: images that it does not fit.
  """
  model, size = config.model, shape[0]
  if model.D == 'stylegan2':
    if size < 8 or size & (size - 1):
      raise errors.UserError(
          "config.model.D is 'stylegan2', which needs powers of two from 8 "
          f'on, but data.resolution is {size}. Set --config.model.D=patchgan.')
    return networks.Discriminator(
        networks.Pyramid(shape, model.channel_base, dtype=dtype))
  field = 2**model.n_layers * 4
  if size < field:
    raise errors.UserError(
        f'config.model.n_layers={model.n_layers} needs images of {field} '
        f'pixels at least, but data.resolution is {size}. Set fewer '
        '--config.model.n_layers.')
  return patchgan.Discriminator(model.ndf, model.n_layers,
                                bn_scope=model.bn_scope, dtype=dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """VQGAN; the members are those of core/system.py and core/tokenizer.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  perceptual: perceptual_lib.Perceptual | None
  tx: Mapping[str, optax.GradientTransformation]
  image_shape: tuple[int, int, int]
  requires: tuple[str, ...]

  conditions = ()
  options = ()
  batches_per_step = 1
  tokenizer_nets = ('AE',)

  @property
  def players(self) -> dict[str, tuple[str, ...]]:
    return {net: (net,) for net in self.nets}

  @property
  def codebook_size(self) -> int:
    return self.config.model.codebook_size

  @property
  def token_shape(self) -> tuple[int, int]:
    """(h, w) of the codes of one image."""
    factor = 2**(len(self.config.model.ch_mult) - 1)
    return tuple(size // factor for size in self.image_shape[:2])

  @property
  def notes(self) -> tuple[str, ...]:
    model, found = self.config.model, []
    if self.perceptual:
      found.append(f'perceptual loss: {self.perceptual.name}')
    least = model.ch * min(model.ch_mult)
    if model.groups % least == 0:
      found.append(
          f'levels of {least} channels are normalized channel by channel, '
          'which loses colours; a smaller model.groups, such as '
          f'{max(1, least // 4)}, keeps them')
    return tuple(found)

  @property
  def outputs(self):
    found = {'tokens': self._tokens, 'decode': self._decode}
    # Evaluation holds reconstructions against images.
    return found if self._labels else {
        'reconstruct': self._reconstruct, **found}

  @property
  def _training(self) -> dict[str, bool]:
    """What D is told in training: StyleGAN2's has but one mode."""
    return {'train': True} if self.config.model.D == 'patchgan' else {}

  @property
  def _labels(self) -> int:
    return self.config.model.num_labels

  def frozen(self) -> dict:
    return {}

  def loss_constants(self) -> dict:
    return perceptual_lib.constants(self.perceptual)

  def init(self, key: jax.Array) -> state_lib.TrainState:
    x = jnp.zeros((2, *self.image_shape))
    nets = {'AE': self.nets['AE'].init(rng.named(key, 0, 'init/AE'), x)}
    if 'D' in self.nets:
      nets['D'] = self.nets['D'].init(rng.named(key, 0, 'init/D'), x,
                                      **self._training)
    return state_lib.create(key, nets, self.players, self.tx, ema=('AE',))

  # -- What it makes

  def prepare(self, values: jax.Array) -> jax.Array:
    """Batch values to network input: [-1, 1], or one-hot for labels."""
    if self._labels:
      return jax.nn.one_hot(values, self._labels)
    return images.to_unit(values)

  def show(self, x: jax.Array) -> jax.Array:
    """Network output to images in [-1, 1]; colours stand for labels."""
    if not self._labels:
      return jnp.clip(x, -1.0, 1.0)
    return label_colours(jnp.argmax(x, -1))

  def _apply(self, variables, *args, method=None):
    return self.nets['AE'].apply(variables['AE'], *args, method=method)

  def _tokens(self, variables, batch, keys=None) -> jax.Array:
    """Returns int32 [N, h, w], row-major over the image."""
    del keys
    x = self.prepare(batch[self.config.model.key])
    return self._apply(variables, x, method='encode').indices

  def _decode(self, variables, batch, keys=None) -> jax.Array:
    """Returns the images of batch['tokens'] [N, h, w], of any h and w."""
    del keys
    return self.show(self._apply(variables, batch['tokens'],
                                 method='decode_tokens'))

  def _reconstruct(self, variables, batch, keys=None) -> jax.Array:
    del keys
    return self.show(self._apply(
        variables, self.prepare(batch[self.config.model.key]))[0])

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns codes int32 [N, h, w], each of which is as likely as any."""
    return jax.vmap(lambda key: jax.random.randint(
        key, self.token_shape, 0, self.codebook_size))(keys)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Returns the images [N, R, R, C] of random codes; see core/system.py.

    What a tokenizer alone can do. Codes that belong together are the work of
    a second stage.

    Args:
      variables: {'AE': variables}.
      keys: [N].
      conditions: may hold 'z' int32 [N, h, w], the codes.
    """
    tokens = (conditions or {}).get('z')
    tokens = self.latents(keys) if tokens is None else tokens
    return self._decode(variables, {'tokens': tokens})

  # -- How it trains

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """Updates the autoencoder, then D on its new reconstructions."""
    x = self.prepare(step_lib.first_of(batch)[self.config.model.key])
    microbatches = self.config.microbatches

    def inputs(name):
      keys = rng.per_example(rng.named(state.key, state.step, name), 0,
                             x.shape[0])
      # Keys are of images only where codes are drawn.
      gumbel = self.config.model.quantizer == 'gumbel'
      return mesh.shard_batch({'x': x, **({'key': keys} if gumbel else {})})

    before = state
    state, logs = step_lib.update_player(
        state, 'AE', self.players['AE'], self.tx['AE'],
        functools.partial(self.ae_loss, before, frozen), inputs('gumbel'),
        microbatches)
    if 'D' in self.nets:
      state, d_logs = step_lib.update_player(
          state, 'D', self.players['D'], self.tx['D'],
          functools.partial(self.d_loss, state), inputs('gumbel/d'),
          microbatches)
      logs = {**logs, **d_logs}
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step_lib.finish(state, beta), logs

  def _temperature(self, step: jax.Array) -> jax.Array:
    loss = self.config.loss
    return gumbel_quantizer.temperature(
        step, loss.temperature, loss.temperature_end, loss.temperature_steps)

  def _first_d_step(self) -> int:
    return self.config.loss.disc_start - self.config.loss.disc_lead

  def g_factor(self, step: jax.Array) -> jax.Array:
    """Weight of g besides lambda, at a step: 0, then (by a ramp) 1."""
    loss = self.config.loss
    after = (step - loss.disc_start).astype(jnp.float32)
    if loss.disc_ramp:
      return jnp.clip(after / loss.disc_ramp, 0.0, 1.0)
    return (after >= 0).astype(jnp.float32)

  def nll(self, frozen, x_hat: jax.Array, x: jax.Array):
    """The reconstruction loss, and its terms."""
    loss = self.config.loss
    if self._labels:
      value = label_map_loss(x_hat, x)
      return value, {'loss/label_map': value}
    l1 = jnp.mean(jnp.abs(x - x_hat))
    value, logs = loss.pixel_weight * l1, {'loss/l1': l1}
    if self.perceptual:
      distance = perceptual_lib.value(self.perceptual, frozen, x_hat, x)
      logs[f'loss/{self.perceptual.name}'] = distance
      value = value + loss.perceptual_weight * distance
    return value, logs

  def ae_loss(self, state, frozen, params, mvars, inputs):
    """L_AE; D as in `state`."""
    loss, x = self.config.loss, inputs['x']
    (x_hat, features, code), _ = state_lib.apply_net(
        self.nets['AE'], params['AE'], mvars['AE'], x, inputs.get('key'),
        self._temperature(state.step))
    fixed = jax.lax.stop_gradient(x_hat)
    (value, logs), v = jax.value_and_grad(
        functools.partial(self.nll, frozen), has_aux=True)(fixed, x)
    logs['loss/nll'] = value
    changed = {}
    if 'D' in self.nets:
      (g, d_changed), v_g = self._g(state, mvars, fixed)
      factor = self.g_factor(state.step)
      weight = jnp.asarray(loss.disc_weight, jnp.float32)
      if loss.adaptive:
        weight, nll_norm, g_norm = adaptive_weight(
            features, params['AE']['decoder']['conv_out']['kernel'], v, v_g,
            loss.disc_weight)
        logs |= {'grad_norm/nll_last': nll_norm, 'grad_norm/g_last': g_norm}
      weight = weight * factor
      logs |= {'loss/g': g, 'lambda': weight}
      value = value + weight * g
      v = v + weight * v_g
      changed = {'D': d_changed}
    value = with_gradient(value, x_hat, v) + loss.codebook_weight * code.loss
    used = jnp.bincount(code.indices.reshape(-1), length=self.codebook_size)
    logs |= {'loss/vq': code.loss, 'loss/ae': value,
             'codebook/perplexity': quantizer.perplexity(
                 used.astype(jnp.float32)),
             'codebook/usage': quantizer.usage(used)}
    if self.config.model.quantizer == 'gumbel':
      logs['temperature'] = self._temperature(state.step)
    return value, (changed, logs)

  def _g(self, state, mvars, x_hat):
    """((g, D's collections), gradient of g at x^); 0 before D counts."""
    d_params = mesh.replicate(state.params['D'])

    def g(x_hat):
      logits, changed = state_lib.apply_net(
          self.nets['D'], d_params, mvars['D'], x_hat, **self._training)
      return -jnp.mean(logits), changed

    def skip(x_hat):
      zero = jnp.zeros([], jnp.float32)
      return (zero, mvars['D']), jnp.zeros_like(x_hat)

    both = jax.value_and_grad(g, has_aux=True)
    if self.config.loss.disc_start == 0:
      return both(x_hat)
    return jax.lax.cond(state.step >= self.config.loss.disc_start, both, skip,
                        x_hat)

  def d_loss(self, state, params, mvars, inputs):
    """L_D on reconstructions by the autoencoder of `state`; 0 before."""
    x = inputs['x']

    def value(d_params):
      x_hat = self.nets['AE'].apply(
          {'params': mesh.replicate(state.params['AE'])}, x,
          inputs.get('key'), self._temperature(state.step))[0]
      x_hat = jax.lax.stop_gradient(x_hat)
      real, changed = state_lib.apply_net(
          self.nets['D'], d_params, mvars['D'], x, **self._training)
      fake, changed = state_lib.apply_net(
          self.nets['D'], d_params, changed, x_hat, **self._training)
      found = d_objective(self.config.loss.adversarial, real, fake)
      if self.config.loss.r1:
        found = found + step_lib.lazily(
            state.step, self.config.loss.r1_every, lambda params:
            penalties.r1(lambda x: state_lib.apply_net(
                self.nets['D'], params, mvars['D'], x, **self._training)[0],
                         x, self.config.loss.r1), d_params)
      return found, changed, jnp.mean(real), jnp.mean(fake)

    def skip(d_params):
      del d_params
      zero = jnp.zeros([], jnp.float32)
      return zero, mvars['D'], zero, zero

    if self._first_d_step() <= 0:
      found, changed, real, fake = value(params['D'])
    else:
      found, changed, real, fake = jax.lax.cond(
          state.step >= self._first_d_step(), value, skip, params['D'])
    return found, ({'D': changed}, {
        'loss/d': found, 'logits/real': real, 'logits/fake': fake})


def label_colours(labels: jax.Array) -> jax.Array:
  """Returns a colour in [-1, 1] for each label: int [...] -> [..., 3]."""
  # Multiples of the golden ratio and its kin: near labels, far colours.
  steps = jnp.asarray([0.6180340, 0.7548777, 0.5698403])
  hue = (labels[..., None] + 1.0) * steps.reshape(*[1] * labels.ndim, 3)
  return 2.0 * (hue % 1.0) - 1.0
