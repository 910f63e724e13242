"""VQGAN's encoder and decoder against the official ones, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import official_vqgan
import pytest
import torch

from gans_jax.convert import taming as convert
from gans_jax.core import state as state_lib
from gans_jax.nn import vqgan_blocks

FAST = {'xla_backend_optimization_level': 0}


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layers(model, name: str):
  """{our name of a layer: the official module}, for blocks and layers."""
  found = {}
  for key, module in model.named_modules():
    kind = type(module).__name__
    blocks = ('ResnetBlock', 'AttnBlock', 'Downsample', 'Upsample')
    if kind in blocks or key in ('conv_in', 'norm_out', 'conv_out'):
      path = convert.our_path(f'{name}.{key}.weight')
      found[path[1]] = module
  return found


@pytest.mark.parametrize('name', ['encoder', 'decoder'])
def test_every_layer_is_the_official_one(name):
  model = getattr(official_vqgan.vqgan(), name)
  params = convert.autoencoder({
      f'{name}.{key}': value
      for key, value in official_vqgan.arrays(model).items()})['params'][name]
  sizes = dict(official_vqgan.SMALL)
  sizes.pop('z_channels')
  if name == 'encoder':
    net, x = vqgan_blocks.Encoder(**sizes, z_channels=8), random(2, 16, 16, 3)
  else:
    net, x = vqgan_blocks.Decoder(**sizes, out_channels=3), random(2, 4, 4, 8)

  found, handles = {}, []
  for ours, module in layers(model, name).items():
    handles.append(module.register_forward_hook(
        lambda m, i, out, ours=ours: found.__setitem__(
            ours, official_vqgan.to_numpy(out))))
  with torch.no_grad():
    expected = official_vqgan.to_numpy(model(official_vqgan.to_torch(x)))
  out, variables = jax.jit(
      lambda p, x: net.apply({'params': p}, x, capture_intermediates=True),
      compiler_options=FAST)(params, x)
  out = out if name == 'encoder' else out[0]
  kept = variables['intermediates']
  assert kept.keys() - {'__call__'} == found.keys() and len(found) > 8
  # Ours has the swish that follows in it.
  found['norm_out'] = found['norm_out'] / (1 + np.exp(-found['norm_out']))
  for layer in found:
    np.testing.assert_allclose(kept[layer]['__call__'][0], found[layer],
                               rtol=1e-4, atol=2e-5, err_msg=layer)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=2e-5)


def test_parameter_counts():
  """The sheet's table: f = 16, segmentation, Gumbel's and LDM's f = 8, 4."""
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  for ch_mult, attention, z, encoder, decoder in (
      ((1, 1, 2, 2, 4), (16,), 256, 29_298_176, 42_449_795),
      ((1, 1, 2, 4), (32,), 256, 26_345_728, 38_316_163),
      ((1, 2, 2, 4), (32,), 4, 27_397_764, 40_253_955),
      ((1, 2, 4), (), 3, 22_337_411, 32_960_771)):
    sizes = dict(ch=128, ch_mult=ch_mult, num_res_blocks=2,
                 attn_resolutions=attention, resolution=256)
    small = jax.ShapeDtypeStruct((1, 4, 4, z), jnp.float32)
    for net, x, count in (
        (vqgan_blocks.Encoder(**sizes, z_channels=z), image, encoder),
        (vqgan_blocks.Decoder(**sizes, out_channels=3), small, decoder)):
      found = jax.eval_shape(net.init, jax.random.key(0), x)
      assert state_lib.count(found) == count


def test_downsampling_pads_bottom_and_right():
  """The last tap alone: pixels (2, 2), and zeros beyond the border."""
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[2, 2] = 1.0
  x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
  y = vqgan_blocks.Downsample().apply(
      {'params': {'conv': {'kernel': kernel, 'bias': np.zeros(1)}}}, x)
  np.testing.assert_array_equal(y[0, ..., 0], [[10, 0], [0, 0]])


def test_initializers_are_torchs():
  """U(-b, b) with b = 1 / sqrt(fan_in), kernels and biases."""
  net = vqgan_blocks.ResBlock(64)
  params = jax.jit(net.init, compiler_options=FAST)(
      jax.random.key(0), np.zeros((1, 4, 4, 96)))['params']
  for layer, fan_in in (('conv1', 864), ('conv2', 576), ('nin_shortcut', 96)):
    bound = fan_in**-0.5
    for leaf in params[layer].values():
      largest = np.abs(leaf).max()
      assert largest <= bound
      np.testing.assert_allclose(largest, bound, rtol=0.1)
    np.testing.assert_allclose(params[layer]['kernel'].std(),
                               bound / 3**0.5, rtol=0.05)
