"""Releases of taming-transformers, written as Lightning writes them."""

import sys
import types

import jax
import numpy as np
import official_vqgan
import pytest
import runs
import torch

from gans_jax.convert import __main__ as command
from gans_jax.convert import taming
from gans_jax.core import cli
from gans_jax.core import errors
from gans_jax.core import state as state_lib

pytestmark = pytest.mark.usefixtures('compile_cache')

FAST = {'xla_backend_optimization_level': 0}
SIZES = '''ch: 32, ch_mult: [1, 2, 2], num_res_blocks: 1,
            attn_resolutions: [4], resolution: 16, z_channels: 8,
            in_channels: {0}, out_ch: {0}, double_z: false, dropout: 0.0'''
VQGAN = '''
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: 8
    n_embed: 24
    ddconfig: {{''' + SIZES + '''}}
    lossconfig:
      target: taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator
      params: {{disc_start: 250001, disc_weight: 0.8, disc_num_layers: 2,
               codebook_weight: 1.0}}
'''
TRANSFORMER = '''
model:
  base_learning_rate: 4.5e-06
  target: taming.models.cond_transformer.Net2NetTransformer
  params:
    cond_stage_key: {key}
    transformer_config:
      target: taming.modules.transformer.mingpt.GPT
      params: {{vocab_size: 24, block_size: 32, n_layer: 2, n_head: 4,
               n_embd: 32}}
    first_stage_config:{first}
    cond_stage_config:{cond}
'''


def indent(text):
  return text.replace('\n', '\n    ')


@pytest.fixture
def save(tmp_path, monkeypatch):
  """Writes NAME.ckpt with what Lightning adds to weights, and NAME.yaml."""

  class ModelCheckpoint:
    """Stands for the class of that name: as a key of callbacks."""

  module = types.ModuleType('pytorch_lightning.callbacks.model_checkpoint')
  module.ModelCheckpoint = ModelCheckpoint
  ModelCheckpoint.__module__ = module.__name__
  ModelCheckpoint.__qualname__ = 'ModelCheckpoint'
  for name in ('pytorch_lightning', 'pytorch_lightning.callbacks',
               module.__name__):
    monkeypatch.setitem(sys.modules, name, module)

  def write(name, state, yaml, **more):
    path = tmp_path / f'{name}.ckpt'
    torch.save({
        'epoch': 3, 'global_step': 17, 'pytorch-lightning_version': '1.0.8',
        'callbacks': {ModelCheckpoint: {'best_model_score': torch.ones(1),
                                        'of': ModelCheckpoint()}},
        'optimizer_states': [{'state': {0: {'exp_avg': torch.zeros(3)}}}],
        'lr_schedulers': [], 'state_dict': state, **more}, path)
    path.with_suffix('.yaml').write_text(yaml)
    return str(path)

  return write


def vqgan_state(prefix='', channels=3, seed=0):
  model = official_vqgan.vqgan(seed, channels=channels)
  return model, {prefix + key: x for key, x in model.state_dict().items()}


def convert(path, out, *more):
  return cli.call(command.main, ['--format=taming', f'--checkpoint={path}',
                                 f'--out={out}', *more])


def test_vqgan(save, tmp_path):
  """Reconstructs the same images by the same codes; D too is there."""
  model, state = vqgan_state()
  disc = official_vqgan.patchgan()
  state |= {f'loss.discriminator.{key}': x
            for key, x in disc.state_dict().items()}
  # Weights of LPIPS lie in every release.
  state['loss.perceptual_loss.lin0.model.1.weight'] = torch.ones(1, 64, 1, 1)
  path = save('last', state, 'model:' + VQGAN.format(3))
  assert convert(path, tmp_path / 'run') == cli.DONE

  generator = runs.generator(tmp_path / 'run')
  assert generator.config.loss.disc_start == 250_001
  assert generator.config.model.n_layers == 2
  image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  batch = {'image': image}
  x = image / np.float32(127.5) - 1
  with torch.no_grad():
    expected, _, indices = model(official_vqgan.to_torch(x))
    logits = disc.eval()(official_vqgan.to_torch(x))
  outputs = generator.system.outputs

  def run(variables, batch):
    tokens = outputs['tokens'](variables, batch)
    return (tokens, outputs['reconstruct'](variables, batch),
            outputs['decode'](variables, {'tokens': tokens}),
            generator.system.nets['D'].apply(variables['D'], x, train=False))

  tokens, *found, d = jax.jit(run, compiler_options=FAST)(
      generator.variables, batch)
  np.testing.assert_array_equal(tokens, indices.reshape(2, 4, 4))
  expected = official_vqgan.to_numpy(expected).clip(-1, 1)
  for image in found:
    np.testing.assert_allclose(image, expected, rtol=1e-4, atol=5e-5)
  np.testing.assert_allclose(d, official_vqgan.to_numpy(logits), rtol=1e-4,
                             atol=1e-4)


@pytest.mark.slow
def test_class_conditional_transformer(save, tmp_path):
  """The likeliest codes, one after the other, are those of the official."""
  model, state = vqgan_state('first_stage_model.')
  gpt = official_vqgan.gpt(vocabulary=24, positions=32)
  state |= {f'transformer.{key}': x for key, x in gpt.state_dict().items()}
  path = save('net', state, TRANSFORMER.format(
      key='class_label', first=indent(VQGAN.format(3)), cond=indent('''
  target: taming.modules.util.Labelator
  params: {n_classes: 7}''')))
  assert convert(path, tmp_path / 'run') == cli.DONE

  generator = runs.generator(tmp_path / 'run/transformer')
  system = generator.system
  assert system.codes == 24 and generator.spec.num_classes == 7
  keys = jax.random.split(jax.random.key(0), 2)
  label = np.array([3, 6], np.int32)
  ours = jax.jit(lambda v: system.tokens(
      v, keys, {'label': label}, temperature=0.0), compiler_options=FAST)(
          generator.variables)
  found = torch.tensor([[3], [6]])
  with torch.no_grad():
    for _ in range(16):
      found = torch.cat([found, gpt(found)[0][:, -1:].argmax(-1)], 1)
    q = model.quantize.embedding(found[:, 1:]).reshape(2, 4, 4, 8)
    image = model.decoder(model.post_quant_conv(q.permute(0, 3, 1, 2)))
  np.testing.assert_array_equal(ours, found[:, 1:].reshape(2, 4, 4))
  picture = generator(seeds=[0, 1], label=label, temperature=0.0)
  expected = official_vqgan.to_numpy(image).clip(-1, 1)
  np.testing.assert_allclose(picture, (expected + 1) * 127.5, atol=0.51)


@pytest.mark.slow
def test_image_conditional_transformer(save, tmp_path):
  """Depth: a second tokenizer, of one channel, with its own workdir."""
  _, state = vqgan_state('first_stage_model.')
  cond, more = vqgan_state('cond_stage_model.', 1, seed=1)
  gpt = official_vqgan.gpt(vocabulary=24, positions=32)
  state |= {**more, **{f'transformer.{key}': x
                       for key, x in gpt.state_dict().items()}}
  path = save('net', state, TRANSFORMER.format(
      key='depth', first=indent(VQGAN.format(3)),
      cond=indent(VQGAN.format(1))))
  assert convert(path, tmp_path / 'run') == cli.DONE
  generator = runs.generator(tmp_path / 'run/transformer')
  system = generator.system
  assert system.requires == ('tokens', 'cond_tokens')
  assert state_lib.count(generator.variables['T']) == sum(
      x.numel() for x in gpt.parameters())
  tokenizer = runs.generator(tmp_path / 'run/cond_tokenizer')
  depth = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
  with torch.no_grad():
    indices = cond(official_vqgan.to_torch(depth / np.float32(127.5) - 1))[2]
  np.testing.assert_array_equal(
      jax.jit(tokenizer.system.outputs['tokens'])(
          tokenizer.variables, {'depth': depth}), indices.reshape(2, 4, 4))


@pytest.mark.parametrize('change, words', [
    (lambda text: text.replace('double_z: false', 'double_z: true'),
     'AutoencoderKL'),
    (lambda text: text.replace('n_embed', 'embed'), 'n_embed'),
    (lambda text: text.replace('params:', 'parms:', 1), "'params'"),
    (lambda text: text.replace('n_embed: 24', 'n_embed: 24\n    remap: x.npy'),
     'remap'),
    (lambda text: text + '\n  bad: !!python/object/apply:os.system [ls]',
     'YAML'),
])
def test_bad_yaml_is_refused(save, change, words):
  path = save('last', {'x': torch.ones(1)},
              change('model:' + VQGAN.format(3)))
  with pytest.raises(errors.UserError, match=words):
    taming.snapshots(path)


def test_other_files_are_refused(save, tmp_path, capsys):
  _, state = vqgan_state()
  path = save('last', state, 'model:' + VQGAN.format(3).replace(
      'n_embed: 24', 'n_embed: 25'))
  code = convert(path, tmp_path / 'run')
  runs.refused(capsys, code, 'quantize/codes', '(25, 8)')
  empty = save('empty', {}, 'model:' + VQGAN.format(3))
  runs.refused(capsys, convert(empty, tmp_path / 'run'), 'no weights')
  alone = tmp_path / 'alone' / 'x.ckpt'
  alone.parent.mkdir()
  alone.write_bytes((tmp_path / 'last.ckpt').read_bytes())
  runs.refused(capsys, convert(alone, tmp_path / 'run'), '--yaml=FILE')
  code = cli.call(command.main, [
      '--format=dcgan', f'--checkpoint={path}', '--yaml=x.yaml',
      f'--out={tmp_path / "run"}'])
  runs.refused(capsys, code, '--yaml has no meaning')


def test_nothing_of_the_file_is_executed(save, tmp_path):
  class Evil:

    def __reduce__(self):
      return exec, (f'open({str(tmp_path / "evil")!r}, "w")',)

  path = save('last', {'x': torch.ones(1)}, 'model:' + VQGAN.format(3),
              hyper_parameters=Evil())
  assert taming.load_state(path).keys() == {'x'}
  assert not (tmp_path / 'evil').exists()


@pytest.mark.parametrize('permuter, words', [
    ('taming.modules.transformer.permuter.ZCurve', 'ZCurve')])
def test_other_orders_are_refused(save, permuter, words):
  text = TRANSFORMER.format(key='class', first=indent(VQGAN.format(3)),
                            cond=indent('''
  target: taming.modules.util.SOSProvider
  params: {sos_token: 0}'''))
  text += f'    permuter_config: {{target: {permuter}}}\n'
  path = save('net', {'x': torch.ones(1)}, text)
  with pytest.raises(errors.UserError, match=words):
    taming.snapshots(path)
