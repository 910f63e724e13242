"""manifest.json: what a prepared data set is, and proof that it is whole."""

from collections.abc import Callable
import hashlib
import json
import math
import os
import re
import sys
from typing import Any

from gans_jax.core import errors

NAME = 'manifest.json'
FORMAT = 'gans_jax.prepared'
VERSION = 1
_KEYS = {
    'count': int, 'resolution': int, 'channels': int, 'filter': str,
    'crop': str, 'labels': str, 'num_classes': int, 'class_names': list,
    'fields': list, 'shards': list, 'identity': str, 'storage': str,
}


def file_hash(path: str) -> str:
  """Returns the sha256 of a file, in hex."""
  with open(path, 'rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


def versions() -> dict[str, str]:
  """Returns the versions that decide pixels and bytes."""
  from importlib import metadata

  result = {'python': sys.version.split()[0]}
  for package in ('pillow', 'numpy', 'array_record'):
    try:
      result[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      result[package] = 'absent'
  return result


def write(folder: str, content: dict[str, Any]) -> None:
  """Writes the manifest of `folder`, last of all its files."""
  with open(os.path.join(folder, NAME), 'w', encoding='utf-8') as stream:
    json.dump({'format': FORMAT, 'version': VERSION, **content}, stream,
              indent=2, ensure_ascii=False)
    stream.write('\n')


def read(folder: str) -> dict[str, Any]:
  """Reads a manifest, and checks the presence and length of every shard.

  Raises:
    UserError: no manifest, one of another program or version, a shard that is
      absent or has another length.
  """
  path = os.path.join(folder, NAME)
  try:
    with open(path, encoding='utf-8') as stream:
      content = json.load(stream)
  except FileNotFoundError:
    raise errors.UserError(
        f'{folder} has no {NAME}; expected a folder written by `python -m '
        'gans_jax.prepare`. For a folder of images, use folder:PATH.'
        ) from None
  except (OSError, ValueError, RecursionError) as error:
    raise errors.UserError(
        f'{path} cannot be read ({error}). Prepare the data set again.'
        ) from None
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise errors.UserError(
        f'{path} was not written by gans_jax.prepare; expected "format": '
        f'"{FORMAT}".')
  if content.get('version') != VERSION:
    raise errors.UserError(
        f'{path} has version {content.get("version")!r}; this program reads '
        f'{VERSION}. Prepare the data set again.')
  wrong = [key for key, kind in _KEYS.items()
           if not isinstance(content.get(key), kind)]
  if wrong:
    raise errors.UserError(
        f'{path} lacks or garbles {", ".join(wrong)}. Prepare the data set '
        'again.')
  _check_values(path, content)
  for shard in content['shards']:
    _check_shard(folder, path, shard)
  counted = sum(shard['count'] for shard in content['shards'])
  if counted != content['count'] or not counted:
    raise errors.UserError(
        f'{path} promises {content["count"]} examples and its shards hold '
        f'{counted}. Prepare the data set again.')
  return content


def _check_values(path, content):
  limits = {'count': 2**63, 'resolution': 2**16, 'channels': 4,
            'num_classes': 2**20}
  wrong = [key for key, limit in limits.items()
           if isinstance(content[key], bool) or not 0 <= content[key] < limit]
  if not all(isinstance(name, str) for name in content['class_names']):
    wrong.append('class_names')
  if not all(map(_is_field, content['fields'])):
    wrong.append('fields')
  else:
    keys = [field['key'] for field in content['fields']]
    if 'image' not in keys or len(set(keys)) < len(keys):
      wrong.append('fields')
  if wrong:
    raise errors.UserError(
        f'{path} has impossible values of {", ".join(wrong)}. Prepare the '
        'data set again.')


def _is_field(field) -> bool:
  if not (isinstance(field, dict) and isinstance(field.get('key'), str)
          and field.get('encoding') in ('raw', 'png', 'text')):
    return False
  shape, dtype = field.get('shape'), field.get('dtype')
  return field['encoding'] == 'text' or (
      isinstance(dtype, str) and isinstance(shape, list)
      and bool(re.fullmatch(r'(u?int|float)(8|16|32|64)|bool', dtype))
      and dtype != 'float8'
      and all(isinstance(n, int) and 0 < n < 2**24 for n in shape)
      and math.prod(shape) < 2**27)


def _check_shard(folder, path, shard):
  if not (isinstance(shard, dict) and isinstance(shard.get('file'), str)
          and shard['file'] == os.path.basename(shard['file'])
          and isinstance(shard.get('count'), int) and shard['count'] >= 0
          and isinstance(shard.get('bytes'), int)):
    raise errors.UserError(
        f'{path} describes a shard as {shard!r:.120}; expected file, count, '
        'bytes and sha256. Prepare the data set again.')
  file = os.path.join(folder, shard['file'])
  if not os.path.isfile(file):
    raise errors.UserError(
        f'{file} is missing, though {path} names it. Copy it again or '
        'prepare the data set again.')
  size = os.path.getsize(file)
  if size != shard['bytes']:
    raise errors.UserError(
        f'{file} is {size} bytes long; its manifest says {shard["bytes"]}. It '
        'is cut off or was changed. Copy it again or prepare the data set '
        'again.')


def verify(folder: str, tell: Callable[[str], None]) -> dict[str, Any]:
  """Reads a manifest and compares the sha256 of every shard.

  Args:
    folder: a prepared data set.
    tell: called with one line per shard.

  Raises:
    UserError: as `read`, or a hash that differs.
  """
  content = read(folder)
  for shard in content['shards']:
    file = os.path.join(folder, shard['file'])
    found = file_hash(file)
    if found != shard.get('sha256'):
      raise errors.UserError(
          f'{file} has the sha256 {found}; its manifest says '
          f'{shard.get("sha256")}. Its bytes were changed. Copy it again or '
          'prepare the data set again.')
    tell(f'{shard["file"]}: {shard["count"]} examples, sha256 correct')
  return content
