"""What any discriminator of images takes beside its loss.

  augment.kind='diffaugment'   DiffAugment (augment/diff_augment.py): D sees
      augment.policy           augmented images alone, real and generated; G
                               learns through the augmentation
  loss.consistency.real, fake  weights of consistency regularization
      shift, flip              (losses/consistency.py): 10, 0 is CR; 10, 10
                               is bCR
  loss.lecam.weight            LeCam (losses/lecam.py)
      decay, start

All are off by default, and then leave no trace in the compiled step. With
DiffAugment (or ADA), the others are of what D sees: T is applied to augmented
images (as in data-efficient-gans and stylegan2-ada), and LeCam averages their
logits. Gradient penalties are of D(A(x)) with respect to x, also where x lies
between a real and a generated image, A being the real image's augmentation:
that of stylegan2-ada, and of data-efficient-gans' PyTorch code and few-shot
settings (its TensorFlow code for CIFAR and FFHQ penalizes D at A(x)).

Not here: consistency of G(z) and G(z + noise) (zCR).

A system keeps the `Regularizers` that `create` returns, and asks them for
`init` of its aux, `keys` of its losses' inputs, `augment` wherever D meets
images, `terms` of L_D, and to `remember` after an update of D.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from gans_jax.augment import diff_augment
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.losses import consistency
from gans_jax.losses import lecam

ConfigDict = config_dict.ConfigDict

KINDS = ('none', 'diffaugment')


def augment_config() -> dict[str, Any]:
  """Returns the keys of `config.augment`."""
  return dict(
      kind='none',                          # 'diffaugment'
      policy='color,translation,cutout',    # of DiffAugment
  )


def loss_config() -> dict[str, Any]:
  """Returns keys of `config.loss`."""
  return dict(
      consistency=dict(
          real=0.0,                # weight: 10 in the paper
          fake=0.0,                # weight: 10 of bCR
          shift=0.125,             # the largest, in sizes of the image
          flip=True,
      ),
      lecam=dict(
          weight=0.0,              # 0.3 of BigGAN on CIFAR
          decay=0.99,              # of the averages
          start=1000,              # step from which on it is a term
      ),
  )


def create(config: ConfigDict,
           kinds: Sequence[str] = KINDS) -> 'Regularizers':
  """Builds what the config asks for.

  Args:
    config: a full config, with `augment_config` and `loss_config`.
    kinds: of augmentation that the system takes.

  Raises:
    UserError: a value that it refuses.
  """
  augment, loss = config.augment, config.loss
  config_lib.check_choice(config, 'augment.kind', kinds)
  policy = augment.policy if augment.kind == 'diffaugment' else ''
  if augment.kind == 'diffaugment':
    try:
      found = diff_augment.parse(policy)
    except errors.UserError as error:
      raise errors.UserError(f'config.augment.policy: {error}') from error
    if not found:
      raise errors.UserError(
          "config.augment.kind is 'diffaugment' and config.augment.policy is "
          'empty. Set some of '
          f'{", ".join(diff_augment.KINDS)}, joined by commas.')
  flat = config_lib.flatten(loss)
  for key in ('consistency.real', 'consistency.fake', 'lecam.weight'):
    if not flat[key] >= 0:
      raise errors.UserError(
          f'config.loss.{key} is {flat[key]}, must be 0 or more.')
  if not 0 <= loss.consistency.shift < 0.5:
    raise errors.UserError(
        f'config.loss.consistency.shift is {loss.consistency.shift}, the '
        'largest shift in sizes of the image: expected 0 to below 0.5.')
  if not 0 <= loss.lecam.decay < 1:
    raise errors.UserError(
        f'config.loss.lecam.decay is {loss.lecam.decay}, expected 0 to below '
        '1.')
  if loss.lecam.weight:
    config_lib.check_positive(config, 'loss.lecam.start')
  return Regularizers(
      policy=policy,
      consistency={'real': loss.consistency.real,
                   'fake': loss.consistency.fake},
      shift=loss.consistency.shift, flip=loss.consistency.flip,
      lecam=loss.lecam.weight, lecam_decay=loss.lecam.decay,
      lecam_start=loss.lecam.start)


class Judged(NamedTuple):
  """Images that D has judged in L_D.

  Attributes:
    judge: images -> logits [N], D as it was.
    images: [N, H, W, C], as D saw them.
    logits: [N].
    keys: typed keys [N] of the images, or None where `keys` gave none.
  """

  judge: Callable[[jax.Array], jax.Array]
  images: jax.Array
  logits: jax.Array
  keys: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Regularizers:
  """DiffAugment, consistency regularization and LeCam, as configured.

  Attributes:
    policy: of DiffAugment; '' for none.
    consistency: weights by kind of image, 'real' and 'fake'.
    shift: of consistency's transformation.
    flip: of consistency's transformation.
    lecam: weight.
    lecam_decay: of the averages.
    lecam_start: first step at which LeCam is a term.
  """

  policy: str
  consistency: dict[str, float]
  shift: float
  flip: bool
  lecam: float
  lecam_decay: float
  lecam_start: int

  def init(self) -> dict[str, Any]:
    """Returns what is remembered from step to step, entries of `aux`."""
    return {'lecam': lecam.init()} if self.lecam else {}

  def keys(self, state: state_lib.TrainState, player: str, count: int,
           i: jax.Array | int = 0) -> dict[str, jax.Array]:
    """Draws a key for each image that D meets in an update.

    Args:
      state: the state.
      player: whose update, 'D' or 'G'.
      count: images of a kind.
      i: number of the update in the step.

    Returns:
      {'augment_real', 'augment_fake'}, typed keys [count], or {}.
    """
    consistent = player == 'D' and any(self.consistency.values())
    if not (self.policy or consistent):
      return {}
    keys = {}
    for kind in ('real', 'fake'):
      key = rng.named(state.key, state.step, f'augment/{player}/{kind}')
      keys[f'augment_{kind}'] = mesh.shard_batch(
          rng.per_example(jax.random.fold_in(key, i), 0, count))
    return keys

  def augment(self, keys: jax.Array | None, images: jax.Array) -> jax.Array:
    """Returns what D sees of images [N, H, W, C] in [-1, 1], by keys [N]."""
    if not self.policy:
      return images
    return diff_augment.augment(keys, images, self.policy)

  def terms(self, state: state_lib.TrainState, real: Judged,
            fake: Judged) -> dict[str, jax.Array]:
    """Returns what is added to L_D, by the name in the logs; {} if nothing.

    Each is a mean over examples, so that microbatches change nothing.

    Args:
      state: the state before the update.
      real: real images.
      fake: generated images, without a gradient to G.
    """
    terms = {}
    for kind, judged in (('real', real), ('fake', fake)):
      if self.consistency[kind]:
        keys = jax.vmap(lambda k: rng.named(k, 0, 'consistency'))(judged.keys)
        draws = consistency.draw(keys, judged.images.shape[1:3], self.shift,
                                 self.flip)
        again = judged.judge(consistency.transform(draws, judged.images))
        terms[f'penalty/consistency_{kind}'] = (
            self.consistency[kind] * consistency.loss(judged.logits, again))
    if self.lecam:
      weight = jnp.where(state.step >= self.lecam_start, self.lecam, 0.0)
      terms['penalty/lecam'] = weight * lecam.regularizer(
          real.logits, fake.logits, state.aux['lecam'])
    return terms

  def remember(self, state: state_lib.TrainState, logs):
    """Moves LeCam's averages by an update of D; returns (state, logs).

    Args:
      state: the state after the update, in the same step.
      logs: its logs, with 'logits/real' and 'logits/fake', means over the
        global batch.
    """
    if not self.lecam:
      return state, logs
    decay = jnp.where(state.step >= self.lecam_start, self.lecam_decay, 0.0)
    averages = lecam.update(
        state.aux['lecam'],
        {kind: logs[f'logits/{kind}'] for kind in ('real', 'fake')}, decay)
    logs = {**logs, **{f'lecam/{k}': v for k, v in averages.items()}}
    return state.replace(aux={**state.aux, 'lecam': averages}), logs
