"""MaskGIT: codes drawn many at a time, over a frozen tokenizer.

Chang, Zhang, Jiang, Liu, Freeman 2022, arXiv:2202.04200, section 3, and
google-research/maskgit, which has the networks and the decoding, and no
training.

  Training (3.1): of the N codes of an image, ceil(gamma(r) N) with r uniform
  in [0, 1) are replaced by [MASK], and

    L = -E sum_masked log p(y_i | Y_masked)                             eq. 1

  Decoding (3.2), step t of T: every masked code is drawn; of those, the
  n = ceil(gamma(t/T) N) (floor in the code, which is followed) that the model
  was least sure of are masked again. Its sureness log p is disturbed by
  Gumbel noise times tau (1 - t/T).

  Schedules gamma (3.3): `SCHEDULES`, cosine by default.

The first token of a sequence is the class, a word of its own after the
codes; without classes there is one such word. [MASK] is the last word.

Options of sampling: steps T, temperature of the noise (4.5), schedule, and
sample_temperature of the codes.

Deviations:

1. The loss of a masked code is over the codes alone, as decoding is; what the
   authors normalized by is not known. Each image's is a mean over its masked
   codes.
2. AdamW decays kernels alone.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import optax

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import state as state_lib
from gans_jax.core import step as step_lib
from gans_jax.core import system as system_lib
from gans_jax.core import tokenizer
from gans_jax.data import spec as spec_lib
from gans_jax.nn import masked_transformer
from gans_jax.nn import transformer

ConfigDict = config_dict.ConfigDict

# Table 3, in its order.
SCHEDULES = ('exponential', 'cubic', 'square', 'cosine', 'linear', 'sqrt',
             'logarithmic')
_POWERS = {'cubic': 3.0, 'square': 2.0, 'linear': 1.0, 'sqrt': 0.5}


# --- Section 3.3: schedules ---------------------------------------------------


def gamma(name: str, r: jax.Array, number: jax.Array | int) -> jax.Array:
  """Returns the share of codes to be masked, in [1e-6, 1], falling in r.

  Args:
    name: of `SCHEDULES`.
    r: in [0, 1].
    number: N of codes.
  """
  r = jnp.asarray(r, jnp.float32)
  bits = jnp.log2(jnp.asarray(number, jnp.float32))
  if name == 'cosine':
    value = jnp.cos(0.5 * jnp.pi * r)
  elif name == 'exponential':
    value = 1.0 - jnp.exp2(-bits * (1.0 - r))
  elif name == 'logarithmic':
    value = -jnp.log2(r) / bits
  else:
    value = 1.0 - r**_POWERS[name]
  return jnp.clip(value, 1e-6, 1.0)


# --- Section 3.2: decoding ----------------------------------------------------


def decode(logits_of, keys: jax.Array, tokens: jax.Array, *, steps: int,
           schedule: str = 'cosine', temperature: float = 4.5,
           sample_temperature: float = 1.0, first: int = 0) -> jax.Array:
  """Fills in what is unknown, in one loop.

  Args:
    logits_of: int32 [N, S], -1 where unknown -> logits [N, S, K].
    keys: [N].
    tokens: int32 [N, S], -1 where unknown.
    steps: T.
    schedule: of `SCHEDULES`.
    temperature: tau of the noise on the model's sureness.
    sample_temperature: of the codes; 0 takes the likeliest.
    first: step to begin with; above 0 where much is known already.

  Returns:
    int32 [N, S].
  """
  total = jnp.sum(tokens < 0, 1)  # [N]

  def one(t, carry):
    tokens, _ = carry
    unknown = tokens < 0
    logits = logits_of(tokens).astype(jnp.float32)

    def draw(key, row):
      key = jax.random.fold_in(key, t)
      noise = jax.random.gumbel(rng.named(key, 0, 'choice'), row.shape[:1])
      if sample_temperature == 0:
        return jnp.argmax(row, -1), noise
      return jax.random.categorical(rng.named(key, 0, 'code'),
                                    row / sample_temperature), noise

    drawn, noise = jax.vmap(draw)(keys, logits)
    drawn = jnp.where(unknown, drawn.astype(jnp.int32), tokens)
    ratio = (t + 1.0) / steps
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits, -1),
                                jnp.maximum(drawn, 0)[..., None], 2)[..., 0]
    sure = jnp.where(unknown,
                     log_p + temperature * (1.0 - ratio) * noise, jnp.inf)
    number = jnp.floor(total * gamma(schedule, ratio, total))
    # One at least stays, and one at least is masked, whatever gamma says.
    number = jnp.maximum(1, jnp.minimum(jnp.sum(unknown, 1) - 1, number))
    cut = jnp.take_along_axis(jnp.sort(sure, 1),
                              number.astype(jnp.int32)[:, None], 1)
    return jnp.where(sure < cut, -1, drawn), drawn

  return jax.lax.fori_loop(first, steps, one, (tokens, tokens))[1]


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: the published 256 x 256 model's.
  """
  return ConfigDict(dict(
      model=dict(
          class_conditional=True,
          layers=24,
          heads=16,
          width=768,
          hidden=3072,
          dropout=0.1,
          remat=False,
      ),
      loss=dict(
          schedule='cosine',
          label_smoothing=0.1,
      ),
      optimizer=dict(T=optimizers.default_config(
          'adam', 1e-4, b1=0.9, b2=0.96, weight_decay=0.045, warmup=5000)),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses, or data without tokens.
  """
  model = config.model
  config_lib.check_choice(config, 'loss.schedule', SCHEDULES)
  config_lib.check_positive(config, 'model.layers', 'model.heads',
                            'model.width', 'model.hidden')
  transformer.check_heads(model.width, model.heads)
  for name, value in (('model.dropout', model.dropout),
                      ('loss.label_smoothing', config.loss.label_smoothing)):
    if not 0.0 <= value < 1.0:
      raise errors.UserError(
          f'config.{name} is {value}, expected a share in [0, 1).')
  codes, grid = tokenizer.vocabulary(spec)
  # Without classes there is one word in their place.
  classes = system_lib.num_classes(config, spec, 'class_conditional') or 1
  net = masked_transformer.MaskedTransformer(
      codes + classes + 1, 1 + math.prod(grid), model.layers, model.heads,
      model.width, model.hidden, model.dropout, model.remat,
      jnp.dtype(config.dtype))
  tx = {'T': optimizers.make(config.optimizer.T,
                             config_lib.total_steps(config),
                             transformer.decays)}
  return System(config=config, spec=spec, nets={'T': net}, tx=tx, codes=codes,
                grid=tuple(grid))


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """MaskGIT's second stage; the members are those of core/system.py.

  Attributes:
    codes: of the tokenizer.
    grid: of the codes of an image, (h, w).
  """

  config: ConfigDict
  spec: spec_lib.DataSpec
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  codes: int
  grid: tuple[int, ...]

  players = {'T': ('T',)}
  options = ('steps', 'temperature', 'schedule', 'sample_temperature')
  batches_per_step = 1
  outputs = {}

  @property
  def conditions(self) -> tuple[str, ...]:
    return ('label',) if self.config.model.class_conditional else ()

  @property
  def requires(self) -> tuple[str, ...]:
    return ('tokens', *self.conditions)

  def frozen(self) -> dict[str, Any]:
    return tokenizer.frozen(self.config, self.spec)

  def init(self, key: jax.Array) -> state_lib.TrainState:
    variables = self.nets['T'].init(rng.named(key, 0, 'init/T'),
                                    jnp.zeros((1, 2), jnp.int32))
    return state_lib.create(key, {'T': variables}, self.players, self.tx,
                            ema=('T',))

  def latents(self, keys: jax.Array):
    raise tokenizer.no_latents(self.config)

  def logits(self, variables, tokens: jax.Array, label, keys=None):
    """Returns those of every code, [N, S, K].

    Args:
      variables: of the net.
      tokens: int32 [N, S], -1 for [MASK].
      label: int32 [N], or None without classes.
      keys: of dropout, [N], or None.
    """
    words = self.nets['T'].vocabulary
    if label is None:
      label = jnp.zeros(tokens.shape[:1], jnp.int32)
    read = jnp.concatenate([
        self.codes + label[:, None].astype(jnp.int32),
        jnp.where(tokens < 0, words - 1, tokens)], 1)
    found = self.nets['T'].apply(variables, read, keys)
    return found[:, 1:, :self.codes]

  # -- Training

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """One update; see core/system.py."""
    del frozen
    batch = step_lib.first_of(batch)
    inputs = {key: batch[key] for key in self.requires}
    inputs['key'] = mesh.shard_batch(rng.per_example(
        rng.named(state.key, state.step, 'mask'), 0,
        inputs['tokens'].shape[0]))
    state, logs = step_lib.update_player(
        state, 'T', self.players['T'], self.tx['T'], self.loss, inputs,
        self.config.microbatches)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step_lib.finish(state, beta), logs

  def loss(self, params, mvars, inputs):
    """Equation 1."""
    del mvars
    tokens = inputs['tokens'].reshape(inputs['tokens'].shape[0], -1)
    masked = jax.vmap(lambda key: mask(key, tokens.shape[1],
                                       self.config.loss.schedule))(
                                           inputs['key'])
    keys = inputs['key'] if self.config.model.dropout else None
    logits = self.logits({'params': params['T']},
                         jnp.where(masked, -1, tokens), inputs.get('label'),
                         keys)
    smooth = self.config.loss.label_smoothing
    target = jax.nn.one_hot(tokens, self.codes)
    target = (1.0 - smooth) * target + smooth / self.codes
    each = optax.softmax_cross_entropy(logits, target)
    weight = masked / jnp.sum(masked, 1, keepdims=True)
    loss = jnp.mean(jnp.sum(each * weight, 1))
    right = (jnp.argmax(logits, -1) == tokens) * weight
    return loss, ({}, {'loss/t': loss,
                       'accuracy': jnp.mean(jnp.sum(right, 1)),
                       'masked': jnp.mean(masked.astype(jnp.float32))})

  # -- Sampling

  def tokens(self, variables, keys: jax.Array, conditions=None, *,
             steps: int = 8, temperature: float = 4.5,
             schedule: str = 'cosine', sample_temperature: float = 1.0,
             known: jax.Array | None = None, first: int = 0) -> jax.Array:
    """Draws codes, int32 [N, h, w]; see `decode`.

    Args:
      variables: {'T': variables}.
      keys: [N].
      conditions: 'label' [N] where the model is conditional.
      steps: T.
      temperature: tau.
      schedule: of `SCHEDULES`.
      sample_temperature: of the codes.
      known: int32 [N, h, w], -1 where unknown: for editing.
      first: step to begin with, 2 of 12 in the authors' editing.

    Raises:
      UserError: an option out of its range.
    """
    if schedule not in SCHEDULES or steps < 1 or temperature < 0 or (
        sample_temperature < 0 or not 0 <= first < steps):
      raise errors.UserError(
          f'schedule is {schedule!r}, steps {steps}, temperature '
          f'{temperature} and sample_temperature {sample_temperature}; '
          f'expected one of {", ".join(SCHEDULES)}, at least 1, and numbers '
          'from 0 on.')
    label = (conditions or {}).get('label') if self.conditions else None
    number = keys.shape[0]
    if known is None:
      known = jnp.full((number, *self.grid), -1, jnp.int32)
    found = decode(
        lambda tokens: self.logits(variables['T'], tokens, label), keys,
        known.reshape(number, -1), steps=steps, schedule=schedule,
        temperature=temperature, sample_temperature=sample_temperature,
        first=first)
    return found.reshape(number, *self.grid)

  def generate(self, variables, keys: jax.Array, conditions=None,
               **options) -> jax.Array:
    """Draws codes and decodes them; see core/system.py.

    Args:
      variables: {'T': variables, 'tokenizer': those of the frozen tokenizer}.
      keys: [N].
      conditions: see `tokens`.
      **options: of `tokens`.
    """
    found = self.tokens(variables, keys, conditions, **options)
    return tokenizer.decode(self.config, variables, found, keys)


def mask(key: jax.Array, number: int, schedule: str) -> jax.Array:
  """Returns which of `number` codes to mask in training, bool; one at least.

  ceil(gamma(r) N) of them, r uniform in [0, 1), all sets alike.
  """
  r = jax.random.uniform(rng.named(key, 0, 'rate'))
  count = jnp.ceil(gamma(schedule, r, number) * number)
  rank = jax.random.permutation(rng.named(key, 0, 'where'), number)
  return rank < count
