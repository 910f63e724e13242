"""Sheets of samples that show what a generator does with its inputs.

A row for each class, the way from class to class at fixed z (BigGAN, figures 8
and 9), what attention attends to (SAGAN, figure 5), the training images that
are nearest to a sample (BigGAN, appendix E). Each function takes a
`sample.Generator` and returns tiles for `core.images.grid`.
"""

from collections.abc import Sequence
import copy
from typing import Any

import jax
import numpy as np

from gans_jax.core import errors
from gans_jax.core import images as images_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.latent import class_path
from gans_jax.metrics import features
from gans_jax.metrics import neighbours as neighbours_lib

# Where attention is asked for, as shares of height and width, and in what
# colours (RGB).
QUERIES = ((0.25, 0.25), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.75, 0.75))
COLOURS = ((228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163),
           (255, 127, 0))
# Tiles of attention are enlarged to this size, to show a map's cells.
_TILE = 128


def need_classes(generator, what: str) -> None:
  """Raises UserError where the system is not conditional."""
  if 'label' not in generator.system.conditions:
    raise errors.UserError(
        f'{what} needs a conditional system, and '
        f'{generator.config.system!r} of this run takes no label.')


def by_class(generator, classes: Sequence[int], seeds: Sequence[int],
             **options) -> np.ndarray:
  """Returns a row for each class: the same seeds in each.

  Args:
    generator: of a conditional system.
    classes: the rows.
    seeds: the columns.
    **options: as of `Generator`.

  Returns:
    uint8 [classes * seeds, H, W, C].

  Raises:
    UserError: not a conditional system, or no such class.
  """
  need_classes(generator, 'A sheet of classes')
  return generator(np.tile(seeds, len(classes)),
                   label=np.repeat(classes, len(seeds)), **options)


def between_classes(generator, classes: Sequence[int], seeds: Sequence[int],
                    frames: int, batch_norm: str = 'running',
                    **options) -> np.ndarray:
  """Walks from class to class at fixed z.

  In W, where there is one, the walk is straight from a seed's latent of one
  class to that of the next. Elsewhere the vectors are interpolated that a
  generator looks up for a class: BigGAN's shared embedding, or the tables of
  its conditional batch normalization.

  Args:
    generator: of a conditional system.
    classes: at least two; the walk does not return to the first.
    seeds: the rows.
    frames: images from one class to the next.
    batch_norm, **options: as of `Generator`.

  Returns:
    uint8 [len(seeds), (len(classes) - 1) * frames + 1, H, W, C].

  Raises:
    UserError: a single class, or a system that knows classes otherwise.
  """
  what = '--class_interpolate'
  need_classes(generator, what)
  if len(classes) < 2:
    raise errors.UserError(f'{what} needs at least two classes, such as 3,7.')
  generator.labels(classes, classes)  # There are such classes.
  shares = class_path.shares(len(classes), frames)
  if generator.has_w:
    stops = np.stack([generator.w(seeds=seeds, label=k) for k in classes])
    w = np.einsum('ts,sn...->nt...', shares, stops)
    found = generator(w=w.reshape(-1, *w.shape[2:]), label=classes[0],
                      batch_norm=batch_norm, **options)
    return found.reshape(len(seeds), len(shares), *found.shape[1:])
  if batch_norm == 'batch':
    raise errors.UserError(
        f"{what} shows images one by one: --batch_norm=batch, by which they "
        "depend on each other, is of no use. Take 'running' or 'standing'.")
  variables = generator.variables_for(batch_norm, **options)
  tables = class_path.tables(variables['G']['params'],
                             generator.spec.num_classes)
  if not tables:
    raise errors.UserError(
        f'{what} interpolates the vectors that a generator looks up for a '
        f'class, and that of {generator.config.system!r} looks none up.')
  other, rows = copy.copy(generator), []
  size = generator.spec.num_classes
  whole = np.zeros((len(shares), size), np.float32)
  np.add.at(whole, (slice(None), np.asarray(classes)), shares)
  for start in range(0, len(whole), size):
    part = whole[start:start + size]
    other.variables = {**variables, 'G': {
        **variables['G'], 'params': class_path.replaced(
            variables['G']['params'], tables, part)}}
    found = other(np.repeat(seeds, len(part)),
                  label=np.tile(np.arange(len(part)), len(seeds)), **options)
    rows.append(found.reshape(len(seeds), len(part), *found.shape[1:]))
  return np.concatenate(rows, 1)


def attention(generator, seeds: Sequence[int], label=None,
              batch_norm: str = 'running', **options) -> np.ndarray:
  """Draws images with query points, each point's map beside them.

  Args:
    generator: of a system with `attention_maps`.
    seeds: the images.
    label, batch_norm, **options: as of `Generator`.

  Returns:
    uint8 [rows * (1 + len(QUERIES)), H, W, 3]: a row for each seed and block
    of attention, the image first.

  Raises:
    UserError: a system without attention.
  """
  system = generator.system
  if batch_norm == 'batch' or not hasattr(system, 'attention_maps'):
    raise errors.UserError(
        '--attention needs a system with self-attention (sagan, biggan) and '
        f'no --batch_norm=batch; this run is of {generator.config.system!r}, '
        f'with {batch_norm!r}.')
  unknown = [name for name in options if name not in system.options]
  if unknown:
    raise errors.UserError(
        f'The system {generator.config.system!r} has no sampling option '
        f'{unknown[0]!r}.')
  conditions = generator.conditions(seeds, label)
  inputs = (generator.variables_for(batch_norm, **options),
            generator.keys(np.asarray(seeds)), conditions)

  def draw(*inputs):
    return system.attention_maps(*inputs, **options)

  if not jax.eval_shape(draw, *inputs)[1]:
    raise errors.UserError(
        '--attention needs a generator with self-attention, and that of this '
        'run was built without (model.attention, model.attention_G).')
  pictures, maps = jax.jit(draw)(*inputs)
  pictures = images_lib.to_uint8(np.asarray(pictures))
  tiles = [attention_row(image, np.asarray(found[i]))
           for i, image in enumerate(pictures)
           for _, found in sorted(maps.items())]
  return np.concatenate(tiles)


def attention_row(image: np.ndarray, maps: np.ndarray) -> np.ndarray:
  """Returns an image with `QUERIES` as dots, and the map of each.

  A map is drawn over the darkened image, in the colour of its point, as bright
  as the weight is beside the map's largest.

  Args:
    image: uint8 [R, R, 1 or 3].
    maps: [H * W, H * W / 4], a row for each position of the block.

  Returns:
    uint8 [1 + len(QUERIES), S, S, 3].
  """
  size = round(len(maps) ** 0.5)
  if image.shape[-1] == 1:
    image = image.repeat(3, -1)
  image = images_lib.enlarge(image, _TILE)
  side = len(image)
  grey = image.mean(-1, keepdims=True)
  first, tiles = image.copy(), []
  for (y, x), colour in zip(QUERIES, COLOURS, strict=True):
    top, left = (int(share * side) for share in (y, x))
    radius = max(side // 32, 2)
    ys, xs = np.ogrid[:side, :side]
    distance = (ys - top) ** 2 + (xs - left) ** 2
    first[distance <= (radius + 1) ** 2] = 255
    first[distance <= radius ** 2] = colour
    weights = maps[int(y * size) * size + int(x * size)]
    weights = weights.reshape(size // 2, size // 2) / weights.max()
    # Cells of the map over the pixels, which it need not divide.
    cells = np.arange(side) * (size // 2) // side
    heat = weights[cells][:, cells, None]
    tile = 0.35 * grey * (1 - heat) + np.asarray(colour) * heat
    tiles.append(tile.round().clip(0, 255).astype(np.uint8))
  return np.stack([first, *tiles])


def neighbours(generator, samples: np.ndarray, count: int, dataset,
               progress=None) -> tuple[np.ndarray, list[dict[str, Any]]]:
  """Finds the training images whose features are nearest to a sample's.

  Args:
    generator: whose devices are used.
    samples: uint8 [N, H, W, C].
    count: how many for each.
    dataset: the training images.
    progress: as of `features.extract`.

  Returns:
    (tiles, facts): uint8 [N * (1 + count), H, W, C], a row for each sample and
    then its neighbours, nearest first; {'indices', 'distances'} of each row.

  Raises:
    UserError: fewer training images than that.
  """
  from gans_jax.data import pipeline

  total = len(dataset)
  if count > total:
    raise errors.UserError(
        f'--neighbours is {count}, and there are {total} training images.')
  tap = features.Tap(features.get('lite0'), 'pooled')
  mesh = mesh_lib.make(devices=jax.local_devices())
  queries = features.extract([tap], iter([(samples, None)]), len(samples),
                             mesh)[tap]
  stream = ((batch['image'], valid) for batch, valid in
            pipeline.ordered_batches(dataset, 64, total, keys=('image',)))
  indices, distances = neighbours_lib.nearest(
      queries, (batch[tap] for batch in features.batches(
          [tap], stream, total, mesh, progress)), count)
  found = dataset.take(indices.reshape(-1), ('image',))['image']
  rows = np.concatenate(
      [samples[:, None], found.reshape(*indices.shape, *samples.shape[1:])], 1)
  facts = [{'indices': i.tolist(), 'distances': d.round(4).tolist()}
           for i, d in zip(indices, distances, strict=True)]
  return rows.reshape(-1, *samples.shape[1:]), facts
