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
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.data import pipeline
from gans_jax.metrics import features
from gans_jax.metrics import frechet
from gans_jax.metrics import protocols

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
  assert result['fake'] | {'labels': None} == {
      'count': 20, 'seed': 0, 'step': 6, 'weights': 'ema',
      'images_seen': 48, 'batch_norm': 'running statistics', 'labels': None}
  assert result['features'] == features.get('lite0').facts()
  assert result['divisor'] == 'n - 1'
  assert result['floor']['counts'] == [20, 20]

  # By hand: the same images, their features, NumPy's moments.
  generator = gans_jax.load(str(copy))
  fakes = generator(keys=rng.per_example(jax.random.key(0), 0, 20))
  dataset = pipeline.open_dataset(generator.config.data)
  reals = np.concatenate([
      batch['image'][valid] for batch, valid in pipeline.ordered_batches(
          dataset, 64, 20, seed=0, keys=('image',))])
  extractor, mesh = features.get('lite0'), mesh_lib.make(1, 1)
  fitted = [frechet.fit(np.asarray(features.extract(
      extractor, iter([(images, None)]), 20, mesh, None)), 1)
      for images in (reals, fakes)]
  assert result['value'] == pytest.approx(frechet.distance(*fitted), rel=1e-4)


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


@pytest.mark.parametrize('metric,num,name', [
    ('fd5k_lite0', 0, 'fd5k_lite0'), ('fd5k_lite0', 500, 'fd500_lite0'),
    ('fd50_full_lite0', 2000, 'fd2k_full_lite0')])
def test_rename(metric, num, name):
  assert evaluate.rename(metric, num) == name


@pytest.mark.parametrize('options,words', [
    (['--metrics=fid50k'], ["no metric called 'fid50k'", 'fd{N}_lite0']),
    (['--metrics=fd1_lite0'], ['needs two']),
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
  for metric, words in (('fid', "'fid'"), ('modes', "'modes'"),
                        ('fd5k_lite0', 'has 64')):
    code = runs.train(config, tmp_path / 'run', '--config.evaluate_every=3',
                      f'--config.evaluate.metrics={metric}')
    runs.refused(capsys, code, words)
  assert not (tmp_path / 'run').exists()


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
    """The system, whose generator tells which labels it was given."""

    def __getattr__(self, name):
      return getattr(generator.system, name)

  evaluator = evaluate.Evaluator(
      generator.config, Watched(), dataset, mesh_lib.make(1, 1),
      ('fd16_lite0',), quiet=True)
  labels = evaluator._labels()
  expected = np.bincount([dataset[i]['label'] for i in range(64)],
                         minlength=9)
  np.testing.assert_array_equal(np.bincount(labels, minlength=9), expected)

  def sampler(variables, keys, conditions):
    seen.append(conditions['label'])
    return np.zeros((len(keys), 16, 16, 3), np.uint8)

  sampler.batch_size = 512
  evaluator._sampler = sampler
  evaluator._protocols = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(protocols, 'compute', lambda names, real, fake, **more: [
        list(fake.stream(4096)), []][1])
    evaluator(generator.variables, 2)
  share = np.bincount(np.concatenate(seen), minlength=9) / 4096
  # Drawn with replacement: within five standard deviations of the data.
  p = expected / 64
  assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / 4096) + 1e-9).all()


def test_modes_of_points(folder, capsys):
  path = folder / 'points'
  config = runs.write_config(folder, runs.POINTS)
  assert runs.train(config, path, '--config.evaluate_every=3') == cli.DONE
  before = len(results(path))
  assert call(f'--workdir={path}') == 0
  found = {r['metric']: r for r in results(path)[before:]}
  assert found['modes/covered']['fake'] == {'count': 2500, 'seed': 0}
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
