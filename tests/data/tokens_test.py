"""Tokens as files: which process writes them."""

import types

import jax
import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.core import processes
from gans_jax.data import spec as spec_lib
from gans_jax.data import tokens

CODES = np.arange(24, dtype=np.int32).reshape(6, 2, 2)


class Images:
  """Six of them, which nobody reads."""

  spec = spec_lib.DataSpec(8, 3, 0, 6, ('image',), identity='data')

  def __len__(self):
    return 6


@pytest.fixture
def world(tmp_path, monkeypatch):
  """(open as process i of two, what happened in which order)."""
  happened, sent = [], []
  images = Images()
  tokenizer = types.SimpleNamespace(
      variables={'E': {}}, name='first', identity='0123@2', codebook_size=24,
      shape=lambda spec: (2, 2))

  def batches(unused_images, unused_tokenizer, start):
    happened.append('extract')
    for i in range(start, 6, 4):
      yield {'tokens': CODES[i:i + 4]}

  def broadcast(value):
    happened.append('send' if jax.process_index() == 0 else 'wait')
    if jax.process_index() == 0:
      sent.append(value)
    return sent[-1]

  monkeypatch.setattr(tokens, '_batches', batches)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(processes, '_broadcast', broadcast)

  def opened(index, folder=tmp_path):
    monkeypatch.setattr(jax, 'process_index', lambda: index)
    return tokens._open(images, tokenizer, str(folder))

  return opened, happened


def test_process_0_extracts_and_the_others_wait(world, tmp_path):
  opened, happened = world
  first = opened(0)
  # The others go on when all is written, not before.
  assert happened == ['extract', 'send']
  second = opened(1)
  assert happened == ['extract', 'send', 'wait']
  for found in (first, second):
    assert list(found) == ['tokens'] and found['tokens'].dtype == np.uint16
    np.testing.assert_array_equal(found['tokens'], CODES)
  assert len(list(tmp_path.iterdir())) == 1


def test_what_stops_process_0_stops_the_others(world, tmp_path):
  opened, happened = world
  (tmp_path / 'file').write_text('')
  for index in (0, 1):
    with pytest.raises(errors.UserError, match='cannot be written'):
      opened(index, tmp_path / 'file')
  assert happened == ['send', 'wait']
