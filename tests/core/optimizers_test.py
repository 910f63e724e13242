"""Optimizers against PyTorch's, and against the papers' recurrences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from gans_jax.core import errors
from gans_jax.core import optimizers

STEPS = 20


def gradients():
  r = np.random.RandomState(0)
  return [r.randn(5).astype(np.float32) for _ in range(STEPS)]


def run(config, total=STEPS):
  tx = optimizers.make(config, total)
  w = jnp.ones([5])
  state = tx.init(w)
  update = jax.jit(tx.update)
  for g in gradients():
    updates, state = update(jnp.asarray(g), state, w)
    w = optax.apply_updates(w, updates)
  return np.asarray(w)


def run_torch(make):
  w = torch.nn.Parameter(torch.ones(5))
  optimizer = make([w])
  for g in gradients():
    w.grad = torch.from_numpy(g)
    optimizer.step()
  return w.detach().numpy()


def test_adam_is_torch_adam():
  ours = run(optimizers.default_config('adam', 0.01, b1=0.5))
  torchs = run_torch(lambda p: torch.optim.Adam(p, 0.01, (0.5, 0.999)))
  np.testing.assert_allclose(ours, torchs, rtol=1e-5)


def test_rmsprop_is_torch_rmsprop():
  ours = run(optimizers.default_config('rmsprop', 0.01))
  torchs = run_torch(lambda p: torch.optim.RMSprop(p, 0.01))
  np.testing.assert_allclose(ours, torchs, rtol=1e-5)


def test_sgd_is_the_recurrence_of_the_2014_gan():
  config = optimizers.default_config(
      'sgd', 0.1, momentum=0.5, momentum_end=0.7, momentum_ramp=10,
      lr_decay=1.1, lr_min=0.05)
  w, v = np.ones(5), np.zeros(5)
  for t, g in enumerate(gradients()):
    lr = max(0.1 / 1.1**t, 0.05)
    m = 0.5 + 0.2 * min(t / 10, 1)
    v = m * v - lr * g
    w = w + v
  np.testing.assert_allclose(run(config), w, rtol=1e-5)


def test_linear_schedule_reaches_zero():
  config = optimizers.default_config('sgd', 1.0, lr_schedule='linear')
  w = np.ones(5)
  for t, g in enumerate(gradients()):
    w = w - (1 - t / STEPS) * g
  np.testing.assert_allclose(run(config), w, rtol=1e-4, atol=1e-5)


def test_linear_schedule_from_a_share_of_the_run():
  config = optimizers.default_config('sgd', 1.0, lr_schedule='linear',
                                     lr_linear_from=0.6)
  w = np.ones(5)
  for t, g in enumerate(gradients()):
    w = w - min(1.0, (1 - t / STEPS) / 0.4) * g
  np.testing.assert_allclose(run(config), w, rtol=1e-4, atol=1e-5)
  with pytest.raises(errors.UserError, match='lr_linear_from'):
    optimizers.make(optimizers.default_config(lr_linear_from=1.0), 10)


def test_clip_norm():
  config = optimizers.default_config('sgd', 1.0, clip_norm=0.5)
  w = np.ones(5)
  for g in gradients():
    w = w - g * min(1, 0.5 / np.linalg.norm(g))
  np.testing.assert_allclose(run(config), w, rtol=1e-5)


def test_weight_decay_is_torch_adamw():
  config = optimizers.default_config('adam', 0.01, b1=0.5, weight_decay=0.2)
  torchs = run_torch(lambda p: torch.optim.AdamW(
      p, 0.01, (0.5, 0.999), weight_decay=0.2))
  np.testing.assert_allclose(run(config), torchs, rtol=1e-5)


def test_warmup_and_cosine():
  """Rates of SGD: 1/4 .. 1 of the rate, then by a cosine to lr_min."""
  config = optimizers.default_config(
      'sgd', 1.0, lr_schedule='cosine', lr_min=0.2, warmup=4)
  tx = optimizers.make(config, 12)
  state, found = tx.init(jnp.zeros(())), []
  for _ in range(14):
    update, state = tx.update(jnp.ones(()), state)
    found.append(-float(update))
  np.testing.assert_allclose(found[:5], [.25, .5, .75, 1, 1], rtol=1e-6)
  np.testing.assert_allclose(found[8], 0.6, rtol=1e-6)
  np.testing.assert_allclose(found[12:], 0.2, rtol=1e-5)


def test_lazy_correction():
  config = optimizers.default_config('adam', 0.002, b1=0.0, b2=0.99)
  corrected = optimizers.lazy_correction(config, 16)
  assert corrected.lr == pytest.approx(0.002 * 16 / 17)
  assert corrected.b1 == 0.0
  assert corrected.b2 == pytest.approx(0.99 ** (16 / 17))
  assert optimizers.lazy_correction(config, 1).lr == 0.002
  assert config.lr == 0.002


@pytest.mark.parametrize('values', [
    dict(name='adamm'), dict(lr_schedule='cosin')])
def test_unknown_names_are_refused(values):
  config = optimizers.default_config(**values)
  with pytest.raises(errors.UserError, match='not known'):
    optimizers.make(config, 10)
