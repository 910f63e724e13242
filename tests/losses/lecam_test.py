"""LeCam: the formula and its gradient in NumPy, the averages."""

import jax
import jax.numpy as jnp
import numpy as np

from gans_jax.losses import lecam


def test_formula_and_gradient():
  generator = np.random.default_rng(0)
  real, fake = generator.normal(size=(2, 32))
  averages = {'real': np.float32(0.7), 'fake': np.float32(-0.4)}
  value, gradients = jax.value_and_grad(lecam.regularizer, (0, 1))(
      jnp.asarray(real, 'float32'), jnp.asarray(fake, 'float32'), averages)
  over, under = np.maximum(real + 0.4, 0), np.maximum(0.7 - fake, 0)
  # Both sides of the hinge are there.
  for side in (over, under):
    assert 4 < np.sum(side > 0) < 32
  np.testing.assert_allclose(value, np.mean(over**2) + np.mean(under**2),
                             rtol=1e-5)
  np.testing.assert_allclose(gradients[0], 2 * over / 32, atol=1e-6)
  np.testing.assert_allclose(gradients[1], -2 * under / 32, atol=1e-6)


def test_the_papers_equation_where_it_is_the_same():
  """Reals above a_f, fakes below a_r: squares of the distances."""
  real, fake = np.float32([1, 2, 0.5]), np.float32([-1, 0.2, -3])
  value = lecam.regularizer(
      jnp.asarray(real), jnp.asarray(fake),
      {'real': jnp.float32(0.5), 'fake': jnp.float32(-0.5)})
  expected = np.mean((real + 0.5)**2) + np.mean((fake - 0.5)**2)
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_averages_after_many_updates():
  means = np.random.default_rng(1).normal(size=(50, 2))
  averages, expected = lecam.init(), np.zeros(2)
  update = jax.jit(lambda averages, means: lecam.update(
      averages, {'real': means[0], 'fake': means[1]}, 0.9))
  for mean in means:
    averages = update(averages, jnp.asarray(mean, 'float32'))
    expected = 0.9 * expected + 0.1 * mean
  np.testing.assert_allclose(
      [averages['real'], averages['fake']], expected, atol=1e-6)
  # Of decay 0: the last means themselves.
  last = lecam.update(averages, {'real': means[0, 0], 'fake': means[0, 1]}, 0.0)
  np.testing.assert_allclose([last['real'], last['fake']], means[0], rtol=1e-6)
