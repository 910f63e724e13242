"""Path lengths by name, of generators whose lengths are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.metrics import efficientnet_lite
from gans_jax.metrics import efflp
from gans_jax.metrics import path_length
from gans_jax.metrics import perceptual_path

SIZE = 12  # A latent is an image of 2 x 2 pixels.


@pytest.mark.parametrize('name, expected', [
    ('ppl50k_wend', ('ppl50k_wend', 50_000, 'w', False, True, 'lpips_vgg')),
    ('ppl2k_zfull', ('ppl2k_zfull', 2000, 'z', True, True, 'lpips_vgg')),
    ('ppl2_50k_wend', ('ppl2_50k_wend', 50_000, 'w', False, False,
                       'lpips_vgg')),
    ('ppl2_2k_zend_lite0', ('ppl2_2k_zend_lite0', 2000, 'z', False, False,
                            'lite0')),
    ('ppl5000_wfull', ('ppl5k_wfull', 5000, 'w', True, True, 'lpips_vgg')),
])
def test_parse(name, expected):
  protocol = perceptual_path.parse(name)
  assert protocol == perceptual_path.Protocol(*expected)
  assert perceptual_path.parse(protocol.name) == protocol


def test_parse_others():
  for name in ('ppl_zfull', 'ppl50k', 'ppl50k_xend', 'ppl250k', 'fid50k'):
    assert perceptual_path.parse(name) is None
  assert perceptual_path.parse('ppl2_50k_wend', 100).name == 'ppl2_100_wend'
  with pytest.raises(errors.UserError, match='asks for no image'):
    perceptual_path.parse('ppl0_zend')


@pytest.fixture
def squared(monkeypatch):
  """Replaces the network's distance by the squared one of pixels."""
  monkeypatch.setattr(
      perceptual_path, '_distance', lambda protocol, weights: (
          lambda x, y: jnp.sum((x - y)**2, (1, 2, 3)), {}))


def _identity(latents, keys):
  del keys
  return latents.reshape(-1, 2, 2, 3)


def _latents(keys):
  return jax.vmap(lambda key: jax.random.normal(key, (SIZE,)))(keys)


def _ppl(name, generate=_identity, **options):
  return perceptual_path.compute(
      perceptual_path.parse(name), generate, _latents,
      **{'seed': 0, 'batch_size': 512, **options})


@pytest.mark.parametrize('where', ['full', 'end'])
def test_lines_have_the_length_of_their_ends(squared, where):
  """|a - b|^2 of Gaussian vectors: 2 k on average, variance 8 k."""
  result = _ppl(f'ppl2_4k_w{where}')
  # The extreme percent at either side is left out, which moves it by 1 %.
  deviation = np.sqrt(8 * SIZE / 4000)
  assert abs(result['value'] - 2 * SIZE) < 5 * deviation + 0.01 * 2 * SIZE
  assert result['path'] == {'space': 'w', 'crop': False,
                            't': 'uniform' if where == 'full' else 'end'}


def test_great_circles_have_the_length_of_their_angle(squared):
  """On a sphere of radius sqrt(k) the squared speed is k times angle^2."""
  result = _ppl('ppl2_4k_zfull')
  random = np.random.default_rng(0)
  a, b = random.standard_normal((2, 100_000, SIZE))
  cosines = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
  angles = SIZE * np.sort(np.arccos(cosines)**2)
  kept = angles[1000:-1000]
  assert result['value'] == pytest.approx(
      kept.mean(), abs=5 * angles.std() / np.sqrt(4000))


def test_value_does_not_depend_on_the_batch_size(squared):
  values = [_ppl('ppl2_100_zend', batch_size=n)['value'] for n in (100, 32)]
  assert values[0] == pytest.approx(values[1], rel=1e-4)
  assert _ppl('ppl2_100_zend', seed=1)['value'] != pytest.approx(
      values[0], rel=1e-3)


def test_both_ends_have_the_same_keys(squared):
  """Noise that changed between the two would be all that is measured."""

  def noisy(latents, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (2, 2, 3)))(keys)
    return latents.reshape(-1, 2, 2, 3) + noise

  assert _ppl('ppl2_100_wend', noisy)['value'] == pytest.approx(
      _ppl('ppl2_100_wend')['value'], rel=0.05)


def test_the_offline_distance_by_hand():
  """Two images of a linear generator, eps apart, through the network."""
  basis = np.random.RandomState(0).uniform(-1, 1, (SIZE, 32 * 32 * 3)) * 0.1

  def generate(latents, keys):
    del keys
    return jnp.tanh(latents @ basis.astype(np.float32)).reshape(-1, 32, 32, 3)

  seen = []

  def latents(keys):
    z = _latents(keys)
    seen.append(np.asarray(z))
    return z

  result = perceptual_path.compute(
      perceptual_path.parse('ppl2_4_wend_lite0'), generate, latents, seed=0,
      batch_size=4)
  a, b = seen
  near, far = (generate(path_length.lerp(a, b, np.full(4, t, np.float32)), None)
               for t in (0.0, 1e-4))
  expected = jax.jit(efflp.distance)(
      efficientnet_lite.load_variables(), near, far) * 1e8
  assert result['value'] == pytest.approx(float(expected.mean()), rel=0.02)
  assert result['features']['name'] == 'efflp'
