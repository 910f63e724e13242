"""Names of sources, and the mixtures behind one of them."""

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.data import mixtures
from gans_jax.data import pipeline


@pytest.mark.parametrize('name, words', [
    ('', 'KIND'), ('emojis:noto', "Did you mean 'emoji'"),
    ('folder', 'folder:PATH'), ('tfds:', 'tfds:NAME'),
    ('mixture:ring9', 'ring8')])
def test_refuses(name, words):
  with pytest.raises(errors.UserError, match=words):
    pipeline.open_dataset({'source': name})


def test_refuses_a_negative_limit():
  with pytest.raises(errors.UserError, match='data.limit'):
    pipeline.open_dataset({'source': 'emoji:noto', 'limit': -1})


def test_mixture():
  config = {'source': 'mixture:ring8', 'labels': 'class', 'num_examples': 500}
  data = pipeline.open_dataset(config)
  batch = data.take(np.arange(500))
  assert batch['point'].shape == (500, 2)
  assert batch['point'].dtype == np.float32
  centres = mixtures.get('ring8').modes
  nearest = np.linalg.norm(
      batch['point'][:, None] - centres[None], axis=-1).argmin(1)
  np.testing.assert_array_equal(batch['label'], nearest)
  np.testing.assert_array_equal(data[7]['point'], batch['point'][7])
  assert data.spec.shapes == (('point', (2,), 'float32'),
                              ('label', (), 'int32'))
  assert data.spec.num_classes == 8
  assert (data.spec.resolution, data.spec.channels) == (0, 0)
  test = pipeline.open_dataset(config, 'test')
  assert (test.take(np.arange(500))['point'] != batch['point']).all()
  assert test.spec.identity != data.spec.identity
  assert len(pipeline.open_dataset({'source': 'mixture:ring8'})) == 100_000


def test_mixture_without_modes_and_refusals():
  roll = {'source': 'mixture:swissroll', 'num_examples': 5}
  assert pipeline.open_dataset({**roll, 'labels': 'class'}
                               ).spec.num_classes == 1
  assert pipeline.open_dataset(roll).spec.keys == ('point',)
  for config, words in (({'split': 'dev'}, 'data.split'),
                        ({'labels': 'mode'}, 'data.labels'),
                        ({'num_examples': -1}, 'num_examples')):
    with pytest.raises(errors.UserError, match=words):
      pipeline.open_dataset({**roll, **config})
  with pytest.raises(errors.UserError, match='point'):
    pipeline.train_iterator(pipeline.open_dataset(roll), batch_size=1,
                            flip=True)


@pytest.mark.parametrize('name', ['shapes', 'scenes'])
def test_procedural_sources_deliver_batches_of_their_spec(name):
  data = pipeline.open_dataset({'source': name, 'resolution': 32})
  iterator = pipeline.train_iterator(data, batch_size=2)
  batch = next(iterator)
  iterator.close()
  for key, shape, dtype in data.spec.shapes:
    assert batch[key].shape == (1, 2, *shape), key
    assert batch[key].dtype == dtype, key
