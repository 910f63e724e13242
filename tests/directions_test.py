"""The command `directions`: sheets of what SeFa and GANSpace find."""

import os

import network_pickles
import numpy as np
from PIL import Image
import pytest
import runs
import stylegan2_weights

import gans_jax
from gans_jax import directions
from gans_jax.core import cli
from gans_jax.core import images as images_lib
from gans_jax.latent import sefa

pytestmark = pytest.mark.usefixtures('compile_cache')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return network_pickles.workdir(
      tmp_path_factory.mktemp('directions'), stylegan2_weights.value,
      g={'resolution': 8})


def call(*arguments) -> int:
  return cli.call(directions.main, [str(a) for a in arguments])


def test_sefa(workdir, tmp_path, capsys):
  assert call(f'--workdir={workdir}', '--directions=0,2', '--seeds=5,6',
              '--strengths=-2,0,1', '--layers=0,3', '--truncation=0.5',
              f'--out={tmp_path}') == cli.DONE
  names = ['sefa.npz', 'sefa_000.png', 'sefa_002.png']
  assert sorted(os.listdir(tmp_path)) == names
  assert capsys.readouterr().out.split() == [
      str(tmp_path / name) for name in names]
  G = gans_jax.load(workdir)
  synthesis = G.variables['G']['params']['synthesis']
  expected, strengths = sefa.factorize([
      synthesis['b4']['conv1']['affine']['kernel'],
      # The last style is that of ToRGB.
      synthesis['b8']['torgb']['affine']['kernel']])
  found = np.load(tmp_path / 'sefa.npz')
  np.testing.assert_array_equal(found['directions'], expected)
  np.testing.assert_array_equal(found['strengths'], strengths)
  w = G.w(seeds=[5, 6], truncation=0.5)
  moved = []
  for i in range(2):
    for strength in (-2, 0, 1):
      one = w[i].copy()
      one[[0, 3]] += np.float32(strength) * expected[2]
      moved.append(one)
  sheet = images_lib.grid(G(w=np.stack(moved)), 3)
  difference = np.abs(
      sheet.astype(int) - np.asarray(Image.open(tmp_path / 'sefa_002.png')))
  assert difference.max() <= 1


def test_ganspace(workdir, tmp_path):
  assert call(f'--workdir={workdir}', '--method=ganspace', '--directions=0',
              '--seeds=1', '--strengths=0,2', f'--out={tmp_path}') == cli.DONE
  found = np.load(tmp_path / 'ganspace.npz')
  G = gans_jax.load(workdir)
  z = np.random.RandomState(0).randn(10000, 16).astype('f')
  w = G.w(z)[:, 0].astype(np.float64)
  values = np.linalg.eigvalsh(np.cov(w.T))[::-1]
  np.testing.assert_allclose(found['deviations'],
                             np.sqrt(np.maximum(values, 0)), rtol=1e-3,
                             atol=1e-3)
  direction = found['directions'][0]
  np.testing.assert_allclose((w @ direction).std(), found['deviations'][0],
                             rtol=1e-3)
  images = G(w=np.concatenate([
      G.w(seeds=[1]), G.w(seeds=[1]) + 2 * found['deviations'][0] * direction]))
  sheet = np.asarray(Image.open(tmp_path / 'ganspace_000.png')).astype(int)
  assert np.abs(images_lib.grid(images, 2) - sheet).max() <= 1
  assert (images[0] != images[1]).any()


@pytest.mark.parametrize('options,words', [
    (['--directions=16'], ['--directions names 16', 'there are 16, 0 to 15']),
    (['--layers=4'], ['--layers names the layer 4', 'has 4, 0 to 3']),
    (['--strengths='], ['--strengths is empty']),
    (['--strengths=a'], ["--strengths is 'a'"]),
    (['--seeds=x'], ["--seeds is 'x'"])])
def test_refusals(workdir, tmp_path, capsys, options, words):
  code = call(f'--workdir={workdir}', *options, f'--out={tmp_path}/out')
  runs.refused(capsys, code, *words)
  assert not (tmp_path / 'out').exists()
