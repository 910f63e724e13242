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


def test_clip_norm():
  config = optimizers.default_config('sgd', 1.0, clip_norm=0.5)
  w = np.ones(5)
  for g in gradients():
    w = w - g * min(1, 0.5 / np.linalg.norm(g))
  np.testing.assert_allclose(run(config), w, rtol=1e-5)


def test_lazy_correction():
  config = optimizers.default_config('adam', 0.002, b1=0.0, b2=0.99)
  corrected = optimizers.lazy_correction(config, 16)
  assert corrected.lr == pytest.approx(0.002 * 16 / 17)
  assert corrected.b1 == 0.0
  assert corrected.b2 == pytest.approx(0.99 ** (16 / 17))
  assert optimizers.lazy_correction(config, 1).lr == 0.002
  assert config.lr == 0.002


@pytest.mark.parametrize('values', [
    dict(name='adamm'), dict(lr_schedule='cosine')])
def test_unknown_names_are_refused(values):
  config = optimizers.default_config(**values)
  with pytest.raises(errors.UserError, match='not known'):
    optimizers.make(config, 10)
