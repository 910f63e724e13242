"""Sheets: rows are what they say, on generators with random weights."""

import types

import class_conditional
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gans_jax import sample
from gans_jax import sheets
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import images as images_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import system as system_lib
from gans_jax.data import pipeline
from gans_jax.latent import class_path
from gans_jax.metrics import neighbours


def generator_of(system, classes: int) -> sample.Generator:
  """Returns a `Generator` without a workdir, its weights random."""
  G, draw = object.__new__(sample.Generator), np.random.default_rng(1)
  state = system_lib.abstract_state(system)

  def fill(path, x):
    # Means of 0 and variances of 1, whatever else is drawn.
    noise = draw.normal(size=x.shape) / np.sqrt(max(np.prod(x.shape[:-1]), 1))
    return jnp.asarray({'mean': 0 * noise, 'var': 0 * noise + 1,
                        'scale': 1 + draw.normal(size=x.shape) / 3}.get(
                            path[-1].key, noise), jnp.float32)

  G.system, G.config = system, system.config
  G.variables = {'G': jax.tree_util.tree_map_with_path(
      fill, {'params': state.params['G'], **state.mvars['G']})}
  G.spec = types.SimpleNamespace(num_classes=classes, class_names=(),
                                 resolution=system.image_shape[0])
  # One size of batches for everything: compiled once.
  G.batch_size, G._mesh = 8, mesh_lib.make()
  G._samplers, G._standing, G._map = {}, {}, None
  return G


@pytest.fixture(scope='module')
def G():
  return generator_of(class_conditional.make(
      'sagan', 16, classes=3, **{
          'model.ch_G': 8, 'model.ch_D': 8, 'model.z_dim': 4,
          'model.attention': '8', 'model.spectral_G': False}), 3)


SEEDS = (5, 6, 7, 8)


def test_rows_are_classes_and_columns_seeds(G):
  tiles = sheets.by_class(G, [2, 0], SEEDS)
  assert tiles.shape == (8, 16, 16, 3)
  np.testing.assert_array_equal(tiles, G(SEEDS * 2, label=[2] * 4 + [0] * 4))
  assert (tiles[:4] != tiles[4:]).any((1, 2, 3)).all()
  with pytest.raises(errors.UserError, match='3 classes, 0 to 2'):
    sheets.by_class(G, [3], SEEDS)


def test_the_way_between_classes(G):
  """More frames than classes, so in two parts; the ends are the classes."""
  rows = sheets.between_classes(G, [0, 2, 1], SEEDS[:2], 2)
  assert rows.shape == (2, 5, 16, 16, 3)
  ends = G(SEEDS[:2] * 4, label=[0, 0, 2, 2, 1, 1, 0, 0])
  for frame, k in ((0, 0), (2, 1), (4, 2)):
    np.testing.assert_array_equal(rows[:, frame], ends[2 * k:2 * k + 2])
  # Half of the way, with tables averaged by hand.
  params = jax.tree_util.tree_map_with_path(
      lambda path, x: x.at[0].set((x[0] + x[2]) / 2) if (
          x.ndim == 2 and path[-1].key in ('scale', 'bias')) else x,
      G.variables['G']['params'])
  variables = {'G': {**G.variables['G'], 'params': params}}
  by_hand = G._samplers[next(iter(G._samplers))](
      variables, rng.from_seeds(np.asarray(SEEDS * 2)),
      {'label': np.zeros(8, np.int32)})
  difference = np.abs(by_hand[:2].astype(int) - rows[:, 1])
  assert difference.max() <= 1
  assert (rows[:, 1] != rows[:, 0]).any() and (rows[:, 1] != rows[:, 2]).any()
  with pytest.raises(errors.UserError, match='at least two classes'):
    sheets.between_classes(G, [1], SEEDS, 2)
  with pytest.raises(errors.UserError, match='batch_norm=batch'):
    sheets.between_classes(G, [1, 2], SEEDS, 2, batch_norm='batch')


def test_shares():
  np.testing.assert_array_equal(
      class_path.shares(3, 2),
      [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])


def test_tables():
  """Kernels, and biases of layers, are not looked up for a class."""
  params = {'shared': {'embedding': np.ones((3, 5))},
            'bn': {'scale': np.arange(6.).reshape(3, 2), 'norm': {
                'bias': np.ones(3)}},
            'dense': {'kernel': np.ones((3, 3)), 'bias': np.ones(3)}}
  params = jax.tree.map(jax.numpy.asarray, params)
  found = class_path.tables(params, 3)
  assert {jax.tree_util.keystr(path) for path in found} == {
      "['shared']['embedding']", "['bn']['scale']"}
  new = class_path.replaced(params, found, np.array([[0.25, 0, 0.75]]))
  np.testing.assert_allclose(new['bn']['scale'], [[3, 4], [2, 3], [4, 5]])
  np.testing.assert_array_equal(new['dense']['kernel'], np.ones((3, 3)))


def test_attention(G):
  tiles = sheets.attention(G, SEEDS[:2], label=1)
  assert tiles.shape == (2 * 6, 128, 128, 3)
  # Beside the dots the first of a row is the image, enlarged.
  image = images_lib.enlarge(G(SEEDS * 2, label=1)[1], 128)
  same = (np.abs(tiles[6].astype(int) - image) <= 1).all(-1)
  assert 0.9 < same.mean() < 1
  with pytest.raises(errors.UserError, match="no sampling option 'psi'"):
    sheets.attention(G, SEEDS, psi=1)


def test_attention_needs_attention():
  system = class_conditional.make('sagan', 8, **{
      'model.ch_G': 8, 'model.ch_D': 8, 'model.z_dim': 4,
      'model.attention': 'none', 'model.spectral_G': False})
  with pytest.raises(errors.UserError, match='built without'):
    sheets.attention(generator_of(system, 3), SEEDS[:1])


def test_a_map_lies_where_its_key_is():
  """Of the queries the third asks, for a key at the right of the top."""
  maps = np.full((64, 16), 1e-9)
  query = 4 * 8 + 4
  maps[query, 0 * 4 + 3] = 1
  tiles = sheets.attention_row(np.full((64, 64, 1), 200, np.uint8), maps)
  assert tiles.shape == (6, 128, 128, 3)
  expected = np.full((128, 128, 3), 70)
  expected[:32, 96:] = sheets.COLOURS[2]
  np.testing.assert_array_equal(tiles[3], expected)
  for (y, x), colour in zip(sheets.QUERIES, sheets.COLOURS, strict=True):
    np.testing.assert_array_equal(tiles[0][int(y * 128), int(x * 128)], colour)
  assert (tiles[0][0, 0] == 200).all()


def test_nearest():
  draw = np.random.default_rng(0)
  rows = draw.normal(size=(50, 4)).astype(np.float32)
  rows[40] = rows[3]
  queries = np.concatenate([rows[[3]], draw.normal(size=(2, 4))]).astype('f')
  indices, distances = neighbours.nearest(
      queries, (rows[i:i + 7] for i in range(0, 50, 7)), 9)
  expected = np.linalg.norm(rows[None] - queries[:, None], axis=-1)
  np.testing.assert_array_equal(
      indices, np.argsort(expected, 1, kind='stable')[:, :9])
  np.testing.assert_allclose(distances, np.sort(expected, 1)[:, :9], rtol=1e-6)
  assert indices[0, :2].tolist() == [3, 40] and distances[0, 1] == 0


@pytest.mark.slow
def test_a_training_image_is_its_own_neighbour(G):
  dataset = pipeline.open_dataset(config_lib.data_config(
      source='emoji:noto', resolution=16, limit=40))
  samples = dataset.take(np.array([11, 4]), ('image',))['image']
  tiles, facts = sheets.neighbours(G, samples, 3, dataset)
  assert tiles.shape == (8, 16, 16, 3)
  np.testing.assert_array_equal(tiles[[0, 4]], samples)
  np.testing.assert_array_equal(tiles[[1, 5]], samples)
  for row, index in zip(facts, (11, 4), strict=True):
    assert row['indices'][0] == index and row['distances'][0] < 1e-3
    assert row['distances'] == sorted(row['distances'])
  with pytest.raises(errors.UserError, match='there are 40 training images'):
    sheets.neighbours(G, samples, 41, dataset)
