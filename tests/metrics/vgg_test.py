"""VGG16 and AlexNet against torchvision's in float64, on shared weights."""

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
import torch

from gans_jax.convert import lpips as convert
from gans_jax.metrics import alexnet
from gans_jax.metrics import resize
from gans_jax.metrics import vgg

FEATURES = 8


def randomized(net):
  """Activations of about one size everywhere; numbers of float32."""
  g = torch.Generator().manual_seed(0)
  for x in net.state_dict().values():
    fan_in = x[0].numel() if x.ndim > 1 else 50
    x.normal_(0, (2 / fan_in) ** 0.5, generator=g)
  return net.eval().requires_grad_(False).double()


def arrays(net):
  return {key: x.float().numpy() for key, x in net.state_dict().items()}


@pytest.fixture(scope='module')
def torch_vgg():
  """torchvision's VGG16 with narrow fully connected layers."""
  models = official.package('torchvision').models
  with torch.device('meta'):  # 138 million numbers, of which few are used
    net = models.vgg16()
  net.features = models.vgg.make_layers(models.vgg.cfgs['D'])
  for i, (inputs, outputs) in enumerate(
      ((25088, FEATURES), (FEATURES, FEATURES), (FEATURES, 10))):
    net.classifier[3 * i] = torch.nn.Linear(inputs, outputs)
  return randomized(net)


def torch_taps(layers, x, taps):
  """NHWC outputs of the numbered layers."""
  x, found = torch.from_numpy(x).double().permute(0, 3, 1, 2), []
  for i, layer in enumerate(layers):
    x = layer(x)
    if i in taps:
      found.append(x.permute(0, 2, 3, 1).clone())  # ReLU works in place
  return found


def close(found, expected):
  expected = expected.numpy()
  assert found.shape == expected.shape and np.abs(expected).max() > 0.1
  np.testing.assert_allclose(
      found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


def test_every_tap_of_vgg16(torch_vgg):
  # Sizes that are no multiple of 16 lose rows and columns.
  x = np.random.RandomState(0).randn(2, 37, 50, 3).astype(np.float32)
  params = convert.fold_trunk(arrays(torch_vgg), 'vgg', 'the state')
  found = jax.jit(vgg.Trunk().apply)({'params': params}, x)
  # relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
  expected = torch_taps(torch_vgg.features, x, (3, 8, 15, 22, 29))
  for ours, theirs in zip(found, expected, strict=True):
    close(ours, theirs)


def test_every_tap_of_alexnet():
  net = official.package('torchvision').models.alexnet()
  del net.classifier
  net = randomized(net)
  x = np.random.RandomState(0).randn(2, 64, 71, 3).astype(np.float32)
  params = convert.fold_trunk(arrays(net), 'alex', 'the state')
  found = jax.jit(alexnet.Trunk().apply)({'params': params}, x)
  assert [tap.shape[1] for tap in found] == [15, 7, 3, 3, 3]
  expected = torch_taps(net.features, x, (1, 4, 7, 9, 11))
  for ours, theirs in zip(found, expected, strict=True):
    close(ours, theirs)


def test_fc2_is_that_of_torch_fidelity(torch_vgg, monkeypatch):
  package = official.package('torch_fidelity.feature_extractor_vgg16')
  variables = convert.fold_vgg16(arrays(torch_vgg), 'the state', FEATURES)
  x = np.random.RandomState(1).randint(0, 256, (2, 40, 40, 3), np.uint8)
  # From the pixels on, through its resizer of TensorFlow 1.
  found = jax.jit(lambda variables, x: vgg.VGG16(FEATURES).apply(
      variables, resize.resize(x, vgg.INPUT_SIZE, 'tf1')))(variables, x)
  monkeypatch.setattr(package, 'torchvision_load_pretrained_vgg16',
                      lambda **kwargs: torch_vgg)
  net = package.FeatureExtractorVGG16(
      'x', ['fc2_relu'], feature_extractor_internal_dtype='float64')
  (expected,) = net(torch.from_numpy(x).permute(0, 3, 1, 2))
  close(found, expected)


def test_another_size_is_refused():
  net = vgg.VGG16()
  with pytest.raises(ValueError, match='images .* were expected'):
    jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))


@pytest.mark.parametrize('net, size, count', [
    (vgg.Trunk(), 64, 14_714_688), (alexnet.Trunk(), 64, 2_469_696),
    # The classifier less its last layer, which has 4,097,000.
    (vgg.VGG16(), 224, 138_357_544 - 4_097_000)])
def test_published_parameter_counts(net, size, count):
  made = jax.eval_shape(
      net.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
  assert sum(x.size for x in jax.tree.leaves(made)) == count
