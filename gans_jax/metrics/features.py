"""Streams of images to arrays of features, over all devices.

What a metric calls "the features" is a network with its weights, a resizer
and a range of pixel values together: an `Extractor`. It goes into every
result, because no two of them give comparable numbers.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import functools
import logging
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

# (images done, images in all, images per second, seconds left)
Progress = Callable[[int, int, float, float], None]
# Batches of uint8 [B, H, W, C] with a bool [B], False where a row is padding.
Stream = Iterable[tuple[np.ndarray, np.ndarray | None]]


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
  """A feature network and everything that decides its output.

  Attributes:
    name: what results and metric names call it.
    weights_sha256: of the published weight file.
    dim: length of a feature vector.
    size: height and width that images are resized to.
    resizer: one of `resize.MODES`.
    pixels: the range the network is given, in words, for the record.
    variables: Flax variables.
    apply: (variables, float32 [N, size, size, 3] in 0..255, platform) ->
      float32 [N, dim].
  """

  name: str
  weights_sha256: str
  dim: int
  size: int
  resizer: str
  pixels: str
  variables: Any
  apply: Callable[[Any, jax.Array, str], jax.Array]

  def facts(self) -> dict[str, Any]:
    """What a result records."""
    return {
        'name': self.name,
        'weights_sha256': self.weights_sha256,
        'dim': self.dim,
        'size': self.size,
        'resizer': self.resizer,
        'pixels': self.pixels,
        'quantisation': 'uint8',
        'precision': 'float32, HIGHEST',
    }


@functools.cache
def get(name: str) -> Extractor:
  """Returns the extractor called `name`.

  Raises:
    UserError: unknown name, or weights that are absent or damaged.
  """
  if name not in EXTRACTORS:
    raise errors.UserError(
        f'There is no feature network called {name!r}; the known ones are '
        f'{", ".join(sorted(EXTRACTORS))}.')
  return EXTRACTORS[name]()


def _lite0() -> Extractor:

  def apply(variables, x, platform):
    form = 'shifted' if platform == 'cpu' else 'lax'
    return efficientnet_lite.EfficientNetLite0(form).apply(
        variables, x)['pooled']

  return Extractor(
      name='efficientnet_lite0',
      weights_sha256=efficientnet_lite.WEIGHTS_SHA256,
      dim=efficientnet_lite.FEATURES,
      size=efficientnet_lite.INPUT_SIZE,
      resizer='clean',
      pixels='(x - 127) / 128',
      variables=efficientnet_lite.load_variables(),
      apply=apply)


EXTRACTORS: dict[str, Callable[[], Extractor]] = {'lite0': _lite0}


def extract(
    extractor: Extractor,
    stream: Stream,
    num: int,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
  """Returns the features of the first `num` images of a stream, in order.

  Args:
    extractor: see `get`.
    stream: batches of uint8 [B, H, W, 1 or 3], with the rows that count (None
      for all). All images have one shape; the last batch may be shorter. On
      several processes every one gives the same, whole batches.
    num: how many to use. Images behind them are not asked for.
    mesh: devices; batches are split over its axis 'data'. All by default.
    progress: called after every batch.

  Returns:
    float32 [num, extractor.dim]; row i depends on image i alone.

  Raises:
    UserError: the stream is shorter, or holds something else than such images.
  """
  mesh = mesh_lib.make() if mesh is None else mesh
  compute, variables = _compiled(extractor, mesh)
  out = np.empty((num, extractor.dim), np.float32)
  start = time.perf_counter()
  done = 0
  # One batch is on the devices while the next is made or decoded.
  waiting = None
  for batch, keep in _exactly(stream, num):
    sent = compute(variables, _spread(batch, mesh)), keep
    if waiting is not None:
      done = _receive(*waiting, out, done, start, progress)
    waiting = sent
  if waiting is not None:
    done = _receive(*waiting, out, done, start, progress)
  if done < num:
    raise errors.UserError(
        f'{num} images were to be measured, but their source ended after '
        f'{done}. Ask for at most {done}.')
  if not np.isfinite(out).all():
    raise FloatingPointError('the feature network returned NaN or infinity')
  return out


def _exactly(stream: Stream, num: int) -> Iterator[
    tuple[np.ndarray, np.ndarray]]:
  """Yields padded RGB batches of one shape and the rows wanted of each."""
  shape = None
  left = num
  batches = iter(stream)
  while left > 0:
    batch, valid = next(batches, (None, None))
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
    keep = np.flatnonzero(
        np.ones(len(batch), bool) if valid is None else np.asarray(valid))
    keep = keep[:left]
    left -= len(keep)
    batch = np.broadcast_to(batch, (*batch.shape[:3], 3))
    yield np.pad(batch, ((0, shape[0] - len(batch)), *[(0, 0)] * 3)), keep


def _receive(features, keep, out, done, start, progress) -> int:
  rows = np.asarray(features)[keep]
  out[done:done + len(rows)] = rows
  done += len(rows)
  if progress is not None:
    rate = done / (time.perf_counter() - start)
    progress(done, len(out), rate, (len(out) - done) / rate)
  return done


def _spread(batch: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
  """Pads to whole chunks for every device and hands each its share."""
  devices = mesh.shape['data']
  local = -(-len(batch) // devices)
  chunk = _chunk(local, mesh)
  local = -(-local // chunk) * chunk
  batch = np.pad(batch, ((0, devices * local - len(batch)), *[(0, 0)] * 3))
  sharding = jax.sharding.NamedSharding(mesh, P('data'))
  return jax.make_array_from_callback(
      batch.shape, sharding, lambda index: batch[index])


def _chunk(local: int, mesh: jax.sharding.Mesh) -> int:
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  return min(local, _CPU_CHUNK) if on_cpu else local


@functools.lru_cache(maxsize=4)
def _compiled(extractor: Extractor, mesh: jax.sharding.Mesh):
  """Returns the jitted extractor and its variables on the mesh."""
  platform = mesh.devices.flat[0].platform

  def chunk_features(variables, x):
    x = resize.resize(x, extractor.size, extractor.resizer)
    return extractor.apply(variables, x, platform)

  def device_features(variables, x):
    x = x.reshape(-1, _chunk(len(x), mesh), *x.shape[1:])
    y = lax.map(functools.partial(chunk_features, variables), x)
    return y.reshape(-1, extractor.dim)

  spread = jax.shard_map(
      device_features, mesh=mesh, in_specs=(P(), P('data')),
      out_specs=P('data'))
  whole = jax.sharding.NamedSharding(mesh, P())
  compute = jax.jit(spread, out_shardings=whole)
  return compute, jax.device_put(extractor.variables, whole)


def log_progress(what: str, every_seconds: float = 10.0) -> Progress:
  """Returns a `Progress` that logs now and then, and at the end."""
  last = time.perf_counter()

  def report(done, total, rate, left):
    nonlocal last
    now = time.perf_counter()
    if now - last >= every_seconds or done == total:
      last = now
      logging.info('%s: %d of %d images, %.1f images/s, %.0f s left', what,
                   done, total, rate, left)

  return report
