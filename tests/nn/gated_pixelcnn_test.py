"""Gated PixelCNN: sizes, causality, no blind spot, sampling with a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import sampler
from gans_jax.core import state as state_lib
from gans_jax.nn import gated_pixelcnn

FAST = {'xla_backend_optimization_level': 0}
GRID = (4, 6)  # not square


# Parameters of ritheshkumar95/pytorch-vqvae's prior.
@pytest.mark.parametrize('dim, classes, count', [
    (64, 10, 1_841_472), (256, 10, 24_418_560), (256, 1000, 32_021_760)])
def test_parameter_counts(dim, classes, count):
  model = gated_pixelcnn.GatedPixelCNN(512, dim, num_classes=classes)
  params = jax.eval_shape(
      model.init, jax.random.key(0), jnp.zeros((1, 8, 8), jnp.int32),
      jnp.zeros((1,), jnp.int32))['params']
  assert state_lib.count(params) == count


def test_logit_depends_on_all_before_it_and_on_nothing_else():
  """By gradients: every position has a token, and so an input, of its own."""
  side = 8
  model = gated_pixelcnn.GatedPixelCNN(side * side, dim=4, layers=6, head=8)
  tokens = jnp.arange(side * side).reshape(1, side, side)
  params = jax.jit(model.init, compiler_options=FAST)(
      jax.random.key(0), tokens)['params']

  def sums(table):
    logits = model.apply({'params': {**params, 'tokens': table}}, tokens)
    # Weights, for a sum of logits could cancel.
    return logits[0].reshape(side * side, -1) @ jnp.linspace(1, 2, side * side)

  gradient = jax.jit(jax.jacrev(sums), compiler_options=FAST)(params['tokens'])
  depends = np.abs(gradient).max(2) > 0  # [logit, input]
  np.testing.assert_array_equal(
      depends, np.tril(np.ones((side * side,) * 2, bool), -1))


@functools.cache
def model(classes=3):
  net = gated_pixelcnn.GatedPixelCNN(12, dim=8, layers=3, first_kernel=5,
                                     head=8, num_classes=classes)
  labels = jnp.zeros((1,), jnp.int32)
  shapes = jax.eval_shape(net.init, jax.random.key(1),
                          jnp.zeros((1, *GRID), jnp.int32), labels)['params']
  # Biases that are not zero, and logits far from equal.
  noise = np.random.default_rng(2)
  return net, jax.tree.map(lambda x: jnp.asarray(
      noise.normal(size=x.shape) / np.sqrt(np.prod(x.shape[:-1])) * 2 ** (
          x.ndim > 1), jnp.float32), shapes)


@functools.cache
def sampled(**options):
  net, params = model()
  keys, labels = rng.from_seeds(np.arange(5)), jnp.array([0, 1, 2, 2, 1])
  run = jax.jit(functools.partial(gated_pixelcnn.sample, params, GRID,
                                  **options), compiler_options=FAST)
  tokens = run(keys, labels)
  logits = jax.jit(net.apply, compiler_options=FAST)(
      {'params': params}, tokens, labels)
  return keys, labels, np.asarray(tokens), np.asarray(logits), run


def test_cached_sampling_draws_from_the_model():
  """Each token is what the whole net, seeing those before it, would draw."""
  keys, _, tokens, logits, _ = sampled()
  assert tokens.shape == (5, *GRID) and tokens.dtype == np.int32
  expected = jax.jit(jax.vmap(gated_pixelcnn.draw, (1, None, 0), 1),
                     compiler_options=FAST)(
      logits.reshape(5, -1, 12), keys, jnp.arange(GRID[0] * GRID[1]))
  np.testing.assert_array_equal(tokens.reshape(5, -1), expected)
  assert len(np.unique(tokens)) > 3


def test_likeliest_tokens():
  _, _, tokens, logits, _ = sampled(temperature=0.0)
  np.testing.assert_array_equal(tokens, logits.argmax(-1))


def test_top_k():
  _, _, tokens, logits, _ = sampled(top_k=2)
  rank = np.sum(logits > np.take_along_axis(logits, tokens[..., None], -1), -1)
  assert rank.max() == 1


def test_grid_depends_on_its_key_and_label_alone():
  keys, labels, tokens, _, run = sampled()
  np.testing.assert_array_equal(run(keys[3:4], labels[3:4])[0], tokens[3])
  other = run(keys, (labels + 1) % 3)
  assert np.all(np.any(other != tokens, (1, 2)))


def test_eight_devices_draw_the_same():
  _, params = model()
  keys, labels = rng.from_seeds(np.arange(8)), jnp.arange(8) % 3

  def run(keys, labels):
    keys, labels = sampler.place((keys, labels))
    return gated_pixelcnn.sample(params, GRID, keys, labels)

  found = []
  for devices in (1, 8):
    with jax.set_mesh(mesh_lib.make(devices=jax.devices()[:devices])):
      found.append(np.asarray(jax.jit(run, compiler_options=FAST)(
          keys, labels)))
  np.testing.assert_array_equal(*found)


def test_draw_has_the_softmax_frequencies():
  logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]).repeat(20_000, 0))
  drawn = gated_pixelcnn.draw(logits, rng.from_seeds(np.arange(20_000)), 3)
  share = np.bincount(drawn, minlength=3) / 20_000
  np.testing.assert_allclose(share, [0.5, 0.3, 0.2], atol=0.015)
