"""Training through the command: what it leaves, how it goes on, on a mesh."""

import json
import os
import re
import signal
import time
import types

import jax
import numpy as np
from PIL import Image
import pytest
import runs

from gans_jax import train as train_lib
from gans_jax.core import checkpoint
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import tokenizer
from gans_jax.core import workdir as workdir_lib

pytestmark = pytest.mark.usefixtures('compile_cache')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  return runs.write_config(tmp_path_factory.mktemp('config'))


@pytest.fixture(scope='module')
def straight(config, tmp_path_factory):
  """A run of six steps that nothing interrupted."""
  path = tmp_path_factory.mktemp('runs') / 'straight'
  assert runs.train(config, path) == cli.DONE
  return path


# --- What a run leaves ------------------------------------------------------


def test_run_leaves_everything(config, tmp_path, capsys):
  path = tmp_path / 'deep' / 'run'
  assert runs.train(config, path, '--config.batch_size=16',
                    '--config.keep=1') == cli.DONE
  out, err = capsys.readouterr()
  for words in ('done: 6 steps, 0.1 kimg', f'{path}/samples',
                f'gans_jax.sample --workdir={path}', 'curves.png'):
    assert words in out
  assert 'step 6/6 (100%)' in err and 'images/s' in err
  assert sorted(os.listdir(path)) == [
      '.lock', 'checkpoints', 'config.json', 'curves.png', 'events',
      'log.txt', 'metrics.jsonl', 'samples']

  record = json.loads((path / 'config.json').read_text())
  assert record['program'] == 'gans_jax'
  assert record['config']['batch_size'] == 16
  assert record['data']['num_examples'] == 64

  records = runs.records(path)
  assert [r['step'] for r in records] == [1, 2, 3, 4, 5, 6]
  assert [r['kimg'] for r in records] == [s * 16 / 1000 for s in range(1, 7)]
  for r in records:
    assert {'loss/d', 'loss/g', 'logits/real', 'logits/fake'} <= r.keys()
    assert all(isinstance(value, (int, float)) for value in r.values())
  # Two nets that know nothing: -log(1/2) for G, twice that for D.
  assert records[0]['loss/d'] == pytest.approx(2 * np.log(2), abs=0.3)
  assert records[0]['loss/g'] == pytest.approx(np.log(2), abs=0.3)

  assert sorted(os.listdir(path / 'samples')) == [
      f'{kind}_{step:08d}.png' for kind in ('ema', 'live')
      for step in (0, 3, 6)]
  grids = {name: np.asarray(Image.open(path / 'samples' / name))
           for name in os.listdir(path / 'samples')}
  # 2 rows of 4 tiles of 16 pixels with gaps of 2, enlarged 7 times.
  assert {grid.shape for grid in grids.values()} == {(38 * 7, 74 * 7, 3)}
  assert (grids['live_00000000.png'] != grids['live_00000006.png']).any()
  np.testing.assert_array_equal(  # an average starts at the weights
      grids['ema_00000000.png'], grids['live_00000000.png'])
  assert (grids['ema_00000006.png'] != grids['live_00000006.png']).any()
  with Image.open(path / 'curves.png') as curves:
    assert min(curves.size) > 100
  assert sorted(os.listdir(path / 'checkpoints')) == ['6']
  assert os.listdir(path / 'events')
  assert 'system    dcgan' in (path / 'log.txt').read_text()

  meta = checkpoint.Checkpointer(str(path)).read_meta(6)
  assert meta['step'] == 6 and meta['images'] == 96
  assert meta['config'] == record['config']
  assert meta['versions']['jax'] == jax.__version__


def test_closing_words_name_what_the_system_can_do():
  """Walks between latents: not of codes, of points, or of a prior."""
  def none(keys):
    raise tokenizer.no_latents(config_lib.base('pixelcnn'))

  def words(**members):
    return train_lib.summary(
        'DIR', config_lib.base('dcgan'), types.SimpleNamespace(**members), 2,
        2, types.SimpleNamespace(total_seconds=lambda: 1.0), {}, {})

  def normal(keys):
    return jax.random.normal(keys[0], (*keys.shape, 4))

  assert '--interpolate' in words(latents=normal)
  for members in (dict(latents=none), dict(
      latents=lambda keys: jax.random.randint(keys[0], (2, 4), 0, 9)),
                  dict(latents=normal, point_metrics=None)):
    assert '--interpolate' not in words(**members)
    assert '--seeds' in words(**members)


@pytest.mark.slow
def test_metrics_at_start_and_end_are_in_the_summary(
    config, tmp_path, capsys):
  # Real features come from the network: 16 images of it are enough.
  assert runs.train(
      config, tmp_path / 'run', '--config.evaluate_every=6',
      '--config.evaluate.metrics=fd16_lite0',
      '--config.evaluate.batch_size=16') == cli.DONE
  out, _ = capsys.readouterr()
  lines = [json.loads(line) for line in
           (tmp_path / 'run/evaluations.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == [0, 6]
  assert all(line['metric'] == 'fd16_lite0' and line['value'] > 0
             for line in lines)
  found = re.search(r'fd16_lite0: (\S+) \(untrained net: (\S+)\)', out)
  assert [float(x) for x in found.groups()] == [
      pytest.approx(lines[i]['value'], rel=1e-3) for i in (1, 0)]
  logged = [r['metric/fd16_lite0'] for r in runs.records(tmp_path / 'run')
            if 'metric/fd16_lite0' in r]
  np.testing.assert_allclose(logged, [x['value'] for x in lines], rtol=1e-6)
  # The best and the newest are kept.
  best = checkpoint.Checkpointer(
      str(tmp_path / 'run'), best_metric=('fd16_lite0', 'min')).best_step()
  assert best == min((0, 6), key=lambda s: lines[s > 0]['value'])


def test_dry_run_writes_nothing(config, tmp_path, capsys):
  path = tmp_path / 'run'
  assert runs.train(config, path, '--dry_run',
                    '--config.total_kimg=1', '--config.total_steps=0'
                    ) == cli.DONE
  out, _ = capsys.readouterr()
  # 4 x 4 kernels between 8, 16, 8 and 3 channels.
  for words in (r'G/convt_4/kernel +4 x 4 x 8 x 16 +2,048', r'G total +4,528',
                r'D/conv_1/kernel +4 x 4 x 16 x 1 +256', r'D total +2,720',
                'system +dcgan: D 2,720 parameters, G 4,528 parameters',
                'emoji:noto: 64 examples, 16 x 16 x 3',
                'length +125 steps = 1.0 kimg', 'nothing was written'):
    assert re.search(words, out), words
  assert not path.exists()


def test_dry_run_refuses_what_training_would(config, straight, capsys):
  code = runs.train(config, straight, '--dry_run', '--config.model.ngf=16')
  runs.refused(capsys, code, 'model.ngf was 8 and is now 16')


# --- Going on ---------------------------------------------------------------


@pytest.mark.newest
def test_resume_is_bit_for_bit(config, straight, tmp_path):
  path = tmp_path / 'run'
  assert runs.train(config, path, '--config.total_steps=3') == cli.DONE
  assert runs.train(config, path) == cli.DONE
  assert 'resumed at step 3' in (path / 'log.txt').read_text()
  runs.assert_same_run(path, straight, 6)


def test_a_complete_run_is_left_as_it_is(config, tmp_path, capsys):
  path = tmp_path / 'run'
  short = '--config.total_steps=1'
  assert runs.train(config, path, short) == cli.DONE
  before = runs.arrays(path), runs.records(path)
  assert runs.train(config, path, short) == cli.DONE
  assert 'the run is complete' in capsys.readouterr().err
  after = runs.arrays(path), runs.records(path)
  assert before[1] == after[1]
  for name in before[0]:
    np.testing.assert_array_equal(before[0][name], after[0][name])


def test_changes_that_do_no_harm_are_recorded(config, tmp_path):
  path = tmp_path / 'run'
  assert runs.train(config, path, '--config.total_steps=1') == cli.DONE
  assert runs.train(config, path, '--config.total_steps=2',
                    '--config.optimizer.G.lr=1e-3') == cli.DONE
  assert runs.records(path)[-1]['step'] == 2
  changed = json.loads((path / 'config_history.jsonl').read_text())['changed']
  assert changed == {'total_steps': [1, 2], 'optimizer.G.lr': [2e-4, 1e-3]}
  assert workdir_lib.latest_config(str(path))['optimizer']['G']['lr'] == 1e-3


def wait_for_step(path, step: int, process) -> None:
  """Waits until a run in another process has logged `step`."""
  end = time.monotonic() + 120
  while time.monotonic() < end and process.poll() is None:
    if (path / 'metrics.jsonl').exists() and any(
        r['step'] >= step for r in runs.records(path)):
      return
    time.sleep(0.02)
  process.kill()
  raise AssertionError(process.communicate())


# Long enough not to be through before the signal comes.
LONG = ('--config.total_steps=200000', '--config.checkpoint_every=5',
        '--config.sample_every=0')


def finish(config, path, step: int) -> None:
  """Goes on to `step`, and compares with a run to there without a break."""
  options = (f'--config.total_steps={step}', *LONG[1:])
  assert runs.train(config, path, *options) == cli.DONE
  whole = path.parent / 'whole'
  assert runs.train(config, whole, *options) == cli.DONE
  runs.assert_same_run(path, whole, step)


def test_sigterm_saves_and_the_same_command_goes_on(config, tmp_path):
  path = tmp_path / 'run'
  process = runs.spawn('main', f'--config={config}', f'--workdir={path}',
                       *LONG)
  wait_for_step(path, 7, process)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=120)
  assert process.returncode == cli.PREEMPTED == 75, err
  assert 'Traceback' not in err
  step = int(re.search(r'stopped by SIGTERM at step (\d+)', err)[1])
  assert step == checkpoint.Checkpointer(str(path)).latest_step()
  assert runs.records(path)[-1]['step'] <= step
  finish(config, path, step + 2)


def test_a_killed_run_goes_on_from_its_last_checkpoint(config, tmp_path):
  path = tmp_path / 'run'
  process = runs.spawn('main', f'--config={config}', f'--workdir={path}',
                       *LONG)
  wait_for_step(path, 12, process)
  process.kill()
  process.communicate(timeout=60)
  last = checkpoint.Checkpointer(str(path)).latest_step()
  assert last >= 5 and last % 5 == 0
  # It has logged steps that are lost, and may have died within a line.
  with open(path / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 9999')
  finish(config, path, last + 3)


def test_two_runs_in_one_workdir(config, straight, tmp_path, capsys):
  path = tmp_path / 'run'
  process = runs.spawn('main', f'--config={config}', f'--workdir={path}',
                       *LONG)
  wait_for_step(path, 1, process)
  code = runs.train(config, path, *LONG)
  try:
    runs.refused(capsys, code, str(path), 'in use',
                 f'process {process.pid}')
    assert process.poll() is None  # the first one is not disturbed
  finally:
    process.kill()
    process.communicate(timeout=60)


# --- Alarms -----------------------------------------------------------------


def test_nan_stops_and_keeps_the_last_good_checkpoint(
    config, tmp_path, capsys):
  path = tmp_path / 'run'
  code = runs.train(config, path, '--config.checkpoint_every=1',
                    '--config.optimizer.G.lr=1e30', '--config.keep=9')
  _, err = capsys.readouterr()
  assert code == cli.ALARM == 3
  assert 'Traceback' not in err and 'NaN or infinity at step' in ' '.join(
      err.split())
  steps = checkpoint.Checkpointer(str(path)).steps()
  assert steps and steps[-1] < 6
  assert f'Checkpoint {steps[-1]} is the last good one' in ' '.join(
      err.split())
  for step in steps:
    for name, array in runs.arrays(path, step).items():
      if array.dtype.kind == 'f':
        assert np.isfinite(array).all(), (step, name)
  assert runs.generator(path)([1, 2]).shape == (2, 16, 16, 3)
  # The same command goes on from it: here, at a rate that works.
  assert runs.train(config, path, '--config.optimizer.G.lr=1e-4',
                    '--config.total_steps=1') == cli.DONE


def test_an_update_that_overflows_is_not_saved(
    config, tmp_path, capsys, monkeypatch):
  """The losses of the step are finite; what comes out of it is not."""
  create = train_lib.system_lib.create

  def spoilt(*arguments):
    system = create(*arguments)
    step = system.train_step

    class Spoilt:

      def __getattr__(self, name):
        return getattr(system, name)

      def train_step(self, state, batch, frozen):
        state, logs = step(state, batch, frozen)
        bad = jax.tree.map(
            lambda x: x / (2 - state.step).astype(x.dtype), state.params['G'])
        return state.replace(params={**state.params, 'G': bad}), logs

    return Spoilt()

  monkeypatch.setattr(train_lib.system_lib, 'create', spoilt)
  path = tmp_path / 'run'
  code = runs.train(config, path, '--config.checkpoint_every=1')
  err = ' '.join(capsys.readouterr().err.split())
  assert code == cli.ALARM
  assert 'step 2: ' in err and 'params/G of the state' in err
  assert checkpoint.Checkpointer(str(path)).steps()[-1] == 1
  assert all(np.isfinite(x).all() for x in runs.arrays(path).values()
             if x.dtype.kind == 'f')


# --- Devices ----------------------------------------------------------------


def losses(workdir, step: int = 1) -> dict[str, float]:
  return {k: v for k, v in runs.records(workdir)[step - 1].items()
          if k.startswith(('loss/', 'logits/', 'grad_norm/'))}


@pytest.mark.slow
@pytest.mark.parametrize('options', [
    ('--config.mesh.data=8',),
    ('--config.mesh.data=4', '--config.mesh.model=2'),
    ('--config.mesh.data=1', '--config.mesh.model=8'),
], ids=['data8', 'data4_model2', 'model8'])
def test_devices_do_not_change_the_losses(config, tmp_path, straight, options):
  # Sixteen channels more: some kernels are then large enough to be split.
  path = tmp_path / 'run'
  wide = ('--config.model.ngf=64', '--config.total_steps=2',
          '--config.sample_every=0')
  assert runs.train(config, path, *wide, *options) == cli.DONE
  one = tmp_path / 'one'
  assert runs.train(config, one, *wide) == cli.DONE
  several, alone = losses(path), losses(one)
  assert several.keys() == alone.keys() and len(alone) >= 6
  for name in alone:
    np.testing.assert_allclose(several[name], alone[name], rtol=1e-5,
                               err_msg=name)
  # Another mesh takes the run over.
  assert runs.train(config, path, *wide, '--config.total_steps=3',
                    '--config.mesh.data=2', '--config.mesh.model=1'
                    ) == cli.DONE


@pytest.mark.slow
def test_microbatches_accumulate(config, tmp_path):
  """Without batch statistics, the losses and gradients of one batch."""
  values = []
  for pieces in (1, 4):
    path = tmp_path / str(pieces)
    assert runs.train(
        runs.write_config(tmp_path, runs.POINTS), path,
        f'--config.microbatches={pieces}') == cli.DONE
    values.append(runs.records(path))
  for a, b in zip(*values, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)


@pytest.mark.newest
def test_one_compilation_and_no_transfer_in_the_loop(config, tmp_path):
  """The step compiles once; the loop moves data only where it says so."""
  jit, programs = jax.jit, []

  def watched(function, **options):
    result = jit(function, **options)
    if getattr(function, '__name__', '') != 'train_step':
      return result

    def guarded(state, batch, frozen):
      with jax.transfer_guard('disallow'):
        return result(state, batch, frozen)

    return guarded

  def listen(event, duration, **facts):
    del duration
    if event.endswith('backend_compile_duration'):
      programs.append(facts.get('fun_name', ''))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(jax, 'jit', watched)
      assert runs.train(config, tmp_path / 'run', '--config.mesh.data=8'
                        ) == cli.DONE
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert sum('train_step' in name for name in programs) == 1, programs


def test_several_experiment_arguments(config):
  loaded = config_lib.load(f'{config}:debug')
  assert loaded.system == 'dcgan'
