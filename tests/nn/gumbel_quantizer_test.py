"""The Gumbel quantizer against PyTorch's Gumbel-softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from gans_jax.nn import gumbel_quantizer

K, D = 7, 3
NET = gumbel_quantizer.GumbelQuantizer(K, D)


def setup():
  draw = np.random.default_rng(0)
  z = jnp.asarray(draw.normal(size=(2, 2, 2, D)), jnp.float32)
  keys = jax.random.split(jax.random.key(1), 2)
  return z, keys, NET.init(jax.random.key(0), z, keys, 1.0)['params']


def test_value_and_gradients_are_torchs():
  """`F.gumbel_softmax(hard=True)` with the noise that was drawn."""
  z, keys, params = setup()
  weight = np.random.default_rng(1).normal(size=z.shape).astype(np.float32)
  tau = 0.7

  def loss(params, z):
    q, indices, kl = NET.apply({'params': params}, z, keys, tau)
    return jnp.sum(q * weight) + kl, (q, indices, kl)

  (_, (q, indices, kl)), (dp, dz) = jax.value_and_grad(
      loss, (0, 1), has_aux=True)(params, z)

  noise = jax.vmap(lambda key: jax.random.gumbel(key, (2, 2, K)))(keys)
  tz, tw, tb, te = (
      torch.tensor(np.asarray(x)).requires_grad_()
      for x in (z, params['proj']['kernel'][0, 0], params['proj']['bias'],
                params['codes']))
  logits = tz @ tw + tb
  soft = torch.softmax((logits + torch.tensor(np.asarray(noise))) / tau, -1)
  hard = torch.nn.functional.one_hot(soft.argmax(-1), K) - soft.detach() + soft
  p = torch.softmax(logits, -1)
  t_kl = (p * torch.log(p * K + 1e-10)).sum(-1).mean()
  t_q = hard @ te
  ((t_q * torch.tensor(weight)).sum() + t_kl).backward()
  for ours, theirs in (
      (q, t_q), (indices, soft.argmax(-1)), (kl, t_kl), (dz, tz.grad),
      (dp['codes'], te.grad), (dp['proj']['bias'], tb.grad),
      (dp['proj']['kernel'][0, 0], tw.grad)):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-5,
                               atol=1e-5)


def test_frequencies_are_the_softmax():
  """Gumbel's maxima: each code is drawn as often as the softmax says."""
  _, _, params = setup()
  z = jnp.ones((4000, 1, 1, D))
  keys = jax.random.split(jax.random.key(2), 4000)
  variables = {'params': params}
  _, indices, _ = NET.apply(variables, z, keys, 1.0)
  p = jax.nn.softmax(NET.apply(variables, z[:1], method='logits'))[0, 0, 0]
  found = np.bincount(np.asarray(indices).ravel(), minlength=K) / 4000
  np.testing.assert_allclose(found, p, atol=4 * np.sqrt(0.25 / 4000))


def test_without_keys_the_likeliest_code():
  z, _, params = setup()
  variables = {'params': params}
  q, indices, _ = NET.apply(variables, z, None, 0.3)
  logits = NET.apply(variables, z, method='logits')
  np.testing.assert_array_equal(indices, np.argmax(logits, -1))
  np.testing.assert_allclose(q, params['codes'][indices], rtol=1e-6)


def test_temperature_falls_by_a_cosine():
  found = [float(gumbel_quantizer.temperature(step, 1.0, 0.2, 100))
           for step in (0, 25, 50, 100, 1000)]
  np.testing.assert_allclose(
      found, [1.0, 0.6 + 0.4 * np.sqrt(0.5), 0.6, 0.2, 0.2], rtol=1e-5)
