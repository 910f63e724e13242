"""EfficientNet-Lite0 by us and by PyTorch, in one run:

  python tests/metrics/lite0_speed.py

PyTorch is given what makes it fastest on a CPU: batch normalisation folded
into the convolutions, inference mode, either memory format, the best of
several batch sizes. Ours includes the resizer (from 224 to 224 pixels); its
does not.
"""

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from gans_jax.metrics import benchmark
from gans_jax.metrics import efficientnet_lite

IMAGES = 64


def folded():
  """Convolutions of the published weights: name -> (weight, bias)."""
  t = torch.load(efficientnet_lite.checked_path(), weights_only=True)

  def fold(name, norm):
    scale = t[f'{norm}.weight'] * torch.rsqrt(t[f'{norm}.running_var'] + 1e-3)
    bias = t[f'{norm}.bias'] - t[f'{norm}.running_mean'] * scale
    return t[f'{name}.weight'] * scale[:, None, None, None], bias

  layers = {'stem': fold('_conv_stem', '_bn0'),
            'head': fold('_conv_head', '_bn1')}
  for i in range(16):
    name = f'_blocks.{i}'
    if i:
      layers[f'{i}.expand'] = fold(f'{name}._expand_conv', f'{name}._bn0')
    layers[f'{i}.depthwise'] = fold(f'{name}._depthwise_conv', f'{name}._bn1')
    layers[f'{i}.project'] = fold(f'{name}._project_conv', f'{name}._bn2')
  return layers


def pooled(layers, x):
  """Features [N, 1280] of float32 [N, 3, 224, 224] in 0..255."""

  def conv(x, name, stride=1, groups=1):
    w, b = layers[name]
    k = w.shape[-1]
    pads = [max((-(-n // stride) - 1) * stride + k - n, 0)
            for n in (x.shape[3], x.shape[2])]
    if pads[0] % 2 or pads[1] % 2:
      x = F.pad(x, [q for p in pads for q in (p // 2, p - p // 2)])
      padding = 0
    else:
      padding = (pads[1] // 2, pads[0] // 2)
    return F.conv2d(x, w, b, stride, padding, groups=groups)

  x = F.relu6(conv((x - 127) / 128, 'stem', 2))
  strides = {1: 2, 3: 2, 5: 2, 11: 2}
  for i in range(16):
    y = F.relu6(conv(x, f'{i}.expand')) if i else x
    y = F.relu6(conv(y, f'{i}.depthwise', strides.get(i, 1), y.shape[1]))
    y = conv(y, f'{i}.project')
    x = x + y if x.shape == y.shape else y
  return F.relu6(conv(x, 'head')).mean((2, 3))


def torch_seconds(batch, memory_format, repeat=3):
  """Seconds per image."""
  pixels = np.random.RandomState(0).randint(
      0, 256, (IMAGES, 3, 224, 224)).astype(np.uint8)
  layers = {name: (w.contiguous(memory_format=memory_format), b)
            for name, (w, b) in folded().items()}
  best = np.inf
  with torch.inference_mode():
    for _ in range(repeat + 1):
      start = time.perf_counter()
      for i in range(0, IMAGES, batch):
        x = torch.from_numpy(pixels[i:i + batch]).float()
        pooled(layers, x.contiguous(memory_format=memory_format)).numpy()
      best = min(best, time.perf_counter() - start)
  return best / IMAGES


def check():
  """Both compute the same network."""
  import jax.numpy as jnp

  x = np.random.RandomState(1).randint(0, 256, (2, 224, 224, 3))
  ours = efficientnet_lite.EfficientNetLite0('shifted').apply(
      efficientnet_lite.load_variables(), jnp.asarray(x, jnp.float32))
  theirs = pooled(folded(), torch.from_numpy(x).permute(0, 3, 1, 2).float())
  np.testing.assert_allclose(ours['pooled'], theirs.numpy(), atol=1e-4)


def main():
  check()
  ours = benchmark.extractor(IMAGES)
  theirs = {
      (batch, name): torch_seconds(batch, memory_format)
      for batch in (1, 4, 16, IMAGES)
      for name, memory_format in (
          ('NCHW', torch.contiguous_format), ('NHWC', torch.channels_last))}
  fastest = min(theirs, key=theirs.get)
  lines = [f'torch, batches of {batch:>2}, {name}: {1000 * seconds:6.2f} ms'
           for (batch, name), seconds in theirs.items()]
  lines += [f'gans_jax: {1000 * ours:6.2f} ms per image',
            f'ratio to the fastest of torch: {ours / theirs[fastest]:.2f}']
  sys.stdout.write('\n'.join(lines) + '\n')


if __name__ == '__main__':
  main()
