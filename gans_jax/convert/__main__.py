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
run of our own, or those of FID's feature network into a file of our own form;
and a run of our own into official weights. Nothing in the files is executed.

  python -m gans_jax.convert --format=dcgan --checkpoint=netG_epoch_24.pth \\
      --out=runs/dcgan_official
  python -m gans_jax.convert --format=wgan --checkpoint=netG_epoch_9.pth \\
      --discriminator=netD_epoch_9.pth --out=runs/wgan_official
  python -m gans_jax.sample --workdir=runs/dcgan_official --seeds=0-63
  python -m gans_jax.convert --format=stylegan2 --checkpoint=ffhq.pkl \\
      --out=runs/ffhq
  python -m gans_jax.convert --format=biggan_pytorch --checkpoint=G.pth \\
      --ema=G_ema.pth --discriminator=D.pth --out=runs/biggan
  python -m gans_jax.convert --export=npz --workdir=runs/ffhq --out=ffhq.npz
  python -m gans_jax.convert --format=inception \\
      --checkpoint=pt_inception-2015-12-05-6726825d.pth --out=inception.npz

formats:
  dcgan      pytorch/examples, netG_epoch_N.pth (and netD_epoch_N.pth)
  wgan       martinarjovsky/WassersteinGAN, the same names
  stylegan2  network pickles (.pkl) of stylegan2-ada-pytorch, of the StyleGAN2
             networks of stylegan3, of stylegan2 and stylegan2-ada
             (TensorFlow)
  stylegan   network pickles of stylegan (TensorFlow)
  progan     network pickles of progressive_growing_of_gans (TensorFlow, and
             those of the first version)
  rosinality stylegan2-pytorch of rosinality (.pt)
  biggan_pytorch     ajbrock/BigGAN-PyTorch, G.pth or G_ema.pth (and D.pth)
  pretrained_biggan  huggingface/pytorch-pretrained-BigGAN, the BigGAN-deep of
             128, 256 and 512 pixels (.bin; config.json beside it is checked);
             --truncation says whose statistics of batch normalization
  tfhub_biggan       deepmind/biggan-128/2, -256/2 and -512/2 of TF-Hub: the
             directory of the module, or an .npz of its variables by name
  studiogan  PyTorch-StudioGAN, model=G-best-weights-step=N.pth (and D): SNGAN,
             SAGAN, BigGAN and BigGAN-deep
  taming     taming-transformers (.ckpt, with its .yaml): a VQGAN; or a
             Transformer, which becomes DIR/transformer beside DIR/tokenizer
             (and DIR/cond_tokenizer)
  maskgit    google-research/maskgit: its tokenizer, and with --transformer
             both, as DIR/tokenizer and DIR/transformer
  inception  the network of FID and the Inception Score, of pytorch-fid or
             torch-fidelity (.pth), NVIDIA (.pt) or TensorFlow (.pb); --out is
             FILE.npz, or a directory for inception-2015-12-05.npz

exports:
  npz        G, D and G_ema of a StyleGAN2, arrays by the names of
             stylegan2-ada-pytorch: G_ema.synthesis.b4.const, ...

Config keys that the weights do not tell can be set by --config.KEY=VALUE,
such as --config.data.source for evaluate.
"""

FORMATS = ('dcgan', 'wgan', 'stylegan2', 'stylegan', 'progan', 'rosinality',
           'biggan_pytorch', 'pretrained_biggan', 'tfhub_biggan', 'studiogan',
           'taming', 'maskgit', 'inception')

# Flags of a format beside --format and --out.
_PAIR = ('checkpoint', 'discriminator')
_FLAGS = {'dcgan': _PAIR, 'wgan': _PAIR,
          'biggan_pytorch': (*_PAIR, 'ema'), 'studiogan': (*_PAIR, 'ema'),
          'pretrained_biggan': ('checkpoint', 'json', 'truncation'),
          'tfhub_biggan': ('checkpoint',),
          'taming': ('checkpoint', 'yaml'),
          'maskgit': ('checkpoint', 'transformer'),
          'inception': ('checkpoint',), 'export': ('workdir', 'step')}
_EVERY_FLAG = ('checkpoint', 'discriminator', 'ema', 'json', 'truncation',
               'yaml', 'transformer', 'workdir', 'step')

# A name that convert/inception.py looks for.
INCEPTION_NPZ = 'inception-2015-12-05.npz'


def convert(format_: str, checkpoint: str, discriminator: str | None,
            out: str, overrides: list[str], **more) -> None:
  """Writes the workdir.

  Args:
    format_: of `FORMATS`, but 'inception'.
    checkpoint: file of the weights; where a network has a file, the
      generator's.
    discriminator: there, the file of the discriminator's weights; without
      it, the workdir has an untrained one.
    out: directory to be made.
    overrides: `--config.KEY=VALUE`.
    **more: of `read`.

  Raises:
    UserError: a file that is missing, damaged or of another network, or a
      directory that cannot be used.
  """
  snapshot = read(format_, checkpoint, discriminator, **more)
  files = {net: checkpoint for net in snapshot.nets}
  if discriminator:
    files['D'] = discriminator
  if more.get('ema'):
    files['G_ema'] = more['ema']
  write(snapshot, files, out, overrides)


def convert_stages(found, files: dict[str, str], out: str,
                   overrides: list[str]) -> str:
  """Writes the workdirs of a tokenizer and of what was trained on its tokens.

  Args:
    found: {name: `Snapshot`}, tokenizers first; the name '' is `out` itself,
      others are directories in it.
    files: {name: the file that it came from}.
    out: directory to be made.
    overrides: `--config.KEY=VALUE`, of every workdir.

  Returns:
    The workdir of the last stage.

  Raises:
    UserError: as of `convert`.
  """
  for name, snapshot in found.items():
    path = os.path.join(out, name) if name else out
    if name == 'transformer':
      snapshot.settings.update({
          f'data.{other}': os.path.abspath(os.path.join(out, other))
          for other in found if other != name})
    write(snapshot, {net: files[name] for net in snapshot.nets}, path,
          overrides)
  return path


def write(snapshot, files: dict[str, str], out: str,
          overrides: list[str]) -> None:
  """Writes a workdir.

  Args:
    snapshot: what becomes of official files.
    files: {net: the file that it came from}.
    out: directory to be made.
    overrides: `--config.KEY=VALUE`.

  Raises:
    UserError: as of `convert`.
  """
  import dataclasses

  import jax

  from gans_jax.core import checkpoint as checkpoint_lib
  from gans_jax.core import compilation
  from gans_jax.core import config as config_lib
  from gans_jax.core import workdir as workdir_lib

  origin = {net: {'file': os.path.basename(path), 'sha256': sha256(path)}
            for net, path in files.items()}
  config, spec, system = create(snapshot, files, overrides, origin)

  def start(key, nets, ema):
    state = system.init(key)
    for net, variables in nets.items():
      collections = dict(variables)
      params = collections.pop('params')
      state = state.replace(params={**state.params, net: params},
                            mvars={**state.mvars, net: collections})
      if net in state.ema:
        state = state.replace(
            ema={**state.ema, net: ema.get(net, variables)})
    return state

  # Together, so that what is replaced is not drawn, nor compiled.
  state = jax.jit(start, compiler_options=compilation.options(0))(
      jax.random.key(config.seed), snapshot.nets, snapshot.ema)

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


def create(snapshot, files: dict[str, str], overrides: list[str], origin):
  """Returns the (config, spec, System) of a snapshot that fits them.

  Args:
    snapshot, files, overrides: of `write`.
    origin: what the identity of the data is made of.

  Raises:
    UserError: as of `convert`.
  """
  from gans_jax.core import config as config_lib
  from gans_jax.core import system as system_lib
  from gans_jax.data import spec as spec_lib

  config = config_lib.base(snapshot.system)
  config_lib.assign(config, {**snapshot.settings, 'total_steps': 1})
  config_lib.apply_overrides(config, overrides)
  config_lib.validate(config)
  spec = spec_lib.image_spec(
      resolution=config.data.resolution, channels=config.data.channels,
      num_classes=snapshot.num_classes, num_examples=0,
      facts={'converted': origin}, extra=snapshot.extra)
  if config.data.tokenizer:
    from gans_jax.core import tokenizer
    from gans_jax.data import tokens

    spec = tokens.token_spec(spec, {
        key: tokenizer.of_config(config, key)
        for key, name in tokenizer.CONFIG_KEYS.items() if config.data[name]})
  system = system_lib.create(config, spec)
  # By shapes: what a file claims may be too large to be made.
  expected = system_lib.abstract_state(system)
  for net, variables in snapshot.nets.items():
    check(variables, {'params': expected.params[net], **expected.mvars[net]},
          files[net])
  for net, variables in snapshot.ema.items():
    check(variables, expected.ema[net], files.get(f'{net}_ema', files[net]))
  return config, spec, system


def read(format_: str, checkpoint: str, discriminator: str | None,
         ema: str | None = None, json: str | None = None,
         truncation: float | None = None):
  """Returns the `Snapshot` of official files; see `convert`.

  Args:
    format_, checkpoint, discriminator: see `convert`.
    ema: file of the averaged generator, where `checkpoint` is the live one.
    json: of 'pretrained_biggan', the config; the one beside the weights by
      default.
    truncation: of 'pretrained_biggan', whose statistics; 1 by default.
  """
  from gans_jax.convert import snapshot
  from gans_jax.convert import torch_file

  if discriminator and 'discriminator' not in _FLAGS.get(format_, ()):
    raise errors.UserError(
        f'--discriminator has no meaning with --format={format_}, whose files '
        'hold all networks. Leave it out.')
  with snapshot.reading(checkpoint):
    if format_ in ('dcgan', 'wgan'):
      from gans_jax.convert import dcgan

      weights = torch_file.load(checkpoint)
      critic = torch_file.load(discriminator) if discriminator else None
      return dcgan.snapshot(format_, weights, critic)
    if format_ == 'rosinality':
      from gans_jax.convert import rosinality

      return rosinality.from_checkpoint(torch_file.load(checkpoint),
                                        checkpoint)
    if format_ == 'pretrained_biggan':
      from gans_jax.convert import biggan

      return biggan.pretrained_snapshot(
          torch_file.load(checkpoint),
          1.0 if truncation is None else truncation,
          _json_beside(checkpoint, json))
    if format_ == 'tfhub_biggan':
      from gans_jax.convert import tfhub

      return tfhub.snapshot(tfhub.load(checkpoint))
    if format_ in ('biggan_pytorch', 'studiogan'):
      return _read_pair(format_, checkpoint, discriminator, ema)
    return _read_pickle(format_, checkpoint)


def _read_pair(format_: str, checkpoint: str, discriminator: str | None,
               ema: str | None):
  from gans_jax.convert import torch_file

  files = [checkpoint, discriminator, ema]
  if format_ == 'biggan_pytorch':
    from gans_jax.convert import biggan

    return biggan.snapshot(*(path and torch_file.load(path)
                             for path in files))
  from gans_jax.convert import studiogan

  # Beside the weights lie an optimizer and facts of the run.
  return studiogan.snapshot(*(
      path and studiogan.state_dict(
          torch_file.load(path, ignore_others=True), path) for path in files))


def _json_beside(checkpoint: str, path: str | None):
  """Returns the config of pytorch-pretrained-BigGAN, None if there is none.

  Its files are config.json and pytorch_model.bin, or both with
  'biggan-deep-128-' before.
  """
  import json

  if path is None:
    folder, name = os.path.split(checkpoint)
    path = os.path.join(
        folder, name.removesuffix('pytorch_model.bin') + 'config.json')
    if not name.endswith('pytorch_model.bin') or not os.path.exists(path):
      return None
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except (OSError, ValueError) as error:
    raise errors.UserError(
        f'{path} cannot be read as JSON ({error}). Expected the config.json '
        'of pytorch-pretrained-BigGAN; check the path, or take it away.'
    ) from error


def _read_pickle(format_: str, checkpoint: str):
  from gans_jax.convert import network_pickle

  networks = network_pickle.load(checkpoint)
  if format_ == 'stylegan':
    from gans_jax.convert import stylegan as reader
  elif format_ == 'progan':
    from gans_jax.convert import progan as reader
  elif networks['G_ema'].code == 'torch':
    from gans_jax.convert import stylegan2 as reader
  else:
    from gans_jax.convert import stylegan2_tensorflow as reader
  return reader.from_pickle(networks, checkpoint)


def export(workdir: str, out: str, step: int | None = None) -> None:
  """Writes the networks of a run as arrays by official names.

  Args:
    workdir: of a StyleGAN2, trained or converted.
    out: .npz file to be made, with keys such as 'G_ema.synthesis.b4.const'.
    step: which checkpoint; the newest by default.

  Raises:
    UserError: no such run, another system, or a file that cannot be written.
  """
  import io

  import numpy as np

  from gans_jax import sample
  from gans_jax.convert import stylegan2
  from gans_jax.core import files

  if os.path.exists(out):
    raise errors.UserError(
        f'{out} exists already. Give another --out, or remove it.')
  live = sample.load(workdir, step, 'live')
  name = live.config.system
  if 'b4' not in live.variables['G']['params'].get('synthesis', {}):
    raise errors.UserError(
        f'{workdir} is a run of {name!r}; only StyleGAN2 is exported.')
  networks = {**live.variables,
              'G_ema': sample.load(workdir, step, 'ema').variables['G']}
  arrays = {f'{net}.{key}': value for net, variables in networks.items()
            for key, value in stylegan2.to_official(variables).items()}
  stream = io.BytesIO()
  np.savez(stream, **arrays)
  files.write_atomic(out, stream.getvalue())


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
  """Returns the digest of a file in hexadecimal digits.

  Of a directory or a name without ending: that of variables and their index.
  """
  if not os.path.isfile(path):
    from gans_jax.convert import tensor_bundle

    digest = hashlib.sha256()
    for part in tensor_bundle.files(path):
      with open(part, 'rb') as file:
        digest.update(hashlib.file_digest(file, 'sha256').digest())
    return digest.hexdigest()
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
  direction = parser.add_mutually_exclusive_group(required=True)
  direction.add_argument('--format', choices=FORMATS,
                         help='of official weights, to be read')
  direction.add_argument('--export', choices=['npz'],
                         help='of official weights, to be written')
  parser.add_argument('--checkpoint', metavar='FILE',
                      help='with --format: the weights (where networks have '
                           "files, the generator's)")
  parser.add_argument('--discriminator', metavar='FILE',
                      help='of dcgan, wgan, biggan_pytorch and studiogan: the '
                           "discriminator's")
  parser.add_argument('--ema', metavar='FILE',
                      help='of biggan_pytorch and studiogan: the averaged '
                           "generator's, beside the live one's")
  parser.add_argument('--json', metavar='FILE',
                      help='of pretrained_biggan (default: the config.json '
                           'beside the weights)')
  parser.add_argument('--truncation', type=float, metavar='T',
                      help='of pretrained_biggan: whose statistics, above 0 '
                           'and up to 1 (default: 1)')
  parser.add_argument('--yaml', metavar='FILE',
                      help='of taming (default: the one beside the weights)')
  parser.add_argument('--transformer', metavar='FILE', help='of maskgit')
  parser.add_argument('--workdir', metavar='DIR', help='with --export: a run')
  parser.add_argument('--step', type=int, help='of it (default: the newest)')
  parser.add_argument('--out', required=True, metavar='DIR|FILE')
  args = parser.parse_args(rest)
  needed = 'workdir' if args.export else 'checkpoint'
  if not getattr(args, needed):
    raise errors.UserError(
        f'--{"export" if args.export else "format"} needs --{needed}.')
  kind = 'export' if args.export else args.format
  allowed = _FLAGS.get(kind, ('checkpoint',))
  unused = [f'--{name}' for name in _EVERY_FLAG
            if getattr(args, name) is not None and name not in allowed]
  if kind in ('inception', 'export'):
    unused += [f'--config.{override}' for override in overrides]
  if unused:
    choice = f'export={args.export}' if args.export else (
        f'format={args.format}')
    raise errors.UserError(
        f'{unused[0]} has no meaning with --{choice}, which takes '
        f'{", ".join("--" + name for name in allowed)} and --out. Leave it '
        'out.')
  if args.export:
    export(args.workdir, args.out, args.step)
    print(args.out)
    return cli.DONE
  if args.format == 'inception':
    from gans_jax.convert import published

    path = convert_inception(args.checkpoint, args.out)
    print(f'{path}: name it with --inception_weights={path}; in '
          f'{published.weights_dir()} it is found by itself under the name '
          f'{INCEPTION_NPZ}')
    return cli.DONE
  if args.format == 'taming':
    from gans_jax.convert import taming

    found = taming.snapshots(args.checkpoint, args.yaml)
    args.out = convert_stages(found, dict.fromkeys(found, args.checkpoint),
                              args.out, overrides)
  elif args.format == 'maskgit':
    from gans_jax.convert import maskgit

    found = maskgit.read(args.checkpoint, args.transformer)
    files = {**dict.fromkeys(found, args.checkpoint),
             'transformer': args.transformer}
    args.out = convert_stages(found, files, args.out, overrides)
  else:
    convert(args.format, args.checkpoint, args.discriminator, args.out,
            overrides, ema=args.ema, json=args.json,
            truncation=args.truncation)
  hint = ''
  if args.format == 'pretrained_biggan':
    # Its latents are as truncated as its statistics say.
    hint = (f' --truncation={args.truncation or 1.0:g}'
            ' --option=truncation_form=scale')
  print(f'{args.out}: try\n'
        f'  python -m gans_jax.sample --workdir={args.out} --seeds=0-63{hint}')
  return cli.DONE


if __name__ == '__main__':
  cli.run(main)
