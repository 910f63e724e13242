"""BigGAN checkpoints of others give their images and logits here.

golden/biggan_pytorch.npz has outputs of ajbrock/BigGAN-PyTorch (commit
98459431) on the CPU. Every array of a state dict was filled by `value` below,
from its name alone, singular values excepted. Generators: G_ch=2, dim_z=16,
resolution=32, G_attn='16', 5 classes, SN_eps=1e-6, BN_eps=1e-5; 'biggan' and
'deep' with G_shared, hier, shared_dim=6, 'tables' without. Discriminators:
resolution=64, D_attn='32', D_ch=8 (deep: 4). Kept are the shapes of the state
dicts, the first image in evaluation and in training mode of z [3, 16] =
RandomState(0).normal and labels 4, 0, 2, the gradients of <image, RandomState
(1).normal> in training mode (the smaller ones, and the norms of the others),
and of D in evaluation mode the logits of RandomState(2).uniform(-1, 1)
[3, 3, 64, 64] and the gradient of their sum, every fourth pixel of the first
image.
"""

import importlib
import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_pretrained_biggan
import runs
import torch

import gans_jax
from gans_jax.convert import biggan as convert
from gans_jax.core import cli
from gans_jax.core import errors
from gans_jax.nn import spectral_norm
from gans_jax.systems import biggan

command = importlib.import_module('gans_jax.convert.__main__')

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'biggan_pytorch.npz'
FAST = {'xla_backend_optimization_level': 0}
RULE = spectral_norm.RULES['biggan_pytorch']
LABELS = np.array([4, 0, 2])


def value(name: str, shape) -> np.ndarray:
  draw = np.random.RandomState(zlib.crc32(name.encode()))
  x = draw.normal(size=shape).astype(np.float32)
  if name.endswith('var'):
    return np.abs(x) + np.float32(0.5)
  if name.endswith('u0'):
    return x
  if name.endswith('weight') and len(shape) > 1:
    return x / np.sqrt(np.prod(shape[1:])).astype(np.float32)
  return (0.3 * x).astype(np.float32)


@pytest.fixture(scope='module')
def golden():
  return np.load(GOLDEN)


def state_dict(golden, key):
  return {name: value(name, tuple(shape))
          for name, shape in json.loads(str(golden[key])).items()}


def generator(kind):
  small = biggan.plan(32, 'deep' if kind == 'deep' else 'biggan', 2, 2)
  return biggan.Generator(
      'deep' if kind == 'deep' else 'biggan', small, 5, (16,),
      shared_dim=0 if kind == 'tables' else 6, hierarchical=kind != 'tables',
      rule=RULE, bn_epsilon=1e-5)


@pytest.mark.parametrize('kind', [
    'biggan', 'tables', pytest.param('deep', marks=pytest.mark.slow)])
def test_generator_of_biggan_pytorch(golden, kind):
  variables = convert.generator(state_dict(golden, f'{kind}/shapes'))
  net = generator(kind)
  z = np.random.RandomState(0).normal(size=(3, 16)).astype(np.float32)
  weight = np.random.RandomState(1).normal(size=(3, 3, 32, 32))
  weight = weight.transpose(0, 2, 3, 1).astype(np.float32)
  params = variables.pop('params')

  def trained(params):
    x, _ = net.apply({'params': params, **variables}, z, LABELS, True,
                     mutable=['batch_stats'])
    return jnp.sum(x * weight), x

  sampled = jax.jit(lambda p: net.apply(
      {'params': p, **variables}, z, LABELS, False), compiler_options=FAST)
  found = sampled(params)[:1]
  expected = golden[f'{kind}/eval']
  assert expected.std() > 0.05
  np.testing.assert_allclose(found, expected, atol=1e-4)
  grads, found = jax.jit(jax.grad(trained, has_aux=True),
                         compiler_options=FAST)(params)
  np.testing.assert_allclose(found[:1], golden[f'{kind}/train'], atol=1e-4)

  norms = json.loads(str(golden[f'{kind}/grad_norms']))
  first = 'up_8_a' if kind == 'deep' else 'up_8'
  leaf = 'embedding' if kind == 'tables' else 'kernel'
  ours = {'linear.weight': grads['dense']['kernel'],
          'blocks.0.0.bn1.gain.weight': grads[first]['bn1']['gain'][leaf],
          'blocks.0.0.conv1.weight': grads[first]['conv1']['kernel'],
          'output_layer.2.weight': grads['conv_out']['kernel']}
  for name, norm in norms.items():
    if name.endswith('gamma'):
      gamma = grads['attention_16']['gamma']
      np.testing.assert_allclose(gamma, golden[f'{kind}/grad/{name}'],
                                 rtol=1e-3)
    else:
      np.testing.assert_allclose(np.linalg.norm(ours[name]), norm, rtol=1e-3)


@pytest.mark.parametrize('kind, ch', [('biggan', 8), ('deep', 4)])
def test_discriminator_of_biggan_pytorch(golden, kind, ch):
  variables = convert.discriminator(state_dict(golden, f'{kind}/d_shapes'))
  net = biggan.Discriminator(kind, biggan.plan(64, kind, ch, ch), 5, (32,),
                             RULE)
  x = np.random.RandomState(2).uniform(-1, 1, (3, 3, 64, 64))
  x = x.transpose(0, 2, 3, 1).astype(np.float32)

  def total(x):
    logits, _ = net.apply(variables, x, LABELS)
    return jnp.sum(logits), logits

  grad, logits = jax.jit(jax.grad(total, has_aux=True),
                         compiler_options=FAST)(x)
  np.testing.assert_allclose(logits, golden[f'{kind}/logits'], rtol=1e-4,
                             atol=1e-3)
  expected = golden[f'{kind}/d_grad']
  np.testing.assert_allclose(grad[:1, ::4, ::4], expected, rtol=0,
                             atol=1e-4 * np.abs(expected).max())


# --- pytorch-pretrained-biggan -----------------------------------------------

WIDTH, Z_DIM, CLASSES = 8, 6, 7
# Four sizes, channels halved at each, as the package wants it.
LAYERS = [(False, 16, 16), (True, 16, 8), (False, 8, 8), (True, 8, 4),
          (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1)]


def pretrained(passes=3, **values):
  """Returns a network of the package with random weights and statistics."""
  config = pytorch_pretrained_biggan.BigGANConfig(
      z_dim=Z_DIM, class_embed_dim=Z_DIM, channel_width=WIDTH,
      num_classes=CLASSES, **values)
  torch.manual_seed(0)
  net = pytorch_pretrained_biggan.BigGAN(config)
  draw = np.random.RandomState(0)
  state = net.state_dict()
  for name, x in state.items():
    noise = torch.tensor(draw.normal(size=tuple(x.shape)).astype(np.float32))
    if name.endswith('running_vars'):
      state[name] = noise.abs() + 0.5
    elif name.endswith(('running_means', 'gamma', 'bias', 'bn.weight')):
      state[name] = 0.3 * noise + name.endswith('bn.weight')
  net.load_state_dict(state)
  # Its vectors are random at first; each pass in training moves them.
  with torch.no_grad():
    for _ in range(passes):
      net.train()(torch.ones(1, Z_DIM), torch.eye(CLASSES)[:1], 1.0)
  return net.eval()


@pytest.mark.parametrize('values, channels, size', [
    ({'layers': LAYERS, 'attention_layer_position': 4}, (8, 4, 2, 1), 16),
    pytest.param({}, (16, 8, 4, 2, 1), 64, marks=pytest.mark.slow),
])
@pytest.mark.parametrize('truncation', [1.0, 0.5])
def test_pretrained_generator(values, channels, size, truncation):
  """The second is the package's own network for 128 pixels, but narrow."""
  theirs = pretrained(**values)
  variables = convert.pretrained(
      {k: v.numpy() for k, v in theirs.state_dict().items()}, truncation)
  plan = biggan.Plan(16 * WIDTH, tuple(n * WIDTH for n in channels), 0, (), 0)
  ours = biggan.Generator(
      'deep', plan, CLASSES, (size,), shared_dim=Z_DIM, order='z_first',
      rgb_channels=WIDTH, rule=spectral_norm.RULES['pretrained_biggan'],
      bn_epsilon=1e-4)
  z = np.random.RandomState(1).normal(size=(2, Z_DIM)).astype(np.float32)
  labels = np.array([3, 6])
  with torch.no_grad():
    expected = theirs(torch.tensor(z), torch.eye(CLASSES)[labels],
                      truncation).numpy().transpose(0, 2, 3, 1)
  found = jax.jit(lambda v: ours.apply(v, z, labels, False),
                  compiler_options=FAST)(variables)
  assert expected.std() > 0.02
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_statistics_between_two_tables():
  state = {k: v.numpy() for k, v in pretrained(
      layers=LAYERS, attention_layer_position=4).state_dict().items()}
  tables = state['generator.bn.running_means']
  for truncation, expected in (
      (0.405, 0.75 * tables[20] + 0.25 * tables[21]), (0.14, tables[7]),
      (0.58, tables[29]), (1.0, tables[50])):
    found = convert.pretrained(state, truncation)['batch_stats']
    np.testing.assert_allclose(found['bn_out']['norm']['mean'], expected,
                               atol=1e-5)


# --- Configs -----------------------------------------------------------------


def system_of(snapshot):
  files = dict.fromkeys((*snapshot.nets, *snapshot.ema), 'a file')
  return command.create(snapshot, files, [], {})[2]


@pytest.mark.parametrize('kind', ['biggan', 'tables', 'deep'])
def test_settings_of_biggan_pytorch(golden, kind):
  """They make the network that `generator` makes by hand."""
  state = state_dict(golden, f'{kind}/shapes')
  snapshot = convert.snapshot(state, ema_state=state)
  assert snapshot.system == 'biggan' and snapshot.num_classes == 5
  net, expected = system_of(snapshot).nets['G'], generator(kind)
  assert net == expected
  assert snapshot.settings['model.z_dim'] == 16
  critic = convert.discriminator(state_dict(
      golden, 'deep/d_shapes' if kind == 'deep' else 'biggan/d_shapes'))
  variant = 'deep' if kind == 'deep' else 'biggan'
  assert convert.of_discriminator(critic, kind == 'deep', {
      'data.resolution': 64, 'model.variant': variant}) == {
          'model.ch_D': 4 if kind == 'deep' else 8, 'model.attention_D': '32'}
  with pytest.raises(errors.UserError, match='other ones'):
    convert.of_discriminator(critic, kind == 'deep', {
        'data.resolution': 32, 'model.variant': variant})


PUBLISHED = {128: [(16, 16), (16, 8), (8, 4), (4, 2), (2, 1)],
             256: [(16, 16), (16, 8), (8, 8), (8, 4), (4, 2), (2, 1)],
             512: [(16, 16), (16, 8), (8, 8), (8, 4), (4, 2), (2, 1), (1, 1)]}


@pytest.mark.parametrize('resolution', [
    128, *(pytest.param(r, marks=pytest.mark.slow) for r in (256, 512))])
def test_settings_of_the_published_networks(resolution):
  """By layer, at an eighth of the width and less."""
  layers = [layer for a, b in PUBLISHED[resolution]
            for layer in ((False, a, a), (True, a, b))]
  theirs = pretrained(passes=0, layers=layers, attention_layer_position=8,
                      output_dim=resolution)
  state = {k: v.numpy() for k, v in theirs.state_dict().items()}
  snapshot = convert.pretrained_snapshot(state, 0.5, theirs.config.to_dict())
  system = system_of(snapshot)  # Every shape is as it should be.
  assert snapshot.num_classes == CLASSES
  settings = snapshot.settings
  assert settings['data.resolution'] == resolution
  assert settings['model.attention_G'] == '64'
  assert (settings['model.z_dim'], settings['model.shared_dim']) == (6, 6)
  assert settings['model.rgb_channels'] == settings['model.ch_G'] == WIDTH
  assert system.nets['G'].rule == spectral_norm.RULES['pretrained_biggan']
  assert system.nets['G'].order == 'z_first'
  for config, words in (({'eps': 1e-5}, 'eps = 1e-05'), ([], 'no dictionary'),
                        ({'output_dim': 64}, 'output_dim = 64')):
    with pytest.raises(errors.UserError, match=words):
      convert.pretrained_snapshot(state, 0.5, config)


@pytest.mark.slow
def test_a_small_network_through_the_command(tmp_path, capsys):
  """Weights and config.json to the images of the package."""
  theirs = pretrained(layers=LAYERS, attention_layer_position=4,
                      output_dim=64)
  path = tmp_path / 'biggan-deep-64-pytorch_model.bin'
  torch.save(theirs.state_dict(), path)
  config = tmp_path / 'biggan-deep-64-config.json'
  config.write_text(theirs.config.to_json_string())

  def call(*options):
    return cli.call(command.main, [
        '--format=pretrained_biggan', f'--checkpoint={path}', *options])

  out = tmp_path / 'out'
  assert call('--truncation=0.5', f'--out={out}') == cli.DONE
  said = capsys.readouterr().out
  assert '--truncation=0.5 --option=truncation_form=scale' in said
  G = gans_jax.load(str(out))
  labels = np.array([3, 6])
  options = {'truncation': 0.5, 'truncation_form': 'scale'}
  images = G([1, 2], label=labels, **options)
  z = np.asarray(biggan.truncate(G.z([1, 2]), 0.5, 'scale'))
  assert np.abs(z).max() <= 1
  with torch.no_grad():
    expected = theirs(torch.tensor(z), torch.eye(CLASSES)[labels],
                      0.5).numpy().transpose(0, 2, 3, 1)
  pixels = np.clip(expected * 127.5 + 128, 0, 255).astype(int)
  assert expected.std() > 0.02
  assert np.abs(images.astype(int) - pixels).max() <= 1

  for options, words in (
      (['--truncation=0'], 'truncation is 0.0'),
      (['--discriminator=x'], '--discriminator has no meaning'),
      ([f'--json={path}'], 'cannot be read as JSON'),
      ([f'--json={tmp_path}/no.json'], 'cannot be read as JSON')):
    runs.refused(capsys, call(*options, f'--out={tmp_path}/new'), words)
  config.write_text('{"z_dim": 128}')
  runs.refused(capsys, call(f'--out={tmp_path}/new'), 'z_dim = 128',
               'network with 6')
  assert not (tmp_path / 'new').exists()


# --- Refusals ----------------------------------------------------------------


def test_bad_checkpoints_are_refused(golden):
  state = state_dict(golden, 'biggan/shapes')
  del state['blocks.1.0.conv2.weight']
  with pytest.raises(errors.UserError, match='blocks.1.0.conv2.weight'):
    convert.generator(state)
  with pytest.raises(errors.UserError, match='blocks.0'):
    convert.discriminator({'fc.weight': np.zeros((2, 2))})
  with pytest.raises(errors.UserError, match='truncation is 1.5'):
    convert.pretrained({}, 1.5)
  with pytest.raises(errors.UserError, match='embeddings.weight'):
    convert.pretrained({'fc.weight': np.zeros((2, 2))})
  for other in ({}, [], {'embeddings.weight': 'text'}):
    with pytest.raises(errors.UserError, match='The file holds'):
      convert.pretrained(other)
