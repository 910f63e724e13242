"""ADA's pipeline: the authors' outputs, closed forms, draws, gradients.

tests/golden/ada_pipeline.npz is from training/augment.py of
NVlabs/stylegan2-ada-pytorch on a CPU. Images: numpy.random.RandomState(0)
.uniform(-1, 1, [N, H, W, C]). '<kind>/<percentile>': AugmentPipe(<kind>=1) of
one image 8x12 (imgfilter: 22x24) with debug_percentile; 'bgc/...' the
thirteen of that set at once; 'bgcfnc/...' all on 22x24, 'grey/...' on 24x22
with one channel. 'random': three images 22x22, p=0.8, all kinds, without
debug_percentile after torch.manual_seed(3); what torch.rand and torch.randn
gave was recorded and turned into 'random/<kind>' as table "Pipeline order"
of the paper's appendix B says ('gains' before they are normalized). The noise
was always numpy.random.RandomState(1).standard_normal([N, H, W, C]).
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special

from gans_jax.augment import ada
from gans_jax.core import hlo
from gans_jax.core import mesh as mesh_lib

FAST = {'xla_backend_optimization_level': 0}
GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden/ada_pipeline.npz')
ALL = ada.SETS['bgcfnc']
ALONE = sorted(name for name in GOLDEN.files
               if name.split('/')[0] not in ('random',))


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def pictures(*shape, seed=0):
  x = np.random.RandomState(seed).uniform(-1, 1, shape)
  return x.astype(np.float32)


def noise_for(shape):
  return np.random.RandomState(1).standard_normal(shape).astype(np.float32)


def percentile(kinds, q, shape):
  """The draws of AugmentPipe(debug_percentile=q)."""
  uniform = 2 * q - 1
  normal = scipy.special.erfinv(uniform)  # without the sqrt(2) of a deviation
  values = {
      'xflip': np.floor(2 * q), 'rotate90': np.floor(4 * q),
      'xint': [0.125 * uniform] * 2, 'scale': 2**(0.2 * normal),
      'rotate': [np.pi * uniform, 0], 'aniso': 2**(0.2 * normal),
      'xfrac': [0.125 * normal] * 2, 'brightness': 0.2 * normal,
      'contrast': 2**(0.5 * normal), 'lumaflip': np.floor(2 * q),
      'hue': np.pi * uniform, 'saturation': 2**normal,
      'imgfilter': [2**normal] * 4, 'cutout': [0.5, q, q],
      'sigma': 0.1 * scipy.special.erfinv(q)}
  draws = {}
  for kind in kinds:
    if kind in ('hue', 'saturation') and shape[-1] == 1:
      continue
    kind = 'sigma' if kind == 'noise' else kind
    value = np.asarray(values[kind], np.float32)
    draws[kind] = np.broadcast_to(value, (shape[0], *value.shape))
  if 'imgfilter' in draws:
    draws['imgfilter'] = ada.normalized_gains(jnp.asarray(draws['imgfilter']))
  if 'sigma' in draws:
    draws['noise'] = noise_for(shape)
  return draws


@functools.partial(jax.jit, compiler_options=FAST)
def applied(draws, images):
  return ada.apply(draws, images)


@pytest.mark.parametrize('case', ALONE)
def test_equals_the_official_pipeline(case):
  name, q = case.split('/')
  expected = GOLDEN[case]
  kinds = {'grey': ALL}.get(name) or ada.SETS.get(name) or (name,)
  x = pictures(*expected.shape)
  y = applied(percentile(kinds, float(q), expected.shape), x)
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)
  if float(q) > 0.5:
    assert np.abs(expected - x).max() > 0.05


def test_equals_the_official_pipeline_on_random_draws():
  """Each image has its own; the authors' margin is of the whole batch."""
  draws = {name.split('/')[1]: GOLDEN[name] for name in GOLDEN.files
           if name.startswith('random/')}
  draws['imgfilter'] = ada.normalized_gains(jnp.asarray(draws.pop('gains')))
  draws['noise'] = noise_for((3, 22, 22, 3))
  y = applied(draws, pictures(3, 22, 22, 3))
  # One image has a band amplified 14 times: values up to 20.
  np.testing.assert_allclose(y, GOLDEN['random'], rtol=1e-5, atol=1e-4)


# --- Closed forms -----------------------------------------------------------


def draws_of(n=2, **values):
  return {name: jnp.asarray(np.broadcast_to(
      np.float32(value), (n, *np.shape(value)))) for name, value in
      values.items()}


def test_mirror_and_quarter_turns_of_smooth_images():
  """Not exactly: sym6 is not symmetric, and shifts by 4% of a pixel."""
  row, column = np.cos(np.arange(24) / 4), np.cos(0.3 + np.arange(24) / 5)
  x = np.float32(np.outer(row, column))[None, :, :, None]
  inside = (slice(None), slice(3, -3), slice(3, -3))
  y = applied(draws_of(1, xflip=1), x)
  np.testing.assert_allclose(y[inside], x[:, :, ::-1][inside], atol=0.03)
  for turns in range(4):
    y = applied(draws_of(1, rotate90=turns), x)
    expected = np.rot90(x, turns, (1, 2))  # counter-clockwise
    np.testing.assert_allclose(y[inside], expected[inside], atol=0.03)


def test_whole_shifts_show_the_reflection():
  x = pictures(2, 12, 16, 3)
  # 0.125 of 16 and of 12 (1.5, rounded to the even 2): right 2, down 2.
  y = applied(draws_of(xint=[0.125, 0.125]), x)
  padded = np.pad(x, ((0, 0), (2, 0), (2, 0), (0, 0)), 'reflect')
  np.testing.assert_allclose(y, padded[:, :12, :16], rtol=0, atol=1e-5)


def reference_warp(image, draws, margin):
  """The warp of one image in float64, with another margin, by SciPy."""
  h, w, _ = image.shape
  lin, off = (np.asarray(a, np.float64)[0]
              for a in ada.inverse_affine(draws, h, w))
  taps = np.array(ada.SYM6) / sum(ada.SYM6)

  def upsample(x, axis):
    shape = list(x.shape)
    shape[axis] *= 2
    line = np.zeros(shape)
    line[(slice(None),) * axis + (slice(None, None, 2),)] = x
    # origin -1: the first of 12 taps is 5 ahead, the last 6 back.
    return scipy.ndimage.convolve1d(line, 2 * taps, axis, mode='constant',
                                    origin=-1)

  x = np.pad(image.astype(np.float64), ((margin, margin), (margin, margin),
                                        (0, 0)), 'reflect')
  x = upsample(upsample(x, 0), 1)
  i, j = np.mgrid[:2 * (h + 6), :2 * (w + 6)]
  u, v = j - (w + 5.0), i - (h + 5.0)
  su = lin[0, 0] * u + lin[0, 1] * v + 2 * off[0] - 0.5 + (x.shape[1] - 1) / 2
  sv = lin[1, 0] * u + lin[1, 1] * v + 2 * off[1] - 0.5 + (x.shape[0] - 1) / 2
  x = np.stack([scipy.ndimage.map_coordinates(
      x[..., c], [sv, su], order=1, mode='grid-constant')
      for c in range(image.shape[-1])], -1)
  for axis in (0, 1):
    # The mirrored taps: correlation instead of convolution.
    y = scipy.ndimage.correlate1d(x, taps, axis, mode='constant')
    start = 1 + len(taps) // 2
    size = image.shape[axis]
    x = np.take(y, start + 2 * np.arange(size), axis)
  return x


@pytest.mark.parametrize('margin', [11, 25])
def test_the_margin_does_not_matter(margin):
  """A float64 reference with a smaller margin and with a larger one."""
  x = pictures(1, 16, 16, 2)
  draws = draws_of(1, scale=1.1, rotate=[0.4, -0.2], xfrac=[0.05, -0.1])
  y = applied(draws, x)
  expected = reference_warp(x[0], draws, margin)
  np.testing.assert_allclose(y[0], expected, rtol=0, atol=3e-5)


def test_beyond_the_reflection_is_black():
  """Shrunk to a fifth, an image and its reflection fill three fifths."""
  x = np.ones((1, 20, 20, 1), np.float32)
  y = np.asarray(applied(draws_of(1, scale=0.2), x))[0, :, :, 0]
  # A constant upsampled by sym6 ripples by 1%.
  np.testing.assert_allclose(y[6:14, 6:14], 1, atol=0.03)
  np.testing.assert_allclose(y[0], 0, atol=1e-5)
  np.testing.assert_allclose(y[:, -1], 0, atol=1e-5)


def test_stored_rows_are_those_of_the_whole_line():
  size = 7
  length = 6 * size - 4
  i = ada._stored(jnp.arange(length), size)
  full = ada._upsampling(size)[np.asarray(i)]
  line = np.zeros((length, size))
  line[::2] = np.pad(np.eye(size), ((6, 6), (0, 0)), 'reflect')
  taps = np.array(ada.SYM6) / sum(ada.SYM6)
  expected = scipy.ndimage.convolve1d(line, 2 * taps, 0, mode='constant',
                                      origin=-1)
  np.testing.assert_allclose(full, expected, rtol=0, atol=1e-12)
  assert ada._upsampling(size).shape == (4 * size + 8, size)


def test_colour_equals_products_of_matrices():
  """In float64, with the homogeneous 4x4 matrices of appendix B."""
  axis = np.array([1, 1, 1, 0]) / np.sqrt(3)
  outer = np.outer(axis, axis)
  b, c, theta, s = 0.3, 1.7, 0.9, 0.4
  shift, scale = np.eye(4), np.diag([c, c, c, 1])
  shift[:3, 3] = b
  x = pictures(1, 3, 4, 3)
  cross = np.array([[0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0],
                    [0, 0, 0, 0]]) / np.sqrt(3)
  turn = (np.cos(theta) * (np.eye(4) - outer) + outer + np.sin(theta) * cross)
  turn[3, 3] = 1
  for flip in (0, 1):
    whole = ((outer + (np.eye(4) - outer) * s) @ turn
             @ (np.eye(4) - 2 * outer * flip) @ scale @ shift)
    expected = x @ whole[:3, :3].T + whole[:3, 3]
    y = applied(draws_of(1, brightness=b, contrast=c, lumaflip=flip,
                         hue=theta, saturation=s), x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def test_filter_bank_sums_to_an_impulse():
  bank = ada.filter_bank()
  assert bank.shape == (4, 43)
  impulse = np.zeros(43)
  impulse[21] = 1
  np.testing.assert_allclose(bank.sum(0), impulse, atol=1e-10)
  np.testing.assert_allclose(bank.sum(1), [1, 0, 0, 0], atol=1e-10)
  # Symmetric: no band moves the image.
  np.testing.assert_allclose(bank, bank[:, ::-1], atol=1e-12)


def test_normalized_gains_band_by_band():
  """Appendix B: one division after each band."""
  drawn = np.array([[0.5, 2.0, 3.0, 0.1]])
  gains = np.ones(4)
  for band in range(4):
    t = np.ones(4)
    t[band] = drawn[0, band]
    gains *= t / np.sqrt(np.sum(np.array([10, 1, 1, 1]) / 13 * t**2))
  np.testing.assert_allclose(
      ada.normalized_gains(jnp.asarray(drawn, jnp.float32))[0], gains,
      rtol=1e-6)


def test_cutout_is_a_square_of_half_the_size():
  x = np.ones((1, 16, 24, 1), np.float32)
  y = np.asarray(applied(draws_of(1, cutout=[0.5, 0.5, 0.25]), x))[0, :, :, 0]
  expected = np.ones((16, 24))
  expected[:8, 6:18] = 0
  np.testing.assert_array_equal(y, expected)


# --- Draws ------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(1, 3), compiler_options=FAST)
def drawn(key, shape, p, config):
  return ada.draw(jax.random.split(key, shape[0]), shape[1:], p, config)


def test_p_of_0_is_the_identity():
  """Exactly, but for the resampling, which is it to rounding."""
  x = pictures(3, 16, 12, 3)
  draws = drawn(jax.random.key(0), x.shape, 0.0, ada.pipeline('bgcfnc'))
  exact = {name: v for name, v in draws.items() if name not in ada.SETS['bg']}
  np.testing.assert_array_equal(applied(exact, x), x)
  np.testing.assert_allclose(applied(draws, x), x, rtol=0, atol=2e-6)


# Neutral values, and the share that has another one where the gate is open.
NEUTRAL = {'xflip': (0, 1 / 2), 'rotate90': (0, 3 / 4), 'xint': (0, 1),
           'scale': (1, 1), 'aniso': (1, 1), 'xfrac': (0, 1),
           'brightness': (0, 1), 'contrast': (1, 1), 'lumaflip': (0, 1 / 2),
           'hue': (0, 1), 'saturation': (1, 1), 'sigma': (0, 1)}


def changed_share(values, neutral):
  return np.mean(np.any(np.reshape(values, (len(values), -1)) != neutral, 1))


@pytest.mark.parametrize('p', [0.3, 1.0, 7.5])
def test_shares_of_transformed_images(p):
  """p of the images, of them half are mirrored; more than 1 is 1."""
  n = 20_000
  draws = jax.tree.map(np.asarray, drawn(
      jax.random.key(1), (n, 1, 1, 3), p, ada.pipeline('bgcfnc')))
  p = min(p, 1.0)
  error = 4 * np.sqrt(0.25 / n)
  for name, (neutral, share) in NEUTRAL.items():
    assert abs(changed_share(draws[name], neutral) - p * share) < error, name
  turned = draws['rotate'] != 0
  each = 1 - np.sqrt(1 - p)
  assert np.all(np.abs(turned.mean(0) - each) < error)
  assert abs(np.any(turned, 1).mean() - p) < error
  cut = draws['cutout'][:, 0]
  assert set(np.unique(cut)) <= {0.0, 0.5}
  assert abs(np.mean(cut == 0.5) - p) < error
  filtered = changed_share(draws['imgfilter'], 1)
  assert abs(filtered - (1 - (1 - p)**4)) < error
  assert all(np.isfinite(v).all() for v in draws.values())


def test_distributions_of_the_draws():
  n = 20_000
  draws = jax.tree.map(np.asarray, drawn(
      jax.random.key(2), (n, 1, 1, 3), 1.0, ada.pipeline('bgcfnc')))

  def is_normal(values, std):
    assert abs(values.mean()) < 4 * std / np.sqrt(n)
    assert abs(values.std() / std - 1) < 0.03
    assert abs(np.mean(np.abs(values) < std) - 0.6827) < 0.015

  def is_uniform(values, bound):
    assert np.abs(values).max() <= bound + 1e-6
    assert abs(np.mean(np.abs(values) < bound / 2) - 0.5) < 0.015
    assert abs(np.mean(values > 0) - 0.5) < 0.015

  for name, std in (('scale', 0.2), ('aniso', 0.2), ('contrast', 0.5),
                    ('saturation', 1.0)):
    is_normal(np.log2(draws[name]), std)
  is_normal(draws['brightness'], 0.2)
  is_normal(draws['xfrac'].ravel(), 0.125)
  is_normal(draws['noise'].ravel(), 1.0)
  assert abs(np.mean(draws['sigma'] < 0.1) - 0.6827) < 0.015
  is_uniform(draws['xint'].ravel(), 0.125)
  is_uniform(draws['rotate'].ravel(), np.pi)
  is_uniform(draws['hue'], np.pi)
  is_uniform(draws['cutout'][:, 1:].ravel() - 0.5, 0.5)
  counts = np.bincount(draws['rotate90'].astype(int), minlength=4) / n
  np.testing.assert_allclose(counts, 0.25, atol=0.015)
  # Independent of each other.
  columns = [draws[k] for k in ('xflip', 'lumaflip', 'brightness', 'hue')]
  correlations = np.corrcoef(columns) - np.eye(4)
  assert np.abs(correlations).max() < 4 / np.sqrt(n)


def test_sets_are_those_of_the_paper():
  assert ALL == ('xflip', 'rotate90', 'xint', 'scale', 'rotate', 'aniso',
                 'xfrac', 'brightness', 'contrast', 'lumaflip', 'hue',
                 'saturation', 'imgfilter', 'noise', 'cutout')
  grey = drawn.eval_shape(
      jax.random.key(0), (2, 8, 8, 1), 0.5, ada.pipeline('bgc'))
  # Hue and saturation say nothing about grey.
  assert set(grey) == set(ada.SETS['bgc']) - {'hue', 'saturation'}
  with pytest.raises(ValueError, match='channels'):
    ada.apply(draws_of(1, contrast=2), np.zeros((1, 8, 8, 4), np.float32))


# --- Differentiability and devices ------------------------------------------


def test_gradient_equals_finite_differences(float64):
  """Apart from what is added, the pipeline is linear in the images."""
  shape = (2, 6, 8, 3)
  draws = drawn(jax.random.key(4), shape, 0.9, ada.pipeline('bgcfnc'))
  draws = jax.tree.map(lambda x: x.astype(jnp.float64), draws)
  generator = np.random.default_rng(0)
  x, direction, weights = generator.standard_normal((3, *shape))

  def value(x):
    return jnp.sum(jnp.sin(ada.apply(draws, x)) * weights)

  step = 1e-5
  jitted = jax.jit(value, compiler_options=FAST)
  slope = (jitted(x + step * direction) - jitted(x - step * direction)) / (
      2 * step)
  gradient = jax.jit(jax.grad(value), compiler_options=FAST)(x)
  assert gradient.dtype == np.float64
  np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-7)
  # The gradient of its square, as R1 takes it.
  def squared(x):
    return jnp.sum(jax.grad(value)(x)**2)

  jitted = jax.jit(squared, compiler_options=FAST)
  slope = (jitted(x + step * direction) - jitted(x - step * direction)) / (
      2 * step)
  second = jax.jit(jax.grad(squared), compiler_options=FAST)(x)
  np.testing.assert_allclose(np.sum(second * direction), slope, rtol=1e-6)


def test_an_image_depends_on_its_key_alone():
  """Whatever the batch, and on however many devices; nothing is fetched."""
  x = pictures(8, 8, 8, 3)
  keys = jax.random.split(jax.random.key(5), 8)
  config = ada.pipeline('bgcfnc')

  def function(keys, x, p):
    return ada.augment(keys, x, p, config)

  jitted = jax.jit(function, compiler_options=FAST)
  alone = jitted(keys, x, 0.8)
  order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
  np.testing.assert_allclose(jitted(keys[order], x[order], 0.8),
                             alone[order], rtol=0, atol=1e-5)
  mesh = mesh_lib.make(8)
  with jax.set_mesh(mesh):
    sharding = mesh_lib.batch_sharding(mesh)
    split = jax.device_put((keys, x), sharding)
    compiled = jax.jit(function).lower(*split, 0.8).compile(FAST)
    together = compiled(*split, 0.8)
  assert together.sharding.is_equivalent_to(sharding, 4)
  np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
  assert hlo.collectives(compiled) == {}
