"""BigGANs of TF-Hub: our layouts are TensorFlow's, so arrays stay as they are.

The checkpoint is written here byte by byte, after the descriptions of
LevelDB's table format and of TensorFlow's tensor_bundle.proto.
"""

import importlib
import struct

import numpy as np
import pytest
import runs

from gans_jax.convert import tensor_bundle
from gans_jax.convert import tfhub
from gans_jax.core import cli
from gans_jax.core import errors

command = importlib.import_module('gans_jax.convert.__main__')

CH, CHUNK, EMBED, CLASSES = 8, 2, 6, 5
WIDTHS = [16, 16, 8, 4, 2, 1]  # of 128 pixels
AVERAGE = '/ema_b999900'


def variables() -> dict[str, np.ndarray]:
  """Returns a narrow biggan-128/2, by the names of the module."""
  draw, found = np.random.default_rng(0), {}

  def put(name, *shape):
    found[name] = draw.normal(size=shape).astype(np.float32)

  def layer(name, *shape, bias=True):
    put(f'{name}/w', *shape)  # The live weights, which are not read.
    put(f'{name}/w{AVERAGE}', *shape)
    put(f'{name}/u0', 1, shape[-1])
    if bias:
      put(f'{name}/b{AVERAGE}', shape[-1])

  def statistics(name, channels):
    put(f'{name}/accumulated_mean', channels)
    found[f'{name}/accumulated_var'] = draw.uniform(
        0.5, 2, channels).astype(np.float32)
    found[f'{name}/accumulation_counter'] = np.float32(1)

  put(f'linear/w{AVERAGE}', CLASSES, EMBED)
  layer('Generator/G_Z/G_linear', CHUNK, 16 * WIDTHS[0] * CH)
  for i, (a, b) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
    block, a, b = f'Generator/GBlock{f"_{i}" if i else ""}', a * CH, b * CH
    layer(f'{block}/conv0', 3, 3, a, b)
    layer(f'{block}/conv1', 3, 3, b, b)
    layer(f'{block}/conv_sc', 1, 1, a, b)
    for suffix, channels in (('', a), ('_1', b)):
      for name in ('gamma', 'beta'):
        layer(f'{block}/HyperBN{suffix}/{name}', CHUNK + EMBED, channels,
              bias=False)
      statistics(f'{block}/CrossReplicaBN{suffix}', channels)
  c = 2 * CH
  for name, shape in (('theta', (c, c // 8)), ('phi', (c, c // 8)),
                      ('g', (c, c // 2)), ('o_conv', (c // 2, c))):
    layer(f'Generator/attention/{name}', 1, 1, *shape, bias=False)
  put(f'Generator/attention/gamma{AVERAGE}')
  for name in ('gamma', 'beta'):
    put(f'Generator/ScaledCrossReplicaBN/{name}{AVERAGE}', 1, 1, 1, CH)
  statistics('Generator/ScaledCrossReplicaBNbn', CH)
  layer('Generator/conv_2d', 3, 3, CH, 3)
  return {name: np.asarray(x) for name, x in found.items()}


# --- A writer of checkpoints -------------------------------------------------


def varint(n: int) -> bytes:
  out = b''
  while n > 127:
    out, n = out + bytes([n & 127 | 128]), n >> 7
  return out + bytes([n])


def field(number: int, value) -> bytes:
  if isinstance(value, int):
    return varint(number << 3) + varint(value)
  return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries) -> bytes:
  """A block with the compression of prefixes, and one restart."""
  out, last = b'', b''
  for key, value in entries:
    shared = 0
    while shared < min(len(key), len(last)) and key[shared] == last[shared]:
      shared += 1
    out += varint(shared) + varint(len(key) - shared) + varint(len(value))
    out, last = out + key[shared:] + value, key
  return out + struct.pack('<II', 0, 1)


def write(folder, arrays) -> None:
  """Writes a SavedModel's variables: two blocks, one shard."""
  folder.mkdir(parents=True)
  data, entries = b'', [(b'', field(1, 1))]
  for name in sorted(arrays):
    x = arrays[name]
    shape = b''.join(field(2, field(1, n) if n else b'') for n in x.shape)
    entries.append((name.encode(), b''.join([
        field(1, {'f': 1, 'i': 9}[x.dtype.kind]), field(2, shape),
        field(4, len(data)), field(5, x.nbytes),
        varint(6 << 3 | 5) + bytes(4)])))
    data += x.tobytes()
  table, handles = b'', []
  half = len(entries) // 2
  for part in (entries[:half], entries[half:], []):
    content = block(part)
    handles.append((part, varint(len(table)) + varint(len(content))))
    table += content + bytes(5)
  index = block([(part[-1][0], handle) for part, handle in handles[:2]])
  footer = handles[2][1] + varint(len(table)) + varint(len(index))
  table += index + bytes(5) + footer.ljust(40, b'\0')
  table += (0xDB4775248B80FB57).to_bytes(8, 'little')
  (folder / 'variables.index').write_bytes(table)
  (folder / 'variables.data-00000-of-00001').write_bytes(data)


# --- Reading -----------------------------------------------------------------


def test_checkpoints(tmp_path):
  arrays = {'a/b': np.arange(6, dtype=np.float32).reshape(2, 3),
            'a/bc': np.array(7, np.int64), 'z': np.ones(300, np.float32)}
  write(tmp_path / 'variables', arrays)
  for path in (tmp_path, tmp_path / 'variables/variables',
               tmp_path / 'variables/variables.index'):
    found = tensor_bundle.load(str(path))
    assert found.keys() == arrays.keys()
    for name, x in arrays.items():
      assert found[name].dtype == x.dtype
      np.testing.assert_array_equal(found[name], x)


def test_damaged_checkpoints(tmp_path):
  folder = tmp_path / 'variables'
  with pytest.raises(errors.UserError, match='cannot be read'):
    tensor_bundle.load(str(tmp_path))
  write(folder, variables())
  index = (folder / 'variables.index').read_bytes()
  draw = np.random.default_rng(0)
  for cut in (0, 40, 100, len(index) - 1):
    (folder / 'variables.index').write_bytes(index[:cut])
    with pytest.raises(errors.UserError, match='damaged'):
      tensor_bundle.load(str(tmp_path))
  for _ in range(60):  # Whatever is read, it ends.
    at = int(draw.integers(len(index)))
    (folder / 'variables.index').write_bytes(
        index[:at] + bytes([int(draw.integers(256))]) + index[at + 1:])
    try:
      tensor_bundle.load(str(tmp_path))
    except errors.UserError:
      pass
  (folder / 'variables.index').write_bytes(index)
  (folder / 'variables.data-00000-of-00001').write_bytes(b'short')
  with pytest.raises(errors.UserError, match='has [05] bytes for the shape'):
    tensor_bundle.load(str(tmp_path))
  (folder / 'variables.data-00000-of-00001').unlink()
  with pytest.raises(errors.UserError, match='data-00000'):
    tensor_bundle.load(str(tmp_path))


@pytest.mark.parametrize('form', ['module', 'npz'])
def test_arrays_keep_their_places(tmp_path, form):
  theirs = variables()
  if form == 'module':
    path = tmp_path
    write(path / 'variables', theirs)
  else:
    path = tmp_path / 'biggan.npz'
    np.savez(path, **{f'module/{name}:0': x for name, x in theirs.items()})
  snapshot = command.read('tfhub_biggan', str(path), None)
  settings = snapshot.settings
  assert settings['data.resolution'] == 128 and snapshot.num_classes == CLASSES
  assert settings['model.z_dim'] == 6 * CHUNK and settings['model.ch_G'] == CH
  assert settings['model.attention_G'] == '64'
  assert settings['model.order'] == 'z_first'
  if form == 'npz':  # Every shape is as it should be.
    _, _, system = command.create(snapshot, {'G': str(path)}, [], {})
    assert system.nets['G'].bn_epsilon == 1e-4
  params, stats = (snapshot.nets['G'][key] for key in ('params',
                                                       'batch_stats'))
  for ours, name in (
      (params['dense'], 'G_Z/G_linear'), (params['conv_out'], 'conv_2d'),
      (params['up_8']['conv1'], 'GBlock/conv0'),
      (params['up_128']['conv2'], 'GBlock_4/conv1'),
      (params['up_32']['conv_sc'], 'GBlock_2/conv_sc'),
      (params['up_16']['bn2']['gain'], 'GBlock_1/HyperBN_1/gamma'),
      (params['up_64']['bn1']['bias'], 'GBlock_3/HyperBN/beta'),
      (params['attention_64']['o'], 'attention/o_conv')):
    for part, letter in (('kernel', 'w'), ('bias', 'b')):
      if part in ours:
        np.testing.assert_array_equal(
            ours[part], theirs[f'Generator/{name}/{letter}{AVERAGE}'])
  np.testing.assert_array_equal(params['shared']['embedding'],
                                theirs[f'linear/w{AVERAGE}'])
  np.testing.assert_array_equal(
      stats['up_64']['bn2']['norm']['var'],
      theirs['Generator/GBlock_3/CrossReplicaBN_1/accumulated_var'])
  # One iteration from u, in their layout.
  w = theirs[f'Generator/G_Z/G_linear/w{AVERAGE}'].astype(np.float64)
  v = w @ theirs['Generator/G_Z/G_linear/u0'][0]
  u = v / np.linalg.norm(v) @ w
  spectral = snapshot.nets['G']['spectral']['dense']
  np.testing.assert_allclose(spectral['u'][0], u / np.linalg.norm(u),
                             rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(spectral['v'][0], v / np.linalg.norm(v),
                             rtol=1e-4, atol=1e-6)


def test_refusals(tmp_path, capsys):
  theirs = variables()
  for change, words in (
      ({'Generator/GenZ/G_linear/w': np.zeros(3)}, 'biggan-deep'),
      ({'Generator/conv_2d/u0': None}, 'Generator/conv_2d/u0'),
      ({f'Generator/GBlock_4/conv0/w{AVERAGE}': None}, 'has 4 blocks')):
    changed = {k: x for k, x in {**theirs, **change}.items() if x is not None}
    with pytest.raises(errors.UserError, match=words):
      tfhub.snapshot(changed)
  path = tmp_path / 'x.npz'
  np.savez(path, weights=np.zeros(3))
  for given, words in ((path, 'linear/w/ema_b999900'),
                       (tmp_path / 'no.npz', 'cannot be read as .npz'),
                       (tmp_path / 'no', 'cannot be read')):
    code = cli.call(command.main, [
        '--format=tfhub_biggan', f'--checkpoint={given}',
        f'--out={tmp_path}/out'])
    runs.refused(capsys, code, words)
    assert not (tmp_path / 'out').exists()
