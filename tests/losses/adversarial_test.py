"""Objectives against closed forms on discrete distributions, in float64.

P = counts / N and Q = counts / N over five states, so that a batch that holds
each state `count` times has exact expectations under both.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.losses import adversarial

P_COUNTS = np.array([1, 2, 3, 4, 10])
Q_COUNTS = np.array([6, 1, 3, 8, 2])
P, Q = P_COUNTS / P_COUNTS.sum(), Q_COUNTS / Q_COUNTS.sum()
U = P / Q
REAL = np.repeat(np.arange(5), P_COUNTS)
FAKE = np.repeat(np.arange(5), Q_COUNTS)
EVERY = [(name, {}) for name in adversarial.names() if name != 'f_gan'] + [
    ('f_gan', {'divergence': name, 'saturating': saturating})
    for name in adversarial.DIVERGENCES for saturating in (True, False)]


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def _kl(p, q):
  return jnp.sum(p * jnp.log(p / q))


def _js(p, q):
  return 0.5 * _kl(p, (p + q) / 2) + 0.5 * _kl(q, (p + q) / 2)


def _d_loss(objective, per_state):
  """E_P and E_Q of the discriminator's loss, logits given for each state."""
  return objective.d_loss(per_state[REAL], per_state[FAKE])


def _g_gradient(objective, per_state):
  """Gradient in phi of E_Q(phi)[generator's term], D frozen; Q = softmax(phi).

  The generator of a discrete toy moves mass between states, so its gradient
  is that of the expectation, at terms that are held constant.
  """
  terms = jax.vmap(lambda x: objective.g_loss(None, x[None]))(
      jnp.asarray(per_state))
  return jax.grad(lambda phi: jax.nn.softmax(phi) @ terms)(jnp.log(Q))


def _gradient_of(divergence):
  """Gradient in phi of divergence(P, softmax(phi)), at Q."""
  return jax.grad(lambda phi: divergence(P, jax.nn.softmax(phi)))(jnp.log(Q))


@pytest.mark.parametrize('name', ['minimax', 'non_saturating', 'reverse_kl',
                                  'maximum_likelihood'])
def test_optimal_discriminator_is_p_over_p_plus_q(name):
  objective = adversarial.get(name)
  optimal = jnp.asarray(np.log(P) - np.log(Q))  # sigmoid: p / (p + q)
  gradient = jax.grad(lambda x: _d_loss(objective, x))(optimal)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-15)
  curvature = jax.hessian(lambda x: _d_loss(objective, x))(optimal)
  assert np.all(np.linalg.eigvalsh(curvature) > 0)
  value = -_d_loss(objective, optimal)
  np.testing.assert_allclose(
      value, 2 * _js(P, Q) - math.log(4), rtol=1e-13)


def test_value_at_equality_is_minus_log_4():
  objective = adversarial.get('minimax')
  logits = jnp.zeros(5)
  np.testing.assert_allclose(
      -objective.d_loss(logits[REAL], logits[REAL]), -math.log(4), rtol=1e-15)
  np.testing.assert_allclose(
      objective.g_loss(None, logits), -math.log(2), rtol=1e-15)


@pytest.mark.parametrize('name, divergence', [
    ('minimax', lambda p, q: 2 * _js(p, q)),
    ('non_saturating', lambda p, q: _kl(q, p) - 2 * _js(p, q)),
    ('reverse_kl', lambda p, q: _kl(q, p)),
    ('maximum_likelihood', _kl)])
def test_generator_descends_the_stated_divergence(name, divergence):
  optimal = np.log(P / Q)
  gradient = _g_gradient(adversarial.get(name), optimal)
  np.testing.assert_allclose(gradient, _gradient_of(divergence), atol=1e-14)
  assert np.linalg.norm(gradient) > 0.05


@pytest.mark.parametrize('name', ['minimax', 'non_saturating'])
@pytest.mark.parametrize('alpha', [0.9, 0.75])
def test_label_smoothing_shifts_the_optimum(name, alpha):
  objective = adversarial.get(name, real_label=alpha)
  d = alpha * P / (P + Q)
  logits = jnp.asarray(np.log(d) - np.log1p(-d))
  gradient = jax.grad(lambda x: _d_loss(objective, x))(logits)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-15)
  # At equilibrium, D = alpha / 2.
  half = jnp.full([5], math.log(alpha / 2 / (1 - alpha / 2)))
  gradient = jax.grad(lambda x: objective.d_loss(x[REAL], x[REAL]))(half)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-15)
  # The generator's loss knows no smoothing.
  plain = adversarial.get(name)
  assert objective.g_loss(None, logits) == plain.g_loss(None, logits)


def test_label_smoothing_is_cross_entropy_with_a_soft_target():
  objective = adversarial.get('non_saturating', real_label=0.9)
  real, fake = np.array([2.0, -1.0]), np.array([0.5, 3.0, -4.0])
  def log_s(x):
    return np.log(1 / (1 + np.exp(-x)))

  expected = (-np.mean(0.9 * log_s(real) + 0.1 * log_s(-real))
              - np.mean(log_s(-fake)))
  np.testing.assert_allclose(
      objective.d_loss(real, fake), expected, rtol=1e-14)


@pytest.mark.parametrize('alpha', [0.0, -0.1, 1.1])
def test_bad_label_is_refused(alpha):
  with pytest.raises(errors.UserError, match='real_label'):
    adversarial.get('minimax', real_label=alpha)


# --- f-GAN ------------------------------------------------------------------

# Divergence of P from Q in closed form, and the raw output v at which
# g_f(v) = f'(p / q).
F_GAN = {
    'kl': (_kl, lambda u: 1 + np.log(u)),
    'reverse_kl': (lambda p, q: _kl(q, p), np.log),
    'pearson': (lambda p, q: jnp.sum((p - q)**2 / q), lambda u: 2 * (u - 1)),
    'neyman': (lambda p, q: jnp.sum((p - q)**2 / p), lambda u: 2 * np.log(u)),
    'squared_hellinger': (
        lambda p, q: jnp.sum((jnp.sqrt(p) - jnp.sqrt(q))**2),
        lambda u: 0.5 * np.log(u)),
    'js': (lambda p, q: 2 * _js(p, q), np.log),
    'gan': (lambda p, q: 2 * _js(p, q) - math.log(4), np.log),
}


def test_every_divergence_is_tested():
  assert set(F_GAN) == set(adversarial.DIVERGENCES)


@pytest.mark.parametrize('name', F_GAN)
def test_f_gan_bound_is_tight_at_the_optimal_function(name):
  true, optimal = F_GAN[name]
  objective = adversarial.get('f_gan', divergence=name)
  v = jnp.asarray(optimal(U))
  np.testing.assert_allclose(
      -_d_loss(objective, v), true(P, Q), rtol=1e-13, atol=1e-14)
  gradient = jax.grad(lambda v: _d_loss(objective, v))(v)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-15)
  # Elsewhere it is a strict lower bound.
  for seed in range(5):
    away = v + 0.3 * np.random.default_rng(seed).standard_normal(5)
    assert -_d_loss(objective, away) < true(P, Q)


@pytest.mark.parametrize('name', F_GAN)
def test_f_gan_generator_descends_its_divergence(name):
  true, optimal = F_GAN[name]
  objective = adversarial.get('f_gan', divergence=name)
  np.testing.assert_allclose(
      _g_gradient(objective, optimal(U)), _gradient_of(true), atol=1e-13)


@pytest.mark.parametrize('name', F_GAN)
def test_f_gan_parts_fit_each_other(name):
  divergence = adversarial.DIVERGENCES[name]
  v = jnp.linspace(-3.0, 3.0, 13)
  t = divergence.activation(v)
  np.testing.assert_allclose(
      divergence.conjugate_of_activation(v), divergence.conjugate(t),
      rtol=1e-12, atol=1e-14)
  np.testing.assert_allclose(
      jax.grad(divergence.f)(1.0), divergence.threshold, atol=1e-15)
  # f*(t) = sup_u (t u - f(u)), at the t = f'(u0) whose sup lies at u0.
  u = np.exp(np.linspace(-6, 6, 200_001))
  for u0 in (0.3, 1.0, 2.5):
    t = float(jax.grad(divergence.f)(u0))
    sup = np.max(t * u - np.asarray(divergence.f(u)))
    np.testing.assert_allclose(divergence.conjugate(t), sup, atol=1e-7)


def test_f_gan_of_gan_is_minimax():
  f_gan, minimax = adversarial.get('f_gan', divergence='gan'), adversarial.get(
      'minimax')
  real, fake = np.linspace(-5, 5, 7), np.linspace(-4, 8, 7)
  np.testing.assert_allclose(
      f_gan.d_loss(real, fake), minimax.d_loss(real, fake), rtol=1e-15)
  np.testing.assert_allclose(
      f_gan.g_loss(None, fake), minimax.g_loss(None, fake), rtol=1e-15)


def test_f_gan_heuristic_generator_raises_the_activation():
  fake = np.array([-1.0, 0.5, 2.0])
  objective = adversarial.get('f_gan', divergence='gan', saturating=False)
  np.testing.assert_allclose(
      objective.g_loss(None, fake), np.mean(np.log1p(np.exp(-fake))),
      rtol=1e-14)


def test_unknown_divergence_names_the_nearest():
  with pytest.raises(errors.UserError, match="nearest is 'pearson'"):
    adversarial.get('f_gan', divergence='pearsen')


# --- The others -------------------------------------------------------------


@pytest.mark.parametrize('a, b, c', [(0.0, 1.0, 1.0), (-1.0, 1.0, 0.0)])
def test_least_squares_optimum(a, b, c):
  objective = adversarial.get('least_squares', a=a, b=b, c=c)
  optimal = jnp.asarray((b * P + a * Q) / (P + Q))
  gradient = jax.grad(lambda x: _d_loss(objective, x))(optimal)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-15)


def test_least_squares_minimises_pearson_chi_squared():
  # b - c = 1, b - a = 2: with the real term, which G cannot change, twice
  # the generator's objective is the chi-squared of p + q and 2q.
  objective = adversarial.get('least_squares', a=-1.0, b=1.0, c=0.0)
  optimal = (P - Q) / (P + Q)
  both = (objective.g_loss(None, optimal[REAL])
          + objective.g_loss(None, optimal[FAKE]))
  pearson = np.sum((2 * Q - (P + Q))**2 / (P + Q))
  np.testing.assert_allclose(2 * both, pearson, rtol=1e-14)


def test_least_squares_values():
  real, fake = np.array([0.0, 3.0]), np.array([1.0, -2.0])
  objective = adversarial.get('least_squares')
  assert objective.d_loss(real, fake) == 0.25 * (1 + 4) + 0.25 * (1 + 4)
  assert objective.g_loss(real, fake) == 0.25 * (0 + 9)


def test_hinge_optimum_is_the_sign_and_its_value_total_variation():
  objective = adversarial.get('hinge')
  optimal = np.sign(P - Q)
  total_variation = 0.5 * np.abs(P - Q).sum()
  best = _d_loss(objective, optimal)
  np.testing.assert_allclose(best, 2 - 2 * total_variation, rtol=1e-14)
  for state in range(5):
    for value in np.linspace(-2, 2, 41):
      other = optimal.copy()
      other[state] = value
      assert _d_loss(objective, other) >= best - 1e-12
  np.testing.assert_allclose(
      objective.g_loss(None, optimal[FAKE])
      - objective.g_loss(None, optimal[REAL]), 2 * total_variation, rtol=1e-14)


def test_wasserstein_is_the_difference_of_means():
  objective = adversarial.get('wasserstein')
  real, fake = np.array([3.0, 5.0]), np.array([1.0, -2.0, 4.0])
  assert objective.d_loss(real, fake) == 1.0 - 4.0
  assert objective.g_loss(None, fake) == -1.0


def _relativistic_by_definition(name, r, f):
  """Real side's and fake side's distance, in the paper's own terms."""
  def s(x):
    return 1 / (1 + np.exp(-x))
  rf, fr = r - f.mean(), f - r.mean()
  return {
      'relativistic': -np.mean(np.log(s(r - f))),
      'relativistic_average': (
          -np.mean(np.log(s(rf))) - np.mean(np.log(1 - s(fr)))),
      'relativistic_least_squares': (
          np.mean((rf - 1)**2) + np.mean((fr + 1)**2)),
      'relativistic_hinge': (
          np.mean(np.maximum(0, 1 - rf)) + np.mean(np.maximum(0, 1 + fr))),
  }[name]


@pytest.mark.parametrize('name', [
    'relativistic', 'relativistic_average', 'relativistic_least_squares',
    'relativistic_hinge'])
def test_relativistic(name):
  rng = np.random.default_rng(0)
  real, fake = rng.standard_normal((2, 9)) * 2
  objective = adversarial.get(name)
  assert objective.g_uses_real
  assert objective.batch_coupled == (name != 'relativistic')
  np.testing.assert_allclose(
      objective.d_loss(real, fake),
      _relativistic_by_definition(name, real, fake), rtol=1e-13)
  np.testing.assert_allclose(
      objective.g_loss(real, fake),
      _relativistic_by_definition(name, fake, real), rtol=1e-13)
  # Only differences matter.
  np.testing.assert_allclose(
      objective.d_loss(real + 7, fake + 7), objective.d_loss(real, fake),
      rtol=1e-13)
  # The generator lowers real logits: both sides get gradient.
  to_real = jax.grad(objective.g_loss)(real, fake)
  assert np.all(to_real >= 0) and np.any(to_real > 0)


def test_relativistic_pairs_of_other_shapes_are_refused():
  # [N] - [N, 1] would be all pairs.
  with pytest.raises(ValueError, match='differ'):
    adversarial.get('relativistic').d_loss(np.zeros(3), np.zeros((3, 1)))


@pytest.mark.parametrize('name, options', EVERY)
def test_batch_coupled_says_whether_microbatches_change_the_loss(
    name, options):
  objective = adversarial.get(name, **options)
  rng = np.random.default_rng(0)
  real, fake = 3 * rng.standard_normal((2, 34))
  for loss in (objective.d_loss, objective.g_loss):
    pieces = [loss(real[i::2], fake[i::2]) for i in range(2)]
    same = np.isclose(np.mean(pieces), loss(real, fake), rtol=1e-12)
    assert same == (not objective.batch_coupled)


@pytest.mark.parametrize('name, options', EVERY)
def test_generator_uses_real_only_where_declared(name, options):
  objective = adversarial.get(name, **options)
  real, fake = np.array([0.3, -1.0]), np.array([0.1, 0.9])
  gradient = jax.grad(objective.g_loss)(real, fake)
  assert np.any(gradient != 0) == objective.g_uses_real


@pytest.mark.parametrize('name, options', EVERY)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_float32_and_finite_at_huge_logits(name, options, dtype):
  with jax.enable_x64(False):
    objective = adversarial.get(name, **options)
    extreme = jnp.asarray([-1e4, -100.0, 0.0, 100.0, 1e4], dtype)
    for real, fake in ((extreme, extreme), (extreme, extreme[::-1])):
      for loss in (objective.d_loss, objective.g_loss):
        value, gradients = jax.value_and_grad(loss, (0, 1))(real, fake)
        assert value.dtype == jnp.float32
        assert np.isfinite(value)
        assert all(g.dtype == dtype for g in gradients)
        assert np.all(np.isfinite(np.asarray(gradients, np.float32)))


def test_huge_logits_are_exact_not_clipped():
  with jax.enable_x64(False):
    objective = adversarial.get('non_saturating')
    value = objective.d_loss(jnp.array([-1e4]), jnp.array([1e4]))
    assert value == 2e4
    assert jax.grad(objective.g_loss, 1)(None, jnp.array([-1e4])) == -1.0


def test_exponential_is_exact_below_its_limit_and_smooth_at_it():
  objective = adversarial.get('maximum_likelihood')
  for x in (-3.0, 0.0, 12.0, 29.9):
    np.testing.assert_allclose(
        objective.g_loss(None, np.array([x])), -math.exp(x), rtol=1e-14)
  slope = jax.grad(lambda x: objective.g_loss(None, x[None]))
  np.testing.assert_allclose(slope(jnp.array(30.0 - 1e-9)),
                             slope(jnp.array(30.0 + 1e-9)), rtol=1e-8)


@pytest.mark.parametrize('name, options', EVERY)
def test_mean_over_patches_equals_mean_over_a_flat_batch(name, options):
  objective = adversarial.get(name, **options)
  real, fake = np.random.default_rng(0).standard_normal((2, 4, 3, 2, 1))
  for loss in (objective.d_loss, objective.g_loss):
    np.testing.assert_allclose(
        loss(real, fake), loss(real.reshape(-1), fake.reshape(-1)), rtol=1e-14)


# --- get --------------------------------------------------------------------


def test_objectives_carry_their_name():
  for name in adversarial.names():
    assert adversarial.get(name).name == name


@pytest.mark.parametrize('alias', ['logistic', 'softplus'])
def test_logistic_is_non_saturating(alias):
  assert adversarial.get(alias).name == 'non_saturating'


def test_unknown_objective_names_the_nearest_and_all():
  with pytest.raises(errors.UserError) as error:
    adversarial.get('wassertein')
  message = str(error.value)
  assert "nearest is 'wasserstein'" in message
  assert all(name in message for name in adversarial.names())


def test_unknown_option_is_refused_with_those_known():
  with pytest.raises(errors.UserError, match='It takes: a, b, c'):
    adversarial.get('least_squares', d=1.0)
  with pytest.raises(errors.UserError, match='no options'):
    adversarial.get('hinge', margin=1.0)


# --- BEGAN ------------------------------------------------------------------


def test_began_losses():
  real, fake = np.array([1.0, 3.0]), np.array([0.5, 0.7])
  d_loss, g_loss = adversarial.began_losses(real, fake, 0.25)
  np.testing.assert_allclose(d_loss, 2.0 - 0.25 * 0.6, rtol=1e-15)
  np.testing.assert_allclose(g_loss, 0.6, rtol=1e-15)
  gradient = jax.grad(
      lambda k: adversarial.began_losses(real, fake, k)[0])(0.25)
  assert gradient == 0.0


def test_began_update():
  real, fake = np.array([1.0, 3.0]), np.array([0.5, 0.7])
  k, measure = adversarial.began_update(0.1, real, fake, 0.5, rate=0.01)
  np.testing.assert_allclose(k, 0.1 + 0.01 * (0.5 * 2.0 - 0.6), rtol=1e-14)
  np.testing.assert_allclose(measure, 2.0 + 0.4, rtol=1e-14)


def test_began_k_stays_in_the_unit_interval_if_asked():
  real, fake = np.array([1.0]), np.array([5.0])
  assert adversarial.began_update(0.0, real, fake, 0.5)[0] == 0.0
  assert adversarial.began_update(0.0, real, fake, 0.5, clip=False)[0] < 0.0
  assert adversarial.began_update(1.0, fake, real, 0.5)[0] == 1.0


def test_began_balance_is_a_fixed_point():
  real = np.array([2.0, 4.0])
  k, measure = adversarial.began_update(0.3, real, 0.4 * real, gamma=0.4)
  np.testing.assert_allclose(k, 0.3, rtol=1e-15)
  np.testing.assert_allclose(measure, 3.0, rtol=1e-15)
