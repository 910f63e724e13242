"""Growing through the command: stages, one compilation each, exact resume."""

import jax
import numpy as np
from PIL import Image
import pytest
import runs

from gans_jax import evaluator as evaluator_lib
from gans_jax.core import checkpoint
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import system as system_lib
from gans_jax.data import pipeline

pytestmark = pytest.mark.usefixtures('compile_cache')

# 4x4 for 2 steps of 8 images, the fade to 8x8 for 4 of 4, then 8x8.
CONFIG = '''
"""A ProGAN of 4,000 parameters that grows from 4x4 to 8x8."""
from gans_jax.core import config as config_lib


def get_config(arg=''):
  config_lib.parse_arg(arg)
  config = config_lib.base('progan')
  config_lib.assign(config, {
      'data.source': 'emoji:noto', 'data.limit': 64, 'data.resolution': 8,
      'model.fmap_base': 16, 'model.fmap_max': 4, 'model.z_dim': 4,
      'growing.stable_kimg': 0.015, 'growing.fade_kimg': 0.017,
      'growing.repeats': 1, 'growing.batch_sizes': ((8, 4),),
      'batch_size': 8, 'mesh.data': 1, 'total_steps': 0, 'total_kimg': 0.036,
      'log_every': 1, 'sample_every': 3, 'checkpoint_every': 2, 'keep': 9,
      'sample.rows': 2, 'sample.columns': 4, 'data.flip': True,
      'compile.level': 0})
  return config
'''


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  return runs.write_config(tmp_path_factory.mktemp('config'), CONFIG)


@pytest.fixture(scope='module')
def straight(config, tmp_path_factory):
  """A run through every stage, and the programs that it compiled."""
  path = tmp_path_factory.mktemp('runs') / 'straight'
  programs = []

  def listen(event, duration, **facts):
    del duration
    if event.endswith('backend_compile_duration'):
      programs.append(facts.get('fun_name', ''))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    assert runs.train(config, path) == cli.DONE
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return path, programs


def test_a_run_goes_through_the_stages(straight):
  path, programs = straight
  assert sum('train_step' in name for name in programs) == 3, programs
  assert sum(name == 'jit(generate)' for name in programs) <= 1, programs
  records = runs.records(path)
  assert [r['step'] for r in records] == list(range(1, 8))
  np.testing.assert_allclose([r['kimg'] for r in records], [
      .008, .016, .020, .024, .028, .032, .036])
  np.testing.assert_allclose(
      [r['lod'] for r in records],
      [1, 1, *[1 - n / 17 for n in (1, 5, 9, 13)], 0], rtol=1e-6)
  for step, images in ((2, 16), (4, 24), (7, 36)):
    assert checkpoint.Checkpointer(str(path)).read_meta(step)[
        'images'] == images
  small, large = (np.asarray(Image.open(
      path / 'samples' / f'live_{step:08d}.png')) for step in (0, 7))
  assert small.shape == large.shape
  log = (path / 'log.txt').read_text()
  for words in ('from step 0 = 0.0 kimg: 4 x 4, batch 8',
                'from step 2 = 0.0 kimg: 8 x 8, fading in, batch 4',
                'from step 6 = 0.0 kimg: 8 x 8, batch 4',
                'length    7 steps = 0.0 kimg'):
    assert words in log


@pytest.mark.parametrize('stop', [
    4, pytest.param(2, marks=pytest.mark.slow)])
def test_resume_is_bit_for_bit(config, straight, tmp_path, stop):
  """At a border between stages, and inside a fade."""
  path = tmp_path / 'run'
  assert runs.train(config, path, f'--config.total_steps={stop}',
                    '--config.total_kimg=0') == cli.DONE
  assert runs.train(config, path) == cli.DONE
  assert f'resumed at step {stop}' in (path / 'log.txt').read_text()
  runs.assert_same_run(path, straight[0], 7)


def test_samples_of_any_checkpoint(straight):
  images = {step: runs.generator(straight[0], step=step)([0, 1])
            for step in (2, 7)}
  for step, found in images.items():
    assert found.shape == (2, 8, 8, 3) and found.dtype == np.uint8
    repeated = found[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
    assert (found == repeated).all() == (step == 2)


def test_results_tell_the_images_of_all_stages(config):
  config = config_lib.load(config)
  dataset = pipeline.open_dataset(config.data)
  evaluator = evaluator_lib.Evaluator(
      config, system_lib.create(config, dataset.spec), dataset,
      mesh_lib.make(1, 1), metrics=('fd16_lite0',), num=16)
  for step, images in ((0, 0), (2, 16), (4, 24), (7, 36)):
    assert evaluator.facts(step, 'ema')['images_seen'] == images


def test_another_schedule_is_refused(config, straight, capsys):
  code = runs.train(config, straight[0], '--config.growing.fade_kimg=0.1')
  runs.refused(capsys, code, 'growing.fade_kimg was 0.017 and is now 0.1')


def test_batches_of_every_stage_must_split(config, tmp_path, capsys):
  code = runs.train(config, tmp_path / 'run', '--config.mesh.data=8')
  runs.refused(capsys, code, 'batch size at resolution 8 is 4',
               'growing.batch_sizes')
