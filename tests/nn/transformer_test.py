"""GPT: the official one, its sizes, causality, the cache, sampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import official_vqgan
import pytest
import torch

from gans_jax.convert import taming as convert
from gans_jax.core import state as state_lib
from gans_jax.nn import token_sampling
from gans_jax.nn import transformer

FAST = {'xla_backend_optimization_level': 0}
NET = transformer.GPT(20, 16, layers=2, heads=4, width=32)


@functools.cache
def official(bidirectional=0):
  model = official_vqgan.gpt(n_unmasked=bidirectional)
  return model, convert.transformer(official_vqgan.arrays(model))


def tokens_of(n, s, seed=0):
  return np.random.default_rng(seed).integers(0, 20, (n, s), np.int32)


@pytest.mark.parametrize('bidirectional', [0, 5])
def test_logits_and_gradients_are_the_official_ones(bidirectional):
  model, variables = official(bidirectional)
  net = NET.clone(bidirectional=bidirectional)
  tokens = tokens_of(3, 12)
  weight = np.random.default_rng(1).normal(size=(3, 12, 20)).astype(np.float32)

  def loss(params):
    logits = net.apply({'params': params}, tokens)
    return jnp.sum(logits * weight), logits

  (_, logits), gradients = jax.jit(
      jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)(
          variables['params'])
  model.zero_grad()
  expected, _ = model(torch.from_numpy(tokens).long())
  (expected * torch.from_numpy(weight)).sum().backward()
  theirs = convert.transformer({
      name: value.grad.numpy() for name, value in model.named_parameters()})
  np.testing.assert_allclose(logits, expected.detach(), rtol=1e-4, atol=1e-4)

  def close(path, a, b):
    # Keys' biases have no gradient but rounding: softmax sees differences.
    np.testing.assert_allclose(a, b, rtol=0, err_msg=str(path),
                               atol=1e-4 * max(np.abs(b).max(), 0.1))

  jax.tree_util.tree_map_with_path(close, gradients, theirs['params'])


@pytest.mark.parametrize('layers, width, vocabulary, positions, count', [
    (24, 1024, 1024, 512, 304_932_864),    # D-RIN, S-FLCKR, FacesHQ
    (28, 1024, 1024, 256, 355_055_616),    # FFHQ, CelebA-HQ
    (24, 1664, 1024, 256, 801_798_400),    # the large ones
    (48, 1536, 16384, 256, 1_410_640_896),  # class-conditional ImageNet
    (32, 1280, 8192, 512, 651_307_520),    # COCO
    (40, 1408, 8192, 348, 975_876_352),    # scenes of COCO
    (36, 1536, 8192, 348, 1_045_638_144),  # of OpenImages
])
def test_parameter_counts(layers, width, vocabulary, positions, count):
  net = transformer.GPT(vocabulary, positions, layers, 16, width)
  found = jax.eval_shape(net.init, jax.random.key(0),
                         jax.ShapeDtypeStruct((1, 4), jnp.int32))
  assert state_lib.count(found) == count


@pytest.mark.parametrize('vocabulary, layers, width, positions, millions', [
    (768, 12, 768, 512, 86.6), (768, 18, 768, 257, 129.0),
    (1024, 14, 1024, 512, 179.0), (1024, 12, 1024, 512, 153.8),
    (4096, 28, 1024, 512, 361.6), (1024, 18, 768, 340, 129.4)])
def test_parameter_counts_in_millions(vocabulary, layers, width, positions,
                                      millions):
  net = transformer.GPT(vocabulary, positions, layers, 16, width)
  found = jax.eval_shape(net.init, jax.random.key(0),
                         jax.ShapeDtypeStruct((1, 4), jnp.int32))
  assert round(state_lib.count(found) / 1e6, 1) == millions


def test_initializers():
  net = transformer.GPT(64, 16, layers=3, heads=2, width=64)
  params = jax.jit(net.init, compiler_options=FAST)(
      jax.random.key(0), tokens_of(1, 4))['params']
  np.testing.assert_array_equal(params['pos_emb'], 0)
  for leaf in (params['tok_emb']['embedding'], params['head']['kernel'],
               params['blocks']['attn']['proj']['kernel'],
               params['blocks']['mlp_2']['kernel']):
    np.testing.assert_allclose(leaf.std(), 0.02, rtol=0.05)
  np.testing.assert_array_equal(params['blocks']['mlp_0']['bias'], 0)
  # Layers differ.
  kernel = np.asarray(params['blocks']['attn']['query']['kernel'])
  assert np.abs(kernel[0] - kernel[1]).max() > 0.01


def test_causal():
  """A logit depends on every token up to its own, and on no later one."""
  _, variables = official()

  def from_embeddings(x):
    return NET.apply(variables, x, method=lambda net, x: net._logits(
        net.blocks(x, jnp.arange(2), None, net._mask(10), None)[0]))

  x = np.random.default_rng(0).normal(size=(1, 10, 32)).astype(np.float32)
  jacobian = jax.jit(jax.jacrev(lambda x: from_embeddings(x)[0].sum(-1)),
                     compiler_options=FAST)(x)[:, 0]
  depends = np.abs(np.asarray(jacobian)).max(-1) > 0
  np.testing.assert_array_equal(depends, np.tril(np.ones((10, 10))) > 0)


@functools.cache
def sampled(cached: bool, prefix: int):
  _, variables = official()
  keys = jax.random.split(jax.random.key(3), 4)
  run = transformer.sample if cached else transformer.sample_uncached

  def draw(logits, i):
    return token_sampling.draw(logits, keys, i, 0.9, 12, 0.95)

  return np.asarray(jax.jit(
      lambda prefix: run(NET, variables, prefix, 16 - prefix.shape[1] + 1,
                         draw), compiler_options=FAST)(tokens_of(4, prefix)))


@pytest.mark.parametrize('prefix', [
    6, pytest.param(1, marks=pytest.mark.slow)])
def test_cached_tokens_are_the_uncached_ones(prefix):
  cached, uncached = sampled(True, prefix), sampled(False, prefix)
  np.testing.assert_array_equal(cached, uncached)
  assert cached.shape == (4, 17 - prefix) and len(np.unique(cached)) > 5


def test_sampling_is_the_official_recursion():
  """The likeliest token of the official logits, again and again."""
  model, variables = official()
  prefix = tokens_of(2, 3, seed=5)
  ours = jax.jit(lambda prefix: transformer.sample(
      NET, variables, prefix, 10,
      lambda logits, i: jnp.argmax(logits, -1).astype(jnp.int32)),
      compiler_options=FAST)(prefix)
  found = torch.from_numpy(prefix).long()
  with torch.no_grad():
    for _ in range(10):
      found = torch.cat([found, model(found)[0][:, -1:].argmax(-1)], 1)
  np.testing.assert_array_equal(ours, found[:, 3:])


def test_dropout_is_of_the_example():
  _, variables = official()
  net = NET.clone(drop=0.5)
  keys = jax.random.split(jax.random.key(0), 3)
  tokens = tokens_of(3, 8)
  run = jax.jit(net.apply, compiler_options=FAST)
  whole = run(variables, tokens, keys)
  turned = run(variables, tokens[::-1], keys[::-1])
  np.testing.assert_allclose(turned[::-1], whole, rtol=1e-4, atol=1e-5)
  other = run(variables, tokens, keys[::-1])
  np.testing.assert_allclose(other[1], whole[1], rtol=1e-4, atol=1e-5)
  assert np.abs(whole - other).max() > 0.1


@pytest.mark.slow
def test_remat_is_the_same_function():
  _, variables = official()
  tokens = tokens_of(2, 8)

  def loss(params, net):
    return jnp.sum(jax.nn.log_softmax(net.apply({'params': params},
                                                tokens))[..., 0])

  grad = jax.jit(jax.grad(loss), static_argnums=1, compiler_options=FAST)
  a, b = (grad(variables['params'], NET.clone(remat=r)) for r in (False, True))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5), a, b)


def test_decay_is_of_kernels_alone():
  _, variables = official()
  mask = transformer.decays(variables['params'])
  assert mask['head']['kernel'] and mask['blocks']['attn']['key']['kernel']
  assert not any((mask['pos_emb'], mask['tok_emb']['embedding'],
                  mask['ln_f']['scale'], mask['blocks']['ln1']['bias'],
                  mask['blocks']['mlp_0']['bias']))
