"""Fuzzing of all that is read from outside.

  python tests/fuzz.py --target=all --seconds=60 --seed=0 --out=/tmp/fuzz

Each target reads one kind of file: small good ones, made on the spot, and
what becomes of them by changes of bytes and of structure. Every input must be
read or refused by one readable paragraph (`UserError`). Anything else is a
finding: another exception, more than 10 s of processor time, 3 GiB of memory,
a call that runs a program or code, a file written outside of the target's
folder, or a crash of the process. The first input of each kind is saved.

--engine=atheris leads by coverage (`pip install atheris`, Python 3.11 to
3.13); the default engine needs nothing.
"""

import argparse
import bz2
import collections
from collections.abc import Callable
import contextlib
import dataclasses
import gzip
import io
import json
import lzma
import os
import pathlib
import pickletools
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib

import numpy as np

from gans_jax.core import cli
from gans_jax.core import errors

SECONDS = 10.0  # of processor time for one input
MEMORY = 3 * 2**30  # of address space, on top of what there was
WORDS = 4000  # characters of an error

Change = Callable[[random.Random, bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Target:
  """A reader.

  Attributes:
    seeds: () -> good inputs, and bad ones of note.
    read: (input, folder that is its own) -> anything; reads it.
    change: (random, input) -> another input.
    bombs: () -> inputs that become large; only tried as they are.
  """

  seeds: Callable[[], list[bytes]]
  read: Callable[[bytes, pathlib.Path], object]
  change: Change
  bombs: Callable[[], list[bytes]] = list


# --- Watching -----------------------------------------------------------------


class Hang(BaseException):
  """Too slow; no reader may catch it."""


_watch = {'folder': None, 'found': []}
_NEVER = re.compile(
    r'os\.(system|exec|posix_spawn|spawn|fork|forkpty|startfile|kill)|'
    r'subprocess\.|pty\.|socket\.(connect|bind|sendto)|ctypes\.|'
    r'pickle\.find_class|webbrowser\.|urllib\.|ftplib\.|smtplib\.')
_CHANGES = re.compile(r'os\.(remove|rename|mkdir|rmdir|symlink|link|chmod|'
                      r'chown|truncate|utime|mkfifo|mknod)|shutil\..*')
_WRITES = (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)


def _audit(event: str, args) -> None:
  if _watch['folder'] is None:
    return
  path = None
  if event == 'open' and isinstance(args[2], int) and args[2] & _WRITES or (
      _CHANGES.fullmatch(event)):
    path = args[0]
    if event in ('os.remove', 'os.rmdir', 'os.mkdir') and args[-1] >= 0:
      # Relative to an open folder.
      path = os.path.join(os.readlink(f'/proc/self/fd/{args[-1]}'), path)
  if event == 'exec':
    bad = not _importing()
  elif isinstance(path, str | bytes | os.PathLike):
    path = os.path.realpath(os.fsdecode(path))
    bad = not path.startswith((_watch['folder'] + os.sep, '/dev/null'))
    bad = bad and path != _watch['folder']
  else:
    bad = bool(_NEVER.match(event))
  if bad:
    _watch['found'].append(f'{event} {args!r:.200}')
    raise RuntimeError(f'forbidden: {event}')


def _importing() -> bool:
  """Whether a module is being imported, whose code is run."""
  frame = sys._getframe()
  while frame is not None:
    if frame.f_code.co_filename.startswith('<frozen importlib'):
      return True
    frame = frame.f_back
  return False


_hooked = []


@contextlib.contextmanager
def _watched(folder: pathlib.Path, seconds: float):
  if not _hooked:
    sys.addaudithook(_audit)
    _hooked.append(True)

  def late(*unused):
    raise Hang

  before = signal.signal(signal.SIGPROF, late)
  soft, hard = resource.getrlimit(resource.RLIMIT_AS)
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  resource.setrlimit(resource.RLIMIT_AS, (
      pages * resource.getpagesize() + MEMORY, hard))
  _watch.update(folder=os.path.realpath(folder), found=[])
  signal.setitimer(signal.ITIMER_PROF, seconds)
  try:
    yield _watch['found']
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)
    _watch['folder'] = None
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(target: Target, data: bytes, folder: pathlib.Path,
            seconds: float = SECONDS) -> tuple[str, bool]:
  """Reads one input.

  Returns:
    (what is wrong, '' if nothing is; whether the input was accepted).
  """
  start, fault, good = time.process_time(), '', False
  with _watched(folder, seconds) as found:
    try:
      target.read(data, folder)
      good = True
    except errors.UserError as error:
      fault = _wording(error)
      if not fault and _memory(error):
        fault = f'out of memory, at {_place(error)}'
    except Hang as error:
      fault = f'more than {seconds} s, at {_place(error)}'
    except KeyboardInterrupt:
      raise
    except BaseException as error:  # pylint: disable=broad-except
      fault = f'{type(error).__name__} at {_place(error)}: {error!s:.300}'
  if found:
    fault = f'forbidden: {found[0]}'
  elif not fault and time.process_time() - start > seconds:
    fault = f'more than {seconds} s'
  return fault, good


def _wording(error: errors.UserError) -> str:
  text = cli.paragraph(error)
  if len(text) > WORDS:
    return f'an error of {len(text)} characters, at {_place(error)}'
  if not all(c.isprintable() or c == '\n' for c in text) or '\n\n' in text:
    return f'an error that is no plain paragraph, at {_place(error)}: {text!r}'
  return ''


def _memory(error: BaseException | None) -> bool:
  while error is not None:
    # Python's parser says so of too many brackets.
    if isinstance(error, MemoryError) and not _place(error).startswith(
        'ast.py'):
      return True
    error = error.__cause__ or error.__context__
  return False


def _place(error: BaseException) -> str:
  """The innermost line of our own code, and where it went from there."""
  frames = traceback.extract_tb(error.__traceback__)
  ours = [f for f in frames if '/gans_jax/' in f.filename] or frames[-1:]
  return ' < '.join(
      f'{pathlib.Path(f.filename).name}:{f.lineno} {f.name}'
      for f in (frames[-1], ours[-1]))


# --- Changes of bytes, and of what they stand for -----------------------------

_NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1,
            2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def bytewise(rng: random.Random, data: bytes) -> bytes:
  """Changes, removes, repeats or inserts some bytes."""
  data = bytearray(data)
  for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
    at = rng.randrange(len(data) + 1)
    size = rng.choice((1, 1, 2, 4, 8, 32, 256))
    kind = rng.randrange(8)
    if kind == 0 and data:
      data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1:
      data[at:at + 1] = bytes([rng.randrange(256)])
    elif kind == 2:
      width, order = rng.choice((1, 2, 4, 8)), rng.choice(('little', 'big'))
      value = rng.choice(_NUMBERS) % 2**(8 * width)
      data[at:at + width] = value.to_bytes(width, order)
    elif kind == 3:
      del data[at:at + size]
    elif kind == 4:
      data[at:at] = data[at:at + size] * rng.choice((1, 2, 64))
    elif kind == 5:
      data[at:at] = rng.randbytes(size)
    elif kind == 6:
      other = rng.randrange(len(data) + 1)
      data[at:at + size] = data[other:other + size]
    elif rng.random() < 0.2:
      del data[at:]
  return bytes(data)


def either(*changes: Change) -> Change:
  return lambda rng, data: rng.choice(changes)(rng, data)


def _or_bytes(change):
  """Where an input has no such structure any more, bytes are changed."""
  def changed(rng, data):
    try:
      return change(rng, data)
    except Exception:  # pylint: disable=broad-except
      return bytewise(rng, data)
  return changed


STRINGS = ('', '.', '..', '../../x.png', '/etc/passwd', 'a\0b', '\x1b[2J',
           'é', '\ud800', 'x' * 70_000, '%s%n', '{0}', 'nan', 'inf', '-inf',
           '1e999', '9' * 5000, '0x10', '__class__', 'config.json', '~', '*',
           "__import__('os').system('true')", '[' * 3000, '()', 'None', 'True')
VALUES = (*STRINGS, None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5,
          float('nan'), float('inf'), [], {}, [[]], {'a': 1}, [None] * 1000)


@_or_bytes
def jsonwise(rng: random.Random, data: bytes) -> bytes:
  """Replaces, removes, moves or doubles a value somewhere in JSON."""
  if rng.random() < 0.02:
    deep = rng.choice((b'[', b'{"a":')) * 100_000
    return deep if rng.random() < 0.5 else data.replace(b'1', deep, 1)
  lines = data.splitlines() if b'}\n{' in data else [data]
  number = rng.randrange(len(lines))
  tree = [json.loads(lines[number])]
  places = []

  def walk(node):
    for key in (node if isinstance(node, dict) else range(len(node))):
      places.append((node, key))
      if isinstance(node[key], dict | list):
        walk(node[key])

  walk(tree)
  for _ in range(rng.choice((1, 1, 2, 5))):
    node, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0 and node is not tree and isinstance(node, dict):
      node.pop(key, None)
    elif kind == 1 and isinstance(node, dict):
      node[rng.choice(STRINGS)] = node.get(key)
    elif kind == 2:
      other, at = rng.choice(places)
      with contextlib.suppress(LookupError):
        node[key] = json.loads(json.dumps(other[at]))
    else:
      with contextlib.suppress(LookupError):
        node[key] = rng.choice(VALUES)
  lines[number] = json.dumps(tree[0]).encode()
  return b'\n'.join(lines) + data[len(data.rstrip(b'\n')):]


@_or_bytes
def textwise(rng: random.Random, data: bytes) -> bytes:
  """Replaces a word by a hostile or another one."""
  parts = re.split(r'([^\w.]+)', data.decode())
  at = rng.randrange(len(parts))
  parts[at] = str(rng.choice((*VALUES, *parts[:50])))
  return ''.join(parts).encode('utf-8', 'surrogatepass')


def _packing(magic: bytes):
  return {b'\x1f\x8b': gzip, b'BZh': bz2, b'\xfd7': lzma}[magic]


def packed(inner: Change) -> Change:
  """Changes what is gzipped; some are packed otherwise, or become bombs."""
  @_or_bytes
  def change(rng, data):
    plain = gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data
    plain = inner(rng, plain)
    if rng.random() < 0.01:
      plain += bytes(2**27)
    module = rng.choice((gzip, gzip, gzip, bz2, lzma))
    return module.compress(plain)
  return change


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED,
            zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zipped(inner: Change) -> Change:
  """Changes members, names, flags and the promises of a zip."""
  @_or_bytes
  def change(rng, data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      members = [(i.filename, archive.read(i)) for i in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.randrange(7)
    if kind <= 2:
      members[at] = name, inner(rng, content)
    elif kind == 3:
      root = name.rpartition('/')[0]
      members[at] = rng.choice((
          rng.choice(STRINGS)[:60_000], f'../{name}', f'/{name}',
          f'{root}/{rng.choice(members)[0]}', name + '\0.png', f'C:{name}',
          name.upper(), f'{name}/', name.replace('/', '\\'))), content
    elif kind == 4:
      members.insert(rng.randrange(len(members) + 1), (name, content))
    elif kind == 5:
      del members[at]
    elif rng.random() < 0.05:
      members[at] = name, bytes(2**26)
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, 'w') as archive:
      warnings.simplefilter('ignore')  # Of names that are there twice.
      for name, content in members:
        with contextlib.suppress(UnicodeError):
          info = zipfile.ZipInfo('x')
          info.filename = name
          if rng.random() < 0.05:
            info.external_attr = 0o120777 << 16  # a symbolic link
          archive.writestr(info, content, rng.choice(_METHODS)
                           if kind == 6 else zipfile.ZIP_STORED)
    data = bytearray(stream.getvalue())
    if rng.random() < 0.3:  # The central directory lies about a member.
      starts = [m.start() for m in re.finditer(b'PK\1\2', data)]
      if starts:
        at = rng.choice(starts) + rng.choice((8, 10, 16, 20, 24, 28, 42))
        data[at:at + 4] = (rng.choice(_NUMBERS) % 2**32).to_bytes(4, 'little')
    return bytes(data)
  return change


_DTYPES = ('|O', '<f8', '<f4', '|V1000000', '<U0', '<U100000000', '<M8[ns]',
           '|S1', '>i4', '<c16', '|b1', 'O', 'nonsense', '<f2',
           [('a', '<f4'), ('b', '|O')])
_SHAPES = ((), (0,), (-1,), (2**62, 4), (2**31,), (10**10,), (10**100,),
           (1,) * 65, (3, 4), (0, 2**63), (True,), (1.5,), 'x', None)


@_or_bytes
def npywise(rng: random.Random, data: bytes) -> bytes:
  """Gives an array a hostile header."""
  stream = io.BytesIO(data)
  np.lib.format.read_magic(stream)
  shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
  header = {'descr': dtype.str, 'fortran_order': fortran, 'shape': shape}
  key = rng.choice(('descr', 'descr', 'shape', 'shape', 'fortran_order', 'x'))
  header[key] = rng.choice({'descr': _DTYPES, 'shape': _SHAPES}.get(
      key, VALUES[-15:]))
  text = rng.choice((repr(header),) * 9 + (
      '(' * 5000, '[' * 9000, '{' * 100, "__import__('os').system('true')",
      f'{header}L', repr(header).replace(',', 'L,')))
  text = text.encode('latin1', 'replace') + b'\n'
  version = rng.choice((1, 1, 1, 2, 3, 9))
  length = len(text).to_bytes(2 if version == 1 else 4, 'little') if (
      rng.random() < 0.9) else b'\xff\xff\xff\x7f'
  return b'\x93NUMPY' + bytes([version, 0]) + length + text + stream.read()


_OPCODES = (
    b'cos\nsystem\n', b'(S"true"\n', b'tR', b'c__builtin__\neval\n', b'R',
    b'\x81', b'b', b'N}b', b'}(', b'u', b'0', b'1', b'2', b'Q', b'(lp0\n',
    b'r\xff\xff\xff\x7f', b'j\0\0\0\0', b'\x94', b'\x86', b'\x85\x94', b'h\0',
    b'\x8b\xff\xff\xff\x7f', b'\x8e' + b'\xff' * 7 + b'\x7f', b'.', b'\x93',
    b'N(dS"__setstate__"\ncbuiltins\nexec\ns\x86b', b'(cos\nsystem\nI1\no',
    b'\x8f', b'(\x91', b'\x92', b'\x98', b'\x97', b'I' + b'9' * 5000 + b'\n',
    b'\x8c\x02os\x8c\x06system\x93', b')\x81', b'\x82\1', b'K\1', b'N', b'e')


@_or_bytes
def picklewise(rng: random.Random, data: bytes) -> bytes:
  """Removes, doubles, swaps or inserts opcodes."""
  at = [position for _, _, position in pickletools.genops(data)]
  end = at[-1] + 1
  parts = [data[a:b] for a, b in zip(at, [*at[1:], end], strict=True)]
  for _ in range(rng.choice((1, 1, 2, 4))):
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(6)
    if kind == 0:
      del parts[i:i + rng.choice((1, 1, 3))]
    elif kind == 1:
      parts.insert(i, parts[j])
    elif kind == 2:
      parts[i], parts[j] = parts[j], parts[i]
    elif kind == 3:
      parts.insert(i, rng.choice(_OPCODES))
    elif kind == 4:
      parts[i:i] = [b''.join(parts[j:j + 5])] * rng.choice((1, 3))
    else:
      parts[i] = parts[i][:1] + bytewise(rng, parts[i][1:])
    parts = parts or [b'.']
  return b''.join(parts) + data[end:]


def _chunk(kind: bytes, body: bytes) -> bytes:
  return (struct.pack('>I', len(body)) + kind + body
          + struct.pack('>I', zlib.crc32(kind + body)))


@_or_bytes
def pngwise(rng: random.Random, data: bytes) -> bytes:
  """Changes chunks of a PNG, with their checksums set right."""
  chunks, at = [], 8
  while at < len(data):
    size, = struct.unpack_from('>I', data, at)
    chunks.append([data[at + 4:at + 8], data[at + 8:at + 8 + size]])
    at += size + 12
  kind = rng.randrange(6)
  i = rng.randrange(len(chunks))
  if kind == 0:
    side = [rng.choice((0, 1, 8, 4096, 11_000, 16_000, 65_536, 2**31 - 1))
            for _ in range(2)]
    chunks[0][1] = struct.pack('>II', *side) + chunks[0][1][8:]
  elif kind == 1:
    chunks[0][1] = chunks[0][1][:8] + bytes(
        rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
  elif kind == 2:
    chunks[i][1] = bytewise(rng, chunks[i][1])
  elif kind == 3:
    chunks.insert(1, [b'IDAT', zlib.compress(bytes(10**6))])
  elif kind == 4:
    text = b'a\0\0' + zlib.compress(bytes(rng.choice((10, 10**7))))
    chunks.insert(1, [rng.choice((b'zTXt', b'iCCP', b'iTXt', b'eXIf', b'tRNS',
                                  b'acTL', b'fcTL', b'PLTE', b'gAMA')),
                      rng.choice((text, text[3:], b'', bytes(8), bytes(800)))])
  else:
    chunks.insert(rng.randrange(len(chunks)), chunks.pop(i))
  return data[:8] + b''.join(_chunk(k, b) for k, b in chunks)


@_or_bytes
def tarwise(rng: random.Random, data: bytes) -> bytes:
  """Changes headers or contents of a tar, with the checksums set right."""
  with tarfile.open(fileobj=io.BytesIO(data)) as archive:
    members = [(m, archive.extractfile(m).read() if m.isfile() else b'')
               for m in archive]
  at = rng.randrange(len(members))
  info, content = members[at]
  kind = rng.randrange(5)
  if kind == 0:
    info.name = rng.choice((*STRINGS[:6], info.name.upper(),
                            rng.choice(members)[0].name)) or 'x'
  elif kind == 1:
    info.type = rng.choice((b'0', b'1', b'2', b'3', b'5', b'6', b'L', b'x',
                            b'S', b'g', b'K'))
  elif kind == 2:
    content = (picklewise if content[:1] == b'\x80' else bytewise)(rng, content)
    members[at] = info, content
  elif kind == 3:
    members.insert(at, (info, content))
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode='w') as archive:
    for info, content in members:
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  data = bytearray(stream.getvalue())
  if kind == 4:  # A header that promises another size.
    data[124:136] = b'%011o\0' % (rng.choice(_NUMBERS) % 2**33)
    data[148:156] = b' ' * 8
    data[148:156] = b'%06o\0 ' % sum(data[:512])
  return bytes(data)


# --- What is read: images and data sets ---------------------------------------


def _images() -> list[bytes]:
  import pictures
  from PIL import Image

  photo = Image.fromarray(pictures.pixels(0))
  clear = photo.convert('RGBA')
  clear.putalpha(100)
  exif = Image.Exif()
  exif[0x0112] = 6
  found = [pictures.encode(photo, form) for form in (
      'png', 'jpeg', 'webp', 'gif', 'bmp', 'tiff', 'ppm', 'eps', 'ico',
      'jpeg2000', 'pcx', 'tga')]
  found += [pictures.encode(clear, 'png'),
            pictures.encode(photo.convert('P'), 'png', transparency=3),
            pictures.encode(photo.convert('1'), 'tiff'),
            pictures.encode(photo, 'jpeg', exif=exif),
            pictures.encode(photo, 'tiff', compression='tiff_lzw'),
            *(data for data, _ in pictures.bad_files().values())]
  return found


def _huge_images() -> list[bytes]:
  """132 million pixels in 90,000 bytes, just within what is decoded."""
  huge = _chunk(b'IHDR', struct.pack('>IIBBBBB', 11_500, 11_500, 8, 6, 0, 0, 0))
  rows = zlib.compressobj(9)
  body = b''.join(rows.compress(bytes(46_001)) for _ in range(2_000))
  return [b'\x89PNG\r\n\x1a\n' + huge
          + _chunk(b'IDAT', body + rows.flush()) + _chunk(b'IEND', b'')]


def _data(source: str, **more):
  return {'source': source, 'resolution': 8, 'labels': 'auto',
          'native_resize': True, 'crop': 'center', **more}


def _read_image(data, folder):
  from gans_jax.data import folder as source_lib

  (folder / 'set').mkdir(exist_ok=True)
  (folder / 'set' / 'a.png').write_bytes(data)
  source_lib.create_source(_data(f'folder:{folder}/set'), 'train')[0]


def _read_target_image(data, folder):
  from gans_jax import project

  (folder / 'a.png').write_bytes(data)
  project.read_target(str(folder / 'a.png'), 8, 3)


def _zips() -> list[bytes]:
  images = _images()
  members = {f'{i}.png': images[i] for i in range(3)}
  labels = {'labels': [[name, i] for i, name in enumerate(members)],
            'class_names': ['a', 'b', 'c']}
  named = {'a/0.png': images[0], 'b/1.png': images[0]}
  found = []
  for files in ({**members, 'dataset.json': json.dumps(labels).encode()},
                members, named):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      stream = io.BytesIO()
      with zipfile.ZipFile(stream, 'w', method) as archive:
        for name, content in files.items():
          archive.writestr(name, content)
      found.append(stream.getvalue())
  return found


def _zip_bombs() -> list[bytes]:
  found = []
  for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', method) as archive:
      archive.writestr('bomb.png', bytes(2**28))
    lying = bytearray(stream.getvalue())
    at = lying.index(b'PK\1\2') + 24
    lying[at:at + 4] = (100).to_bytes(4, 'little')
    found += [stream.getvalue(), bytes(lying)]
  return found


def _read_zip(data, folder):
  from gans_jax.data import transforms
  from gans_jax.data import zip_archive

  (folder / 'a.zip').write_bytes(data)
  source = zip_archive.create_source(_data(f'zip:{folder}/a.zip'), 'train')
  for i in range(min(5, len(source))):
    with contextlib.suppress(transforms.CorruptImage):
      source[i]


def _prepare(data, folder):
  from gans_jax import prepare

  shutil.rmtree(folder / 'out', ignore_errors=True)
  (folder / 'a.zip').write_bytes(data)
  with contextlib.redirect_stderr(io.StringIO()):
    prepare.prepare(_data(f'zip:{folder}/a.zip', skip_corrupt=True, limit=0),
                    str(folder / 'out'), 'zip')
  assert {p.name for p in (folder / 'out').iterdir()} == {
      'manifest.json', 'dataset.zip'}
  assert {p.name for p in folder.iterdir()} <= {'a.zip', 'out', 'input'}


def _dataset_json() -> list[bytes]:
  return [json.dumps(x).encode() for x in (
      {'labels': [['a.png', 0], ['b.png', 3]],
       'class_names': ['a', 'b', 'c', 'd']},
      {'labels': None}, {'labels': [['a.png', 1]]})]


def _read_dataset_json(data, unused_folder):
  from gans_jax.data import image_files

  image_files.read_dataset_json(data, 'dataset.json',
                                {'a.png': 1, 'b.png': 2})


def _idx() -> list[bytes]:
  import idx_files

  arrays = (np.zeros((2, 4, 4), np.uint8), np.arange(3, dtype=np.uint8))
  return [f(idx_files.encode(a)) for a in arrays for f in (bytes, gzip.compress)
          ]


def _read_idx(data, folder):
  from gans_jax.data import idx

  (folder / 'a').write_bytes(data)
  idx.read(str(folder / 'a'))


def _cifar() -> list[bytes]:
  import cifar_archives

  with tempfile.TemporaryDirectory() as folder:
    return [pathlib.Path(make(f'{folder}/{i}.tar.gz')).read_bytes()
            for i, make in enumerate((
                cifar_archives.python_ten, cifar_archives.binary_ten,
                cifar_archives.python_hundred, cifar_archives.binary_hundred))]


def _read_cifar(data, folder):
  from gans_jax.data import cifar

  (folder / 'a.tar.gz').write_bytes(data)
  cifar.create_source({'source': f'cifar:{folder}/a.tar.gz', 'labels': 'class'},
                      'train')[0]


def _prepared(storage: str):
  """Returns the file that is fuzzed of a small prepared set, and the rest."""
  from gans_jax import prepare

  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    (path / 'a.zip').write_bytes(_zips()[0])
    with contextlib.redirect_stderr(io.StringIO()):
      prepare.prepare(_data(f'zip:{path}/a.zip', limit=0), f'{path}/out',
                      storage)
    return {p.name: p.read_bytes() for p in (path / 'out').iterdir()}


_kept = {}


def _prepared_once(storage: str) -> dict[str, bytes]:
  if storage not in _kept:
    with _unwatched():
      _kept[storage] = _prepared(storage)
  return _kept[storage]


@contextlib.contextmanager
def _unwatched():
  folder, _watch['folder'] = _watch['folder'], None
  try:
    yield
  finally:
    _watch['folder'] = folder


def _read_prepared(folder, files):
  from gans_jax.data import prepared
  from gans_jax.data import transforms

  out = folder / 'set'
  out.mkdir(exist_ok=True)
  for name, content in files.items():
    (out / name).write_bytes(content)
  source = prepared.create_source({
      'source': f'prepared:{out}', 'labels': 'class'}, 'train')
  for i in range(min(3, len(source))):
    with contextlib.suppress(transforms.CorruptImage):
      source[i]
  if hasattr(source, 'take'):
    source.take(np.arange(2))


def _manifests() -> list[bytes]:
  return [_prepared_once(storage)['manifest.json']
          for storage in ('array_record', 'zip')]


def _read_manifest(data, folder):
  storage = 'zip' if b'dataset.zip' in data else 'array_record'
  _read_prepared(folder, {**_prepared_once(storage), 'manifest.json': data})


_RECORDS = 'data-00000.array_record'


def _read_records(data, folder):
  files = _prepared_once('array_record')
  manifest = json.loads(files['manifest.json'])
  manifest['shards'][0]['bytes'] = len(data)
  _read_prepared(folder, {
      'manifest.json': json.dumps(manifest).encode(), _RECORDS: data})


# --- What is read: pickles and weights ----------------------------------------


def _saved(value, **options) -> bytes:
  import torch

  stream = io.BytesIO()
  torch.save(value, stream, **options)
  return stream.getvalue()


def nested_pickles() -> list[bytes]:
  """Few bytes that take years: to hash, to print or to walk through."""
  doubled = b')' + b'q\x00h\x00\x86' * 60
  return [b'\x80\x04}' + doubled + b'K\1s.',
          b'\x80\x04' + doubled + b'.\x80\x02K\1.\x80\x02K\1.',
          b'\x80\x04I' + b'9' * 4000 + b'\n.' + b'\x80\x02K\1.' * 2,
          b'\x80\x04]q\0h\0a.']


def _state():
  import torch

  base = torch.arange(24.0).reshape(2, 3, 4)
  return collections.OrderedDict(
      a=base, b=base.transpose(0, 2), c=torch.nn.Parameter(base[0, 1:]),
      d=torch.zeros(0, 3), e=torch.tensor(3), f=base.half(),
      g=base[0, 0, :1].expand(4))


def _torch() -> list[bytes]:
  value = {'state_dict': _state(), 'step': 3, 'x': [1.5, 'y', None]}
  return [_saved(value), _saved(_state()), *nested_pickles(),
          _saved(value, _use_new_zipfile_serialization=False)]


def _read_torch(data, folder):
  from gans_jax.convert import published
  from gans_jax.convert import taming
  from gans_jax.convert import torch_file

  path = folder / 'a.pth'
  path.write_bytes(data)
  what = published.Published('a network', '', 0, '', (), '', '')
  found = None
  for read in (torch_file.load, lambda x: published.state_dict(x, what),
               taming.load_state):
    try:
      found = read(path)
    except errors.UserError as error:
      problem = error
  if found is None:
    raise problem
  for value in found.values() if isinstance(found, dict) else ():
    if isinstance(value, np.ndarray):
      np.asarray(value, np.float32)


def _script() -> list[bytes]:
  import torch

  net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
  stream = io.BytesIO()
  torch.jit.save(torch.jit.script(net), stream)
  return [stream.getvalue()]


def _networks() -> list[bytes]:
  import network_pickles

  def value(unused_name, shape):
    return np.zeros(shape, np.float32)

  found = []
  with tempfile.TemporaryDirectory() as folder:
    networks, _ = network_pickles.stylegan2(
        value, g={'resolution': 8}, d={'resolution': 8})
    variables = [('4x4/Const/const', value('', (1, 4, 4, 4))), ('lod', 0.0)]
    network = network_pickles.Network(
        build_func_name='training.networks_stylegan2.G_main',
        static_kwargs={'resolution': 8}, variables=variables,
        components={'synthesis': network_pickles.Network(
            variables=variables, components={})})
    for i, content in enumerate((networks, (network,) * 3)):
      path = network_pickles.dump(content, f'{folder}/{i}.pkl')
      found.append(pathlib.Path(path).read_bytes())
  return [*found, *nested_pickles()]


def _read_networks(data, folder):
  from gans_jax.convert import __main__ as command

  (folder / 'a.pkl').write_bytes(data)
  for format_ in ('stylegan2', 'stylegan', 'progan'):
    try:
      command.read(format_, str(folder / 'a.pkl'), None)
    except errors.UserError as error:
      problem = error
  raise problem


def _varint(value: int) -> bytes:
  out = b''
  while value > 127:
    out += bytes([value & 127 | 128])
    value >>= 7
  return out + bytes([value])


def _field(number: int, value) -> bytes:
  if isinstance(value, int):
    return _varint(number << 3) + _varint(value)
  return _varint(number << 3 | 2) + _varint(len(value)) + value


def _graphs() -> list[bytes]:
  def graph(shape, content, name: bytes | int = b'conv/weights'):
    dims = b''.join(_field(2, _field(1, n)) for n in shape)
    tensor = _field(1, 1) + _field(2, dims) + content
    attribute = _field(1, b'value') + _field(2, _field(8, tensor))
    return _field(1, _field(1, name) + _field(2, b'Const')
                  + _field(5, attribute))
  four = np.arange(4, dtype=np.float32).tobytes()
  return [graph((2, 2), _field(4, four)), graph((9,), _field(5, four[:4])),
          graph((2**33,), _field(5, four[:4])), graph((2,), _field(4, 2**33)),
          graph((2, 2), _field(4, four), 2**33)]


def _read_graph(data, unused_folder):
  from gans_jax.convert import inception

  inception.graph_constants(data, 'a.pb')


def _arrays(**arrays) -> bytes:
  stream = io.BytesIO()
  np.savez(stream, **arrays)
  return stream.getvalue()


def _statistics() -> list[bytes]:
  facts = json.dumps({'features': {'name': 'lite0', 'dim': 3}, 'data': {}})
  one = io.BytesIO()
  np.save(one, np.zeros(3))
  return [
      _arrays(mu=np.zeros(3), sigma=np.eye(3), facts=facts, floor='{}',
              count=np.asarray(9)),
      _arrays(mu=np.zeros(3), sigma=np.eye(3)),
      _arrays(feats=np.zeros((4, 3), np.float32), facts='x', floor='[]'),
      _arrays(w=np.zeros((1, 2, 3), np.float32)), one.getvalue()]


def _statistics_bombs() -> list[bytes]:
  stream = io.BytesIO()
  np.savez_compressed(stream, mu=np.zeros(3), sigma=np.zeros((2**14, 2**13)))
  return [stream.getvalue()]


def _read_statistics(data, folder):
  from gans_jax.convert import inception
  from gans_jax.core import archives
  from gans_jax.metrics import reference

  path = str(folder / 'a.npz')
  pathlib.Path(path).write_bytes(data)
  with contextlib.suppress(ValueError, OSError):
    archives.read_npz(path)
  reference._read(pathlib.Path(path), json.dumps(  # pylint: disable=protected-access
      {'features': {'name': 'lite0', 'dim': 3}, 'data': {}}))
  for read in (lambda: reference.read_file(path, {'name': 'lite0', 'dim': 3},
                                           'kd'),
               lambda: inception.read(path),
               lambda: reference.read_file(path, {'name': 'lite0', 'dim': 3},
                                           'fd')):
    try:
      read()
      return
    except errors.UserError as error:
      problem = error
  raise problem


_YAML = b'''model:
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: 8
    n_embed: 24
    ddconfig: {ch: 32, ch_mult: [1, 2], num_res_blocks: 1, resolution: 16,
               attn_resolutions: [4], z_channels: 8, in_channels: 3}
    lossconfig: {target: x, params: {disc_start: 25, disc_weight: 0.8}}
'''
_GPT = b'''model:
  target: taming.models.cond_transformer.Net2NetTransformer
  params:
    cond_stage_key: class
    transformer_config: {target: taming.modules.transformer.mingpt.GPT,
      params: {vocab_size: 24, block_size: 32, n_layer: 1, n_head: 4,
               n_embd: 32}}
    first_stage_config: {params: {n_embed: 24}}
    cond_stage_config: {target: taming.modules.util.SOSProvider, params: {}}
'''


def _yamls() -> list[bytes]:
  laughs = b'a0: &a0 {x: 1}\n' + b''.join(
      b'a%d: &a%d {<<: [*a%d, *a%d]}\n' % (i, i, i - 1, i - 1)
      for i in range(1, 60))
  return [_YAML, _GPT, laughs, b'[' * 5000, b'a: 2001-99-99', b'a: !!int ""']


def _read_yaml(data, folder):
  from gans_jax.convert import taming

  with _unwatched():
    if 'ckpt' not in _kept:
      _kept['ckpt'] = _saved({'state_dict': _state()})
    (folder / 'a.ckpt').write_bytes(_kept['ckpt'])
  (folder / 'a.yaml').write_bytes(data)
  taming.snapshots(str(folder / 'a.ckpt'))


def _msgpacks() -> list[bytes]:
  import flax.serialization

  x = np.zeros((2, 3), np.float32)
  return [flax.serialization.msgpack_serialize({'params': tree}) for tree in (
      {'encoder': {'Conv_0': {'kernel': x}}, 'decoder': {},
       'quantizer': {'codebook': x}},
      {'Embed_0': {'position_embeddings': {'embedding': x}}})]


def _read_msgpack(data, folder):
  from gans_jax.convert import maskgit

  (folder / 'a').write_bytes(data)
  maskgit.read(str(folder / 'a'), str(folder / 'a'))


# --- What is read: configs and workdirs ---------------------------------------


def _overrides() -> list[bytes]:
  return [b'total_steps=3\nmodel.ngf=16\nbatch_size=8',
          b'total_kimg=0.5\nema.decay=0.5\ndata.flip=true',
          b'evaluate.metrics=fd5k_lite0,kd5k_lite0\ntotal_steps=1_000',
          b"evaluate.metrics=('a','b')\nloss.name=hinge",
          b'optimizer.G.lr=1e-3\nalarms.nan=off', b'data.groups=(1,[2])',
          b'evaluate.metrics=' + b'(' * 5000, b'batch_size=' + b'9' * 5000,
          b'data.groups=[' + b'-' * 90_000, b'model=3\n.=1\n=\n']


def _read_overrides(data, unused_folder):
  from gans_jax.core import config as config_lib

  items = data.decode('utf-8', 'replace').splitlines()
  config_lib.parse_arg(','.join(items[1:]), row='a', n=3, x=0.5, flip=False)\
      if items and items[0].startswith('arg') else None
  config = config_lib.base('dcgan')
  overrides, _ = config_lib.split_overrides([f'--config.{x}' for x in items])
  config_lib.apply_overrides(config, overrides)
  config_lib.validate(config)
  config_lib.to_json(config)


def _configs() -> list[bytes]:
  from gans_jax.core import config as config_lib
  from gans_jax.core import workdir

  found = []
  for name in ('dcgan', 'toy'):
    config = {**config_lib.to_json(config_lib.base(name)), 'total_steps': 3}
    found.append(json.dumps({'program': workdir.PROGRAM, 'config': config,
                             'data': {}}).encode())
  return found


def _read_config(data, folder):
  from gans_jax.core import config as config_lib
  from gans_jax.core import workdir

  (folder / 'config.json').write_bytes(data)
  (folder / 'config_history.jsonl').write_bytes(
      b'{"changed": {"batch_size": [1, 2], "a.b": 3}}\n{"changed": '
      + data + b'}\n')
  workdir.read_config(str(folder))
  config_lib.validate(config_lib.from_json(workdir.latest_config(str(folder))))


def _metrics() -> list[bytes]:
  lines = [{'step': i, 'kimg': i / 10, 'loss/d': 0.5, 'perf/x': None,
            'logits/real': 1.0} for i in range(3)]
  results = [{'step': i, 'metric': 'fd', 'value': 1.5,
              'fake': {'images_seen': 9, 'truncation': 0.5}} for i in range(2)]
  return [''.join(json.dumps(x) + '\n' for x in rows).encode()
          for rows in (lines, results)]


def _read_metrics(data, folder):
  from gans_jax.core import curves
  from gans_jax.core import logging as logging_lib

  for name in ('metrics.jsonl', 'evaluations.jsonl'):
    (folder / name).write_bytes(data)
  curves.series(logging_lib.read_metrics(str(folder)))
  curves.series(curves.evaluations(str(folder)))


def _checksums() -> list[bytes]:
  return [json.dumps({'algorithm': 'sha256', 'files': {
      'meta/metadata': [2, '0' * 64], 'a': [0, '']}}).encode(),
          b'{"step": 3, "metrics": {"fd": 1.5}, "clock": {}}']


def _read_checkpoint(data, folder):
  from gans_jax.core import checkpoint

  step = folder / 'checkpoints' / '3'
  (step / 'meta').mkdir(parents=True, exist_ok=True)
  (step / 'checksums.json').write_bytes(data)
  (step / 'meta' / 'metadata').write_bytes(data)
  checkpoint._verify(str(step))  # pylint: disable=protected-access
  with checkpoint.Checkpointer(
      str(folder), best_metric=('fd', 'min')) as found:
    found.best_step()


def _tokens() -> list[bytes]:
  stream = io.BytesIO()
  np.save(stream, np.zeros((3, 4), np.uint16))
  facts = {'arrays': {'a': [[3, 4], 'uint16']}, 'done': True}
  return [stream.getvalue(), json.dumps(facts).encode()]


def _read_tokens(data, folder):
  from gans_jax.data import tokens

  kept = _tokens()
  (folder / 'a.npy').write_bytes(kept[0] if data[:1] == b'{' else data)
  (folder / tokens.FACTS).write_bytes(data if data[:1] == b'{' else kept[1])
  tokens.read(str(folder))


TARGETS = {
    'overrides': Target(_overrides, _read_overrides, either(
        textwise, bytewise)),
    'config': Target(_configs, _read_config, either(jsonwise, bytewise)),
    'metrics': Target(_metrics, _read_metrics, either(jsonwise, bytewise)),
    'checkpoint': Target(_checksums, _read_checkpoint, either(
        jsonwise, bytewise)),
    'dataset_json': Target(_dataset_json, _read_dataset_json, either(
        jsonwise, bytewise)),
    'image': Target(_images, _read_image, either(bytewise, pngwise),
                    _huge_images),
    'projected': Target(_images, _read_target_image, either(
        bytewise, pngwise), _huge_images),
    'zip': Target(_zips, _read_zip, either(bytewise, zipped(either(
        bytewise, pngwise, jsonwise))), _zip_bombs),
    'prepare': Target(_zips, _prepare, zipped(either(
        bytewise, pngwise, jsonwise)), _zip_bombs),
    'idx': Target(_idx, _read_idx, either(bytewise, packed(bytewise)),
                  lambda: [gzip.compress(bytes(2**30 + 9))]),
    'cifar': Target(_cifar, _read_cifar, either(
        bytewise, packed(either(tarwise, tarwise, bytewise)))),
    'manifest': Target(_manifests, _read_manifest, either(
        jsonwise, jsonwise, bytewise)),
    'records': Target(lambda: [_prepared_once('array_record')[_RECORDS]],
                      _read_records, bytewise),
    'torch': Target(_torch, _read_torch, either(
        bytewise, picklewise, zipped(either(picklewise, bytewise)))),
    'torchscript': Target(_script, _read_torch, either(
        bytewise, zipped(either(picklewise, bytewise)))),
    'networks': Target(_networks, _read_networks, either(
        picklewise, picklewise, bytewise)),
    'graph': Target(_graphs, _read_graph, bytewise),
    'statistics': Target(_statistics, _read_statistics, either(
        bytewise, zipped(either(npywise, npywise, bytewise))),
        _statistics_bombs),
    'yaml': Target(_yamls, _read_yaml, either(textwise, bytewise)),
    'msgpack': Target(_msgpacks, _read_msgpack, bytewise),
    'tokens': Target(_tokens, _read_tokens, either(
        npywise, jsonwise, bytewise)),
}


# --- Campaigns ----------------------------------------------------------------


class Campaign:
  """Inputs tried on one target, and what was found; kept in a JSON file."""

  def __init__(self, name: str, out: pathlib.Path):
    self.target = TARGETS[name]
    self.tried = self.accepted = 0
    self.found = {}
    self._name = name
    self._out = out
    self._folder = out / f'{name}_folder'
    shutil.rmtree(self._folder, ignore_errors=True)
    self._folder.mkdir(parents=True)
    self._written = 0.0

  def one(self, data: bytes) -> bool:
    """Tries an input; returns whether it was accepted."""
    # In case that the process does not survive it.
    (self._folder / 'input').write_bytes(data)
    fault, good = attempt(self.target, data, self._folder)
    self.tried += 1
    self.accepted += good
    kind = re.sub(r'[\d\'"]+', '#', fault)[:120]
    if fault and kind not in self.found:
      path = self._out / f'{self._name}_{len(self.found)}.bin'
      path.write_bytes(data)
      self.found[kind] = f'{path.name}: {fault}'
      print(f'{self._name}: {self.found[kind]}', flush=True)
    if time.monotonic() - self._written > 1 or fault:
      self.write()
    return good

  def write(self) -> None:
    self._written = time.monotonic()
    (self._out / f'{self._name}.json').write_text(json.dumps({
        'tried': self.tried, 'accepted': self.accepted,
        'found': list(self.found.values())}))


def run_own(campaign: Campaign, seconds: float, seed: int) -> None:
  """Changes inputs at random; those still accepted are changed further."""
  rng = random.Random(f'{seed} {campaign._name}')  # pylint: disable=protected-access
  seeds = campaign.target.seeds()
  for data in [*seeds, *campaign.target.bombs()]:
    campaign.one(data)
  more, end = [], time.monotonic() + seconds
  while time.monotonic() < end:
    data = rng.choice(more if more and rng.random() < 0.4 else seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
      data = campaign.target.change(rng, data)
    if campaign.one(data) and len(data) < 10**6 and rng.random() < 0.1:
      more.append(data)
      del more[:-200]
  campaign.write()


def run_atheris(campaign: Campaign, seconds: float, seed: int) -> None:
  """Follows coverage of Python code; ends the process."""
  import atheris

  folder = campaign._out / f'{campaign._name}_corpus'  # pylint: disable=protected-access
  folder.mkdir(exist_ok=True)
  with atheris.instrument_imports(
      include=['gans_jax', 'zipfile', 'tarfile', 'PIL', 'pickletools']):
    for i, data in enumerate(campaign.target.seeds()):
      (folder / str(i)).write_bytes(data)
      campaign.one(data)

  def change(data, size, number):
    if number % 2:
      return atheris.Mutate(data, size)
    return campaign.target.change(random.Random(number), data)[:size]

  atheris.Setup(
      [sys.argv[0], str(folder), f'-max_total_time={int(seconds)}',
       f'-seed={seed + 1}', '-max_len=100000', '-timeout=120',
       '-rss_limit_mb=0', '-verbosity=0'],
      lambda data: campaign.one(data) and None,
      custom_mutator=change)
  atheris.Fuzz()


def run_child(args, name: str, out: pathlib.Path) -> dict:
  """Fuzzes a target in a process of its own; returns what was found."""
  command = [sys.executable, __file__, f'--child={name}', f'--out={out}',
             f'--seconds={args.seconds}', f'--seed={args.seed}',
             f'--engine={args.engine}']
  (out / f'{name}.json').unlink(missing_ok=True)
  problem = ''
  try:
    process = subprocess.run(
        command, timeout=args.seconds + 300, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
    if process.returncode:
      problem = (f'the process ended with {process.returncode} at '
                 f'{name}_folder/input: {process.stderr[-500:]}')
  except subprocess.TimeoutExpired:
    problem = f'the process hung at {name}_folder/input'
  path = out / f'{name}.json'
  result = json.loads(path.read_text()) if path.exists() else {
      'tried': 0, 'accepted': 0, 'found': []}
  if problem:
    result['found'].append(problem)
    print(f'{name}: {problem}')
  return result


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--target', default='all',
                      help=f'all, or of {", ".join(TARGETS)}')
  parser.add_argument('--seconds', type=float, default=60, help='per target')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--engine', choices=('own', 'atheris'), default='own')
  parser.add_argument('--out', help='a temporary directory by default')
  parser.add_argument('--child', help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  out = pathlib.Path(args.out or tempfile.mkdtemp(prefix='fuzz_')).resolve()
  out.mkdir(parents=True, exist_ok=True)
  if args.child:
    cli.quiet_libraries()
    run = run_atheris if args.engine == 'atheris' else run_own
    run(Campaign(args.child, out), args.seconds, args.seed)
    return 0
  names = list(TARGETS) if args.target == 'all' else args.target.split(',')
  if not set(names) <= TARGETS.keys():
    parser.error(f'--target: expected all, or of {", ".join(TARGETS)}')
  results = {name: run_child(args, name, out) for name in names}
  print('target         tried  accepted  findings')
  for name, result in results.items():
    print(f'{name:12} {result["tried"]:7}  {result["accepted"]:8}  '
          f'{len(result["found"]):8}')
  total = sum(len(result['found']) for result in results.values())
  print(f'{"together":12} {sum(x["tried"] for x in results.values()):7}  '
        f'{sum(x["accepted"] for x in results.values()):8}  {total:8}'
        + (f'  in {out}' if total else ''))
  if not total and not args.out:
    shutil.rmtree(out)
  return 1 if total else 0


if __name__ == '__main__':
  sys.exit(main())
