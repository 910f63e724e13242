"""WGAN-GP: networks, initializers, Algorithm 1, the program."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import state as state_lib
from gans_jax.core import step as step_lib
from gans_jax.data import spec as spec_lib
from gans_jax.systems import wgan_gp

FAST = {'xla_backend_optimization_level': 0}
SMALL = {'model.dim_G': 4, 'model.dim_D': 4, 'model.z_dim': 6,
         'loss.n_critic': 2}
CONV = {'model.G': 'conv', 'model.D': 'conv'}


def make(resolution=16, classes=0, **values):
  config = config_lib.base('wgan_gp')
  config_lib.assign(config, {'total_steps': 100, 'batch_size': 8, **SMALL,
                             **values})
  keys = ('image', 'label') if classes else ('image',)
  spec = spec_lib.DataSpec(resolution, 3, classes, 100, keys)
  return wgan_gp.create(config, spec)


def initial(system):
  return jax.jit(system.init, compiler_options=FAST)(jax.random.key(0))


def batch_of(system, batch=8, seed=0):
  generator = np.random.default_rng(seed)
  shape = (system.batches_per_step, batch)
  values = {'image': generator.integers(0, 256, (*shape, *system.image_shape),
                                        np.uint8)}
  if 'label' in system.requires:
    values['label'] = generator.integers(0, system.classes, shape, np.int32)
  return values


def run(system, steps=1):
  state = initial(system)
  traces = []

  def train_step(state, batch):
    traces.append(1)
    return system.train_step(state, batch, {})

  step = jax.jit(train_step, compiler_options=FAST)
  for i in range(steps):
    state, logs = step(state, batch_of(system, seed=i))
  chex.assert_tree_all_finite(logs)
  assert len(traces) == 1
  return state, logs


def assert_close(a, b, tolerance):
  """To `tolerance` of each array's largest element, or of the tree's.

  Some gradients are zero but for rounding (of a bias before batch
  normalization): arrays a million times smaller than the largest count as it.
  """
  top = max(np.abs(np.asarray(x, np.float64)).max()
            for x in jax.tree.leaves(b))

  def one(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    scale = max(np.abs(y).max(), 1e-6 * top / tolerance)
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale)

  jax.tree.map(one, a, b)


# --- Networks ---------------------------------------------------------------

FULL = {'model.dim_G': 128, 'model.dim_D': 128, 'model.z_dim': 128}


@pytest.mark.parametrize('values, classes, g, d', [
    ({}, 0, 1_204_483, 1_053_825),
    ({'model.conditional': True}, 10, 1_218_307, 1_055_115),
    (CONV, 0, 5_179_907, 4_114_689),
])
def test_parameter_counts(values, classes, g, d):
  system = make(32, classes, **{**FULL, **values})
  params = jax.eval_shape(system.init, jax.random.key(0)).params
  assert state_lib.count(params['G']) == g
  assert state_lib.count(params['D']) == d


def leaf_std(params, *path):
  for name in path:
    params = params[name]
  kernel = np.asarray(params['kernel'])
  # Uniform: the largest of many draws is sqrt(3) standard deviations.
  np.testing.assert_allclose(np.abs(kernel).max(),
                             np.sqrt(3) * kernel.std(), rtol=0.05)
  return kernel.std()


def test_initializers():
  """He, sqrt(4 / (in + out)), and Glorot, sqrt(2 / (in + out)): uniform."""
  params = initial(make(32, **{**FULL, 'model.dim_G': 32,
                               'model.dim_D': 32})).params
  g, d = params['G'], params['D']
  for found, expected in (
      (leaf_std(g, 'dense_4'), np.sqrt(2 / (128 + 512))),
      (leaf_std(g, 'up_8_conv1'), np.sqrt(4 / (2 * 9 * 32))),
      (leaf_std(g, 'up_8_shortcut'), np.sqrt(2 / (2 * 32))),
      (leaf_std(g, 'conv_out'), np.sqrt(2 / (9 * 32 + 9 * 3))),
      (leaf_std(d, 'down_16_conv1'), np.sqrt(4 / (9 * 3 + 9 * 32))),
      (leaf_std(d, 'down_16_conv2'), np.sqrt(4 / (2 * 9 * 32)))):
    np.testing.assert_allclose(found, expected, rtol=0.05)
  # fan_out of a stride of 2 is a quarter; fan_in of the transposed one.
  params = initial(make(32, **{**CONV, 'model.dim_G': 16,
                               'model.dim_D': 16})).params
  for found, expected in (
      (leaf_std(params['D'], 'conv_8'), np.sqrt(4 / (25 * 16 + 25 * 32 / 4))),
      (leaf_std(params['G'], 'deconv_8'), np.sqrt(4 / (25 * 64 / 4 + 25 * 32)))
  ):
    np.testing.assert_allclose(found, expected, rtol=0.05)
  for leaf in (params['D']['conv_8'], params['G']['deconv_8']):
    np.testing.assert_array_equal(leaf['bias'], 0)


def test_dcgan_nets_have_deviation_002():
  params = initial(make(**{'model.G': 'dcgan', 'model.D': 'dcgan',
                           'model.dim_G': 16, 'model.dim_D': 16})).params
  np.testing.assert_allclose(leaf_std(params['G'], 'deconv_8'), 0.02, rtol=0.05)
  np.testing.assert_allclose(leaf_std(params['D'], 'conv_4'), 0.02, rtol=0.05)


def torch_conv(params, x, bias=True):
  weight = torch.tensor(np.asarray(params['kernel']).transpose(3, 2, 0, 1))
  pad = weight.shape[-1] // 2
  return torch.nn.functional.conv2d(
      x, weight, torch.tensor(np.asarray(params['bias'])) if bias else None,
      padding=pad)


@pytest.mark.parametrize('resample', ['none', 'up', 'down'])
def test_residual_block_is_the_plain_one(resample):
  """Against the block as the authors' code computes it, in PyTorch."""
  class Block(wgan_gp.nn.Module):

    @wgan_gp.nn.compact
    def __call__(self, x):
      return wgan_gp.Layers().residual(x, 5, 'block', False, resample)

  x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  params = Block().init(jax.random.key(0), x)['params']
  f = torch.nn.functional
  h = s = torch.tensor(x.transpose(0, 3, 1, 2))
  h = f.relu(h)
  if resample == 'up':
    h, s = (f.interpolate(t, scale_factor=2, mode='nearest') for t in (h, s))
  h = torch_conv(params['block_conv1'], h)
  h = torch_conv(params['block_conv2'], f.relu(h))
  s = torch_conv(params['block_shortcut'], s)
  if resample == 'down':
    h, s = f.avg_pool2d(h, 2), f.avg_pool2d(s, 2)
  np.testing.assert_allclose(Block().apply({'params': params}, x),
                             (h + s).numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize('kernel', [3, 5])
def test_deconv_is_the_transpose_of_same_padding(kernel):
  """conv2d_transpose of TensorFlow: the gradient of its SAME convolution."""
  class Up(wgan_gp.nn.Module):

    @wgan_gp.nn.compact
    def __call__(self, x):
      return wgan_gp.Layers().deconv(x, 2, kernel, 'up')

  x = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
  params = Up().init(jax.random.key(0), x)['params']
  w = np.asarray(params['up']['kernel'])  # [k, k, 3, 2]
  low = (kernel - 2) // 2  # SAME puts the smaller half first
  expected = np.zeros((1, 8, 8, 2))
  for i in range(4):
    for j in range(4):
      for a in range(kernel):
        for b in range(kernel):
          row, column = 2 * i + a - low, 2 * j + b - low
          if 0 <= row < 8 and 0 <= column < 8:
            expected[0, row, column] += x[0, i, j] @ w[a, b]
  np.testing.assert_allclose(Up().apply({'params': params}, x), expected,
                             atol=1e-5)


@pytest.mark.parametrize('row', list(wgan_gp.ARCHITECTURES))
def test_architectures_of_figure_2(row):
  system = make(64, **{**wgan_gp.ARCHITECTURES[row]})
  state = jax.eval_shape(system.init, jax.random.key(0))
  images = jax.eval_shape(
      lambda v, k: system.generate(v, k), state_lib.variables(state),
      jax.eval_shape(lambda: rng.from_seeds([1, 2])))
  assert images.shape == (2, 64, 64, 3)
  assert bool(state.mvars['G']) == (row not in ('constant', 'mlp', 'no_norm'))
  names = {p[-2] for p in map(
      lambda kv: [k.key for k in kv[0]],
      jax.tree_util.tree_leaves_with_path(state.params['D']))}
  assert any('norm' in name for name in names) == (row != 'no_norm')
  if row == 'resnet101':
    # On the longest path: input, 3 for each of 33 blocks, output.
    for net in ('G', 'D'):
      blocks = [n for n in state.params[net] if n.endswith('_conv2')]
      assert 3 * len(blocks) + 2 == 101


def test_gated_and_tanh_units_are_used():
  for activation, function in (
      ('tanh', np.tanh), ('gated', lambda x: np.tanh(x[..., 2:])
                          / (1 + np.exp(-x[..., :2])))):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    layers = wgan_gp.Layers(activation=activation)
    np.testing.assert_allclose(layers.activate(x), function(x), rtol=1e-5)
  assert wgan_gp.Layers(activation='gated').wide(7) == 14


def test_methods_of_figure_2():
  row = wgan_gp.ARCHITECTURES['dcgan']
  values = wgan_gp.method('wgan', row)
  assert values['model.norm_D'] == 'batch'
  assert values['optimizer.G.name'] == values['optimizer.D.name'] == 'rmsprop'
  assert wgan_gp.method('wgan_gp', row) == row
  for name in wgan_gp.METHODS:
    system = make(16, **{**wgan_gp.method(name, row), **SMALL})
    assert 'batch_stats' in jax.eval_shape(
        system.init, jax.random.key(0)).mvars['D'] or name == 'wgan_gp'
    if name == 'wgan':
      state, _ = run(system)
      assert max(np.abs(x).max() for x in jax.tree.leaves(
          state.params['D'])) <= 0.01 + 1e-7


# --- Algorithm 1 ------------------------------------------------------------


def test_critic_scan_is_the_loop():
  system = make(**CONV)
  batch = batch_of(system)
  after, logs = run(system)
  state = start = initial(system)

  def key(name, i):
    return jax.random.fold_in(rng.named(start.key, 0, name), i)

  for i in range(2):
    real = 2 * (batch['image'][i].astype(np.float32) / 256 - 0.5)
    real = real + jax.random.uniform(key('dequantize', i), real.shape,
                                     maxval=1 / 128)
    inputs = {'image': jnp.asarray(real),
              'z': jax.random.normal(key('z/d', i), (8, 6)),
              'eps': jax.random.uniform(key('eps', i), (8,))}
    state, d_logs = jax.jit(lambda state, inputs: step_lib.update_player(
        state, 'D', ('D',), system.tx['D'],
        functools.partial(system.d_loss, state), inputs),
                            compiler_options=FAST)(state, inputs)
  assert_close(after.opt['D'], state.opt['D'], 1e-3)
  for name in ('loss/d', 'penalty/wgan_gp'):
    np.testing.assert_allclose(logs[name], d_logs[name], rtol=1e-4)


@pytest.mark.parametrize('values', [
    {}, {'loss.penalty': 'wgan_lp'}, {'loss.penalty_form': 'jvp'}])
def test_penalty_is_of_each_image(values):
  """The logged penalty, against gradients taken image by image."""
  system = make(**{**CONV, 'model.norm_D': 'layer', **values})
  state = initial(system)
  # A critic steep enough for the one-sided penalty to be at work.
  state = state.replace(params=jax.tree.map(lambda x: 3 * x, state.params))
  generator = np.random.default_rng(0)
  inputs = {
      'image': generator.uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32),
      'z': generator.normal(size=(4, 6)).astype(np.float32),
      'eps': np.array([0.1, 0.9, 0.3, 0.6], np.float32)}
  loss = jax.jit(functools.partial(system.d_loss, state),
                 compiler_options=FAST)
  value, (_, logs) = loss(state.params, state.mvars, inputs)
  fake, _ = state_lib.apply_net(
      system.nets['G'], state.params['G'], state.mvars['G'], inputs['z'],
      None, train=True)
  expected = []
  for x, y, a in zip(inputs['image'], fake, inputs['eps'], strict=True):
    gradient = jax.grad(lambda t: system.nets['D'].apply(
        {'params': state.params['D']}, t[None], train=True)[0][0])(
            a * x + (1 - a) * y)
    distance = float(jnp.linalg.norm(gradient.reshape(-1))) - 1
    expected.append(max(distance, 0) ** 2 if 'loss.penalty' in values else
                    distance**2)
  penalty = [v for k, v in logs.items() if k.startswith('penalty/')]
  np.testing.assert_allclose(penalty, [10 * np.mean(expected)], rtol=1e-4)
  assert penalty[0] > 0
  np.testing.assert_allclose(value, logs['loss/d'] + penalty[0], rtol=1e-5)
  np.testing.assert_allclose(
      logs['loss/d'], logs['logits/fake'] - logs['logits/real'], rtol=1e-4,
      atol=1e-6)


def test_both_forms_have_one_gradient():
  gradients = []
  for form in ('grad', 'jvp'):
    state, _ = run(make(**{**CONV, 'loss.penalty_form': form,
                             'loss.n_critic': 1}))
    gradients.append(state.opt['D'])
  assert_close(gradients[0], gradients[1], 1e-4)


@pytest.mark.slow
def test_microbatches():
  """Without batch norm, the same losses and gradients in pieces."""
  values = {**CONV, 'model.norm_G': 'none', 'loss.n_critic': 1}
  whole, logs = run(make(**values))
  pieces, piece_logs = run(make(**{**values, 'microbatches': 4}))
  assert_close(pieces.opt, whole.opt, 1e-4)
  for name, value in logs.items():
    np.testing.assert_allclose(piece_logs[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_supervised_row():
  system = make(16, 10, **{'model.conditional': True, 'loss.n_critic': 1})
  assert system.requires == ('image', 'label')
  assert system.conditions == ('label',)
  state, logs = run(system)
  # Not far from chance, at the start.
  assert 1.5 < logs['loss/class_real'] < 4
  assert 1.5 < logs['loss/class_fake'] < 4
  # Labels reach the image through the tables of conditional batch norm.
  state = state.replace(params=jax.tree_util.tree_map_with_path(
      lambda path, x: x + np.random.default_rng(0).normal(
          size=x.shape).astype(np.float32) if x.shape[:1] == (10,) else x,
      state.params))
  variables, keys = state_lib.variables(state), rng.from_seeds([5, 5])
  pair = system.generate(variables, keys, {'label': np.array([1, 2])})
  assert np.abs(pair[0] - pair[1]).max() > 0.01
  same = system.generate(variables, keys)
  np.testing.assert_allclose(same[0], same[1], atol=1e-6)


def test_class_loss_weights():
  """L_D has the class loss of real images, L_G 0.1 of that of fakes."""
  base = make(16, 10, **{'model.conditional': True})
  off = make(16, 10, **{'model.conditional': True, 'loss.acgan_D': 0.0,
                        'loss.acgan_G': 0.0})
  state = initial(base)
  generator = np.random.default_rng(0)
  inputs = {'image': generator.normal(size=(4, 16, 16, 3)).astype('f'),
            'z': generator.normal(size=(4, 6)).astype('f'),
            'eps': generator.uniform(size=4).astype('f'),
            'label': np.array([1, 2, 3, 4])}
  for method, weight, name in (('d_loss', 1.0, 'loss/class_real'),
                               ('g_loss', 0.1, 'loss/class_fake')):
    values = [jax.jit(getattr(s, method), compiler_options=FAST)(
        state, state.params, state.mvars, inputs) for s in (base, off)]
    logs = values[0][1][1]
    np.testing.assert_allclose(values[0][0] - values[1][0],
                               weight * logs[name], rtol=1e-3)


def test_learning_rate_ends_at_zero():
  system = make(**{**CONV, 'total_steps': 2})
  state, _ = run(system, 2)
  later, _ = system.tx['D'].update({'D': state.params['D']}, state.opt['D'])
  assert max(np.abs(x).max() for x in jax.tree.leaves(later)) == 0


# --- Sampling and the program -----------------------------------------------


@pytest.mark.parametrize('values', [{}, CONV, {'model.G': 'resnet_pyramid'}])
def test_images_depend_on_their_keys_alone(values):
  system = make(**values)
  variables = state_lib.variables(initial(system))
  keys = rng.from_seeds(np.arange(4))
  images = system.generate(variables, keys)
  assert images.shape == (4, 16, 16, 3) and images.dtype == jnp.float32
  np.testing.assert_allclose(images[2:3],
                             system.generate(variables, keys[2:3]), atol=1e-6)
  mixed, _ = system.generate_by_batch(variables, keys)
  assert np.abs(mixed - images).max() > 1e-3


@pytest.fixture(scope='module', params=[
    CONV, pytest.param({}, marks=pytest.mark.slow)], ids=['conv', 'resnet'])
def programs(request):
  """{devices: (compiled step, state, batch)} of one global batch of 16."""
  system = make(**request.param)
  batch, result = batch_of(system, 16), {}
  for devices in (1, 8):
    mesh = mesh_lib.make(data=devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
      abstract = jax.eval_shape(system.init, jax.random.key(0))
      shardings = mesh_lib.shardings(abstract, mesh)
      state = jax.jit(system.init, out_shardings=shardings)(jax.random.key(0))
      placed = mesh_lib.to_global(batch, mesh)
      program = jax.jit(lambda s, b: system.train_step(s, b, {}),
                        out_shardings=(shardings, None)).lower(
                            state, placed).compile(compiler_options=FAST)
    result[devices] = program, state, placed
  return result


@pytest.mark.slow
def test_eight_devices_train_as_one(programs):
  results = {n: program(state, batch)
             for n, (program, state, batch) in programs.items()}
  for name, value in results[1][1].items():
    np.testing.assert_allclose(results[8][1][name], value, rtol=1e-4,
                               atol=1e-6)
  # The moments of Adam, after two updates of the critic and one of G.
  assert_close(results[8][0].opt, results[1][0].opt, 1e-4)


@pytest.mark.slow
def test_no_convolution_is_reversed(programs):
  for program, *_ in programs.values():
    assert hlo.reversed_convolutions(program) == 0


@pytest.mark.slow
def test_work_is_shared(programs):
  one, eight = (programs[n][0].cost_analysis()['flops'] for n in (1, 8))
  assert eight * 8 == pytest.approx(one, rel=0.05)
  assert list(hlo.collectives(programs[8][0])) == ['all-reduce']


@pytest.mark.parametrize('values, words', [
    ({'model.G': 'resnet50'}, ['model.G', 'resnet']),
    ({'model.norm_D': 'batch'}, ['norm_D', 'layer']),
    ({'model.conditional': True}, ['data.labels']),
    ({'model.conditional': True, **CONV}, ['resnet']),
    ({'loss.penalty': 'gp'}, ['loss.penalty', 'wgan_gp']),
    ({'loss.objective': 'relativistic'}, ['generator_batches']),
    ({'loss.n_critic': 0}, ['loss.n_critic']),
])
def test_bad_values_are_refused(values, words):
  with pytest.raises(errors.UserError) as error:
    make(**values)
  for word in words:
    assert word in str(error.value)
