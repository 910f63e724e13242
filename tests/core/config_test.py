"""Configs: every key exists, every mistake is named."""

import json

import pytest

from gans_jax.core import config as config_lib
from gans_jax.core import errors


def write(tmp_path, text):
  path = tmp_path / 'c.py'
  path.write_text(text)
  return str(path)


GOOD = '''
from gans_jax.core import config as config_lib
def get_config(arg=''):
  args = config_lib.parse_arg(arg, row='a', width=8)
  config = config_lib.base('dcgan')
  config.total_steps = 3
  config.batch_size = args.width
  return config
'''


def test_load_passes_arguments(tmp_path):
  config = config_lib.load(write(tmp_path, GOOD) + ':width=16,debug')
  assert config.batch_size == 16
  assert config.system == 'dcgan'


def test_missing_file_names_the_nearest(tmp_path):
  write(tmp_path, GOOD)
  with pytest.raises(errors.UserError, match="does not exist.*'c.py'"):
    config_lib.load(str(tmp_path / 'cc.py'))


@pytest.mark.parametrize('text, message', [
    ('x = 1', 'no function get_config'),
    ('def get_config(arg=""):\n  return (', 'not valid Python'),
    (GOOD.replace('batch_size', 'batchsize'), 'key that does not exist'),
])
def test_bad_files(tmp_path, text, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.load(write(tmp_path, text))


@pytest.mark.parametrize('arg, message', [
    ('rows=b', "no argument 'rows'.*Did you mean 'row'"),
    ('width=wide', 'argument width.*expected int'),
    ('width', 'needs a value'),
])
def test_bad_arguments(arg, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.parse_arg(arg, row='a', width=8)


@pytest.mark.parametrize('override, key, value', [
    ('batch_size=32', 'batch_size', 32),
    ('ema.decay=0', 'ema.decay', 0.0),
    ('data.flip=true', 'data.flip', True),
    ('data.groups="a b",c', 'data.groups', ('a b', 'c')),
    ('evaluate.metrics=fd1k_lite0,fd2k_lite0', 'evaluate.metrics',
     ('fd1k_lite0', 'fd2k_lite0')),
    ('evaluate.metrics=("x",)', 'evaluate.metrics', ('x',)),
    ('evaluate.metrics=', 'evaluate.metrics', ()),
    ('data.source=folder:/a=b', 'data.source', 'folder:/a=b'),
])
def test_overrides(override, key, value):
  config = config_lib.apply_overrides(config_lib.base('dcgan'), [override])
  found = config_lib.flatten(config)[key]
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize('override, message', [
    ('batchsize=3', "no key 'batchsize'.*Did you mean 'batch_size'"),
    ('data.resolutoin=3', "Did you mean 'data.resolution'"),
    ('optimizer.D.learning=3', "no key 'optimizer.D.learning'"),
    ('seed.x=3', "no key 'seed.x'"),
    ('batch_size=1.5', 'expected int'),
    ('ema.decay=much', 'expected float'),
    ('ema.decay=nan', 'expected float'),
    ('data.flip=maybe', 'expected bool'),
    ('data=3', 'is a group of keys'),
])
def test_bad_overrides(override, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.apply_overrides(config_lib.base('dcgan'), [override])


def test_split_overrides():
  overrides, rest = config_lib.split_overrides(
      ['--config=a.py', '--config.x.y=1', '--config.z', '2',
       '--noconfig.data.flip', '--workdir', 'w'])
  assert overrides == ['x.y=1', 'z=2', 'data.flip=false']
  assert rest == ['--config=a.py', '--workdir', 'w']


def test_json_round_trip():
  config = config_lib.base('dcgan')
  config.data.groups = ('a', 'b')
  config.total_kimg = 2.0
  again = config_lib.from_json(json.loads(json.dumps(
      config_lib.to_json(config))))
  assert again.to_dict() == config.to_dict()


def test_diff_lists_both_values():
  a, b = config_lib.base('dcgan'), config_lib.base('dcgan')
  b.data.resolution = 32
  assert config_lib.diff(a.to_dict(), b.to_dict()) == {
      'data.resolution': (64, 32)}


@pytest.mark.parametrize('steps, kimg, batch, expected', [
    (7, 0.0, 64, 7), (0, 1.0, 64, 16), (0, 1.0, 100, 10)])
def test_total_steps(steps, kimg, batch, expected):
  config = config_lib.base('dcgan')
  config.update(total_steps=steps, total_kimg=kimg, batch_size=batch)
  assert config_lib.total_steps(config) == expected


@pytest.mark.parametrize('values, message', [
    (dict(total_steps=0), 'Exactly one of total_steps'),
    (dict(total_steps=1, total_kimg=1.0), 'Exactly one of total_steps'),
    (dict(total_steps=1, dtype='float16'), 'config.dtype'),
    (dict(total_steps=1, batch_size=0), 'config.batch_size'),
    (dict(total_steps=1, log_every=0), 'config.log_every'),
    (dict(total_steps=1, seed=-1), 'config.seed'),
])
def test_validate(values, message):
  config = config_lib.base('dcgan')
  config.update(values)
  with pytest.raises(errors.UserError, match=message):
    config_lib.validate(config)


def test_unknown_system_names_the_nearest():
  with pytest.raises(errors.UserError, match="Did you mean 'dcgan'"):
    config_lib.base('dcgann')


def test_row_drops_published_figures():
  rows = {'a': {'batch_size': 3, 'paper/FID': 7.0}}
  assert config_lib.row(rows, 'a') == {'batch_size': 3}
  with pytest.raises(errors.UserError, match='no row'):
    config_lib.row(rows, 'b')


def test_every_system_module_has_the_same_keys_at_the_top():
  for name in config_lib.systems():
    config = config_lib.base(name)
    assert {'model', 'optimizer', 'data', 'seed'} <= set(config), name
    module = config_lib.system_module(name).__name__
    assert module == f'gans_jax.systems.{name}'
