"""Sampling: a seed is an image, whatever else is asked for."""

import io
import json
import os
import shutil
import zipfile

import numpy as np
from PIL import Image
import pytest
import runs

import gans_jax
from gans_jax import sample
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import standing_statistics
from gans_jax.data import pipeline

pytestmark = pytest.mark.usefixtures('compile_cache')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def plain(folder):
  """An unconditional run, whose data set is gone."""
  images = folder / 'images'
  dataset = pipeline.open_dataset(config_lib.data_config(
      source='emoji:noto', resolution=16, limit=16))
  images.mkdir()
  for i in range(16):
    Image.fromarray(dataset[i]['image']).save(images / f'{i}.png')
  path = folder / 'plain'
  assert runs.train(runs.write_config(folder), path,
                    f'--config.data.source=folder:{images}',
                    # Averages that are visibly not the weights.
                    '--config.optimizer.G.lr=0.02') == cli.DONE
  shutil.rmtree(images)
  return path


@pytest.fixture(scope='module')
def conditional(folder):
  path = folder / 'conditional'
  config = runs.write_config(folder, runs.CONDITIONAL)
  assert runs.train(config, path) == cli.DONE
  return path


@pytest.fixture(scope='module')
def points(folder):
  path = folder / 'points'
  config = runs.write_config(folder, runs.POINTS)
  assert runs.train(config, path) == cli.DONE
  return path


@pytest.fixture(scope='module')
def G(plain):
  return gans_jax.load(str(plain))


def call(*arguments) -> int:
  return cli.call(sample.main, [str(a) for a in arguments])


def read(path) -> np.ndarray:
  return np.asarray(Image.open(path))


# --- From Python ------------------------------------------------------------


def test_attributes(G):
  assert G.step == 6 and G.weights == 'ema'
  assert G.config.system == 'dcgan' and G.spec.resolution == 16
  assert G.z([1, 2]).shape == (2, 8)


def test_a_seed_is_an_image(G, plain):
  images = G(seeds=[7, 3, 11, 3])
  assert images.shape == (4, 16, 16, 3) and images.dtype == np.uint8
  assert (images[0] != images[1]).any()
  np.testing.assert_array_equal(images[1], images[3])
  np.testing.assert_array_equal(G(seeds=[3])[0], images[1])
  np.testing.assert_array_equal(G(range(20))[[7, 3, 11]], images[:3])
  small = gans_jax.load(str(plain), batch_size=2)
  np.testing.assert_array_equal(small([7, 3, 11, 3]), images)


def test_a_latent_is_an_image(G):
  np.testing.assert_array_equal(G(z=G.z([5, 6])), G([5, 6]))
  np.testing.assert_array_equal(G(keys=G.keys([5, 6])), G([5, 6]))


def test_weights(G, plain):
  live = gans_jax.load(str(plain), weights='live')
  assert live.weights == 'live'
  assert (live([1]) != G([1])).any()
  # The grids of the last step hold the weights of the last step.
  saved = runs.arrays(plain, 6)
  for name, field in (('live', 'params'), ('ema', 'ema')):
    generator = gans_jax.load(str(plain), weights=name)
    kernel = generator.variables['G']['params']['convt_8']['kernel']
    path = (f"['{field}']['G']" + ("['params']" if field == 'ema' else '')
            + "['convt_8']['kernel']")
    np.testing.assert_array_equal(np.asarray(kernel), saved[path])
  with pytest.raises(errors.UserError, match="'average'"):
    gans_jax.load(str(plain), weights='average')


def test_step(plain):
  assert gans_jax.load(str(plain), step=3).step == 3
  with pytest.raises(errors.UserError, match=r'step 4 .*\[3, 6\]'):
    gans_jax.load(str(plain), step=4)


def test_labels(conditional):
  G = gans_jax.load(str(conditional))
  images = G(seeds=[0, 1, 10], label=[2, 2, 3])
  np.testing.assert_array_equal(G([1], label=2), images[1:2])
  np.testing.assert_array_equal(G([10], label=3), images[2:])
  assert (G([1], label=4) != images[1]).any()
  # Without labels a seed has its class wherever it stands: 10 mod 9.
  np.testing.assert_array_equal(G([10]), G([10], label=1))
  np.testing.assert_array_equal(G([3, 10])[1:], G([10]))
  for label in (9, -1, [0, 9]):
    with pytest.raises(errors.UserError, match='9 classes, 0 to 8: 0 '):
      G([1, 2], label=label)
  with pytest.raises(errors.UserError, match='3 labels for 2 images'):
    G([1, 2], label=[1, 2, 3])


def test_refusals(G):
  with pytest.raises(errors.UserError, match='takes no label'):
    G([1], label=0)
  with pytest.raises(errors.UserError, match="no sampling option 'psi'"):
    G([1], psi=0.5)
  with pytest.raises(errors.UserError, match='No seeds'):
    G([])


# --- Batch normalization ----------------------------------------------------


def test_batch_statistics(G, plain):
  """An image depends on its batch, which the seeds and batch_size make."""
  by_batch = G(range(6), batch_norm='batch')
  np.testing.assert_array_equal(G(range(6), batch_norm='batch'), by_batch)
  assert (G(range(1, 6), batch_norm='batch') != by_batch[1:]).any()
  np.testing.assert_array_equal(G(range(6), batch_norm='running'), G(range(6)))
  assert (G(range(6)) != by_batch).any()
  # 0-3, and 4, 5, 0, 1.
  small = gans_jax.load(str(plain), batch_size=4)
  np.testing.assert_array_equal(
      small(range(6), batch_norm='batch'),
      np.concatenate([G(range(4), batch_norm='batch'),
                      G([4, 5, 0, 1], batch_norm='batch')[:2]]))


def test_standing_statistics(G, plain, tmp_path):
  """Averages over N batches of the training's size, for these weights."""
  images = G(range(4), batch_norm='standing:3')
  np.testing.assert_array_equal(G([2], batch_norm='standing:3'), images[2:3])
  assert (images != G(range(4))).any()
  assert (images != G(range(4), batch_norm='standing')).any()
  by_hand = gans_jax.load(str(plain))
  by_hand.variables = standing_statistics.accumulate(
      G.system, G.variables, mesh_lib.make(), passes=3,
      batch_size=G.config.batch_size)
  np.testing.assert_array_equal(by_hand(range(4)), images)
  assert call(f'--workdir={plain}', '--seeds=0-3', '--batch_size=2',
              '--batch_norm=standing:3', f'--out={tmp_path}') == 0
  for seed in range(4):
    np.testing.assert_array_equal(read(tmp_path / f'seed{seed:04d}.png'),
                                  images[seed])


def test_standing_statistics_are_of_all_classes(conditional):
  G = gans_jax.load(str(conditional))
  images = G([1, 2], label=3, batch_norm='standing:2')
  assert (images != G([1, 2], label=3)).any()
  G.variables = standing_statistics.accumulate(
      G.system, G.variables, mesh_lib.make(), passes=2,
      batch_size=G.config.batch_size, labels=np.arange(9))
  np.testing.assert_array_equal(G([1, 2], label=3), images)


def test_interpolation_ends_at_the_seeds(G):
  walk = sample.interpolate(G, [4, 8, 15], 5)
  assert walk.shape == (11, 16, 16, 3)
  np.testing.assert_array_equal(walk[[0, 5, 10]], G([4, 8, 15]))
  assert len({frame.tobytes() for frame in walk}) > 3


def test_slerp():
  a, b = np.array([3.0, 0.0]), np.array([0.0, 1.0])
  # Half of a quarter turn, at half the way between the norms 3 and 1.
  np.testing.assert_allclose(sample.slerp(a, b, 0.5), np.sqrt([2, 2]),
                             rtol=1e-6)
  np.testing.assert_allclose(sample.slerp(a, 2 * a, 0.25), [3.75, 0])
  np.testing.assert_allclose(sample.slerp(a, -a, 0.25), [1.5, 0], atol=1e-6)


@pytest.mark.parametrize('text,seeds', [
    ('3', [3]), ('0-3,9', [0, 1, 2, 3, 9]), (' 1, 5-6', [1, 5, 6])])
def test_seeds(text, seeds):
  assert sample.parse_seeds(text) == seeds


@pytest.mark.parametrize('text', ['a', '3-1', '1,,2', '', '-5', '5-', '1.5',
                                  '4294967296'])
def test_bad_seeds(plain, tmp_path, capsys, text):
  code = call(f'--workdir={plain}', f'--seeds={text}',
              f'--out={tmp_path}/out')
  runs.refused(capsys, code, '--seeds')
  assert not (tmp_path / 'out').exists()


# --- The command ------------------------------------------------------------


def test_files_and_grid(G, plain, tmp_path, capsys):
  out = tmp_path / 'a' / 'out'
  assert call(f'--workdir={plain}', '--seeds=2,5-6', f'--out={out}') == 0
  names = ['grid.png', 'seed0002.png', 'seed0005.png', 'seed0006.png']
  assert sorted(os.listdir(out)) == names
  assert sorted(capsys.readouterr().out.split()) == [
      str(out / name) for name in names]
  images = G([2, 5, 6])
  for seed, image in zip((2, 5, 6), images, strict=True):
    np.testing.assert_array_equal(read(out / f'seed{seed:04d}.png'), image)
  # 2 x 2 tiles of 16 with gaps of 2: 38 pixels, enlarged to 256 or more.
  grid = read(out / 'grid.png')[::7, ::7]
  assert grid.shape == (38, 38, 3)
  np.testing.assert_array_equal(grid[2:18, 20:36], images[1])
  np.testing.assert_array_equal(grid[20:36, 2:18], images[2])


def test_default_place(plain):
  assert call(f'--workdir={plain}', '--seeds=1', '--weights=live',
              '--step=3') == 0
  image = gans_jax.load(str(plain), step=3, weights='live')([1])[0]
  np.testing.assert_array_equal(
      read(plain / 'generated' / 'seed0001.png'), image)
  shutil.rmtree(plain / 'generated')


def test_interpolation_command(G, plain, tmp_path):
  assert call(f'--workdir={plain}', '--interpolate=1-3', '--frames=4',
              f'--out={tmp_path}') == 0
  strip = Image.open(tmp_path / 'interpolation_strip.png')
  assert strip.size == (4 * 18 + 2, 3 * 18 + 2)
  with Image.open(tmp_path / 'interpolation.png') as moving:
    assert moving.n_frames == 9
    for frame, seed in ((0, 1), (4, 2), (8, 3)):
      moving.seek(frame)
      np.testing.assert_array_equal(np.asarray(moving.convert('RGB')),
                                    G([seed])[0])


def test_zip_is_a_data_set(conditional, tmp_path):
  assert call(f'--workdir={conditional}', '--num=70', '--format=zip',
              '--batch_size=32', f'--out={tmp_path}') == 0
  assert os.listdir(tmp_path) == ['samples_70.zip']
  path = tmp_path / 'samples_70.zip'
  dataset = pipeline.open_dataset(config_lib.data_config(
      source=f'zip:{path}', resolution=16, labels='class'))
  assert len(dataset) == 70 and dataset.spec.num_classes == 9
  images = gans_jax.load(str(conditional))(range(70))
  for i in (0, 8, 9, 69):
    np.testing.assert_array_equal(dataset[i]['image'], images[i])
    assert dataset[i]['label'] == i % 9
  with zipfile.ZipFile(path) as archive:
    names = archive.namelist()
    assert names[0] == '00000/img00000000.png' and len(names) == 71
    index = json.loads(archive.read('dataset.json'))
    with Image.open(io.BytesIO(archive.read(names[69]))) as image:
      np.testing.assert_array_equal(np.asarray(image), images[69])
  assert index['labels'][10] == ['00000/img00000010.png', 1]


def test_folder_is_a_data_set(G, plain, tmp_path):
  assert call(f'--workdir={plain}', '--num=5', f'--out={tmp_path}') == 0
  dataset = pipeline.open_dataset(config_lib.data_config(
      source=f'folder:{tmp_path}/samples_5', resolution=16))
  assert len(dataset) == 5 and dataset.spec.num_classes == 0
  np.testing.assert_array_equal(dataset[4]['image'], G([4])[0])


def test_one_label_for_all(conditional, tmp_path):
  assert call(f'--workdir={conditional}', '--seeds=0-1', '--label=4',
              f'--out={tmp_path}') == 0
  np.testing.assert_array_equal(
      read(tmp_path / 'seed0001.png'),
      gans_jax.load(str(conditional))([1], label=4)[0])


def test_points(points, tmp_path, capsys):
  G = gans_jax.load(str(points))
  samples = G(range(100))
  assert samples.shape == (100, 2) and samples.dtype == np.float32
  assert call(f'--workdir={points}', f'--out={tmp_path}') == 0
  assert os.listdir(tmp_path) == ['grid.png']
  capsys.readouterr()
  for option in ('--num=3', '--interpolate=0-1'):
    code = call(f'--workdir={points}', option, f'--out={tmp_path}')
    runs.refused(capsys, code, 'makes points')


# --- Bad input --------------------------------------------------------------


@pytest.mark.parametrize('options,words', [
    (['--label=1'], ['takes no label']),
    (['--step=5'], ['no checkpoint of step 5', '[3, 6]']),
    (['--truncation=0.5'], ["no sampling option 'truncation'; it has: none"]),
    (['--num=2', '--format=zip', '--truncation=0.5'], ["option 'truncation'"]),
    (['--num=2', '--label=1'], ['takes no label']),
    (['--batch_norm=ema'], ["'ema'", "expected 'running'"]),
    (['--batch_norm=standing:0'], ["'standing:0'", 'over N batches']),
    (['--interpolate=0-1', '--batch_norm=x'], ["batch_norm is 'x'"]),
    (['--style_mix=1:2'], ['need a latent space W', "'dcgan' of this run"]),
    (['--projected_w=w.npz'], ['need a latent space W']),
    (['--noise=const'], ["no sampling option 'noise'"]),
    (['--truncation_sweep=1,x'], ['--truncation_sweep', "'1,x'"]),
    (['--truncation_sweep=1,0.5'], ["no sampling option 'truncation'"]),
    (['--num=0'], ['--num']), (['--frames=0'], ['--frames']),
    (['--batch_size=-1'], ['--batch_size']),
    (['--interpolate=3'], ['at least two seeds']),
    (['--classes=all'], ['A sheet of classes', 'takes no label']),
    (['--class_interpolate=1,2'], ['--class_interpolate', 'takes no label']),
    (['--classes=0', '--label=1'], ['Leave out --label']),
    (['--truncation_sweep=1', '--truncation=1'], ['Leave out --truncation']),
    (['--attention'], ['self-attention (sagan, biggan)', "'dcgan'"]),
    (['--neighbours=0'], ['--neighbours must be at least 1']),
    (['--num=2', '--attention'], ['--num and --attention are two kinds']),
], ids=str)
def test_bad_options(plain, tmp_path, capsys, options, words):
  out = tmp_path / 'out'
  code = call(f'--workdir={plain}', f'--out={out}', *options)
  runs.refused(capsys, code, *words)
  assert not out.exists()


@pytest.mark.parametrize('text', ['batch', 'standing', 'standing:4'])
def test_no_batch_normalization(points, tmp_path, capsys, text):
  code = call(f'--workdir={points}', f'--batch_norm={text}',
              f'--out={tmp_path}/out')
  runs.refused(capsys, code, f"batch_norm is '{text}'", "system 'toy'",
               'no batch normalization', "set it to 'running'")
  assert not (tmp_path / 'out').exists()


def test_workdirs_that_are_none(tmp_path, capsys):
  code = call(f'--workdir={tmp_path}/absent')
  runs.refused(capsys, code, 'absent', 'does not exist')
  code = call(f'--workdir={tmp_path}')
  runs.refused(capsys, code, 'no checkpoint in')
  assert not list(tmp_path.iterdir())


def test_no_place_for_the_images(plain, tmp_path, capsys):
  (tmp_path / 'file').write_text('precious')
  for options in ([], ['--num=2'], ['--num=2', '--format=zip']):
    code = call(f'--workdir={plain}', f'--out={tmp_path}/file', *options)
    runs.refused(capsys, code, 'Cannot write', f'{tmp_path}/file')


def test_a_damaged_checkpoint_is_passed(plain, tmp_path, capsys):
  path = tmp_path / 'run'
  shutil.copytree(plain, path)
  (path / 'checkpoints/6/meta/metadata').write_text('{}')
  assert call(f'--workdir={path}', '--seeds=1') == 0
  err = ' '.join(capsys.readouterr().err.split())
  assert '6 is refused' in err and 'checkpoint 3 instead' in err
  np.testing.assert_array_equal(
      read(path / 'generated' / 'seed0001.png'),
      gans_jax.load(str(plain), step=3)([1])[0])


def test_options_are_numbers_or_words():
  found = sample.parse_options(['top_k=100', 'top_p=0.9', 'schedule=cosine'])
  assert found == {'top_k': 100, 'top_p': 0.9, 'schedule': 'cosine'}
  assert type(found['top_k']) is int
  for bad in ('top_k', '=1', 'top_k='):
    with pytest.raises(errors.UserError, match='NAME=VALUE'):
      sample.parse_options([bad])
