"""The second stage of "Taming Transformers": a GPT over codes.

Esser, Rombach, Ommer 2021, arXiv:2012.09841, sections 3.2 and 3.3;
`Net2NetTransformer` of CompVis/taming-transformers.

The codes s of an image, in reading order, follow a prefix c, and

  p(s | c) = prod_i p(s_i | s_<i, c),  L = E -log p(s | c)             eq. 9, 10

with the loss of the image's codes alone. model.condition:

  'none'    c is the single token 0
  'class'   c is the label, as a token among the codes
  'tokens'  c are the codes of a second tokenizer, data.cond_tokenizer, of
            label maps, depth or whatever else it encodes: same vocabulary,
            nothing added

The sizes of the paper are model.layers and model.width (16 heads); nets and
optimizer (AdamW, decay 0.01 of kernels alone) are the official code's.

Images larger than those trained on are sampled through a sliding window
(section 3.3, figure 3): each code in the middle of its window where it can
be; options height and width, in codes.

Deviations:

1. top_p works without top_k; officially it is then ignored.
2. Where there are more classes than codes, the vocabulary is larger than the
   codebook, and what is no code is never drawn.
"""

from collections.abc import Callable
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
from gans_jax.core import tokenizer
from gans_jax.data import spec as spec_lib
from gans_jax.nn import token_sampling
from gans_jax.nn import transformer

ConfigDict = config_dict.ConfigDict

CONDITIONS = ('none', 'class', 'tokens')


# --- The sliding window -------------------------------------------------------


def place_in_window(i: jax.Array | int, size: int, window: int) -> jax.Array:
  """Returns where in its window position i of `size` lies.

  In the middle, or as near to it as the border lets the window come.
  """
  return i - jnp.clip(i - window // 2, 0, size - window)


def borders(size: int, window: int) -> tuple[int, ...]:
  """Returns the rows of `size` above which a seam would lie.

  Where the windows begin to move, where windows side by side would meet, and
  where they have stopped moving.
  """
  meet = range(window, size - window + 1, window)
  return tuple(sorted({window // 2 + 1, *meet, size - window + window // 2}))


def sample_windows(net: transformer.GPT, variables,
                   prefix: Callable[[jax.Array, jax.Array], jax.Array],
                   number: int, size: tuple[int, int], window: tuple[int, int],
                   draw: Callable[[jax.Array, jax.Array], jax.Array]
                   ) -> jax.Array:
  """Returns grids of codes larger than the window, int32 [N, H, W].

  Every code is drawn by a pass over its own window. Codes that are not there
  yet come after it there, where causality hides them.

  Args:
    net: the Transformer.
    variables: its variables.
    prefix: (first row, first column of the window) -> int32 [N, P].
    number: N.
    size: (H, W).
    window: (h, w), the size trained on.
    draw: (logits [N, K], number of the code in the grid) -> int32 [N].
  """
  (height, width), (h, w) = size, window

  def one(t, grid):
    i, j = t // width, t % width
    di, dj = place_in_window(i, height, h), place_in_window(j, width, w)
    crop = jax.lax.dynamic_slice(grid, (0, i - di, j - dj), (number, h, w))
    c = prefix(i - di, j - dj)
    read = jnp.concatenate([c, crop.reshape(number, h * w)], 1)[:, :-1]
    logits = net.apply(variables, read, c.shape[1] - 1 + di * w + dj,
                       method='at')
    return jax.lax.dynamic_update_slice(
        grid, draw(logits, t)[:, None, None], (0, i, j))

  grid = jnp.zeros((number, height, width), jnp.int32)
  return jax.lax.fori_loop(0, height * width, one, grid)


# --- System -----------------------------------------------------------------


def default_config() -> ConfigDict:
  """Returns every key that this system reads: FFHQ's sizes."""
  return ConfigDict(dict(
      model=dict(
          condition='none',          # 'class', 'tokens'
          layers=28,
          heads=16,
          width=1024,
          dropout=0.0,
          keep=1.0,                  # p_keep: of input codes in training
          bidirectional=0,           # first positions that see each other
          remat=False,
          vocabulary=0,              # 0: as many as there are codes
          positions=0,               # 0: as many as are needed
      ),
      optimizer=dict(T=optimizers.default_config(
          'adam', 4.5e-6 * 16, b1=0.9, b2=0.95, weight_decay=0.01)),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses, or data without tokens.
  """
  model = config.model
  config_lib.check_choice(config, 'model.condition', CONDITIONS)
  config_lib.check_positive(config, 'model.layers', 'model.heads',
                            'model.width')
  transformer.check_heads(model.width, model.heads)
  for key, low, high in (('dropout', 0.0, 1.0), ('keep', 0.0, 1.0)):
    if not low <= model[key] <= high or (key, model[key]) == ('dropout', 1.0):
      raise errors.UserError(
          f'config.model.{key} is {model[key]}, expected a probability.')
  codes, grid = tokenizer.grid(config, spec)
  least, prefix, cond_grid = codes, 1, None
  if model.condition == 'class':
    if not spec.num_classes:
      raise errors.UserError(
          "config.model.condition is 'class', but the data have no labels. "
          "Set --config.data.labels (such as 'class'; emoji: 'group').")
    least = max(codes, spec.num_classes)
  elif model.condition == 'tokens':
    cond_codes, cond_grid = tokenizer.vocabulary(spec, 'cond_tokens')
    least, prefix = max(codes, cond_codes), math.prod(cond_grid)
  for key, needed in (('vocabulary', least),
                      ('positions', prefix + math.prod(grid) - 1)):
    if model[key] and model[key] < needed:
      raise errors.UserError(
          f'config.model.{key} is {model[key]}, but {needed} are needed with '
          f'condition {model.condition!r} and grids of {grid} codes. Set it '
          'to that, or to 0.')
  net = transformer.GPT(
      model.vocabulary or least,
      model.positions or prefix + math.prod(grid) - 1, model.layers,
      model.heads, model.width, model.dropout, model.bidirectional,
      model.remat, jnp.dtype(config.dtype))
  tx = {'T': optimizers.make(config.optimizer.T,
                             config_lib.total_steps(config),
                             transformer.decays)}
  return System(config=config, spec=spec, nets={'T': net}, tx=tx, codes=codes,
                grid=grid, cond_grid=cond_grid)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """A prior over codes; the members are those of core/system.py.

  Attributes:
    codes: of the tokenizer.
    grid: (h, w) of the codes of an image.
    cond_grid: of those of a condition, or None.
  """

  config: ConfigDict
  spec: spec_lib.DataSpec
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  codes: int
  grid: tuple[int, int]
  cond_grid: tuple[int, int] | None

  players = {'T': ('T',)}
  options = ('temperature', 'top_k', 'top_p', 'height', 'width')
  batches_per_step = 1

  @property
  def requires(self) -> tuple[str, ...]:
    more = {'none': (), 'class': ('label',), 'tokens': ('cond_tokens',)}
    return ('tokens', *more[self.config.model.condition])

  @property
  def conditions(self) -> tuple[str, ...]:
    return self.requires[1:]

  @property
  def outputs(self):
    found = {'nll': self._nll}
    if self.cond_grid:
      found['reconstruct'] = self._of_condition
    return found

  def frozen(self) -> dict[str, Any]:
    return tokenizer.frozen(self.config, self.spec)

  def init(self, key: jax.Array) -> state_lib.TrainState:
    variables = self.nets['T'].init(rng.named(key, 0, 'init/T'),
                                    jnp.zeros((1, 2), jnp.int32))
    return state_lib.create(key, {'T': variables}, self.players, self.tx,
                            ema=('T',))

  def latents(self, keys: jax.Array):
    raise tokenizer.no_latents(self.config)

  # -- Training

  def prefix(self, inputs, number: int) -> jax.Array:
    """Returns c of a batch, int32 [N, P]."""
    condition = self.config.model.condition
    if condition == 'none':
      return jnp.zeros((number, 1), jnp.int32)
    if condition == 'class':
      return inputs['label'][:, None].astype(jnp.int32)
    return inputs['cond_tokens'].reshape(number, -1)

  def logits(self, variables, inputs, keys=None) -> jax.Array:
    """Returns those of every code of inputs['tokens'], [N, h w, K].

    Args:
      variables: of the net.
      inputs: a batch, without its leading axis of batches.
      keys: [N] in training: of dropout and of codes that are not kept.
    """
    model = self.config.model
    s = inputs['tokens'].reshape(inputs['tokens'].shape[0], -1)
    c = self.prefix(inputs, s.shape[0])
    if keys is not None and model.keep < 1.0:
      s = corrupt(s, keys, model.keep, self.nets['T'].vocabulary)
    read = jnp.concatenate([c, s], 1)[:, :-1]
    dropout = keys if model.dropout else None
    found = self.nets['T'].apply(variables, read, dropout)
    return found[:, c.shape[1] - 1:]

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """One update; see core/system.py."""
    del frozen
    inputs = {key: x for key, x in step_lib.first_of(batch).items()
              if key in self.requires}
    if self.config.model.dropout or self.config.model.keep < 1.0:
      inputs['key'] = mesh.shard_batch(rng.per_example(
          rng.named(state.key, state.step, 'dropout'), 0,
          inputs['tokens'].shape[0]))
    state, logs = step_lib.update_player(
        state, 'T', self.players['T'], self.tx['T'], self.loss, inputs,
        self.config.microbatches)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step_lib.finish(state, beta), logs

  def loss(self, params, mvars, inputs):
    """Equation 10, a mean over codes."""
    del mvars
    logits = self.logits({'params': params['T']}, inputs, inputs.get('key'))
    target = inputs['tokens'].reshape(logits.shape[:2])
    loss = jnp.mean(tokenizer.cross_entropy(logits, target))
    right = jnp.argmax(logits, -1) == target
    return loss, ({}, {'loss/t': loss, 'bits_per_token': loss / math.log(2.0),
                       'accuracy': jnp.mean(right.astype(jnp.float32))})

  def _nll(self, variables, batch, keys=None) -> jax.Array:
    """Returns -log p(s | c) in nats [N]."""
    del keys
    logits = self.logits(variables['T'], batch)
    target = batch['tokens'].reshape(logits.shape[:2])
    return jnp.sum(tokenizer.cross_entropy(logits, target), 1)

  # -- Sampling

  def tokens(self, variables, keys: jax.Array, conditions=None, *,
             temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
             height: int = 0, width: int = 0,
             cached: bool = True) -> jax.Array:
    """Draws codes, int32 [N, h, w], in one loop; see `token_sampling.draw`.

    Args:
      variables: {'T': variables}.
      keys: [N].
      conditions: 'label' [N] or 'cond_tokens' [N, height, width], by
        model.condition.
      temperature: of the logits; 0 takes the likeliest.
      top_k: 0 for all.
      top_p: 1 for all.
      height: in codes; 0 for that trained on. A larger one, as a larger
        width, is sampled through a sliding window.
      width: the same.
      cached: keep keys and values, or read everything for every code.

    Raises:
      UserError: an option out of its range, or no condition.
    """
    size = (int(height) or self.grid[0], int(width) or self.grid[1])
    self._check(size, temperature, top_k, top_p)
    number = keys.shape[0]
    conditions = dict(conditions or {})
    for name in self.conditions:
      if name not in conditions:
        raise errors.UserError(
            f'Sampling with model.condition='
            f'{self.config.model.condition!r} needs {name} for every image; '
            "from Python: system.outputs['reconstruct'], or "
            f'generate(..., conditions with {name!r}).')

    def draw(logits, i):
      # What is no code is never drawn.
      return token_sampling.draw(logits[:, :self.codes], keys, i, temperature,
                                 top_k, top_p)

    net, net_variables = self.nets['T'], variables['T']
    if size == self.grid:
      run = transformer.sample if cached else transformer.sample_uncached
      found = run(net, net_variables, self.prefix(conditions, number),
                  math.prod(size), draw)
      return found.reshape(number, *size)

    def prefix(row, column):
      if not self.cond_grid:
        return self.prefix(conditions, number)
      crop = jax.lax.dynamic_slice(conditions['cond_tokens'],
                                   (0, row, column), (number, *self.grid))
      return crop.reshape(number, -1)

    if self.cond_grid and (
        self.cond_grid != self.grid
        or conditions['cond_tokens'].shape[1:] != size):
      raise errors.UserError(
          f'A sliding window over {size} codes needs as many of the condition, '
          f'and grids of one size; found '
          f'{conditions["cond_tokens"].shape[1:]}, and {self.cond_grid} to '
          f'{self.grid}.')
    return sample_windows(net, net_variables, prefix, number, size, self.grid,
                          draw)

  def borders(self, height: int, width: int
              ) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the rows and columns of codes where a seam would lie."""
    return (borders(height, self.grid[0]), borders(width, self.grid[1]))

  def _check(self, size, temperature, top_k, top_p) -> None:
    if temperature < 0 or top_k < 0 or not 0.0 < top_p <= 1.0:
      raise errors.UserError(
          f'temperature is {temperature}, top_k {top_k} and top_p {top_p}; '
          'the first two must be 0 or more, the last above 0 and at most 1.')
    if any(s < g for s, g in zip(size, self.grid, strict=True)):
      raise errors.UserError(
          f'height and width are {size}, in codes, but the model was trained '
          f'on grids of {self.grid}: they can be larger, not smaller.')

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

  def _of_condition(self, variables, batch, keys) -> jax.Array:
    """Returns an image for each condition of a batch."""
    return self.generate(variables, keys,
                         {'cond_tokens': batch['cond_tokens']})


def corrupt(s: jax.Array, keys: jax.Array, keep: float,
            vocabulary: int) -> jax.Array:
  """Replaces codes [N, S] by random ones with probability 1 - keep."""
  def one(row, key):
    kept = jax.random.bernoulli(rng.named(key, 0, 'keep'), keep, row.shape)
    other = jax.random.randint(rng.named(key, 0, 'code'), row.shape, 0,
                               vocabulary)
    return jnp.where(kept, row, other)

  return jax.vmap(one)(s, keys)
