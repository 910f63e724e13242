"""ProGAN's pickles: the networks of the authors' code, in float64.

`generator` and `discriminator` below compute with the variables of the file,
by their names and layouts there, in the fused form of that code (transposed
convolutions with the sum of a kernel's four shifts).
"""

import math

import jax
import network_pickles
import numpy as np
import pytest
import torch

from gans_jax.convert import __main__ as command
from gans_jax.convert import network_pickle
from gans_jax.convert import progan
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib

F = torch.nn.functional
C, Z, CLASSES, R = 6, 5, 3, 8


def shapes(fused=True, classes=CLASSES):
  """({name: shape} of G, of D) at 8 pixels, C channels everywhere."""
  up, down = ('Conv0_up', 'Conv1_down') if fused else ('Conv0', 'Conv1')
  g = {'lod': (), '4x4/Dense/weight': (Z + classes, 16 * C),
       '4x4/Conv/weight': (3, 3, C, C), f'8x8/{up}/weight': (3, 3, C, C),
       '8x8/Conv1/weight': (3, 3, C, C), 'ToRGB_lod0/weight': (1, 1, C, 3),
       'ToRGB_lod1/weight': (1, 1, C, 3)}
  d = {'lod': (), 'FromRGB_lod0/weight': (1, 1, 3, C),
       'FromRGB_lod1/weight': (1, 1, 3, C), '8x8/Conv0/weight': (3, 3, C, C),
       f'8x8/{down}/weight': (3, 3, C, C), '4x4/Conv/weight': (3, 3, C + 1, C),
       '4x4/Dense0/weight': (16 * C, C), '4x4/Dense1/weight': (C, 1 + classes)}
  for net in (g, d):
    for name, shape in list(net.items()):
      if name.endswith('weight'):
        size = C if name == '4x4/Dense/weight' else shape[-1]
        net[name.replace('weight', 'bias')] = (size,)
  return g, d


def draw(shapes, seed):
  r = np.random.default_rng(seed)
  return {name: np.zeros((), 'f') if name == 'lod' else
          r.normal(size=shape).astype('f') for name, shape in shapes.items()}


def networks(g, d, ema, **arguments):
  def network(function, tensors):
    return network_pickles.Network(
        version=2, name=function, build_func_name=function,
        build_module_src='raise SystemExit()',
        static_kwargs={'resolution': R, 'num_channels': 3, 'fmap_base': 32,
                       'fmap_max': C, 'latent_size': Z,
                       'label_size': CLASSES, **arguments},
        variables=list(tensors.items()))

  return network('G_paper', g), network('D_paper', d), network('G_paper', ema)


def loaded(value, path, network='tfutil'):
  path = network_pickles.dump(value, path, network=network)
  return progan.from_pickle(network_pickle.load(path), path)


def checked(snapshot):
  """The system of a snapshot, whose shapes are those of its weights."""
  config = config_lib.base(snapshot.system)
  config_lib.assign(config, {**snapshot.settings, 'total_steps': 1})
  system = system_lib.create(config, spec_lib.image_spec(
      resolution=config.data.resolution, channels=3, num_examples=0, facts={},
      num_classes=snapshot.num_classes))
  expected = system_lib.abstract_state(system)
  for net, variables in snapshot.nets.items():
    command.check(variables, {'params': expected.params[net],
                              **expected.mvars[net]}, 'the file')
  return system


# --- The authors' networks --------------------------------------------------


def scaled(v, name, gain=2**0.5):
  w = v[f'{name}/weight']
  return w * gain / math.sqrt(math.prod(w.shape[:-1]))


def act(x, norm):
  x = F.leaky_relu(x, 0.2)
  return x * torch.rsqrt((x * x).mean(1, True) + 1e-8) if norm else x


def conv(v, name, x, gain=2**0.5):
  w = scaled(v, name, gain).permute(3, 2, 0, 1)
  return F.conv2d(x, w, padding=w.shape[-1] // 2) + bias(v, name)


def bias(v, name):
  return v[f'{name}/bias'].reshape(1, -1, 1, 1)


def four_shifts(w):
  """[3, 3, ...] to [4, 4, ...]."""
  w = F.pad(w, (0, 0, 0, 0, 1, 1, 1, 1))
  return w[1:, 1:] + w[:-1, 1:] + w[1:, :-1] + w[:-1, :-1]


def generator(v, z):
  x = z * torch.rsqrt((z * z).mean(1, True) + 1e-8)
  x = (x @ scaled(v, '4x4/Dense', 2**0.5 / 4)).reshape(len(x), C, 4, 4)
  x = act(x + bias(v, '4x4/Dense'), True)
  x = act(conv(v, '4x4/Conv', x), True)
  w = v['8x8/Conv0_up/weight']  # [k, k, O, I]
  w = four_shifts(w * 2**0.5 / math.sqrt(9 * w.shape[3]))
  x = F.conv_transpose2d(x, w.permute(3, 2, 0, 1), stride=2, padding=1)
  x = act(x + bias(v, '8x8/Conv0_up'), True)
  x = act(conv(v, '8x8/Conv1', x), True)
  return conv(v, 'ToRGB_lod0', x, 1.0)


def discriminator(v, x):
  x = act(conv(v, 'FromRGB_lod0', x), False)
  x = act(conv(v, '8x8/Conv0', x), False)
  w = four_shifts(scaled(v, '8x8/Conv1_down')) / 4
  x = F.conv2d(x, w.permute(3, 2, 0, 1), stride=2, padding=1)
  x = act(x + bias(v, '8x8/Conv1_down'), False)
  y = x.reshape(4, -1, *x.shape[1:])
  y = ((y - y.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
  y = y.repeat(4).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
  x = act(conv(v, '4x4/Conv', torch.cat([x, y], 1)), False)
  x = x.flatten(1) @ scaled(v, '4x4/Dense0') + v['4x4/Dense0/bias']
  return act(x, False) @ scaled(v, '4x4/Dense1', 1.0) + v['4x4/Dense1/bias']


def in_torch(tensors):
  return {name: torch.tensor(x.astype('f8')) for name, x in tensors.items()}


def test_tensorflow(tmp_path):
  g_shapes, d_shapes = shapes()
  g, d, ema = draw(g_shapes, 0), draw(d_shapes, 1), draw(g_shapes, 2)
  g['lod'] = np.float32(0.25)
  snapshot = loaded(networks(g, d, ema), tmp_path / 'a.pkl')
  system = checked(snapshot)
  assert snapshot.num_classes == CLASSES
  assert snapshot.nets['G']['moving']['lod'] == np.float32(0.25)
  r = np.random.default_rng(3)
  z = r.normal(size=(8, Z))
  labels = np.arange(8) % CLASSES
  compiled = dict(compiler_options={'xla_backend_optimization_level': 0})
  images = jax.jit(system.generate, **compiled)(
      {'G': snapshot.ema['G']}, jax.random.split(jax.random.key(0), 8),
      {'z': z.astype('f'), 'label': labels})
  expected = generator(in_torch(ema), torch.tensor(
      np.concatenate([z, np.eye(CLASSES)[labels]], 1)))
  np.testing.assert_allclose(images, expected.permute(0, 2, 3, 1), atol=1e-4)
  x = r.normal(size=(8, R, R, 3))
  found = jax.jit(system.nets['D'].apply, **compiled)(
      snapshot.nets['D'], x.astype('f'))
  expected = discriminator(in_torch(d), torch.tensor(x).permute(0, 3, 1, 2))
  np.testing.assert_allclose(found, expected, atol=1e-4)


def theano_list(tensors, is_d, scales):
  """The list of the first version, and what it makes of each weight."""
  def conv(w):
    return w[::-1, ::-1].transpose(3, 2, 0, 1)

  order = (['FromRGB_lod0', '8x8/Conv0', '8x8/Conv1', 'FromRGB_lod1',
            '4x4/Conv', '4x4/Dense0', '4x4/Dense1'] if is_d else
           ['4x4/Dense', '4x4/Conv', '8x8/Conv0', '8x8/Conv1', 'ToRGB_lod0',
            'ToRGB_lod1'])
  values = []
  for name in order:
    w = tensors[f'{name}/weight']
    if name == '4x4/Dense':
      w = w.reshape(len(w), C, 4, 4).transpose(1, 0, 2, 3)
    elif name == '4x4/Dense0':
      w = w.T.reshape(-1, C, 4, 4)[:, :, ::-1, ::-1]
    elif 'RGB' in name:
      w = w[0, 0]
    elif w.ndim == 4:
      w = conv(w)
    values += [w, np.float32(scales[name]), tensors[f'{name}/bias']]
  return [np.array(x) for x in values]


def test_theano(tmp_path):
  g_shapes, d_shapes = shapes(fused=False, classes=0)
  tensors = {'G': draw(g_shapes, 0), 'D': draw(d_shapes, 1)}
  r = np.random.default_rng(2)
  scales = {name.rpartition('/')[0]: r.uniform(0.1, 1)
            for net in tensors.values() for name in net}

  def network(net):
    return network_pickles.Network(
        build_func_spec={'func': f'{net}_paper', 'resolution': R,
                         'num_channels': 3, 'fmap_base': 32, 'fmap_max': C,
                         'latent_size': Z, 'use_wscale': True},
        build_module_src='raise SystemExit()',
        param_values=theano_list(tensors[net], net == 'D', scales),
        toplevel_params={'cur_lod': 0.0})

  snapshot = loaded((network('G'), network('D'), network('G')),
                    tmp_path / 'a.pkl', 'network')
  system = checked(snapshot)
  assert not system.config.model.fused_scale
  assert system.config.model.mbstd_group == 16
  plain = {net: (progan.generator if net == 'G' else progan.discriminator)(
      x, 'x')['params'] for net, x in tensors.items()}
  for net in 'GD':
    for block, layers in plain[net].items():
      for name, layer in ({'': layers} if 'kernel' in layers else
                          layers).items():
        path = f'{block}/{name}'.strip('/')
        found = snapshot.nets[net]['params'][block]
        found = found[name] if name else found
        # Theirs is w * scale; ours, equalized, w * gain / sqrt(fan_in).
        gain = {'4x4/Dense': 2**0.5 / 4, '4x4/Dense1': 1}.get(
            path, 1 if 'ToRGB' in path else 2**0.5)
        factor = gain / math.sqrt(math.prod(layer['kernel'].shape[:-1]))
        np.testing.assert_allclose(found['kernel'] * factor,
                                   layer['kernel'] * scales[path], rtol=1e-5)
        np.testing.assert_array_equal(found['bias'], layer['bias'])


@pytest.mark.parametrize('arguments,words', [
    ({'use_pixelnorm': False}, 'use_pixelnorm=False'),
    ({'use_wscale': False}, 'use_wscale=False')])
def test_refusals(tmp_path, arguments, words):
  g_shapes, d_shapes = shapes()
  g, d = draw(g_shapes, 0), draw(d_shapes, 1)
  with pytest.raises(errors.UserError, match=words):
    loaded(networks(g, d, g, **arguments), tmp_path / 'a.pkl')


def test_refuses_lists_of_another_length(tmp_path):
  network = network_pickles.Network(
      build_func_spec={'func': 'G_paper', 'resolution': R},
      param_values=[np.zeros((C, Z, 4, 4))], toplevel_params={})
  with pytest.raises(errors.UserError, match='1 arrays, which are not those'):
    loaded((network, network, network), tmp_path / 'a.pkl', 'network')
