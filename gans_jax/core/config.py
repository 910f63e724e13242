"""Configs: a file is the record of an experiment; every key has a default.

`experiments/<paper>/<data>.py` holds `get_config(arg='')`. It starts from
`base(system)`, which has every key that the system understands, and assigns.
The command line overrides with `--config.model.z_dim=64`; a key that does not
exist is refused, the nearest one named.
"""

import ast
import difflib
import importlib
import importlib.util
import json
import math
import os
import sys
import traceback
import types
from typing import Any

from ml_collections import config_dict

from gans_jax.core import errors

ConfigDict = config_dict.ConfigDict


def base(system: str, **model) -> ConfigDict:
  """Returns the full default config of a system, locked.

  Args:
    system: module name under gans_jax/systems.
    **model: values for `config.model`.
  """
  config = ConfigDict(dict(
      system=system,
      seed=0,
      batch_size=64,             # global: over all devices and processes
      microbatches=1,            # pieces in which gradients are accumulated
      total_steps=0,             # generator updates; or give total_kimg
      total_kimg=0.0,            # thousands of images: steps * batch_size
      dtype='float32',           # of activations; parameters stay float32
      mesh=dict(data=-1, model=1),
      data=data_config(),
      ema=dict(decay=0.999, start=0, kimg=0.0, rampup=0.0),
      log_every=100,             # all *_every are in steps; 0 = never
      sample_every=1000,
      checkpoint_every=1000,
      evaluate_every=0,
      keep=2,                    # latest checkpoints kept, beside the best
      sample=dict(rows=8, columns=8),
      # whole_data: against all images, also those that data.limit left out.
      evaluate=dict(metrics=('fd5k_lite0',), num=0, batch_size=0,
                    whole_data=False),
      alarms=dict(nan='stop', collapse='warn', window=20),
      compile=dict(cache=True, level=-1),  # level -1: by platform
  ))
  defaults = system_module(system).default_config()
  for key, value in defaults.items():
    config[key] = value
  config.model.update(model)
  return config.lock()


def data_config(**values) -> ConfigDict:
  """Returns the keys of `config.data`."""
  config = ConfigDict(dict(
      source='emoji:both',
      resolution=64,
      aspect='',                 # width:height; '' = square, or as prepared
      channels=3,
      filter='box',              # resize filter, part of the data's identity
      crop='center',
      labels='none',             # what `label` means; 'none', 'class', ...
      groups=(),                 # emoji: only these groups; empty = all
      background=255,            # grey behind transparent pixels
      pairs=False,
      split='train',
      limit=0,                   # a fixed random subset of N; 0 = all
      flip=False,                # random left-right flips
      workers=0,                 # 0: threads in the process
      prefetch=2,
      skip_corrupt=False,
      data_dir='',
      seed=0,                    # of procedural data
      num_examples=100_000,      # of procedural and mixture data
      native_resize=False,       # resize images of other sizes while reading
      tokenizer='',              # workdir of a first stage, or 'pixels:L'
      tokenizer_step=0,          # which checkpoint; 0 = the newest
      cond_tokenizer='',         # the same, of what images are conditioned on
      cond_tokenizer_step=0,
      tokens_dir='',             # of extracted tokens; '' = in the tokenizer's
  ))
  config.update(values)
  return config


# What the argument `debug` of every experiment sets, beside small nets: shipped
# data and a few steps with all that happens in a run, in seconds of CPU.
DEBUG = {
    'data.source': 'emoji:noto', 'data.limit': 64, 'data.resolution': 16,
    'data.channels': 3, 'data.labels': 'none', 'data.crop': 'center',
    'batch_size': 8, 'total_steps': 6, 'total_kimg': 0.0, 'log_every': 1,
    'sample_every': 3, 'checkpoint_every': 3, 'evaluate_every': 0,
    'sample.rows': 2, 'sample.columns': 4, 'evaluate.whole_data': False,
}


def system_module(name: str):
  """Imports gans_jax/systems/<name>.py."""
  known = systems()
  if name not in known:
    raise errors.UserError(
        f'config.system is {name!r}, but there is no such system. '
        f'{nearest(name, known)} Systems: {", ".join(known)}.')
  return importlib.import_module(f'gans_jax.systems.{name}')


def systems() -> list[str]:
  """Names of all systems."""
  import gans_jax.systems

  names = set()
  for folder in gans_jax.systems.__path__:
    for entry in os.listdir(folder):
      path = os.path.join(folder, entry)
      if entry.startswith('_'):
        continue
      if entry.endswith('.py'):
        names.add(entry[:-3])
      elif os.path.exists(os.path.join(path, '__init__.py')):
        names.add(entry)
  return sorted(names)


def nearest(name: str, known) -> str:
  """Returns "Did you mean 'x'?" or ''."""
  close = difflib.get_close_matches(name, list(known), 1, 0.5)
  return f'Did you mean {close[0]!r}?' if close else ''


def parse_arg(arg: str, **defaults) -> ConfigDict:
  """Parses the part after the colon of `--config=file.py:row=c,debug`.

  Args:
    arg: comma-separated `name=value`, or `name` alone for a flag.
    **defaults: the arguments that exist, with defaults that give the types.
      `debug` always exists.

  Returns:
    A dict with every argument.
  """
  defaults = {'debug': False, **defaults}
  result = ConfigDict(defaults)
  for item in filter(None, arg.split(',')):
    name, eq, text = item.partition('=')
    if name not in defaults:
      raise errors.UserError(
          f'The config takes no argument {name!r} (in {arg!r}). '
          f'{nearest(name, defaults)} Arguments: '
          f'{", ".join(sorted(defaults))}.')
    if not eq:
      if not isinstance(defaults[name], bool):
        raise errors.UserError(
            f'The config argument {name!r} needs a value: {name}=...')
      text = 'true'
    result[name] = _parse(f'argument {name}', text, defaults[name])
  return result


def row(rows: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
  """Returns the overrides of one ablation row.

  Args:
    rows: {row name: {dotted key: value}}, in the paper's order; keys
      that start with 'paper/' are published figures and are dropped.
    name: the row asked for.
  """
  if name not in rows:
    raise errors.UserError(
        f'There is no row {name!r}. {nearest(name, rows)} Rows: '
        f'{", ".join(rows)}.')
  return {k: v for k, v in rows[name].items() if not k.startswith('paper/')}


def assign(config: ConfigDict, values: dict[str, Any]) -> None:
  """Assigns {dotted key: value}, refusing keys that do not exist."""
  for key, value in values.items():
    _set(config, key, value, key)


def load(spec: str) -> ConfigDict:
  """Loads `path/to/file.py` or `path/to/file.py:arguments`."""
  path, _, arg = spec.partition(':')
  module = load_module(path)
  try:
    config = module.get_config(arg)
  except (AttributeError, KeyError, TypeError) as error:
    # A locked ConfigDict raises these.
    raise errors.UserError(
        f'The config file {path} sets a key that does not exist, or a value '
        f'of another type: {_where(error, path)}{error}') from error
  if not isinstance(config, ConfigDict):
    raise errors.UserError(
        f'get_config(arg) of {path} returned {type(config).__name__}, '
        'expected the ConfigDict that base(system) gives.')
  return config


def load_module(path: str) -> types.ModuleType:
  """Runs a config file; `get_config(arg)` and `ROWS` are in what it returns.
  """
  if not path.endswith('.py'):
    raise errors.UserError(
        f'--config is {path!r}, which is not the path of a Python file '
        "(such as experiments/quickstart.py, with ':arguments' after it).")
  if not os.path.isfile(path):
    here = os.path.dirname(path) or '.'
    near = ''
    if os.path.isdir(here):
      near = nearest(os.path.basename(path),
                     [f for f in os.listdir(here) if f.endswith('.py')])
    raise errors.UserError(
        f'The config file {path!r} does not exist (looked from '
        f'{os.getcwd()}). {near}')
  name = 'gans_jax_config_' + os.path.basename(path)[:-3]
  module_spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(module_spec)
  sys.modules[name] = module
  try:
    module_spec.loader.exec_module(module)
  except SyntaxError as error:
    raise errors.UserError(
        f'The config file {path} is not valid Python: {error}.') from error
  except errors.UserError:
    raise
  except Exception as error:
    raise errors.UserError(
        f'The config file {path} cannot be run: {_where(error, path)}'
        f'{type(error).__name__}: {error}. Correct it there.') from error
  if not hasattr(module, 'get_config'):
    raise errors.UserError(
        f'The config file {path} has no function get_config(arg).')
  return module


def _where(error: BaseException, path: str) -> str:
  """Returns 'line 12: ', the last line of `path` on the way to `error`."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if frame.filename == path]
  return f'line {lines[-1]}: ' if lines else ''


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
  """Separates `--config.a.b=v` and `--noconfig.a.b` from other arguments.

  Returns:
    (overrides as 'a.b=v', the rest).
  """
  overrides, rest = [], []
  i = 0
  while i < len(argv):
    item = argv[i]
    if item.startswith('--config.'):
      item = item[len('--config.'):]
      if '=' not in item:
        if i + 1 >= len(argv):
          raise errors.UserError(f'--config.{item} needs a value.')
        i += 1
        item = f'{item}={argv[i]}'
      overrides.append(item)
    elif item.startswith('--noconfig.'):
      overrides.append(item[len('--noconfig.'):] + '=false')
    else:
      rest.append(item)
    i += 1
  return overrides, rest


def apply_overrides(config: ConfigDict, overrides: list[str]) -> ConfigDict:
  """Applies 'a.b=v' to a config, typed by the value that is there."""
  for item in overrides:
    key, _, text = item.partition('=')
    old = _get(config, key)
    if isinstance(old, ConfigDict):
      raise errors.UserError(
          f'--config.{key} is a group of keys '
          f'({", ".join(sorted(old))}), not a value: set one of them.')
    _set(config, key, _parse(f'--config.{key}', text, old), f'--config.{key}')
  return config


def _get(config: ConfigDict, key: str):
  node = config
  done = []
  for part in key.split('.'):
    if not isinstance(node, ConfigDict) or part not in node:
      known = list(flatten(config))
      inside = sorted(node) if isinstance(node, ConfigDict) else []
      full = '.'.join([*done, part])
      hint = (nearest(key, known)
              or nearest(part, [k.split('.')[-1] for k in known]))
      where = f" of '{'.'.join(done)}'" if done else ''
      raise errors.UserError(
          f'The config has no key {full!r}. {hint} Keys{where}: '
          f'{", ".join(inside) or "none, it is a value"}.')
    node = node[part]
    done.append(part)
  return node


def _set(config: ConfigDict, key: str, value, name: str) -> None:
  old = _get(config, key)
  if isinstance(old, tuple) and isinstance(value, list):
    value = tuple(value)
  *groups, last = key.split('.')
  node = config
  for part in groups:
    node = node[part]
  if isinstance(old, float) and isinstance(value, int) and not isinstance(
      value, bool):
    value = float(value)
  if not _is_plain(value):
    raise errors.UserError(
        f'{name} is {value!r:.200}, expected plain, finite values that JSON '
        f'can hold, such as {old!r}.')
  if old is not None and type(old) is not type(value):
    raise errors.UserError(
        f'{name} is {value!r} ({type(value).__name__}), expected '
        f'{type(old).__name__}, such as {old!r}.')
  node[last] = value


def _is_plain(value) -> bool:
  """Whether it is made of texts and finite numbers of 64 bits."""
  if isinstance(value, list | tuple):
    return all(map(_is_plain, value))
  if isinstance(value, dict | ConfigDict):
    return all(isinstance(key, str) and _is_plain(item)
               for key, item in value.items())
  if isinstance(value, float):
    return math.isfinite(value)
  if isinstance(value, int):
    return abs(value) < 2**63
  return value is None or isinstance(value, str)


def _parse(name: str, text: str, old):
  """Reads `text` as a value of the type of `old`."""
  expected = type(old).__name__
  try:
    if isinstance(old, bool):
      values = {'true': True, '1': True, 'yes': True,
                'false': False, '0': False, 'no': False}
      return values[text.lower()]
    if isinstance(old, int):
      return int(text.replace('_', ''))
    if isinstance(old, float):
      value = float(text)
      if not math.isfinite(value):
        raise ValueError(text)
      return value
    if isinstance(old, str):
      return text
    if isinstance(old, (tuple, list)):
      value = ast.literal_eval(text) if text.startswith(
          ('(', '[')) else tuple(_scalar(t) for t in text.split(',') if t)
      if not isinstance(value, (tuple, list)):
        raise ValueError(text)
      return type(old)(value)
    return ast.literal_eval(text)
  except (KeyError, MemoryError, RecursionError, SyntaxError, TypeError,
          ValueError) as error:
    raise errors.UserError(
        f'{name} is {text!r:.200}, expected {expected}, such as {old!r}.'
    ) from error


def _scalar(text: str):
  try:
    return ast.literal_eval(text)
  except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
    return text


def flatten(config) -> dict[str, Any]:
  """Returns {dotted key: value}."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, (ConfigDict, dict)):
      flat.update({f'{key}.{k}': v for k, v in flatten(value).items()})
    else:
      flat[key] = value
  return flat


def to_json(config: ConfigDict) -> dict[str, Any]:
  """Returns plain nested dicts and lists."""
  return json.loads(json.dumps(config.to_dict()))


def from_json(values: dict[str, Any]) -> ConfigDict:
  """Rebuilds a config from `to_json`, with today's defaults for new keys."""
  if not isinstance(values.get('system'), str):
    raise errors.UserError(
        f'config.json names no system, but {values.get("system")!r:.80}; '
        'expected the config of a run.')
  config = base(values['system'])
  for key, value in flatten(values).items():
    try:
      _set(config, key, value, f'config.json: {key}')
    except errors.UserError:
      if key in flatten(config):
        raise
      # A key of an older version that no longer exists says nothing.
  return config


def diff(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
  """Returns {dotted key: (value in a, value in b)} where they differ."""
  a, b = flatten(a), flatten(b)
  return {k: (a.get(k), b.get(k)) for k in sorted({*a, *b})
          if a.get(k) != b.get(k)}


def total_steps(config: ConfigDict) -> int:
  """Returns the generator updates of the run, from steps or kimg."""
  steps, kimg = config.total_steps, config.total_kimg
  if (steps > 0) == (kimg > 0):
    raise errors.UserError(
        f'Exactly one of total_steps (found {steps}) and total_kimg (found '
        f'{kimg}) must be positive. Set the other to 0.')
  return steps or math.ceil(kimg * 1000 / config.batch_size)


def check_choice(config: ConfigDict, key: str, choices) -> None:
  """Refuses a value of a dotted key that is not among `choices`."""
  value = flatten(config)[key]
  if value not in choices:
    raise errors.UserError(
        f'config.{key} is {value!r}. '
        f'{nearest(str(value), [str(c) for c in choices])} '
        f'Expected one of: {", ".join(map(str, choices))}.')


def check_positive(config: ConfigDict, *keys: str) -> None:
  """Refuses dotted keys whose value is not above 0."""
  flat = flatten(config)
  for key in keys:
    if not (math.isfinite(flat[key]) and flat[key] > 0):
      raise errors.UserError(
          f'config.{key} is {flat[key]}, must be above 0.')


def validate(config: ConfigDict) -> None:
  """Checks what is common to all systems."""
  total_steps(config)
  for key in ('batch_size', 'microbatches', 'keep'):
    if config[key] < 1:
      raise errors.UserError(f'config.{key} is {config[key]}, must be >= 1.')
  for key in ('log_every', 'sample_every', 'checkpoint_every',
              'evaluate_every', 'seed'):
    if config[key] < 0:
      raise errors.UserError(
          f'config.{key} is {config[key]}, must be 0 or more.')
  if config.log_every == 0:
    raise errors.UserError('config.log_every is 0, must be >= 1: the alarms '
                           'look at what is logged.')
  for key in ('rows', 'columns'):
    if config.sample[key] < 1:
      raise errors.UserError(
          f'config.sample.{key} is {config.sample[key]}, must be >= 1.')
  for key in ('num', 'batch_size'):
    if config.evaluate[key] < 0:
      raise errors.UserError(
          f'config.evaluate.{key} is {config.evaluate[key]}, must be 0 (the '
          'default) or more.')
  if config.dtype not in ('float32', 'bfloat16'):
    raise errors.UserError(
        f"config.dtype is {config.dtype!r}, expected 'float32' or "
        "'bfloat16'.")
  if not 0.0 <= config.ema.decay < 1.0:
    raise errors.UserError(
        f'config.ema.decay is {config.ema.decay}, must be in [0, 1).')
