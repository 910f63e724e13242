"""Batches on the host: deterministic, sharded over processes, resumable.

The stream of global examples is a pure function of (data set, seed). Position
t of the stream is row t % n of a permutation drawn for epoch t // n, so epochs
run through without dropping; whether it is flipped is a hash of (seed, t).
Global batch j of step k holds the positions from (k n_sub + j) B on, and
process p of P takes the rows [p B / P, (p + 1) B / P) of each. Neither the
process count nor threads nor workers enter, and the state of an iterator is
its step: a run goes on exactly, even on another number of hosts. Where B
changes between stages (core/stages.py), the positions go on from one stage to
the next, and images are shrunk to the stage's resolution here.

grain supplies random access, threads, worker processes and prefetching.
"""

from collections.abc import Iterator
import dataclasses
import functools
import importlib
import logging
import os
from typing import Any

import numpy as np

from gans_jax.core import errors
from gans_jax.core import stages as stages_lib
from gans_jax.data import sources
from gans_jax.data import spec as spec_lib
from gans_jax.data import transforms

_END = 2**48  # steps; nobody gets there
_SPATIAL = ('image', 'mask', 'masks', 'paired_image', 'label_map',
            'instance_map', 'cond_image')
# What a mirror would turn into a lie: words for left and right, coordinates.
_UNFLIPPABLE = ('point', 'tokens', 'text_emb', 'text_seq', 'attributes')
_LIMIT_SEED = 0


# --- data set ---------------------------------------------------------------


class Dataset:
  """A source, or a fixed subset of one, with damaged examples handled.

  Attributes:
    spec: the DataSpec.
    skipped: index -> why, for the damaged examples met in this process
      (`data.skip_corrupt` alone; otherwise they raise).
  """

  def __init__(self, source, skip_corrupt: bool = False, limit: int = 0):
    self._source = source
    self._skip_corrupt = skip_corrupt
    self._indices = None
    self.spec = source.spec
    self.skipped: dict[int, str] = {}
    if limit and limit < len(source):
      # Sources are sorted by class: the first `limit` would be one class.
      order = _permutation(_LIMIT_SEED, 0, len(source))
      self._indices = np.sort(order[:limit])
      self.spec = _limited(source.spec, limit)

  def __len__(self) -> int:
    return self.spec.num_examples

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns example `index`: arrays of the spec's keys, maybe `captions`.

    Raises:
      UserError: the example is damaged and data.skip_corrupt is not set. If
        it is set, the next good example stands in.
    """
    if not 0 <= index < len(self):
      raise IndexError(index)
    for step in range(len(self)):
      here = (index + step) % len(self)
      if here in self.skipped:
        continue
      try:
        return self._source[self._at(here)]
      except transforms.CorruptImage as error:
        if not self._skip_corrupt:
          raise
        self.skipped[here] = str(error)
        logging.warning('skipped (%d so far): %s', len(self.skipped), error)
    raise errors.UserError(
        f'None of the {len(self)} examples of {self._source!r} can be '
        f'decoded; the first error is: {self.skipped[0]}')

  def prepare(self) -> None:
    """Does what must be done once before the first batch: here nothing."""

  def take(self, indices: np.ndarray, keys=None) -> dict[str, np.ndarray]:
    """Returns the arrays of several examples, stacked along a new axis 0.

    Args:
      indices: of the examples.
      keys: those that are needed; there may be others in the result.
    """
    del keys  # Sources read all of an example at once.
    if hasattr(self._source, 'take'):
      try:
        return self._source.take(self._at(np.asarray(indices)))
      except transforms.CorruptImage:
        if not self._skip_corrupt:
          raise
    examples = [self[int(i)] for i in indices]
    return {key: np.stack([example[key] for example in examples])
            for key in self.spec.keys}

  @property
  def whole(self) -> 'Dataset':
    """The same data without a limit."""
    if self._indices is None:
      return self
    return Dataset(self._source, self._skip_corrupt)

  @property
  def in_memory(self) -> bool:
    """Whether reading an example is a copy, which threads do not speed up."""
    return getattr(self._source, 'in_memory', hasattr(self._source, 'take'))

  def _at(self, index):
    return index if self._indices is None else self._indices[index]

  def __repr__(self) -> str:
    return f'Dataset({self.spec.identity}, {len(self)})'


def _limited(spec: spec_lib.DataSpec, limit: int) -> spec_lib.DataSpec:
  return dataclasses.replace(
      spec, num_examples=limit, identity=spec_lib.identity_hash(
          {'of': spec.identity, 'limit': limit}))


def open_dataset(data_config, split: str | None = None) -> Dataset:
  """Opens the data set that a config names, checked before any training.

  Args:
    data_config: the data section of a config. Keys for every source:
      source, split, labels, limit (a fixed random subset; 0 takes all),
      skip_corrupt; for images resolution, channels, filter, crop, background.
    split: overrides `data_config.split`.

  Raises:
    UserError: which file or key is wrong, and what to do.
  """
  split = split or data_config.get('split', 'train')
  limit = data_config.get('limit', 0)
  if limit < 0:
    raise errors.UserError(
        f'data.limit is {limit}; expected 0 (everything) or a count.')
  source = sources.create_source(data_config, split)
  dataset = Dataset(source, data_config.get('skip_corrupt', False), limit)
  if data_config.get('tokenizer', '') or data_config.get('cond_tokenizer', ''):
    from gans_jax.data import tokens  # It loads a checkpoint.

    return tokens.of_config(dataset, data_config)
  return dataset


# --- order ------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
  bits = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64))
  return np.random.Generator(bits).permutation(count)


def stream_indices(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Returns which examples stand at `positions` of the endless stream.

  Args:
    positions: int64, any shape, counted from the start of the run.
    count: examples in the data set.
    seed: of the run.
  """
  epochs, rows = np.divmod(positions, count)
  result = np.empty(positions.shape, np.int64)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    result[here] = _permutation(seed, int(epoch), count)[rows[here]]
  return result


def coin(positions: np.ndarray, seed: int) -> np.ndarray:
  """Returns a fair bool per position: a bit of splitmix64(seed, position)."""
  with np.errstate(over='ignore'):
    x = positions.astype(np.uint64) + np.uint64(
        (seed * 0xD1342543DE82EF95 + 0x2545F4914F6CDD1D) % 2**64)
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
  return (x >> np.uint64(63)).astype(bool)


def mirror(batch: dict[str, np.ndarray], which: np.ndarray) -> dict:
  """Mirrors the examples where `which`, left to right, with annotations.

  Args:
    batch: leaves [N, ...]; images [N, H, W, C], label maps [N, H, W], boxes
      [N, O, 4] as (x0, y0, w, h) in fractions of the image.
    which: bool [N].
  """
  batch = dict(batch)
  for key in _SPATIAL:
    if key in batch:
      batch[key] = batch[key].copy()
      batch[key][which] = batch[key][which][:, :, ::-1]
  if 'boxes' in batch:
    boxes = batch['boxes'].copy()
    x0, width = boxes[..., 0], boxes[..., 2]
    # A padding row is (-0.6, -0.6, 0.5, 0.5) and stays so.
    real = which.reshape(-1, 1) & (x0 > -0.5)
    boxes[..., 0] = np.where(real, 1 - (x0 + width), x0)
    batch['boxes'] = boxes
  return batch


def shrink(images: np.ndarray, resolution: int) -> np.ndarray:
  """Means over blocks of pixels, rounded half to even.

  Equal to the records of ProGAN's authors (their dataset_tool.py), which
  carry the means of 2x2 pixels from level to level and round each level.

  Args:
    images: uint8 [N, H, W, C], H = W a multiple of `resolution`.
    resolution: of the result.
  """
  n, size, _, channels = images.shape
  factor = size // resolution
  if factor == 1:
    return images
  blocks = images.reshape(n, resolution, factor, resolution, factor, channels)
  # Exact: sums of at most 2^16 bytes are whole numbers in float32.
  return np.rint(blocks.mean((2, 4), dtype=np.float32)).astype(np.uint8)


# --- iterators --------------------------------------------------------------

# Images shrunk at a time: a batch of a low resolution is large, and of full
# images it would fill the memory.
_SHRUNK_AT_ONCE = 32


class _Batches:
  """Step -> batch of this process; a plain object, so that workers get it."""

  def __init__(self, dataset, batch_size, batches_per_step, seed,
               process_index, process_count, flip, keys, stages=None):
    self.dataset = dataset
    self.batch_size = batch_size
    self.batches_per_step = batches_per_step
    self.seed = seed
    self.flip = flip
    self.keys = keys
    self.stages = stages
    self.part = process_index, process_count
    self.rows = self._rows(batch_size)

  def _rows(self, batch_size):
    index, count = self.part
    local = batch_size // count
    first = index * local
    rows = np.arange(self.batches_per_step)[:, None] * batch_size
    return rows + np.arange(first, first + local)[None, :]

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    resolution = full = self.dataset.spec.resolution
    if self.stages is None:
      positions = step * self.batches_per_step * self.batch_size + self.rows
    else:
      stage = self.stages.at(step)
      positions = stage.images(step) + self._rows(stage.batch_size)
      resolution = stage.resolution
    flat = positions.reshape(-1)
    indices = stream_indices(flat, len(self.dataset), self.seed)
    if resolution == full:
      batch = self.dataset.take(indices, self.keys)
    else:
      batch = self._take_shrunk(indices, resolution)
    batch = {key: batch[key] for key in self.keys}
    if self.flip:
      batch = mirror(batch, coin(flat, self.seed))
    return {key: leaf.reshape(*positions.shape, *leaf.shape[1:])
            for key, leaf in batch.items()}

  def _take_shrunk(self, indices, resolution):
    parts = []
    for start in range(0, len(indices), _SHRUNK_AT_ONCE):
      part = self.dataset.take(indices[start:start + _SHRUNK_AT_ONCE],
                               self.keys)
      parts.append({**part, 'image': shrink(part['image'], resolution)})
    return {key: np.concatenate([part[key] for part in parts])
            for key in self.keys}


class TrainIterator:
  """An endless iterator over the batches of one process.

  Its state is a small JSON-able dict; restoring is exact under any process
  count, worker count and prefetch depth.
  """

  def __init__(self, batches: _Batches, workers: int, threads: int,
               prefetch: int):
    self._batches = batches
    self._workers = workers
    self._threads = threads
    self._prefetch = prefetch
    self._step = 0
    self._iterator = None

  def __iter__(self):
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._iterator is None:
      self._iterator = _start(self._batches, self._step, _END, self._workers,
                              self._threads, self._prefetch)
    batch = next(self._iterator)
    self._step += 1
    return batch

  def _facts(self) -> dict[str, Any]:
    batches = self._batches
    size = batches.batch_size
    if batches.stages is not None:
      size = [[stage.first_step, stage.batch_size, stage.resolution]
              for stage in batches.stages.parts]
    return {'data': batches.dataset.spec.identity, 'seed': batches.seed,
            'batch_size': size,
            'batches_per_step': batches.batches_per_step,
            'flip': batches.flip}

  def get_state(self) -> dict[str, Any]:
    """Returns the number of steps delivered, and what they were drawn from."""
    return {'step': self._step, **self._facts()}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to the position of `get_state`.

    Raises:
      UserError: the state belongs to another stream; the differing facts are
        named.
    """
    differing = [f'{key} was {state.get(key)!r} and is {value!r}'
                 for key, value in self._facts().items()
                 if state.get(key) != value]
    if differing:
      raise errors.UserError(
          'The run that is being resumed read other data: '
          f'{"; ".join(differing)} (data is a hash of files, filter, crop, '
          'resolution and labels). Restore the data section of its '
          'config.json, or start in a new workdir.')
    self.close()
    self._step = int(state['step'])

  def close(self) -> None:
    """Stops threads and workers; the iterator starts anew when used."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def _start(function, start, stop, workers, threads, prefetch):
  import grain

  steps = grain.MapDataset.range(start, stop).map(function)
  options = grain.ReadOptions(num_threads=threads,
                              prefetch_buffer_size=max(prefetch, threads))
  result = steps.to_iter_dataset(options)
  if workers:
    from absl import flags

    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain reads flags that we never parse
    result = result.mp_prefetch(grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=max(1, prefetch)))
  return iter(result)


def _threads(dataset: Dataset) -> int:
  # Copies hold the interpreter lock; decoding does not.
  return 1 if dataset.in_memory else min(8, os.cpu_count() or 1)


def _batch_keys(dataset, keys) -> tuple[str, ...]:
  keys = dataset.spec.keys if keys is None else tuple(keys)
  missing = sorted(set(keys) - set(dataset.spec.keys))
  if missing:
    raise errors.UserError(
        f'The data set has no {", ".join(missing)}; its keys are '
        f'{", ".join(dataset.spec.keys)}. For `label`, set data.labels '
        '(for folders, zips and prepared sets: class).')
  return keys


def train_iterator(
    dataset: Dataset,
    *,
    batch_size: int,
    batches_per_step: int = 1,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 4,
    flip: bool = False,
    keys: tuple[str, ...] | None = None,
    stages: stages_lib.Stages | None = None,
) -> TrainIterator:
  """Returns the endless iterator of training batches of one process.

  Args:
    dataset: from `open_dataset`.
    batch_size: of the global batch, over all processes.
    batches_per_step: n_sub, the batches that one train step takes.
    seed: of order and flips.
    process_index: of this process.
    process_count: of the run.
    workers: reader processes; 0 reads in threads of this process, which is
      the right choice unless decoding starves the device.
    prefetch: steps held ready.
    flip: mirror each example with probability 1/2.
    keys: the batch keys wanted; None takes all arrays of the data set.
    stages: of a growing system, with the batch size and the resolution of
      each; they replace `batch_size`.

  Returns:
    Yields dicts of arrays [n_sub, batch_size / process_count, ...], of static
    shapes, in the data set's dtypes. Strings (`captions`) are in
    `dataset[i]`, never in batches.

  Raises:
    UserError: sizes that do not divide, keys that do not exist, a flip that
      would falsify annotations.
  """
  sizes = [batch_size] if stages is None else [
      stage.batch_size for stage in stages.parts]
  for size in sizes:
    if size < 1 or size % process_count:
      raise errors.UserError(
          f'batch_size is {size}; expected a positive multiple of the '
          f'number of processes, {process_count}.')
  if batches_per_step < 1:
    raise errors.UserError(
        f'batches_per_step is {batches_per_step}; expected 1 or more.')
  if workers < 0 or prefetch < 1:
    raise errors.UserError(
        f'data.workers is {workers} and prefetch {prefetch}; expected at '
        'least 0 and 1.')
  keys = _batch_keys(dataset, keys)
  if flip and set(keys) & set(_UNFLIPPABLE):
    wrong = ', '.join(sorted(set(keys) & set(_UNFLIPPABLE)))
    raise errors.UserError(
        f'data.flip is set, but the batches hold {wrong}, which may say left '
        'or right. Set data.flip=false, or drop these keys.')
  # Now, not at the first batch: grain replaces builtins.__import__ while it is
  # imported, and another thread that imports a function meanwhile, as that of
  # a checkpoint does, is left with a stand-in that cannot be called.
  importlib.import_module('grain')
  batches = _Batches(dataset, batch_size, batches_per_step, seed,
                     process_index, process_count, flip, keys, stages)
  return TrainIterator(batches, workers, _threads(dataset), prefetch)


class _Ordered:
  """Number of an evaluation batch -> (batch, valid)."""

  def __init__(self, dataset, indices, batch_size, process_index,
               process_count, keys):
    self.dataset = dataset
    self.indices = indices
    self.batch_size = batch_size
    self.keys = keys
    local = batch_size // process_count
    self.rows = np.arange(process_index * local, (process_index + 1) * local)

  def __call__(self, number: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    positions = number * self.batch_size + self.rows
    valid = positions < len(self.indices)
    # Padding repeats a real example: nothing downstream sees odd values.
    batch = self.dataset.take(self.indices[np.where(valid, positions, 0)],
                              self.keys)
    return {key: batch[key] for key in self.keys}, valid


def ordered_batches(
    dataset: Dataset,
    batch_size: int,
    num: int | None = None,
    seed: int | None = None,
    *,
    process_index: int = 0,
    process_count: int = 1,
    keys: tuple[str, ...] | None = None,
    prefetch: int = 4,
    start: int = 0,
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
  """Yields exactly `num` examples for an evaluation, each once.

  Args:
    dataset: from `open_dataset`.
    batch_size: of the global batch; the last one is padded up to it.
    num: examples wanted; None takes all.
    seed: None takes the first `num`; otherwise a subset drawn without
      replacement.
    process_index: of this process, which gets its rows of each batch.
    process_count: of the run.
    keys: the batch keys wanted; None takes all arrays of the data set.
    prefetch: batches held ready.
    start: leave out that many of them, the first.

  Yields:
    (batch, valid): leaves [batch_size / process_count, ...], and bool
    [batch_size / process_count], False where a row is padding.

  Raises:
    UserError: more examples asked for than there are.
  """
  num = len(dataset) if num is None else num
  if not 0 < num <= len(dataset):
    raise errors.UserError(
        f'{num} real images are asked for and the data set has '
        f'{len(dataset)}; ask for 1 to {len(dataset)}.')
  if batch_size < 1 or batch_size % process_count:
    raise errors.UserError(
        f'The batch size is {batch_size}; expected a positive multiple of the '
        f'number of processes, {process_count}.')
  indices = np.arange(num)
  if seed is not None:
    indices = _permutation(seed, 0, len(dataset))[:num]
  indices = indices[start:]
  batches = _Ordered(dataset, indices, batch_size, process_index,
                     process_count, _batch_keys(dataset, keys))
  count = -(-len(indices) // batch_size)
  iterator = _start(batches, 0, count, 0, _threads(dataset), prefetch)
  try:
    yield from iterator
  finally:
    iterator.close()
