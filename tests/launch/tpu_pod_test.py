"""launch/tpu_pod.sh against a cloud of two directories: a false gcloud."""

import os
import subprocess
import time

import pytest
import runs

SCRIPT = runs.ROOT / 'launch' / 'tpu_pod.sh'

# States come from a file, a line each, of which the last one stays. `ssh`
# runs its command in the home of every host.
GCLOUD = '''#!/usr/bin/env bash
echo "$4" >> "$CLOUD/calls"
case "$4" in
  describe)
    read -r state < "$CLOUD/states"
    [ "$(wc -l < "$CLOUD/states")" -eq 1 ] || sed -i 1d "$CLOUD/states"
    if [ "$state" = ABSENT ]; then
      echo 'ERROR: NOT_FOUND: Resource not found' >&2
      exit 1
    fi
    echo "$state" ;;
  ssh)
    for argument in "$@"; do
      [[ $argument != --command=* ]] || command="${argument#--command=}"
    done
    for home in "$CLOUD"/host*; do
      HOME="$home" bash -c "$command" || exit
    done ;;
esac
'''

# The trainer of a host ends with the next of its codes; 'wait' waits.
PYTHON = '''#!/usr/bin/env bash
code="$(head -n 1 ~/codes)"; sed -i 1d ~/codes
[ "$code" != wait ] || trap 'exit 75' TERM
echo "$@" >> ~/arguments
while [ "$code" = wait ]; do sleep 0.05; done
exit "$code"
'''
MAIN = ['--', '--config=x.py:row=a,b', '--workdir=/mnt/shared/a b']


@pytest.fixture
def cloud(tmp_path, monkeypatch):
  """Two hosts, and commands that do nothing."""
  def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)

  program(tmp_path / 'bin' / 'gcloud', GCLOUD)
  for name in ('tar', 'sudo', 'python3'):
    program(tmp_path / 'bin' / name, '#!/bin/sh\n')
  program(tmp_path / 'bin' / 'hostname', '#!/bin/sh\nbasename ~\n')
  for i in range(2):
    program(tmp_path / f'host{i}' / 'venv' / 'bin' / 'python', PYTHON)
    (tmp_path / f'host{i}' / 'gans_jax').mkdir()
  (tmp_path / 'calls').touch()
  monkeypatch.setenv('CLOUD', str(tmp_path))
  monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
  return tmp_path


def script(*args, code=0):
  """Runs the script; returns what it said."""
  done = subprocess.run(
      ['bash', SCRIPT, args[0], '--name=gan', '--zone=z', '--every=0.02',
       *args[1:]], capture_output=True, text=True, check=False, timeout=60)
  assert done.returncode == code, done.stdout + done.stderr
  return done.stdout + done.stderr


def set_states(cloud, *states):
  (cloud / 'states').write_text('\n'.join(states) + '\n')


def set_codes(cloud, *codes):
  for i, of_host in enumerate(codes):
    (cloud / f'host{i}' / 'codes').write_text('\n'.join(of_host) + '\n')


def until(condition):
  deadline = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def requests(cloud) -> list[str]:
  """Returns what gcloud was asked to create and to delete, in order."""
  verbs = (cloud / 'calls').read_text().split()
  return [verb for verb in verbs if verb in ('create', 'delete')]


def test_dry_run_prints_and_does_nothing(cloud):
  said = script('watch', '--type=v5litepod-16', '--spot', '--project=p',
                '--nfs=10.0.0.2:/share', '--dry_run', *MAIN)
  assert (cloud / 'calls').read_text() == ''
  create, look, *_ = said.splitlines()
  assert create.split() == (
      'gcloud compute tpus queued-resources create gan --node-id=gan '
      '--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite '
      '--spot --zone=z --project=p').split()
  assert 'queued-resources describe gan' in look
  for words in ('queued-resources scp', '--node=all --worker=all',
                'gans_jax.main --distributed',
                'mount -t nfs 10.0.0.2:/share /mnt/shared', 'venv'):
    assert words in said


def test_several_slices_and_runtimes(cloud):
  said = script('create', '--type=v6e-16', '--slices=3', '--dry_run')
  assert '--node-count=3 --node-prefix=gan' in said
  assert '--runtime-version=v2-alpha-tpuv6e' in said
  assert '--type=x9-1 is not known' in script(
      'create', '--type=x9-1', '--dry_run', code=2)
  assert '--runtime-version=mine' in script(
      'create', '--type=x9-1', '--version=mine', '--dry_run')


@pytest.mark.parametrize('args,words', [
    (['watch', '--type=v4-8'], 'after -- comes the command line'),
    (['create'], '--type is needed'),
    (['create', '--what=1'], 'unknown option --what=1'),
    (['create', '--slices=x'], 'x is not a number'),
    (['install', '--setup=/none'], 'there is no file /none'),
    (['dance'], 'usage:'),
])
def test_refuses(cloud, args, words):
  assert words in script(*args, code=2)
  assert (cloud / 'calls').read_text() == ''


def test_start_status_stop_logs(cloud):
  set_states(cloud, 'ACTIVE')
  set_codes(cloud, ['wait'], ['wait'])
  script('start', *MAIN)
  told = [cloud / f'host{i}' / 'arguments' for i in range(2)]
  until(lambda: all(path.exists() and path.read_text() for path in told))
  for path in told:
    assert path.read_text().strip() == (
        '-u -m gans_jax.main --distributed --config=x.py:row=a,b '
        '--workdir=/mnt/shared/a b')
  said = script('status')
  assert 'host0: running' in said and 'host1: running' in said
  script('stop')
  until(lambda: 'running' not in script('status'))
  said = script('status')
  assert 'host0: exit 75' in said and 'host1: exit 75' in said
  assert '== host1' in script('logs')


def test_watch_resumes_on_a_new_slice_to_the_end(cloud):
  set_states(cloud, 'ABSENT', 'WAITING_FOR_RESOURCES', 'PROVISIONING',
             'ACTIVE', 'SUSPENDED', 'ABSENT', 'ACTIVE')
  # Before the slice is taken away both save; later host 1 aborts once.
  set_codes(cloud, ['75', '75', '0'], ['75', '134', '0'])
  said = script('watch', '--type=v5litepod-16', *MAIN)
  assert requests(cloud) == ['create', 'delete', 'create']
  assert 'gan is PROVISIONING' in said and 'taken away' in said
  assert said.rstrip().endswith('done')
  for i in range(2):
    assert (cloud / f'host{i}' / 'codes').read_text() == ''


def test_watch_ends_with_bad_input_and_alarms(cloud):
  set_states(cloud, 'ACTIVE')
  set_codes(cloud, ['3', '2', '1'], ['3', '2', '1'])
  for code in (3, 2):  # the same command tries again
    assert f'ended with exit code {code}' in script(
        'watch', '--type=v4-8', *MAIN, code=code)
  assert requests(cloud) == []


def test_watch_knows_another_run_from_its_own(cloud):
  set_states(cloud, 'ACTIVE')
  set_codes(cloud, ['0', '0'], ['0', '0'])
  for left in (['0'], [], []):
    args = [*MAIN, *(['--other'] if not left else [])]
    assert script('watch', '--type=v4-8', *args).rstrip().endswith('done')
    assert (cloud / 'host0' / 'codes').read_text().split() == left


def test_watch_gives_up(cloud):
  set_states(cloud, 'ACTIVE')
  set_codes(cloud, ['1'] * 5, ['1'] * 5)
  assert 'given up after 2 attempts' in script(
      'watch', '--type=v4-8', '--restarts=2', *MAIN, code=1)
  assert len((cloud / 'host0' / 'codes').read_text().split()) == 3


def test_wait_says_that_it_will_not_come(cloud):
  set_states(cloud, 'WAITING_FOR_RESOURCES', 'FAILED')
  assert 'it will not come' in script('wait', code=1)
