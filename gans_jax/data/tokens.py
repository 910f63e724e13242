"""Tokens of a frozen tokenizer as data: extracted once, stored, checked.

Where `data.tokenizer` (or `data.cond_tokenizer`) is set, `open_dataset` puts
`TokenDataset` around the images: examples then have `tokens` int32 [h, w] (or
`cond_tokens`) beside what they had, and the spec says whose they are and how
many codes there are (`DataSpec.tokenizers`). core/tokenizer.py has the rest of
the contract between the stages.

Storage: FOLDER/HASH/ with `tokens.npy` [N, h, w] (uint16, or int32 for more
than 65,536 codes), `label.npy` where there are labels, and `tokens.json`.
HASH names the tokenizer's weights and the data; FOLDER is `data.tokens_dir`,
or `tokens` in the tokenizer's workdir. The folder is built under another name
and renamed when it is whole; an extraction that was interrupted goes on where
it was. Of several processes or runs that want the same tokens one extracts
and the others wait. Pixels as tokens are not stored.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import threading
from typing import Any

import jax
import numpy as np

from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import processes
from gans_jax.core import sampler
from gans_jax.core import tokenizer as tokenizer_lib
from gans_jax.data import spec as spec_lib

FACTS = 'tokens.json'
BATCH = 64
_SAVE_EVERY = 20  # batches between two notes of how far an extraction is
_log = logging.getLogger(__name__)


class TokenDataset:
  """A `pipeline.Dataset` with tokens; the members are the same."""

  def __init__(self, images, tokenizers: Mapping[str, tokenizer_lib.Tokenizer],
               folder: str = ''):
    """Checks all that can be checked without extracting.

    Args:
      images: a `pipeline.Dataset`.
      tokenizers: by batch key, 'tokens' or 'cond_tokens'.
      folder: where token files are kept; '' for the tokenizer's workdir.

    Raises:
      UserError: data that a tokenizer does not encode.
    """
    for tokenizer in tokenizers.values():
      tokenizer.check(images.spec)
    self._images = images
    self._tokenizers = dict(tokenizers)
    self._folder = folder
    self._arrays = None
    self._lock = threading.Lock()
    self.spec = token_spec(images.spec, tokenizers)

  def __getstate__(self):
    # A reader process opens the files; it has no use for the nets.
    self.prepare()
    arrays = {key: leaf.filename if isinstance(leaf, np.memmap) else leaf
              for key, leaf in self._arrays.items()}
    return {**self.__dict__, '_lock': None, '_tokenizers': {},
            '_arrays': arrays}

  def __setstate__(self, state):
    arrays = {key: np.load(leaf, mmap_mode='r', allow_pickle=False)
              if isinstance(leaf, str) else leaf
              for key, leaf in state['_arrays'].items()}
    self.__dict__.update(state, _lock=threading.Lock(), _arrays=arrays)

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    tokens = {key: leaf[0] for key, leaf in self._tokens([index]).items()}
    return {**self._images[index], **tokens}

  def take(self, indices: np.ndarray, keys=None) -> dict[str, np.ndarray]:
    """Returns the arrays of several examples.

    Args:
      indices: of the examples.
      keys: those wanted; all by default. Images are read only if they are.
    """
    keys = self.spec.keys if keys is None else keys
    found = self._tokens(indices)
    if set(keys) - set(found):
      found = {**self._images.take(indices), **found}
    return {key: found[key] for key in keys}

  @property
  def skipped(self) -> dict[int, str]:
    return self._images.skipped

  @property
  def whole(self):
    """The same data without a limit; if it has one, without tokens too."""
    images = self._images.whole
    return self if images is self._images else images

  @property
  def in_memory(self) -> bool:
    return self._images.in_memory

  def prepare(self) -> None:
    """Extracts or opens the tokens; a collective of all processes.

    Raises:
      UserError: files that are damaged or cannot be written.
    """
    with self._lock:
      if self._arrays is None:
        arrays = {}
        for key, tokenizer in self._tokenizers.items():
          found = _open(self._images, tokenizer, self._folder)
          arrays[key] = found.pop('tokens')
          arrays.update(found)
        self._arrays = arrays

  def _tokens(self, indices) -> dict[str, np.ndarray]:
    if self._arrays is None:
      self.prepare()
    return {key: np.asarray(leaf[np.asarray(indices)]).astype(np.int32)
            for key, leaf in self._arrays.items()}

  def __repr__(self) -> str:
    return f'TokenDataset({self.spec.identity}, {len(self)})'


def of_config(images, data_config) -> TokenDataset:
  """Returns `images` with the tokens that a config's data section names."""
  found = {}
  for key, name in tokenizer_lib.CONFIG_KEYS.items():
    if data_config.get(name, ''):
      found[key] = tokenizer_lib.load(
          data_config.get(name), data_config.get(f'{name}_step', 0), name,
          images.spec.channels)
  return TokenDataset(images, found, data_config.get('tokens_dir', ''))


def token_spec(spec: spec_lib.DataSpec,
               tokenizers: Mapping[str, tokenizer_lib.Tokenizer]
               ) -> spec_lib.DataSpec:
  """Returns the spec of data with the tokens of `tokenizers` added."""
  shapes, entries = list(spec.shapes), []
  for key, tokenizer in tokenizers.items():
    shapes.append((key, tokenizer.shape(spec), 'int32'))
    entries.append((key, tokenizer.identity, tokenizer.codebook_size))
  hashes = [(key, identity.split('@')[0]) for key, identity, _ in entries]
  return dataclasses.replace(
      spec, keys=tuple(key for key, _, _ in shapes), shapes=tuple(shapes),
      tokenizers=tuple(entries), identity=spec_lib.identity_hash(
          {'of': spec.identity, 'tokenizers': hashes}))


# --- Files --------------------------------------------------------------------


def _open(images, tokenizer: tokenizer_lib.Tokenizer,
          folder: str) -> dict[str, np.ndarray]:
  """Returns {'tokens': [N, h, w], and 'label' [N] if there are labels}."""
  if not tokenizer.variables:
    return _in_memory(images, tokenizer)
  root = folder or os.path.join(
      os.path.abspath(os.path.expanduser(tokenizer.name)), 'tokens')
  name = spec_lib.identity_hash({
      'tokenizer': tokenizer.identity.split('@')[0],
      'data': images.spec.identity})
  path = os.path.join(root, name)
  processes.on_main(lambda: _make(images, tokenizer, path))
  return read(path)


def read(path: str) -> dict[str, np.ndarray]:
  """Opens a folder of tokens; the arrays stay on disk.

  Raises:
    UserError: files that are missing, damaged or of another size.
  """
  facts = _read_facts(path)
  arrays = {}
  for key, (shape, dtype) in facts['arrays'].items():
    name = os.path.join(path, f'{key}.npy')
    try:
      found = np.load(name, mmap_mode='r', allow_pickle=False)
      good = found.shape == tuple(shape) and found.dtype == dtype
      problem = f'it holds {found.dtype}{list(found.shape)}'
    except Exception as error:  # Damaged headers raise nearly every type.
      good, problem = False, str(error)
    if not good:
      raise errors.UserError(
          f'{name} is damaged: expected {dtype}{list(shape)}, but {problem}. '
          f'Delete the folder {path}; the tokens will be extracted again.')
    arrays[key] = found
  return arrays


def _read_facts(path: str) -> dict[str, Any]:
  name = os.path.join(path, FACTS)
  try:
    with open(name, encoding='utf-8') as f:
      facts = json.load(f)
    arrays = {os.path.basename(key): (list(shape), str(dtype))
              for key, (shape, dtype) in facts['arrays'].items()}
    return {**facts, 'arrays': arrays, 'done': facts['done']}
  except (AttributeError, KeyError, OSError, RecursionError, TypeError,
          ValueError) as error:
    raise errors.UserError(
        f'{name} cannot be read ({error}). Delete the folder {path}; the '
        'tokens will be extracted again.') from error


def _make(images, tokenizer: tokenizer_lib.Tokenizer, path: str) -> None:
  """Extracts to `path` if that is not done yet."""
  if os.path.isdir(path):
    return
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    lock = open(f'{path}.lock', 'w', encoding='utf-8')
  except OSError as error:
    raise _cannot_write(path, error) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      _log.info('another run extracts the tokens %s; waiting for it', path)
      fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
      pass  # A file system without locks.
    if not os.path.isdir(path):
      try:
        _extract(images, tokenizer, f'{path}.partial')
        os.replace(f'{path}.partial', path)
      except OSError as error:
        raise _cannot_write(path, error) from error
  with contextlib.suppress(OSError):
    os.unlink(f'{path}.lock')


def _cannot_write(path: str, error: OSError) -> errors.UserError:
  return errors.UserError(
      f'The tokens {path} cannot be written: {error.strerror or error}. Free '
      'space there, get permission to write, or name another folder with '
      '--config.data.tokens_dir.')


def _extract(images, tokenizer: tokenizer_lib.Tokenizer, path: str) -> None:
  """Writes the files of `read` into `path`, from where it was stopped."""
  arrays, facts = _begin(images, tokenizer, path)
  done = facts['done']
  _log.info('extracting the tokens of %d images%s', len(images),
            f', {done} are there' if done else '')
  for count, batch in enumerate(_batches(images, tokenizer, done), 1):
    size = len(batch['tokens'])
    for key, leaf in batch.items():
      arrays[key][done:done + size] = leaf
    done += size
    if count % _SAVE_EVERY == 0:
      _save(path, arrays, {**facts, 'done': done})
  _save(path, arrays, {**facts, 'done': done})


def _save(path, arrays, facts) -> None:
  for leaf in arrays.values():
    leaf.flush()
  files.write_json(os.path.join(path, FACTS), facts)


def _begin(images, tokenizer, path):
  """Returns (arrays to be filled, facts), new or found."""
  os.makedirs(path, exist_ok=True)
  if os.path.exists(os.path.join(path, FACTS)):
    facts = _read_facts(path)
    read(path)  # It refuses arrays that are not whole.
    arrays = {key: np.load(os.path.join(path, f'{key}.npy'), mmap_mode='r+',
                           allow_pickle=False) for key in facts['arrays']}
    return arrays, facts
  codes = np.uint16 if tokenizer.codebook_size <= 2**16 else np.int32
  kinds = {'tokens': ((len(images), *tokenizer.shape(images.spec)), codes)}
  if 'label' in images.spec.keys:
    kinds['label'] = ((len(images),), np.int32)
  arrays = {
      key: np.lib.format.open_memmap(
          os.path.join(path, f'{key}.npy'), 'w+', np.dtype(dtype), shape)
      for key, (shape, dtype) in kinds.items()}
  facts = {
      'tokenizer': tokenizer.identity, 'workdir': tokenizer.name,
      'codes': tokenizer.codebook_size, 'data': images.spec.identity,
      'arrays': {key: [list(shape), np.dtype(dtype).name]
                 for key, (shape, dtype) in kinds.items()},
      'done': 0}
  _save(path, arrays, facts)
  return arrays, facts


def _in_memory(images, tokenizer) -> dict[str, np.ndarray]:
  parts = list(_batches(images, tokenizer, 0))
  return {key: np.concatenate([part[key] for part in parts])
          for key in parts[0]}


def _batches(images, tokenizer: tokenizer_lib.Tokenizer, start: int):
  """Yields {'tokens', maybe 'label'} of the images from `start` on."""
  import tqdm

  from gans_jax.data import pipeline

  mesh = mesh_lib.make(devices=jax.local_devices())
  label = ('label',) if 'label' in images.spec.keys else ()
  keys = tuple(dict.fromkeys(tokenizer.requires + label))

  def run(variables, batch, random):
    batch, random = sampler.place((batch, random))
    return sampler.place(tokenizer.encode(variables, batch, random))

  encode = jax.jit(run)
  total = len(images)
  with jax.set_mesh(mesh), tqdm.tqdm(
      total=total, initial=start, unit='img', desc='tokens') as bar:
    variables = jax.device_put(
        tokenizer.variables, jax.sharding.NamedSharding(mesh, mesh_lib.P()))
    random = jax.random.split(jax.random.key(0), BATCH)
    for batch, valid in pipeline.ordered_batches(
        images, BATCH, total, keys=keys, start=start):
      inputs = {key: batch[key] for key in tokenizer.requires}
      found = {'tokens': np.asarray(encode(variables, inputs, random)),
               **{key: batch[key] for key in label}}
      yield {key: leaf[valid] for key, leaf in found.items()}
      bar.update(int(valid.sum()))
