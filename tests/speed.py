"""A training step of ours and of the official code, timed in turn:

  taskset -c 0 python tests/speed.py stylegan2 --official=DIR
  taskset -c 0 python tests/speed.py biggan --official=DIR
  taskset -c 0 python tests/speed.py sagan --official=DIR
  taskset -c 0 python tests/speed.py vqgan

DIR is a checkout of NVlabs/stylegan2-ada-pytorch or of
ajbrock/BigGAN-PyTorch; VQGAN's is the package taming-transformers. Both run
in one process on the cores that it may use, in float32, with networks of the
same size (checked), and change their order every round. Printed are both
clocks, of the wall and of the CPU; the ratio is theirs to ours: above 1 we are
faster. Freed memory is kept for both, as by our commands. Stop other work
first: on Linux the memory that a stopped job gave back is noisy for a minute.

  stylegan2  64x64, config F's networks with channel_base 8192, batch 8; G, D,
             and at their intervals path length (4) and R1 (16); average of G
  biggan     32x32, channels 64, 10 classes, batch 16; D, G, average of G
  sagan      the same at 64x64, with attention at 32x32
  vqgan      64x64, channels 64 x (1, 2, 4), 512 codes, batch 4; autoencoder
             with the adaptive weight, and PatchGAN; no perceptual distance.
             Theirs encodes and decodes once more for D, as Lightning's second
             optimizer has it
"""

import argparse
from collections.abc import Callable
from collections.abc import Mapping
import copy
import dataclasses
import os
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import official_vqgan
import torch
import torch.nn.functional as F

from gans_jax.core import compilation
from gans_jax.core import config as config_lib
from gans_jax.core import host_memory
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.data import spec as spec_lib

PAUSE = 0.02  # seconds, in which the other's threads go to sleep


@dataclasses.dataclass(frozen=True)
class Official:
  """The official side.

  Attributes:
    step: runs an iteration of a kind.
    parameters: {net: number}.
    system: ours.
    config: of ours, by key.
    classes: of the data; 0 for none.
    kinds: {step number: how often iterations like it occur}. Ours does what is
      due at that step.
  """

  step: Callable[[int], None]
  parameters: Mapping[str, int]
  system: str
  config: Mapping[str, object]
  classes: int = 0
  kinds: Mapping[int, float] = dataclasses.field(default_factory=lambda: {1: 1})


def count(net: torch.nn.Module) -> int:
  return sum(p.numel() for p in net.parameters())


def ours(official: Official) -> Callable[[int], None]:
  """Returns our iteration, compiled for the mesh that is set."""
  config = config_lib.base(official.system)
  config_lib.assign(config, {'data.source': 'none', 'mesh.data': 1,
                             'total_steps': 1000, **official.config})
  size, batch_size = config.data.resolution, config.batch_size
  system = system_lib.create(config, spec_lib.image_spec(
      resolution=size, channels=3, num_examples=50_000, facts={},
      num_classes=official.classes))
  abstract = system_lib.abstract_state(system, 0)
  parameters = {net: state_lib.count(tree)
                for net, tree in abstract.params.items()}
  if parameters != official.parameters:
    raise SystemExit(f'Other networks: ours have {parameters} parameters, '
                     f'theirs {official.parameters}.')
  r = np.random.RandomState(0)
  batch = {'image': r.randint(0, 256, (1, batch_size, size, size, 3), np.uint8),
           'label': r.randint(0, max(official.classes, 1), (1, batch_size),
                              np.int32)}
  state = jax.jit(system.init, compiler_options=compilation.options(0))(
      jax.random.key(0))
  batch = {k: jnp.asarray(batch[k]) for k in system.requires}
  found = compilation.build(
      system.train_step, (state, batch, {}),
      compilation.options(config.compile.level), devices=1, donate_argnums=0)
  step = found['compiled']
  print(f'traced in {found["trace_s"]:.1f} s, compiled in '
        f'{found["compile_s"]:.1f} s')

  def run(kind: int) -> None:
    nonlocal state
    state = state.replace(step=jnp.asarray(kind, state.step.dtype))
    state, logs = step(state, batch, {})
    jax.block_until_ready((state, logs))

  return run


def stylegan2(folder: str, size=64, base=8192, batch_size=8) -> Official:
  sys.path.insert(0, folder)
  from training import loss as loss_lib
  from training import networks

  shape = dict(c_dim=0, img_resolution=size, img_channels=3)
  sizes = dict(channel_base=base, channel_max=512, num_fp16_res=0)
  nets = {
      'G': networks.Generator(
          z_dim=512, w_dim=512, mapping_kwargs=dict(num_layers=8),
          synthesis_kwargs=sizes, **shape),
      'D': networks.Discriminator(
          epilogue_kwargs=dict(mbstd_group_size=4), **sizes, **shape)}
  average = copy.deepcopy(nets['G'])
  loss = loss_lib.StyleGAN2Loss('cpu', nets['G'].mapping, nets['G'].synthesis,
                                nets['D'])
  every = {'G': 4, 'D': 16}
  adam = {}
  for name, net in nets.items():
    net.requires_grad_(False)
    c = every[name] / (every[name] + 1)
    adam[name] = torch.optim.Adam(net.parameters(), lr=2e-3 * c,
                                  betas=(0.0, 0.99**c), eps=1e-8)
  pixels = torch.randint(0, 256, (batch_size, 3, size, size))
  none = torch.zeros(batch_size, 0)

  def phase(name: str, gain: int) -> None:
    net = nets[name[0]]
    adam[name[0]].zero_grad(set_to_none=True)
    net.requires_grad_(True)
    loss.accumulate_gradients(
        phase=name, real_img=pixels / 127.5 - 1, real_c=none,
        gen_z=torch.randn(batch_size, 512), gen_c=none, sync=True, gain=gain)
    net.requires_grad_(False)
    adam[name[0]].step()

  def step(kind: int) -> None:
    for name, k in every.items():
      phase(f'{name}main', 1)
      if kind % k == 0:
        phase(f'{name}reg', k)
    with torch.no_grad():
      for p, q in zip(average.parameters(), nets['G'].parameters(),
                      strict=True):
        p.copy_(q.lerp(p, 0.999))

  return Official(
      step, {name: count(net) for name, net in nets.items()},
      'stylegan2',
      {'data.resolution': size, 'batch_size': batch_size,
       'model.channel_base': base},
      kinds={1: 12 / 16, 4: 3 / 16, 0: 1 / 16})


def biggan(folder: str, size=32, attention='none', ch=64, batch_size=16,
           classes=10) -> Official:
  sys.path.insert(0, folder)
  import BigGAN

  common = dict(resolution=size, n_classes=classes)
  theirs = '0' if attention == 'none' else attention
  options = dict(G_ch=ch, dim_z=128, G_attn=theirs, G_init='N02',
                 G_shared=False, BN_eps=1e-5, **common)
  G = BigGAN.Generator(G_lr=2e-4, **options)
  D = BigGAN.Discriminator(D_ch=ch, D_attn=theirs, D_init='N02', D_lr=2e-4,
                           **common)
  both = BigGAN.G_D(G, D)
  live = G.state_dict()
  average = BigGAN.Generator(no_optim=True, **options).state_dict()
  images = torch.rand(batch_size, 3, size, size) * 2 - 1
  labels = torch.randint(0, classes, (batch_size,))

  def draw():
    return (torch.randn(batch_size, 128),
            torch.randint(0, classes, (batch_size,)))

  def step(_: int) -> None:
    D.requires_grad_(True)
    G.requires_grad_(False)
    D.optim.zero_grad()
    fake, real = both(*draw(), images, labels, train_G=False)
    (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
    D.optim.step()
    D.requires_grad_(False)
    G.requires_grad_(True)
    G.optim.zero_grad()
    (-both(*draw(), train_G=True).mean()).backward()
    G.optim.step()
    with torch.no_grad():
      for name, value in live.items():
        average[name].copy_(average[name] * 0.9999 + value * 0.0001)

  return Official(
      step, {'G': count(G), 'D': count(D)},
      'biggan',
      {'data.resolution': size, 'data.labels': 'class',
       'batch_size': batch_size, 'model.ch_G': ch, 'model.ch_D': ch,
       'model.z_dim': 128, 'model.shared': False, 'model.hierarchical': False,
       'model.init': 'normal', 'model.bn_epsilon': 1e-5,
       'model.spectral_norm': 'biggan_pytorch', 'model.attention_G': attention,
       'model.attention_D': attention, 'loss.n_critic': 1, 'loss.ortho_G': 0.0,
       'ema.start': 0}, classes)


def sagan(folder: str) -> Official:
  return biggan(folder, size=64, attention='32')


def vqgan(_: str, size=64, ch=64, ch_mult=(1, 2, 4), codes=512,
          batch_size=4) -> Official:
  blocks, dim = 2, 64
  model = official_vqgan.vqgan(
      ch=ch, ch_mult=ch_mult, num_res_blocks=blocks, attn_resolutions=(16,),
      resolution=size, z_channels=dim, embed_dim=dim, codes=codes)
  D = official_vqgan.patchgan(n_layers=3, ndf=64, input_nc=3)
  adam, adam_D = (torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.5, 0.9))
                  for net in (model, D))
  x = torch.rand(batch_size, 3, size, size) * 2 - 1
  last = model.decoder.conv_out.weight

  def norm(value: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, last, retain_graph=True)[0].norm()

  def step(_: int) -> None:
    D.requires_grad_(False)
    x_hat, codebook, _ = model(x)
    nll, g = (x - x_hat).abs().mean(), -D(x_hat).mean()
    weight = 0.8 * (norm(nll) / (norm(g) + 1e-4)).clamp(0, 1e4).detach()
    adam.zero_grad()
    (nll + weight * g + codebook).backward()
    adam.step()
    D.requires_grad_(True)
    x_hat = model(x)[0].detach()
    adam_D.zero_grad()
    (F.relu(1 - D(x)).mean() + F.relu(1 + D(x_hat)).mean()).div(2).backward()
    adam_D.step()

  return Official(
      step, {'AE': count(model), 'D': count(D)},
      'vqgan',
      {'data.resolution': size, 'batch_size': batch_size,
       'model.ch': ch, 'model.ch_mult': ch_mult, 'model.num_res_blocks': blocks,
       'model.z_channels': dim, 'model.embed_dim': dim,
       'model.codebook_size': codes, 'loss.perceptual': 'none',
       'loss.disc_start': 0})


PEERS = {f.__name__: f for f in (stylegan2, biggan, sagan, vqgan)}


def seconds(step: Callable[[int], None], kind: int, calls: int) -> np.ndarray:
  """Returns the mean [wall, CPU] of some calls."""
  time.sleep(PAUSE)
  start = np.array([time.perf_counter(), time.process_time()])
  for _ in range(calls):
    step(kind)
  return (np.array([time.perf_counter(), time.process_time()]) - start) / calls


def compare(official: Official, rounds: int, calls: int = 2) -> np.ndarray:
  """Prints each round; returns the median ratios [wall, CPU]."""
  sides = {'theirs': official.step, 'ours': ours(official)}
  for kind in official.kinds:
    for step in sides.values():
      step(kind)
  ratios = []
  for i in range(rounds):
    order = list(sides)[::1 if i % 2 else -1]
    found = {side: {kind: seconds(sides[side], kind, calls)
                    for kind in official.kinds} for side in order}
    mean = {side: sum(weight * found[side][kind]
                      for kind, weight in official.kinds.items())
            for side in sides}
    ratios.append(mean['theirs'] / mean['ours'])
    kinds = ', '.join(
        f'{kind}: {found["theirs"][kind][1]:.2f} / {found["ours"][kind][1]:.2f}'
        for kind in official.kinds)
    print(f'round {i + 1}: theirs {mean["theirs"][0]:.3f} s, ours '
          f'{mean["ours"][0]:.3f} s, ratio {ratios[-1][0]:.3f} '
          f'(CPU {ratios[-1][1]:.3f}); CPU-s of steps like {kinds}', flush=True)
  median = np.array([statistics.median(r[i] for r in ratios) for i in (0, 1)])
  print(f'median ratio {median[0]:.3f} (CPU {median[1]:.3f})')
  return median


def main() -> None:
  """The command."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('system', choices=PEERS)
  parser.add_argument('--official', metavar='DIR', default='')
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  if args.system != 'vqgan' and not os.path.isdir(args.official):
    parser.error(f'--official={args.official!r} is no folder; give the '
                 'checkout of the official code.')
  host_memory.keep_freed()  # As our commands do; theirs have it here too.
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.manual_seed(0)
  with jax.set_mesh(mesh_lib.make(1, 1)):
    compare(PEERS[args.system](args.official), args.rounds)


if __name__ == '__main__':
  main()
