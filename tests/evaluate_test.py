"""Metrics of checkpoints through the command, on the offline features."""

import json
import shutil

import jax
import numpy as np
from PIL import Image
import pytest
import runs

import gans_jax
from gans_jax import evaluate
from gans_jax import evaluator as evaluator_lib
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import curves
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.data import emoji
from gans_jax.data import pipeline
from gans_jax.metrics import features
from gans_jax.metrics import frechet

pytestmark = pytest.mark.usefixtures('compile_cache')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def plain(folder):
  path = folder / 'plain'
  assert runs.train(runs.write_config(folder), path) == cli.DONE
  return path


def call(*arguments) -> int:
  return cli.call(evaluate.main, [str(a) for a in arguments])


def results(path) -> list[dict]:
  text = (path / 'evaluations.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def copy(plain, tmp_path):
  path = tmp_path / 'run'
  shutil.copytree(plain, path)
  return path


def test_metric_of_the_newest_checkpoint(copy, capsys):
  """One line in the file holds the value and the protocol in full."""
  assert call(f'--workdir={copy}', '--metrics=fd20_lite0') == 0
  out, _ = capsys.readouterr()
  [result] = results(copy)
  assert f'step 6: fd20_lite0 {result["value"]:.4g} (floor' in out

  spec = pipeline.open_dataset(gans_jax.load(str(copy)).config.data).spec
  assert result['metric'] == 'fd20_lite0' and result['step'] == 6
  assert result['real']['count'] == 20 and result['real']['available'] == 64
  assert result['real']['identity'] == spec.identity
  assert result['real']['split'] == 'train'
  assert result['fake'] == {
      'count': 20, 'seed': 0, 'step': 6, 'weights': 'ema', 'images_seen': 48,
      'batch_norm': 'running statistics', 'truncation': None, 'labels': None}
  tap = features.Tap(features.get('lite0'), 'pooled')
  assert result['features'] == tap.facts()
  assert result['divisor'] == 'n - 1'
  assert result['floor']['counts'] == [20, 20]

  # By hand: the same images, their features, NumPy's moments.
  generator = gans_jax.load(str(copy))
  fakes = generator(keys=rng.per_example(jax.random.key(0), 0, 20))
  dataset = pipeline.open_dataset(generator.config.data)
  reals = np.concatenate([
      batch['image'][valid] for batch, valid in pipeline.ordered_batches(
          dataset, 64, 20, seed=0, keys=('image',))])
  mesh = mesh_lib.make(1, 1)
  fitted = [frechet.fit(features.extract(
      [tap], iter([(images, None)]), 20, mesh)[tap], 1)
      for images in (reals, fakes)]
  assert result['value'] == pytest.approx(frechet.distance(*fitted), rel=1e-4)


@pytest.mark.slow
def test_every_checkpoint(copy, capsys):
  assert call(f'--workdir={copy}', '--metrics=fd16_lite0', '--step=all',
              '--weights=live') == 0
  assert [(r['step'], r['fake']['weights']) for r in results(copy)] == [
      (3, 'live'), (6, 'live')]
  first, second = results(copy)
  assert first['value'] != second['value']
  assert second['real']['cached']
  assert call(f'--workdir={copy}', '--metrics=fd16_lite0', '--step=3',
              '--weights=live', '--batch_size=8') == 0
  # The batch size changes nothing but the rounding of sums.
  assert results(copy)[2]['value'] == pytest.approx(first['value'], rel=1e-4)


def test_number_of_images(copy):
  assert call(f'--workdir={copy}', '--metrics=fd5k_lite0,fd5k_full_lite0',
              '--num=12') == 0
  assert [(r['metric'], r['real']['count'], r['fake']['count'])
          for r in results(copy)] == [
              ('fd12_lite0', 12, 12), ('fd12_full_lite0', 64, 12)]


def test_watch_ends_with_the_run(copy):
  assert call(f'--workdir={copy}', '--metrics=fd16_lite0', '--watch') == 0
  assert [r['step'] for r in results(copy)] == [3, 6]


OFFLINE = ('fd16_lite0,fd16_full_lite0,kd16_lite0,kdall16_lite0,mmd16_lite0,'
           'pr16_lite0,prdc16_full_lite0,is16_lite0,swd16,msssim16,'
           'ppl8_zfull_lite0,ppl2_8_zend_lite0,ls16_z_lite0')


def test_every_metric_that_needs_no_network(copy, capsys):
  """One pass over generated images gives them all, each under its name."""
  assert call(f'--workdir={copy}', f'--metrics={OFFLINE}',
              '--attributes=group') == 0
  found = {r['metric']: r for r in results(copy)}
  assert list(found) == OFFLINE.split(',')
  out, _ = capsys.readouterr()
  for name, r in found.items():
    assert name in out and np.isfinite(r['value'])
    assert r['step'] == 6 and r['fake']['seed'] == 0 and r['measure']
    # Distances, and they alone, come with their floor.
    assert ('floor' in r) == name.startswith(('fd', 'kd', 'mmd', 'swd'))
  assert set(found['pr16_lite0']['values']) == {
      'precision', 'recall', 'f_score'}
  assert found['prdc16_full_lite0']['real']['count'] == 64
  assert 1 <= found['is16_lite0']['value'] <= 1000
  assert found['ppl8_zfull_lite0']['features']['name'] == 'efflp'
  assert found['ls16_z_lite0']['value'] >= 1
  assert found['ls16_z_lite0']['attributes'] == 'group'
  assert found['ls16_z_lite0']['values']['probe_accuracy'] > 0.9
  # The curves show them.
  assert 'metric' in curves.series(curves.evaluations(str(copy)))


@pytest.mark.slow
def test_options_of_sampling_are_recorded_and_change_the_images(copy):
  """Averages of training, of the batch, and standing ones are not equal."""
  values, said = [], []
  for option in ('running', 'batch', 'standing:2'):
    assert call(f'--workdir={copy}', '--metrics=fd16_lite0',
                f'--batch_norm={option}', '--batch_size=16') == 0
    result = results(copy)[-1]
    said.append(result['fake']['batch_norm'])
    values.append(result['value'])
  assert said == ['running statistics', 'statistics of batches of 16',
                  'standing statistics of 2 batches of 8']
  assert len(set(values)) == 3
  assert call(f'--workdir={copy}', '--metrics=fd16_lite0', '--seed=7') == 0
  assert results(copy)[-1]['fake']['seed'] == 7
  assert results(copy)[-1]['value'] not in values
  names = set(curves.series(curves.evaluations(str(copy)))['metric'])
  assert names == {
      'fd16_lite0', f'fd16_lite0, batch_norm {said[1]}',
      f'fd16_lite0, batch_norm {said[2]}', 'fd16_lite0, seed 7'}


@pytest.fixture(scope='module')
def pictures(folder):
  """Two folders of 24 pictures: some emoji, and the same with noise."""
  tiles = emoji.tiles('noto')[100:124, ::2, ::2, :3]
  noise = np.random.RandomState(0).randint(-30, 31, tiles.shape)
  for name, x in (('clean', tiles), ('noisy', np.clip(
      tiles.astype(int) + noise, 0, 255).astype(np.uint8))):
    (folder / name).mkdir()
    for i, image in enumerate(x):
      Image.fromarray(image).save(folder / name / f'{i:02d}.png')
  return folder


def test_two_folders(pictures, tmp_path, capsys):
  """No model: sets against sets, and pictures of one name in pairs."""
  clean, noisy = (f'folder:{pictures / n}' for n in ('clean', 'noisy'))
  out = tmp_path / 'results.jsonl'
  names = 'fd24_lite0,pr24_lite0,psnr,ssim,lpips_lite0'
  for fake in (clean, noisy):
    assert call(f'--real={clean}', f'--fake={fake}', f'--metrics={names}',
                f'--out={out}') == 0
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  same, other = rows[:5], rows[5:]
  assert same[0]['value'] == pytest.approx(0, abs=1e-6)
  assert same[1]['values'] == {'precision': 1, 'recall': 1, 'f_score': 1}
  assert same[2]['value'] is None  # Infinite: there is no error.
  assert [r['value'] for r in same[3:]] == pytest.approx([1, 0], abs=1e-12)
  assert other[0]['value'] > 1 and other[4]['value'] > 0.01
  # By hand.
  a, b = (np.stack([np.asarray(Image.open(f)) for f in sorted(
      (pictures / n).iterdir())]).astype(np.float64)
      for n in ('clean', 'noisy'))
  error = ((a - b)**2).mean((1, 2, 3))
  assert other[2]['value'] == pytest.approx(
      np.mean(10 * np.log10(255**2 / error)), rel=1e-9)
  assert other[0]['real']['source'] == clean
  capsys.readouterr()
  runs.refused(capsys, call(f'--real={clean}', f'--fake={noisy}',
                            '--metrics=fd25_lite0'), 'needs 25', 'has 24')
  runs.refused(capsys, call(f'--real={clean}', f'--fake={noisy}',
                            '--metrics=ppl8_zend'), 'ppl8_zend needs a model')


def test_folders_that_do_not_pair_or_are_mixed(pictures, tmp_path, capsys):
  clean = pictures / 'clean'
  fewer = tmp_path / 'fewer'
  shutil.copytree(clean, fewer)
  (fewer / '03.png').unlink()
  runs.refused(capsys, call(f'--real=folder:{clean}', f'--fake=folder:{fewer}',
                            '--metrics=psnr'), 'one by one', '24', '23')
  Image.new('RGB', (40, 40)).save(fewer / '03.png')
  runs.refused(capsys, call(f'--real=folder:{clean}', f'--fake=folder:{fewer}',
                            '--metrics=fd20_lite0'), '03.png', '40x40')


def test_statistics_to_a_file_and_back(pictures, tmp_path, capsys):
  clean, noisy = (f'folder:{pictures / n}' for n in ('clean', 'noisy'))
  path, out = tmp_path / 'stats.npz', tmp_path / 'r.jsonl'
  assert call(f'--real={clean}', f'--fake={noisy}', '--metrics=fd24_lite0',
              f'--write_reference={path}', f'--out={out}') == 0
  assert call(f'--fake={noisy}', '--metrics=fd24_lite0',
              f'--reference={path}', f'--out={out}') == 0
  first, second = (json.loads(x) for x in out.read_text().splitlines())
  assert second['value'] == pytest.approx(first['value'], rel=1e-9)
  assert second['real']['statistics'] == 'stats.npz'
  with np.load(path) as file:
    assert file['mu'].shape == (1280,) and file['sigma'].shape == (1280, 1280)
  path.write_bytes(path.read_bytes()[:1000])
  capsys.readouterr()
  runs.refused(capsys, call(
      f'--fake={noisy}', '--metrics=fd24_lite0', f'--reference={path}'),
      'stats.npz', 'not a readable .npz')


@pytest.mark.parametrize('options,words', [
    (['--metrics=fud50k'], ["no metric called 'fud50k'", 'fd5k_lite0']),
    (['--metrics=fd1_lite0'], ['needs 2 at least']),
    (['--metrics=fid16', '--inception_weights=absent.pth'],
     ['absent.pth', '--inception_weights']),
    (['--metrics=fid16', '--preset=torch'], ["no preset 'torch'"]),
    (['--metrics=psnr'], ["'psnr'", 'reconstructs none']),
    (['--metrics=codebook'], ['codes of a tokenizer', 'has none']),
    (['--metrics=ls16_z_lite0'], ['ls16_z_lite0', '--attributes']),
    (['--metrics=ppl8_wend'], ['ppl8_wend', 'ppl8_zend']),
    (['--metrics=fd16_lite0', '--truncation=0.5'], ['--truncation', '0.5']),
    (['--metrics=fd16_lite0', '--option=top_k=3'], ["'top_k'", 'it has: none']),
    (['--metrics=fd16_lite0', '--option=top_k'], ['NAME=VALUE']),
    (['--baseline=pca'], ['--baseline=pca', 'tokenizer']),
    (['--baseline=independent_codes'], ['over the codes', 'system is none']),
    (['--baseline=pca', '--step=all'], ['does not learn']),
    (['--metrics=fd16_lite0', '--labels=3'], ["'3'", 'not conditional']),
    (['--metrics=fd16_lite0', '--batch_norm=mean'], ["'mean'", 'standing']),
    (['--fake=folder:x'], ['--workdir', 'two sets of images']),
    (['--metrics=modes'], ["'modes'", 'not one for this system']),
    (['--metrics=fd5k_lite0'], ['needs 5000 real images', 'has 64']),
    (['--metrics=fd16_lite0', '--num=100'], ['needs 100', 'has 64']),
    ([], ['fd5k_lite0', 'has 64']),
    (['--step=newest'], ["'newest'", "'latest', 'all' or a number"]),
    (['--step=5', '--metrics=fd16_lite0'], ['no checkpoint of step 5']),
    (['--watch', '--step=3'], ['--watch', '--step is 3']),
    (['--num=-1'], ['--num']), (['--batch_size=-1'], ['--batch_size']),
], ids=str)
def test_refusals(plain, capsys, options, words):
  code = call(f'--workdir={plain}', *options)
  runs.refused(capsys, code, *words)
  assert not (plain / 'evaluations.jsonl').exists()


def test_workdir_that_is_none(tmp_path, capsys):
  for path in (tmp_path / 'absent', tmp_path):
    runs.refused(capsys, call(f'--workdir={path}'), str(path))
  assert not list(tmp_path.iterdir())


def test_training_refuses_the_same(tmp_path, capsys):
  config = runs.write_config(tmp_path)
  for metric, words in (('fad', "'fad'"), ('modes', "'modes'"),
                        ('fd5k_lite0', 'has 64')):
    code = runs.train(config, tmp_path / 'run', '--config.evaluate_every=3',
                      f'--config.evaluate.metrics={metric}')
    runs.refused(capsys, code, words)
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_labels_have_the_distribution_of_the_data(folder):
  path = folder / 'conditional'
  assert runs.train(runs.write_config(folder, runs.CONDITIONAL), path
                    ) == cli.DONE
  assert call(f'--workdir={path}', '--metrics=fd16_lite0') == 0
  [result] = results(path)
  assert result['fake']['labels'] == 'empirical'

  generator = gans_jax.load(str(path))
  dataset = pipeline.open_dataset(generator.config.data)
  seen = []

  class Watched:
    """The system, whose generator only tells which labels it was given."""

    def __getattr__(self, name):
      return getattr(generator.system, name)

    def generate(self, variables, keys, conditions):
      jax.debug.callback(lambda x: seen.append(np.array(x)),
                         conditions['label'])
      return np.zeros((len(keys), 16, 16, 3), np.float32)

  def shares(labels, num=4096):
    seen.clear()
    evaluator = evaluator_lib.Evaluator(
        generator.config, Watched(), dataset, mesh_lib.make(1, 1),
        ('fd16_lite0',), batch_size=512, quiet=True,
        sampling=evaluator_lib.Sampling(labels=labels))
    list(evaluator.fake_images(generator.variables, 2, 'ema').stream(num))
    jax.effects_barrier()
    return np.bincount(np.concatenate(seen), minlength=9) / num

  expected = np.bincount([dataset[i]['label'] for i in range(64)],
                         minlength=9)
  # Drawn with replacement: within five standard deviations.
  for labels, p in (('empirical', expected / 64),
                    ('uniform', np.full(9, 1 / 9)), ('3', np.eye(9)[3])):
    assert (np.abs(shares(labels) - p)
            < 5 * np.sqrt(p * (1 - p) / 4096) + 1e-9).all(), labels


def test_modes_of_points(folder, capsys):
  path = folder / 'points'
  config = runs.write_config(folder, runs.POINTS)
  assert runs.train(config, path, '--config.evaluate_every=3') == cli.DONE
  before = len(results(path))
  assert call(f'--workdir={path}') == 0
  found = {r['metric']: r for r in results(path)[before:]}
  assert found['modes/covered']['fake']['count'] == 2500
  # By hand: the points of the same keys, counted.
  generator = gans_jax.load(str(path))
  points = generator(keys=rng.per_example(jax.random.key(0), 0, 2500))
  assert points.shape == (2500, 2)
  direct = generator.system.point_metrics(points)
  assert {k: float(v) for k, v in direct.items()} == {
      k: r['value'] for k, r in found.items()}
  capsys.readouterr()
  code = call(f'--workdir={path}', '--metrics=fd16_lite0')
  runs.refused(capsys, code, "'fd16_lite0'", 'modes')


def test_data_that_changed_is_said(tmp_path, capsys):
  dataset = pipeline.open_dataset(config_lib.data_config(
      source='emoji:noto', resolution=16, limit=16))
  images = tmp_path / 'images'
  images.mkdir()
  for i in range(16):
    Image.fromarray(dataset[i]['image']).save(images / f'{i}.png')
  path = tmp_path / 'run'
  assert runs.train(runs.write_config(tmp_path), path,
                    f'--config.data.source=folder:{images}',
                    '--config.total_steps=1') == cli.DONE
  (images / '3.png').unlink()
  capsys.readouterr()
  assert call(f'--workdir={path}', '--metrics=fd8_lite0') == 0
  assert 'the data set has changed since training' in ' '.join(
      capsys.readouterr().err.split())
  shutil.rmtree(images)
  code = call(f'--workdir={path}', '--metrics=fd8_lite0')
  runs.refused(capsys, code, str(images), 'does not exist')
