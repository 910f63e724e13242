"""The image tower of CLIP against OpenAI's code, on shared random weights.

torch-fidelity carries OpenAI's module, on torch.nn.MultiheadAttention; it runs
in float64 here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
import torch

from gans_jax.convert import clip as convert
from gans_jax.metrics import clip_vit

SMALL = clip_vit.ClipVit(
    size=21, patch=7, width=32, layers=3, heads=4, features=12)


def openai():
  return official.package('torch_fidelity.feature_extractor_clip')


@pytest.fixture(scope='module')
def net():
  """OpenAI's module for `SMALL`, with every parameter of some effect."""
  tower = openai().VisionTransformer(
      SMALL.size, SMALL.patch, SMALL.width, SMALL.layers, SMALL.heads,
      SMALL.features)
  root = torch.nn.Module()
  root.visual = tower
  g = torch.Generator().manual_seed(0)
  for key, x in root.state_dict().items():
    gain = key.endswith('.weight') and '.ln_' in key
    x.normal_(1.0 if gain else 0.0, 0.3, generator=g)
  return root.eval().requires_grad_(False)


@pytest.fixture(scope='module')
def images():
  return np.random.RandomState(0).uniform(
      0, 255, (3, SMALL.size, SMALL.size, 3)).astype(np.float32)


def test_embeddings_are_those_of_openai(net, images):
  state = {key: x.numpy().copy() for key, x in net.state_dict().items()}
  found = jax.jit(SMALL.apply)(
      convert.fold(state, 'the state', SMALL), images)
  assert found.dtype == jnp.float32
  mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
  std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
  x = (torch.from_numpy(images).double() / 255 - mean) / std
  net.double()
  expected = net.visual(x.permute(0, 3, 1, 2)).numpy()
  net.float()
  assert found.shape == expected.shape == (3, SMALL.features)
  assert np.abs(expected[0] - expected[1]).max() > 0.1
  np.testing.assert_allclose(
      found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_quick_gelu_by_hand():
  # 2 / (1 + exp(-3.404)), and its limits.
  np.testing.assert_allclose(
      clip_vit.quick_gelu(jnp.array([2.0, 0.0, 60.0, -60.0])),
      [2 / (1 + np.exp(-3.404)), 0, 60, 0], rtol=1e-6, atol=1e-30)


def test_another_size_is_refused():
  with pytest.raises(ValueError, match=r'images \[N, 336, 336, 3\] were exp'):
    jax.eval_shape(clip_vit.ClipVit().init, jax.random.key(0),
                   jnp.zeros((1, 224, 224, 3)))


def test_published_parameter_count():
  made = jax.eval_shape(clip_vit.ClipVit().init, jax.random.key(0),
                        jnp.zeros((1, 336, 336, 3)))
  block = 2 * 2 * 1024 + 4 * 1024 * 1024 + 4 * 1024 + (
      2 * 4 * 1024 * 1024 + 5 * 1024)
  count = (14 * 14 * 3 * 1024 + 1024 + (24 * 24 + 1) * 1024 + 2 * 2 * 1024 +
           24 * block + 1024 * 768)
  assert count == 304_293_888
  assert sum(x.size for x in jax.tree.leaves(made)) == count
  with torch.device('meta'):
    net = openai().CLIPVisual(768, 336, 24, 1024, 14)
  assert sum(x.numel() for x in net.parameters()) == count
