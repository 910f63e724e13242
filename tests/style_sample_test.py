"""Sampling of style-based systems: what NVIDIA's tools draw, by our command.

The stored images are those of tests/convert/stylegan2_test.py.
"""

import os
import pathlib

import network_pickles
import numpy as np
from PIL import Image
import pytest
import runs
import stylegan2_weights

import gans_jax
from gans_jax import sample
from gans_jax.core import cli
from gans_jax.core import images as images_lib

pytestmark = pytest.mark.usefixtures('compile_cache')

GOLDEN = pathlib.Path(__file__).parent / 'golden/stylegan2_pickle.npz'


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return network_pickles.workdir(
      tmp_path_factory.mktemp('style'), stylegan2_weights.value,
      ema=lambda name, shape: (
          stylegan2_weights.value(name, shape) * np.float32(0.9)))


@pytest.fixture(scope='module')
def conditional(tmp_path_factory):
  return network_pickles.workdir(
      tmp_path_factory.mktemp('conditional'), stylegan2_weights.value,
      g={'resolution': 8, 'classes': 3})


@pytest.fixture(scope='module')
def G(workdir):
  return gans_jax.load(workdir)


def official(name) -> np.ndarray:
  """Stored images as their tools save them."""
  x = np.load(GOLDEN)[name]
  return np.clip(x * 127.5 + 128, 0, 255).astype(np.uint8)


def assert_same(found, expected):
  """Equal but for floats on the edge of rounding."""
  difference = np.abs(found.astype(int) - expected)
  assert difference.max() <= 1 and (difference == 0).mean() > 0.995


def call(*arguments) -> int:
  return cli.call(sample.main, [str(a) for a in arguments])


def read(path) -> np.ndarray:
  return np.asarray(Image.open(path))


def test_seeds_are_the_official_ones(G):
  expected = official('G_ema_const')
  images = G([0, 85])
  assert_same(images, expected)
  np.testing.assert_array_equal(G([85]), images[1:])
  np.testing.assert_array_equal(G(z=G.z([0, 85])), images)
  assert_same(G([0, 85], noise='none'), official('G_ema_none'))
  assert_same(G([0, 85], truncation=0.5, truncation_cutoff=3),
              official('G_ema_truncated'))


def test_random_noise_is_the_seeds(G):
  images = G([3, 4], noise='random')
  np.testing.assert_array_equal(G([4], noise='random'), images[1:])
  assert (images != G([3, 4])).any()


def test_latents_w(G):
  w = G.w(seeds=[0, 85])
  assert w.shape == (2, 6, 16) and w.dtype == np.float32
  np.testing.assert_array_equal(w, w[:, :1].repeat(6, 1))
  # A batch of another size: sums in another order.
  np.testing.assert_allclose(G.w(G.z([85])), w[1:], rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(G(w=w), G([0, 85]))
  average = np.asarray(G.variables['G']['moving']['w_avg'])
  np.testing.assert_allclose(G.w(seeds=[85], truncation=0.25)[0, 0],
                             0.75 * average + 0.25 * w[1, 0], rtol=1e-4,
                             atol=1e-6)


def test_command(G, workdir, tmp_path):
  assert call(f'--workdir={workdir}', '--seeds=85', '--truncation=0.5',
              '--truncation_cutoff=3', f'--out={tmp_path}') == 0
  assert_same(read(tmp_path / 'seed0085.png'), official('G_ema_truncated')[1])
  assert call(f'--workdir={workdir}', '--seeds=0', '--noise=none',
              f'--out={tmp_path}') == 0
  assert_same(read(tmp_path / 'seed0000.png'), official('G_ema_none')[0])


def test_style_mixing(G, workdir, tmp_path):
  tiles = sample.style_mix(G, [0], [85, 0], [1, 2], truncation=0.7)
  assert tiles.shape == (6, 16, 16, 3)
  assert (tiles[0] == 255).all()
  # Above and at the left the seeds, and a seed mixed with itself is itself.
  plain = G(w=G.w(seeds=[0, 85], truncation=0.7))
  for i, expected in ((1, plain[1]), (2, plain[0]), (3, plain[0]),
                      (5, plain[0])):
    assert_same(tiles[i], expected)
  assert_same(tiles[4], official('G_ema_mixed')[0])

  assert call(f'--workdir={workdir}', '--style_mix=0:85,0:1-2',
              '--truncation=0.7', f'--out={tmp_path}') == 0
  assert os.listdir(tmp_path) == ['style_mix.png']
  np.testing.assert_array_equal(read(tmp_path / 'style_mix.png'),
                                images_lib.grid(tiles, 3))
  # By default as the official tool: layers 0 to 6, here all.
  np.testing.assert_array_equal(sample.style_mix(G, [0], [85])[3], G([85])[0])


def test_interpolation_is_straight_in_w(G):
  walk = sample.interpolate(G, [0, 85], 4)
  assert walk.shape == (5, 16, 16, 3)
  np.testing.assert_array_equal(walk[[0, 4]], G([0, 85]))
  w = G.w(seeds=[0, 85])
  assert_same(walk[1], G(w=(0.75 * w[:1] + 0.25 * w[1:]))[0])


def test_projected_latents(G, workdir, tmp_path, capsys):
  path = tmp_path / 'w.npz'
  np.savez(path, w=G.w(seeds=[85]))
  assert call(f'--workdir={workdir}', f'--projected_w={path}',
              f'--out={tmp_path}') == 0
  np.testing.assert_array_equal(read(tmp_path / 'projected00.png'),
                                G([85])[0])
  capsys.readouterr()
  for bad, words in (({'w': np.zeros((1, 5, 16))}, 'of shape [1, 5, 16]'),
                     ({'x': np.zeros(3)}, 'cannot be read as latents'),
                     (None, 'cannot be read as latents')):
    path.unlink(missing_ok=True)
    if bad:
      np.savez(path, **bad)
    runs.refused(capsys, call(f'--workdir={workdir}', f'--projected_w={path}',
                              f'--out={tmp_path}'), 'w.npz', words)


def test_classes(conditional, tmp_path):
  G = gans_jax.load(conditional)
  images = G([1, 2], label=2)
  assert (images != G([1, 2], label=1)).any()
  np.testing.assert_array_equal(G([2]), images[1:])  # 2 mod 3
  w = G.w(seeds=[1, 2], label=2)
  np.testing.assert_array_equal(G(w=w, label=2), images)
  mixed = sample.style_mix(G, [1], [2], [0], label=2)
  np.testing.assert_array_equal(mixed[[2, 1]], images)
  walk = sample.interpolate(G, [1, 2], 2, label=2)
  np.testing.assert_array_equal(walk[[0, 2]], images)


@pytest.mark.parametrize('options,words', [
    (['--style_mix=1'], ["--style_mix is '1'"]),
    (['--style_mix=1:a'], ["--style_mix is 'a'"]),
    (['--style_mix=1:2:6'], ['the layer 6', '6, 0 to 5']),
    (['--label=1'], ['takes no label'])])
def test_refusals(workdir, tmp_path, capsys, options, words):
  code = call(f'--workdir={workdir}', *options, f'--out={tmp_path}/out')
  runs.refused(capsys, code, *words)
  assert not (tmp_path / 'out').exists()
