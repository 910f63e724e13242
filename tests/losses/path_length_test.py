"""Path length regularization against its definition, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.losses import path_length


def synthesis(theta, ws):
  """A small smooth network: ws [N, L, C] -> images [N, 4, 2, 3]."""
  h = jnp.tanh(jnp.einsum('nlc,lch->nh', ws, theta['a']))
  x = jnp.sin(h @ theta['b'] + h**2 @ theta['c'])
  return x.reshape(-1, 4, 2, 3)


def inputs():
  generator = np.random.default_rng(0)
  theta = {'a': generator.normal(size=(2, 3, 5)),
           'b': generator.normal(size=(5, 24)),
           'c': generator.normal(size=(5, 24))}
  ws = generator.normal(size=(4, 2, 3))
  return (jax.tree.map(jnp.asarray, theta), jnp.asarray(ws),
          jnp.asarray(generator.normal(size=(4, 4, 2, 3))))


def penalty(theta, ws, noise, form='grad', mean=0.3):
  return path_length.path_length(
      lambda ws: synthesis(theta, ws), ws, noise, jnp.asarray(mean), 2.0, 0.01,
      form)


def by_differences(theta, ws, noise, mean=0.3, step=1e-6):
  """The penalty with J^T y by central differences of the images."""
  gradients = np.zeros(ws.shape)
  for index in np.ndindex(*ws.shape[1:]):
    move = np.zeros(ws.shape)
    move[:, *index] = step
    change = (synthesis(theta, ws + move) - synthesis(theta, ws - move)) / (
        2 * step)
    gradients[:, *index] = np.sum(change * noise / np.sqrt(8), (1, 2, 3))
  lengths = np.sqrt(np.mean(np.sum(gradients**2, 2), 1))
  average = mean + 0.01 * (lengths.mean() - mean)
  return 2 * np.mean((lengths - average)**2), lengths.mean()


@pytest.mark.parametrize('form', ['grad', 'jvp'])
def test_value(form):
  with jax.enable_x64(True):
    theta, ws, noise = inputs()
    found = penalty(theta, ws, noise, form)
    np.testing.assert_allclose(found, by_differences(theta, ws, noise),
                               rtol=1e-7)


@pytest.mark.parametrize('form', ['grad', 'jvp'])
def test_gradient(form):
  """By parameters and by ws, against differences of the value."""
  with jax.enable_x64(True):
    theta, ws, noise = inputs()
    found = jax.jit(jax.grad(lambda t, w: penalty(t, w, noise, form)[0],
                             (0, 1)))(theta, ws)
    value = jax.jit(lambda t, w: penalty(t, w, noise)[0])
    direction = jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(1).normal(size=x.shape)),
        (theta, ws))

    def moved(step):
      return value(*jax.tree.map(lambda x, d: x + step * d, (theta, ws),
                                 direction))

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    along = sum(jnp.sum(g * d) for g, d in zip(
        jax.tree.leaves(found), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(along, expected, rtol=1e-6)


def test_forms_agree():
  with jax.enable_x64(True):
    theta, ws, noise = inputs()
    a, b = (jax.jit(jax.value_and_grad(
        lambda t, w, f=form: penalty(t, w, noise, f), (0, 1), has_aux=True))(
            theta, ws) for form in ('grad', 'jvp'))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_average_is_not_held_constant():
  """Trap 6: 1/100 of the gradient flows through the average.

  For one example of length l, 2 (l - a - 0.01 (l - a))^2 = 2 (0.99 (l - a))^2.
  """
  def one(scale, mean):
    return path_length.path_length(
        lambda ws: scale * ws[:, :, None, :], jnp.zeros((1, 1, 1)),
        jnp.ones((1, 1, 1, 1)), mean)[0]

  for mean in (0.0, 1.5):
    value, slope = jax.value_and_grad(one)(jnp.float32(2.0), jnp.float32(mean))
    np.testing.assert_allclose(value, 2 * (0.99 * (2 - mean))**2, rtol=1e-5)
    np.testing.assert_allclose(slope, 4 * 0.99**2 * (2 - mean), rtol=1e-5)


def test_length_of_a_linear_network():
  """|J^T y| of image = w (all of it) is |y| / sqrt(H W)."""
  ws = jnp.zeros((3, 1, 8))
  noise = jax.random.normal(jax.random.key(0), (3, 2, 4, 1))
  _, length = path_length.path_length(
      lambda ws: ws.reshape(-1, 2, 4, 1), ws, noise, jnp.float32(0))
  norms = np.sqrt(np.sum(np.square(noise), (1, 2, 3)))
  np.testing.assert_allclose(length, np.mean(norms) / np.sqrt(8), rtol=1e-6)
  # The mean over layers: a w that enters twice counts as one.
  _, twice = path_length.path_length(
      lambda ws: (ws[:, 0] + ws[:, 1]).reshape(-1, 2, 4, 1),
      jnp.zeros((3, 2, 8)), noise, jnp.float32(0))
  np.testing.assert_allclose(twice, length, rtol=1e-6)


def test_dead_paths_and_moving_average():
  value, slope = jax.value_and_grad(lambda a: path_length.path_length(
      lambda ws: a * ws[:, :, None, :], jnp.zeros((2, 1, 1)),
      jnp.ones((2, 1, 1, 1)), jnp.float32(1.0))[0])(jnp.float32(0.0))
  np.testing.assert_allclose((value, slope), (2 * 0.99**2, 0.0), rtol=1e-5)
  assert path_length.average(1.0, 2.0, 0.01) == pytest.approx(1.01)


def test_unknown_form():
  with pytest.raises(ValueError, match='form'):
    penalty(*inputs(), form='vjp')
