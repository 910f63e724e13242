"""The command `project`: a picture whose w is known is found again."""

import os

import jax.numpy as jnp
import network_pickles
import numpy as np
from PIL import Image
import pytest
import runs
import stylegan2_weights

import gans_jax
from gans_jax import project
from gans_jax.core import cli
from gans_jax.core import errors

pytestmark = pytest.mark.usefixtures('compile_cache')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return network_pickles.workdir(
      tmp_path_factory.mktemp('project'), stylegan2_weights.value,
      g={'resolution': 8})


@pytest.fixture(scope='module')
def picture(workdir, tmp_path_factory):
  path = tmp_path_factory.mktemp('picture') / 'target.png'
  Image.fromarray(gans_jax.load(workdir)([7])[0]).save(path)
  return path


def call(*arguments) -> int:
  return cli.call(project.main, [str(a) for a in arguments])


def squares(weights, x, y):
  del weights
  return jnp.sum((x - y)**2, (1, 2, 3))


def test_a_known_picture_is_found(workdir):
  G = gans_jax.load(workdir)
  target = G([7])[0]
  steps = list(project.project(G, target, metric=(squares, {}), steps=150))
  assert len(steps) == 150 and steps[-1].w.shape == (4, 16)
  np.testing.assert_array_equal(steps[-1].w, steps[-1].w[:1].repeat(4, 0))
  assert steps[-1].distance < steps[0].distance / 5
  # With the generator's own noise, too.
  start, end = (G(w=w[None])[0].astype(float) for w in (steps[0].w,
                                                       steps[-1].w))
  assert ((end - target)**2).mean() < ((start - target)**2).mean() / 3
  # The first w is the mean: the first learning rate is 0.
  z = np.random.RandomState(123).randn(10000, 16)
  np.testing.assert_allclose(
      steps[0].w[0], G.w(z.astype('f'))[:, 0].astype(np.float64).mean(0),
      atol=1e-5)


@pytest.mark.parametrize('metric', [
    'squares', pytest.param('lite0', marks=pytest.mark.slow)])
def test_command(workdir, picture, tmp_path, capsys, monkeypatch, metric):
  if metric == 'squares':  # whose gradient compiles at once
    monkeypatch.setattr(project, 'distance',
                        lambda name, weights: (name, squares, {}))
  assert call(f'--workdir={workdir}', f'--target={picture}', '--steps=12',
              '--frames=3', '--latent=w_plus', '--distance=lite0',
              f'--out={tmp_path}') == cli.DONE
  out, err = capsys.readouterr()
  assert 'distance: lite0' in out and '12/12' in err and 'step/s' in err
  assert sorted(os.listdir(tmp_path)) == [
      'comparison.png', 'progress.png', 'projected.png', 'projected_w.npz',
      'target.png']
  w = np.load(tmp_path / 'projected_w.npz')['w']
  assert w.shape == (1, 4, 16) and w.dtype == np.float32
  assert (w[0, 0] != w[0, 1]).any()
  images = {name: np.asarray(Image.open(tmp_path / f'{name}.png'))
            for name in ('target', 'projected', 'comparison')}
  np.testing.assert_array_equal(images['target'], Image.open(picture))
  np.testing.assert_array_equal(images['projected'],
                                gans_jax.load(workdir)(w=w)[0])
  np.testing.assert_array_equal(images['comparison'], np.concatenate(
      [images['target'], images['projected']], 1))
  with Image.open(tmp_path / 'progress.png') as moving:
    assert moving.n_frames == 3 and moving.size == (16, 8)


def test_pictures_are_cropped_and_resized(tmp_path, caplog):
  pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
  path = tmp_path / 'wide.png'
  Image.fromarray(pixels).save(path)
  found = project.read_target(str(path), 16, 3)
  square = Image.fromarray(pixels[:, 10:40])
  np.testing.assert_array_equal(
      found, square.resize((16, 16), Image.Resampling.LANCZOS))
  assert '50 x 30 pixels' in caplog.text
  assert project.read_target(str(path), 16, 1).shape == (16, 16, 1)


def test_distance_that_is_not_here(tmp_path, monkeypatch):
  for name in ('HOME', 'TORCH_HOME', 'GANS_JAX_CACHE'):
    monkeypatch.setenv(name, str(tmp_path))
  monkeypatch.delenv('GANS_JAX_VGG16_WEIGHTS', raising=False)
  assert project.distance('auto')[0] == 'lite0'
  with pytest.raises(errors.UserError, match='VGG16 of torchvision'):
    project.distance('lpips_vgg')
  with pytest.raises(errors.UserError, match='no.pth, which is no file'):
    project.distance('auto', 'no.pth')


def test_refusals(workdir, picture, tmp_path, capsys):
  text = tmp_path / 'text.png'
  text.write_text('no image')
  for options, words in (
      ([f'--workdir={workdir}', f'--target={text}'], 'cannot be read as an'),
      ([f'--workdir={workdir}', '--target=no.png'], 'no.png'),
      ([f'--workdir={tmp_path}/no', f'--target={picture}'], 'does not exist'),
      ([f'--workdir={workdir}', f'--target={picture}', '--label=1'],
       'takes no label'),
      ([f'--workdir={workdir}', f'--target={picture}', '--steps=0'],
       'at least 1')):
    runs.refused(capsys, call(*options, f'--out={tmp_path}/out'), words)
  assert not (tmp_path / 'out').exists()
