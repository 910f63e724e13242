"""Two-dimensional toys on which mode collapse can be counted.

Three families of papers use "ring of 8" and "grid of 25" with different radii
and widths, and the 3-sigma rule of `metrics.modes` needs the right ones:

  ring8, grid25                    VEEGAN (arXiv:1705.07761) and PacGAN
                                   (arXiv:1712.04086)
  ring8_wgan_gp, grid25_wgan_gp    code of WGAN-GP (arXiv:1704.00028), where
                                   everything is divided by a constant
  ring8_unrolled                   Unrolled GAN (arXiv:1611.02163)
  ring8_unrolled_notebook          its notebook, whose "8" modes are 7
  swissroll                        code of WGAN-GP; a curve, without modes
"""

import dataclasses
import difflib
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.core import errors


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Isotropic Gaussians of equal weight.

  Attributes:
    centres: centres of the components, tuples of D numbers. Two components
      may share one, which then has double mass.
    std: standard deviation of each, in every direction.
  """

  centres: tuple[tuple[float, ...], ...]
  std: float

  @functools.cached_property
  def modes(self) -> np.ndarray:
    """Distinct centres [K, D], float64, in order of first appearance."""
    return self._modes_and_labels[0]

  @functools.cached_property
  def _modes_and_labels(self) -> tuple[np.ndarray, np.ndarray]:
    centres = np.asarray(self.centres, np.float64)
    # Rounded: sin(2 pi) is not exactly zero.
    _, first, inverse = np.unique(
        centres.round(9), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    labels = np.argsort(order)[inverse.reshape(-1)].astype(np.int32)
    return centres[first[order]], labels

  @functools.partial(jax.jit, static_argnums=(0, 2))
  def sample(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Draws n points on the device.

    Args:
      key: typed PRNG key.
      n: number of points.

    Returns:
      points [n, D] float32, and the index into `modes` of each, [n] int32.
    """
    key_component, key_noise = jax.random.split(key)
    centres = jnp.asarray(self.centres, jnp.float32)
    component = jax.random.randint(key_component, [n], 0, len(self.centres))
    noise = jax.random.normal(key_noise, [n, centres.shape[1]], jnp.float32)
    labels = jnp.asarray(self._modes_and_labels[1])
    return centres[component] + self.std * noise, labels[component]

  def host_sample(self, rng: np.random.Generator,
                  n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws n points in NumPy; as `sample`, from a generator of the caller."""
    centres = np.asarray(self.centres, np.float64)
    component = rng.integers(len(centres), size=n)
    noise = rng.standard_normal((n, centres.shape[1]))
    points = (centres[component] + self.std * noise).astype(np.float32)
    return points, self._modes_and_labels[1][component]


@dataclasses.dataclass(frozen=True)
class SwissRoll:
  """Spiral (t cos t, t sin t), t in [3 pi/2, 9 pi/2], plus noise, rescaled.

  As scikit-learn's `make_swiss_roll` without its middle coordinate; noise
  0.25 and division by 7.5 are WGAN-GP's.

  Attributes:
    noise: standard deviation before the division.
    scale: divisor.
  """

  noise: float = 0.25
  scale: float = 7.5

  @functools.partial(jax.jit, static_argnums=(0, 2))
  def sample(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Draws n points [n, 2] float32 and labels [n] int32, all 0."""
    key_t, key_noise = jax.random.split(key)
    t = 1.5 * np.pi * (1.0 + 2.0 * jax.random.uniform(key_t, [n], jnp.float32))
    curve = jnp.stack([t * jnp.cos(t), t * jnp.sin(t)], axis=1)
    noise = self.noise * jax.random.normal(key_noise, [n, 2], jnp.float32)
    return (curve + noise) / self.scale, jnp.zeros([n], jnp.int32)

  def host_sample(self, rng: np.random.Generator,
                  n: int) -> tuple[np.ndarray, np.ndarray]:
    """As `sample`, in NumPy, from a generator of the caller."""
    t = 1.5 * np.pi * (1.0 + 2.0 * rng.random(n))
    curve = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
    points = (curve + self.noise * rng.standard_normal((n, 2))) / self.scale
    return points.astype(np.float32), np.zeros(n, np.int32)


def ring(modes: int, radius: float, std: float, *,
         endpoint: bool = False) -> Mixture:
  """Returns a ring of Gaussians, the first at (radius, 0).

  Args:
    modes: number of components.
    radius: of the circle on which the centres lie.
    std: of each component.
    endpoint: place the angles from 0 to 2 pi inclusive, as the notebook of
      Unrolled GAN does by mistake: the last centre repeats the first, so that
      `modes - 1` distinct ones remain, one of them with double mass.
  """
  angles = np.linspace(0.0, 2.0 * np.pi, modes, endpoint=endpoint)
  return Mixture(
      tuple((radius * float(np.cos(angle)), radius * float(np.sin(angle)))
            for angle in angles), std)


def grid(side: int, spacing: float, std: float) -> Mixture:
  """Returns side x side Gaussians around the origin, `spacing` apart."""
  ticks = [spacing * (i - (side - 1) / 2) for i in range(side)]
  return Mixture(tuple((x, y) for x in ticks for y in ticks), std)


_DISTRIBUTIONS: dict[str, Mixture | SwissRoll] = {
    'ring8': ring(8, radius=1.0, std=0.01),
    'grid25': grid(5, spacing=2.0, std=0.05),
    # Its code divides by 1.414 and 2.828, not by the roots of 2 and 8.
    'ring8_wgan_gp': ring(8, radius=2.0 / 1.414, std=0.02 / 1.414),
    'grid25_wgan_gp': grid(5, spacing=2.0 / 2.828, std=0.05 / 2.828),
    'ring8_unrolled': ring(8, radius=2.0, std=0.02),
    'ring8_unrolled_notebook': ring(8, radius=1.0, std=0.01, endpoint=True),
    'swissroll': SwissRoll(),
}


def names() -> tuple[str, ...]:
  """Returns the names that `get` knows."""
  return tuple(_DISTRIBUTIONS)


def get(name: str) -> Mixture | SwissRoll:
  """Returns the distribution called `name`, such as 'ring8'.

  Raises:
    UserError: there is none of that name.
  """
  if name not in _DISTRIBUTIONS:
    near = difflib.get_close_matches(
        name, list(_DISTRIBUTIONS), n=1, cutoff=0.0)
    raise errors.UserError(
        f'data.source names the mixture {name!r}, which does not exist. The '
        f'nearest is {near[0]!r}. Choose one of: {", ".join(names())}.')
  return _DISTRIBUTIONS[name]


@dataclasses.dataclass(frozen=True)
class MixtureSource:
  """A fixed, virtual data set of points, for random access.

  Example i is a function of (name, seed, i) alone, so a longer data set of the
  same seed begins with the shorter one, and workers need no state. The repr
  names the data set: input pipelines compare it when they resume.

  Attributes:
    name: of the distribution.
    num_examples: length.
    seed: non-negative; other seeds give independent points.
  """

  name: str
  num_examples: int
  seed: int

  def __len__(self) -> int:
    return self.num_examples

  def __getitem__(self, i: int) -> dict[str, np.ndarray | np.int32]:
    """Returns {'point': float32 [2], 'label': int32, the mode}."""
    i = operator.index(i)
    if not 0 <= i < self.num_examples:
      raise IndexError(f'{i} is outside of {self!r}.')
    # Philox is counter-based: (seed, i) as its key costs no warm-up, and the
    # streams of different keys are independent.
    rng = np.random.Generator(
        np.random.Philox(key=np.array([self.seed, i], np.uint64)))
    points, labels = get(self.name).host_sample(rng, 1)
    return {'point': points[0], 'label': np.int32(labels[0])}


def create_source(name: str, num_examples: int = 100_000,
                  seed: int = 0) -> MixtureSource:
  """Returns the data set behind 'mixture:<name>'.

  Args:
    name: one of `names()`.
    num_examples: length; VEEGAN and PacGAN train on 100,000 fixed points.
    seed: non-negative integer.

  Raises:
    UserError: unknown name, or a bad length or seed.
  """
  get(name)
  if num_examples < 1 or seed < 0:
    raise errors.UserError(
        f'The source mixture:{name} was asked for {num_examples} examples of '
        f'seed {seed}; expected at least 1 example and a seed of 0 or more.')
  return MixtureSource(name, int(num_examples), int(seed))
