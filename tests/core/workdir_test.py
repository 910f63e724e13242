"""A workdir is refused in words, and a refused run leaves no trace."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap

import ml_collections
import numpy as np
import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.core import workdir
from gans_jax.data import spec

CONFIG = {
    'system': 'dcgan', 'seed': 0, 'batch_size': 64, 'log_every': 50,
    'data': {'source': 'emoji:noto', 'resolution': 64, 'workers': 0},
    'model': {'z_dim': 100, 'kernel': (4, 4)},
    'optimizer': {'G': {'name': 'adam', 'lr': 2e-4}},
}


def changed(**flat):
  config = workdir.flatten(CONFIG)
  config.update({k.replace('__', '.'): v for k, v in flat.items()})
  return workdir._unflatten(config)


def tree(path):
  """Every file of a directory with its content."""
  return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None
          for p in path.rglob('*')}


def test_new_run(tmp_path):
  path = tmp_path / 'runs' / 'a'
  with workdir.open_run(path, CONFIG) as run:
    assert (run.path, run.resumed, run.changed) == (str(path), False, {})
    record = json.loads((path / 'config.json').read_text())
    assert record['program'] == 'gans_jax'
    assert record['config'] == json.loads(json.dumps(CONFIG))
    assert record['packages']['jax'].startswith('0.')
    assert record['started'] and record['command'] == sys.argv
    assert sorted(os.listdir(path)) == ['.lock', 'config.json']
  assert workdir.read_config(path) == record['config']


def test_config_dict_is_taken(tmp_path):
  config = ml_collections.ConfigDict(CONFIG)
  workdir.open_run(tmp_path, config).release()
  run = workdir.open_run(tmp_path, CONFIG)
  assert run.resumed and run.changed == {}
  run.release()


def test_harmless_changes_are_noted(tmp_path):
  workdir.open_run(tmp_path, CONFIG).release()
  new = changed(log_every=10, optimizer__G__lr=1e-4, total_steps=5)
  with workdir.open_run(tmp_path, new) as run:
    want = {'log_every': [50, 10], 'optimizer.G.lr': [2e-4, 1e-4],
            'total_steps': [0, 5]}  # what a dcgan without the key had
    assert run.resumed and run.changed == want
  with workdir.open_run(tmp_path, new) as run:
    assert run.changed == {}
  with workdir.open_run(tmp_path, CONFIG) as run:
    assert run.changed['log_every'] == [10, 50]
    assert run.changed['total_steps'] == [5, '(absent)']
  lines = (tmp_path / 'config_history.jsonl').read_text().splitlines()
  assert [set(json.loads(x)['changed']) for x in lines] == [set(want)] * 2
  assert workdir.read_config(tmp_path)['log_every'] == 50
  assert workdir.latest_config(tmp_path) == json.loads(json.dumps(CONFIG))
  with workdir.open_run(tmp_path, new) as run:
    assert workdir.latest_config(tmp_path) == json.loads(json.dumps(new))


def test_keys_that_came_later_mean_their_defaults(tmp_path):
  """A run of an older version goes on, unless a new key is not as it was."""
  config = config_lib.base('dcgan')
  config_lib.assign(config, {'data.source': 'emoji:noto', 'total_steps': 1})
  now = config_lib.to_json(config)
  old = workdir.flatten(now)
  del old['model.z_distribution'], old['log_every']
  workdir.open_run(tmp_path, workdir._unflatten(old)).release()
  with workdir.open_run(tmp_path, now) as run:
    assert run.resumed and run.changed == {}
  config.model.z_distribution = 'uniform'
  with pytest.raises(errors.UserError, match='"normal" and is now "uniform"'):
    workdir.open_run(tmp_path, config_lib.to_json(config))


def test_half_written_history_line_is_ignored(tmp_path):
  workdir.open_run(tmp_path, CONFIG).release()
  (tmp_path / 'config_history.jsonl').write_text('{"changed": {"log_ev')
  with workdir.open_run(tmp_path, CONFIG) as run:
    assert run.changed == {}


@pytest.mark.parametrize('key,value', [
    ('system', 'wgan'), ('seed', 1), ('batch_size', 32),
    ('data.source', 'emoji:twemoji'), ('data.resolution', 32),
    ('model.z_dim', 128), ('model.kernel', [4, 5]), ('model.new', True),
    ('optimizer.G.name', 'rmsprop')])
def test_changed_model_is_refused(tmp_path, key, value):
  workdir.open_run(tmp_path, CONFIG).release()
  before = tree(tmp_path)
  old = json.dumps(workdir.flatten(CONFIG).get(key, '(absent)'))
  with pytest.raises(errors.UserError) as caught:
    workdir.open_run(tmp_path, changed(**{key: value}, log_every=1))
  assert f'{key} was {old} and is now {json.dumps(value)}' in str(caught.value)
  assert 'log_every' not in str(caught.value)
  assert tree(tmp_path) == before


def test_every_changed_key_is_listed(tmp_path):
  workdir.open_run(tmp_path, CONFIG).release()
  with pytest.raises(errors.UserError, match='batch_size was 64 .* 8; .*'
                     'model.z_dim was 100 .* 7; seed was 0'):
    workdir.open_run(tmp_path, changed(batch_size=8, model__z_dim=7, seed=3))


def test_changed_data_set_is_refused(tmp_path):
  def data(identity, count):
    return spec.DataSpec(64, 3, 0, count, ('image',), identity=identity)
  workdir.open_run(tmp_path, CONFIG, data('aa', 9)).release()
  workdir.open_run(tmp_path, CONFIG, data('aa', 9)).release()
  with pytest.raises(errors.UserError, match='emoji:noto had identity aa with '
                     '9 examples and has bb with 8'):
    workdir.open_run(tmp_path, CONFIG, data('bb', 8))


def test_check_writes_nothing(tmp_path):
  assert not workdir.check(tmp_path / 'new', CONFIG)
  assert os.listdir(tmp_path) == []
  workdir.open_run(tmp_path / 'a', CONFIG).release()
  before = tree(tmp_path)
  assert workdir.check(tmp_path / 'a', CONFIG)
  with pytest.raises(errors.UserError, match='seed was 0'):
    workdir.check(tmp_path / 'a', changed(seed=1))
  assert tree(tmp_path) == before


def write(text):
  return lambda path: (path / 'config.json').write_text(text)


@pytest.mark.parametrize('prepare,told', [
    (lambda p: (p / 'thesis.tex').write_text('x'), "'thesis.tex'"),
    (write('{"program": "other", "config": {}}'), 'another program'),
    (write('{"learning_rate": 0.1}'), 'another program'),
    (write('[1]'), 'another program'),
    (write('{"program": "gans_jax"}'), 'another program'),
    (write('{"program": "gans'), 'not JSON'),
])
def test_directory_of_another_is_refused(tmp_path, prepare, told):
  prepare(tmp_path)
  before = tree(tmp_path)
  with pytest.raises(errors.UserError, match=told):
    workdir.open_run(tmp_path, CONFIG)
  assert tree(tmp_path) == before


def test_file_as_workdir_or_parent(tmp_path):
  (tmp_path / 'file').write_text('x')
  for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    with pytest.raises(errors.UserError, match='file is not a directory'):
      workdir.open_run(path, CONFIG)
  with pytest.raises(errors.UserError, match='Mount the bucket'):
    workdir.open_run('gs://bucket/run', CONFIG)
  assert tree(tmp_path) == {'file': b'x'}


def test_read_config_refusals(tmp_path):
  with pytest.raises(errors.UserError, match='not a directory'):
    workdir.read_config(tmp_path / 'none')
  with pytest.raises(errors.UserError, match='has no config.json'):
    workdir.read_config(tmp_path)


def test_start_that_was_killed_early_is_no_obstacle(tmp_path):
  (tmp_path / '.lock').write_text('{"pid": 1}')
  (tmp_path / '.config.json.77.tmp').write_text('{"progr')
  with workdir.open_run(tmp_path, CONFIG) as run:
    assert not run.resumed


CHILD = '''
import os, sys, time, resource
from gans_jax.core import errors, workdir
config = {'system': 'dcgan'}
'''


def child(code, *args):
  return subprocess.Popen(
      [sys.executable, '-c', CHILD + textwrap.dedent(code), *map(str, args)],
      stdout=subprocess.PIPE, text=True,
      env=dict(os.environ, JAX_PLATFORMS='cpu'))


def test_second_process_is_refused_and_kill_frees_the_lock(tmp_path):
  config = {'system': 'dcgan'}
  holder = child('''
      run = workdir.open_run(sys.argv[1], config)
      if not os.fork():  # a worker that outlives the trainer
        time.sleep(15)
        os._exit(0)
      print('ready', flush=True)
      time.sleep(60)
      ''', tmp_path)
  assert holder.stdout.readline() == 'ready\n'
  before = tree(tmp_path)
  with pytest.raises(errors.UserError,
                     match=f'in use: process {holder.pid} on .*, since 20'):
    workdir.open_run(tmp_path, config)
  assert tree(tmp_path) == before
  holder.kill()
  assert holder.wait() == -signal.SIGKILL
  workdir.open_run(tmp_path, config).release()


def test_second_run_in_the_same_process_is_refused(tmp_path):
  run = workdir.open_run(tmp_path, CONFIG)
  with pytest.raises(errors.UserError, match=f'process {os.getpid()} on'):
    workdir.open_run(tmp_path, CONFIG)
  run.release()
  run.release()
  workdir.open_run(tmp_path, CONFIG).release()


def test_no_permission():
  with tempfile.TemporaryDirectory() as path:
    os.chmod(path, 0o555)
    done = child('''
        if os.getuid() == 0:
          os.setuid(65534)  # As root nothing is forbidden.
        for path in (sys.argv[1], sys.argv[1] + '/a/b'):
          try:
            workdir.open_run(path, config)
          except errors.UserError as error:
            print(error)
        ''', path)
    lines = done.communicate()[0].splitlines()
    assert done.returncode == 0
    assert len(lines) == 2
    assert all(f'no permission to write to {path}.' in x for x in lines)
    assert os.listdir(path) == []


def test_full_disk_leaves_nothing(tmp_path):
  """A file size limit stands in for a full disk."""
  done = child('''
      resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
      try:
        workdir.open_run(sys.argv[1] + '/a/b', config)
      except errors.UserError as error:
        print(error)
      ''', tmp_path, 200)
  assert 'config.json: File too large.' in done.communicate()[0]
  assert os.listdir(tmp_path) == []


def test_read_only_file_system(tmp_path, monkeypatch):
  """os.access may say yes and mkdir still fail (network mounts, quotas)."""
  def mkdir(path, *unused):
    raise OSError(30, 'Read-only file system', str(path))
  monkeypatch.setattr(os, 'mkdir', mkdir)
  with pytest.raises(errors.UserError, match='a/b: Read-only file system'):
    workdir.open_run(tmp_path / 'a' / 'b', CONFIG)
  assert os.listdir(tmp_path) == []


def test_write_atomic_is_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'x.json'
  files.write_atomic(path, b'old')
  def replace(*unused):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(os, 'replace', replace)
  with pytest.raises(errors.UserError, match='x.json: No space left'):
    files.write_atomic(path, b'new')
  assert tree(tmp_path) == {'x.json': b'old'}
  monkeypatch.undo()
  files.write_atomic(path, b'new')
  assert tree(tmp_path) == {'x.json': b'new'}
  files.write_atomic(tmp_path / 'a' / 'b', b'1')
  assert (tmp_path / 'a' / 'b').read_bytes() == b'1'


def test_write_atomic_under_kill(tmp_path):
  """A reader meanwhile sees one of the two contents, never a part."""
  path = tmp_path / 'x'
  contents = [bytes([c]) * 300_000 for c in b'ab']
  files.write_atomic(path, contents[0])
  writer = child('''
      from gans_jax.core import files
      while True:
        for c in b'ab':
          files.write_atomic(sys.argv[1], bytes([c]) * 300_000)
      ''', path)
  first = os.stat(path).st_ino
  seen = 0
  while seen < 200:
    seen += os.stat(path).st_ino != first
    assert path.read_bytes() in contents
  writer.kill()
  writer.wait()
  assert path.read_bytes() in contents


def test_plain():
  got = files.plain({
      'a': (1, 2), 'b': np.float32(0.5), 'c': np.arange(2),
      'd': ml_collections.ConfigDict({'e': 1})})
  assert got == {'a': [1, 2], 'b': 0.5, 'c': [0, 1], 'd': {'e': 1}}
  with pytest.raises(TypeError, match='object has no place in JSON'):
    files.plain({'a': object()})
