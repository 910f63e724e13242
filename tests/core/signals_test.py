"""Real signals to real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from gans_jax.core import cli
from gans_jax.core import signals


def test_exit_code_is_the_documented_one():
  assert signals.EXIT_CODE == cli.PREEMPTED == 75


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_flag_and_restoration(number, capfd):
  before = signal.getsignal(number)
  with signals.catch() as stop:
    assert not stop.requested(1)
    os.kill(os.getpid(), number)
    assert stop.requested(2) and stop.requested(3)
    assert stop.name == signal.Signals(number).name
  assert signal.getsignal(number) is before
  assert 'saving after this step' in capfd.readouterr().err


def test_outside_the_main_thread_nothing_is_caught():
  before = signal.getsignal(signal.SIGTERM)
  def enter():
    with signals.catch():
      assert signal.getsignal(signal.SIGTERM) is before
    done.append(True)
  done = []
  thread = threading.Thread(target=enter)
  thread.start()
  thread.join()
  assert done


CHILD = textwrap.dedent('''
    import sys, time
    from gans_jax.core import signals
    with signals.catch() as stop:
      print('ready', flush=True)
      while not stop.requested(1):
        time.sleep(0.01)
      print('saving', flush=True)
      time.sleep(float(sys.argv[1]))
    sys.exit(signals.EXIT_CODE)
    ''')


def child(seconds):
  process = subprocess.Popen(
      [sys.executable, '-c', CHILD, str(seconds)], stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True,
      env=dict(os.environ, JAX_PLATFORMS='cpu'))
  assert process.stdout.readline() == 'ready\n'
  return process


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_first_signal_saves_and_exits_75(number):
  process = child(0)
  process.send_signal(number)
  out, err = process.communicate(timeout=30)
  assert process.returncode == 75
  assert out == 'saving\n'
  assert err.strip().startswith(number.name)


def test_second_signal_leaves_at_once():
  process = child(60)
  process.send_signal(signal.SIGTERM)
  assert process.stdout.readline() == 'saving\n'
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=30)
  assert process.returncode == 128 + signal.SIGINT
  assert 'nothing is saved' in err
