"""StyleGAN's pickles: the networks of the authors' code, in float64.

`generator` computes with the variables of the file, by their names and
layouts there.
"""

import math

import jax
import network_pickles
import numpy as np
import pytest
import torch

from gans_jax.convert import __main__ as command
from gans_jax.convert import network_pickle
from gans_jax.convert import stylegan
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib

F = torch.nn.functional
C, D, R = 6, 5, 8


def tensors(constant=True, classes=0, seed=0):
  """{component: {name: array}} of a generator at 8 pixels, and of D."""
  r = np.random.default_rng(seed)

  def normal(*shape):
    return r.normal(size=shape).astype('f')

  mapping = {'LabelConcat/weight': normal(classes, D)} if classes else {}
  for i in range(2):
    mapping |= {f'Dense{i}/weight': 100 * normal(
        2 * D if classes and not i else D, D), f'Dense{i}/bias': normal(D)}
  synthesis = {'lod': np.zeros((), 'f')}
  for i, layer in enumerate(('4x4/Const' if constant else '4x4/Dense',
                             '4x4/Conv', '8x8/Conv0_up', '8x8/Conv1')):
    size = 4 if i < 2 else 8
    synthesis |= {
        f'noise{i}': normal(1, 1, size, size), f'{layer}/bias': normal(C),
        f'{layer}/Noise/weight': normal(C),
        f'{layer}/StyleMod/weight': normal(D, 2 * C),
        f'{layer}/StyleMod/bias': normal(2 * C)}
    if i or not constant:
      synthesis[f'{layer}/weight'] = normal(
          *((3, 3, C, C) if i else (D, 16 * C)))
  if constant:
    synthesis['4x4/Const/const'] = normal(1, C, 4, 4)
  for lod in range(2):
    synthesis |= {f'ToRGB_lod{lod}/weight': normal(1, 1, C, 3),
                  f'ToRGB_lod{lod}/bias': normal(3)}
  d = {'lod': np.zeros((), 'f')}
  for layer, shape in (
      ('FromRGB_lod0', (1, 1, 3, C)), ('FromRGB_lod1', (1, 1, 3, C)),
      ('8x8/Conv0', (3, 3, C, C)), ('8x8/Conv1_down', (3, 3, C, C)),
      ('4x4/Conv', (3, 3, C + 1, C)), ('4x4/Dense0', (16 * C, C)),
      ('4x4/Dense1', (C, max(classes, 1)))):
    d |= {f'{layer}/weight': normal(*shape), f'{layer}/bias': normal(shape[-1])}
  return {'': {'lod': np.zeros((), 'f'), 'dlatent_avg': normal(D)},
          'mapping': mapping, 'synthesis': synthesis, 'D': d}


def networks(found, **arguments):
  def network(function, variables, **components):
    return network_pickles.Network(
        version=3, name=function, components=components,
        build_func_name=function, build_module_src='raise SystemExit()',
        static_kwargs={'resolution': R, 'num_channels': 3, 'fmap_base': 32,
                       'fmap_max': C, 'latent_size': D, 'dlatent_size': D,
                       'mapping_layers': 2, **arguments},
        variables=list(variables.items()))

  g = network('G_style', found[''], **{
      part: network(f'G_{part}', found[part])
      for part in ('mapping', 'synthesis')})
  return g, network('D_basic', found['D']), g


def loaded(value, path):
  path = network_pickles.dump(value, path)
  return stylegan.from_pickle(network_pickle.load(path), path)


def generator(found, z, noise, fused):
  """The synthesis of the authors' code, with a style for each layer."""
  v = {f'{part}/{name}': torch.tensor(x.astype('f8'))
       for part in ('mapping', 'synthesis') for name, x in found[part].items()}

  def scaled(name, gain=2**0.5, lrmul=1.0):
    w = v[f'{name}/weight']
    return w * gain * lrmul / math.sqrt(math.prod(w.shape[:-1]))

  w = z * torch.rsqrt((z * z).mean(1, True) + 1e-8)
  for i in range(2):
    w = w @ scaled(f'mapping/Dense{i}', lrmul=0.01)
    w = F.leaky_relu(w + 0.01 * v[f'mapping/Dense{i}/bias'], 0.2)

  def epilogue(x, name, i):
    name = f'synthesis/{name}'
    if noise:
      x = x + v[f'synthesis/noise{i}'] * v[f'{name}/Noise/weight'].reshape(
          1, -1, 1, 1)
    x = F.leaky_relu(x + v[f'{name}/bias'].reshape(1, -1, 1, 1), 0.2)
    x = x - x.mean((2, 3), True)
    x = x * torch.rsqrt((x * x).mean((2, 3), True) + 1e-8)
    style = w @ scaled(f'{name}/StyleMod', 1.0) + v[f'{name}/StyleMod/bias']
    style = style.reshape(-1, 2, C, 1, 1)
    return x * (style[:, 0] + 1) + style[:, 1]

  def conv(x, name, gain=2**0.5):
    k = scaled(f'synthesis/{name}', gain).permute(3, 2, 0, 1)
    return F.conv2d(x, k, padding=k.shape[-1] // 2)

  if 'synthesis/4x4/Const/const' in v:
    x = v['synthesis/4x4/Const/const'].expand(len(w), -1, -1, -1)
    x = epilogue(x, '4x4/Const', 0)
  else:
    x = w @ scaled('synthesis/4x4/Dense', 2**0.5 / 4)
    x = epilogue(x.reshape(-1, C, 4, 4), '4x4/Dense', 0)
  x = epilogue(conv(x, '4x4/Conv'), '4x4/Conv', 1)
  if fused:
    k = F.pad(scaled('synthesis/8x8/Conv0_up').permute(3, 2, 0, 1),
              (1, 1, 1, 1))
    k = k[..., 1:, 1:] + k[..., :-1, 1:] + k[..., 1:, :-1] + k[..., :-1, :-1]
    x = F.conv_transpose2d(x, k.transpose(0, 1), stride=2, padding=1)
  else:
    x = conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3),
             '8x8/Conv0_up')
  blur = torch.tensor([1.0, 2, 1], dtype=torch.float64)
  blur = (blur[:, None] * blur / 16).expand(C, 1, 3, 3)
  x = epilogue(F.conv2d(x, blur, padding=1, groups=C), '8x8/Conv0_up', 2)
  x = epilogue(conv(x, '8x8/Conv1'), '8x8/Conv1', 3)
  x = conv(x, 'ToRGB_lod0', 1.0)
  return (x + v['synthesis/ToRGB_lod0/bias'].reshape(1, -1, 1, 1)).permute(
      0, 2, 3, 1)


def created(snapshot):
  config = config_lib.base('stylegan')
  config_lib.assign(config, {**snapshot.settings, 'total_steps': 1})
  system = system_lib.create(config, spec_lib.image_spec(
      resolution=R, channels=3, num_examples=0, facts={},
      num_classes=snapshot.num_classes))
  expected = system_lib.abstract_state(system)
  for net, variables in snapshot.nets.items():
    command.check(variables, {'params': expected.params[net],
                              **expected.mvars[net]}, 'the file')
  return system


@pytest.mark.parametrize('constant,fused,noise', [
    (True, 'auto', 'const'), (False, True, 'none')])
def test_images_are_those_of_the_authors_network(tmp_path, constant, fused,
                                                 noise):
  found = tensors(constant)
  snapshot = loaded(networks(found, const_input_layer=constant,
                             fused_scale=fused), tmp_path / 'a.pkl')
  system = created(snapshot)
  z = np.random.RandomState(0).randn(4, D)
  images = jax.jit(
      lambda v, k, c: system.generate(v, k, c, noise=noise),
      compiler_options={'xla_backend_optimization_level': 0})(
          {'G': snapshot.ema['G']}, jax.random.split(jax.random.key(0), 4),
          {'z': z.astype('f')})
  expected = generator(found, torch.tensor(z), noise == 'const', fused is True)
  np.testing.assert_allclose(images, expected, rtol=1e-4, atol=2e-4)
  np.testing.assert_array_equal(snapshot.ema['G']['moving']['w_avg'],
                                found['']['dlatent_avg'])


def test_classes(tmp_path):
  found = tensors(classes=3)
  snapshot = loaded(networks(found, label_size=3), tmp_path / 'a.pkl')
  assert created(snapshot).classes == 3
  np.testing.assert_array_equal(
      snapshot.nets['G']['params']['mapping']['LabelConcat']['kernel'],
      found['mapping']['LabelConcat/weight'])


def test_refusals(tmp_path):
  found = tensors()
  for arguments, words in (({'blur_filter': None}, 'blur_filter=None'),
                           ({'use_wscale': False}, 'use_wscale=False')):
    with pytest.raises(errors.UserError, match=words):
      loaded(networks(found, **arguments), tmp_path / 'a.pkl')
  value = networks(found)
  value[2].state['build_func_name'] = 'G_paper'
  with pytest.raises(errors.UserError, match='holds G_paper, and not'):
    loaded(value, tmp_path / 'a.pkl')
