"""Penalties: closed forms, finite differences in float64, and both forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax.losses import penalties

FORMS = ['grad', 'jvp']


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


# --- Critics: params, images -> logits --------------------------------------


def _mlp(params, x, act=jax.nn.softplus):
  h = x.reshape(x.shape[0], -1)
  for w, b in params[:-1]:
    h = act(h @ w + b[None])
  w, b = params[-1]
  return (h @ w + b[None])[:, 0]


def _mlp_params(rng, sizes):
  return [(rng.standard_normal((m, n)) / np.sqrt(m),
           0.3 * rng.standard_normal(n))
          for m, n in zip(sizes[:-1], sizes[1:], strict=True)]


def _conv(x, w, stride=1):
  return jax.lax.conv_general_dilated(
      x, w, (stride, stride), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _conv_critic(params, x, act, coupling='none'):
  h = act(_conv(x, params['w1']))
  if coupling == 'batch_norm':
    mean = jnp.mean(h, (0, 1, 2), keepdims=True)
    h = (h - mean) * jax.lax.rsqrt(
        jnp.mean(jnp.square(h - mean), (0, 1, 2), keepdims=True) + 1e-5)
  h = act(_conv(h, params['w2'], stride=2))
  if coupling == 'minibatch_stddev':
    std = jnp.mean(jnp.sqrt(jnp.var(h, 0) + 1e-8))
    h = jnp.concatenate(
        [h, jnp.broadcast_to(std, (*h.shape[:3], 1)).astype(h.dtype)], -1)
  else:
    h = jnp.concatenate([h, jnp.zeros_like(h[..., :1])], -1)
  return h.reshape(h.shape[0], -1) @ params['w3']


def _conv_params(rng):
  return {'w1': rng.standard_normal((3, 3, 2, 4)) / 3,
          'w2': rng.standard_normal((3, 3, 4, 5)) / 6,
          'w3': rng.standard_normal(2 * 2 * 6) / 3}


def _leaky(x):
  return jnp.where(x >= 0, x, 0.2 * x)


CRITICS = {
    'mlp': (_mlp, lambda rng: _mlp_params(rng, [32, 7, 6, 1])),
    'mlp_leaky': (functools.partial(_mlp, act=_leaky),
                  lambda rng: _mlp_params(rng, [32, 7, 6, 1])),
    **{f'conv_{name}_{coupling}': (
        functools.partial(_conv_critic, act=act, coupling=coupling),
        _conv_params)
       for name, act in (('softplus', jax.nn.softplus), ('leaky', _leaky))
       for coupling in ('none', 'minibatch_stddev', 'batch_norm')},
}


def _inputs(n=4):
  rng = np.random.default_rng(5)
  return (jnp.asarray(rng.standard_normal((n, 4, 4, 2))),
          jnp.asarray(rng.standard_normal((n, 4, 4, 2))),
          jnp.asarray(rng.random(n)))


# --- Penalties: logits_fn, real, fake, eps, form -> scalar ------------------

PENALTIES = {
    'r1': lambda f, x, y, e, form: penalties.r1(f, x, 3.0, form),
    'r2': lambda f, x, y, e, form: penalties.r2(f, y, 3.0, form),
    'wgan_gp': lambda f, x, y, e, form: penalties.wgan_gp(
        f, x, y, e, 10.0, form=form),
    'wgan_gp_epsilon': lambda f, x, y, e, form: penalties.wgan_gp(
        f, x, y, e, 10.0, epsilon=1e-2, target=3.0, form=form),
    'wgan_lp': lambda f, x, y, e, form: penalties.wgan_lp(
        lambda z: 20.0 * f(z), x, y, e, 10.0, form=form),
    'zero_centred': lambda f, x, y, e, form: penalties.zero_centred(
        f, x, y, e, 10.0, form),
    'dragan': lambda f, x, y, e, form: penalties.dragan(f, x, form=form),
    'dragan_probability': lambda f, x, y, e, form: penalties.dragan(
        f, x, of='probability', epsilon=1e-4, form=form),
}


def _value(penalty, critic, params, inputs, form):
  return PENALTIES[penalty](lambda x: critic(params, x), *inputs, form)


# Every penalty with a coupled and an uncoupled critic, one with every critic.
COUPLED = 'conv_softplus_minibatch_stddev'
PAIRS = sorted(
    {(penalty, critic) for penalty in PENALTIES for critic in ('mlp', COUPLED)}
    | {('wgan_gp', critic) for critic in CRITICS})

# Compiling costs more than these tiny programs do.
_jit = functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@pytest.mark.parametrize('penalty, critic', PAIRS)
def test_parameter_gradient_against_finite_differences(
    float64, penalty, critic):
  critic, make = CRITICS[critic]
  params = jax.tree.map(jnp.asarray, make(np.random.default_rng(0)))
  inputs = _inputs()
  both = {form: _jit(jax.value_and_grad(functools.partial(
      _value, penalty, critic, inputs=inputs, form=form))) for form in FORMS}
  values, gradients = {}, {}
  for form in FORMS:
    values[form], gradients[form] = both[form](params)
  np.testing.assert_allclose(values['grad'], values['jvp'], rtol=1e-13)
  # The two forms.
  for a, b in zip(jax.tree.leaves(gradients['grad']),
                  jax.tree.leaves(gradients['jvp']), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
  # Truth: a random direction in parameter space.
  rng = np.random.default_rng(1)
  direction = jax.tree.map(
      lambda p: jnp.asarray(rng.standard_normal(p.shape)), params)
  step = 1e-6
  moved = [both['grad'](jax.tree.map(
      lambda p, d, s=s: p + s * step * d, params, direction))[0]
      for s in (1, -1)]
  numeric = (moved[0] - moved[1]) / (2 * step)
  exact = sum(jnp.vdot(g, d) for g, d in zip(
      jax.tree.leaves(gradients['jvp']), jax.tree.leaves(direction),
      strict=True))
  assert abs(exact) > 1e-3
  np.testing.assert_allclose(numeric, exact, rtol=1e-6)


@pytest.mark.parametrize('penalty, critic', [
    *[(penalty, COUPLED) for penalty in PENALTIES],
    ('wgan_gp', 'conv_softplus_batch_norm')])
def test_image_gradients_of_both_forms_and_finite_differences(
    float64, penalty, critic):
  critic, make = CRITICS[critic]
  params = jax.tree.map(jnp.asarray, make(np.random.default_rng(0)))
  inputs = _inputs()

  def value(real, fake, form):
    return _value(penalty, critic, params, (real, fake, inputs[2]), form)

  both = {form: _jit(jax.value_and_grad(
      functools.partial(value, form=form), argnums=(0, 1))) for form in FORMS}
  gradients = {form: both[form](*inputs[:2])[1] for form in FORMS}
  np.testing.assert_allclose(
      np.stack(gradients['grad']), np.stack(gradients['jvp']), rtol=1e-10,
      atol=1e-12)
  direction = np.random.default_rng(3).standard_normal((2, 4, 4, 4, 2))
  step = 1e-6
  moved = [both['grad'](inputs[0] + s * step * direction[0],
                        inputs[1] + s * step * direction[1])[0]
           for s in (1, -1)]
  exact = np.vdot(np.stack(gradients['jvp']), direction)
  np.testing.assert_allclose(
      (moved[0] - moved[1]) / (2 * step), exact, rtol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_value_is_that_of_numeric_image_gradients(float64, form):
  # Coupled: g_i is the derivative of the SUM of all logits.
  critic, make = CRITICS[COUPLED]
  params = jax.tree.map(jnp.asarray, make(np.random.default_rng(0)))
  real, _, _ = _inputs()
  total = jax.jit(lambda x: jnp.sum(critic(params, x)))
  g = np.zeros(real.shape)
  for index in np.ndindex(*real.shape):
    shift = np.zeros(real.shape)
    shift[index] = 1e-6
    g[index] = (total(real + shift) - total(real - shift)) / 2e-6
  norms = np.sqrt((g**2).sum((1, 2, 3)))
  logits_fn = functools.partial(critic, params)
  zero = jnp.zeros_like(real)
  ones = jnp.ones(len(real))
  for found, expected in (
      (penalties.r1(logits_fn, real, 3.0, form), 1.5 * np.mean(norms**2)),
      (penalties.wgan_gp(logits_fn, real, zero, ones, form=form),
       10 * np.mean((norms - 1)**2)),
      (penalties.wgan_gp(logits_fn, real, zero, ones, target=750.0, form=form),
       10 * np.mean((norms - 750)**2) / 750**2),
      (penalties.wgan_lp(lambda x: 9 * logits_fn(x), real, zero, ones,
                         form=form),
       10 * np.mean(np.maximum(0, 9 * norms - 1)**2)),
      (penalties.zero_centred(logits_fn, real, zero, ones, 2.0, form),
       2 * np.mean(norms**2)),
      (penalties.dragan(logits_fn, real, epsilon=0.25, form=form),
       10 * np.mean((np.sqrt(norms**2 + 0.25) - 1)**2))):
    np.testing.assert_allclose(found, expected, rtol=1e-7)


# --- Closed forms: the critic w.x + b ---------------------------------------


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('norm', [0.4, 1.0, 3.0])
def test_linear_critic(float64, form, norm):
  w = np.random.default_rng(0).standard_normal(6)
  w = jnp.asarray(norm * w / np.linalg.norm(w))
  rng = np.random.default_rng(1)
  real, fake = jnp.asarray(rng.standard_normal((2, 5, 6)))
  eps = jnp.asarray(rng.random(5))

  def linear(w):
    return lambda x: x @ w + 0.7

  def check(penalty, value, gradient):
    found, slope = jax.value_and_grad(penalty)(w)
    np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slope, gradient, rtol=1e-10, atol=1e-13)

  unit = w / norm
  check(lambda w: penalties.wgan_gp(linear(w), real, fake, eps, 1.0,
                                    form=form),
        (norm - 1)**2, 2 * (norm - 1) * unit)
  above = max(0.0, norm - 1)
  check(lambda w: penalties.wgan_lp(linear(w), real, fake, eps, 1.0,
                                    form=form),
        above**2, 2 * above * unit)
  check(lambda w: penalties.r1(linear(w), real, 5.0, form),
        2.5 * norm**2, 5.0 * w)
  check(lambda w: penalties.r2(linear(w), fake, 5.0, form),
        2.5 * norm**2, 5.0 * w)
  check(lambda w: penalties.zero_centred(linear(w), real, fake, eps, 5.0,
                                         form),
        5.0 * norm**2, 10.0 * w)
  check(lambda w: penalties.dragan(linear(w), real, 1.0, form=form),
        (norm - 1)**2, 2 * (norm - 1) * unit)


def test_dragan_of_probabilities_scales_by_the_slope_of_the_sigmoid(float64):
  w, x = jnp.array([3.0, 4.0]), jnp.array([[0.1, -0.2], [0.0, 0.3]])
  s = 1 / (1 + np.exp(-np.asarray(x @ w)))
  expected = np.mean((np.sqrt(1e-4 + (5 * s * (1 - s))**2) - 1)**2)
  for form in FORMS:
    found = penalties.dragan(
        lambda x: x @ w, x, 1.0, of='probability', epsilon=1e-4, form=form)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


# --- What must not go wrong -------------------------------------------------


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('penalty', PENALTIES)
def test_no_nan_at_zero_gradient(penalty, form):
  x = jnp.ones([3, 2])
  def value(w, x):
    return PENALTIES[penalty](lambda z: z @ w, x, x, jnp.full([3], 0.5), form)

  found, gradients = _jit(jax.value_and_grad(value, (0, 1)))(
      jnp.zeros(2), x)
  assert np.isfinite(found)
  for g in gradients:
    np.testing.assert_array_equal(g, 0.0)


@pytest.mark.parametrize('form', FORMS)
def test_dead_examples_do_not_disturb_the_others(float64, form):
  # relu: the first example has exactly zero gradient, the second |w|.
  x = jnp.array([[-1.0, -1.0], [1.0, 2.0]])
  def value(w, x):
    return penalties.wgan_gp(lambda z: jax.nn.relu(z @ w), x, x,
                             jnp.ones(2), 1.0, form=form)

  w = jnp.array([3.0, 4.0])
  found, gradient = jax.value_and_grad(value)(w, x)
  np.testing.assert_allclose(found, (1.0 + 16.0) / 2, rtol=1e-14)
  np.testing.assert_allclose(gradient, 4.0 * w / 5, rtol=1e-12)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('penalty', ['r1', 'wgan_gp', 'dragan_probability'])
def test_bfloat16_network_gives_a_float32_penalty(penalty, form):
  params = [(jnp.asarray(w, jnp.float32), jnp.asarray(b, jnp.float32))
            for w, b in _mlp_params(np.random.default_rng(0), [32, 7, 6, 1])]
  inputs = [x.astype(jnp.float32) for x in _inputs()]
  seen = []

  def critic(params, x):
    seen.append(x.dtype)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    return _mlp(half, x)

  def value(params, inputs):
    return _value(penalty, critic, params, inputs, form)

  low = [x.astype(jnp.bfloat16) for x in inputs[:2]] + inputs[2:]
  found, gradients = _jit(jax.value_and_grad(value))(params, low)
  assert found.dtype == jnp.float32
  assert set(seen) == {jnp.dtype('bfloat16')}
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradients))
  exact, exact_gradients = _jit(jax.value_and_grad(functools.partial(
      _value, penalty, _mlp, inputs=inputs, form=form)))(params)
  np.testing.assert_allclose(found, exact, rtol=0.05, atol=2e-3)
  a, b = (np.concatenate([np.ravel(g) for g in jax.tree.leaves(tree)])
          for tree in (gradients, exact_gradients))
  assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)


def test_sum_of_squares_is_float32_where_bfloat16_would_lose_it():
  # 4097 terms of 1: the nearest bfloat16 is 4096.
  x = jnp.zeros([1, 4097], jnp.bfloat16)
  for form in FORMS:
    found = penalties.r1(lambda z: jnp.sum(z, 1), x, 2.0, form)
    assert found == 4097.0


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('penalty', PENALTIES)
def test_order_of_the_batch_does_not_matter(float64, penalty, form):
  critic, make = CRITICS['conv_leaky_minibatch_stddev']
  params = jax.tree.map(jnp.asarray, make(np.random.default_rng(0)))
  inputs = _inputs()
  order = np.array([2, 0, 3, 1])
  value = _jit(lambda *inputs: _value(penalty, critic, params, inputs, form))
  np.testing.assert_allclose(
      value(*inputs), value(*[x[order] for x in inputs]), rtol=1e-13)


@pytest.mark.parametrize('form', FORMS)
def test_logits_may_have_a_trailing_axis(float64, form):
  params = _mlp_params(np.random.default_rng(0), [32, 7, 6, 1])
  real, _, _ = _inputs()
  np.testing.assert_allclose(
      penalties.r1(lambda x: _mlp(params, x)[:, None], real, 2.0, form),
      penalties.r1(lambda x: _mlp(params, x), real, 2.0, form), rtol=1e-14)


@pytest.mark.parametrize('form', FORMS)
def test_weight_itself_may_be_differentiated(float64, form):
  # Its gradient must not be counted twice, once through the direction.
  params = _mlp_params(np.random.default_rng(0), [32, 7, 6, 1])
  real, _, _ = _inputs()
  def value(gamma):
    return penalties.r1(lambda x: _mlp(params, x), real, gamma, form)

  np.testing.assert_allclose(jax.grad(value)(2.0), value(1.0), rtol=1e-13)


def test_bad_arguments_are_refused():
  x = jnp.ones([2, 3])
  with pytest.raises(ValueError, match="'grad' or 'jvp'"):
    penalties.r1(lambda z: z[:, 0], x, 1.0, form='forward')
  with pytest.raises(ValueError, match='uint8'):
    penalties.r1(lambda z: z[:, 0], x.astype('uint8'), 1.0)
  with pytest.raises(ValueError, match="'logit' or 'probability'"):
    penalties.dragan(lambda z: z[:, 0], x, of='output')


# --- Points -----------------------------------------------------------------


def test_interpolation_has_one_number_per_example():
  real, fake = jnp.ones([3, 2, 2, 1]), jnp.zeros([3, 2, 2, 1])
  eps = jnp.array([0.0, 0.25, 1.0])
  found = penalties.interpolate(real, fake, eps)
  np.testing.assert_array_equal(
      found, np.broadcast_to(np.reshape([0.0, 0.25, 1.0], [3, 1, 1, 1]),
                             [3, 2, 2, 1]))
  half = penalties.interpolate(
      real.astype('bfloat16'), fake.astype('bfloat16'), eps)
  assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize('shape', [(), (1,), (3, 1, 1, 1)])
def test_interpolation_refuses_other_shapes(shape):
  image = jnp.ones([3, 2, 2, 1])
  with pytest.raises(ValueError, match='eps'):
    penalties.interpolate(image, image, jnp.zeros(shape))


def test_perturbations():
  rng = np.random.default_rng(0)
  real = jnp.asarray(rng.uniform(-1, 1, (6, 3, 3, 2)), jnp.float32)
  noise = jnp.asarray(rng.random(real.shape), jnp.float32)
  eps = jnp.asarray(rng.random(6), jnp.float32)
  x, u, e = (np.asarray(a, np.float64) for a in (real, noise, eps))
  std = np.sqrt(np.mean((x - x.mean())**2))
  np.testing.assert_allclose(
      penalties.perturb(real, noise, 'paper', scale=0.5), x + 0.5 * u,
      atol=1e-6)
  np.testing.assert_allclose(
      penalties.perturb(real, noise, 'notebook', eps=eps),
      x + e.reshape(6, 1, 1, 1) * 0.5 * std * u, atol=1e-6)
  np.testing.assert_allclose(
      penalties.perturb(real, noise, 'compare_gan', clip=(-0.8, 0.8)),
      np.clip(x + std * (u - 0.5), -0.8, 0.8), atol=1e-6)


def test_perturbation_needs_its_arguments():
  x = jnp.ones([2, 3])
  for kind, match in (('paper', 'scale'), ('notebook', 'eps'),
                      ('uniform', 'expected')):
    with pytest.raises(ValueError, match=match):
      penalties.perturb(x, x, kind)
  with pytest.raises(ValueError, match='noise'):
    penalties.perturb(x, x[:, :1], 'compare_gan')


# --- Clipping ---------------------------------------------------------------


def test_clip_weights():
  params = {'conv': {'kernel': jnp.array([-3.0, 0.005, 0.02])},
            'norm': {'scale': jnp.array([1.0]), 'bias': jnp.array([-0.5])}}
  found = penalties.clip_weights(params, 0.01)
  np.testing.assert_allclose(found['conv']['kernel'], [-0.01, 0.005, 0.01])
  np.testing.assert_allclose(found['norm']['scale'], [0.01])
  found = penalties.clip_weights(params, 0.01, exempt=('scale',))
  np.testing.assert_allclose(found['norm']['scale'], [1.0])
  np.testing.assert_allclose(found['norm']['bias'], [-0.01])
