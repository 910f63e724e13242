"""Files of torchvision and of lpips, read or refused."""

import hashlib
import logging

import numpy as np
import pytest
import torch

from gans_jax.convert import lpips as convert
from gans_jax.core import errors

CONVS = {
    'vgg': {0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3),
            10: (256, 128, 3), 12: (256, 256, 3), 14: (256, 256, 3),
            17: (512, 256, 3), 19: (512, 512, 3), 21: (512, 512, 3),
            24: (512, 512, 3), 26: (512, 512, 3), 28: (512, 512, 3)},
    'alex': {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3),
             8: (256, 384, 3), 10: (256, 256, 3)},
}
TAPS = {'vgg': (64, 128, 256, 512, 512), 'alex': (64, 192, 384, 256, 256)}
NAMES = {'vgg': {0: 'conv1_1', 10: 'conv3_1', 28: 'conv5_3'},
         'alex': {0: 'conv1', 6: 'conv3', 10: 'conv5'}}
NETS = pytest.mark.parametrize('net', ['vgg', 'alex'])


def trunk_state(net):
  r, state = np.random.default_rng(0), {}
  for index, (o, i, k) in CONVS[net].items():
    state[f'features.{index}.weight'] = r.random((o, i, k, k), np.float32)
    state[f'features.{index}.bias'] = r.random(o, np.float32)
  return state


def head_state(net):
  r = np.random.default_rng(1)
  return {f'lin{i}.model.1.weight': r.random((1, n, 1, 1), np.float32)
          for i, n in enumerate(TAPS[net])}


def save(path, state, zipped=True):
  path.parent.mkdir(parents=True, exist_ok=True)
  torch.save({key: torch.from_numpy(x) for key, x in state.items()}, path,
             _use_new_zipfile_serialization=zipped)
  return path


@NETS
def test_files_of_both_forms(tmp_path, net, caplog):
  trunk, heads = trunk_state(net), head_state(net)
  paths = (save(tmp_path / 'trunk.pth', trunk, zipped=False),
           save(tmp_path / 'heads.pth', heads))
  found = convert.load_lpips(net, *paths)
  hashes = [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]
  assert found.sha256 == '+'.join(hashes)
  params = found.variables['params']
  assert len(params['trunk']) == len(CONVS[net])
  for index, name in NAMES[net].items():
    np.testing.assert_array_equal(
        params['trunk'][name]['kernel'],
        trunk[f'features.{index}.weight'].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        params['trunk'][name]['bias'], trunk[f'features.{index}.bias'])
  for i, n in enumerate(TAPS[net]):
    np.testing.assert_array_equal(
        params[f'head_{i}'], heads[f'lin{i}.model.1.weight'].reshape(n))
  # Neither is the published file: said once for each, and not held against it.
  assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
  assert convert.TRUNKS[net].sha256 in caplog.records[0].getMessage()


def test_vgg16_flattens_as_torch_does(tmp_path):
  state, n = trunk_state('vgg'), 3
  r = np.random.default_rng(2)
  state |= {'classifier.0.weight': r.random((n, 25088), np.float32),
            'classifier.0.bias': r.random(n, np.float32),
            'classifier.3.weight': r.random((n, n), np.float32),
            'classifier.3.bias': r.random(n, np.float32)}
  params = convert.fold_vgg16(state, 'x', features=n)['params']
  x = r.random((512, 7, 7), np.float32)
  np.testing.assert_allclose(
      x.transpose(1, 2, 0).reshape(-1) @ params['fc1']['kernel'],
      state['classifier.0.weight'] @ x.reshape(-1), rtol=1e-4)
  np.testing.assert_array_equal(
      params['fc2']['kernel'], state['classifier.3.weight'].T)
  with pytest.raises(errors.UserError, match=(
      r"VGG16 .*'classifier.0.weight' of shape \[4096, 25088\], found "
      r'\[3, 25088\]')):
    convert.load_vgg16(save(tmp_path / 'vgg.pth', state))


def test_other_networks_are_refused(tmp_path):
  vgg, alex = trunk_state('vgg'), trunk_state('alex')
  with pytest.raises(errors.UserError, match=(
      r"x is not AlexNet .* 'features.0.weight' of shape \[64, 3, 11, 11\], "
      r'found \[64, 3, 3, 3\]. Fetch http')):
    convert.fold_trunk(vgg, 'alex', 'x')
  with pytest.raises(errors.UserError, match=r'x is not VGG16 .*found \[64, 3'):
    convert.fold_trunk(alex, 'vgg', 'x')
  with pytest.raises(errors.UserError, match=(
      r'x is not VGG16 .*found nothing among 1 keys \(main.0.weight')):
    convert.fold_trunk({'main.0.weight': np.ones(2)}, 'vgg', 'x')
  with pytest.raises(errors.UserError, match='NaN or infinity in .features.6'):
    convert.fold_trunk({**alex, 'features.6.bias': np.full(
        384, np.nan, np.float32)}, 'alex', 'x')
  heads = head_state('vgg')
  with pytest.raises(errors.UserError, match=(
      r"heads .* for AlexNet: expected 'lin1.model.1.weight' of shape "
      r'\[1, 192, 1, 1\], found \[1, 128, 1, 1\]')):
    convert.fold_heads(heads, 'alex', 'x')
  heads['lin3.model.1.weight'] = -heads['lin3.model.1.weight']
  with pytest.raises(errors.UserError, match='negative weights in .lin3'):
    convert.fold_heads(heads, 'vgg', 'x')
  path = tmp_path / 'x.pth'
  torch.save(torch.ones(2), path)
  with pytest.raises(errors.UserError, match='a ndarray, not the state_dict'):
    convert.load_lpips('alex', path)
  path.write_bytes(b'<html>404')
  with pytest.raises(errors.UserError, match='x.pth is no readable pickle'):
    convert.load_lpips('alex', path)
