"""Tokenizers: a trained stage 1 is the vocabulary of a stage 2.

`data.tokenizer` of a stage-2 config names the tokenizer:

  a workdir   of a trained (or converted) system with a codebook, the newest
              checkpoint or that of step `data.tokenizer_step`
  pixels:L    no net: L even levels of every channel, one code for each colour
              (L^channels codes), so that a prior can model pixels themselves

`data.cond_tokenizer` names a second one, of what an image is conditioned on.

What a system offers to be one (`Tokenizer.system`):

  codebook_size: K.
  requires: the batch keys that it encodes, such as ('image',).
  outputs['tokens'](variables, batch, keys) -> int32 [N, h, w] in [0, K).
  outputs['decode'](variables, {'tokens': [N, h, w]}, keys) -> float32 images
    [N, H, W, C] in [-1, 1].
  tokenizer_nets: the nets that these two read; they alone are loaded, hashed
    and kept in memory.

What a stage-2 system does, all in all:

  requires = ('tokens',), or with 'label', 'cond_tokens': data/tokens.py
    extracts the tokens once, stores them, and adds them to the batches.
  create(config, spec): `codes, (h, w) = tokenizer.vocabulary(spec)`; touches
    no file.
  frozen(): `tokenizer.frozen(self.config, self.spec)`, which is
    {'tokenizer': {net: variables}}; refuses another tokenizer than the one
    whose tokens were trained on. The frozen trees reach `generate` and
    `outputs` among their variables.
  generate(variables, ...): `tokenizer.decode(self.config, variables, tokens,
    keys)` at the end.

The identity of a tokenizer is a hash of its weights and of its config's
model. It is part of the identity of the tokens as data, and stands in the
DataSpec (`tokenizers`), so in every checkpoint's meta: a resumed stage 2, its
samples and its evaluation refuse any other tokenizer.
"""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gans_jax.core import errors
from gans_jax.data import spec as spec_lib

# Batch key -> the key of `config.data` that names its tokenizer.
CONFIG_KEYS = {'tokens': 'tokenizer', 'cond_tokens': 'cond_tokenizer'}
_PIXELS = 'pixels:'


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
  """A tokenizer with its weights.

  Attributes:
    name: as in the config: a workdir, or 'pixels:L'.
    system: what it offers is said in the module's docstring.
    variables: {net: flax variables} of NumPy arrays.
    identity: 'HASH@STEP'; the hash is of weights and model.
    spec: of the data that it was trained on; None for pixels.
  """

  name: str
  system: Any
  variables: Mapping[str, Any]
  identity: str
  spec: spec_lib.DataSpec | None = None

  @property
  def codebook_size(self) -> int:
    return self.system.codebook_size

  @property
  def requires(self) -> tuple[str, ...]:
    return tuple(self.system.requires)

  @property
  def encode(self) -> Callable[..., jax.Array]:
    """(variables, batch, keys) -> int32 [N, h, w]."""
    return self.system.outputs['tokens']

  def shape(self, spec: spec_lib.DataSpec) -> tuple[int, ...]:
    """Returns the shape of one example's tokens; computes nothing."""
    shapes = {key: (shape, dtype) for key, shape, dtype in spec.shapes}
    batch = {key: jax.ShapeDtypeStruct((1, *shapes[key][0]), shapes[key][1])
             for key in self.requires}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return jax.eval_shape(self.encode, self.variables, batch, keys).shape[1:]

  def check(self, spec: spec_lib.DataSpec) -> None:
    """Refuses data that the tokenizer cannot encode, or was not made for.

    Raises:
      UserError: a missing batch key, another resolution or channels.
    """
    missing = [key for key in self.requires if key not in spec.keys]
    if missing:
      raise errors.UserError(
          f'The tokenizer {self.name} encodes {", ".join(missing)}, but the '
          f'data have only {", ".join(spec.keys)}. Choose a data source with '
          'them, or another tokenizer.')
    for key in ('resolution', 'channels'):
      made, found = getattr(self.spec, key, None), getattr(spec, key)
      if made is not None and made != found:
        raise errors.UserError(
            f'The tokenizer {self.name} was trained with data.{key}={made}, '
            f'but data.{key} is {found}. Set --config.data.{key}={made}, or '
            'give the workdir of another tokenizer.')


def load(name: str, step: int = 0, key: str = 'tokenizer',
         channels: int = 3) -> Tokenizer:
  """Loads a tokenizer; the same one is loaded once.

  Args:
    name: a workdir, or 'pixels:L'.
    step: of the checkpoint; 0 takes the newest good one.
    channels: of the images, for pixels.
    key: of `config.data`, for the words of an error.

  Raises:
    UserError: no such workdir or checkpoint, or a system without a codebook.
  """
  if name.startswith(_PIXELS):
    return _pixels(name, key, channels)
  path = os.path.abspath(os.path.expanduser(name))
  if not os.path.isdir(os.path.join(path, 'checkpoints')):
    raise errors.UserError(
        f'config.data.{key} is {name!r}, but {path} is not the workdir of a '
        'run with checkpoints. Train the first stage, or convert one, and '
        "give its workdir (or 'pixels:L' for L levels of each channel).")
  return _load(name, path, step, key, _newest(path))


def _newest(path: str) -> int | None:
  from gans_jax.core import checkpoint

  return checkpoint.Checkpointer(path).latest_step()


@functools.lru_cache(maxsize=4)
def _load(name: str, path: str, step: int, key: str,
          unused_newest: int | None) -> Tokenizer:
  from gans_jax.core import checkpoint
  from gans_jax.core import config as config_lib
  from gans_jax.core import system as system_lib

  checkpoints = checkpoint.Checkpointer(path)
  restored = checkpoints.restore_variables(
      step or None, ['params', 'mvars', 'ema'])
  items, meta = restored.state, restored.meta
  config = config_lib.from_json(meta['config'])
  spec = spec_lib.from_json(meta['spec'])
  system = system_lib.create(config, spec)
  if not {'tokens', 'decode'} <= set(system.outputs):
    raise errors.UserError(
        f'config.data.{key} is {name!r}, a run of the system '
        f'{config.system!r}, which has no codebook to make tokens from. Give '
        "the workdir of a tokenizer, such as one of the system 'vqvae'.")
  variables = {net: {'params': params, **items['mvars'].get(net, {})}
               for net, params in items['params'].items()}
  variables.update(items['ema'])
  variables = jax.tree.map(
      np.asarray, {net: variables[net] for net in system.tokenizer_nets})
  model = {'system': config.system, 'model': meta['config']['model']}
  identity = f'{digest(variables, model)}@{restored.step}'
  return Tokenizer(name, system, variables, identity, spec)


def digest(variables, facts: Mapping[str, Any]) -> str:
  """Returns 16 hex digits that name weights and JSON-able facts."""
  found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  for name, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf))
                           for path, leaf in leaves):
    found.update(f'{name} {leaf.dtype} {leaf.shape}'.encode())
    found.update(np.ascontiguousarray(leaf).data)
  return found.hexdigest()[:16]


# --- In a stage-2 system ------------------------------------------------------


def vocabulary(spec: spec_lib.DataSpec, key: str = 'tokens'
               ) -> tuple[int, tuple[int, ...]]:
  """Returns (K, shape of one example's tokens).

  Args:
    spec: of data with tokens.
    key: 'tokens' or 'cond_tokens'.

  Raises:
    UserError: the data have no such tokens.
  """
  for found, _, size in spec.tokenizers:
    if found == key:
      return size, next(s for k, s, _ in spec.shapes if k == key)
  name = CONFIG_KEYS[key]
  raise errors.UserError(
      f'This system is trained on {key}, and config.data.{name} names no '
      f'tokenizer to make them. Set --config.data.{name} to the workdir of a '
      "trained first stage, or to 'pixels:L'.")


def grid(config, spec: spec_lib.DataSpec) -> tuple[int, tuple[int, int]]:
  """Returns (K, (h, w)), as `vocabulary`; for a prior over grids of codes.

  Raises:
    UserError: the data have no tokens, or several at a place.
  """
  codes, shape = vocabulary(spec)
  if len(shape) != 2:
    raise errors.UserError(
        f'The tokenizer {config.data.tokenizer!r} makes tokens of shape '
        f'{list(shape)} of an image, and the system {config.system!r} models a '
        'grid [h, w]. Train one with one code at a place (vqvae: '
        '--config.model.codes_per_position=1).')
  return codes, tuple(shape)


def no_latents(config) -> errors.UserError:
  """Returns the error of a prior that is asked for its latents."""
  return errors.UserError(
      f'The system {config.system!r} draws codes and has no latents to '
      'interpolate or to measure.')


def cross_entropy(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """-log softmax(logits)[token] in nats, of the shape of `tokens`."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, tokens)


def of_config(config, key: str = 'tokens') -> Tokenizer:
  """Returns the tokenizer that `config.data` names for a batch key."""
  name = CONFIG_KEYS[key]
  return load(config.data[name], config.data[f'{name}_step'], name,
              config.data.channels)


def frozen(config, spec: spec_lib.DataSpec, key: str = 'tokens'
           ) -> dict[str, Any]:
  """Returns {'tokenizer': {net: variables}} (or 'cond_tokenizer').

  Args:
    config: the full config.
    spec: of the data that were trained on.
    key: 'tokens' or 'cond_tokens'.

  Raises:
    UserError: the tokenizer is not there, or another one by now.
  """
  name = CONFIG_KEYS[key]
  wanted = next((i for k, i, _ in spec.tokenizers if k == key), '')
  found = of_config(config, key)
  if not same(found.identity, wanted) and not config.data[f'{name}_step']:
    # The first stage may have been trained on since.
    step = int(wanted.partition('@')[2] or 0)
    with contextlib.suppress(errors.UserError):
      found = load(found.name, step, name, config.data.channels)
  if not same(found.identity, wanted):
    raise refusal(name, found.name, found.identity, wanted)
  return {name: found.variables}


def same(a: str, b: str) -> bool:
  """Whether two identities are of the same weights, at whatever step."""
  return a.partition('@')[0] == b.partition('@')[0]


def refusal(name: str, workdir: str, found: str, wanted: str
            ) -> errors.UserError:
  """Returns the error of a prior that is given another tokenizer.

  Args:
    name: the key of `config.data`.
    workdir: what it says.
    found: identity of the tokenizer there.
    wanted: identity of the tokenizer that the prior was trained on.
  """
  def say(identity):
    digest_, _, step = identity.partition('@')
    return f'{digest_} of step {step}' if step else digest_ or 'none'

  return errors.UserError(
      f'The tokenizer config.data.{name}={workdir!r} has the weights '
      f'{say(found)}, but the prior was trained on the tokens of '
      f'{say(wanted)}: codes mean other things now. Give the workdir of that '
      'tokenizer, with '
      f'--config.data.{name}_step its checkpoint if it is still there, or '
      'train a new prior in another workdir.')


def decode(config, variables: Mapping[str, Any], tokens: jax.Array,
           keys: jax.Array) -> jax.Array:
  """Returns the images [N, H, W, C] in [-1, 1] of tokens [N, h, w].

  Args:
    config: the stage 2's.
    variables: what `generate` was given, with the frozen 'tokenizer'.
    tokens: int32.
    keys: [N], for a decoder that draws.
  """
  system = of_config(config).system
  return system.outputs['decode'](variables['tokenizer'], {'tokens': tokens},
                                  keys)


# --- Pixels -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pixels:
  """The colours of `levels` even levels a channel; the first counts most.

  A tokenizer without nets: token = floor(x L / 256), and back the middle of
  the interval.
  """

  levels: int
  channels: int

  requires = ('image',)
  tokenizer_nets = ()

  @property
  def codebook_size(self) -> int:
    return self.levels**self.channels

  @property
  def outputs(self):
    return {'tokens': self._tokens, 'decode': self._decode}

  def _places(self) -> jax.Array:
    return self.levels ** jnp.arange(self.channels)[::-1]

  def _tokens(self, variables, batch, keys) -> jax.Array:
    del variables, keys
    level = batch['image'].astype(jnp.int32) * self.levels // 256
    return jnp.sum(level * self._places()[None, None, None], axis=-1)

  def _decode(self, variables, batch, keys) -> jax.Array:
    del variables, keys
    level = (batch['tokens'][..., None] // self._places()[None, None, None]
             % self.levels)
    return (level.astype(jnp.float32) + 0.5) * (2.0 / self.levels) - 1.0


def _pixels(name: str, key: str, channels: int) -> Tokenizer:
  text = name.removeprefix(_PIXELS)
  levels = int(text) if text.isdigit() else 0
  if not 2 <= levels <= 256 or levels**channels > 2**16:
    raise errors.UserError(
        f'config.data.{key} is {name!r}; expected pixels:L with L from 2 to '
        f'256 levels, and no more than {2**16} colours: with {channels} '
        f'channel(s), L <= {min(256, int(2**(16 / channels) + 1e-6))}.')
  return Tokenizer(name, Pixels(levels, channels), {}, f'pixels{levels}')
