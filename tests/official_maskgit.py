"""Trees of weights in the form of MaskGIT's checkpoints, from a seed.

tests/golden/maskgit.npz has what the official code (google-research/maskgit,
run outside of this repository) makes of them:

  logits        Transformer(vocab_size=16, hidden_size=16, 2 layers, 2 heads,
                intermediate_size=32, 9 positions), weights `transformer()`,
                tokens default_rng(1).integers(0, 16, (2, 9))
  image, tokens, loss  VQVAE(train=True) of filters 32, multipliers (1, 2),
                2 blocks, embedding_dim 5, 7 codes, swish, GN, commitment
                0.25, entropy 0.1 (softmax, 0.01), weights `tokenizer()`, on
                default_rng(2).uniform(0, 1, (1, 8, 8, 3)); loss: quantizer
                and entropy loss

Arrays are drawn in the order of their names: N(0, 0.3^2), scales around 1.
"""

import numpy as np


def fill(shapes: dict[str, tuple[int, ...]]) -> dict:
  """{'a/b/c': shape} -> nested arrays."""
  draw = np.random.default_rng(0)
  tree: dict = {}
  for name in sorted(shapes):
    *modules, leaf = name.split('/')
    node = tree
    for module in modules:
      node = node.setdefault(module, {})
    start = 1.0 if leaf == 'scale' else 0.0
    node[leaf] = (start + draw.normal(0, 0.3, shapes[name])).astype(np.float32)
  return tree


def _norm(name, width):
  return {f'{name}/scale': (width,), f'{name}/bias': (width,)}


def _dense(name, *shape, bias=None):
  return {f'{name}/kernel': shape, f'{name}/bias': bias or shape[-1:]}


def transformer(words=16, width=16, layers=2, heads=2, hidden=32,
                positions=9) -> dict:
  size = width // heads
  shapes = {'Embed_0/word_embeddings/embedding': (words, width),
            'Embed_0/position_embeddings/embedding': (positions, width),
            **_norm('Embed_0/embeddings_ln', width),
            **_dense('MlmLayer_0/mlm_dense', width, width),
            **_norm('MlmLayer_0/mlm_ln', width),
            'MlmLayer_0/mlm_bias/bias': (words,)}
  for i in range(layers):
    layer = f'TransformerLayer_{i}'
    attention = f'{layer}/Attention_0/self_attention'
    for name in ('query', 'key', 'value'):
      shapes |= _dense(f'{attention}/{name}', width, heads, size,
                       bias=(heads, size))
    shapes |= _dense(f'{attention}/out', heads, size, width)
    shapes |= _norm(f'{layer}/Attention_0/attention_output_ln', width)
    shapes |= _dense(f'{layer}/Mlp_0/intermediate_output', width, hidden)
    shapes |= _dense(f'{layer}/Mlp_0/layer_output', hidden, width)
    shapes |= _norm(f'{layer}/Mlp_0/layer_output_ln', width)
  return fill(shapes)


def tokenizer(ch=32, multiples=(1, 2), dim=5, codes=7) -> dict:
  shapes = {'quantizer/codebook': (codes, dim)}

  def block(net, number, inputs, outputs):
    name = f'{net}/ResBlock_{number}'
    shapes.update({**_norm(f'{name}/GroupNorm_0', inputs),
                   **_norm(f'{name}/GroupNorm_1', outputs),
                   f'{name}/Conv_0/kernel': (3, 3, inputs, outputs),
                   f'{name}/Conv_1/kernel': (3, 3, outputs, outputs)})
    if inputs != outputs:
      shapes[f'{name}/Conv_2/kernel'] = (1, 1, outputs, outputs)
    return outputs

  widths = [ch * multiple for multiple in multiples]
  shapes['encoder/Conv_0/kernel'] = (3, 3, 3, ch)
  width, number = ch, 0
  for target in [*widths, widths[-1]]:
    for _ in range(2):
      width = block('encoder', number, width, target)
      number += 1
  shapes.update({**_norm('encoder/GroupNorm_0', width),
                 **_dense('encoder/Conv_1', 1, 1, width, dim)})
  shapes.update(_dense('decoder/Conv_0', 3, 3, dim, width))
  number = 0
  for i, target in enumerate([widths[-1], *reversed(widths)]):
    for _ in range(2):
      width = block('decoder', number, width, target)
      number += 1
    if 0 < i < len(widths):
      shapes.update(_dense(f'decoder/Conv_{i}', 3, 3, width, width))
  shapes.update({**_norm('decoder/GroupNorm_0', width),
                 **_dense(f'decoder/Conv_{len(widths)}', 3, 3, width, 3)})
  return fill(shapes)
