"""Perceptual losses are the metrics of those names, with a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.losses import perceptual
from gans_jax.metrics import efficientnet_lite
from gans_jax.metrics import efflp
from gans_jax.metrics import lpips

FAST = {'xla_backend_optimization_level': 0}


def images(channels=3):
  draw = np.random.default_rng(0)
  return [jnp.asarray(draw.uniform(-1, 1, (2, 16, 16, channels)), jnp.float32)
          for _ in range(2)]


def without_weights(monkeypatch, tmp_path):
  for name in ('GANS_JAX_CACHE', 'TORCH_HOME', 'HOME'):
    monkeypatch.setenv(name, str(tmp_path))
  for name in ('GANS_JAX_VGG16_WEIGHTS', 'GANS_JAX_LPIPS_VGG_HEADS'):
    monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope='module')
def lite0():
  """x -> ((sum of ours, (ours, the metric's)), gradient), compiled once."""
  # Weights are arguments: as constants they are folded for seconds.
  variables = jax.device_put(efficientnet_lite.load_variables())
  target = images()[1]

  def both(x, variables):
    value = perceptual.lite0(variables, x, target)
    metric = efflp.distance(variables, x, target, 'shifted')
    return jnp.sum(value), (value, metric)

  run = jax.jit(jax.value_and_grad(both, has_aux=True), compiler_options=FAST)
  return lambda x: run(x, variables)


def test_lite0_equals_the_metric_and_is_its_gradient(lite0):
  x = images()[0]
  (_, (ours, metric)), gradient = lite0(x)
  np.testing.assert_allclose(ours, metric, rtol=1e-5)
  # A small step along the gradient changes the loss as it says.
  step = 1e-2 * gradient / jnp.linalg.norm(gradient)
  before, after = (lite0(x + s)[0][0] for s in (-step, step))
  np.testing.assert_allclose(
      after - before, 2 * jnp.sum(step * gradient), rtol=0.05)


def test_lpips_equals_the_metric_and_the_target_is_constant():
  x, target = images()
  net = lpips.LPIPS('vgg')
  shapes = jax.eval_shape(net.init, jax.random.key(0), x, target)
  draw = np.random.default_rng(1)
  variables = jax.tree.map(
      lambda s: draw.uniform(-0.03, 0.05, s.shape).astype(np.float32), shapes)

  def loss(x, target, variables):
    return (jnp.sum(perceptual.lpips_vgg(variables, x, target)),
            net.apply(variables, x, target))

  (ours, metric), gradients = jax.jit(
      jax.value_and_grad(loss, (0, 1), has_aux=True),
      compiler_options=FAST)(x, target, variables)
  np.testing.assert_allclose(ours, np.sum(metric), rtol=1e-5)
  assert float(jnp.abs(gradients[0]).max()) > 0
  np.testing.assert_array_equal(gradients[1], 0)


def test_grey_images_are_repeated():
  taps = []
  for channels in (1, 3):
    x = jnp.repeat(images(1)[0], channels, -1)
    taps.append(perceptual.rgb(x))
  assert taps[0].shape == (2, 16, 16, 3)
  np.testing.assert_array_equal(*taps)


def test_choice_by_the_weights_that_are_there(monkeypatch, tmp_path):
  without_weights(monkeypatch, tmp_path)
  assert perceptual.choose('none') is None
  assert perceptual.choose('auto').name == 'lite0'
  absent = perceptual.choose('lpips_vgg')
  # One can sample without them, not train.
  with pytest.raises(errors.UserError, match='VGG16'):
    perceptual.constants(absent)
  for variable in ('GANS_JAX_VGG16_WEIGHTS', 'GANS_JAX_LPIPS_VGG_HEADS'):
    path = tmp_path / variable
    path.write_bytes(b'x')
    monkeypatch.setenv(variable, str(path))
  assert perceptual.choose('auto').name == 'lpips_vgg'


def test_unknown_choice_is_refused():
  with pytest.raises(errors.UserError, match="'lpips'.*lpips_vgg, lite0"):
    perceptual.choose('lpips')
