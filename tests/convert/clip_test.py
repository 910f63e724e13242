"""OpenAI's CLIP file, as archive and as state_dict, to the image tower."""

import hashlib
import logging

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
import torch

from gans_jax.convert import clip as convert
from gans_jax.core import errors
from gans_jax.metrics import clip_vit

SMALL = clip_vit.ClipVit(
    size=14, patch=7, width=64, layers=2, heads=1, features=12)


@pytest.fixture(scope='module')
def net():
  """A CLIP whose text tower is one matrix, in half precision."""
  torch.manual_seed(0)
  package = official.package('torch_fidelity.feature_extractor_clip')
  clip = package.CLIPVisual(SMALL.features, SMALL.size, SMALL.layers,
                            SMALL.width, SMALL.patch)
  clip.token_embedding = torch.nn.Embedding(5, 3)
  clip.forward = lambda image, text: (
      clip.visual(image), clip.token_embedding(text))
  return clip.eval().requires_grad_(False)


@pytest.fixture(scope='module')
def state(net):
  return {key: x.half().numpy() for key, x in net.state_dict().items()}


def equal(found, expected) -> bool:
  return jax.tree.all(jax.tree.map(np.array_equal, found, expected))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_the_archive_and_state_dicts(net, state, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(convert.clip_vit, 'ClipVit', lambda: SMALL)
  expected = convert.fold(state, 'x', SMALL)
  path = tmp_path / 'ViT-L-14-336px.pt'
  archive = torch.jit.trace(net, (
      torch.zeros(1, 3, SMALL.size, SMALL.size), torch.tensor([1])))
  torch.jit.save(archive.half(), path)
  found = convert.load(path)
  assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
  assert equal(found.variables, expected)
  assert {x.dtype for x in jax.tree.leaves(found.variables)} == {
      np.dtype('float32')}
  (record,) = caplog.records
  assert record.levelno == logging.WARNING
  assert convert.CLIP.sha256 in record.getMessage()
  for keep in ('', 'visual.'):
    torch.save({key: torch.from_numpy(x) for key, x in state.items()
                if key.startswith(keep)}, path)
    assert equal(convert.load(path).variables, expected)


def test_every_array_has_its_place(state):
  params = convert.fold(state, 'x', SMALL)['params']
  x = np.random.RandomState(0).randn(7, 7, 3)
  np.testing.assert_allclose(
      x.reshape(-1) @ params['conv1']['kernel'],
      np.einsum('hwc,ochw->o', x, state['visual.conv1.weight']), rtol=1e-5,
      atol=1e-5)
  block = params['resblocks_1']
  prefix = 'visual.transformer.resblocks.1'
  for ours, theirs in (('attn_in', 'attn.in_proj_'), ('c_fc', 'mlp.c_fc.'),
                       ('attn_out', 'attn.out_proj.'),
                       ('c_proj', 'mlp.c_proj.')):
    np.testing.assert_array_equal(
        block[ours]['kernel'].T, state[f'{prefix}.{theirs}weight'])
    np.testing.assert_array_equal(
        block[ours]['bias'], state[f'{prefix}.{theirs}bias'])
  np.testing.assert_array_equal(
      params['proj']['kernel'], state['visual.proj'])


def test_full_width_is_the_official_one():
  # Of one block, without the numbers: OpenAI's shapes and ours.
  net = clip_vit.ClipVit(layers=1)
  package = official.package('torch_fidelity.feature_extractor_clip')
  with torch.device('meta'):
    theirs = package.CLIPVisual(768, 336, 1, 1024, 14)
  state = {key: np.broadcast_to(np.float16(0), tuple(x.shape))
           for key, x in theirs.state_dict().items()}
  found = convert.fold(state, 'x', net)
  expected = jax.eval_shape(
      net.init, jax.random.key(0), jnp.zeros((1, 336, 336, 3)))
  assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, expected)


def test_other_networks_are_refused(state, tmp_path):
  # Of ViT-L/14 at 224 pixels, and of ViT-B/32.
  for key, shape, wanted in (
      ('positional_embedding', (257, 1024), (577, 1024)),
      ('conv1.weight', (768, 3, 32, 32), (1024, 3, 14, 14))):
    big = {'visual.conv1.weight': np.zeros((1024, 3, 14, 14)),
           'visual.class_embedding': np.zeros(1024),
           f'visual.{key}': np.zeros(shape)}
    with pytest.raises(errors.UserError) as e:
      convert.fold(big, 'x.pt')
    for fact in ('x.pt is not CLIP ViT-L/14 at 336 pixels', f"'visual.{key}'",
                 str(list(wanted)), str(list(shape)), convert.CLIP.url):
      assert fact in str(e.value)
  with pytest.raises(errors.UserError, match=(
      r'nothing among 1 keys \(vision_model.class_embedding')):
    convert.fold({'vision_model.class_embedding': np.zeros(3)}, 'x')
  key = 'visual.transformer.resblocks.1.mlp.c_proj.bias'
  few = {k: x for k, x in state.items() if k != key}
  with pytest.raises(errors.UserError, match=f"expected '{key}' .* nothing"):
    convert.fold(few, 'x', SMALL)
  with pytest.raises(errors.UserError, match='NaN or infinity in .visual.proj'):
    convert.fold({**state, 'visual.proj': np.full((64, 12), np.inf)}, 'x',
                 SMALL)
  path = tmp_path / 'x.pt'
  torch.save([torch.ones(2)], path)
  with pytest.raises(errors.UserError, match='a list, not the state_dict'):
    convert.load(path)
