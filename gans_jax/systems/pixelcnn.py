"""Gated PixelCNN prior: the second stage of a VQ-VAE, or a model of pixels.

Van den Oord et al. 2016, "Conditional Image Generation with PixelCNN
Decoders", arXiv:1606.05328; as a prior over codes: van den Oord et al. 2017,
arXiv:1711.00937, section 3.3. The net: nn/gated_pixelcnn.py, at the sizes of
ritheshkumar95/pytorch-vqvae (the VQ-VAE's own prior was not published).

Trained on the tokens of a frozen tokenizer (`data.tokenizer`, the workdir of
the first stage; core/tokenizer.py), by cross-entropy. Images are sampled by
drawing tokens in reading order and decoding them. With
`data.tokenizer=pixels:L` the tokens are the pixels themselves, in L levels a
channel.

  model.class_conditional   c of every layer, from `label` (section 2.3)
  options of sampling       temperature (0: the likeliest), top_k (0: all)

Logs: 'loss/p' in nats a token, 'bits_per_token', 'accuracy'.

Deviations:
1. Pixels: one softmax over all L^channels colours of a position, where the
   paper predicts the channels one after the other, each in 256 levels.
2. No model of a portrait's embedding (section 3.3 of 1606.05328): classes
   alone.
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
from gans_jax.core import optimizers
from gans_jax.core import rng
from gans_jax.core import schedules
from gans_jax.core import state as state_lib
from gans_jax.core import step
from gans_jax.core import system as system_lib
from gans_jax.core import tokenizer
from gans_jax.data import spec as spec_lib
from gans_jax.nn import gated_pixelcnn

ConfigDict = config_dict.ConfigDict


def default_config() -> ConfigDict:
  """Returns every key that this system reads."""
  return ConfigDict(dict(
      model=dict(
          dim=64,                    # 256: the larger one
          layers=15,
          kernel=3,
          first_kernel=7,
          head=512,
          class_conditional=False,
      ),
      optimizer=dict(P=optimizers.default_config('adam', 3e-4)),
      ema=dict(decay=0.0, start=0, kimg=0.0, rampup=0.0),
  ))


def create(config: ConfigDict, spec: spec_lib.DataSpec) -> 'System':
  """Builds the system, see core/system.py.

  Raises:
    UserError: a value that this system refuses, or data without tokens.
  """
  model = config.model
  config_lib.check_positive(config, 'model.dim', 'model.layers', 'model.head')
  for key in ('kernel', 'first_kernel'):
    if model[key] < 3 or model[key] % 2 == 0:
      raise errors.UserError(
          f'config.model.{key} is {model[key]}, must be an odd number from 3 '
          'on.')
  codes, grid = tokenizer.grid(config, spec)
  classes = system_lib.num_classes(config, spec, 'class_conditional')
  nets = {'P': gated_pixelcnn.GatedPixelCNN(
      codes, model.dim, model.layers, model.kernel, model.first_kernel,
      model.head, classes, jnp.dtype(config.dtype))}
  tx = {'P': optimizers.make(config.optimizer.P,
                             config_lib.total_steps(config))}
  return System(config=config, spec=spec, nets=nets, tx=tx, grid=grid,
                conditional=bool(classes))


@dataclasses.dataclass(frozen=True, eq=False)
class System:
  """A prior over tokens; the members are those of core/system.py."""

  config: ConfigDict
  spec: spec_lib.DataSpec
  nets: Mapping[str, nn.Module]
  tx: Mapping[str, optax.GradientTransformation]
  grid: tuple[int, int]
  conditional: bool

  players = {'P': ('P',)}
  options = ('temperature', 'top_k')
  batches_per_step = 1

  @property
  def requires(self) -> tuple[str, ...]:
    return ('tokens', 'label') if self.conditional else ('tokens',)

  @property
  def conditions(self) -> tuple[str, ...]:
    return ('label',) if self.conditional else ()

  @property
  def outputs(self):
    return {'nll': self._nll}

  def frozen(self) -> dict[str, Any]:
    return tokenizer.frozen(self.config, self.spec)

  def init(self, key: jax.Array) -> state_lib.TrainState:
    labels = jnp.zeros((2,), jnp.int32) if self.conditional else None
    variables = self.nets['P'].init(
        rng.named(key, 0, 'init/P'), jnp.zeros((2, *self.grid), jnp.int32),
        labels)
    return state_lib.create(key, {'P': variables}, self.players, self.tx,
                            ema=('P',))

  def latents(self, keys: jax.Array):
    raise tokenizer.no_latents(self.config)

  def _nll(self, variables, batch, keys=None) -> jax.Array:
    """Returns -log p(tokens | label) in nats [N]."""
    del keys
    logits = self.nets['P'].apply(variables['P'], batch['tokens'],
                                  self._labels(batch))
    return jnp.sum(tokenizer.cross_entropy(logits, batch['tokens']), (1, 2))

  def _labels(self, batch) -> jax.Array | None:
    return batch['label'] if self.conditional else None

  def tokens(self, variables, keys: jax.Array, conditions=None, *,
             temperature: float = 1.0, top_k: int = 0) -> jax.Array:
    """Draws int32 [N, h, w]; see `gated_pixelcnn.sample`."""
    if temperature < 0 or top_k < 0:
      raise errors.UserError(
          f'temperature is {temperature} and top_k {top_k}; neither can be '
          'negative.')
    return gated_pixelcnn.sample(
        variables['P']['params'], self.grid, keys,
        self._labels(conditions or {}), temperature=temperature, top_k=top_k)

  def generate(self, variables, keys: jax.Array, conditions=None,
               **options) -> jax.Array:
    """Draws tokens and decodes them; see core/system.py.

    Args:
      variables: {'P': variables, 'tokenizer': those of the frozen tokenizer}.
      keys: [N].
      conditions: 'label' [N] if the model is conditional.
      **options: of `tokens`.
    """
    found = self.tokens(variables, keys, conditions, **options)
    return tokenizer.decode(self.config, variables, found, keys)

  def train_step(self, state: state_lib.TrainState, batch, frozen):
    """One update; see core/system.py."""
    del frozen
    inputs = step.first_of(batch)
    state, logs = step.update_player(
        state, 'P', self.players['P'], self.tx['P'], self.loss,
        {key: inputs[key] for key in self.requires}, self.config.microbatches)
    beta = schedules.ema_beta(self.config.ema, state.step,
                              self.config.batch_size)
    return step.finish(state, beta), logs

  def loss(self, params, mvars, inputs):
    """Cross-entropy, a mean over tokens."""
    del mvars
    logits = self.nets['P'].apply({'params': params['P']}, inputs['tokens'],
                                  self._labels(inputs))
    loss = jnp.mean(tokenizer.cross_entropy(logits, inputs['tokens']))
    right = jnp.argmax(logits, axis=-1) == inputs['tokens']
    return loss, ({}, {'loss/p': loss, 'bits_per_token': loss / math.log(2.0),
                       'accuracy': jnp.mean(right.astype(jnp.float32))})
