"""Checkpoints of PyTorch-StudioGAN give their images and logits here.

golden/studiogan.npz has outputs of PyTorch-StudioGAN (commit 947b35e) on the
CPU in evaluation mode, spectral normalization by torch.nn.utils with stored
vectors. Every array was filled by `state_dict` below from its name alone.
Networks, all with 5 classes but 'plain' (g_cond_mtd and d_cond_mtd W/O): of
backbone resnet 'sngan' and 'plain' (32 pixels, z_dim 6, g_conv_dim 2,
d_conv_dim 4, G not normalized) and 'sagan' (64, 6, 8, 8, attention after block
3 of G and 1 of D); of big_resnet 'biggan' (64, 20, 8, 8, the same attention,
g_shared_dim 6); of big_resnet_deep_legacy 'deep' (32, 6, 2, 2, attention after
2 and 1, 6, depths 2). Kept are the shapes of the state dicts, every fourth
pixel of the first two images of z [3, z_dim] = RandomState(0).normal and
labels 4, 0, 2, and the logits of RandomState(2).uniform(-1, 1) [3, 3, r, r].
"""

import importlib
import json
import os
import pathlib
import zlib

import jax
import numpy as np
import pytest
import runs
import torch

import gans_jax
from gans_jax import evaluate
from gans_jax.convert import studiogan
from gans_jax.core import cli
from gans_jax.core import errors

command = importlib.import_module('gans_jax.convert.__main__')

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'studiogan.npz'
FAST = {'xla_backend_optimization_level': 0}
LABELS = np.array([4, 0, 2])
SETTINGS = {
    'sngan': ('sagan', {
        'model.ch_G': 8, 'model.ch_D': 8, 'model.attention': 'none',
        'model.spectral_G': False, 'model.conditioning': 'projection'}),
    'plain': ('sagan', {'model.conditioning': 'none',
                        'data.labels': 'none'}),
    'sagan': ('sagan', {
        'data.resolution': 64, 'model.ch_G': 8, 'model.ch_D': 8,
        'model.attention': '32', 'model.spectral_G': True}),
    'biggan': ('biggan', {
        'data.resolution': 64, 'model.layout': 'studiogan', 'model.ch_G': 8,
        'model.ch_D': 8, 'model.z_dim': 20, 'model.shared_dim': 6,
        'model.attention_G': '32', 'model.attention_D': '32'}),
    'deep': ('biggan', {
        'model.variant': 'deep', 'model.z_dim': 6, 'model.ch_G': 2,
        'model.ch_D': 2, 'model.attention_G': '16',
        'model.attention_D': '16'}),
}


def value(name: str, shape) -> np.ndarray:
  draw = np.random.RandomState(zlib.crc32(name.encode()))
  x = draw.normal(size=shape).astype(np.float32)
  if name.endswith('var'):
    return np.abs(x) + np.float32(0.5)
  if 'weight' in name and len(shape) > 1:
    return x / np.sqrt(np.prod(shape[1:])).astype(np.float32)
  return (0.3 * x).astype(np.float32)


def state_dict(kind: str, net: str) -> dict[str, np.ndarray]:
  with np.load(GOLDEN) as golden:
    shapes = json.loads(str(golden[f'{kind}/{net}']))
  state = {}
  for name, shape in shapes.items():
    if name.endswith(('weight_u', 'weight_v')):
      weight = value(f'{name[:-2]}_orig', shapes[f'{name[:-2]}_orig'])
      u, _, v = np.linalg.svd(weight.reshape(len(weight), -1),
                              full_matrices=False)
      state[name] = u[:, 0] if name.endswith('u') else v[0]
    elif name.endswith('num_batches_tracked'):
      state[name] = np.zeros([], np.int64)
    else:
      state[name] = value(name, shape)
  return state


def saved(folder, kind: str, net: str, **more) -> pathlib.Path:
  """Writes a file as StudioGAN does, beside an optimizer and facts."""
  path = folder / f'model={net}-best-weights-step=3.pth'
  torch.save({'state_dict': {key: torch.tensor(x) for key, x in
                             {**state_dict(kind, net[0]), **more}.items()},
              'optimizer': {'state': {0: {'step': torch.zeros([])}},
                            'param_groups': [{'betas': (0.5, 0.999)}]},
              'best_fid': np.float64(4.16)}, path)
  return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('studiogan')


@pytest.mark.parametrize('kind', [
    'sagan', *(pytest.param(kind, marks=pytest.mark.slow)
               for kind in ('sngan', 'plain', 'biggan', 'deep'))])
def test_networks_of_studiogan(kind):
  golden = np.load(GOLDEN)
  snapshot = studiogan.snapshot(state_dict(kind, 'G'), state_dict(kind, 'D'))
  name, settings = SETTINGS[kind]
  assert snapshot.system == name
  assert settings.items() <= snapshot.settings.items()
  assert snapshot.num_classes == (0 if kind == 'plain' else 5)
  _, _, system = command.create(snapshot, dict.fromkeys('GD', 'file'), [], {})
  z = np.random.RandomState(0).normal(
      size=(3, snapshot.settings['model.z_dim'])).astype(np.float32)
  labels = None if kind == 'plain' else LABELS
  size = snapshot.settings['data.resolution']
  x = np.random.RandomState(2).uniform(-1, 1, (3, 3, size, size))

  @jax.jit(compiler_options=FAST)
  def run(nets, z, x):
    return (system.nets['G'].apply(nets['G'], z, labels, False),
            system.nets['D'].apply(nets['D'], x, labels)[0])

  images, logits = run(snapshot.nets, z,
                       x.transpose(0, 2, 3, 1).astype(np.float32))
  np.testing.assert_allclose(images[:2, ::4, ::4], golden[f'{kind}/image'],
                             atol=1e-4)
  np.testing.assert_allclose(logits, golden[f'{kind}/logits'], rtol=1e-4,
                             atol=1e-3)


def call(*arguments) -> int:
  return cli.call(command.main, ['--format=studiogan', *map(str, arguments)])


def test_files_become_a_workdir(folder, tmp_path, capsys):
  """Live and averaged weights, D, and the images that they came with."""
  average = {'conv2d5.bias': value('conv2d5.bias', [3]) + np.array(
      [0.5, 0.0, -0.5], np.float32)}
  files = [f'--checkpoint={saved(folder, "sngan", "G")}',
           f'--ema={saved(folder, "sngan", "G_ema", **average)}',
           f'--discriminator={saved(folder, "sngan", "D")}']
  out = tmp_path / 'out'
  assert call(*files, f'--out={out}') == cli.DONE
  assert f'--workdir={out}' in capsys.readouterr().out
  expected = np.load(GOLDEN)['sngan/image']
  z = np.random.RandomState(0).normal(size=(3, 6)).astype(np.float32)
  live = gans_jax.load(str(out), weights='live')
  images = live(z=z, label=LABELS)[:2, ::4, ::4].astype(int)
  pixels = np.clip(expected * 127.5 + 128, 0, 255).astype(int)
  assert np.abs(images - pixels).max() <= 1 and (images == pixels).mean() > 0.9
  ema = gans_jax.load(str(out))
  raised = ema(z=z, label=LABELS)[:2, ::4, ::4].astype(int) - images
  assert ema.weights == 'ema' and raised[..., 0].min() >= 0
  assert raised[..., 0].max() > 20 and np.abs(raised[..., 1]).max() <= 1
  assert live.config.model.attention == 'none'
  x = np.random.RandomState(2).uniform(-1, 1, (3, 3, 32, 32))
  logits, _ = jax.jit(live.system.nets['D'].apply)(
      live.variables['D'], x.transpose(0, 2, 3, 1).astype(np.float32), LABELS)
  np.testing.assert_allclose(logits, np.load(GOLDEN)['sngan/logits'],
                             rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_workdir_is_evaluated(folder, tmp_path):
  out = tmp_path / 'out'
  assert call(f'--checkpoint={saved(folder, "plain", "G")}', f'--out={out}',
              '--config.data.source=emoji:noto', '--config.data.limit=64'
              ) == cli.DONE
  assert cli.call(evaluate.main, [
      f'--workdir={out}', '--metrics=fd16_lite0']) == cli.DONE
  result = json.loads((out / 'evaluations.jsonl').read_text())
  assert result['fake']['step'] == 0 and result['value'] > 0


# --- Refusals ----------------------------------------------------------------


def test_other_networks_are_refused():
  g, d = state_dict('sngan', 'G'), state_dict('sngan', 'D')
  big = state_dict('deep', 'G')
  for state, critic, words in (
      (d, None, "no 'linear0'"),
      (g, g, "no 'linear1.weight'"),
      ({}, None, 'holds dict'),
      ({'linear0.weight': 'text'}, None, 'holds dict'),
      ({'linear0.weight': np.broadcast_to(np.float32(0), (2**16, 2**15))},
       None, 'claim more than'),
      ({'main.0.weight': np.zeros([2, 2])}, None, 'no blocks.0'),
      ({**g, 'info_mix_linear.weight': np.zeros([2, 2])}, None,
       'info_mix_linear'),
      (g, {**d, 'linear2.weight_orig': np.zeros([5, 8])}, 'linear2'),
      (g, state_dict('sagan', 'D'), 'not that of a generator for 32'),
      ({**big, 'blocks.0.0.conv2d0.weight_orig': np.zeros([8, 8, 1, 1])},
       None, 'deep_studiogan'),
      (big, d, "that of 'deep' at 32 pixels"),
  ):
    with pytest.raises(errors.UserError, match=words):
      studiogan.snapshot(state, critic)
  wide = {**g, 'linear0.weight': np.repeat(g['linear0.weight'], 2, 0),
          'linear0.bias': np.repeat(g['linear0.bias'], 2, 0)}
  with pytest.raises(errors.UserError, match='no SAGAN has such widths'):
    studiogan.snapshot(wide)
  sagan = {'D': state_dict('sagan', 'D'), 'G': {
      key: x for key, x in state_dict('sagan', 'G').items()
      if not key.startswith('blocks.3')}}
  last = {key.replace('blocks.4', 'blocks.3'): x
          for key, x in sagan['G'].items()}
  with pytest.raises(errors.UserError, match='attends at none, the disc'):
    studiogan.snapshot(last, sagan['D'])


def test_files_are_refused(folder, tmp_path, capsys):
  g, d = (saved(folder, 'sngan', net) for net in 'GD')
  bare, code = tmp_path / 'bare.pth', tmp_path / 'code.pth'
  torch.save({'linear0.weight': torch.zeros(2, 2)}, bare)
  torch.save({'state_dict': os.system}, code)
  for options, words in (
      ([f'--checkpoint={bare}'], ['bare.pth is no checkpoint of PyTorch-S']),
      ([f'--checkpoint={code}'], ['code.pth is no checkpoint of PyTorch-S']),
      ([f'--checkpoint={d}'], ["no 'linear0'"]),
      ([f'--checkpoint={g}', f'--ema={d}'], ["no 'linear0'"]),
      ([f'--checkpoint={g}', '--yaml=x'], ['--yaml has no meaning']),
      ([f'--checkpoint={g}', '--truncation=1'], ['--truncation has no mean']),
      ([f'--checkpoint={g}', '--config.model.ch_G=16'],
       ['is not of this network'])):
    runs.refused(capsys, call(*options, f'--out={tmp_path}/out'), *words)
    assert not (tmp_path / 'out').exists()
