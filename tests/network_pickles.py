"""Network pickles as NVIDIA's code writes them, made without that code.

Stand-ins of its classes are importable while a file is written, so that a
file has the same globals, opcodes and structure. Pickles that
stylegan2-ada-pytorch itself wrote (`pickle.dump` of its snapshot, torch 2.13)
were compared: `GLOBALS` are theirs.
"""

import contextlib
import pickle
import pickletools
import sys
import types

import numpy as np
import torch

GLOBALS = {
    'collections.OrderedDict', 'dnnlib.util.EasyDict', 'numpy.dtype',
    'numpy._core.multiarray.scalar', 'torch._utils._rebuild_parameter',
    'torch._utils._rebuild_tensor_v2', 'torch.storage._load_from_bytes',
    'torch_utils.persistence._reconstruct_persistent_obj'}


class EasyDict(dict):
  """dnnlib.util.EasyDict."""


class Network:
  """dnnlib.tflib.network.Network, tfutil.Network or network.Network."""

  def __init__(self, **state):
    self.state = state

  def __getstate__(self):
    return self.state


def reconstruct(meta):
  raise AssertionError('a pickle was run')


class Module(torch.nn.Module):
  """A persistent class: what torch_utils.persistence pickles."""

  def __init__(self, class_name, arguments=None, **attributes):
    super().__init__()
    self.__dict__.update(attributes, class_name_=class_name)
    self._init_args, self._init_kwargs = (), arguments or {}

  def __reduce__(self):
    state = {key: value for key, value in self.__dict__.items()
             if key != 'class_name_'}
    meta = dict(type='class', version=6, class_name=self.class_name_,
                module_src="raise SystemExit('run')\n" * 9, state=state)
    return reconstruct, (meta,), None


@contextlib.contextmanager
def official_names(network: str = 'dnnlib.tflib.network'):
  """Makes the stand-ins importable by their official names.

  Args:
    network: module of `Network`.
  """
  homes = {EasyDict: ('dnnlib.util', 'EasyDict'),
           Network: (network, 'Network'),
           reconstruct: ('torch_utils.persistence',
                         '_reconstruct_persistent_obj')}
  names = {'.'.join(module.split('.')[:i + 1]) for module, _ in homes.values()
           for i in range(module.count('.') + 1)}
  before = {name: sys.modules.get(name) for name in names}
  sys.modules.update({name: types.ModuleType(name) for name in names})
  own = {x: (x.__module__, x.__qualname__) for x in homes}
  for x, (module, name) in homes.items():
    x.__module__, x.__qualname__, x.__name__ = module, name, name
    setattr(sys.modules[module], name, x)
  try:
    yield
  finally:
    for x, (module, name) in own.items():
      x.__module__, x.__qualname__, x.__name__ = module, name, name
    for name, module in before.items():
      if module is None:
        del sys.modules[name]
      else:
        sys.modules[name] = module


def dump(value, path, protocol: int = 4,
         network: str = 'dnnlib.tflib.network') -> str:
  """Pickles to a file; returns its path."""
  with official_names(network), open(path, 'wb') as file:
    pickle.dump(value, file, protocol=protocol)
  return str(path)


def globals_of(data: bytes) -> set[str]:
  """The globals that a pickle asks for."""
  found, strings, memo = set(), [], {}
  for opcode, argument, _ in pickletools.genops(data):
    if 'UNICODE' in opcode.name:
      strings.append(argument)
    elif opcode.name == 'MEMOIZE':
      memo[len(memo)] = strings[-1] if strings else None
    elif opcode.name in ('BINGET', 'LONG_BINGET'):
      strings.append(memo.get(argument))
    elif opcode.name == 'STACK_GLOBAL':
      found.add('.'.join(strings[-2:]))
    elif opcode.name == 'GLOBAL':
      found.add(argument.replace(' ', '.'))
  return found


# --- Networks of stylegan2-ada-pytorch ---------------------------------------


def channels(resolution: int, base: int, most: int) -> int:
  return min(base // resolution, most)


def generator_shapes(resolution=16, base=128, most=16, z_dim=16, w_dim=16,
                     layers=2, architecture='skip', classes=0):
  """{official name: shape} of a generator's parameters and buffers."""
  found = {'mapping.w_avg': (w_dim,)}
  if classes:
    found |= {'mapping.embed.weight': (w_dim, classes),
              'mapping.embed.bias': (w_dim,)}
  for i in range(layers):
    inputs = w_dim if i else z_dim + (w_dim if classes else 0)
    found |= {f'mapping.fc{i}.weight': (w_dim, inputs),
              f'mapping.fc{i}.bias': (w_dim,)}

  def styled(name, inputs, outputs, kernel):
    found.update({f'{name}.weight': (outputs, inputs, kernel, kernel),
                  f'{name}.bias': (outputs,),
                  f'{name}.affine.weight': (inputs, w_dim),
                  f'{name}.affine.bias': (inputs,)})

  r = 4
  while r <= resolution:
    block, c = f'synthesis.b{r}', channels(r, base, most)
    before = channels(r // 2, base, most)
    found[f'{block}.resample_filter'] = (4, 4)
    if r == 4:
      found[f'{block}.const'] = (c, 4, 4)
    elif architecture == 'resnet':
      found |= {f'{block}.skip.weight': (c, before, 1, 1),
                f'{block}.skip.resample_filter': (4, 4)}
    for conv in ('conv1',) if r == 4 else ('conv0', 'conv1'):
      styled(f'{block}.{conv}', before if conv == 'conv0' else c, c, 3)
      found |= {f'{block}.{conv}.noise_strength': (),
                f'{block}.{conv}.noise_const': (r, r),
                f'{block}.{conv}.resample_filter': (4, 4)}
    if r == resolution or architecture == 'skip':
      styled(f'{block}.torgb', c, 3, 1)
    r *= 2
  return found


def discriminator_shapes(resolution=16, base=128, most=16,
                         architecture='resnet', classes=0, layers=8):
  """{official name: shape} of a discriminator's parameters and buffers."""
  found = {}

  def conv(name, inputs, outputs, kernel, bias=True):
    found[f'{name}.weight'] = (outputs, inputs, kernel, kernel)
    found[f'{name}.resample_filter'] = (4, 4)
    if bias:
      found[f'{name}.bias'] = (outputs,)

  r = resolution
  while r > 4:
    c, after = channels(r, base, most), channels(r // 2, base, most)
    found[f'b{r}.resample_filter'] = (4, 4)
    if r == resolution or architecture == 'skip':
      conv(f'b{r}.fromrgb', 3, c, 1)
    conv(f'b{r}.conv0', c, c, 3)
    conv(f'b{r}.conv1', c, after, 3)
    if architecture == 'resnet':
      conv(f'b{r}.skip', c, after, 1, bias=False)
    r //= 2
  c = channels(4, base, most)
  if architecture == 'skip':
    conv('b4.fromrgb', 3, c, 1)
  conv('b4.conv', c + 1, c, 3)
  found |= {'b4.fc.weight': (c, 16 * c), 'b4.fc.bias': (c,),
            'b4.out.weight': (c if classes else 1, c),
            'b4.out.bias': (c if classes else 1,)}
  if classes:
    found |= {'mapping.embed.weight': (c, classes), 'mapping.embed.bias': (c,)}
    for i in range(layers):
      found |= {f'mapping.fc{i}.weight': (c, c), f'mapping.fc{i}.bias': (c,)}
  return found


FILTER = (np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64).astype(np.float32)


def filled(shapes, value) -> dict[str, np.ndarray]:
  """{name: array}, all but the filters from `value(name, shape)`."""
  return {name: FILTER if name.endswith('resample_filter')
          else value(name, shape) for name, shape in shapes.items()}


def module(class_name: str, tensors, arguments, attributes) -> Module:
  """A module as deep as the names are, with its tensors and attributes.

  Args:
    class_name: of the outermost.
    tensors: {dotted name: array}.
    arguments: of its constructor.
    attributes: {dotted name: value}.
  """
  root = Module(class_name, arguments)

  def inner(path):
    found = root
    for name in path:
      if name not in found._modules:
        found.add_module(name, Module('Layer'))
      found = found._modules[name]
    return found

  for name, value in tensors.items():
    *path, last = name.split('.')
    tensor = torch.from_numpy(np.array(value, np.float32))
    if last in ('w_avg', 'noise_const', 'resample_filter'):
      inner(path).register_buffer(last, tensor)
    else:
      inner(path).register_parameter(
          last, torch.nn.Parameter(tensor, requires_grad=False))
  for name, value in attributes.items():
    *path, last = name.split('.')
    inner(path).__dict__[last] = value
  return root.eval()


def stylegan2(value, *, g=None, d=None, clamp=None, ema=None):
  """A snapshot of stylegan2-ada-pytorch, and its tensors.

  Args:
    value: (name, shape) -> array, of G and D.
    g: arguments of `generator_shapes`.
    d: those of `discriminator_shapes`.
    clamp: conv_clamp.
    ema: as `value`, of G_ema; by default the same.

  Returns:
    ({'G': ..., ...} to be pickled, {'G': {name: array}, ...}).
  """
  g, d = g or {}, d or {}
  resolution, classes = g.get('resolution', 16), g.get('classes', 0)
  common = {'img_resolution': resolution, 'img_channels': 3, 'c_dim': classes}
  widths = EasyDict(channel_base=g.get('base', 128),
                    channel_max=g.get('most', 16), conv_clamp=clamp)
  layers = g.get('layers', 2)
  g_arguments = {
      'z_dim': 16, 'w_dim': 16, 'mapping_kwargs': EasyDict(num_layers=layers),
      'synthesis_kwargs': widths, **common}
  g_attributes = {
      **common, 'z_dim': g.get('z_dim', 16), 'w_dim': g.get('w_dim', 16),
      'mapping.num_layers': layers, 'mapping.w_avg_beta': 0.995,
      'mapping.fc0.bias_gain': 0.01, 'mapping.fc0.activation': 'lrelu',
      'mapping.fc0.weight_gain': 0.01 / np.sqrt(np.float64(16)),
      'synthesis.b4.conv1.conv_clamp': clamp,
      'synthesis.b4.conv1.activation': 'lrelu',
      'synthesis.b8.architecture': g.get('architecture', 'skip')}
  d_attributes = {
      **common, 'b8.architecture': d.get('architecture', 'resnet'),
      'b8.conv0.conv_clamp': clamp, 'b8.conv0.activation': 'lrelu',
      'b4.mbstd.group_size': 4, 'b4.mbstd.num_channels': 1}
  if classes:
    d_attributes['mapping.num_layers'] = d.get('layers', 8)
  tensors = {
      'G': filled(generator_shapes(**g), value),
      'D': filled(discriminator_shapes(
          **{'resolution': resolution, 'classes': classes, **d}), value),
      'G_ema': filled(generator_shapes(**g), ema or value)}
  networks = {
      'training_set_kwargs': {'class_name': 'training.dataset.ImageFolder'},
      'G': module('Generator', tensors['G'], g_arguments, g_attributes),
      'D': module('Discriminator', tensors['D'],
                  {**common, **widths, 'block_kwargs': EasyDict(),
                   'epilogue_kwargs': EasyDict(mbstd_group_size=4)},
                  d_attributes),
      'G_ema': module('Generator', tensors['G_ema'], g_arguments,
                      g_attributes),
      'augment_pipe': None}
  return networks, tensors


def workdir(folder, value, ema=None, **settings) -> str:
  """Converts a snapshot (see `stylegan2`) to a workdir; returns its path."""
  from gans_jax.convert import __main__ as command

  networks, _ = stylegan2(value, ema=ema, **settings)
  path = dump(networks, folder / 'snapshot.pkl')
  command.convert('stylegan2', path, None, str(folder / 'converted'), [])
  return str(folder / 'converted')
