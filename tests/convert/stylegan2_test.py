"""StyleGAN2 of four repositories: names, layouts, images.

The stored images of tests/golden/stylegan2_pickle.npz are those of
stylegan2-ada-pytorch (its networks on CPU, `noise_mode`, float32), whose
weights were set by `stylegan2_weights.value`, times 0.9 in G_ema, and which it
pickled. The pickle of the tests has the same weights, globals and structure.
"""

import functools
import importlib
import os
import pathlib
import re

import jax
import network_pickles
import numpy as np
import pytest
import runs
import stylegan2_weights
import torch

import gans_jax
from gans_jax.convert import network_pickle
from gans_jax.convert import rosinality
from gans_jax.convert import stylegan2
from gans_jax.convert import stylegan2_tensorflow
from gans_jax.convert import torch_file
from gans_jax.core import cli
from gans_jax.core import errors

command = importlib.import_module('gans_jax.convert.__main__')

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/stylegan2_pickle.npz'
SEEDS = [0, 85]


def averaged(name, shape):
  return stylegan2_weights.value(name, shape) * np.float32(0.9)


def call(*arguments) -> int:
  return cli.call(command.main, [str(a) for a in arguments])


@pytest.fixture(scope='module')
def official(tmp_path_factory):
  """(path of a pickle, its tensors by network)."""
  networks, tensors = network_pickles.stylegan2(
      stylegan2_weights.value, ema=averaged)
  folder = tmp_path_factory.mktemp('official')
  return network_pickles.dump(networks, folder / 'snapshot.pkl'), tensors


@pytest.fixture(scope='module')
def workdir(official, tmp_path_factory):
  out = tmp_path_factory.mktemp('runs') / 'official'
  assert call('--format=stylegan2', f'--checkpoint={official[0]}',
              f'--out={out}') == cli.DONE
  return out


@functools.partial(jax.jit, static_argnums=(0,), static_argnames=('noise',),
                   compiler_options={'xla_backend_optimization_level': 0})
def generate(system, variables, keys, conditions, noise):
  return system.generate(variables, keys, conditions, noise=noise)


def test_images_are_the_official_ones(workdir):
  golden = np.load(GOLDEN)
  ours = gans_jax.load(str(workdir))
  assert ours.config.model.channel_base == 128 and ours.spec.resolution == 16
  z = ours.z(SEEDS)
  np.testing.assert_array_equal(
      z[1:], np.random.RandomState(85).randn(1, 16).astype('f'))
  for weights, noise in (('ema', 'none'), ('ema', 'const'), ('live', 'const')):
    generator = gans_jax.load(str(workdir), weights=weights)
    found = generate(ours.system, generator.variables, ours.keys(SEEDS),
                     {'z': z}, noise=noise)
    name = f'{"G_ema" if weights == "ema" else "G"}_{noise}'
    assert np.abs(golden[name]).max() > 3
    np.testing.assert_allclose(found, golden[name], atol=1e-4)


def test_discriminator_is_the_official_one(workdir):
  ours = gans_jax.load(str(workdir))
  x = stylegan2_weights.draw('images', (4, 3, 16, 16)).transpose(0, 2, 3, 1)
  apply = jax.jit(ours.system.nets['D'].apply, compiler_options={
      'xla_backend_optimization_level': 0})
  np.testing.assert_allclose(apply(ours.variables['D'], x),
                             np.load(GOLDEN)['D'], atol=1e-5)


def test_export_gives_the_arrays_back(official, workdir, tmp_path, capsys):
  out = tmp_path / 'official.npz'
  assert call('--export=npz', f'--workdir={workdir}', f'--out={out}') == 0
  assert capsys.readouterr().out.split() == [str(out)]
  found = np.load(out)
  expected = {f'{net}.{name}': x for net, tensors in official[1].items()
              for name, x in tensors.items()}
  assert set(found.files) == set(expected)
  for name, x in expected.items():
    assert found[name].dtype == x.dtype
    np.testing.assert_array_equal(found[name], x, name)
  code = call('--export=npz', f'--workdir={workdir}', f'--out={out}')
  runs.refused(capsys, code, 'exists already')


@pytest.mark.parametrize('classes,g,d', [
    (3, 'resnet', 'skip'), (0, 'orig', 'orig'), (0, 'skip', 'resnet')])
def test_every_architecture(tmp_path, classes, g, d):
  """Configs, and names back and forth; shapes are those of the networks."""
  networks, tensors = network_pickles.stylegan2(
      stylegan2_weights.draw, g={'architecture': g, 'classes': classes},
      d={'architecture': d, 'layers': 1}, clamp=256)
  path = network_pickles.dump(networks, tmp_path / 'a.pkl')
  snapshot = stylegan2.from_pickle(network_pickle.load(path), path)
  assert snapshot.num_classes == classes
  values = snapshot.settings
  assert (values['model.G'], values['model.D']) == (g, d)
  assert values['model.conv_clamp'] == 256
  assert values.get('model.conditional', False) == bool(classes)
  if classes:
    assert values['model.d_mapping_layers'] == 1
  for net in 'GD':
    back = stylegan2.to_official(snapshot.nets[net])
    assert back.keys() == tensors[net].keys()
    for name, x in tensors[net].items():
      np.testing.assert_array_equal(back[name], x, name)
  assert_shapes_of_the_networks(snapshot)


def assert_shapes_of_the_networks(snapshot):
  from gans_jax.core import config as config_lib
  from gans_jax.core import system as system_lib
  from gans_jax.data import spec as spec_lib

  config = config_lib.base(snapshot.system)
  config_lib.assign(config, {**snapshot.settings, 'total_steps': 1})
  system = system_lib.create(config, spec_lib.image_spec(
      resolution=config.data.resolution, channels=3, num_examples=0, facts={},
      num_classes=snapshot.num_classes))
  expected = system_lib.abstract_state(system)
  for net, variables in snapshot.nets.items():
    command.check(variables, {'params': expected.params[net],
                              **expected.mvars[net]}, 'the file')


# --- TensorFlow -------------------------------------------------------------


def tensorflow_name(name: str, x: np.ndarray):
  """The variable of stylegan2(-ada) that holds an official tensor.

  As the official converter (legacy.py) reads it, the other way around. Its
  result on such a pickle, of these names, was found to be the same.
  """
  x = x.transpose({4: (2, 3, 1, 0), 2: (1, 0)}[x.ndim]) if (
      name.endswith('weight')) else x
  part = name.rpartition('.')[2]
  if name == 'mapping.w_avg':
    return 'dlatent_avg', x
  if match := re.match(r'mapping\.(?:fc(\d+)|embed)\.', name):
    layer = f'Dense{match[1]}' if match[1] else 'LabelEmbed'
    return f'mapping/{layer}/{part}', x
  if name == 'synthesis.b4.const':
    return 'synthesis/4x4/Const/const', x[None]
  match = re.match(r'synthesis\.b(\d+)\.(\w+)\.(affine)?', name)
  r, layer, affine = match.groups()
  if part == 'noise_const':
    index = int(np.log2(int(r))) * 2 - (5 if layer == 'conv0' else 4)
    return f'synthesis/noise{index}', x[None, None]
  layer = {'conv0': 'Conv0_up', 'conv1': 'Conv' if r == '4' else 'Conv1',
           'torgb': 'ToRGB', 'skip': 'Skip'}[layer]
  prefix = f'synthesis/{r}x{r}/{layer}'
  if affine:
    return f'{prefix}/mod_{part}', x - 1 if part == 'bias' else x
  if layer in ('Conv0_up', 'Skip') and part == 'weight':
    x = x[::-1, ::-1]
  return f'{prefix}/{part}', x


def tensorflow_d_name(name: str, x: np.ndarray):
  x = x.transpose({4: (2, 3, 1, 0), 2: (1, 0)}[x.ndim]) if (
      name.endswith('weight')) else x
  part = name.rpartition('.')[2]
  if match := re.match(r'mapping\.(?:fc(\d+)|embed)\.', name):
    layer = f'Mapping{match[1]}' if match[1] else 'LabelEmbed'
    return f'{layer}/{part}', x
  r, layer = re.match(r'b(\d+)\.(\w+)\.', name).groups()
  if layer == 'out':
    return f'Output/{part}', x
  layer = {'fromrgb': 'FromRGB', 'conv0': 'Conv0', 'conv1': 'Conv1_down',
           'skip': 'Skip', 'conv': 'Conv', 'fc': 'Dense0'}[layer]
  return f'{r}x{r}/{layer}/{part}', x


def tensorflow_networks(tensors, module='training.networks_stylegan2',
                        **arguments):
  """(G, D, Gs) of a TensorFlow pickle, with tensors by official names."""
  def network(function, variables, **components):
    return network_pickles.Network(
        version=4, name=function,
        static_kwargs={'resolution': 16, 'num_channels': 3, 'fmap_base': 64,
                       'fmap_max': 16, 'mapping_layers': 2, 'latent_size': 16,
                       'dlatent_size': 16, **arguments},
        components=components, build_module_src='raise SystemExit()',
        build_func_name=f'{module}.{function}', variables=variables)

  def generator(tensors):
    named = [tensorflow_name(name, x) for name, x in tensors.items()
             if not name.endswith('resample_filter')]
    named += [('lod', np.zeros((), 'f')), ('synthesis/lod', np.zeros((), 'f'))]
    parts = {part: [(key.partition('/')[2], x) for key, x in named
                    if key.startswith(part)]
             for part in ('mapping', 'synthesis')}
    return network(
        'G_main', [(key, x) for key, x in named if '/' not in key],
        **{part: network(f'G_{part}', values)
           for part, values in parts.items()})

  d = network('D_main' if module == 'training.networks' else 'D_stylegan2', [
      tensorflow_d_name(name, x) for name, x in tensors['D'].items()
      if not name.endswith('resample_filter')])
  # D has no such arguments; its mapping network has no layers by default.
  for key in ('mapping_layers', 'latent_size', 'dlatent_size'):
    del d.state['static_kwargs'][key]
  return generator(tensors['G']), d, generator(tensors['G_ema'])


@pytest.mark.parametrize('module,classes,architecture,group', [
    ('training.networks_stylegan2', 0, 'skip', 4),
    ('training.networks', 3, 'resnet', 32)])
def test_tensorflow(tmp_path, module, classes, architecture, group):
  _, tensors = network_pickles.stylegan2(
      stylegan2_weights.draw,
      g={'architecture': architecture, 'classes': classes},
      d={'layers': 0})
  path = network_pickles.dump(
      tensorflow_networks(tensors, module, label_size=classes,
                          **({'architecture': 'resnet'} if classes else {})),
      tmp_path / 'a.pkl')
  snapshot = stylegan2_tensorflow.from_pickle(network_pickle.load(path), path)
  assert snapshot.num_classes == classes
  assert snapshot.settings['model.mbstd_group'] == group
  assert snapshot.settings['model.channel_base'] == 128
  assert_shapes_of_the_networks(snapshot)
  for net, variables in [*snapshot.nets.items(),
                         ('G_ema', snapshot.ema['G'])]:
    found = stylegan2.to_official(variables)
    assert found.keys() == tensors[net].keys()
    for name, x in tensors[net].items():
      # 1 is taken from the biases of styles, and added again.
      np.testing.assert_allclose(found[name], x, rtol=0, atol=(
          1e-6 if name.endswith('affine.bias') else 0), err_msg=name)


# --- rosinality -------------------------------------------------------------


def rosinality_states(tensors):
  """State dicts of its Generator and Discriminator at 16 pixels."""
  def one(name, x):
    part = name.rpartition('.')[2]
    if match := re.match(r'mapping\.fc(\d)\.', name):
      return f'style.{int(match[1]) + 1}.{part}', x
    if name == 'synthesis.b4.const':
      return 'input.input', x[None]
    r, layer = re.match(r'synthesis\.b(\d+)\.(\w+)\.', name).groups()
    i = int(np.log2(int(r))) - 3
    if part == 'noise_const':
      index = 2 * i + (1 if layer == 'conv0' else 2)
      return f'noises.noise_{index}', x[None, None]
    ours = {'conv0': f'convs.{2 * i}', 'conv1': f'convs.{2 * i + 1}',
            'torgb': f'to_rgbs.{i}'}[layer]
    if r == '4':
      ours = {'conv1': 'conv1', 'torgb': 'to_rgb1'}[layer]
    if 'affine' in name:
      return f'{ours}.conv.modulation.{part}', x
    if part == 'weight':
      return f'{ours}.conv.weight', x[None]
    if part == 'noise_strength':
      return f'{ours}.noise.weight', x.reshape(1)
    if layer == 'torgb':
      return f'{ours}.bias', x.reshape(1, 3, 1, 1)
    return f'{ours}.activate.bias', x

  def d_one(name, x):
    part = name.rpartition('.')[2]
    r, layer = re.match(r'b(\d+)\.(\w+)\.', name).groups()
    j = 5 - int(np.log2(int(r)))
    module = {'fc': 'final_linear.0', 'out': 'final_linear.1',
              'conv': f'final_conv.{0 if part == "weight" else 1}',
              'fromrgb': f'convs.0.{0 if part == "weight" else 1}',
              'conv0': f'convs.{j}.conv1.{0 if part == "weight" else 1}',
              'conv1': f'convs.{j}.conv2.{1 if part == "weight" else 2}',
              'skip': f'convs.{j}.skip.1'}[layer]
    return f'{module}.{part}', x

  def named(net, rename):
    return {key: torch.tensor(x) for key, x in (
        rename(name, x) for name, x in tensors[net].items()
        if not name.endswith(('resample_filter', 'w_avg')))}

  kernel = torch.tensor(network_pickles.FILTER)
  return {'g': named('G', one) | {'to_rgbs.0.upsample.kernel': kernel,
                                  'convs.0.conv.blur.kernel': kernel},
          'd': named('D', d_one) | {'convs.1.conv2.0.kernel': kernel},
          'g_ema': named('G_ema', one)}


@pytest.mark.parametrize('trained', [False, True])
def test_rosinality(tmp_path, trained):
  _, tensors = network_pickles.stylegan2(
      stylegan2_weights.value, ema=averaged)
  value = rosinality_states(tensors)
  average = tensors['G_ema']['mapping.w_avg']
  if trained:
    import argparse
    value |= {'args': argparse.Namespace(size=16, mixing=0.9), 'ada_aug_p': 0.5}
  else:
    value['latent_avg'] = torch.tensor(average)
  path = tmp_path / 'a.pt'
  torch.save(value, path)
  snapshot = rosinality.from_checkpoint(torch_file.load(path), str(path))
  assert_shapes_of_the_networks(snapshot)
  assert snapshot.settings['data.resolution'] == 16
  for net, variables in [*snapshot.nets.items(),
                         ('G_ema', snapshot.ema['G'])]:
    found = stylegan2.to_official(variables)
    assert found.keys() == tensors[net].keys()
    for name, x in tensors[net].items():
      if name != 'mapping.w_avg':
        np.testing.assert_array_equal(found[name], x, name)
  found = snapshot.ema['G']['moving']['w_avg']
  if not trained:
    np.testing.assert_array_equal(found, average)
    return
  # The mapping network by hand, on the projector's latents.
  x = np.random.RandomState(123).randn(10000, 16)
  x /= np.sqrt((x**2).mean(1, keepdims=True) + 1e-8)
  for i in range(2):
    weight, bias = (tensors['G_ema'][f'mapping.fc{i}.{part}']
                    for part in ('weight', 'bias'))
    x = x @ weight.T.astype(np.float64) * 0.01 / 4 + 0.01 * bias
    x = np.maximum(x, 0.2 * x) * 2**0.5
  np.testing.assert_allclose(found, x.mean(0), rtol=1e-5, atol=1e-6)


# --- Bad input --------------------------------------------------------------


def test_refusals(official, tmp_path, capsys):
  def dumped(change):
    networks, _ = network_pickles.stylegan2(stylegan2_weights.draw)
    change(networks)
    return network_pickles.dump(networks, tmp_path / 'changed.pkl')

  def activation(networks):
    networks['D'].b8.conv0.activation = 'relu'

  def clamp(networks):
    networks['D'].b8.conv0.conv_clamp = 256

  def huge(networks):
    for key in ('G', 'D', 'G_ema'):
      networks[key].img_resolution = 2**24
    networks['G_ema']._init_kwargs['synthesis_kwargs']['channel_base'] = 2**30

  def odd(networks):
    networks['G_ema'].synthesis.b4.conv1.conv_clamp = 'odd'

  def no_block(networks):
    del networks['G_ema'].synthesis._modules['b4']

  def filters(networks):
    networks['G_ema'].synthesis.b8.resample_filter[0, 0] = 1

  hostile = tmp_path / 'hostile.pkl'
  hostile.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
  out = tmp_path / 'out'
  code = call('--format=stylegan2', f'--checkpoint={hostile}', f'--out={out}')
  runs.refused(capsys, code, 'hostile.pkl asks for os.system')
  for change, words in (
      (activation, ['activation lrelu, relu']),
      (clamp, ['clamps G and D at 0.0 and 256.0']),
      (huge, ['is not of this network']),
      (odd, ['has a part that no such network', 'could not convert string']),
      (no_block, ['has no synthesis.b4.const']),
      (filters, ['another filter', 'b8.resample_filter'])):
    code = call('--format=stylegan2', f'--checkpoint={dumped(change)}',
                f'--out={out}')
    runs.refused(capsys, code, *words)
  for options, words in (
      (['--format=stylegan2', f'--checkpoint={official[0]}',
        '--discriminator=x'], ['--discriminator has no meaning']),
      (['--format=stylegan2'], ['--format needs --checkpoint']),
      (['--export=npz'], ['--export needs --workdir']),
      (['--export=npz', f'--workdir={tmp_path}', '--checkpoint=x'],
       ['--checkpoint has no meaning with --export=npz']),
      (['--format=rosinality', f'--checkpoint={official[0]}'],
       ['official', 'pickle'])):
    runs.refused(capsys, call(*options, f'--out={out}'), *words)
  assert not os.path.exists(out)


def test_refuses_other_tensorflow_networks(tmp_path):
  _, tensors = network_pickles.stylegan2(stylegan2_weights.draw)
  for change, words in (
      (lambda g: g['components']['mapping'].state['variables'].append(
          ('LabelConcat/weight', np.zeros((3, 16), 'f'))),
       'conditional in StyleGAN2'),
      (lambda g: g['components']['synthesis'].state['variables'].append(
          ('8x8/Odd/weight', np.zeros(3, 'f'))), "'synthesis/8x8/Odd/weight'"),
      (lambda g: g.update(components={}, build_func_name='m.G_style'),
       'Use --format=stylegan')):
    networks = tensorflow_networks(tensors)
    change(networks[2].state)
    path = network_pickles.dump(networks, tmp_path / 'a.pkl')
    with pytest.raises(errors.UserError, match=words):
      stylegan2_tensorflow.from_pickle(network_pickle.load(path), path)
