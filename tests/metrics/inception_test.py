"""The FID network against the official ones, on shared random weights."""

import functools

import jax
import numpy as np
import official
import pytest
import torch
import torch.nn.functional as F

from gans_jax.convert import inception as convert
from gans_jax.core import compilation
from gans_jax.metrics import inception
from gans_jax.metrics import resize

TAPS = ('64', '192', '768', '2048', 'logits_unbiased', 'logits')


@pytest.fixture(scope='module')
def state():
  """A state_dict of pytorch-fid's form.

  Activations are of about one size everywhere, statistics not 0 and 1.
  """
  r, tensors = np.random.default_rng(0), {}
  for module, shape in convert._shapes().items():
    if module == 'fc':
      tensors['fc.weight'] = r.standard_normal(shape[::-1], np.float32) / 32
      tensors['fc.bias'] = r.standard_normal(shape[1], np.float32)
      continue
    kh, kw, i, o = shape
    scale = np.float32((2 / (kh * kw * i)) ** 0.5)
    tensors[f'{module}.conv.weight'] = scale * r.standard_normal(
        (o, i, kh, kw), np.float32)
    for part in ('weight', 'running_var'):
      tensors[f'{module}.bn.{part}'] = 0.5 + r.random(o, np.float32)
    for part in ('bias', 'running_mean'):
      tensors[f'{module}.bn.{part}'] = 0.2 * r.standard_normal(o, np.float32)
    tensors[f'{module}.bn.num_batches_tracked'] = np.zeros([], np.int64)
  return tensors


@pytest.fixture(scope='module')
def images():
  """Of all frequencies: resizers must not be told apart by noise alone."""
  r = np.random.RandomState(0)
  coarse = np.kron(r.randint(0, 200, (2, 8, 8, 3)), np.ones((1, 9, 9, 1)))
  return (coarse + r.randint(0, 56, coarse.shape)).astype(np.uint8)


@pytest.fixture(scope='module')
def variables(state):
  return convert.fold(state, 'the state')


@pytest.fixture(scope='module')
def taps(variables, images):
  """Our taps of the images, by resizer."""

  @functools.partial(jax.jit, compiler_options=compilation.options(0))
  def compute(variables, x, midpoint):
    # The midpoint is an argument here, so that all resizers compile once.
    return inception.FidInception(midpoint).apply(variables, x)

  found = {}
  for mode in ('tf1', 'half_pixel'):
    x = resize.resize(images, inception.INPUT_SIZE, mode)
    found[mode] = compute(variables, x, inception.MIDPOINTS[mode])
  return found


def as_torch(state):
  return {key: torch.from_numpy(x) for key, x in state.items()}


def close(found, expected, name):
  expected = expected.numpy()
  assert found.shape == expected.shape, name
  assert expected.std() > 0.05 * np.abs(expected).max(), name
  np.testing.assert_allclose(
      found, expected, rtol=0, atol=3e-6 * np.abs(expected).max(),
      err_msg=name)


def test_every_tap_is_that_of_torch_fidelity(state, images, taps, monkeypatch):
  package = official.package('torch_fidelity.feature_extractor_inceptionv3')
  monkeypatch.setattr(package, 'load_state_dict_from_url',
                      lambda *args, **kwargs: as_torch(state))
  net = package.FeatureExtractorInceptionV3('x', list(TAPS))
  spatial = []
  net.Mixed_6d.branch1x1.register_forward_hook(
      lambda module, inputs, output: spatial.append(output))
  # From the pixels on: it resizes as TensorFlow 1 does.
  expected = net(torch.from_numpy(images).permute(0, 3, 1, 2))
  found = dict(taps['tf1'])
  for name, tap in zip(TAPS, expected, strict=True):
    close(found.pop(name), tap, name)
  # sFID's: the first seven channels, pixels row by row.
  close(found.pop('spatial'),
        spatial[0][:, :7].permute(0, 2, 3, 1).reshape(2, 17 * 17 * 7),
        'spatial')
  assert not found


def test_every_tap_is_that_of_pytorch_fid(state, images, taps, monkeypatch):
  package = official.package('pytorch_fid.inception')
  monkeypatch.setattr(package, 'load_state_dict_from_url',
                      lambda *args, **kwargs: as_torch(state))
  net = package.InceptionV3([0, 1, 2, 3]).eval()
  with torch.inference_mode():
    expected = net(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
  for name, tap in zip(TAPS, expected, strict=False):
    close(taps['half_pixel'][name], tap.mean((2, 3)), name)


def test_the_two_packages_differ(taps):
  # Guards the tests above: resizer and midpoint show in the features.
  gap = np.abs(taps['tf1']['2048'] - taps['half_pixel']['2048'])
  assert gap.max() > 1e-2 * np.abs(taps['tf1']['2048']).max()


def test_resizers_of_this_network_have_midpoints():
  assert inception.MIDPOINTS == {
      'tf1': 128.0, 'half_pixel': 127.5, 'clean': 128.0}
  assert set(inception.MIDPOINTS) <= set(resize.MODES)


def test_published_parameter_counts(variables):
  # Of what `apply` took, and so has the shapes of the network.
  params = dict(variables['params'])
  fc = params.pop('fc')
  assert sum(x.size for x in jax.tree.leaves(fc)) == 2_065_392
  leaves = jax.tree_util.tree_leaves_with_path(params)
  kernels = [x for path, x in leaves if path[-1].key == 'kernel']
  biases = [x for path, x in leaves if path[-1].key == 'bias']
  assert len(kernels) == len(biases) == 94
  assert sum(x.size for x in kernels) == 21_751_136
  assert sum(x.size for x in biases) == 17_216
  assert inception.SPATIAL_FEATURES == 2023


@pytest.mark.parametrize('size', [7, 8])
def test_pools_are_those_of_torch(size):
  x = np.random.RandomState(0).randn(2, size, size + 3, 4).astype(np.float32)
  t = torch.from_numpy(x).permute(0, 3, 1, 2)
  for found, expected in (
      (inception.max_pool(x), F.max_pool2d(t, 3, 2)),
      (inception.max_pool(x, stride=1), F.max_pool2d(t, 3, 1, 1)),
      (inception.mean_pool(x),
       F.avg_pool2d(t, 3, 1, 1, count_include_pad=False))):
    np.testing.assert_allclose(
        found, expected.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)
