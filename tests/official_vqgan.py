"""The official networks of VQGAN, in sizes that CPU tests can afford.

The package taming-transformers 0.0.1, the one that its authors published. Its
`models` need PyTorch Lightning; the networks and the losses do not, and only
they are used: an environment without Lightning will do.
"""

import official
import torch

SMALL = dict(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1,
             attn_resolutions=(4,), resolution=16, z_channels=8)
EMBED_DIM, CODES = 8, 24


def module(name: str):
  """Returns `taming.modules.<name>`."""
  return official.package(f'taming.modules.{name}')


class VQModel(torch.nn.Module):
  """What the class of that name computes, with its names of the weights."""

  def __init__(self, embed_dim=EMBED_DIM, codes=CODES, channels=3, **sizes):
    super().__init__()
    sizes = {**SMALL, **sizes}
    z_channels = sizes['z_channels']
    sizes = dict(sizes, in_channels=channels, out_ch=channels, double_z=False)
    model = module('diffusionmodules.model')
    self.encoder = model.Encoder(**sizes)
    self.decoder = model.Decoder(**sizes)
    self.quantize = module('vqvae.quantize').VectorQuantizer(
        codes, embed_dim, beta=0.25)
    self.quant_conv = torch.nn.Conv2d(z_channels, embed_dim, 1)
    self.post_quant_conv = torch.nn.Conv2d(embed_dim, z_channels, 1)

  def forward(self, x):
    q, loss, info = self.quantize(self.quant_conv(self.encoder(x)))
    return self.decoder(self.post_quant_conv(q)), loss, info[2]


def vqgan(seed: int = 0, spread: float = 0.5, **sizes) -> VQModel:
  """A VQModel of seeded weights, whose codes are where the features are."""
  torch.manual_seed(seed)
  model = VQModel(**sizes)
  with torch.no_grad():
    model.quantize.embedding.weight.normal_(0, spread)
    for name, value in model.named_parameters():
      if 'norm' in name:
        value.add_(0.2 * torch.randn_like(value))
  return model


def patchgan(seed: int = 0, n_layers: int = 2, ndf: int = 8, **sizes):
  torch.manual_seed(seed)
  disc = module('discriminator.model')
  return disc.NLayerDiscriminator(ndf=ndf, n_layers=n_layers, **sizes).apply(
      disc.weights_init)


def gpt(seed: int = 0, vocabulary: int = 20, positions: int = 16, **sizes):
  """A GPT whose every weight has been moved from where it starts."""
  torch.manual_seed(seed)
  sizes = {'n_layer': 2, 'n_head': 4, 'n_embd': 32, **sizes}
  model = module('transformer.mingpt').GPT(vocabulary, positions, **sizes)
  with torch.no_grad():
    for value in model.parameters():
      value.add_(0.1 * torch.randn_like(value))
  return model.eval()


def arrays(model) -> dict:
  """The state dict as NumPy arrays."""
  return {key: value.numpy() for key, value in model.state_dict().items()}


def to_torch(x):
  """NHWC -> NCHW."""
  return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def to_numpy(x):
  """NCHW -> NHWC."""
  return x.detach().numpy().transpose(0, 2, 3, 1)
