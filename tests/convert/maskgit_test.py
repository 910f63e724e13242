"""MaskGIT's checkpoints: read, and the same functions as the official code."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import official_maskgit
import pytest
import runs

from gans_jax.convert import __main__ as command
from gans_jax.convert import maskgit
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import state as state_lib
from gans_jax.data import spec as spec_lib
from gans_jax.nn import masked_transformer
from gans_jax.systems import vqgan

FAST = {'xla_backend_optimization_level': 0}
GOLDEN = np.load(runs.ROOT / 'tests/golden/maskgit.npz')


def test_transformer_is_the_official_one():
  net = masked_transformer.MaskedTransformer(16, 9, 2, 2, 16, 32)
  variables = maskgit.transformer(official_maskgit.transformer())
  tokens = np.random.default_rng(1).integers(0, 16, (2, 9))
  logits = jax.jit(net.apply, compiler_options=FAST)(variables, tokens)
  np.testing.assert_allclose(logits, GOLDEN['logits'], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope='module')
def tokenizer():
  net = vqgan.Autoencoder(
      ch=32, ch_mult=(1, 2), num_res_blocks=2, attn_resolutions=(),
      resolution=8, z_channels=5, channels=3, codebook_size=7, embed_dim=5,
      legacy=False, entropy_weight=0.1, nets='maskgit')
  return net, maskgit.autoencoder(official_maskgit.tokenizer())


def test_tokenizer_is_the_official_one(tokenizer):
  """Tokens, image, and commitment + codebook + entropy loss."""
  net, variables = tokenizer
  x = np.random.default_rng(2).uniform(0, 1, (1, 8, 8, 3)).astype(np.float32)
  image, _, code = jax.jit(net.apply, compiler_options=FAST)(
      variables, 2 * x - 1)
  np.testing.assert_array_equal(code.indices, GOLDEN['tokens'])
  expected = 2 * GOLDEN['image'] - 1
  np.testing.assert_allclose(image, expected, rtol=0,
                             atol=1e-4 * np.abs(expected).max())
  np.testing.assert_allclose(code.loss, GOLDEN['loss'][0], rtol=1e-3)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  assert jax.tree.map(lambda a: a.shape, variables) == jax.tree.map(
      lambda a: a.shape, dict(shapes))


def test_parameter_counts():
  """Encoder 23,775,104, decoder 30,478,339, codebook 262,144."""
  config = config_lib.base('vqgan')
  config_lib.assign(config, {
      'model.nets': 'maskgit', 'loss.perceptual': 'none', 'total_steps': 1})
  system = vqgan.create(config, spec_lib.DataSpec(256, 3, 0, 1, ('image',)))
  params = jax.eval_shape(system.init, jax.random.key(0)).params['AE']
  assert state_lib.count(params) == 54_515_587
  assert state_lib.count(params['encoder']) == 23_775_104
  assert state_lib.count(params['decoder']) == 30_478_339


def write(path, tree):
  path.write_bytes(flax.serialization.to_bytes({'params': tree}))
  return str(path)


def test_files_say_their_sizes(tmp_path):
  first = write(tmp_path / 'tokenizer', official_maskgit.tokenizer())
  second = write(tmp_path / 'transformer', official_maskgit.transformer(
      words=7 + 1001, positions=17))
  found = maskgit.read(first, second)
  assert found['transformer'].settings == {
      'data.resolution': 64, 'data.channels': 3, 'model.layers': 2,
      'model.heads': 2, 'model.width': 16, 'model.hidden': 32}
  assert found['transformer'].num_classes == 1000
  settings = found['tokenizer'].settings
  assert settings['model.ch'] == 32 and settings['model.codebook_size'] == 7
  assert maskgit.read(first).keys() == {''}


def test_other_files_are_refused(tmp_path):
  first = write(tmp_path / 'tokenizer', official_maskgit.tokenizer())
  second = write(tmp_path / 'transformer', official_maskgit.transformer())
  for arguments, words in (
      ((second,), 'is the Transformer'), ((first, first), 'is a tokenizer'),
      ((str(tmp_path / 'none'),), 'cannot be read'),
      ((write(tmp_path / 'x', {'a': np.ones(2)}),), 'not of MaskGIT')):
    with pytest.raises(errors.UserError, match=words):
      maskgit.read(*arguments)
  (tmp_path / 'bad').write_bytes(b'\xc1' * 9)
  with pytest.raises(errors.UserError, match='no checkpoint of Flax'):
    maskgit.read(str(tmp_path / 'bad'))


@pytest.mark.slow
def test_command_writes_both_workdirs(tmp_path):
  """A tokenizer of one level more, as the files have them: f = 16."""
  first = write(tmp_path / 'tokenizer', official_maskgit.tokenizer(
      multiples=(1, 1, 2, 2, 4)))
  second = write(tmp_path / 'transformer', official_maskgit.transformer(
      words=7 + 1001, positions=5))
  assert cli.call(command.main, [
      '--format=maskgit', f'--checkpoint={first}', f'--transformer={second}',
      f'--out={tmp_path / "run"}']) == cli.DONE
  generator = runs.generator(tmp_path / 'run/transformer')
  images = generator(seeds=[0, 1], label=3, steps=2)
  assert images.shape == (2, 32, 32, 3) and images.std() > 0
