"""Projection: the latent whose image is nearest to a picture.

Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR
2020, arXiv 1912.04958, section 5 and appendix D, with the constants of
stylegan2-ada-pytorch's projector. One w for all layers and every noise map are
optimized by Adam, 1000 steps, t = step / 1000:

  L = d(G(w + eps, n), x) + 1e5 sum over maps and scales of
      (mean n * shift_x n)^2 + (mean n * shift_y n)^2
  eps ~ N(0, (0.05 sigma_w max(0, 1 - t / 0.75)^2)^2)
  lr = 0.1 (1 - cos(pi min(1, (1 - t) / 0.25))) / 2 min(1, t / 0.05)

w starts from the mean of 10000 samples, sigma_w is the root of their mean
squared distance from it. The regularizer keeps pictures out of the noise: it
asks that neighbours are uncorrelated, at every scale down to 8 pixels. After
every step each map is normalized to mean 0 and variance 1.

latent='w_plus' gives every layer a w of its own (Abdal et al., Image2StyleGAN,
2019, arXiv 1904.03189): nearer to pictures that the generator did not make,
and harder to edit.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gans_jax.core import rng
from gans_jax.metrics import path_length

LATENTS = ('w', 'w_plus')
LEARNING_RATE = 0.1
RAMP_DOWN, RAMP_UP = 0.25, 0.05
NOISE_FACTOR, NOISE_RAMP = 0.05, 0.75
REGULARIZATION = 1e5
SAMPLES = 10_000

# (weights, w [1, num_ws, D], noise maps) -> images [1, H, W, C] in [-1, 1].
Synthesize = Callable[[Any, jax.Array, Any], jax.Array]
# (weights, two batches of such images) -> [1].
Distance = Callable[[Any, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Step:
  """Where the search is.

  Attributes:
    number: steps done.
    w: float32 [num_ws, D].
    distance: of the image before this step, made with the noise of the step.
    loss: the distance with the regularizer.
  """

  number: int
  w: np.ndarray
  distance: float
  loss: float


def learning_rate(t):
  """Adam's learning rate at t in [0, 1): up from 0, down along a cosine."""
  down = jnp.minimum(1.0, (1.0 - t) / RAMP_DOWN)
  # (1 - cos x) / 2 of small x has no digits left; the square has.
  return (LEARNING_RATE * jnp.sin(0.5 * jnp.pi * down)**2
          * jnp.minimum(1.0, t / RAMP_UP))


def w_noise_scale(t, deviation):
  """Standard deviation of what is added to w at t in [0, 1)."""
  ramp = jnp.maximum(0.0, 1.0 - t / NOISE_RAMP)
  return deviation * NOISE_FACTOR * ramp**2


def noise_penalty(noise) -> jax.Array:
  """How much neighbours in the maps resemble each other, at every scale.

  Args:
    noise: tree of maps, float32 [h, w] but for axes of length 1.
  """
  total = 0.0
  for leaf in jax.tree.leaves(noise):
    n = jnp.squeeze(leaf)
    while True:
      for axis in (1, 0):
        total += jnp.mean(n * jnp.roll(n, 1, axis))**2
      if n.shape[0] <= 8:
        break
      h, w = n.shape
      n = n.reshape(h // 2, 2, w // 2, 2).mean((1, 3))
  return jnp.asarray(total, jnp.float32)


def normalize(noise):
  """Gives every map mean 0 and variance 1."""
  def one(n):
    n = n - n.mean()
    return n * jax.lax.rsqrt(jnp.mean(n * n))

  return jax.tree.map(one, noise)


def statistics(samples: np.ndarray) -> tuple[np.ndarray, float]:
  """Returns (mean [D], sigma) of samples of w [N, D]."""
  samples = np.asarray(samples, np.float32)
  mean = samples.mean(0)
  return mean, float(np.sqrt(np.sum((samples - mean)**2) / len(samples)))


def project(synthesize: Synthesize, distance: Distance,
            weights: tuple[Any, Any], target: np.ndarray, mean: np.ndarray,
            deviation: float, num_ws: int, noise, *, steps: int = 1000,
            latent: str = 'w', seed: int = 0) -> Iterator[Step]:
  """Searches for the w of a picture.

  Args:
    synthesize: the generator, with the noise maps that it is given.
    distance: between its images and the picture, both at most 256 pixels wide.
    weights: those of `synthesize` and those of `distance`.
    target: uint8 [H, W, C], of the generator's size.
    mean: of w, float32 [D].
    deviation: sigma_w, see `statistics`.
    num_ws: styles of the generator.
    noise: tree of its noise maps, of which shapes matter; {} for none.
    steps: how many; the schedules stretch with it.
    latent: 'w' or 'w_plus'.
    seed: of the noise maps and of what is added to w.

  Yields:
    The state after every step.
  """
  adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
  key = jax.random.key(seed)
  target = small(jnp.asarray(target, jnp.float32)[None] / 127.5 - 1)
  own = num_ws if latent == 'w_plus' else 1

  def loss(variables, weights, eps, target):
    w = jnp.broadcast_to(variables['w'] + eps, (1, num_ws, mean.shape[-1]))
    image = small(synthesize(weights[0], w, variables['noise']))
    d = distance(weights[1], image, target)[0]
    return d + REGULARIZATION * noise_penalty(variables['noise']), d

  @jax.jit
  def update(variables, opt, weights, number, target):
    t = number / steps
    w = variables['w']
    eps = jax.random.normal(rng.named(key, number, 'project/w'), w.shape)
    eps *= w_noise_scale(t, deviation)
    (value, d), gradients = jax.value_and_grad(loss, has_aux=True)(
        variables, weights, eps, target)
    moves, opt = adam.update(gradients, opt)
    lr = learning_rate(t)
    variables = jax.tree.map(lambda x, m: x - lr * m, variables, moves)
    variables['noise'] = normalize(variables['noise'])
    return variables, opt, value, d

  leaves, structure = jax.tree.flatten(noise)
  drawn = [jax.random.normal(rng.named(key, i, 'project/noise'), n.shape)
           for i, n in enumerate(leaves)]
  variables = {
      'w': jnp.broadcast_to(jnp.asarray(mean, jnp.float32)[None, None],
                            (1, own, mean.shape[-1])),
      'noise': jax.tree.unflatten(structure, drawn)}
  opt = adam.init(variables)
  for number in range(steps):
    variables, opt, value, d = update(variables, opt, weights, number, target)
    w = np.broadcast_to(np.asarray(variables['w'])[0],
                        (num_ws, mean.shape[-1]))
    yield Step(number + 1, w, float(d), float(value))


def small(images: jax.Array) -> jax.Array:
  """Averages images [n, H, W, C] down to 256 pixels, where they are larger."""
  return path_length.for_distance(images, crop=False) / 127.5 - 1
