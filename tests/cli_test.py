"""What all commands share: help in seconds, errors in words."""

import logging
import os
import subprocess
import sys
import time

import pytest
import runs

from gans_jax.core import cli
from gans_jax.core import errors

COMMANDS = ('main', 'sample', 'evaluate', 'compare', 'prepare', 'benchmark',
            'convert', 'project', 'directions', 'report')
SECONDS = 3.0


def fastest(command: list[str], times: int = 2) -> tuple[float, str]:
  """Runs a command; returns the least time in seconds, and what it said."""
  least = float('inf')
  for _ in range(times):
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd='/',
                          env={**os.environ, 'PYTHONPATH': str(runs.ROOT)})
    least = min(least, time.perf_counter() - start)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    if least < SECONDS:
      break
  return least, done.stdout


@pytest.mark.newest
def test_import_takes_no_three_seconds():
  seconds, _ = fastest([sys.executable, '-c', 'import gans_jax'])
  assert seconds < SECONDS


@pytest.mark.newest
@pytest.mark.parametrize('name', COMMANDS)
def test_help_takes_no_three_seconds(name):
  seconds, text = fastest(runs.command(name, '--help'))
  assert seconds < SECONDS
  assert f'python -m gans_jax.{name} --' in text, 'an example'
  assert 'exit codes: 0 done; 1 unexpected error; 2 bad input' in text


def test_every_module_with_a_command_is_tested():
  package = runs.ROOT / 'gans_jax'
  found = {path.stem for path in package.glob('*.py')
           if "__name__ == '__main__'" in path.read_text()}
  found |= {path.parent.name for path in package.glob('*/__main__.py')}
  assert found == set(COMMANDS)


@pytest.mark.newest
def test_import_needs_no_tensorflow_and_no_torch():
  code = ('import sys; import gans_jax.main, gans_jax.train, '
          'gans_jax.sample, gans_jax.evaluate, gans_jax.data.pipeline\n'
          'print([m for m in ("tensorflow", "torch") if m in sys.modules])')
  assert fastest([sys.executable, '-c', code], 1)[1].strip() == '[]'


def fail(error: BaseException):
  def main(argv):
    del argv
    raise error
  return main


def test_bad_input_is_one_paragraph(capsys):
  error = errors.UserError('The key\n  x is   3.\n\n' + 'word ' * 60)
  assert cli.call(fail(error), []) == 2
  out, err = capsys.readouterr()
  assert out == ''
  assert err.startswith('error: The key x is 3. word word')
  assert err.count('word') == 60
  assert '\n\n' not in err and max(map(len, err.splitlines())) <= 79


def test_long_paths_are_not_broken(capsys):
  path = '/a-long/path-with-hyphens/' + 'x' * 90
  cli.call(fail(errors.UserError(f'There is no {path}.')), [])
  assert f'{path}.' in capsys.readouterr().err.split()


def test_unexpected_errors_have_no_traceback(capsys):
  assert cli.call(fail(ZeroDivisionError('by zero')), []) == 1
  out, err = capsys.readouterr()
  assert out == '' and 'Traceback' not in err
  assert err.startswith('error: unexpected ZeroDivisionError: by zero')
  assert '--debug' in err


@pytest.mark.parametrize('error,code', [
    (errors.UserError('bad'), 2), (ZeroDivisionError('by zero'), 1)])
def test_debug_shows_the_traceback(capsys, error, code):
  assert cli.call(fail(error), ['--debug']) == code
  err = capsys.readouterr().err
  assert 'Traceback' in err and 'in main' in err


def test_an_error_without_words_has_a_name(capsys):
  cli.call(fail(AssertionError()), [])
  assert 'AssertionError' in capsys.readouterr().err


def test_interrupt(capsys):
  assert cli.call(fail(KeyboardInterrupt()), []) == 130
  assert capsys.readouterr().err.strip() == 'error: interrupted'


@pytest.mark.parametrize('result,code', [(None, 0), (0, 0), (75, 75)])
def test_exit_code_is_what_main_returns(result, code):
  assert cli.call(lambda argv: result, []) == code
  with pytest.raises(SystemExit) as exit_:
    sys_argv, sys.argv = sys.argv, ['command']
    try:
      cli.run(lambda argv: result)
    finally:
      sys.argv = sys_argv
  assert exit_.value.code == code


def test_logging_is_said_once_and_let_go(capsys):
  before = list(logging.getLogger().handlers)

  def main(argv):
    del argv
    logging.warning('the images are small')

  assert cli.call(main, []) == 0
  assert capsys.readouterr().err == 'warning: the images are small\n'
  assert logging.getLogger().handlers == before


def test_a_reader_that_went_away_is_no_error():
  # `| head -1` closes the pipe; the command is to end without a word.
  code = ('import sys; from gans_jax.core import cli\n'
          'def main(argv):\n'
          '  for i in range(10**5): print("line", i)\n'
          'cli.run(main)')
  done = subprocess.run(
      ['bash', '-c', f"{sys.executable} -c '{code}' | head -1"], text=True,
      capture_output=True, cwd=runs.ROOT,
      env={**os.environ, 'PYTHONPATH': str(runs.ROOT)})
  assert done.stdout == 'line 0\n' and done.stderr == ''
