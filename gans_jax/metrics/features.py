"""Streams of images to arrays of features, over all devices.

What a metric calls "the features" is a network with its weights, a resizer, a
range of pixel values and a layer together: a `Tap` of an `Extractor`. It goes
into every result, because no two of them give comparable numbers.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import logging
import tempfile
import time
from typing import Any

import jax
from jax import lax
import numpy as np

from gans_jax.core import errors
from gans_jax.core import mesh as mesh_lib
from gans_jax.metrics import efficientnet_lite
from gans_jax.metrics import resize

P = jax.sharding.PartitionSpec

# Images that one CPU device works on at a time: their activations stay in its
# caches, and 32 at once take 1.5 times as long per image.
_CPU_CHUNK = 2
# Above this many bytes the rows of a tap lie in a temporary file.
_IN_MEMORY = 2**31

# (images done, images in all, images per second, seconds left)
Progress = Callable[[int, int, float, float], None]
# Batches of uint8 [B, H, W, C] with a bool [B], False where a row is padding.
Stream = Iterable[tuple[np.ndarray, np.ndarray | None]]


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
  """A feature network and everything that decides its output.

  Attributes:
    name: what results call it.
    weights_sha256: of the published weight file.
    dims: lengths of the feature vectors, by tap.
    size: height and width that images are resized to.
    resizer: one of `resize.MODES`.
    pixels: the range the network is given, in words, for the record.
    variables: Flax variables.
    apply: (variables, float32 [N, size, size, 3] in 0..255, platform) ->
      {tap: float32 [N, dim]}. What is not asked for, the compiler leaves out.
  """

  name: str
  weights_sha256: str
  dims: Mapping[str, int]
  size: int
  resizer: str
  pixels: str
  variables: Any
  apply: Callable[[Any, jax.Array, str], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Tap:
  """One layer of a network; or, without a network, the uint8 images."""

  extractor: Extractor | None
  name: str

  def facts(self) -> dict[str, Any]:
    """What a result records."""
    if self.extractor is None:
      return {'name': self.name, 'quantisation': 'uint8'}
    net = self.extractor
    return {
        'name': net.name,
        'tap': self.name,
        'weights_sha256': net.weights_sha256,
        'dim': net.dims[self.name],
        'size': net.size,
        'resizer': net.resizer,
        'pixels': net.pixels,
        'quantisation': 'uint8',
        'precision': 'float32, HIGHEST',
    }


PIXELS = Tap(None, 'pixels')


@functools.cache
def get(name: str, weights: str | None = None) -> Extractor:
  """Returns the extractor called `name`.

  Args:
    name: key of `EXTRACTORS`.
    weights: file of its weights, where it is not found by itself.

  Raises:
    UserError: unknown name, or weights that are absent or damaged.
  """
  if name not in EXTRACTORS:
    raise errors.UserError(
        f'There is no feature network called {name!r}; the known ones are '
        f'{", ".join(sorted(EXTRACTORS))}.')
  return EXTRACTORS[name](weights)


def _lite0(weights: str | None) -> Extractor:
  del weights  # They are installed with the package.

  def apply(variables, x, platform):
    form = 'shifted' if platform == 'cpu' else 'lax'
    taps = efficientnet_lite.EfficientNetLite0(form).apply(variables, x)
    return {name: taps[name] for name in ('pooled', 'logits')}

  return Extractor(
      name='efficientnet_lite0',
      weights_sha256=efficientnet_lite.WEIGHTS_SHA256,
      dims={'pooled': efficientnet_lite.FEATURES, 'logits': 1000},
      size=efficientnet_lite.INPUT_SIZE,
      resizer='clean',
      pixels='(x - 127) / 128',
      variables=efficientnet_lite.load_variables(),
      apply=apply)


def _inception(resizer: str, weights: str | None) -> Extractor:
  from gans_jax.convert import inception as convert_inception
  from gans_jax.metrics import inception

  loaded = convert_inception.load(weights)
  midpoint = inception.MIDPOINTS[resizer]
  net = inception.FidInception(midpoint)
  return Extractor(
      name='inception-2015-12-05',
      weights_sha256=loaded.sha256,
      dims={'2048': inception.FEATURES, 'spatial': inception.SPATIAL_FEATURES,
            'logits_unbiased': inception.CLASSES},
      size=inception.INPUT_SIZE,
      resizer=resizer,
      pixels=f'(x - {midpoint:g}) / {midpoint:g}',
      variables=loaded.variables,
      apply=lambda variables, x, platform: net.apply(variables, x))


def _vgg16(weights: str | None) -> Extractor:
  from gans_jax.convert import lpips as convert_lpips
  from gans_jax.metrics import vgg

  loaded = convert_lpips.load_vgg16(weights)
  return Extractor(
      name='vgg16',
      weights_sha256=loaded.sha256,
      dims={'fc2': vgg.FEATURES},
      size=vgg.INPUT_SIZE,
      resizer='tf1',
      pixels='(x / 255 - mean) / std of ImageNet',
      variables=loaded.variables,
      apply=lambda variables, x, platform: {
          'fc2': vgg.VGG16().apply(variables, x)})


def _clip(weights: str | None) -> Extractor:
  from gans_jax.convert import clip as convert_clip
  from gans_jax.metrics import clip_vit

  loaded = convert_clip.load(weights)
  return Extractor(
      name='clip-vit-l-14-336',
      weights_sha256=loaded.sha256,
      dims={'embedding': clip_vit.FEATURES},
      size=clip_vit.INPUT_SIZE,
      resizer='pillow_uint8',
      pixels='(x / 255 - mean) / std of CLIP',
      variables=loaded.variables,
      apply=lambda variables, x, platform: {
          'embedding': clip_vit.ClipVit().apply(variables, x)})


EXTRACTORS: dict[str, Callable[[str | None], Extractor]] = {
    'lite0': _lite0,
    'inception': functools.partial(_inception, 'tf1'),
    'inception_pytorch': functools.partial(_inception, 'half_pixel'),
    'inception_clean': functools.partial(_inception, 'clean'),
    'vgg16': _vgg16,
    'clip': _clip,
}


def extract(
    taps: Sequence[Tap],
    stream: Stream,
    num: int,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
    parts: int = 1,
) -> dict[Tap, np.ndarray]:
  """Returns the features of the first `num` images of a stream, in order.

  Args:
    taps: what to compute; every image is asked for once.
    stream: batches of uint8 [B, H, W, 1 or 3], with the rows that count (None
      for all). All images have one shape; the last batch may be shorter.
    num: how many to use. Images behind them are not asked for.
    mesh: devices; batches are split over its axis 'data'. All by default.
    progress: called after every batch.
    parts: 1: every process gives the same, whole batches. The number of
      processes: each gives its rows of every batch, all of one size, and only
      the rows behind the last of the `num` images are padding.

  Returns:
    {tap: float32 [num, dim]}, of `PIXELS` uint8 [num, H, W, 3]; row i depends
    on image i alone. What takes gigabytes lies in a temporary file.

  Raises:
    UserError: the stream is shorter, or holds something else than such images.
  """
  out: dict[Tap, np.ndarray] = {}
  done = 0
  for rows in batches(taps, stream, num, mesh, progress, parts):
    for tap in taps:
      if tap not in out:
        out[tap] = _rows((num, *rows[tap].shape[1:]), rows[tap].dtype)
      count = len(rows[tap])
      out[tap][done:done + count] = rows[tap]
    done += count
  return out


def batches(
    taps: Sequence[Tap],
    stream: Stream,
    num: int,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
    parts: int = 1,
) -> Iterator[dict[Tap, np.ndarray]]:
  """As `extract`, a batch at a time: for sets too large to be kept."""
  mesh = mesh_lib.make() if mesh is None else mesh
  wanted: dict[Extractor, list[str]] = {}
  for tap in taps:
    if tap.extractor is not None:
      wanted.setdefault(tap.extractor, []).append(tap.name)
  compiled = {
      extractor: _compiled(extractor, tuple(sorted(set(names))), mesh)
      for extractor, names in wanted.items()}
  done, start = 0, time.perf_counter()

  def receive(batch, keep, sent):
    nonlocal done
    rows = {tap: _gather(batch, parts)[keep] if tap.extractor is None else
            _unpadded(np.asarray(sent[tap.extractor][tap.name]), batch, parts)[
                keep] for tap in taps}
    for tap, found in rows.items():
      if found.dtype == np.float32 and not np.isfinite(found).all():
        bad = done + np.argmin(np.isfinite(found).all(1))
        raise errors.UserError(
            f'Features of image {bad} by {tap.extractor.name} hold NaN or '
            'infinity. Its weights are damaged (fetch them again), for no '
            'uint8 image gives such features.')
    done += len(keep)
    if progress is not None:
      rate = done / (time.perf_counter() - start)
      progress(done, num, rate, (num - done) / rate)
    return rows

  # One batch is on the devices while the next is made or decoded.
  waiting = None
  for batch, keep in _exactly(stream, num, parts):
    spread = _spread(batch, mesh, parts) if compiled else None
    sent = {extractor: compute(variables, spread)
            for extractor, (compute, variables) in compiled.items()}
    if waiting is not None:
      yield receive(*waiting)
    waiting = batch, keep, sent
  if waiting is not None:
    yield receive(*waiting)
  if done < num:
    raise errors.UserError(
        f'{num} images were to be measured, but their source ended after '
        f'{done}. Ask for at most {done}.')


def _rows(shape: tuple[int, ...], dtype) -> np.ndarray:
  if np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize <= _IN_MEMORY:
    return np.empty(shape, dtype)
  # Gone when the array is.
  file = tempfile.TemporaryFile(prefix='gans_jax_features_')
  return np.memmap(file, dtype, 'w+', shape=shape)


def _exactly(stream: Stream, num: int, parts: int) -> Iterator[
    tuple[np.ndarray, np.ndarray]]:
  """Yields padded RGB batches of one shape and the rows wanted of each.

  The rows are those of the batches of all parts, one behind the other.
  """
  shape = None
  left = num
  iterator = iter(stream)
  while left > 0:
    batch, valid = next(iterator, (None, None))
    if batch is None:
      return
    batch = np.asarray(batch)
    if (batch.dtype != np.uint8 or batch.ndim != 4 or
        batch.shape[-1] not in (1, 3)):
      raise errors.UserError(
          'Metrics are computed on uint8 images [N, H, W, 1 or 3]; found '
          f'{batch.dtype} {list(batch.shape)}. Quantise generated images with '
          'gans_jax.core.images.to_uint8 first.')
    if shape is None:
      shape = batch.shape
    if batch.shape[1:] != shape[1:] or len(batch) > shape[0]:
      raise errors.UserError(
          'All batches of a measured set must have one shape; found '
          f'{list(batch.shape)} after {list(shape)}. Prepare the images at '
          'one resolution.')
    if parts > 1:
      valid = None  # What the others have is known without asking.
    keep = np.flatnonzero(np.ones(parts * len(batch), bool)
                          if valid is None else np.asarray(valid))
    keep = keep[:left]
    left -= len(keep)
    batch = np.broadcast_to(batch, (*batch.shape[:3], 3))
    yield np.pad(batch, ((0, shape[0] - len(batch)), *[(0, 0)] * 3)), keep


def _spread(batch: np.ndarray, mesh: jax.sharding.Mesh, parts: int
            ) -> jax.Array:
  """Pads to whole chunks for every device and hands each its share."""
  devices = mesh.shape['data'] // parts
  local = -(-len(batch) // devices)
  chunk = _chunk(local, mesh)
  local = -(-local // chunk) * chunk
  batch = np.pad(batch, ((0, devices * local - len(batch)), *[(0, 0)] * 3))
  sharding = jax.sharding.NamedSharding(mesh, P('data'))
  if parts > 1:
    return jax.make_array_from_process_local_data(sharding, batch)
  return jax.make_array_from_callback(
      batch.shape, sharding, lambda index: batch[index])


def _unpadded(rows: np.ndarray, batch: np.ndarray, parts: int) -> np.ndarray:
  """Takes out of the features of all parts what `_spread` has added."""
  rows = rows.reshape(parts, -1, rows.shape[-1])[:, :len(batch)]
  return rows.reshape(-1, rows.shape[-1])


def _gather(batch: np.ndarray, parts: int) -> np.ndarray:
  """Returns the images of all parts."""
  if parts == 1:
    return batch
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(batch, tiled=True)


def _chunk(local: int, mesh: jax.sharding.Mesh) -> int:
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  return min(local, _CPU_CHUNK) if on_cpu else local


@functools.lru_cache(maxsize=8)
def _compiled(extractor: Extractor, names: tuple[str, ...],
              mesh: jax.sharding.Mesh):
  """Returns the jitted taps of an extractor, and its variables on the mesh."""
  platform = mesh.devices.flat[0].platform

  def chunk_features(variables, x):
    x = resize.resize(x, extractor.size, extractor.resizer)
    taps = extractor.apply(variables, x, platform)
    return {name: taps[name] for name in names}

  def device_features(variables, x):
    x = x.reshape(-1, _chunk(len(x), mesh), *x.shape[1:])
    taps = lax.map(functools.partial(chunk_features, variables), x)
    return jax.tree.map(lambda y: y.reshape(-1, y.shape[-1]), taps)

  spread = jax.shard_map(
      device_features, mesh=mesh, in_specs=(P(), P('data')),
      out_specs=P('data'))
  whole = jax.sharding.NamedSharding(mesh, P())
  compute = jax.jit(spread, out_shardings=whole)
  return compute, jax.device_put(extractor.variables, whole)


def log_progress(what: str, every_seconds: float = 10.0,
                 unit: str = 'images') -> Progress:
  """Returns a `Progress` that logs now and then, and at the end."""
  last = time.perf_counter()

  def report(done, total, rate, left):
    nonlocal last
    now = time.perf_counter()
    if now - last >= every_seconds or done == total:
      last = now
      logging.info('%s: %d of %d %s, %.1f %s/s, %.0f s left', what, done,
                   total, unit, rate, unit, left)

  return report
