"""What a pickle may not do, with pickles that try."""

import collections
import io
import os
import pickle

import pytest

from gans_jax.convert import safe_pickle
from gans_jax.core import errors


class _Runs:
  """Pickles to a call of os.system."""

  def __reduce__(self):
    return os.system, ('exit 1',)


def _load(data, allowed=None):
  return safe_pickle.load(io.BytesIO(data), 'a.pth', allowed or {})


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_round_trip(protocol):
  value = {'a': [1, 2.5, None, True], 'b': ('text', b'bytes', 10**30)}
  assert _load(pickle.dumps(value, protocol),
               {'_codecs.encode': safe_pickle.Call(
                   lambda text, encoding: text.encode(encoding))}) == value


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_refuses_a_call_and_names_it(protocol):
  with pytest.raises(errors.UserError, match=r'a\.pth asks for \w+\.system'):
    _load(pickle.dumps(_Runs(), protocol))


def test_allowed_name_does_not_open_its_attributes():
  # Protocol 4 looks dotted names up by attribute, from any module.
  data = (b'\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.')
  with pytest.raises(errors.UserError, match='OrderedDict.fromkeys'):
    _load(data, {'collections.OrderedDict': collections.OrderedDict})


def test_call_cannot_be_changed_by_the_file():
  calls = []
  allowed = {'m.f': safe_pickle.Call(lambda *args: calls.append(args))}
  # GLOBAL m.f; a (state, slot state) tuple; BUILD, which sets attributes.
  data = b"cm\nf\n(N(S'_function'\nNdtb."
  with pytest.raises(errors.UserError, match='sets the attribute _function'):
    _load(data, allowed)
  assert _load(b'cm\nf\n(I7\ntR.', allowed) is None
  assert calls == [(7,)]


@pytest.mark.parametrize('data', [b'', b'\x80\x02', b'hello', b'\x80\x02]q'])
def test_damage_is_a_user_error(data):
  with pytest.raises(errors.UserError, match='no readable pickle'):
    _load(data)


def test_unexpected_persistent_id_is_refused():
  with pytest.raises(errors.UserError, match='persistent'):
    _load(b'Pkey\n.')
