"""Two real processes train as one: launch/rehearse_pod.py, end to end."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import runs

from gans_jax.core import checkpoint
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.data import pipeline

pytestmark = pytest.mark.usefixtures('compile_cache')
LAUNCHER = runs.ROOT / 'launch' / 'rehearse_pod.py'
BATCH, STEPS = 8, 24

# Every process writes down what it reads, a line per step.
CONFIG = '''
import hashlib, json, time
import jax
from gans_jax.core import config as config_lib
from gans_jax.data import pipeline


def get_config(arg=''):
  args = config_lib.parse_arg(arg, trace='', pace=0.0)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {
      'data.source': 'emoji:noto', 'data.limit': 64, 'data.resolution': 16,
      'model.ngf': 8, 'model.ndf': 8, 'model.z_dim': 64, 'batch_size': 8,
      'total_steps': 24, 'log_every': 1, 'sample_every': 12,
      'checkpoint_every': 2, 'keep': 100, 'sample.rows': 2,
      'sample.columns': 4, 'ema.decay': 0.5, 'alarms.collapse': 'off',
      'compile.level': 0})
  if args.trace:
    trace(args.trace, args.pace)
  return config


def trace(path, pace):
  read = pipeline.TrainIterator.__next__

  def traced(self):
    batch = read(self)
    rows = [hashlib.sha256(x.tobytes()).hexdigest() for x in batch['image'][0]]
    with open(f'{path}.{jax.process_index()}', 'a') as f:
      f.write(json.dumps(rows) + '\\n')
    time.sleep(pace)
    return batch

  pipeline.TrainIterator.__next__ = traced
'''


def command(processes, *args, devices=1):
  return [sys.executable, str(LAUNCHER), f'--processes={processes}',
          f'--devices={devices}', '--timeout=150', '--', *map(str, args)]


def pod(folder, workdir, *args, processes=2, devices=1, code=0):
  """Runs the command to its end; returns what the processes read."""
  config = runs.write_config(folder, CONFIG)
  trace = folder / f'{pathlib.Path(workdir).name}.trace'
  for path in folder.glob(f'{trace.name}.*'):
    path.unlink()
  done = subprocess.run(
      command(processes, f'--config={config}:trace={trace}',
              f'--workdir={workdir}', *args, devices=devices),
      cwd=runs.ROOT, capture_output=True, text=True, check=False,
      # Statistics of its own; programs are in JAX_COMPILATION_CACHE_DIR.
      env={**os.environ, 'GANS_JAX_CACHE': f'{workdir}.cache'})
  assert done.returncode == code, done.stdout + done.stderr
  return read_trace(trace, processes), done.stdout + done.stderr


def read_trace(trace, processes):
  """Returns [process][step] -> hashes of the images read."""
  return [[json.loads(line) for line in
           pathlib.Path(f'{trace}.{i}').read_text().splitlines()]
          for i in range(processes)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('pod')


# Numbers of images that do not divide into batches; features, and pixels.
EVALUATE = ('--config.evaluate_every=24', '--config.evaluate.batch_size=8',
            '--config.evaluate.metrics=fd18_lite0,swd18')


@pytest.fixture(scope='module')
def two(folder):
  """(workdir, what was read, output) of a run of two processes."""
  return folder / 'two', *pod(folder, folder / 'two', *EVALUATE)


@pytest.fixture(scope='module')
def one(folder):
  """The same of one process, four steps long."""
  return folder / 'one', *pod(
      folder, folder / 'one', '--config.total_steps=4', *EVALUATE,
      processes=1)


@pytest.fixture(scope='module')
def stopped(folder):
  """(workdir, step) of a run of two, of which one got SIGTERM."""
  workdir, trace = folder / 'stopped', folder / 'stopped.trace'
  config = runs.write_config(folder, CONFIG)
  process = subprocess.Popen(
      command(2, f'--config={config}:trace={trace},pace=0.3',
              f'--workdir={workdir}', *EVALUATE), cwd=runs.ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  try:
    pids = [int(re.search(r'is pid (\d+)', process.stderr.readline()).group(1))
            for _ in range(2)]
    path, deadline = workdir / 'metrics.jsonl', time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
      if path.exists() and len(path.read_text().splitlines()) >= 3:
        os.kill(pids[1], signal.SIGTERM)
        break
      time.sleep(0.05)
    out, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == cli.PREEMPTED, out + err
  said = re.search(r'stopped by SIGTERM at step (\d+), which is saved', err)
  assert said, err
  return workdir, int(said.group(1))


def losses(workdir):
  """Returns what is recorded of the steps, without metrics."""
  return [r for r in runs.records(workdir) if 'loss/d' in r]


def steps_of(workdir):
  return checkpoint.Checkpointer(str(workdir)).steps()


# --- Which rows a process reads ---------------------------------------------


@pytest.mark.parametrize('processes', [2, 4])
def test_iterators_of_processes_are_disjoint(processes):
  config = config_lib.base('dcgan')
  config_lib.assign(config, {'data.source': 'emoji:noto', 'data.limit': 48,
                             'data.resolution': 16})
  dataset = pipeline.open_dataset(config.data)

  def batches(index, count):
    iterator = pipeline.train_iterator(
        dataset, batch_size=16, batches_per_step=1, seed=3,
        process_index=index, process_count=count, workers=0, prefetch=1)
    found = [next(iterator)['image'][0] for _ in range(3)]
    iterator.close()
    return found

  whole = batches(0, 1)
  parts = [batches(i, processes) for i in range(processes)]
  for step, batch in enumerate(whole):
    np.testing.assert_array_equal(
        batch, np.concatenate([part[step] for part in parts]))
  # 3 batches of 16 are one epoch of 48: no example is read twice.
  rows = [row.tobytes() for part in parts for batch in part for row in batch]
  assert len(rows) == len(set(rows)) == 48


def test_processes_read_disjoint_halves(one, two):
  (_, (whole,), _), (_, (first, second), _) = one, two
  # The iterator may read ahead of the step, never behind.
  assert len(first) >= STEPS and len(second) >= STEPS
  assert {len(rows) for rows in first + second} == {BATCH // 2}
  for step in range(4):
    assert whole[step] == first[step] + second[step]
  epoch = [rows for part in (first, second) for step in part[:8]
           for rows in step]
  assert len(set(epoch)) == 64


# --- What they make of them -------------------------------------------------


def test_two_processes_train_as_one(one, two):
  first, second = losses(one[0])[:4], losses(two[0])[:4]
  assert [r['step'] for r in second] == [1, 2, 3, 4]
  assert first[0].keys() == second[0].keys()
  for a, b in zip(first, second, strict=True):
    # Adam turns rounding into steps of the learning rate.
    tolerance = 1e-5 if a['step'] == 1 else 1e-2
    for name in a:
      if not name.startswith('accuracy/'):
        np.testing.assert_allclose(b[name], a[name], rtol=tolerance,
                                   atol=1e-6, err_msg=f'{a["step"]} {name}')


def test_two_processes_measure_as_one(one, two):
  """Of the untrained net, whose weights are equal: each decodes a half."""
  found = [[json.loads(line) for line in (
      workdir / 'evaluations.jsonl').read_text().splitlines()][:2]
      for workdir, _, _ in (one, two)]
  for a, b in zip(*found, strict=True):
    assert (a['metric'], a['step']) == (b['metric'], 0)
    assert b['real']['count'] == 18 and not b['real']['cached']
    assert b['value'] == pytest.approx(a['value'], rel=1e-4)
    assert b['floor']['value'] == pytest.approx(a['floor']['value'], rel=1e-4)


def test_one_record_of_the_run(two):
  workdir, _, output = two
  assert [r['step'] for r in losses(workdir)] == list(range(1, STEPS + 1))
  assert output.count('done: 24 steps') == 1
  assert steps_of(workdir) == list(range(0, STEPS + 1, 2))
  state = workdir / 'checkpoints' / '2' / 'state'
  assert {p.name for p in state.glob('ocdbt.process_*')} == {
      'ocdbt.process_0', 'ocdbt.process_1'}
  assert not list((workdir / 'checkpoints').glob('bad_*'))


@pytest.mark.slow
def test_sigterm_to_one_stops_both_at_one_step(stopped):
  workdir, step = stopped
  assert 3 <= step < STEPS
  assert steps_of(workdir)[-1] == step
  assert runs.data_state(workdir, step)['step'] == step


@pytest.mark.slow
def test_resumed_run_is_the_uninterrupted_one(stopped, two, folder):
  workdir, step = stopped
  again = shutil.copytree(workdir, folder / 'again')
  (first, second), output = pod(folder, again, *EVALUATE)
  assert f'resumed at step {step}' in output
  assert first[0] == two[1][0][step] and second[0] == two[1][1][step]
  runs.assert_same_run(again, two[0], STEPS)


@pytest.mark.slow
def test_checkpoint_of_two_goes_on_in_one(stopped, two, folder):
  workdir, step = stopped
  alone = shutil.copytree(workdir, folder / 'alone')
  (rows,), _ = pod(folder, alone, f'--config.total_steps={step + 2}',
                   processes=1)
  first, second = two[1]
  for i in range(2):
    assert rows[i] == first[step + i] + second[step + i]
  ours, theirs = (losses(path)[step] for path in (alone, two[0]))
  for name in ours:
    if not name.startswith('accuracy/'):
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5,
                                 atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_parameters_split_over_processes(one, folder):
  """One row of the mesh is two processes: both feed the whole batch."""
  workdir = folder / 'split'
  (first, second), _ = pod(folder, workdir, '--config.mesh.model=2',
                           '--config.total_steps=4')
  assert first[:4] == second[:4] == one[1][0][:4]
  a, b = (losses(path)[0] for path in (one[0], workdir))
  for name in a:
    if not name.startswith('accuracy/'):
      np.testing.assert_allclose(b[name], a[name], rtol=1e-5, atol=1e-6)
  # The kernel of 2**14 elements is there in whole, from two halves.
  ours, theirs = runs.arrays(workdir, 0), runs.arrays(one[0], 0)
  assert max(x.size for x in ours.values()) == 2**14
  for name, x in ours.items():
    np.testing.assert_allclose(x, theirs[name], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_devices_per_process(one, folder):
  workdir = folder / 'four'
  (first, second), _ = pod(folder, workdir, '--config.total_steps=4',
                           devices=2)
  for step in range(4):
    assert first[step] + second[step] == one[1][0][step]
  np.testing.assert_allclose(losses(workdir)[0]['loss/d'],
                             losses(one[0])[0]['loss/d'], rtol=1e-5)


@pytest.mark.slow
def test_elastic_resume(folder):
  """8 devices in 2 processes, 4 in 1, and 8 in 2 again, are one run."""
  whole, _ = pod(folder, folder / 'whole', '--config.total_steps=6',
                 devices=4)
  rows = []
  for steps, processes in ((2, 2), (4, 1), (6, 2)):
    parts, output = pod(
        folder, folder / 'elastic', f'--config.total_steps={steps}',
        processes=processes, devices=4)
    assert (f'resumed at step {steps - 2}' in output) == (steps > 2)
    rows += [sum((part[i] for part in parts), []) for i in range(2)]
  assert rows == [whole[0][i] + whole[1][i] for i in range(6)]
  first, second = losses(folder / 'whole'), losses(folder / 'elastic')
  assert [r['step'] for r in second] == list(range(1, 7))
  for a, b in zip(first, second, strict=True):
    # On the same devices bit for bit; then up to the order of sums, which
    # Adam turns into steps of the learning rate.
    tolerance = {1: 0.0, 2: 0.0, 3: 1e-5}.get(a['step'], 1e-2)
    for name in a:
      if not name.startswith('accuracy/'):
        np.testing.assert_allclose(b[name], a[name], rtol=tolerance,
                                   atol=tolerance / 10,
                                   err_msg=f'{a["step"]} {name}')


# --- The roll call ----------------------------------------------------------


@pytest.mark.slow
def test_processes_that_differ_are_refused(folder, tmp_path):
  config = runs.write_config(tmp_path, CONFIG + """
import sys
same = get_config


def get_config(arg=''):
  config = same(arg)
  config.seed = int('--process_id=1' in sys.argv)
  return config
""")
  done = subprocess.run(
      command(3, f'--config={config}', f'--workdir={tmp_path / "no"}'),
      cwd=runs.ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == cli.BAD_INPUT, done.stderr
  text = ' '.join(re.sub(r'\[\d\]', ' ', done.stderr).split())
  assert text.count('The processes would not run the same: config key seed '
                    'is 1 on process 1 (') == 3
  assert not (tmp_path / 'no').exists()


# --- The launcher -----------------------------------------------------------


def test_dry_run_prints_the_commands():
  out = subprocess.run(
      [sys.executable, str(LAUNCHER), '--processes=3', '--devices=2',
       '--dry_run', '--', '--config=x.py', '--workdir=a b'],
      capture_output=True, text=True, check=True).stdout.splitlines()
  assert len(out) == 3
  for i, line in enumerate(out):
    assert 'JAX_NUM_CPU_DEVICES=2' in line
    assert f'--num_processes=3 --process_id={i}' in line
    assert "--config=x.py '--workdir=a b' --coordinator=127.0.0.1:" in line


def test_failure_of_all_is_told_and_returned(folder):
  output = subprocess.run(
      command(2, '--config=missing.py', f'--workdir={folder / "no"}'),
      cwd=runs.ROOT, capture_output=True, text=True, check=False)
  assert output.returncode == cli.BAD_INPUT
  for i in range(2):
    assert f"[{i}] error: The config file 'missing.py' does not exist" in (
        output.stderr)
  assert not (folder / 'no').exists()


STUBBORN = '''
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
time.sleep(60)
'''


def test_others_are_killed_when_one_dies(capsys):
  launcher = runs.script('rehearse_pod')
  argvs = [[sys.executable, '-c', STUBBORN],
           [sys.executable, '-c', 'import sys; sys.exit(7)']]
  start = time.monotonic()
  with launcher.Pod(argvs, os.environ) as processes:
    code = launcher.wait(processes, 0, 0.5, [])
    assert processes.processes[0].poll() is None
  assert code == 7 and time.monotonic() - start < 20
  assert processes.processes[0].returncode == -signal.SIGKILL
  assert 'process 1 ended with exit code 7' in capsys.readouterr().err


def test_timeout(capfd):
  launcher = runs.script('rehearse_pod')
  with launcher.Pod([[sys.executable, '-c', STUBBORN]], os.environ) as it:
    assert launcher.wait(it, 1.0, 0.5, []) == launcher.TIMED_OUT
  assert it.processes[0].returncode == -signal.SIGKILL


def test_second_interrupt_kills():
  launcher = runs.script('rehearse_pod')
  with launcher.Pod([[sys.executable, '-c', STUBBORN]], os.environ) as it:
    it.signal(signal.SIGTERM)
    assert launcher.wait(it, 0, 0.5, [2, 2]) == launcher.INTERRUPTED


def test_first_failure_is_the_exit_code():
  launcher = runs.script('rehearse_pod')
  argvs = [[sys.executable, '-c', f'import time; time.sleep({s}); exit({c})']
           for s, c in ((0.0, 0), (1.5, 3), (0.3, 75))]
  with launcher.Pod(argvs, os.environ) as it:
    assert launcher.wait(it, 30, 10, []) == 75


def test_flags_are_not_given_twice():
  found = runs.script('rehearse_pod').settings(
      4, '--xla_force_host_platform_device_count=8 --xla_a=1')
  assert found == {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '4',
                   'XLA_FLAGS': '--xla_a=1'}

