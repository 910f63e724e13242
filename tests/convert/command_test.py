"""Official files through the command: DCGAN to images, Inception to .npz."""

import importlib

import jax
import numpy as np
import pytest
import runs
import torch

import gans_jax
from gans_jax.convert import inception
from gans_jax.core import cli

command = importlib.import_module('gans_jax.convert.__main__')


def layers(net):
  """pytorch/examples at 16 pixels, as narrow as can be."""
  t = torch.nn
  if net == 'G':
    return t.Sequential(
        t.ConvTranspose2d(6, 8, 4, 1, 0, bias=False), t.BatchNorm2d(8),
        t.ReLU(True), t.ConvTranspose2d(8, 4, 4, 2, 1, bias=False),
        t.BatchNorm2d(4), t.ReLU(True),
        t.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), t.Tanh())
  return t.Sequential(
      t.Conv2d(3, 4, 4, 2, 1, bias=False), t.LeakyReLU(0.2),
      t.Conv2d(4, 8, 4, 2, 1, bias=False), t.BatchNorm2d(8),
      t.LeakyReLU(0.2), t.Conv2d(8, 1, 4, 1, 0, bias=False))


@pytest.fixture(scope='module')
def official(tmp_path_factory):
  """{net: (module, file)}, seeded, with statistics that are not 0 and 1."""
  folder, found = tmp_path_factory.mktemp('official'), {}
  torch.manual_seed(0)
  for net in 'GD':
    module = torch.nn.Module()
    module.main = layers(net)
    for layer in module.main:
      if isinstance(layer, torch.nn.BatchNorm2d):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
      if net == 'G':
        module.main[6].weight.mul_(20.0)  # images of every grey level
    path = folder / f'net{net}_epoch_24.pth'
    torch.save(module.state_dict(), path)
    found[net] = module.eval(), path
  return found


def call(*arguments) -> int:
  return cli.call(command.main, [str(a) for a in arguments])


def test_converted_weights_give_the_official_images(official, tmp_path, capsys):
  out = tmp_path / 'official'
  (g, g_path), (d, d_path) = official['G'], official['D']
  assert call('--format=dcgan', f'--checkpoint={g_path}',
              f'--discriminator={d_path}', f'--out={out}') == cli.DONE
  assert f'--workdir={out}' in capsys.readouterr().out
  ours = gans_jax.load(str(out))
  z = np.asarray(ours.z(range(8)))
  with torch.no_grad():
    images = g.main(torch.tensor(z)[:, :, None, None])
    images = images.permute(0, 2, 3, 1).numpy()
  pixels = np.clip(np.rint(images * 127.5 + 127.5), 0, 255)
  found = ours(seeds=range(8)).astype(int)
  assert found.std() > 20
  assert np.abs(found - pixels).max() <= 1  # a float on the edge of rounding
  assert (found == pixels).mean() > 0.999
  exact = ours.system.generate(ours.variables, ours.keys(range(8)))
  np.testing.assert_allclose(exact, images, atol=1e-5)

  x = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype('f')
  with torch.no_grad():
    logits = d.main(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().reshape(-1)
  np.testing.assert_allclose(
      ours.system.nets['D'].apply(ours.variables['D'], x, train=False),
      logits, rtol=1e-4, atol=1e-5)


def test_a_generator_alone(official, tmp_path):
  out = tmp_path / 'alone'
  path = official['G'][1]
  assert call('--format=dcgan', f'--checkpoint={path}',
              f'--out={out}') == cli.DONE
  assert gans_jax.load(str(out))([3]).shape == (1, 16, 16, 3)
  state = runs.arrays(out, 0)
  assert all(np.isfinite(x).all() for x in state.values()
             if x.dtype.kind == 'f')
  assert len(jax.tree.leaves(state)) > 20


def test_refusals(official, tmp_path, capsys):
  g, d = official['G'][1], official['D'][1]
  cut = tmp_path / 'cut.pth'
  cut.write_bytes(g.read_bytes()[:-200])
  out = tmp_path / 'out'
  for options, words in (
      ([f'--checkpoint={tmp_path}/no.pth'], ['no.pth']),
      ([f'--checkpoint={cut}'], ['cut.pth']),
      ([f'--checkpoint={d}'], ['exchanged']),
      ([f'--checkpoint={g}', f'--discriminator={g}'], ['exchanged']),
      ([f'--checkpoint={g}', '--config.model.ngf=8'],
       ['netG_epoch_24.pth', 'is not of this network',
        'shape (8,) in the file, and (16,)']),
      ([f'--checkpoint={g}', '--config.model.nfg=8'], ["'model.ngf'"])):
    code = call('--format=dcgan', *options, f'--out={out}')
    runs.refused(capsys, code, *words)
    assert not out.exists()
  assert call('--format=dcgan', f'--checkpoint={g}', f'--out={out}') == 0
  capsys.readouterr()
  code = call('--format=dcgan', f'--checkpoint={g}', f'--out={out}')
  runs.refused(capsys, code, 'holds these weights already')


def test_inception_to_our_own_form(tmp_path, capsys):
  r, state = np.random.default_rng(0), {}
  for module, (*kernel, i, o) in inception._shapes().items():
    shape = (o, i, *kernel)
    if module == 'fc':
      state |= {'fc.weight': torch.zeros(shape), 'fc.bias': torch.zeros(o)}
      continue
    # Of one number each, which takes no space in the file.
    state[f'{module}.conv.weight'] = torch.tensor(
        r.random(1, np.float32)).expand(shape)
    for part in ('bias', 'running_mean', 'running_var'):
      state[f'{module}.bn.{part}'] = torch.tensor(
          r.random(1, np.float32)).expand(o)
  path = tmp_path / 'pt_inception.pth'
  torch.save(state, path)
  expected = inception.read(path)

  options = '--format=inception', f'--checkpoint={path}'
  for out, made in ((tmp_path / 'folder', 'inception-2015-12-05.npz'),
                    (tmp_path / 'other' / 'x.npz', '')):
    assert call(*options, f'--out={out}') == cli.DONE
    assert f'--inception_weights={out / made}' in capsys.readouterr().out
    found = inception.read(out / made)
    assert found.sha256 == expected.sha256
    assert jax.tree.all(jax.tree.map(
        np.array_equal, found.variables, expected.variables))
    runs.refused(capsys, call(*options, f'--out={out}'),
                 str(out / made), 'exists already')

  assert command.INCEPTION_NPZ in inception.INCEPTION.names

  out = tmp_path / 'new.npz'
  for extra, words in (
      ([f'--discriminator={path}'], ['--discriminator has no meaning']),
      (['--config.seed=3'], ['--config.seed=3 has no meaning']),
      ([f'--checkpoint={tmp_path}/no.pth'], ['no.pth cannot be read'])):
    runs.refused(capsys, call(*options, *extra, f'--out={out}'), *words)
    assert not out.exists()
