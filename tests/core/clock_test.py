"""A clock whose time the test moves."""

import math

import pytest

from gans_jax.core import clock


class Now:
  time = 100.

  def __call__(self):
    return self.time


def steps(now, c, count, seconds):
  for _ in range(count):
    now.time += seconds
    c.tick()


def test_rate_and_eta():
  now = Now()
  c = clock.Clock(batch_size=32, total_steps=100, now=now)
  assert math.isnan(c.rate()) and math.isnan(c.eta_seconds(0))
  steps(now, c, 1, 60.)  # compiles
  assert math.isnan(c.rate())
  steps(now, c, 10, 0.5)
  assert c.seconds_per_step() == pytest.approx(0.5)
  assert c.rate() == pytest.approx(64.)
  assert c.eta_seconds(30) == pytest.approx(35.)
  assert c.eta_seconds(100) == c.eta_seconds(120) == 0.
  # An old pace is forgotten after a hundred steps.
  steps(now, c, 100, 2.)
  assert c.rate() == pytest.approx(16.)


def test_a_new_stage_has_a_pace_of_its_own():
  now = Now()
  c = clock.Clock(batch_size=32, total_steps=100, now=now)
  steps(now, c, 10, 0.5)
  c.begin(batch_size=8)
  assert math.isnan(c.rate())
  steps(now, c, 1, 60.)  # compiles
  assert math.isnan(c.rate())
  steps(now, c, 2, 0.25)
  assert c.rate() == pytest.approx(32.)


def test_pauses_do_not_count_but_take_wall_time():
  now = Now()
  c = clock.Clock(1, 10, now=now)
  c.tick()
  now.time += 2
  with pytest.raises(ZeroDivisionError), c.pause():
    now.time += 3
    with c.pause():  # a checkpoint in an evaluation counts once
      now.time += 4
    raise ZeroDivisionError
  c.tick()
  assert c.seconds_per_step() == pytest.approx(2.)
  assert c.total_seconds() == pytest.approx(9.)
  steps(now, c, 1, 1.)
  assert c.seconds_per_step() == pytest.approx(1.5)


def test_total_goes_on_over_resumes():
  now = Now()
  c = clock.Clock(1, 10, now=now)
  now.time += 50
  state = c.get_state()
  now.time += 1000  # nobody trains
  c = clock.Clock(1, 10, now=now)
  c.set_state(state)
  now.time += 8
  assert c.total_seconds() == pytest.approx(58.)
  c.set_state({})
  assert c.total_seconds() == pytest.approx(8.)


def test_no_time_passes_no_rate():
  c = clock.Clock(1, 10, now=Now())
  c.tick()
  c.tick()
  assert math.isnan(c.rate())


@pytest.mark.parametrize('seconds,words', [
    (0.4, '0s'), (59.6, '1m00s'), (185, '3m05s'), (7440, '2h04m'),
    (266400, '3d02h'), (math.nan, '?')])
def test_in_words(seconds, words):
  assert clock.in_words(seconds) == words
