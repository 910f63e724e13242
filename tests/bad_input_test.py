"""Bad input through the command line: told in a paragraph, nothing written."""

import errno
import json
import os
import pathlib
import shutil
import sys

import pictures
import pytest
import runs

from gans_jax.core import checkpoint
from gans_jax.core import cli
from gans_jax.core import files

pytestmark = pytest.mark.usefixtures('compile_cache')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  return runs.write_config(tmp_path_factory.mktemp('config'))


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory):
  """A run of two steps with a checkpoint of each; copy it to change it."""
  path = tmp_path_factory.mktemp('runs') / 'trained'
  assert runs.train(config, path, *SHORT) == cli.DONE
  return path


SHORT = ('--config.total_steps=2', '--config.checkpoint_every=1',
         '--config.keep=3', '--config.sample_every=0')


@pytest.fixture
def refuse(config, tmp_path, capsys):
  """Asserts that training refuses, in these words, and leaves no trace."""

  def check(*options, words=(), config=config):
    path = tmp_path / 'new' / 'run'
    for more in ((), ('--dry_run',)):
      code = runs.train(config, path, *options, *more)
      text = runs.refused(capsys, code, *words)
      assert not path.parent.exists()
    return text

  return check


# --- The config -------------------------------------------------------------


@pytest.mark.parametrize('option,words', [
    ('--config.modle.ngf=3', ["no key 'modle'", "Did you mean 'model"]),
    ('--config.model.nfg=3', ["no key 'model.nfg'", "'model.ngf'"]),
    ('--config.batchsize=3', ["'batchsize'", "Did you mean 'batch_size'?"]),
    ('--config.data.src=x', ["'data.src'", 'Keys of']),
    ('--config.batch_size.x=1', ["'batch_size.x'"]),
    ('--config.batch_size=many', ['--config.batch_size', "'many'", 'int']),
    ('--config.batch_size=3.5', ["'3.5'", 'int']),
    ('--config.optimizer.G.lr=fast', ["'fast'", 'float']),
    ('--config.optimizer.G.lr=nan', ["'nan'", 'float']),
    ('--config.data.flip=perhaps', ["'perhaps'", 'bool']),
    ('--config.evaluate.metrics=(3', ['evaluate.metrics', "'(3'"]),
    ('--config.model=big', ['--config.model', 'group of keys', 'ngf']),
    ('--config.batch_size=0', ['config.batch_size is 0']),
    ('--config.log_every=-1', ['config.log_every is -1']),
    ('--config.sample.rows=0', ['config.sample.rows is 0']),
    ('--config.total_steps=0', ['total_steps', 'total_kimg']),
    ('--config.dtype=float16', ["'float16'", 'bfloat16']),
    ('--config.ema.decay=1.0', ['config.ema.decay is 1.0']),
    ('--config.alarms.nan=maybe', ['config.alarms.nan', "'maybe'"]),
    ('--config.loss.objective=hindge', ['hindge', 'hinge']),
    ('--config.loss.penalty=r3', ['config.loss.penalty', "'r3'"]),
    ('--config.optimizer.G.name=adamm', ['adamm']),
    ('--config.data.source=emoij:noto', ['emoij', "Did you mean 'emoji'?"]),
    ('--config.data.filter=fancy', ['data.filter', "'fancy'", 'lanczos']),
    ('--config.data.limit=-1', ['data.limit is -1']),
    ('--config.data.workers=-1', ['data.workers is -1']),
], ids=lambda x: x if isinstance(x, str) else '')
def test_option(refuse, option, words):
  refuse(option, words=words)


def test_option_without_value(config, tmp_path, capsys):
  code = runs.train(config, tmp_path / 'run', '--config.seed')
  runs.refused(capsys, code, '--config.seed needs a value')
  assert not (tmp_path / 'run').exists()


def test_unknown_argument_of_the_command(config, tmp_path, capsys):
  with pytest.raises(SystemExit) as exit_:
    runs.train(config, tmp_path / 'run', '--dryrun')
  assert exit_.value.code == cli.BAD_INPUT
  assert '--dryrun' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('text,words', [
    ("config.batch_sise = 3", ['batch_sise', 'line 7']),
    ("config.batch_size = 'many'", ['line 7', 'does not exist, or a value']),
    ("config.model.zdim = 3", ['zdim', 'line 7']),
    ("config_lib.assign(config, {'model.zdim': 3})",
     ["'model.zdim'", "'model.z_dim'"]),
    ("config_lib.assign(config, {'batch_size': 'many'})",
     ["'many'", 'expected int']),
    ("config = None", ['NoneType', 'ConfigDict']),
    ("return (", ['is not valid Python']),
])
def test_config_file(refuse, tmp_path, text, words):
  path = tmp_path / 'broken.py'
  path.write_text(
      'from gans_jax.core import config as config_lib\n\n\n'
      "def get_config(arg=''):\n"
      "  config = config_lib.base('dcgan')\n"
      f'  # The next line is wrong.\n  {text}\n  return config\n')
  refuse(config=str(path), words=[str(path), *words] if 'assign' not in text
         else words)


@pytest.mark.parametrize('text,words', [
    ('x = 1', ['get_config']),
    ('import no_such_package', ['line 1', 'no_such_package']),
    ("y = 1\nopen('no_such_file')", ['line 2', 'no_such_file'])])
def test_config_file_that_does_not_run(refuse, tmp_path, text, words):
  path = tmp_path / 'broken.py'
  path.write_text(text)
  refuse(config=str(path), words=[str(path), *words])


def test_config_file_that_is_not_there(refuse, tmp_path, config):
  near = config.replace('tiny.py', 'tini.py')
  refuse(config=near, words=[near, 'does not exist', "'tiny.py'"])
  refuse(config=str(tmp_path / 'no' / 'x.py'), words=['does not exist'])
  refuse(config='tiny.yaml', words=["'tiny.yaml'", 'Python file'])


def test_config_argument_that_is_not_there(refuse, config):
  refuse(config=f'{config}:debgu', words=["'debgu'", "Did you mean 'debug'?"])


def test_system_that_is_not_there(refuse, tmp_path):
  refuse('--config.system=dcgann',
         words=["'dcgann'", "Did you mean 'dcgan'?", 'wgan_gp'])
  path = tmp_path / 'other.py'
  path.write_text(
      'from gans_jax.core import config as config_lib\n'
      "def get_config(arg=''):\n  return config_lib.base('stylegan9')\n")
  refuse(config=str(path), words=["'stylegan9'", 'there is no such system'])


# --- The data ---------------------------------------------------------------


def image(folder, name: str, size=(16, 16), seed: int = 0) -> None:
  pictures.write(folder, name, pictures.png(pictures.pixels(seed, size)))


def folder_of(tmp_path, count: int = 10) -> pathlib.Path:
  folder = tmp_path / 'images'
  for i in range(count):
    image(folder, f'{i}.png', seed=i)
  return folder


def source(folder, kind: str = 'folder') -> tuple[str, ...]:
  return (f'--config.data.source={kind}:{folder}', '--config.data.limit=0')


def test_folder_that_is_good(config, tmp_path):
  """What the cases below break, is not broken."""
  assert runs.train(config, tmp_path / 'run', *source(folder_of(tmp_path)),
                    '--config.total_steps=1') == cli.DONE


def test_folder_that_is_not_there(refuse, tmp_path):
  for kind in ('folder', 'zip', 'prepared', 'idx', 'cifar'):
    refuse(*source(tmp_path / 'absent', kind), words=['absent'])


def test_empty_folder(refuse, tmp_path):
  (tmp_path / 'images' / 'inner').mkdir(parents=True)
  refuse(*source(tmp_path / 'images'), words=['holds no images', '.png'])


def test_mixed_sizes(refuse, tmp_path):
  folder = folder_of(tmp_path)
  image(folder, 'odd.png', (20, 20))
  refuse(*source(folder), words=['mixes images of 2 sizes', '10 are 16x16',
                                 'odd.png (20x20)', 'prepare'])


def test_images_that_are_not_square(refuse, tmp_path):
  image(tmp_path / 'images', 'a.png', (20, 16))
  refuse(*source(tmp_path / 'images'), words=['20x16', 'expected squares'])


@pytest.mark.parametrize('name', ['deep.png', 'deep_rgb.png', 'cmyk.jpg',
                                  'moving.gif', 'moving.png', 'moving.webp'])
def test_files_that_would_be_misread(refuse, tmp_path, name):
  folder = folder_of(tmp_path)
  data, word = pictures.bad_files()[name]
  pictures.write(folder, name, data)
  refuse(*source(folder), words=[name, word])


@pytest.mark.parametrize('name', ['cut.jpg', 'cut.png', 'text.png',
                                  'empty.png'])
def test_damaged_files(refuse, tmp_path, name):
  folder = folder_of(tmp_path)
  pictures.write(folder, name, pictures.corrupt_files()[name])
  refuse(*source(folder), words=[name, 'data.skip_corrupt=true'])


def test_damage_inside_a_file_is_found_while_training(
    config, tmp_path, capsys):
  """No header tells it: the run has begun, and says which file it is."""
  folder = tmp_path / 'images'
  whole = pictures.png(pictures.pixels(0, (16, 16)))
  data = bytearray(whole)
  middle = data.index(b'IDAT') + 30
  data[middle:middle + 8] = bytes(8)
  pictures.write(folder, 'bent.png', bytes(data))
  code = runs.train(config, tmp_path / 'run', *source(folder))
  runs.refused(capsys, code, 'bent.png', 'damaged')


def test_dataset_json_that_names_absent_files(refuse, tmp_path):
  folder = folder_of(tmp_path)
  (folder / 'dataset.json').write_text(json.dumps(
      {'labels': [['0.png', 1], ['gone.png', 0]]}))
  refuse(*source(folder), words=['dataset.json', 'gone.png', 'not there'])


@pytest.mark.parametrize('text', ['{"labels": [', '[]', '{"labels": 3}',
                                  '{"labels": [["0.png", "cat"]]}'])
def test_dataset_json_of_another_kind(refuse, tmp_path, text):
  folder = folder_of(tmp_path)
  (folder / 'dataset.json').write_text(text)
  refuse(*source(folder), words=['dataset.json'])


def test_zip_that_is_none(refuse, tmp_path):
  (tmp_path / 'images.zip').write_bytes(b'no zip')
  refuse(*source(tmp_path / 'images.zip', 'zip'), words=['images.zip'])


def test_labels_missing_for_a_conditional_system(
    refuse, tmp_path_factory, tmp_path):
  conditional = runs.write_config(tmp_path_factory.mktemp('config'),
                                  runs.CONDITIONAL)
  refuse('--config.data.labels=none', config=conditional,
         words=["'cgan' needs label", "data.labels='none'", "'group'"])
  refuse(*source(folder_of(tmp_path)), '--config.data.labels=class',
         config=conditional, words=['has no labels', 'dataset.json'])
  refuse('--config.data.labels=colour', config=conditional,
         words=["'colour'", 'subgroup'])


@pytest.mark.parametrize('resolution', [8, 17, 24, 100, -16])
def test_resolution_that_the_system_does_not_support(refuse, resolution):
  refuse(f'--config.data.resolution={resolution}',
         words=['data.resolution', str(resolution)])


# --- Devices ----------------------------------------------------------------


@pytest.mark.parametrize('options,words', [
    (['batch_size=12', 'mesh.data=8'], ['batch_size is 12', '8 device']),
    (['batch_size=8', 'mesh.data=4', 'microbatches=4'],
     ['4 microbatch', 'multiple of 16']),
    (['mesh.data=9'], ['9 x 1', '8 devices']),
    (['mesh.model=3', 'mesh.data=-1'], ['mesh.model is 3', '8 devices']),
    (['mesh.model=0'], ['mesh.model is 0'])])
def test_devices(refuse, options, words):
  refuse(*(f'--config.{option}' for option in options), words=words)


def test_half_of_a_distributed_start(refuse):
  refuse('--num_processes=2', words=['--coordinator', '--process_id'])


# --- The workdir ------------------------------------------------------------


def tree(path) -> dict:
  """Everything in a directory but the lock's content."""
  return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None
          for p in pathlib.Path(path).rglob('*') if p.name != '.lock'}


def test_resume_with_a_changed_model(config, trained, capsys):
  before = tree(trained)
  code = runs.train(config, trained, *SHORT, '--config.model.ngf=16',
                    '--config.model.z_dim=4', '--config.log_every=2')
  text = runs.refused(capsys, code, str(trained), 'another model',
                      'model.ngf was 8 and is now 16',
                      'model.z_dim was 8 and is now 4')
  assert 'log_every' not in text
  assert tree(trained) == before


def test_resume_with_other_data(config, tmp_path, capsys):
  folder, path = folder_of(tmp_path), tmp_path / 'run'
  options = (*source(folder), '--config.total_steps=1')
  assert runs.train(config, path, *options) == cli.DONE
  image(folder, 'more.png', seed=99)
  before = tree(path)
  code = runs.train(config, path, *options)
  runs.refused(capsys, code, 'trained on other data', '10', '11')
  assert tree(path) == before


def test_workdir_of_another_program(config, tmp_path, capsys):
  (tmp_path / 'config.json').write_text('{"program": "other"}')
  (tmp_path / 'model.ckpt').write_text('precious')
  before = tree(tmp_path)
  code = runs.train(config, tmp_path, *SHORT)
  runs.refused(capsys, code, 'workdir of another program', str(tmp_path))
  assert tree(tmp_path) == before
  (tmp_path / 'config.json').unlink()
  code = runs.train(config, tmp_path, *SHORT)
  runs.refused(capsys, code, 'not empty', 'model.ckpt')
  (tmp_path / 'config.json').write_text('not JSON')
  code = runs.train(config, tmp_path, *SHORT)
  runs.refused(capsys, code, 'config.json is not JSON')


def test_workdir_that_is_a_file(config, tmp_path, capsys):
  (tmp_path / 'file').write_text('precious')
  for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    code = runs.train(config, path, *SHORT)
    runs.refused(capsys, code, 'not a directory')
  assert tree(tmp_path) == {'file': b'precious'}


def flip_a_bit(path) -> None:
  """Changes one bit in the middle of the largest file of a checkpoint."""
  largest = max((p for p in path.rglob('*') if p.is_file()),
                key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(bytes(data))


def delete_half(path) -> None:
  found = sorted(p for p in (path / 'state').rglob('*') if p.is_file())
  for p in found[::2]:
    p.unlink()


def delete_the_arrays(path) -> None:
  shutil.rmtree(path / 'state' / 'd', ignore_errors=True)
  shutil.rmtree(path / 'state' / 'ocdbt.process_0')


def cut_a_file(path) -> None:
  largest = max((p for p in path.rglob('*') if p.is_file()),
                key=lambda p: p.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)


@pytest.mark.parametrize(
    'damage', [flip_a_bit, delete_half, delete_the_arrays, cut_a_file])
def test_damaged_checkpoint(config, trained, tmp_path, capsys, damage):
  """The one before is taken, and the run ends as if nothing had happened."""
  path = tmp_path / 'run'
  shutil.copytree(trained, path)
  damage(path / 'checkpoints' / '2')
  capsys.readouterr()
  assert runs.train(config, path, *SHORT) == cli.DONE
  err = ' '.join(capsys.readouterr().err.split())
  assert 'checkpoints/2 is refused: ' in err
  assert 'going on from checkpoint 1 instead' in err
  assert 'resumed at step 1' in err
  runs.assert_same_run(path, trained, 2)
  assert (path / 'checkpoints' / 'bad_2').is_dir()


def test_no_good_checkpoint(config, trained, tmp_path, capsys):
  path = tmp_path / 'run'
  shutil.copytree(trained, path)
  for step in checkpoint.Checkpointer(str(path)).steps():
    flip_a_bit(path / 'checkpoints' / str(step))
  before = tree(path / 'checkpoints')
  capsys.readouterr()
  code = runs.train(config, path, *SHORT)
  runs.refused(capsys, code, 'No checkpoint in', 'is good', 'step 2: ',
               'SHA-256')
  assert tree(path / 'checkpoints') == before


# --- The disk ---------------------------------------------------------------


def communicate(process) -> tuple[int, str]:
  out, err = process.communicate(timeout=120)
  assert 'Traceback' not in out + err, err
  return process.returncode, ' '.join(err.split())


# Root may write anywhere: without this capability, only where modes allow.
WITHOUT_OVERRIDE = '''
import ctypes, os, sys
if os.geteuid() == 0:
  drop_from_bounding_set, dac_override = 24, 1
  assert ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override,
                                 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
'''


def test_no_write_permission(config, tmp_path):
  locked = tmp_path / 'locked'
  locked.mkdir()
  locked.chmod(0o555)
  process = runs.spawn('main', f'--config={config}',
                       f'--workdir={locked}/deep/run',
                       through=[sys.executable, '-c', WITHOUT_OVERRIDE])
  code, err = communicate(process)
  assert code == cli.BAD_INPUT, err
  assert err.startswith('error: ') and 'no permission to write' in err
  assert os.listdir(locked) == []


def test_disk_that_is_full_from_the_start(
    config, tmp_path, capsys, monkeypatch):
  def full(path, data):
    raise files.cannot_write(path, OSError(
        errno.ENOSPC, os.strerror(errno.ENOSPC)))

  monkeypatch.setattr(files, 'write_atomic', full)
  code = runs.train(config, tmp_path / 'new' / 'run', *SHORT)
  runs.refused(capsys, code, 'config.json', 'No space left on device')
  assert not (tmp_path / 'new').exists()


@pytest.mark.slow
def test_disk_that_fills_up(config, trained, tmp_path, capsys):
  """A limit on the size of files stands for the disk: nothing large fits."""
  path = tmp_path / 'run'
  shutil.copytree(trained, path)
  size = max(p.stat().st_size for p in path.rglob('*') if p.is_file())
  kibibytes = size // 2 // 1024
  process = runs.spawn(
      'main', f'--config={config}', f'--workdir={path}',
      '--config.total_steps=4', *SHORT[1:],
      through=['bash', '-c', f'ulimit -f {kibibytes}; exec "$@"', '-'])
  code, err = communicate(process)
  assert code == cli.BAD_INPUT, err
  assert 'error: ' in err and 'File too large' in err
  # What was there is good, and with space the same command goes on.
  assert checkpoint.Checkpointer(str(path)).latest_step() == 2
  assert runs.train(config, path, '--config.total_steps=4', *SHORT[1:]
                    ) == cli.DONE
  assert 'resumed at step 2' in capsys.readouterr().err
  whole = tmp_path / 'whole'
  assert runs.train(config, whole, '--config.total_steps=4', *SHORT[1:]
                    ) == cli.DONE
  runs.assert_same_run(path, whole, 4)
