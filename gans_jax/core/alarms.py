"""Alarms: a run that is lost says so, and keeps its last good checkpoint."""

from collections.abc import Mapping
import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import errors

_log = logging.getLogger(__name__)

# Of `config.alarms`. `nan`: 'stop' or 'off'. `collapse`: 'warn', 'stop' or
# 'off'. `window`: that many logged steps in a row. `d_loss`, `gap`: the
# discriminator has won where |loss/d| is below and logits/real - logits/fake
# above; logits 15 apart mean sigmoids of 0.9994 and 0.0006. `sample_window`:
# that many grids in a row. `diversity`: standard deviation over the samples
# of a grid, in [-1, 1] units, below which they are one image; 8-bit rounding
# alone makes 0.004 at most.
DEFAULTS = {
    'nan': 'stop', 'collapse': 'warn', 'window': 20, 'd_loss': 1e-3, 'gap': 15.,
    'sample_window': 3, 'diversity': 0.01,
}
MODES = {'nan': ('stop', 'off'), 'collapse': ('warn', 'stop', 'off')}
# Logs whose values have no business being infinite.
_FINITE = ('loss/', 'penalty/', 'logits/')


class AlarmError(errors.UserError):
  """Training was stopped because going on would waste the machine's time."""

  exit_code = 3


class Alarms:
  """Watches the logs, the samples and the state of one run."""

  def __init__(self, config: Mapping[str, Any] | None = None):
    """Reads `config`, a mapping with keys of DEFAULTS (others by default).

    Raises:
      UserError: a key is unknown, or `nan` or `collapse` not of MODES.
    """
    given = dict(config or {})
    unknown = sorted(given.keys() - DEFAULTS.keys())
    if unknown:
      raise errors.UserError(
          f'config.alarms has no keys {unknown}; it has {sorted(DEFAULTS)}.')
    self._config = {**DEFAULTS, **given}
    for key, modes in MODES.items():
      if self._config[key] not in modes:
        raise errors.UserError(
            f'config.alarms.{key} is {self._config[key]!r}; it must be one '
            f'of {modes}.')
    self._won = 0
    self._same = 0

  def check(self, step: int, logs: Mapping[str, float],
            last_good: int | None = None) -> None:
    """Looks at the logs of a step.

    Call it before the checkpoint of that step is saved, so that no poisoned
    state is.

    Args:
      step: the step that made them.
      logs: floats; `loss/*`, `penalty/*` and `logits/*` must be finite.
      last_good: step of the newest checkpoint, for the message.

    Raises:
      AlarmError: NaN or infinity, or a collapse where that is to stop.
    """
    bad = [f'{name} is {float(value)}' for name, value in logs.items()
           if name.startswith(_FINITE) and not math.isfinite(value)]
    if bad:
      self._nan(step, '; '.join(bad), last_good)
    if {'loss/d', 'logits/real', 'logits/fake'} <= logs.keys():
      gap = logs['logits/real'] - logs['logits/fake']
      won = (abs(logs['loss/d']) < self._config['d_loss']
             and gap > self._config['gap'])
      self._won = self._won + 1 if won else 0
      if self._won == self._config['window']:
        self._collapse(
            f'At step {step} the discriminator has won for {self._won} logged '
            f'steps in a row: loss/d is {logs["loss/d"]:.2g} and its logits '
            f'of real and fake images are {gap:.1f} apart, so the generator '
            'learns next to nothing', last_good)

  def check_samples(self, step: int, images: np.ndarray,
                    last_good: int | None = None) -> None:
    """Looks at the samples of the fixed latents.

    Args:
      step: the step that made them.
      images: [N, ...], of different latents (and of one class, if the grid
        has classes: columns of the grid, say); uint8, or floats in [-1, 1].
      last_good: step of the newest checkpoint, for the message.

    Raises:
      AlarmError: they are not finite, or all the same where that is to stop.
    """
    images = np.asarray(images)
    scale = 127.5 if images.dtype == np.uint8 else 1.
    images = images.astype(np.float32) / scale
    if not np.isfinite(images).all():
      self._nan(step, 'the samples are', last_good)
      return
    if len(images) < 2:
      return
    spread = diversity(images)
    self._same = self._same + 1 if spread < self._config['diversity'] else 0
    if self._same == self._config['sample_window']:
      self._collapse(
          f'At step {step} the generator makes one image of all latents: over '
          f'{len(images)} samples the standard deviation is {spread:.2g} in '
          f'units of [-1, 1], for {self._same} sample grids in a row',
          last_good)

  def check_state(self, step: int, state: Any,
                  last_good: int | None = None) -> None:
    """Looks at every number of a state that is about to be saved.

    The losses of a step are computed before its update, so they can be
    finite when the update was not.

    Raises:
      AlarmError: a NaN or an infinity; names the trees that hold it.
    """
    finite = jax.device_get(_all_finite(state))
    bad = sorted({
        '/'.join(str(getattr(k, 'key', getattr(k, 'name', k)))
                 for k in path[:2])
        for path, good in jax.tree_util.tree_leaves_with_path(finite)
        if not good})
    if bad:
      self._nan(step, f'{", ".join(bad)} of the state hold them', last_good)

  def _nan(self, step: int, what: str, last_good: int | None) -> None:
    if self._config['nan'] == 'off':
      return
    raise AlarmError(
        f'NaN or infinity at step {step}: {what}. Training stopped and this '
        f'state was not saved. {_kept(last_good)} It would do the same again '
        'unless something changes: lower optimizer.*.lr, use --config.dtype='
        'float32, a smaller penalty weight, or look at the data.')

  def _collapse(self, what: str, last_good: int | None) -> None:
    if self._config['collapse'] == 'off':
      return
    advice = (
        'Try a lower optimizer.D.lr, a penalty (R1, gradient penalty, '
        'spectral normalization), another loss, or augmentation if there are '
        'few images; --config.alarms.collapse=off silences this.')
    if self._config['collapse'] == 'stop':
      raise AlarmError(f'{what}. {_kept(last_good)} {advice}')
    # Once per collapse, because the counter has to pass zero again.
    _log.warning('%s. %s', what, advice)


def diversity(images: np.ndarray) -> float:
  """Standard deviation over images, averaged over pixels.

  Args:
    images: floats [N, ...].

  Returns:
    sqrt(mean over pixels of the variance over N); 0 if all are the same.
  """
  return float(np.sqrt(np.mean(np.var(images.astype(np.float64), axis=0))))


@jax.jit
def _all_finite(state):
  def one(x):
    if not jnp.issubdtype(x.dtype, jnp.inexact):
      return jnp.bool_(True)
    return jnp.isfinite(x).all()

  return jax.tree.map(one, state)


def _kept(last_good: int | None) -> str:
  if last_good is None:
    return ('The newest checkpoint is of an earlier step and is kept; the '
            'same command goes on from it.')
  return (f'Checkpoint {last_good} is the last good one and is kept; the same '
          'command goes on from it.')

