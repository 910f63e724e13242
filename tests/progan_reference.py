"""ProGAN's networks in float64 PyTorch, as its TensorFlow code writes them.

In the 'linear' structure: every layer, at full resolution R, whatever the
lod, which blends each resolution's image (or features) with the one below by
lerp_clip(new, old, lod - lod of the resolution).
"""

import math

import jax
import numpy as np
import torch

F = torch.nn.functional
SQRT2 = math.sqrt(2.0)


def to_torch(tree):
  return jax.tree.map(lambda x: torch.tensor(np.asarray(x, np.float64)), tree)


def pixel_norm(x, axis=1):
  return x * torch.rsqrt(x.square().mean(axis, keepdim=True) + 1e-8)


def weight(p, gain=SQRT2):
  """Kernel [..., I, O], times its equalized learning rate."""
  w = p['kernel']
  return w * gain / math.sqrt(math.prod(w.shape[:-1]))


def conv(x, p, gain=SQRT2, flip=False):
  """x [N, C, H, W]; SAME convolution and bias."""
  w = weight(p, gain).permute(3, 2, 0, 1)
  w = w.flip(2, 3) if flip else w
  x = F.conv2d(x, w, padding=w.shape[-1] // 2)
  return x + p['bias'].reshape(1, -1, 1, 1) if 'bias' in p else x


def up(x):
  return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def lerp_clip(a, b, t):
  return a + (b - a) * min(max(t, 0.0), 1.0)


def generator(p, z, labels, lod, last, values=None):
  """Images [N, R, R, C] of latents, for options of the config."""
  values, p = values or {}, to_torch(p)
  fused = values.get('model.fused_scale', True)
  relu = values.get('model.activation_G') == 'relu'

  def finish(x):
    x = F.relu(x) if relu else F.leaky_relu(x, 0.2)
    return pixel_norm(x) if values.get('model.pixel_norm', True) else x

  x = torch.tensor(np.float64(z))
  if labels is not None:
    x = torch.cat([x, torch.tensor(np.float64(labels))], 1)
  if values.get('model.normalize_latents', True):
    x = pixel_norm(x)
  x = x @ weight(p['4x4']['Dense'], SQRT2 / 4)
  x = x.reshape(len(x), 4, 4, -1).permute(0, 3, 1, 2)
  x = finish(x + p['4x4']['Dense']['bias'].reshape(1, -1, 1, 1))
  x = finish(conv(x, p['4x4']['Conv']))
  total = int(math.log2(last))
  image = conv(x, p[f'ToRGB_lod{total - 2}'], 1.0)
  for i in range(3, total + 1):
    block = p[f'{2**i}x{2**i}']
    name = 'Conv0_up' if fused else 'Conv0'
    x = finish(conv(up(x), block[name], flip=fused))
    x = finish(conv(x, block['Conv1']))
    rgb = conv(x, p[f'ToRGB_lod{total - i}'], 1.0)
    image = lerp_clip(rgb, up(image), lod - (total - i))
  image = torch.tanh(image) if values.get('model.tanh') else image
  return image.permute(0, 2, 3, 1).numpy()


def discriminator(p, x, lod, last, values=None):
  """Values [N, outputs] of images [N, R, R, C]."""
  return discriminator_torch(to_torch(p), torch.tensor(np.float64(x)), lod,
                             last, values, group=2).numpy()


def discriminator_torch(p, x, lod, last, values=None, group=0):
  """The same on tensors that may ask for gradients."""
  fused = (values or {}).get('model.fused_scale', True)
  total = int(math.log2(last))

  def act(x):
    return F.leaky_relu(x, 0.2)

  def from_rgb(image, i):
    return act(conv(image, p[f'FromRGB_lod{total - i}']))

  image = x.permute(0, 3, 1, 2)
  x = from_rgb(image, total)
  for i in range(total, 2, -1):
    block = p[f'{2**i}x{2**i}']
    x = act(conv(x, block['Conv0']))
    if fused:
      if (values or {}).get('blur'):
        f = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
        f = (f[:, None] * f[None, :] / 16).expand(x.shape[1], 1, 3, 3)
        x = F.conv2d(x, f, padding=1, groups=x.shape[1])
      w = weight(block['Conv1_down']).permute(3, 2, 0, 1)
      bias = block['Conv1_down']['bias'].reshape(1, -1, 1, 1)
      x = act(F.avg_pool2d(F.conv2d(x, w, padding=1), 2) + bias)
    else:
      x = F.avg_pool2d(act(conv(x, block['Conv1'])), 2)
    image = F.avg_pool2d(image, 2)
    x = lerp_clip(x, from_rgb(image, i - 1), lod - (total - i))
  if group:
    y = x.reshape(group, -1, *x.shape[1:])
    std = ((y - y.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
    std = std.repeat(group).reshape(-1, 1, 1, 1)
    x = torch.cat([x, std.expand(-1, 1, 4, 4)], 1)
  x = act(conv(x, p['4x4']['Conv']))
  x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
  for name, gain in (('Dense0', SQRT2), ('Dense1', 1.0)):
    x = x @ weight(p['4x4'][name], gain) + p['4x4'][name]['bias']
    x = act(x) if name == 'Dense0' else x
  return x
