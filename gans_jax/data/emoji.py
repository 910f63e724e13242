"""The shipped emoji: 3,486 real pictures, drawn by two vendors.

Source `emoji:noto`, `emoji:twemoji`, or `emoji:both` (first all of Noto, then
all of Twemoji). Keys of the data config read here besides the image keys:

- labels: 'none', 'group' (9), 'subgroup' (98), 'tone' (6), 'vendor' (2).
- groups: only these groups, e.g. ('Smileys & Emotion',). Labels then number
  the classes that still occur.
- pairs: adds `paired_image`, the same emoji by the other vendor.
- background: the colour behind the transparent pixels.

An example has `image`, `label` unless labels='none', `mask` (the alpha
channel, uint8 [R, R, 1], exact at 64 px), `captions` (str [1]), and
`paired_image` if asked for. The sheets are decoded once, when the source is
opened, and all examples are held in memory (43 MB per vendor at 64 px).
"""

import dataclasses
import functools
import importlib.resources
import io
import json

import numpy as np
from PIL import Image

from gans_jax.core import errors
from gans_jax.data import spec as spec_lib
from gans_jax.data import transforms

VENDORS = ('noto', 'twemoji')
LABELS = ('none', 'group', 'subgroup', 'tone', 'vendor')


class Source:
  """Emoji as examples; see the module."""

  def __init__(self, arrays, captions, spec, name):
    self._arrays = arrays
    self._captions = captions
    self.spec = spec
    self._name = name

  def __len__(self) -> int:
    return self.spec.num_examples

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    example = {key: array[index] for key, array in self._arrays.items()}
    example['captions'] = np.array([self._captions[index]])
    return example

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of several examples, stacked."""
    return {key: array[indices] for key, array in self._arrays.items()}

  def __repr__(self) -> str:
    return f'emoji.Source({self._name}, {self.spec.identity})'


@functools.cache
def metadata() -> dict:
  """Returns metadata.json: tile, columns, groups, subgroups, tones, images."""
  return json.loads(_asset('metadata.json'))


@functools.lru_cache(maxsize=2)
def tiles(vendor: str) -> np.ndarray:
  """Returns the sheet of one vendor: uint8 [3486, 64, 64, 4], RGBA."""
  facts = metadata()
  tile, columns = facts['tile'], facts['columns']
  sheet = Image.open(io.BytesIO(_asset(f'{vendor}_{tile}.webp')))
  pixels = np.asarray(sheet.convert('RGBA'))
  rows = pixels.shape[0] // tile
  result = pixels.reshape(rows, tile, columns, tile, 4).swapaxes(1, 2)
  result = result.reshape(rows * columns, tile, tile, 4)
  result = np.ascontiguousarray(result[:len(facts['images'])])
  result.setflags(write=False)  # cached: nobody may change it
  return result


def _asset(name: str) -> bytes:
  folder = importlib.resources.files('gans_jax.data').joinpath('assets/emoji')
  return folder.joinpath(name).read_bytes()


def caption(entry: dict) -> str:
  """Returns the name of an emoji, with its skin tone if it has one."""
  tone = entry['tone']
  return (entry['name'] if tone == 'none'
          else f"{entry['name']}, {tone} skin tone")


def create_source(data_config, split: str) -> Source:
  """Opens `emoji:NAME`.

  Args:
    data_config: the data section of a config.
    split: 'train' or 'all', which are the same: every emoji.

  Raises:
    UserError: unknown vendor, split, label kind or group.
  """
  name = data_config.get('source').partition(':')[2] or 'noto'
  vendors = VENDORS if name == 'both' else (name,)
  if not set(vendors) <= set(VENDORS):
    raise errors.UserError(
        f'data.source is emoji:{name}; expected emoji:noto, emoji:twemoji or '
        'emoji:both.')
  if split not in ('train', 'all'):
    raise errors.UserError(
        f'The shipped emoji have no split {split!r}; expected train, which '
        'is all of them.')
  kind = data_config.get('labels', 'none')
  kind = 'group' if kind == 'auto' else kind
  if kind not in LABELS:
    raise errors.UserError(
        f'data.labels is {kind!r}, which emoji do not have; expected one of '
        f'{", ".join(LABELS)}.')
  how = transforms.geometry(data_config)
  facts = metadata()
  how = dataclasses.replace(how, resolution=how.resolution or facts['tile'])
  chosen = _choose(tuple(data_config.get('groups', ()) or ()))
  entries = [facts['images'][i] for i in chosen]

  parts = {vendor: _render(tiles(vendor)[chosen], how) for vendor in VENDORS
           if vendor in vendors or data_config.get('pairs', False)}
  arrays = {key: np.concatenate([parts[vendor][key] for vendor in vendors])
            for key in ('image', 'mask')}
  if data_config.get('pairs', False):
    other = {'noto': 'twemoji', 'twemoji': 'noto'}
    arrays['paired_image'] = np.concatenate(
        [parts[other[vendor]]['image'] for vendor in vendors])
  class_names = ()
  if kind == 'vendor':
    class_names = VENDORS
    arrays['label'] = np.concatenate([
        np.full(len(chosen), VENDORS.index(vendor)) for vendor in vendors])
  elif kind != 'none':
    # With some groups chosen, the classes are those that still occur.
    present = {entry[kind] for entry in entries}
    class_names = tuple(c for c in facts[f'{kind}s'] if c in present)
    number = {value: i for i, value in enumerate(class_names)}
    arrays['label'] = np.array(
        [number[entry[kind]] for entry in entries] * len(vendors))
  if 'label' in arrays:
    arrays['label'] = arrays['label'].astype(np.int32)

  size = how.resolution
  extra = [('mask', (size, size, 1), 'uint8')]
  if 'paired_image' in arrays:
    extra.append(('paired_image', (size, size, how.channels), 'uint8'))
  spec = spec_lib.image_spec(
      resolution=size, channels=how.channels,
      num_examples=len(chosen) * len(vendors), num_classes=len(class_names),
      class_names=class_names, extra=tuple(extra),
      facts={'source': f'emoji:{name}', 'version': 1, 'labels': kind,
             'chosen': chosen.tolist(), **how.facts()})
  return Source(arrays, [caption(entry) for entry in entries] * len(vendors),
                spec, name)


def _choose(groups: tuple[str, ...]) -> np.ndarray:
  facts = metadata()
  unknown = [group for group in groups if group not in facts['groups']]
  if unknown:
    raise errors.UserError(
        f'data.groups names {unknown[0]!r}; expected some of '
        f'{", ".join(facts["groups"])}.')
  return np.array([i for i, entry in enumerate(facts['images'])
                   if not groups or entry['group'] in groups])


def _render(rgba: np.ndarray, how: transforms.Geometry) -> dict:
  """Returns `image` [N, R, R, C] and `mask` [N, R, R, 1], both uint8."""
  mask = rgba[..., 3:]
  image = np.ascontiguousarray(rgba[..., :3])
  # Only edges need arithmetic, and they are a tenth of the pixels.
  clear, edge = mask[..., 0] == 0, (mask[..., 0] > 0) & (mask[..., 0] < 255)
  colour = np.array(how.background, np.uint16).reshape(1, 3)
  alpha = mask[edge].astype(np.uint16)
  image[clear] = colour
  image[edge] = (image[edge] * alpha + colour * (255 - alpha) + 127) // 255
  if how.resolution == rgba.shape[1] and how.channels == 3:
    return {'image': image, 'mask': np.ascontiguousarray(mask)}
  grey = transforms.Geometry(how.resolution, 1, how.filter, how.crop)
  return {'image': _resize(image, how), 'mask': _resize(mask, grey)}


def _resize(tiles_: np.ndarray, how: transforms.Geometry) -> np.ndarray:
  """Returns uint8 [N, R, R, C] of uint8 [N, tile, tile, 1 or 3]."""
  number, tile, _, channels = tiles_.shape
  size = how.resolution
  factor = tile // size
  if (how.filter == 'box' and channels == how.channels
      and tile == size * factor and factor & (factor - 1) == 0):
    # Pillow's box: rows first, rounded to 8 bits, then columns. For all tiles
    # at once it takes a twentieth of the time.
    x = tiles_.reshape(number, tile, size, factor, channels)
    x = (x.sum(3, dtype=np.uint16) + factor // 2) // factor
    x = x.reshape(number, size, factor, size, channels)
    x = (x.sum(2, dtype=np.uint16) + factor // 2) // factor
    return x.astype(np.uint8)
  return np.stack([
      transforms.apply(transforms.array_to_image(x), how, 'emoji')
      for x in tiles_])
