"""Baselines: sizes of codes, frequencies of draws, refusals."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax import baselines
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.data import spec as spec_lib

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)


def fast(function):
  return jax.jit(function,
                 compiler_options={'xla_backend_optimization_level': 0})


class Data:
  """A data set in memory."""

  def __init__(self, classes=0, tokenizers=(), **arrays):
    self.arrays = arrays
    count = len(next(iter(arrays.values())))
    self.spec = spec_lib.DataSpec(
        8, 3, classes, count, tuple(arrays),
        tuple((key, x.shape[1:], x.dtype.name) for key, x in arrays.items()),
        tokenizers=tokenizers)

  def __len__(self):
    return self.spec.num_examples

  def take(self, indices, keys):
    return {key: self.arrays[key][indices] for key in keys}


def tokenizer_system(shape=(4, 4), codes=512):
  def tokens(variables, batch, keys):
    del variables, keys
    return jnp.zeros((batch['image'].shape[0], *shape), jnp.int32)

  return types.SimpleNamespace(
      outputs={'tokens': tokens, 'reconstruct': None}, requires=('image',),
      codebook_size=codes, conditions=())


@pytest.mark.parametrize('name, numbers', [
    ('pca', 18), ('pca:16', 9), ('pca:4', 36), ('pca:10', 14)])
def test_pca_takes_as_many_bits_as_the_codes(name, numbers):
  """16 codes of 9 bits: 144."""
  found = baselines.create(name, None, tokenizer_system(), {},
                           Data(image=IMAGES))
  assert found.facts['numbers'] == numbers and found.facts['bits'] == 144
  assert found.facts['fitted_to'] == 40
  assert ('pca:8' if name == 'pca' else name) == found.facts['name']


def test_pca_reconstructs_in_place_of_the_system():
  found = baselines.create('pca:16', None, tokenizer_system((16, 16), 2**16),
                           {}, Data(image=IMAGES))
  out = fast(found.system.outputs['reconstruct'])(
      found.variables, {'image': jnp.asarray(IMAGES)}, None)
  # 256 numbers for 40 images: all of them.
  np.testing.assert_allclose(np.asarray(out), IMAGES / 127.5 - 1, atol=0.02)
  assert found.facts['numbers'] == 40 and found.facts['explained'] > 0.999


def prior(conditions=()):
  return types.SimpleNamespace(
      outputs={}, requires=('tokens', *conditions), conditions=conditions)


def pixels():
  config = config_lib.base('pixelcnn')
  config_lib.assign(config, {'data.tokenizer': 'pixels:2'})
  return config


def token_data(classes=0):
  """All codes of an image are the same one: 0, 1, 1, 1 or 6 + its class."""
  draw = np.random.default_rng(0)
  label = draw.integers(0, max(classes, 1), 400).astype(np.int32)
  code = np.array([0, 1, 1, 1])[np.arange(400) % 4]
  if classes:
    code = np.where(np.arange(400) % 4, 6 + label, 0)
  tokens = np.broadcast_to(code[:, None, None], (400, 2, 3)).astype(np.int32)
  labels = {'label': label} if classes else {}
  return Data(classes, (('tokens', 'pixels2', 8),), tokens=tokens, **labels)


def test_codes_are_drawn_by_themselves_with_their_frequencies():
  found = baselines.create('independent_codes', pixels(), prior(),
                           {'tokenizer': {}}, token_data())
  keys = jax.random.split(jax.random.key(0), 4000)
  tokens = np.asarray(fast(found.system.tokens)(found.variables, keys))
  assert tokens.shape == (4000, 2, 3)
  np.testing.assert_allclose(tokens.mean(0), 0.75, atol=0.03)
  flat = tokens.reshape(4000, 6)
  np.testing.assert_allclose(np.corrcoef(flat.T), np.eye(6), atol=0.07)
  images = fast(found.system.generate)(found.variables, keys[:5])
  # pixels:2 has the middle of each half.
  blue = np.where(tokens[:5] == 1, 0.5, -0.5)
  np.testing.assert_allclose(images[..., 2], blue, atol=1e-6)


def test_codes_of_a_class_are_those_of_its_images():
  found = baselines.create('independent_codes', pixels(), prior(('label',)),
                           {'tokenizer': {}}, token_data(2))
  assert found.facts == {'name': 'independent_codes', 'by_class': True,
                         'images': 400}
  keys = jax.random.split(jax.random.key(0), 2000)
  label = jnp.arange(2000) % 2
  tokens = np.asarray(fast(found.system.tokens)(
      found.variables, keys, {'label': label}))
  for k in range(2):
    assert set(np.unique(tokens[k::2])) == {0, 6 + k}
    np.testing.assert_allclose((tokens[k::2] == 0).mean(), 0.25, atol=0.04)


@pytest.mark.parametrize('name, system, words', [
    ('pca', prior(), 'this system is none'),
    ('independent_codes', tokenizer_system(), 'this system is none'),
    ('pca:0', tokenizer_system(), '1 to 16 bits'),
    ('pca:x', tokenizer_system(), '1 to 16 bits'),
    ('independent_codes:3', prior(), 'independent_codes'),
    ('mean', tokenizer_system(), 'mean')])
def test_refuses(name, system, words):
  with pytest.raises(errors.UserError, match=words):
    baselines.create(name, pixels(), system, {}, Data(image=IMAGES))


def test_a_class_without_images_is_refused():
  data = token_data(2)
  data.arrays['label'][:] = 1
  with pytest.raises(errors.UserError, match='none of class 0'):
    baselines.create('independent_codes', pixels(), prior(('label',)),
                     {'tokenizer': {}}, data)
