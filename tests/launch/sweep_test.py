"""launch/sweep.py with a false trainer: what runs, is skipped, goes on."""

import fcntl
import json
import os
import signal
import sys
import threading
import time

import pytest
import runs

from gans_jax.core import cli

EXPERIMENT = '''
from gans_jax.core import config as config_lib

ROWS = {'a': {'paper/fid': 1.0}, 'b': {'optimizer.G.lr': 1e-3}, 'c': {}}


def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='a', cpu=False)
  config = config_lib.base('dcgan')
  config_lib.assign(config, {'total_steps': 4})
  config_lib.assign(config, config_lib.row(ROWS, args.row))
  return config
'''

# Saves the steps that a file `plan` in the folder above asks for, and ends
# with the code that it names; by default all, and 0.
TRAINER = '''
import json, pathlib, sys, time
args = dict(a.lstrip('-').partition('=')[::2] for a in sys.argv[1:])
run = pathlib.Path(args['workdir'])
with open(run.parent / 'calls', 'a') as f:
  print(' '.join(sys.argv[1:]), file=f)
step, code = 4, 0
plan = run.parent / f'{run.name}.plan'
if plan.exists():
  step, code = json.loads(plan.read_text())
  plan.unlink()
(run / 'checkpoints' / str(step)).mkdir(parents=True, exist_ok=True)
(run / 'config.json').write_text('{}')
result = {'metric': 'fd', 'step': step, 'value': 10.0 + step}
(run / 'evaluations.jsonl').write_text(json.dumps(result) + '\\n{"metr')
if code == 'wait':
  import signal
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  (run.parent / 'up').touch()
  time.sleep(30)
sys.exit(code)
'''


@pytest.fixture(scope='module')
def sweep():
  return runs.script('sweep')


@pytest.fixture
def folder(tmp_path, sweep, monkeypatch):
  (tmp_path / 'experiment.py').write_text(EXPERIMENT)
  (tmp_path / 'trainer.py').write_text(TRAINER)
  (tmp_path / 'runs').mkdir()
  monkeypatch.setattr(sweep, 'MAIN', (
      sys.executable, '-S', str(tmp_path / 'trainer.py')))
  return tmp_path


def call(sweep, folder, *args, spec=''):
  return cli.call(sweep.main, [
      f'--config={folder}/experiment.py{spec}', f'--workdir={folder}/runs',
      *args])


def calls(folder) -> list[str]:
  """Returns the workdirs that were trained in, in order."""
  path = folder / 'runs' / 'calls'
  lines = path.read_text().splitlines() if path.exists() else []
  return [line.split('--workdir=')[1].split()[0].split('/')[-1]
          for line in lines]


def plan(folder, job, step, code):
  (folder / 'runs' / f'{job}.plan').write_text(json.dumps([step, code]))


def test_rows_and_seeds_and_a_table(sweep, folder, capsys):
  assert call(sweep, folder, '--rows=b,a', '--seeds=0,7',
              '--config.batch_size=8', spec=':cpu') == 0
  assert calls(folder) == ['b_seed0', 'b_seed7', 'a_seed0', 'a_seed7']
  first = (folder / 'runs' / 'calls').read_text().splitlines()[0]
  assert first.split() == [
      f'--config={folder}/experiment.py:row=b,cpu',
      f'--workdir={folder}/runs/b_seed0', '--config.batch_size=8',
      '--config.seed=0']
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ['job', 'result', 'step', 'of', 'time', 'metrics']
  assert lines[1].split()[:4] == ['b_seed0', 'finished', '4', '4']
  assert lines[1].endswith('fd 14')


def test_a_failure_stops_no_other_and_the_same_command_goes_on(
    sweep, folder, capsys):
  plan(folder, 'a_seed0', 2, 1)
  plan(folder, 'b_seed0', 3, 75)
  assert call(sweep, folder, '--rows=all') == 1
  assert calls(folder) == ['a_seed0', 'b_seed0', 'c_seed0']
  said = capsys.readouterr()
  assert 'failed with exit code 1' in said.out
  assert 'saved and stopped' in said.out
  assert call(sweep, folder, '--rows=all') == 0
  assert calls(folder)[3:] == ['a_seed0', 'b_seed0']
  assert 'a_seed0, goes on from step 2' in capsys.readouterr().err
  # Nothing is left to do; more steps are.
  assert call(sweep, folder, '--rows=all') == 0
  assert len(calls(folder)) == 5
  assert call(sweep, folder, '--rows=c', '--config.total_steps=9') == 0
  assert calls(folder)[5:] == ['c_seed0']


def test_one_that_was_stopped_gives_75(sweep, folder):
  plan(folder, 'a_seed0', 2, 75)
  assert call(sweep, folder, '--rows=a') == 75


def test_a_signal_saves_the_run_and_starts_no_other(sweep, folder, capsys):
  plan(folder, 'a_seed0', 2, 'wait')

  def interrupt():
    while not (folder / 'runs' / 'up').exists():
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=interrupt)
  thread.start()
  assert call(sweep, folder, '--rows=all') == 75
  thread.join()
  assert calls(folder) == ['a_seed0']
  assert 'saved and stopped' in capsys.readouterr().out


def test_kimg_is_counted_in_images(sweep, folder):
  args = ['--config.total_steps=0', '--config.total_kimg=2.0']
  job, = sweep.expand(f'{folder}/experiment.py', None, None,
                      str(folder / 'runs'), [a[9:] for a in args])
  meta = folder / 'runs' / 'seed0' / 'checkpoints' / '31' / 'meta'
  meta.mkdir(parents=True)
  (folder / 'runs' / 'seed0' / 'config.json').write_text('{}')
  for images, state in ((1984, 'unfinished'), (2000, 'finished')):
    (meta / 'metadata').write_text(json.dumps({'images': images}))
    assert sweep.state_of(job) == (state, 31)


def test_dry_run_and_a_run_that_is_going_on(sweep, folder, capsys):
  (folder / 'runs' / 'b_seed0').mkdir()
  with open(folder / 'runs' / 'b_seed0' / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert call(sweep, folder, '--rows=a,b', '--dry_run') == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == '# a_seed0: new' and out[2] == '# b_seed0: running'
    assert out[1].endswith('a_seed0') and out[3].startswith('# ')
    assert call(sweep, folder, '--rows=b') == 0
    assert 'running elsewhere' in capsys.readouterr().out
  assert calls(folder) == []


@pytest.mark.parametrize('launcher,options,words', [
    ('slurm', ['--nodes=2'],
     ['sbatch --job-name=a_seed1 --nodes=2', 'slurm.sbatch --config=']),
    ('tpu', ['--name=x-NAME', '--zone=z'],
     ['tpu_pod.sh watch --name=x-a-seed1 --zone=z -- --config=']),
    ('gke', ['--image=i'],
     ['gke.py --name=a-seed1 --image=i -- --config=']),
    ('xmanager', ['--executor=local'],
     ['xmanager.py --executor=local -- --config='])])
def test_launchers(sweep, folder, capsys, launcher, options, words):
  assert call(sweep, folder, '--rows=a', '--seeds=1', '--dry_run',
              f'--launcher={launcher}', '--', *options) == 0
  out = capsys.readouterr().out
  for word in [*words, '--config.seed=1']:
    assert word in out


@pytest.mark.parametrize('args,words', [
    (['--rows=a,x'], ["no row 'x'", 'Rows: a, b, c']),
    (['--seeds=2-1'], ['which is empty']),
    (['--config.total_steps=-1'], ['must be positive']),
    (['--config.batch_siz=4'], ["Did you mean 'batch_size'?"]),
    (['--', '--nodes=2'], ['is an option of a launcher']),
])
def test_refuses(sweep, folder, capsys, args, words):
  runs.refused(capsys, call(sweep, folder, *args), *words)
  assert calls(folder) == []
