"""The projector: its schedules, its regularizer, its steps, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.latent import projection


@pytest.mark.parametrize('steps', [1000, 50])
def test_schedules(steps):
  """As stylegan2-ada-pytorch computes them, step by step."""
  for step in range(steps):
    t = step / steps
    ramp = min(1.0, (1.0 - t) / 0.25)
    lr = 0.1 * (0.5 - 0.5 * np.cos(ramp * np.pi)) * min(1.0, t / 0.05)
    np.testing.assert_allclose(projection.learning_rate(t), lr, rtol=1e-4,
                               atol=1e-9)
    noise = 7.0 * 0.05 * max(0.0, 1.0 - t / 0.75)**2
    np.testing.assert_allclose(projection.w_noise_scale(t, 7.0), noise,
                               rtol=1e-4, atol=1e-9)


def penalty(maps):
  """Float64: products with both neighbours' at every scale."""
  total = 0.0
  for n in maps:
    n = np.asarray(n, np.float64)
    while True:
      h, w = n.shape
      total += (sum(n[i, j] * n[i, j - 1] for i in range(h)
                    for j in range(w)) / n.size)**2
      total += (sum(n[i, j] * n[i - 1, j] for i in range(h)
                    for j in range(w)) / n.size)**2
      if h <= 8:
        break
      n = np.array([[n[2 * i:2 * i + 2, 2 * j:2 * j + 2].mean()
                     for j in range(w // 2)] for i in range(h // 2)])
  return total


def test_noise_penalty():
  r = np.random.default_rng(0)
  maps = [r.normal(size=(s, s)) for s in (4, 8, 16, 32)]
  tree = {'b4': maps[0], 'b8': {'conv0': maps[1], 'conv1': maps[2]},
          # StyleGAN's maps have axes of length 1.
          'b32': maps[3][None, :, :, None]}
  tree = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
  np.testing.assert_allclose(projection.noise_penalty(tree), penalty(maps),
                             rtol=1e-4)
  assert projection.noise_penalty({}) == 0
  # A checkerboard: neighbours are opposite, and cancel at the next scale.
  board = jnp.asarray(np.indices((16, 16)).sum(0) % 2 * 2.0 - 1, jnp.float32)
  np.testing.assert_allclose(projection.noise_penalty(board), 2.0)


def test_normalize():
  n = projection.normalize({'a': jnp.arange(16.0).reshape(4, 4)})['a']
  np.testing.assert_allclose(n.mean(), 0, atol=1e-6)
  np.testing.assert_allclose((n * n).mean(), 1, rtol=1e-5)


def test_statistics():
  samples = np.array([[0.0, 0], [2, 0], [0, 4], [2, 4]])
  mean, deviation = projection.statistics(samples)
  np.testing.assert_array_equal(mean, [1, 2])
  # The length of a vector, not a deviation for each of its entries.
  np.testing.assert_allclose(deviation, 5**0.5)


def adam(gradient, x, lrs):
  """Float64 Adam, betas 0.9 and 0.999, as in the paper on it."""
  m = v = 0.0
  for k, lr in enumerate(lrs, 1):
    g = gradient(x)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    x = x - lr * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
    yield x


@pytest.mark.parametrize('latent', projection.LATENTS)
def test_steps_by_hand(latent):
  """A generator that is its w, without noise: Adam on a parabola."""
  target = np.full((3, 2, 1), 191, np.uint8)  # as [num_ws, D, 1]
  goal = np.array([[1, 0.5], [2, -1], [3, 0]])
  start = np.array([0.5, -0.5])

  def synthesize(weights, w, noise):
    del noise
    return weights * w[:, :, :, None]

  def distance(weights, x, y):
    # The picture is of one grey: compared is with `goal`.
    del y
    return jnp.sum((x - weights[None, :, :, None])**2, (1, 2, 3))

  found = list(projection.project(
      synthesize, distance, (jnp.float32(1), jnp.asarray(goal, jnp.float32)),
      target, start.astype(np.float32), 0.0, 3, {}, steps=20, latent=latent))
  lrs = [0.1 * min(1, (i / 20) / 0.05) * (0.5 - 0.5 * np.cos(
      np.pi * min(1, (1 - i / 20) / 0.25))) for i in range(20)]
  if latent == 'w':
    expected = list(adam(lambda w: 2 * (w - goal).sum(0), start, lrs))
    expected = [np.tile(w, (3, 1)) for w in expected]
  else:
    expected = list(adam(lambda w: 2 * (w - goal), np.tile(start, (3, 1)),
                         lrs))
  assert [s.number for s in found] == list(range(1, 21))
  for step, w in zip(found, expected, strict=True):
    np.testing.assert_allclose(step.w, w, rtol=1e-4, atol=1e-5)
  before = np.tile(start, (3, 1))
  np.testing.assert_allclose(found[0].distance, ((before - goal)**2).sum(),
                             rtol=1e-5)
  assert found[0].loss == found[0].distance


def test_noise_maps_follow_their_regularizer():
  """A distance that does not see them: neighbours become uncorrelated."""
  noise = {'a': jnp.zeros((16, 16)), 'b': jnp.zeros((8, 8))}
  seen = []

  def synthesize(weights, w, noise):
    del weights
    jax.debug.callback(lambda n: seen.append(jax.tree.map(np.asarray, n)),
                       noise)
    return w[:, :, :, None]

  steps = list(projection.project(
      synthesize, lambda weights, x, y: jnp.sum(x * 0, (1, 2, 3)), (0, 0),
      np.zeros((2, 2, 1), np.uint8), np.zeros(2, np.float32), 1.0, 2, noise,
      steps=30))
  jax.effects_barrier()
  for n in jax.tree.leaves(seen[-1]):
    np.testing.assert_allclose(n.mean(), 0, atol=1e-5)
    np.testing.assert_allclose((n * n).mean(), 1, rtol=1e-4)
  first, last = (penalty(jax.tree.leaves(s)) for s in (seen[0], seen[-1]))
  np.testing.assert_allclose(steps[0].loss, 1e5 * first, rtol=1e-3)
  np.testing.assert_allclose(steps[-1].loss, 1e5 * last, rtol=1e-3)
  assert last < first / 10


def test_large_images_are_averaged():
  x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 512, 512, 1)),
                  jnp.float32)
  y = projection.small(x)
  assert y.shape == (1, 256, 256, 1)
  np.testing.assert_allclose(y[0, 3, 5, 0], x[0, 6:8, 10:12].mean(),
                             atol=1e-6)
  z = jnp.zeros((1, 64, 64, 3))
  assert projection.small(z).shape == z.shape
