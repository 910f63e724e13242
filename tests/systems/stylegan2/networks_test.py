"""StyleGAN2's networks: sizes, and equality with the official PyTorch code."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stylegan2_weights

from gans_jax.core import config as config_lib
from gans_jax.core import hlo
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.nn import w_space
from gans_jax.systems import stylegan2
from gans_jax.systems.stylegan2 import networks

FAST = {'xla_backend_optimization_level': 0}
GOLDEN = (pathlib.Path(__file__).parents[2] / 'golden'
          / 'stylegan2_networks.npz')


# --- Numbers of parameters ----------------------------------------------------


def counts(resolution, classes=0, **values):
  """{'G', 'mapping', 'synthesis', 'D'} of a config."""
  config = config_lib.base('stylegan2')
  config_lib.assign(config, {'total_steps': 10, **values})
  spec = spec_lib.DataSpec(resolution, 3, classes, 100, ('image', 'label'))
  state = jax.eval_shape(stylegan2.create(config, spec).init,
                         jax.random.key(0))
  g = state.params['G']
  return {'G': state_lib.count(g), 'D': state_lib.count(state.params['D']),
          'mapping': state_lib.count(g['mapping']),
          'synthesis': state_lib.count(g['synthesis'])}


HALF = {'model.channel_base': 16384}
AUTO = {**HALF, 'model.mapping_layers': 2}


@pytest.mark.parametrize('resolution, values, expected', [
    (1024, {}, {'G': 30_370_060, 'mapping': 2_101_248,
                'synthesis': 28_268_812, 'D': 29_012_513}),
    (1024, stylegan2.CONFIG_E, {'G': 24_900_764, 'synthesis': 22_799_516,
                                'D': 24_038_161}),
    (512, {}, {'G': 30_276_583, 'D': 28_982_849}),
    (256, {}, {'G': 30_034_338, 'D': 28_864_129}),
    (256, HALF, {'G': 24_767_458, 'D': 24_001_089}),
    (256, AUTO, {'G': 23_191_522, 'D': 24_001_089}),
    (128, AUTO, {'G': 22_949_277, 'D': 23_882_369}),
    (64, AUTO, {'G': 22_243_608, 'D': 23_407_361}),
    # The sizes of the benchmark against PyTorch.
    (64, {'model.channel_base': 8192}, {'G': 19_016_088, 'D': 18_900_609}),
])
def test_parameters(resolution, values, expected):
  found = counts(resolution, **values)
  assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize('architecture, g, d', [
    ('orig', 21_495_044, 23_077_137), ('skip', 22_799_516, 23_087_249),
    ('resnet', 22_456_068, 24_038_161)])
def test_parameters_of_table_2(architecture, g, d):
  found = counts(1024, **stylegan2.TABLE_2[f'{architecture}_{architecture}'])
  assert (found['synthesis'], found['D']) == (g, d)


CIFAR = {'model.mapping_layers': 2, 'model.D': 'orig'}


@pytest.mark.parametrize('values, classes, g, d', [
    (CIFAR, 0, 19_947_539, 20_720_641),
    ({**CIFAR, 'model.conditional': True}, 10, 20_215_315, 23_089_664),
    ({**CIFAR, 'model.conditional': True, 'model.d_mapping_layers': 0}, 10,
     20_215_315, 20_988_416),
])
def test_parameters_of_cifar(values, classes, g, d):
  found = counts(32, classes, **values)
  assert (found['G'], found['D']) == (g, d)


def test_parameters_of_the_blocks_of_config_f():
  pyramid = networks.Pyramid((1024, 1024, 3))
  params = jax.eval_shape(
      networks.Generator(pyramid).init, jax.random.key(0),
      jnp.zeros((1, 512)), None, None)['params']['synthesis']
  assert {name: state_lib.count(block) for name, block in params.items()} == {
      'b4': 2_894_852, 'b8': 5_509_125, 'b16': 5_509_125, 'b32': 5_509_125,
      'b64': 5_509_125, 'b128': 2_296_069, 'b256': 705_669, 'b512': 242_245,
      'b1024': 93_477}


@pytest.mark.parametrize('resolution, layers', [(1024, 18), (256, 14), (32, 8)])
def test_number_of_ws(resolution, layers):
  pyramid = networks.Pyramid((resolution, resolution, 3))
  assert networks.num_ws(pyramid) == layers
  maps = networks.noise_maps(pyramid)
  assert len(maps) == layers - 1
  assert maps[0] == ('b4', 'conv1', (4, 4))
  assert maps[-1] == (f'b{resolution}', 'conv1', (resolution, resolution))


# --- The official networks ----------------------------------------------------


PYRAMID = networks.Pyramid((32, 32, 3), 256, 16)


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def third(x):
  return np.asarray(x)[:, ::3, ::3]


def close(found, expected):
  np.testing.assert_allclose(found, expected, rtol=1e-4,
                             atol=2e-5 * np.abs(expected).max())


def generator(architecture, classes=0):
  """A generator with the weights of the official names, and its inputs."""
  module = networks.Generator(
      PYRAMID, architecture, 2.0 if architecture == 'resnet' else None,
      w_dim=24, mapping_layers=3, classes=classes)
  z = jnp.asarray(stylegan2_weights.draw('z', (2, 20)))
  labels = jnp.asarray([3, 1]) if classes else None
  abstract = jax.eval_shape(module.init, jax.random.key(0), z, labels, None)
  return module, stylegan2_weights.tree(abstract.pop('params')), (
      stylegan2_weights.tree(abstract)), z, labels


@pytest.mark.parametrize('architecture, classes', [
    ('skip', 0), ('skip', 5), ('resnet', 0), ('orig', 0)])
def test_generator_is_the_official_one(architecture, classes, golden):
  module, params, others, z, labels = generator(architecture, classes)
  variables = {'params': params, **others}
  tag = f'G_{architecture}' + ('_label' if classes else '')
  noise = module.apply(variables, method='constant_noise')

  @functools.partial(jax.jit, compiler_options=FAST)
  def run(z):
    w = module.apply(variables, z, labels, method='map')
    none = module.apply(variables, w, None, method='synthesize')
    const, features = module.apply(
        variables, w, noise, method='synthesize',
        capture_intermediates=lambda m, _: isinstance(
            m, networks.SynthesisBlock))
    pulled = w_space.truncate(w_space.broadcast(w, 8),
                              others['moving']['w_avg'], 0.5, 4)
    return w, none, const, features, module.apply(
        variables, pulled, noise, method='synthesize')

  w, none, const, features, truncated = run(z)
  close(third(none), golden[f'{tag}_none'])
  close(third(const), golden[f'{tag}_const'])
  if architecture == 'skip':
    close(w, golden['w_label' if classes else 'w'])
  if tag == 'G_skip':
    close(third(truncated), golden['G_skip_truncated'])
    blocks = features['intermediates']['synthesis']
    for resolution in (4, 8, 16, 32):
      x, image = blocks[f'b{resolution}']['__call__'][0]
      close(third(x[:1]), golden[f'{tag}_b{resolution}_x'])
      close(third(image[:1]), golden[f'{tag}_b{resolution}_image'])


@pytest.mark.parametrize('architecture, layers', [
    ('resnet', None), ('resnet', 3), ('resnet', 0), ('skip', None),
    ('orig', None)])
def test_discriminator_is_the_official_one(architecture, layers, golden):
  classes = 0 if layers is None else 5
  tag = f'D_{architecture}' + (f'_label{layers}' if classes else '')
  module = networks.Discriminator(
      PYRAMID, architecture, 2.0 if tag == 'D_resnet' else None, classes,
      layers or 0, mbstd_group=2, mbstd_order='strided')
  x = jnp.asarray(3 * np.moveaxis(
      stylegan2_weights.draw('image', (4, 3, 32, 32)), 1, -1))
  labels = jnp.asarray([3, 1, 0, 4]) if classes else None
  abstract = jax.eval_shape(module.init, jax.random.key(0), x, labels)
  variables = {'params': stylegan2_weights.tree(abstract['params'], 16)}
  logits, features = jax.jit(lambda x: module.apply(
      variables, x, labels, capture_intermediates=lambda m, _: isinstance(
          m, networks.DiscriminatorBlock)), compiler_options=FAST)(x)
  close(logits, golden[tag])
  if tag == 'D_skip':
    for resolution in (32, 16, 8):
      h, _ = features['intermediates'][f'b{resolution}']['__call__'][0]
      close(third(h[:1]), golden[f'{tag}_b{resolution}_x'])


# --- Which w goes where -------------------------------------------------------


def test_w_of_every_layer():
  """ToRGB of a block shares its w with the next block's first convolution."""
  pyramid = networks.Pyramid((16, 16, 3), 64, 4)
  module = networks.Synthesis(pyramid)
  ws = jax.random.normal(jax.random.key(0), (1, 6, 8))
  variables = jax.jit(module.init, compiler_options=FAST)(
      jax.random.key(1), ws, None)
  expected = {'b4/conv1': 0, 'b4/torgb': 1, 'b8/conv0': 1, 'b8/conv1': 2,
              'b8/torgb': 3, 'b16/conv0': 3, 'b16/conv1': 4, 'b16/torgb': 5}

  def styles(ws):
    _, captured = module.apply(variables, ws, None, capture_intermediates=True)
    return {f'{block}/{layer}': captured['intermediates'][block][layer][
        'affine']['__call__'][0] for block, layer in (
            name.split('/') for name in expected)}

  jacobian = jax.jit(jax.jacrev(styles), compiler_options=FAST)(ws)
  found = {name: np.flatnonzero(np.abs(j).max((0, 1, 2, 4))).tolist()
           for name, j in jacobian.items()}
  assert found == {name: [index] for name, index in expected.items()}


# --- Types and shapes ---------------------------------------------------------


def test_types_of_bfloat16():
  """The two highest resolutions in bfloat16, all of the rest in float32."""
  pyramid = networks.Pyramid((32, 32, 3), 64, 4, jnp.bfloat16, 2)
  assert [pyramid.type_of(r) for r in (4, 8, 16, 32)] == [
      jnp.float32, jnp.float32, jnp.bfloat16, jnp.bfloat16]
  # Never at 4x4, as many blocks as are asked for.
  assert networks.Pyramid((32, 32, 3), 64, 4, jnp.bfloat16, 9).type_of(
      4) == jnp.float32
  for architecture in networks.ARCHITECTURES:
    g = networks.Generator(pyramid, architecture, 256.0, 16)
    d = networks.Discriminator(pyramid, architecture, 256.0)

    def both(variables, z, g=g, d=d):
      image = g.apply(variables['G'], z, None, jnp.ones((2, 2704)))
      return image, d.apply(variables['D'], image)

    z, x = jnp.ones((2, 8)), jnp.ones((2, 32, 32, 3))
    variables = {
        'G': jax.eval_shape(g.init, jax.random.key(0), z, None, None),
        'D': jax.eval_shape(d.init, jax.random.key(0), x)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
        jnp.dtype('float32')}
    image, logits = jax.eval_shape(both, variables, z)
    assert image.dtype == logits.dtype == jnp.float32
    types = [tuple(map(str, pair)) for pair in hlo.conv_operand_dtypes(
        jax.make_jaxpr(both)(variables, z))]
    low = types.count(('bfloat16', 'bfloat16'))
    assert low + types.count(('float32', 'float32')) == len(types)
    # Per block two 3x3 convolutions, and what the architecture adds.
    extra = {'orig': 1 + 1, 'skip': 2 + 2, 'resnet': 2 + 2 + 1 + 1}
    assert low == 4 + 4 + extra[architecture]


def test_half_precision_is_close():
  """bfloat16 has 8 bits: images agree to a few per cent of their range."""
  images = []
  for dtype in (jnp.float32, jnp.bfloat16):
    pyramid = networks.Pyramid((16, 16, 3), 256, 16, dtype, 2)
    module = networks.Generator(pyramid, w_dim=16, mapping_layers=1)
    z = jax.random.normal(jax.random.key(0), (2, 8))
    images.append(jax.jit(
        lambda z, m=module: m.init_with_output(
            jax.random.key(1), z, None, None)[0], compiler_options=FAST)(z))
  difference = np.abs(images[0] - images[1]).max()
  assert 0 < difference < 0.03 * np.abs(images[0]).max()


@pytest.mark.parametrize('shape', [(32, 16, 3), (8, 32, 1)])
def test_images_that_are_not_square(shape):
  """The constant is as wide as high as the image; layers are the square's."""
  pyramid = networks.Pyramid(shape, 64, 4)
  square = networks.Pyramid((32, 32, shape[2]), 64, 4)
  top = max(shape[:2])
  assert networks.num_ws(pyramid) == networks.num_ws(square)
  z = jnp.ones((2, 8))
  for architecture in networks.ARCHITECTURES:
    g = networks.Generator(pyramid, architecture, w_dim=16)
    noise = jnp.ones((2, sum(h * w for _, _, (h, w) in
                             networks.noise_maps(pyramid))))
    image, variables = jax.eval_shape(
        g.init_with_output, jax.random.key(0), z, None, noise)
    assert image.shape == (2, *shape)
    const = variables['params']['synthesis']['b4']['const'].shape
    assert const == (4 * shape[0] // top, 4 * shape[1] // top, 4)
    reference = jax.eval_shape(
        networks.Generator(square, architecture, w_dim=16).init,
        jax.random.key(0), z, None, None)
    difference = (state_lib.count(reference['params'])
                  - state_lib.count(variables['params']))
    assert difference == 4 * (16 - const[0] * const[1])
    logits, _ = jax.eval_shape(
        networks.Discriminator(pyramid, architecture).init_with_output,
        jax.random.key(0), image)
    assert logits.shape == (2,)
