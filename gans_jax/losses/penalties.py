"""Gradient penalties, and the weight clipping that they replaced.

Every penalty is the mean over examples of phi(|g_i|^2), where g = the
gradient of sum_j logits_j with respect to the images: for a discriminator that
treats examples one by one, g_i is the gradient of logit i; where examples
meet (minibatch standard deviation, batch statistics) it also holds what
image i does to the other logits, as in the official implementations.

Two forms of the same function, chosen by `form`:

  'grad'  reverse over reverse: the gradient is differentiated.
  'jvp'   reverse over forward. With v_i = d penalty / d g_i held constant,
          d penalty = sum_i <v_i, d g_i> is the change of <v, g>, which is the
          forward derivative of sum_j logits_j in direction v. This scalar has
          exactly the gradient of the penalty, with respect to parameters,
          images and whatever else g depends on, and asks no reverse pass
          through a reverse pass. Its own value is not the penalty's, so the
          value is put in its place.

Both hold for a first derivative only: 'jvp' has no right second derivatives.
Which is faster depends on network and device; `benchmark` tells. A network
with a `custom_vjp` has 'grad' alone.

`logits_fn` maps images [N, ...] to logits [N], [N, 1] or [N, ...] (patches
are summed), and closes over parameters and conditions. Sums of squares and
logits are float32 whatever the network computes in; the images may be
bfloat16, the penalty is float32.
"""

from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp

LogitsFn = Callable[[jax.Array], jax.Array]


def r1(logits_fn: LogitsFn, real: jax.Array, gamma: float,
       form: str = 'grad') -> jax.Array:
  """R1 = gamma/2 E |grad D(x)|^2 on real images.

  Mescheder et al. 2018, arXiv:1801.04406, eq. 9; StyleGAN's convention too.
  The authors' code (GAN_stability) multiplies E |grad D|^2 by its `reg_param`
  without the 1/2: its 10 is gamma = 20 here.

  Args:
    logits_fn: images [N, ...] -> logits, see the module.
    real: real images [N, ...], floating.
    gamma: weight.
    form: 'grad' or 'jvp'.

  Returns:
    Scalar, float32.
  """
  return _penalty(logits_fn, real, lambda sq: 0.5 * gamma * sq, form)


def r2(logits_fn: LogitsFn, fake: jax.Array, gamma: float,
       form: str = 'grad') -> jax.Array:
  """R2 = gamma/2 E |grad D(x)|^2 on generated images.

  Mescheder et al. 2018, arXiv:1801.04406, eq. 10.
  It differentiates into `fake` as well; see `wgan_gp`. Arguments as in `r1`.
  """
  return _penalty(logits_fn, fake, lambda sq: 0.5 * gamma * sq, form)


def wgan_gp(logits_fn: LogitsFn, real: jax.Array, fake: jax.Array,
            eps: jax.Array, weight: float = 10.0, *, target: float = 1.0,
            epsilon: float = 0.0, form: str = 'grad') -> jax.Array:
  """WGAN-GP: weight E (|grad f(x~)| - 1)^2 between real and fake.

  Gulrajani et al. 2017, arXiv:1704.00028, eq. 3. The gradient also flows
  into `real` and `fake` (nothing is stopped here): it is a penalty for the
  critic, so make `fake` without the generator's parameters under
  differentiation, or pass `jax.lax.stop_gradient(fake)`.

  Args:
    logits_fn: images [N, ...] -> critic values, see the module.
    real: [N, ...].
    fake: [N, ...].
    eps: uniform in [0, 1), one for each example, [N].
    weight: lambda; 10 for images, 0.1 in the paper's toys.
    target: t of weight E (|grad| - t)^2 / t^2 (progressive GAN, code: 750 for
      CIFAR-10).
    epsilon: added to |grad|^2 inside the root: 0 in the official code, 1e-4
      in compare_gan. At 0, an example with zero gradient contributes
      weight and no gradient, instead of NaN.
    form: 'grad' or 'jvp'.

  Returns:
    Scalar, float32.
  """
  return _penalty(logits_fn, interpolate(real, fake, eps),
                  _distance_to(target, weight, epsilon), form)


def wgan_lp(logits_fn: LogitsFn, real: jax.Array, fake: jax.Array,
            eps: jax.Array, weight: float = 10.0, *, epsilon: float = 0.0,
            form: str = 'grad') -> jax.Array:
  """One-sided: weight E max(0, |grad f(x~)| - 1)^2.

  WGAN-GP, sec. 4, "two-sided penalty"; WGAN-LP (Petzka et al. 2018,
  arXiv:1709.08894). Arguments and gradients as in `wgan_gp`.
  """
  def phi(sq):
    return weight * jnp.square(jax.nn.relu(_root(sq, epsilon) - 1.0))

  return _penalty(logits_fn, interpolate(real, fake, eps), phi, form)


def zero_centred(logits_fn: LogitsFn, real: jax.Array, fake: jax.Array,
                 eps: jax.Array, weight: float = 10.0,
                 form: str = 'grad') -> jax.Array:
  """0-GP: weight E |grad D(x~)|^2 between real and fake.

  Thanh-Tung et al. 2019, arXiv:1902.03984; no 1/2 there. Arguments and
  gradients as in `wgan_gp`.
  """
  return _penalty(logits_fn, interpolate(real, fake, eps),
                  lambda sq: weight * sq, form)


def dragan(logits_fn: LogitsFn, points: jax.Array, weight: float = 10.0, *,
           of: str = 'logit', epsilon: float = 0.0,
           form: str = 'grad') -> jax.Array:
  """DRAGAN: weight E (|grad D(x + delta)| - 1)^2 around the data.

  Kodali et al. 2017, arXiv:1705.07215. The three variants of the field:

    paper, notebook: of='logit', epsilon=0, points from `perturb`.
    compare_gan v1:  of='probability', epsilon=1e-4.
    compare_gan v3:  of='logit', epsilon=1e-4, kind='compare_gan'.

  Args:
    logits_fn: images [N, ...] -> logits, see the module.
    points: perturbed real images [N, ...], from `perturb`.
    weight: lambda.
    of: whose gradient: 'logit', or 'probability' for that of sigmoid(logit).
    epsilon: inside the root, as in `wgan_gp`.
    form: 'grad' or 'jvp'.

  Returns:
    Scalar, float32.
  """
  if of not in ('logit', 'probability'):
    raise ValueError(f"of={of!r}; expected 'logit' or 'probability'.")
  output_fn = logits_fn
  if of == 'probability':
    def output_fn(x):
      return jax.nn.sigmoid(_f32(logits_fn(x)))

  return _penalty(output_fn, points, _distance_to(1.0, weight, epsilon), form)


def interpolate(real: jax.Array, fake: jax.Array,
                eps: jax.Array) -> jax.Array:
  """Returns x~ = eps x + (1 - eps) x^ (WGAN-GP, algorithm 1).

  Args:
    real: [N, ...].
    fake: [N, ...], the same shape.
    eps: [N], one number for each example: a single one for the whole batch
      would be another penalty.
  """
  if real.shape != fake.shape or eps.shape != real.shape[:1]:
    raise ValueError('Expected real and fake [N, ...] and eps [N]; found '
                     f'{real.shape}, {fake.shape} and {eps.shape}.')
  eps = eps.reshape(-1, *[1] * (real.ndim - 1)).astype(real.dtype)
  return eps * real + (1 - eps) * fake


def perturb(real: jax.Array, noise: jax.Array, kind: str = 'paper', *,
            eps: jax.Array | None = None, scale: float | None = None,
            clip: tuple[float, float] = (-1.0, 1.0)) -> jax.Array:
  """Returns the points of `dragan`, all of them [N, ...].

  The standard deviation below is one number over every pixel of the batch:
  call this before a batch is split into microbatches.

  Args:
    real: real images [N, ...].
    noise: of the shape of `real`: normal for 'paper', else uniform in [0, 1).
    kind: 'paper': x + scale * noise, where scale^2 = c of N(0, c I);
      'notebook' (official code): a random point between x and
      x + 0.5 std noise, a one-sided cloud;
      'compare_gan' (v3): x + std (noise - 0.5), clipped.
    eps: uniform, [N], 'notebook' alone: where between the two.
    scale: 'paper' alone.
    clip: range of the images, for 'compare_gan': [0, 1] there, [-1, 1] here.
  """
  if noise.shape != real.shape:
    raise ValueError(f'noise {noise.shape} must have the shape of the images, '
                     f'{real.shape}.')
  if kind == 'paper':
    if scale is None:
      raise ValueError("kind='paper' needs scale, the root of the paper's c.")
    return real + scale * noise.astype(real.dtype)
  std = jnp.std(_f32(real))
  if kind == 'notebook':
    if eps is None:
      raise ValueError("kind='notebook' needs eps [N].")
    return interpolate(
        real, real + (0.5 * std * noise).astype(real.dtype), 1 - eps)
  if kind == 'compare_gan':
    moved = real + (std * (noise - 0.5)).astype(real.dtype)
    return jnp.clip(moved, *clip)
  raise ValueError(f"kind={kind!r}; expected 'paper', 'notebook' or "
                   "'compare_gan'.")


def clip_weights(params, c: float = 0.01, exempt: Sequence[str] = ()):
  """Clips every parameter to [-c, c] (WGAN, arXiv:1701.07875, algorithm 1).

  The official code clips before each critic step, and clips the scales of
  normalization layers too, to at most 0.01.

  Args:
    params: tree of arrays.
    c: bound.
    exempt: names of leaves left alone, such as ('scale',).
  """
  def one(path, x):
    # Keys of dicts have `key`, fields of dataclasses `name`.
    name = getattr(path[-1], 'key', getattr(path[-1], 'name', None))
    return x if name in exempt else jnp.clip(x, -c, c)

  return jax.tree_util.tree_map_with_path(one, params)


# --- Parts ------------------------------------------------------------------


def _penalty(output_fn: LogitsFn, x: jax.Array,
             phi: Callable[[jax.Array], jax.Array], form: str) -> jax.Array:
  """Returns E_i phi(|g_i|^2), g = grad of sum_j output_j at x.

  Args:
    output_fn: x [N, ...] -> outputs [N, ...].
    x: where, [N, ...].
    phi: elementwise function of squared norms [N].
    form: 'grad' or 'jvp'.
  """
  if not jnp.issubdtype(x.dtype, jnp.floating):
    # Otherwise the cast below would make every gradient zero, silently.
    raise ValueError(f'Penalties need floating images, not {x.dtype}.')

  def total(x_f32):
    # The cast is inside, so that the gradient comes out in float32 while the
    # network sees its own type.
    return jnp.sum(_f32(output_fn(x_f32.astype(x.dtype))))

  def value_of(g):
    return jnp.mean(phi(jnp.sum(jnp.square(g), axis=range(1, g.ndim))))

  if form == 'grad':
    return value_of(jax.grad(total)(_f32(x)))
  if form == 'jvp':
    g = jax.lax.stop_gradient(jax.grad(total)(_f32(x)))
    value, v = jax.value_and_grad(value_of)(g)
    _, along = jax.jvp(total, (_f32(x),), (jax.lax.stop_gradient(v),))
    return value + (along - jax.lax.stop_gradient(along))
  raise ValueError(f"form={form!r}; expected 'grad' or 'jvp'.")


def _distance_to(target: float, weight: float, epsilon: float):
  def phi(sq):
    return (weight / target**2) * jnp.square(_root(sq, epsilon) - target)

  return phi


def _root(sq: jax.Array, epsilon: float) -> jax.Array:
  """sqrt(epsilon + sq), of derivative 0 where the argument is 0."""
  sq = sq + epsilon
  positive = sq > 0
  # Both `where`s are needed: the gradient of the branch not taken is
  # multiplied by zero, and infinity times zero is NaN.
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, sq, 1.0)), 0.0)


def _f32(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
