"""The stream of batches: one order for all, exact resume, nothing dropped."""

import collections
import json
import subprocess
import sys

import numpy as np
import pytest

from gans_jax.core import errors
from gans_jax.core import stages as stages_lib
from gans_jax.data import pipeline
from gans_jax.data import spec as spec_lib


class Numbers:
  """Example i: an image filled with i, and its number as the label."""

  def __init__(self, count=10, extra=()):
    self.spec = spec_lib.image_spec(
        resolution=2, channels=3, num_examples=count, facts={'n': count},
        num_classes=count, extra=tuple(extra))
    self._extra = {key: (shape, dtype) for key, shape, dtype in extra}

  def __len__(self):
    return self.spec.num_examples

  def __getitem__(self, i):
    example = {'image': np.full((2, 2, 3), i, np.uint8), 'label': np.int32(i),
               'captions': np.array([str(i)])}
    example['image'][:, 1] += 100  # tells a mirrored image
    for key, (shape, dtype) in self._extra.items():
      example[key] = np.full(shape, 1, dtype)
    return example

  def __repr__(self):
    return 'Numbers'


def _take(dataset, steps, start=None, **options):
  iterator = pipeline.train_iterator(dataset, **options)
  if start is not None:
    iterator.set_state(start)
  batches = [next(iterator) for _ in range(steps)]
  state = iterator.get_state()
  iterator.close()
  return batches, state


def _labels(batches):
  return np.stack([batch['label'] for batch in batches])


def test_shapes_and_keys():
  batches, _ = _take(pipeline.Dataset(Numbers()), 1, batch_size=4,
                     batches_per_step=3)
  batch = batches[0]
  assert set(batch) == {'image', 'label'}  # no strings
  assert batch['image'].shape == (3, 4, 2, 2, 3)
  assert batch['image'].dtype == np.uint8
  assert batch['label'].shape == (3, 4) and batch['label'].dtype == np.int32
  np.testing.assert_array_equal(batch['image'][..., 0, 0, 0], batch['label'])
  only, _ = _take(pipeline.Dataset(Numbers()), 1, batch_size=4,
                  keys=('label',))
  assert set(only[0]) == {'label'}


def test_epochs_are_whole_and_run_through():
  # 10 does not divide into batches of 4 x 3: nothing is dropped.
  batches, _ = _take(pipeline.Dataset(Numbers()), 10, batch_size=4,
                     batches_per_step=3)
  stream = _labels(batches).reshape(-1)
  epochs = stream.reshape(12, 10)
  for epoch in epochs:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in epochs}) == 12  # reshuffled


def test_batches_larger_than_the_data_set():
  batches, _ = _take(pipeline.Dataset(Numbers(3)), 2, batch_size=8)
  counts = collections.Counter(_labels(batches).reshape(-1).tolist())
  assert sorted(counts.values()) == [5, 5, 6]


def test_seed_decides():
  data = pipeline.Dataset(Numbers(50))
  first, _ = _take(data, 3, batch_size=8, seed=1)
  again, _ = _take(data, 3, batch_size=8, seed=1, prefetch=1)
  other, _ = _take(data, 3, batch_size=8, seed=2)
  np.testing.assert_array_equal(_labels(first), _labels(again))
  assert (_labels(first) != _labels(other)).any()


@pytest.mark.parametrize('count', [2, 4])
def test_processes_share_one_global_stream(count):
  options = dict(batch_size=8, batches_per_step=2, seed=5, flip=True)
  whole, _ = _take(pipeline.Dataset(Numbers(30)), 5, **options)
  parts = [_take(pipeline.Dataset(Numbers(30)), 5, **options,
                 process_index=i, process_count=count)[0]
           for i in range(count)]
  for step in range(5):
    for key in ('image', 'label'):
      joined = np.concatenate([part[step][key] for part in parts], axis=1)
      np.testing.assert_array_equal(joined, whole[step][key])


def test_resumes_exactly_even_on_other_processes():
  options = dict(batch_size=8, batches_per_step=2, seed=5, flip=True)
  data = pipeline.Dataset(Numbers(30))
  whole, _ = _take(data, 9, **options)
  _, state = _take(data, 4, **options)
  state = json.loads(json.dumps(state))
  assert state['step'] == 4
  rest, _ = _take(data, 5, state, **options, prefetch=1)
  for got, want in zip(rest, whole[4:], strict=True):
    np.testing.assert_array_equal(got['image'], want['image'])
  half, _ = _take(data, 5, state, **options, process_index=1, process_count=2)
  np.testing.assert_array_equal(_labels(half), _labels(whole[4:])[:, :, 4:])


def test_state_counts_what_was_delivered_not_what_was_prefetched():
  iterator = pipeline.train_iterator(pipeline.Dataset(Numbers()), batch_size=2,
                                     prefetch=8)
  assert iterator.get_state()['step'] == 0
  next(iterator)
  assert iterator.get_state()['step'] == 1
  iterator.set_state({**iterator.get_state(), 'step': 0})  # back again
  first = next(iterator)['label']
  iterator.close()
  again, _ = _take(pipeline.Dataset(Numbers()), 1, batch_size=2)
  np.testing.assert_array_equal(first, again[0]['label'])


# Three steps of 2 x 4, two of 2 x 2, then 2 x 8.
STAGES = stages_lib.Stages((
    stages_lib.Stage(0, 0, 4, 8, resolution=1),
    stages_lib.Stage(3, 24, 2, 4, resolution=2),
    stages_lib.Stage(5, 32, 8, 16, resolution=2)))


def test_stages_go_on_where_the_last_one_ended():
  options = dict(batch_size=99, batches_per_step=2, seed=5, flip=True)
  data = pipeline.Dataset(Numbers(30))
  whole, state = _take(data, 7, **options, stages=STAGES)
  assert [batch['image'].shape[:3] for batch in whole] == (
      3 * [(2, 4, 1)] + 2 * [(2, 2, 2)] + 2 * [(2, 8, 2)])
  stream = np.concatenate([batch['label'].reshape(-1) for batch in whole])
  plain, _ = _take(data, 32, **{**options, 'batch_size': 1})
  np.testing.assert_array_equal(stream, _labels(plain).reshape(-1))
  # The mean of columns i and i + 100, rounded; the image itself at 2x2.
  assert (whole[0]['image'][..., 0] == (whole[0]['label'] + 50).reshape(
      2, 4, 1, 1)).all()
  np.testing.assert_array_equal(
      whole[3]['image'].reshape(4, 2, 2, 3),
      np.concatenate([b['image'] for b in plain[12:14]]).reshape(4, 2, 2, 3))
  # It resumes within a stage and at a border, on other processes too.
  for start in (2, 3, 6):
    _, state = _take(data, start, **options, stages=STAGES)
    state = json.loads(json.dumps(state))
    halves = [_take(data, 7 - start, state, **options, stages=STAGES,
                    process_index=i, process_count=2)[0] for i in (0, 1)]
    for i, want in enumerate(whole[start:]):
      np.testing.assert_array_equal(
          np.concatenate([half[i]['image'] for half in halves], 1),
          want['image'])
  other = stages_lib.Stages(STAGES.parts[:2])
  with pytest.raises(errors.UserError, match='batch_size was .*3, 2, 2'):
    _take(data, 1, state, **options, stages=other)
  with pytest.raises(errors.UserError, match='batch_size is 2; .* 4'):
    _take(data, 1, **options, stages=STAGES, process_count=4)


def test_shrink_is_the_records_of_the_authors():
  """Means of 2x2 carried in float from level to level, each level rounded."""
  image = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
  np.testing.assert_array_equal(pipeline.shrink(image, 16), image)
  level = image.astype(np.float32)
  for resolution in (8, 4, 2):
    level = (level[:, ::2, ::2] + level[:, ::2, 1::2]
             + level[:, 1::2, ::2] + level[:, 1::2, 1::2]) * 0.25
    np.testing.assert_array_equal(
        pipeline.shrink(image, resolution), np.rint(level).astype(np.uint8))
  halves = np.array([0, 1, 1, 0, 2, 1, 2, 1], np.uint8).reshape(2, 2, 2, 1)
  assert pipeline.shrink(halves, 1).reshape(-1).tolist() == [0, 2]  # to even


def test_refuses_the_state_of_another_stream():
  _, state = _take(pipeline.Dataset(Numbers()), 1, batch_size=2, seed=3)
  iterator = pipeline.train_iterator(pipeline.Dataset(Numbers(11)),
                                     batch_size=4, seed=3)
  with pytest.raises(errors.UserError, match='data was.*batch_size was 2'):
    iterator.set_state(state)


def test_flips_are_fair_independent_and_mirror():
  data = pipeline.Dataset(Numbers(40))
  options = dict(batch_size=40, seed=9)
  flipped, _ = _take(data, 50, **options, flip=True)
  plain, _ = _take(data, 50, **options)
  # Same order with and without.
  np.testing.assert_array_equal(_labels(flipped), _labels(plain))
  which = []
  for got, want in zip(flipped, plain, strict=True):
    mirrored = want['image'][:, :, :, ::-1]
    is_mirrored = (got['image'] == mirrored).all((2, 3, 4))
    assert (is_mirrored | (got['image'] == want['image']).all((2, 3, 4))).all()
    which.append(is_mirrored[0])
  which = np.stack(which)  # [epoch, position]
  assert abs(which.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
  # Neither the same each epoch nor the same for a whole batch.
  assert 0.3 < which.mean(0).min() < which.mean(0).max() < 0.8
  assert 0.2 < which.mean(1).min() < which.mean(1).max() < 0.8


def test_mirror_moves_boxes_and_maps():
  batch = {'image': np.arange(12, dtype=np.uint8).reshape(2, 1, 6, 1),
           'label_map': np.arange(12).reshape(2, 1, 6),
           'boxes': np.array([[[0.1, 0.2, 0.3, 0.4], [-0.6, -0.6, 0.5, 0.5]]]
                             * 2, np.float32),
           'label': np.array([3, 4])}
  got = pipeline.mirror(batch, np.array([False, True]))
  for key in batch:
    np.testing.assert_array_equal(got[key][0], batch[key][0])
  np.testing.assert_array_equal(got['image'][1, 0, :, 0], [11, 10, 9, 8, 7, 6])
  np.testing.assert_array_equal(got['label_map'][1, 0], [11, 10, 9, 8, 7, 6])
  np.testing.assert_allclose(
      got['boxes'][1], [[0.6, 0.2, 0.3, 0.4], [-0.6, -0.6, 0.5, 0.5]],
      rtol=1e-6)
  assert got['label'][1] == 4
  np.testing.assert_array_equal(batch['image'].reshape(-1), np.arange(12))


def test_flip_is_refused_where_it_would_lie():
  data = pipeline.Dataset(Numbers(extra=[('tokens', (4,), 'int32')]))
  with pytest.raises(errors.UserError, match='tokens'):
    pipeline.train_iterator(data, batch_size=2, flip=True)
  pipeline.train_iterator(data, batch_size=2, flip=True, keys=('image',))


@pytest.mark.parametrize('options, words', [
    (dict(batch_size=6, process_count=4), 'multiple of the number'),
    (dict(batch_size=0), 'positive'),
    (dict(batch_size=2, batches_per_step=0), 'batches_per_step'),
    (dict(batch_size=2, workers=-1), 'workers'),
    (dict(batch_size=2, keys=('image', 'depth')), 'no depth')])
def test_refuses(options, words):
  with pytest.raises(errors.UserError, match=words):
    pipeline.train_iterator(pipeline.Dataset(Numbers()), **options)


def test_grain_is_imported_before_there_are_threads():
  # Importing it at the first batch broke the checkpoint of step 0, whose
  # thread imported a function at the same time.
  subprocess.run([sys.executable, '-c', """
import sys
from gans_jax.data import pipeline
dataset = pipeline.open_dataset({'source': 'mixture:ring8'})
assert 'grain' not in sys.modules
iterator = pipeline.train_iterator(dataset, batch_size=8)
before = set(sys.modules)
next(iterator)
assert not {name for name in set(sys.modules) - before if 'grain' in name}
"""], check=True)


@pytest.mark.slow
def test_worker_processes_deliver_the_same_stream():
  data = pipeline.open_dataset({'source': 'emoji:noto', 'resolution': 16})
  options = dict(batch_size=8, seed=4, flip=True)
  want, _ = _take(data, 6, **options)
  got, state = _take(data, 4, **options, workers=2)
  rest, _ = _take(data, 2, state, **options, workers=1)
  for a, b in zip(got + rest, want, strict=True):
    np.testing.assert_array_equal(a['image'], b['image'])


def test_ordered_batches_are_exactly_n():
  data = pipeline.Dataset(Numbers(10))
  batches = list(pipeline.ordered_batches(data, 4, 7))
  assert [batch['label'].shape for batch, _ in batches] == [(4,), (4,)]
  valid = np.concatenate([mask for _, mask in batches])
  labels = np.concatenate([batch['label'] for batch, _ in batches])
  assert valid.tolist() == [True] * 7 + [False]
  assert labels[valid].tolist() == list(range(7))
  assert sum(mask.sum() for _, mask in pipeline.ordered_batches(data, 3)) == 10


def test_ordered_batches_draw_without_replacement():
  data = pipeline.Dataset(Numbers(100))

  def draw(num, seed, **options):
    return np.concatenate([
        batch['label'][mask] for batch, mask in
        pipeline.ordered_batches(data, 8, num, seed, **options)])

  first = draw(40, 1)
  assert len(set(first)) == 40 and first.tolist() != sorted(first)
  np.testing.assert_array_equal(draw(60, 1)[:40], first)
  assert set(draw(40, 2)) != set(first)
  halves = [draw(40, 1, process_index=i, process_count=2) for i in (0, 1)]
  np.testing.assert_array_equal(
      np.sort(np.concatenate(halves)), np.sort(first))
  with pytest.raises(errors.UserError, match='101 real images'):
    list(pipeline.ordered_batches(data, 8, 101))


def test_ordered_batches_can_be_left_early():
  stream = pipeline.ordered_batches(pipeline.Dataset(Numbers(10)), 2)
  next(stream)
  stream.close()


def test_limit_is_a_fixed_random_subset():
  data = pipeline.Dataset(Numbers(100), limit=10)
  labels = [int(data[i]['label']) for i in range(len(data))]
  assert len(data) == data.spec.num_examples == 10
  assert labels == sorted(set(labels)) and max(labels) > 20
  again = pipeline.Dataset(Numbers(100), limit=10)
  assert again.spec == data.spec
  assert data.spec.identity != Numbers(100).spec.identity
  np.testing.assert_array_equal(data.take(np.arange(10))['label'], labels)
  assert pipeline.Dataset(Numbers(5), limit=10).spec == Numbers(5).spec
  whole = data.whole
  assert whole.spec == Numbers(100).spec and len(whole) == 100
  assert whole.whole is whole
  with pytest.raises(IndexError):
    data[10]


def test_coin_is_fair_over_seeds():
  flips = np.stack([pipeline.coin(np.arange(1000), seed)
                    for seed in range(100)])
  assert abs(flips.mean() - 0.5) < 4 * 0.5 / np.sqrt(flips.size)
  # Neither neighbours nor neighbouring seeds agree more than by chance.
  limit = 4 * 0.5 / np.sqrt(flips.size)
  assert abs((flips[1:] == flips[:-1]).mean() - 0.5) < limit * 1.1
  assert abs((flips[:, 1:] == flips[:, :-1]).mean() - 0.5) < limit * 1.1
