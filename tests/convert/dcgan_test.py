"""Both layouts of official DCGAN weights, as PyTorch makes them."""

import jax
import numpy as np
import pytest
import torch

from gans_jax.convert import dcgan as convert
from gans_jax.convert import torch_file
from gans_jax.core import errors
from gans_jax.systems import dcgan


def examples_layers(net):
  """main.0 .. main.13 of pytorch/examples, narrow: 16 pixels, width 4."""
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


# The names that the WGAN repository gives to the same modules.
WGAN_NAMES = {
    'G': ['initial:6-8:convt', 'initial:8:batchnorm', 'initial:8:relu',
          'pyramid:8-4:convt', 'pyramid:4:batchnorm', 'pyramid:4:relu',
          'final:4-3:convt', 'final:3:tanh'],
    'D': ['initial:3-4:conv', 'initial:4:relu', 'pyramid:4-8:conv',
          'pyramid:8:batchnorm', 'pyramid:8:relu', 'final:8-1:conv'],
}


def network(net, layout):
  module = torch.nn.Module()
  module.main = examples_layers(net)
  if layout == 'wgan':
    named = torch.nn.Sequential()
    for name, layer in zip(WGAN_NAMES[net], module.main, strict=True):
      named.add_module(name, layer)
    module.main = named
  generator = torch.Generator().manual_seed(0)
  for name, x in module.state_dict().items():
    if x.dtype.is_floating_point:
      noise = torch.randn(x.shape, generator=generator)
      x.copy_(noise.abs() + 0.5 if 'var' in name else noise * 0.3)
  return module.eval()


def state_of(module):
  return {k: v.numpy() for k, v in module.state_dict().items()}


@pytest.mark.parametrize('layout', ['examples', 'wgan'])
def test_generator(layout):
  module = network('G', layout)
  z = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
  ours = dcgan.Generator(16, 3, 4).apply(
      convert.generator(state_of(module)), z, train=False)
  theirs = module.main(torch.tensor(z)[:, :, None, None]).detach().numpy()
  np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=2e-6)


@pytest.mark.parametrize('layout, sign', [('examples', 1), ('wgan', -1)])
def test_discriminator(layout, sign):
  module = network('D', layout)
  x = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
  ours = dcgan.Discriminator(16, 4).apply(
      convert.discriminator(state_of(module)), x, train=False)
  theirs = module.main(torch.tensor(x.transpose(0, 3, 1, 2)))
  # The code's critic is high on generated images, the paper's on real ones.
  np.testing.assert_allclose(ours, sign * theirs.detach().numpy().reshape(-1),
                             rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('net, function', [
    ('G', convert.generator), ('D', convert.discriminator)])
@pytest.mark.parametrize('layout', ['examples', 'wgan'])
def test_round_trip(net, function, layout):
  state = state_of(network(net, layout))
  back = convert.to_torch(function(state), layout)
  assert list(back) == list(state)
  for key, value in state.items():
    np.testing.assert_array_equal(back[key], value)


def test_every_key_of_the_official_files():
  """The keys of netG_epoch_N.pth and netD_epoch_N.pth at 64 pixels."""
  for module, function, convs, norms in (
      (dcgan.Generator(64), convert.generator, (0, 3, 6, 9, 12),
       (1, 4, 7, 10)),
      (dcgan.Discriminator(64), convert.discriminator, (0, 2, 5, 8, 11),
       (3, 6, 9))):
    x = (np.zeros((1, 100), 'f') if norms[0] == 1 else
         np.zeros((1, 64, 64, 3), 'f'))
    variables = jax.tree.map(
        lambda s: np.zeros(s.shape, s.dtype),
        jax.eval_shape(lambda m=module, x=x: m.init(jax.random.key(0), x,
                                                    train=True)))
    state = convert.to_torch(variables, 'examples')
    assert set(state) == {
        *(f'main.{i}.weight' for i in convs),
        *(f'main.{i}.{name}' for i in norms for name in (
            'weight', 'bias', 'running_mean', 'running_var',
            'num_batches_tracked'))}
    assert jax.tree.structure(function(state)) == jax.tree.structure(variables)


def test_first_versions_have_dots_for_colons():
  state = state_of(network('G', 'wgan'))
  dotted = {key.replace(':', '.'): value for key, value in state.items()}
  ours, expected = convert.generator(dotted), convert.generator(state)
  jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_without_normalization():
  state = {key: value for key, value in state_of(network('G', 'wgan')).items()
           if 'batchnorm' not in key}
  variables = convert.generator(state)
  assert list(variables) == ['params']
  assert convert.settings(state)['model.norm_G'] == 'none'


def test_settings():
  expected = {'data.resolution': 16, 'data.channels': 3, 'model.z_dim': 6,
              'model.ngf': 4}
  assert convert.settings(state_of(network('G', 'examples'))) == expected
  assert convert.settings(state_of(network('G', 'wgan'))) == {
      **expected, 'model.norm_G': 'batch'}


def test_through_a_file(tmp_path):
  module = network('G', 'examples')
  torch.save(module.state_dict(), tmp_path / 'netG_epoch_24.pth')
  variables = convert.generator(
      torch_file.load(tmp_path / 'netG_epoch_24.pth'))
  expected = convert.generator(state_of(module))
  jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_other_networks_are_refused():
  generator = state_of(network('G', 'examples'))
  critic = state_of(network('D', 'wgan'))
  for function, state, words in (
      (convert.discriminator, generator, 'exchanged'),
      (convert.generator, critic, 'exchanged'),
      (convert.generator, {'conv1.weight': np.zeros(3)}, 'conv1.weight'),
      (convert.generator, {'main.0.weight': np.zeros((3, 3))}, '4x4'),
      (convert.generator, {**state_of(network('G', 'wgan')),
                           'main.extra-layers-0:4:conv.weight':
                               np.zeros((4, 4, 3, 3))}, 'n_extra_layers')):
    with pytest.raises(errors.UserError, match=words):
      function(state)
