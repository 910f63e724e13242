"""Auto-Encoding Variational Bayes (VAE).

Kingma & Welling 2013, arXiv:1312.6114.

Implemented: the evidence lower bound with the divergence in closed form
(eq. 10, appendix B), the reparameterization z = mu + sigma eps (eq. 4), the
MLPs of appendix C with Bernoulli and Gaussian decoders, convolutional nets of
the same form, `loss.beta` (Higgins et al. 2017; 1 is the paper's).

  ELBO = E_q log p(x|z) - KL(q(z|x) || N(0, I)),   in nats an image
  KL = -1/2 sum_j (1 + log sigma_j^2 - mu_j^2 - sigma_j^2)

  model.variant   mlp (appendix C)            conv
  E               flat, dense -> hidden,      conv 4x4 s2 until 8 pixels or less
                  tanh                        are left, conv 5x5, conv over what
                                              is left -> 2 z_dim
  G               dense -> hidden, tanh,      the transposes, backwards
                  dense -> pixels
                                              (batch norm and ReLU between)

  loss.decoder      log p(x|z), a sum over all pixels and channels
  bernoulli         x log y + (1 - x) log(1 - y), x in [0, 1] (see `binarize`)
  gaussian          N(x; y, loss.std^2), x in [-1, 1]
  gaussian_learned  N(x; y, s^2), y and s^2 from the decoder (appendix C.2)

Both terms are sums, and so in one unit: with a mean over pixels instead, beta
would in truth be the number of pixels.

Deviations:
1. Adam where the paper has Adagrad.
2. `loss.binarize`: Bernoulli needs pixels of 0 and 1. 'none' takes grey levels
   as probabilities, as the paper and most code; 'threshold' at 1/2; 'sample'
   draws each pixel anew in every step.
3. Gaussian means pass through tanh into [-1, 1] (the paper: sigmoid, [0, 1]).
4. Log-variances are clamped: q's to [-30, 20] (as latent diffusion's code),
   pixels' to [-10, 10].
5. 'bits_per_dim' of a Gaussian is a density at 8-bit levels, scaled to their
   width; a bound on their probability only with `loss.dequantize` (uniform
   noise of one level, Theis et al. 2016, arXiv:1511.01844).
6. conv: after ritheshkumar95/pytorch-vqvae, at 28 and 32 pixels the same.
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
from gans_jax.nn import conv
from gans_jax.nn import norm

ConfigDict = config_dict.ConfigDict

VARIANTS = ('mlp', 'conv')
DECODERS = ('bernoulli', 'gaussian', 'gaussian_learned')
BINARIZE = ('none', 'threshold', 'sample')
MLP_STD = 0.01               # appendix C: weights N(0, 0.01)
Z_LOGVAR = (-30.0, 20.0)
X_LOGVAR = (-10.0, 10.0)
LEVEL = 2.0 / 255.0          # from one 8-bit value to the next in [-1, 1]


class MLPEncoder(nn.Module):
  """x [N, H, W, C] -> (mu, log sigma^2) of z, each [N, z_dim]."""

  z_dim: int
  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool):
    del train
    layer = functools.partial(
        nn.Dense, kernel_init=nn.initializers.normal(MLP_STD),
        dtype=self.dtype)
    h = jnp.tanh(layer(self.hidden, name='hidden')(x.reshape(x.shape[0], -1)))
    return split_moments(layer(2 * self.z_dim, name='moments')(h))


class MLPDecoder(nn.Module):
  """z [N, z_dim] -> parameters of p(x|z), [N, *shape]."""

  shape: tuple[int, int, int]
  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    del train
    layer = functools.partial(
        nn.Dense, kernel_init=nn.initializers.normal(MLP_STD),
        dtype=self.dtype)
    h = jnp.tanh(layer(self.hidden, name='hidden')(z))
    x = layer(math.prod(self.shape), name='pixels')(h)
    return x.reshape(-1, *self.shape).astype(jnp.float32)


def sides(resolution: int) -> list[int]:
  """Sizes of the maps that the convolutions make, from the image to 1.

  Raises:
    UserError: a resolution that does not halve to 6, 7 or 8.
  """
  found = [resolution]
  while found[-1] > 8 and found[-1] % 2 == 0:
    found.append(found[-1] // 2)
  if not 6 <= found[-1] <= 8:
    raise errors.UserError(
        f"config.model.variant is 'conv', whose layers halve an image down to "
        f'6, 7 or 8 pixels, but data.resolution is {resolution}. Use a '
        "resolution such as 28, 32 or 64, or --config.model.variant=mlp.")
  return [*found, found[-1] - 4, 1]


class ConvEncoder(nn.Module):
  """The same as `MLPEncoder`, by convolutions."""

  z_dim: int
  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool):
    layer = functools.partial(
        conv.Conv, kernel_init=nn.initializers.xavier_uniform(),
        dtype=self.dtype)
    found = sides(x.shape[1])
    x = x.astype(self.dtype)
    for size in found[1:-2]:
      x = layer(self.hidden, 4, 2, ((1, 1), (1, 1)), name=f'conv_{size}')(x)
      x = nn.relu(norm.BatchNorm(name=f'bn_{size}')(x, train))
    x = layer(self.hidden, 5, 1, ((0, 0), (0, 0)), name=f'conv_{found[-2]}')(x)
    x = nn.relu(norm.BatchNorm(name=f'bn_{found[-2]}')(x, train))
    x = layer(2 * self.z_dim, found[-2], 1, ((0, 0), (0, 0)), name='conv_1')(x)
    x = norm.BatchNorm(name='bn_1')(x, train)
    return split_moments(x[:, 0, 0])


class ConvDecoder(nn.Module):
  """The same as `MLPDecoder`, by transposed convolutions."""

  shape: tuple[int, int, int]
  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> jax.Array:
    layer = functools.partial(
        conv.ConvTranspose, kernel_init=nn.initializers.xavier_uniform(),
        dtype=self.dtype)
    found = sides(self.shape[0])[::-1]  # 1, k, k + 4, 2 (k + 4), ...
    x = z[:, None, None].astype(self.dtype)
    for i, size in enumerate(found[1:]):
      kernel, stride, padding = ((found[1], 1, 0), (5, 1, 0), (4, 2, 1))[
          min(i, 2)]
      last = size == self.shape[0]
      x = layer(self.shape[-1] if last else self.hidden, kernel, stride,
                padding, name=f'convt_{size}')(x)
      if not last:
        x = nn.relu(norm.BatchNorm(name=f'bn_{size}')(x, train))
    return x.astype(jnp.float32)


def split_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns (mu, clamped log sigma^2) of [N, 2 z_dim], in float32."""
  mu, logvar = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return mu, jnp.clip(logvar, *Z_LOGVAR)


# --- The bound ----------------------------------------------------------------


def divergence(mu: jax.Array, logvar: jax.Array) -> jax.Array:
  """KL(N(mu, exp(logvar)) || N(0, I)) in nats, appendix B.

  Args:
    mu: [N, z_dim].
    logvar: log sigma^2 [N, z_dim], not the deviation.

  Returns:
    [N].
  """
  return -0.5 * jnp.sum(1.0 + logvar - mu**2 - jnp.exp(logvar), axis=-1)


def log_likelihood(decoder: str, y: jax.Array, x: jax.Array,
                   std: float = 1.0) -> jax.Array:
  """log p(x|z) in nats, summed over pixels.

  Args:
    decoder: of DECODERS.
    y: what the decoder gave, [N, H, W, C], or 2 C channels for
      'gaussian_learned': logits of means, then log-variances.
    x: [N, H, W, C] in [0, 1] for 'bernoulli', else in [-1, 1].
    std: of 'gaussian'.

  Returns:
    [N].
  """
  axes = tuple(range(1, x.ndim))
  if decoder == 'bernoulli':
    # log sigmoid(y) = y - softplus(y) = -softplus(-y).
    return jnp.sum(x * y - jax.nn.softplus(y), axes)
  if decoder == 'gaussian':
    mean, logvar = jnp.tanh(y), jnp.full_like(y, 2.0 * math.log(std))
  else:
    mean, logvar = jnp.split(y, 2, axis=-1)
    mean, logvar = jnp.tanh(mean), jnp.clip(logvar, *X_LOGVAR)
  squared = (x - mean)**2 * jnp.exp(-logvar)
  return -0.5 * jnp.sum(squared + logvar + math.log(2.0 * math.pi), axes)


# --- System -------------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: the paper's MNIST."""
  return ConfigDict(dict(
      model=dict(
          variant='mlp',             # or 'conv'
          z_dim=20,
          hidden=500,                # units, or channels of 'conv'
      ),
      loss=dict(
          decoder='bernoulli',       # 'gaussian', 'gaussian_learned'
          std=0.1,                   # of 'gaussian', x in [-1, 1]
          beta=1.0,
          binarize='none',           # 'threshold', 'sample'
          dequantize=False,
      ),
      optimizer=dict(AE=optimizers.default_config('adam', 1e-3)),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses.
  """
  model, loss = config.model, config.loss
  config_lib.check_choice(config, 'model.variant', VARIANTS)
  config_lib.check_choice(config, 'loss.decoder', DECODERS)
  config_lib.check_choice(config, 'loss.binarize', BINARIZE)
  config_lib.check_positive(config, 'model.z_dim', 'model.hidden', 'loss.std')
  if loss.beta < 0:
    raise errors.UserError(
        f'config.loss.beta is {loss.beta}, must be 0 or more.')
  bernoulli = loss.decoder == 'bernoulli'
  if (loss.binarize != 'none') > bernoulli or loss.dequantize and bernoulli:
    raise errors.UserError(
        f'config.loss.decoder is {loss.decoder!r}, with binarize='
        f'{loss.binarize!r} and dequantize={loss.dequantize}: pixels of 0 and '
        "1 are for 'bernoulli', noise on 8-bit levels for the Gaussian "
        'decoders. Set --config.loss.binarize=none or '
        '--config.loss.dequantize=false.')
  shape = (spec.resolution, spec.resolution, spec.channels)
  outputs = (*shape[:2],
             shape[2] * (2 if loss.decoder == 'gaussian_learned' else 1))
  if model.variant == 'conv':
    sides(spec.resolution)
  encoder, decoder = ((ConvEncoder, ConvDecoder) if model.variant == 'conv'
                      else (MLPEncoder, MLPDecoder))
  dtype = jnp.dtype(config.dtype)
  nets = {'E': encoder(model.z_dim, model.hidden, dtype),
          'G': decoder(outputs, model.hidden, dtype)}
  tx = {'AE': optimizers.make(config.optimizer.AE,
                              config_lib.total_steps(config))}
  return System(config=config, nets=nets, tx=tx, image_shape=shape)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """VAE; the members are those of core/system.py."""

  config: ConfigDict
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  image_shape: tuple[int, int, int]

  players = {'AE': ('E', 'G')}
  requires = ('image',)
  conditions = ()
  options = ()
  batches_per_step = 1
  has_prior = True

  @property
  def outputs(self):
    return {'reconstruct': self._reconstruct, 'encode': self._encode,
            'elbo': self._elbo}

  def frozen(self) -> dict:
    return {}

  def init(self, key: jax.Array) -> state_lib.TrainState:
    x = jnp.zeros((2, *self.image_shape))
    z = jnp.zeros((2, self.config.model.z_dim))
    nets = {'E': self.nets['E'].init(rng.named(key, 0, 'init/E'), x, True),
            'G': self.nets['G'].init(rng.named(key, 0, 'init/G'), z, True)}
    return state_lib.create(key, nets, self.players, self.tx, ema=('E', 'G'))

  # --- Outputs ---

  def _encode(self, variables, batch, keys=None) -> jax.Array:
    """Returns mu, float32 [N, z_dim]."""
    del keys
    x = images.to_unit(batch['image'])
    # 1/2: drawn pixels come out as those above the threshold.
    x = self._pixels(x, jnp.full_like(x, 0.5))
    return self.nets['E'].apply(variables['E'], x, False)[0]

  def _reconstruct(self, variables, batch, keys=None) -> jax.Array:
    return self._decode(variables, self._encode(variables, batch, keys))

  def _elbo(self, variables, batch, keys) -> jax.Array:
    """Returns the bound [N] in nats, with one eps from each key."""
    eps = self.latents(keys)
    noise = jax.vmap(lambda key: self._noise(jax.random.fold_in(key, 1), 1)[0])(
        keys)
    x = self._pixels(images.to_unit(batch['image']), noise)
    mu, logvar = self.nets['E'].apply(variables['E'], x, False)
    y = self.nets['G'].apply(variables['G'], reparameterize(mu, logvar, eps),
                             False)
    loss = self.config.loss
    return (log_likelihood(loss.decoder, y, x, loss.std)
            - divergence(mu, logvar))

  def _decode(self, variables, z: jax.Array) -> jax.Array:
    """Returns the mean of p(x|z) as images in [-1, 1]."""
    y = self.nets['G'].apply(variables['G'], z, False)
    y = y[..., :self.image_shape[-1]]
    # 2 sigmoid(y) - 1 = tanh(y / 2).
    return jnp.tanh(y / 2.0 if self.config.loss.decoder == 'bernoulli' else y)

  def latents(self, keys: jax.Array) -> jax.Array:
    """Returns z [N, z_dim] of N(0, I)."""
    return jax.vmap(
        lambda k: jax.random.normal(k, (self.config.model.z_dim,)))(keys)

  def generate(self, variables, keys: jax.Array,
               conditions=None) -> jax.Array:
    """Returns the mean images of z; `conditions` may hold 'z'."""
    return self._decode(variables,
                        generation.latents(self, keys, conditions))

  # --- Pixels ---

  def _view(self, x: jax.Array) -> jax.Array:
    """[-1, 1] -> what nets and likelihood see."""
    return (x + 1.0) / 2.0 if self.config.loss.decoder == 'bernoulli' else x

  def _noise(self, key: jax.Array, count: int) -> jax.Array:
    """Uniform noise on [0, 1) for what the loss does to pixels, or zeros."""
    loss = self.config.loss
    shape = (count, *self.image_shape)
    if loss.dequantize or loss.binarize == 'sample':
      return jax.random.uniform(key, shape)
    return jnp.zeros(shape)

  def _pixels(self, x: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns x as the decoder's distribution wants it."""
    loss, x = self.config.loss, self._view(x)
    if loss.binarize == 'threshold':
      return (x > 0.5).astype(jnp.float32)
    if loss.binarize == 'sample':
      return (noise < x).astype(jnp.float32)
    if loss.dequantize:
      return x + LEVEL * (noise - 0.5)
    return x

  # --- Training ---

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """One update of E and G; see core/system.py."""
    del frozen
    real = images.to_unit(step.first_of(batch)['image'])
    keys = [rng.named(state.key, state.step, name) for name in ('eps', 'noise')]
    eps = jax.random.normal(
        keys[0], (real.shape[0], self.config.model.z_dim))
    noise = self._noise(keys[1], real.shape[0])
    x = self._pixels(real, mesh.shard_batch(noise))
    state, logs = step.update_player(
        state, 'AE', self.players['AE'], self.tx['AE'], self.loss,
        {'x': x, 'eps': mesh.shard_batch(eps)}, self.config.microbatches)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step.finish(state, beta), logs

  def loss(self, params, mvars, inputs):
    """-ELBO (eq. 10, L = 1), with beta at the divergence."""
    loss, x = self.config.loss, inputs['x']
    (mu, logvar), e_changed = state_lib.apply_net(
        self.nets['E'], params['E'], mvars['E'], x, True)
    z = reparameterize(mu, logvar, inputs['eps'])
    y, g_changed = state_lib.apply_net(
        self.nets['G'], params['G'], mvars['G'], z, True)
    recon = -jnp.mean(log_likelihood(loss.decoder, y, x, loss.std))
    kl = jnp.mean(divergence(mu, logvar))
    bits = (recon + kl) / (x[0].size * math.log(2.0))
    if loss.decoder != 'bernoulli':
      bits = bits - math.log2(LEVEL)
    return recon + loss.beta * kl, ({'E': e_changed, 'G': g_changed}, {
        'loss/ae': recon + loss.beta * kl, 'loss/recon': recon, 'loss/kl': kl,
        'elbo': -(recon + kl), 'bits_per_dim': bits})


def reparameterize(mu: jax.Array, logvar: jax.Array,
                   eps: jax.Array) -> jax.Array:
  """z = mu + sigma eps (eq. 4)."""
  return mu + jnp.exp(0.5 * logvar) * eps
