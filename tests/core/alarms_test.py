"""Alarms go off when they should, and only then."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import alarms
from gans_jax.core import errors

WON = {'loss/d': 1e-5, 'logits/real': 12., 'logits/fake': -9.}
EVEN = {'loss/d': 1.3, 'logits/real': 0.3, 'logits/fake': -0.2}


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name', ['loss/g', 'penalty/r1', 'logits/fake'])
def test_not_finite(name, value):
  with pytest.raises(alarms.AlarmError) as caught:
    alarms.Alarms().check(70, {**EVEN, name: np.float32(value)}, last_good=50)
  assert isinstance(caught.value, errors.UserError)
  assert caught.value.exit_code == 3
  assert f'at step 70: {name} is {value}' in str(caught.value)
  assert 'Checkpoint 50 is the last good one' in str(caught.value)
  with pytest.raises(alarms.AlarmError, match='of an earlier step and is kept'):
    alarms.Alarms().check(70, {name: value})


def test_other_logs_may_be_anything():
  alarms.Alarms().check(1, {**EVEN, 'perf/ratio': np.nan})


def run(config, logs_of_steps):
  a = alarms.Alarms(config)
  for step, logs in enumerate(logs_of_steps):
    a.check(step, logs, last_good=0)


def test_discriminator_wins_warns_once_per_collapse(caplog):
  with caplog.at_level(logging.WARNING):
    run({'window': 3}, [WON] * 2 + [EVEN] + [WON] * 2)
    assert caplog.text == ''
    run({'window': 3}, [WON] * 50)
    assert caplog.text.count('the discriminator has won') == 1
    assert 'At step 2 ' in caplog.text and '21.0 apart' in caplog.text
    caplog.clear()
    run({'window': 3}, [WON] * 5 + [EVEN] + [WON] * 5)
    assert caplog.text.count('the discriminator has won') == 2


def test_discriminator_wins_stops_or_is_off(caplog):
  with pytest.raises(alarms.AlarmError, match='Checkpoint 0 is the last'):
    run({'window': 3, 'collapse': 'stop'}, [WON] * 3)
  run({'window': 3, 'collapse': 'off'}, [WON] * 9)
  assert caplog.text == ''


@pytest.mark.parametrize('logs', [
    EVEN,
    # A critic's loss passes through zero; hinge losses are exactly zero.
    {'loss/d': 0., 'logits/real': 2., 'logits/fake': -2.},
    # WGAN: logits have no scale.
    {'loss/d': -40., 'logits/real': 100., 'logits/fake': 60.},
    {'loss/d': 0.},
])
def test_healthy_games_are_silent(caplog, logs):
  run({'window': 2}, [logs] * 50)
  assert caplog.text == ''


def test_samples_all_the_same(caplog):
  rng = np.random.default_rng(0)
  one = rng.integers(0, 255, (1, 8, 8, 3), dtype=np.uint8)
  same = np.repeat(one, 16, 0) + rng.integers(0, 2, (16, 8, 8, 3), np.uint8)
  varied = rng.integers(0, 255, (16, 8, 8, 3), dtype=np.uint8)
  a = alarms.Alarms({'sample_window': 2})
  for step, images in enumerate([same, varied, same, varied]):
    a.check_samples(step, images)
  assert caplog.text == ''
  for step in range(4, 9):
    a.check_samples(step, same)
  assert caplog.text.count('one image of all latents') == 1
  stop = alarms.Alarms({'sample_window': 1, 'collapse': 'stop'})
  stop.check_samples(1, varied)
  stop.check_samples(1, same[:1])
  with pytest.raises(alarms.AlarmError, match='over 16 samples'):
    stop.check_samples(2, same.astype(np.float32) / 127.5 - 1)


def test_samples_not_finite():
  images = np.zeros((4, 2, 2, 3), np.float32)
  images[1, 0, 0, 0] = np.nan
  with pytest.raises(alarms.AlarmError, match='the samples are'):
    alarms.Alarms().check_samples(1, images)


def test_diversity_in_closed_form():
  # Two images at -1 and 1: variance 1 at every pixel.
  images = np.stack([np.full((4, 4), -1.), np.full((4, 4), 1.)])
  assert alarms.diversity(images) == 1.
  # Variance 1 in one pixel of four.
  images = np.zeros((2, 4))
  images[:, 0] = [-1, 1]
  assert alarms.diversity(images) == pytest.approx(0.5)


def test_state_about_to_be_saved():
  state = {
      'params': {'G': {'w': jnp.ones(3)}, 'D': {'w': jnp.ones(2)}},
      'step': jnp.int32(1), 'key': jax.random.key(0),
      'ema': {'G': {'w': jnp.ones(2, jnp.bfloat16)}}}
  a = alarms.Alarms()
  a.check_state(5, state)
  state['params']['D']['w'] = jnp.array([1., jnp.nan])
  state['ema']['G']['w'] = jnp.array([jnp.inf, 1.], jnp.bfloat16)
  with pytest.raises(alarms.AlarmError,
                     match='step 5: ema/G, params/D of the state.*'
                     'Checkpoint 4 is'):
    a.check_state(5, state, last_good=4)


def test_nan_alarm_can_be_off():
  a = alarms.Alarms({'nan': 'off'})
  a.check(1, {'loss/g': np.nan})
  a.check_samples(1, np.full((2, 3), np.nan))
  a.check_state(1, {'x': jnp.array(jnp.nan)})


def test_bad_config():
  with pytest.raises(errors.UserError, match="alarms.nan is 'warn'; it must"):
    alarms.Alarms({'nan': 'warn'})
  with pytest.raises(errors.UserError, match="'loud'; it must be one of"):
    alarms.Alarms({'collapse': 'loud'})
  with pytest.raises(errors.UserError, match=r"no keys \['widow'\]"):
    alarms.Alarms({'widow': 3})
