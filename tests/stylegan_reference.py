"""StyleGAN's networks in float64 PyTorch, as its TensorFlow code writes them.

'linear' structure, as in progan_reference.
"""

import math

import numpy as np
import progan_reference as progan
import torch

F = torch.nn.functional
SQRT2 = math.sqrt(2.0)


def blur(x):
  f = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
  f = (f[:, None] * f[None, :] / 16).expand(x.shape[1], 1, 3, 3)
  return F.conv2d(x, f, padding=1, groups=x.shape[1])


def mapping(p, z, labels=None, layers=8):
  """w [N, D] of latents and one-hot labels."""
  p = progan.to_torch(p)
  x = torch.tensor(np.float64(z))
  if labels is not None:
    y = torch.tensor(np.float64(labels)) @ p['LabelConcat']['kernel']
    x = torch.cat([x, y], 1)
  x = progan.pixel_norm(x)
  for i in range(layers):
    w = progan.weight(p[f'Dense{i}'], SQRT2 * 0.01)
    x = F.leaky_relu(x @ w + 0.01 * p[f'Dense{i}']['bias'], 0.2)
  return x.numpy()


def synthesis(p, ws, noise, lod, last, styles=True, fused_from=128):
  """Images [N, R, R, C].

  Args:
    p: parameters.
    ws: [N, L, D].
    noise: list of [N, 1, r, r], one for each layer, or None.
    lod: a number.
    last: R.
    styles: AdaIN on a constant; otherwise pixel norm on a dense layer.
    fused_from: resolution from which up kernels are stored flipped.
  """
  p, ws = progan.to_torch(p), torch.tensor(np.float64(ws))

  def finish(x, layer, index):
    if noise is not None:
      x = x + (torch.tensor(np.float64(noise[index]))
               * layer['noise_weight'].reshape(1, -1, 1, 1))
    x = F.leaky_relu(x + layer['bias'].reshape(1, -1, 1, 1), 0.2)
    if not styles:
      return progan.pixel_norm(x)
    x = x - x.mean((2, 3), keepdim=True)
    x = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + 1e-8)
    style = ws[:, index] @ progan.weight(layer['StyleMod'], 1.0)
    style = (style + layer['StyleMod']['bias']).reshape(len(ws), 2, -1, 1, 1)
    return x * (style[:, 0] + 1) + style[:, 1]

  def conv(x, layer, flip=False):
    return progan.conv(x, {'kernel': layer['kernel']}, flip=flip)

  block = p['4x4']
  if styles:
    x = block['Const']['const'].permute(2, 0, 1)[None].expand(
        len(ws), -1, -1, -1)
    x = finish(x, block['Const'], 0)
  else:
    x = ws[:, 0] @ progan.weight(block['Dense'], SQRT2 / 4)
    x = x.reshape(len(x), 4, 4, -1).permute(0, 3, 1, 2)
    x = finish(x, block['Dense'], 0)
  x = finish(conv(x, block['Conv']), block['Conv'], 1)
  total = int(math.log2(last))
  image = progan.conv(x, p[f'ToRGB_lod{total - 2}'], 1.0)
  for i in range(3, total + 1):
    block = p[f'{2**i}x{2**i}']
    x = blur(conv(progan.up(x), block['Conv0_up'], flip=2**i >= fused_from))
    x = finish(x, block['Conv0_up'], 2 * i - 4)
    x = finish(conv(x, block['Conv1']), block['Conv1'], 2 * i - 3)
    rgb = progan.conv(x, p[f'ToRGB_lod{total - i}'], 1.0)
    image = progan.lerp_clip(rgb, progan.up(image), lod - (total - i))
  return image.permute(0, 2, 3, 1).numpy()


def discriminator(p, x, lod, last):
  """Values [N, outputs] of images [N, R, R, C], tensors or not."""
  return progan.discriminator_torch(
      progan.to_torch(p), torch.as_tensor(x, dtype=torch.float64), lod, last,
      {'blur': True})
