"""Official weights to a workdir: `python -m gans_jax.convert --format=dcgan`.

The workdir is like that of a run: sample, evaluate and `gans_jax.load` take
it. The feature network of FID becomes a file, which evaluate takes. Files are
read as data; nothing in them is executed.
"""

import hashlib
import os

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Turns official weights into a workdir, from which images are sampled as from a
run of our own, or those of FID's feature network into a file of our own form.
Nothing in the files is executed.

  python -m gans_jax.convert --format=dcgan --checkpoint=netG_epoch_24.pth \\
      --out=runs/dcgan_official
  python -m gans_jax.convert --format=wgan --checkpoint=netG_epoch_9.pth \\
      --discriminator=netD_epoch_9.pth --out=runs/wgan_official
  python -m gans_jax.sample --workdir=runs/dcgan_official --seeds=0-63
  python -m gans_jax.convert --format=inception \\
      --checkpoint=pt_inception-2015-12-05-6726825d.pth --out=inception.npz

formats:
  dcgan      pytorch/examples, netG_epoch_N.pth (and netD_epoch_N.pth)
  wgan       martinarjovsky/WassersteinGAN, the same names
  inception  the network of FID and the Inception Score, of pytorch-fid or
             torch-fidelity (.pth), NVIDIA (.pt) or TensorFlow (.pb); --out is
             FILE.npz, or a directory for inception-2015-12-05.npz

Config keys that the weights do not tell can be set by --config.KEY=VALUE,
such as --config.data.source for evaluate.
"""

FORMATS = ('dcgan', 'wgan', 'inception')

# A name that convert/inception.py looks for.
INCEPTION_NPZ = 'inception-2015-12-05.npz'


def convert(format_: str, checkpoint: str, discriminator: str | None,
            out: str, overrides: list[str]) -> None:
  """Writes the workdir.

  Args:
    format_: 'dcgan' or 'wgan'.
    checkpoint: file of the generator's weights.
    discriminator: file of the discriminator's weights; without it, the
      workdir has an untrained one.
    out: directory to be made.
    overrides: `--config.KEY=VALUE`.

  Raises:
    UserError: a file that is missing, damaged or of another network, or a
      directory that cannot be used.
  """
  import dataclasses

  import jax
  import numpy as np

  from gans_jax.convert import dcgan
  from gans_jax.convert import torch_file
  from gans_jax.core import checkpoint as checkpoint_lib
  from gans_jax.core import compilation
  from gans_jax.core import config as config_lib
  from gans_jax.core import system as system_lib
  from gans_jax.core import workdir as workdir_lib
  from gans_jax.data import spec as spec_lib

  files = {'G': checkpoint}
  weights = torch_file.load(checkpoint)
  nets = {'G': dcgan.generator(weights)}
  if discriminator:
    files['D'] = discriminator
    critic = torch_file.load(discriminator)
    nets['D'] = dcgan.discriminator(critic)
  config = config_lib.base(format_)
  config_lib.assign(config, {**dcgan.settings(weights), 'total_steps': 1})
  if discriminator:
    first = nets['D']['params'][f'conv_{config.data.resolution // 2}']
    config.model.ndf = first['kernel'].shape[-1]
  config_lib.apply_overrides(config, overrides)
  config_lib.validate(config)

  origin = {net: {'file': os.path.basename(path), 'sha256': sha256(path)}
            for net, path in files.items()}
  spec = spec_lib.image_spec(
      resolution=config.data.resolution, channels=config.data.channels,
      num_examples=0, facts={'converted': origin})
  system = system_lib.create(config, spec)
  state = jax.jit(system.init, compiler_options=compilation.options(0))(
      jax.random.key(config.seed))
  for net, variables in nets.items():
    expected = {'params': state.params[net], **state.mvars[net]}
    check(variables, expected, files[net])
    collections = dict(variables)
    params = collections.pop('params')
    state = state.replace(params={**state.params, net: params},
                          mvars={**state.mvars, net: collections})
    if net in state.ema:
      state = state.replace(
          ema={**state.ema, net: jax.tree.map(np.copy, variables)})

  record = config_lib.to_json(config)
  with (workdir_lib.open_run(out, record, spec) as run,
        checkpoint_lib.Checkpointer(run.path) as checkpoints):
    if checkpoints.latest_step() is not None:
      raise errors.UserError(
          f'{out} holds these weights already. Give --out another directory, '
          'or remove it.')
    checkpoints.save(
        0, state, data_state={},
        meta=dict(config=record, step=0, images=0,
                  spec=dataclasses.asdict(spec),
                  versions=workdir_lib.versions(), metrics={},
                  converted=origin))
    checkpoints.wait()


def convert_inception(checkpoint: str, out: str) -> str:
  """Writes FID's feature network in our own form.

  Args:
    checkpoint: file of any form that convert/inception.py reads.
    out: file to be made if it ends in .npz, otherwise its directory.

  Returns:
    Path of the file.

  Raises:
    UserError: a file that is missing, damaged or of another network, or a
      path that cannot be written.
  """
  from gans_jax.convert import inception

  if not out.endswith('.npz'):
    out = os.path.join(out, INCEPTION_NPZ)
  if os.path.exists(out):
    raise errors.UserError(
        f'{out} exists already. Give another --out, or remove it.')
  inception.save(out, inception.read(checkpoint))
  return out


def sha256(path: str) -> str:
  """Returns the digest of a file in hexadecimal digits."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def check(found, expected, path: str) -> None:
  """Refuses weights that are not those of the network, naming the first."""
  import jax

  from gans_jax.core import mesh

  def shapes(tree):
    return {mesh.path_name(key): x.shape for key, x in
            jax.tree_util.tree_leaves_with_path(tree)}

  ours, theirs = shapes(expected), shapes(found)
  for name in sorted(ours | theirs):
    if ours.get(name) != theirs.get(name):
      raise errors.UserError(
          f'{path} is not of this network: {name} has shape '
          f'{theirs.get(name, "(it is absent)")} in the file, and '
          f'{ours.get(name, "(it is absent)")} in the network. Check '
          '--format and the --config keys of the model.')


def main(argv: list[str]) -> int:
  from gans_jax.core import config as config_lib

  overrides, rest = config_lib.split_overrides(argv)
  parser = cli.parser('python -m gans_jax.convert', DESCRIPTION)
  parser.add_argument('--format', required=True, choices=FORMATS)
  parser.add_argument('--checkpoint', required=True, metavar='FILE',
                      help="the generator's (or the network's) weights")
  parser.add_argument('--discriminator', metavar='FILE',
                      help="the discriminator's, if you have them")
  parser.add_argument('--out', required=True, metavar='DIR|FILE')
  args = parser.parse_args(rest)
  if args.format == 'inception':
    unused = [f'--config.{override}' for override in overrides]
    unused += ['--discriminator'] if args.discriminator else []
    if unused:
      raise errors.UserError(
          f'{unused[0]} has no meaning with --format=inception, which takes '
          '--checkpoint and --out alone. Leave it out.')
    from gans_jax.convert import published

    path = convert_inception(args.checkpoint, args.out)
    print(f'{path}: name it with --inception_weights={path}; in '
          f'{published.weights_dir()} it is found by itself under the name '
          f'{INCEPTION_NPZ}')
    return cli.DONE
  convert(args.format, args.checkpoint, args.discriminator, args.out,
          overrides)
  print(f'{args.out}: try\n'
        f'  python -m gans_jax.sample --workdir={args.out} --seeds=0-63')
  return cli.DONE


if __name__ == '__main__':
  cli.run(main)
