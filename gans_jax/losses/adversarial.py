"""Adversarial objectives, one function per paper, all on logits.

`get(name, **options)` returns an `Objective`: what the discriminator
minimises, and what the generator minimises. Notation of the docstrings:
l_r, l_f logits of real and generated examples, sp = softplus, s = sigmoid,
E = mean over the batch. As -log s(l) = sp(-l) and -log(1 - s(l)) = sp(l), no
probability is ever formed, and no epsilon is needed inside a logarithm.

Logits may have any shape ([N], [N, 1], patches [N, H, W, 1]); the mean is
over all elements. They are taken to float32 first (float64 stays float64).
"""

from collections.abc import Callable
import dataclasses
import difflib
import inspect
import math

import jax
import jax.numpy as jnp

from gans_jax.core import errors

# (real_logits, fake_logits) -> scalar float32.
Loss = Callable[[jax.Array | None, jax.Array], jax.Array]

# exp is continued by its tangent from here on: exp(30) = 1e13 is far past any
# density ratio that can be learnt, and its square still fits float32, so that
# Adam's second moment does too.
_EXP_LIMIT = 30.0


@dataclasses.dataclass(frozen=True)
class Objective:
  """The losses of both players; both are minimised.

  Attributes:
    name: its name in `get`.
    d_loss: (real_logits, fake_logits) -> float32 scalar.
    g_loss: the same for the generator. `real_logits` may be None unless
      `g_uses_real`.
    g_uses_real: the generator's loss depends on the real logits.
    batch_coupled: a loss contains the mean of the logits of the batch, so
      that it is not a mean of terms of one (real, fake) pair: accumulated over
      microbatches, it is the mean of the losses of the pieces, which is
      another number. Every other objective is unchanged by accumulation.
  """

  name: str
  d_loss: Loss
  g_loss: Loss
  g_uses_real: bool = False
  batch_coupled: bool = False


def get(name: str, **options) -> Objective:
  """Returns the objective called `name`.

  Args:
    name: one of `names()`, or an alias: logistic, softplus.
    **options: arguments of the function of that name in this module, such as
      `real_label` of non_saturating, or `a`, `b`, `c` of least_squares.

  Raises:
    UserError: no such objective, or no such option of it, or a bad value.
  """
  found = _ALIASES.get(name, name)
  if found not in _OBJECTIVES:
    near = difflib.get_close_matches(
        name, [*_OBJECTIVES, *_ALIASES], n=1, cutoff=0.0)
    raise errors.UserError(
        f'There is no adversarial objective {name!r}. The nearest is '
        f'{near[0]!r}. Choose one of: {", ".join(names())}.')
  make = _OBJECTIVES[found]
  known = list(inspect.signature(make).parameters)
  unknown = [option for option in options if option not in known]
  if unknown:
    raise errors.UserError(
        f'The adversarial objective {found!r} has no option '
        f'{unknown[0]!r}. It takes: {", ".join(known) or "no options"}.')
  return make(**options)


def names() -> tuple[str, ...]:
  """Returns the names that `get` knows, aliases left out."""
  return tuple(_OBJECTIVES)


def minimax(real_label: float = 1.0) -> Objective:
  """Minimax GAN, "MM" (Goodfellow et al. 2014, arXiv:1406.2661, eq. 1).

    L_D = E sp(-l_r) + E sp(l_f)
    L_G = -E sp(l_f)                 (= E log(1 - D))

  At D* = p / (p + q), -L_D = 2 JS(p, q) - log 4, and the generator descends
  it, with gradients that vanish where D is sure that images are generated.

  Args:
    real_label: target alpha in (0, 1] of real examples, one-sided label
      smoothing (Salimans et al. 2016, arXiv:1606.03498, sec. 3.4; 0.9 there).
      The real term becomes alpha sp(-l_r) + (1 - alpha) sp(l_r), and
      D* = alpha p / (p + q). Fake targets are never smoothed.
  """
  _check_label(real_label)
  return Objective(
      'minimax', lambda real, fake: _logistic(real, fake, real_label),
      lambda real, fake: -jnp.mean(jax.nn.softplus(_f32(fake))))


def non_saturating(real_label: float = 1.0) -> Objective:
  """Non-saturating GAN, "NS" (Goodfellow et al. 2014, sec. 3).

    L_D = E sp(-l_r) + E sp(l_f)
    L_G = E sp(-l_f)                 (= -E log D)

  StyleGAN's "logistic" loss is this one. At D* the generator's gradient is
  that of KL(q || p) - 2 JS(p, q) (Arjovsky & Bottou 2017, arXiv:1701.04862,
  theorem 2.5).

  Args:
    real_label: one-sided label smoothing, as in `minimax`. It changes L_D
      alone.
  """
  _check_label(real_label)
  return Objective(
      'non_saturating', lambda real, fake: _logistic(real, fake, real_label),
      lambda real, fake: jnp.mean(jax.nn.softplus(-_f32(fake))))


def reverse_kl() -> Objective:
  """L_D of minimax, L_G = -E l_f (Sonderby et al. 2016, arXiv:1610.04490).

  At D*, l_f = log p - log q, so the generator descends KL(q || p).
  """
  return Objective(
      'reverse_kl', _logistic, lambda real, fake: -jnp.mean(_f32(fake)))


def maximum_likelihood() -> Objective:
  """L_D of minimax, L_G = -E exp(l_f) (Goodfellow 2014, arXiv:1412.6515).

  At D*, exp(l_f) = p / q, so the generator descends KL(p || q). The variance
  is high. Past l = 30, exp goes on as its tangent, so that losses and
  gradients stay finite.
  """
  return Objective(
      'maximum_likelihood', _logistic,
      lambda real, fake: -jnp.mean(_exp(_f32(fake))))


def wasserstein() -> Objective:
  """WGAN critic (Arjovsky et al. 2017, arXiv:1701.07875, eq. 2, alg. 1).

    L_D = E l_f - E l_r
    L_G = -E l_f

  The critic needs `penalties.clip_weights` or `penalties.wgan_gp`. -L_D
  estimates the distance. The official code flips the critic's sign (it
  minimises E l_r - E l_f); the game is the same.
  """
  return Objective(
      'wasserstein',
      lambda real, fake: jnp.mean(_f32(fake)) - jnp.mean(_f32(real)),
      lambda real, fake: -jnp.mean(_f32(fake)))


def least_squares(a: float = 0.0, b: float = 1.0,
                  c: float = 1.0) -> Objective:
  """LSGAN (Mao et al. 2017, arXiv:1611.04076, eq. 2, 8 and 9).

    L_D = 1/2 E (l_r - b)^2 + 1/2 E (l_f - a)^2
    L_G = 1/2 E (l_f - c)^2

  Linear outputs: l is no logit here. (a, b, c) = (0, 1, 1) is the usual
  choice; any with b - c = 1 and b - a = 2, such as (-1, 1, 0), minimises the
  Pearson chi-squared divergence of p + q and 2q (its section on f-divergence).
  """
  def d_loss(real, fake):
    return 0.5 * (jnp.mean(jnp.square(_f32(real) - b))
                  + jnp.mean(jnp.square(_f32(fake) - a)))

  return Objective(
      'least_squares', d_loss,
      lambda real, fake: 0.5 * jnp.mean(jnp.square(_f32(fake) - c)))


def hinge() -> Objective:
  """Hinge loss (Lim & Ye 2017, arXiv:1705.02894).

    L_D = E relu(1 - l_r) + E relu(1 + l_f)
    L_G = -E l_f

  The optimal critic is sign(p - q); then L_D = 2 - 2 TV(p, q). Made common by
  Miyato et al. 2018 (arXiv:1802.05957, eq. 16 and 17).
  """
  def d_loss(real, fake):
    return (jnp.mean(jax.nn.relu(1.0 - _f32(real)))
            + jnp.mean(jax.nn.relu(1.0 + _f32(fake))))

  return Objective('hinge', d_loss, lambda real, fake: -jnp.mean(_f32(fake)))


def relativistic() -> Objective:
  """RSGAN (Jolicoeur-Martineau 2018, arXiv:1807.00734).

    L_D = E sp(-(l_r - l_f))
    L_G = E sp(-(l_f - l_r))

  Real i is compared with fake i; R3GAN (arXiv:2501.05441) calls it RpGAN.
  """
  def d_loss(real, fake):
    real, fake = _pair(real, fake)
    return jnp.mean(jax.nn.softplus(fake - real))

  return Objective(
      'relativistic', d_loss, lambda real, fake: d_loss(fake, real),
      g_uses_real=True)


def relativistic_average() -> Objective:
  """RaSGAN, or RaGAN (Jolicoeur-Martineau 2018, arXiv:1807.00734).

    L_D = E sp(-(l_r - E l_f)) + E sp(l_f - E l_r)
    L_G = E sp(-(l_f - E l_r)) + E sp(l_r - E l_f)

  As in the paper's equations; its code halves both.
  """
  def d_loss(real, fake):
    over_fake, over_real = _relative_to_average(real, fake)
    return (jnp.mean(jax.nn.softplus(-over_fake))
            + jnp.mean(jax.nn.softplus(over_real)))

  return Objective(
      'relativistic_average', d_loss,
      lambda real, fake: d_loss(fake, real),
      g_uses_real=True, batch_coupled=True)


def relativistic_least_squares() -> Objective:
  """RaLSGAN (arXiv:1807.00734, appendix: loss functions used).

    L_D = E (l_r - E l_f - 1)^2 + E (l_f - E l_r + 1)^2
    L_G = E (l_f - E l_r - 1)^2 + E (l_r - E l_f + 1)^2
  """
  def d_loss(real, fake):
    over_fake, over_real = _relative_to_average(real, fake)
    return (jnp.mean(jnp.square(over_fake - 1.0))
            + jnp.mean(jnp.square(over_real + 1.0)))

  return Objective(
      'relativistic_least_squares', d_loss,
      lambda real, fake: d_loss(fake, real),
      g_uses_real=True, batch_coupled=True)


def relativistic_hinge() -> Objective:
  """RaHingeGAN (arXiv:1807.00734, appendix: loss functions used).

    L_D = E relu(1 - (l_r - E l_f)) + E relu(1 + (l_f - E l_r))
    L_G = E relu(1 - (l_f - E l_r)) + E relu(1 + (l_r - E l_f))
  """
  def d_loss(real, fake):
    over_fake, over_real = _relative_to_average(real, fake)
    return (jnp.mean(jax.nn.relu(1.0 - over_fake))
            + jnp.mean(jax.nn.relu(1.0 + over_real)))

  return Objective(
      'relativistic_hinge', d_loss, lambda real, fake: d_loss(fake, real),
      g_uses_real=True, batch_coupled=True)


# --- f-GAN ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Divergence:
  """D_f(P || Q) = sum_x q(x) f(p(x) / q(x)) and its variational form.

  Nowozin et al. 2016, arXiv:1606.00709, tables 1 and 2.

  Attributes:
    name: its name in `DIVERGENCES`.
    f: the convex generator function, of u = p / q > 0.
    activation: g_f, from the raw output v onto the domain of `conjugate`.
    conjugate: f*(t) = sup_u (t u - f(u)).
    conjugate_of_activation: f*(g_f(v)) simplified, so that neither part
      overflows or cancels.
    threshold: f'(1): the critic g_f(v) calls an example real above it.
  """

  name: str
  f: Callable[[jax.Array], jax.Array]
  activation: Callable[[jax.Array], jax.Array]
  conjugate: Callable[[jax.Array], jax.Array]
  conjugate_of_activation: Callable[[jax.Array], jax.Array]
  threshold: float


DIVERGENCES = {divergence.name: divergence for divergence in (
    Divergence(
        'kl',
        f=lambda u: u * jnp.log(u),
        activation=lambda v: v,
        conjugate=lambda t: jnp.exp(t - 1.0),
        conjugate_of_activation=lambda v: _exp(v - 1.0),
        threshold=1.0),
    Divergence(
        'reverse_kl',
        f=lambda u: -jnp.log(u),
        activation=lambda v: -_exp(-v),
        conjugate=lambda t: -1.0 - jnp.log(-t),
        conjugate_of_activation=lambda v: v - 1.0,
        threshold=-1.0),
    Divergence(
        'pearson',
        f=lambda u: jnp.square(u - 1.0),
        activation=lambda v: v,
        conjugate=lambda t: jnp.square(t) / 4.0 + t,
        conjugate_of_activation=lambda v: jnp.square(v) / 4.0 + v,
        threshold=0.0),
    Divergence(
        'neyman',
        f=lambda u: jnp.square(1.0 - u) / u,
        activation=lambda v: 1.0 - _exp(-v),
        conjugate=lambda t: 2.0 - 2.0 * jnp.sqrt(1.0 - t),
        conjugate_of_activation=lambda v: 2.0 - 2.0 * _exp(-v / 2.0),
        threshold=0.0),
    Divergence(
        'squared_hellinger',
        f=lambda u: jnp.square(jnp.sqrt(u) - 1.0),
        activation=lambda v: 1.0 - _exp(-v),
        conjugate=lambda t: t / (1.0 - t),
        conjugate_of_activation=lambda v: _exp(v) - 1.0,
        threshold=0.0),
    # With the paper's f this is twice the Jensen-Shannon divergence.
    Divergence(
        'js',
        f=lambda u: u * jnp.log(u) - (u + 1.0) * jnp.log((1.0 + u) / 2.0),
        activation=lambda v: math.log(2.0) - jax.nn.softplus(-v),
        conjugate=lambda t: -jnp.log(2.0 - jnp.exp(t)),
        conjugate_of_activation=lambda v: jax.nn.softplus(v) - math.log(2.0),
        threshold=0.0),
    # 2 JS - log 4: `minimax` with V = l.
    Divergence(
        'gan',
        f=lambda u: u * jnp.log(u) - (u + 1.0) * jnp.log(u + 1.0),
        activation=lambda v: -jax.nn.softplus(-v),
        conjugate=lambda t: -jnp.log(1.0 - jnp.exp(t)),
        conjugate_of_activation=jax.nn.softplus,
        threshold=-math.log(2.0)),
)}


def f_gan(divergence: str = 'kl', saturating: bool = True) -> Objective:
  """f-GAN (Nowozin et al. 2016, arXiv:1606.00709, eq. 6).

    F   = E g_f(v_r) - E f*(g_f(v_f)),   v the raw output
    L_D = -F
    L_G = -E f*(g_f(v_f))   saturating: the saddle point of eq. 6
    L_G = -E g_f(v_f)       otherwise: the trick of sec. 3.2

  max_D F = D_f(P || Q), reached where g_f(v) = f'(p / q).

  Args:
    divergence: a key of `DIVERGENCES`.
    saturating: which of the two generator losses.
  """
  if divergence not in DIVERGENCES:
    near = difflib.get_close_matches(
        str(divergence), list(DIVERGENCES), n=1, cutoff=0.0)
    raise errors.UserError(
        f'f_gan knows no divergence {divergence!r}. The nearest is '
        f'{near[0]!r}. Choose one of: {", ".join(DIVERGENCES)}.')
  chosen = DIVERGENCES[divergence]

  def d_loss(real, fake):
    return (jnp.mean(chosen.conjugate_of_activation(_f32(fake)))
            - jnp.mean(chosen.activation(_f32(real))))

  def g_loss(real, fake):
    del real
    if saturating:
      return -jnp.mean(chosen.conjugate_of_activation(_f32(fake)))
    return -jnp.mean(chosen.activation(_f32(fake)))

  return Objective('f_gan', d_loss, g_loss)


# --- BEGAN: the discriminator is an autoencoder, its output an error --------


def began_losses(real_error: jax.Array, fake_error: jax.Array,
                 k: jax.Array) -> tuple[jax.Array, jax.Array]:
  """BEGAN (Berthelot et al. 2017, arXiv:1703.10717, sec. 3.4).

    L_D = E R(x) - k E R(G(z))
    L_G = E R(G(z))

  Args:
    real_error: autoencoder errors R(x) of real images, [N], L1 in the paper.
    fake_error: those of generated images, [N].
    k: control variable, scalar in [0, 1]; a constant to both players.

  Returns:
    (L_D, L_G), float32 scalars.
  """
  k = jax.lax.stop_gradient(_f32(k))
  real, fake = jnp.mean(_f32(real_error)), jnp.mean(_f32(fake_error))
  return real - k * fake, fake


def began_update(k: jax.Array, real_error: jax.Array, fake_error: jax.Array,
                 gamma: float, rate: float = 1e-3,
                 clip: bool = True) -> tuple[jax.Array, jax.Array]:
  """Proportional control of k, and BEGAN's measure of convergence.

    k <- k + rate (gamma E R(x) - E R(G(z)))       (eq. of sec. 3.4)
    M = E R(x) + |gamma E R(x) - E R(G(z))|        (sec. 3.4.1)

  Args:
    k: old value, scalar; 0 at the start.
    real_error: R(x), [N].
    fake_error: R(G(z)), [N].
    gamma: diversity ratio in [0, 1], 0.3 to 0.75 in the paper.
    rate: lambda_k.
    clip: keep k in [0, 1] as the paper does; compare_gan does not.

  Returns:
    (new k, M), float32 scalars.
  """
  real, fake = jnp.mean(_f32(real_error)), jnp.mean(_f32(fake_error))
  balance = gamma * real - fake
  k = _f32(k) + rate * balance
  if clip:
    k = jnp.clip(k, 0.0, 1.0)
  return k, real + jnp.abs(balance)


# --- Parts ------------------------------------------------------------------


def _f32(x: jax.Array) -> jax.Array:
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _exp(x: jax.Array) -> jax.Array:
  """exp(x), continued by its tangent from x = 30 on."""
  value = jnp.exp(jnp.minimum(x, _EXP_LIMIT))
  tangent = math.exp(_EXP_LIMIT) * (1.0 + x - _EXP_LIMIT)
  return jnp.where(x < _EXP_LIMIT, value, tangent)


def _logistic(real: jax.Array, fake: jax.Array,
              real_label: float = 1.0) -> jax.Array:
  """Cross-entropy of the two classes: alpha for real, 0 for fake."""
  real, fake = _f32(real), _f32(fake)
  # alpha sp(-l) + (1 - alpha) sp(l) = sp(-l) + (1 - alpha) l.
  return (jnp.mean(jax.nn.softplus(-real)) + (1.0 - real_label) * jnp.mean(real)
          + jnp.mean(jax.nn.softplus(fake)))


def _pair(real: jax.Array, fake: jax.Array) -> tuple[jax.Array, jax.Array]:
  if jnp.shape(real) != jnp.shape(fake):
    # [N] - [N, 1] would silently be all N x N pairs.
    raise ValueError('Relativistic losses compare real i with fake i: the '
                     f'shapes {jnp.shape(real)} and {jnp.shape(fake)} differ.')
  return _f32(real), _f32(fake)


def _relative_to_average(
    real: jax.Array, fake: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns l_r - E l_f and l_f - E l_r."""
  real, fake = _f32(real), _f32(fake)
  return real - jnp.mean(fake), fake - jnp.mean(real)


def _check_label(real_label: float):
  if not 0.0 < real_label <= 1.0:
    raise errors.UserError(
        f'The option real_label is {real_label}; expected the target of real '
        'examples, above 0 and at most 1 (1 = no smoothing, 0.9 = usual).')


_OBJECTIVES: dict[str, Callable[..., Objective]] = {
    make.__name__: make for make in (
        minimax, non_saturating, reverse_kl, maximum_likelihood, wasserstein,
        least_squares, hinge, relativistic, relativistic_average,
        relativistic_least_squares, relativistic_hinge, f_gan)}
_ALIASES = {'logistic': 'non_saturating', 'softplus': 'non_saturating'}
