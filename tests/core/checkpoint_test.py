"""Checkpoints: bit-exact, verified, and never worse off after a failure."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gans_jax.core import checkpoint
from gans_jax.core import errors

P = jax.sharding.PartitionSpec


@flax.struct.dataclass
class State:
  step: Any
  params: Any
  mvars: Any
  opt: Any
  ema: Any
  aux: Any
  key: Any


def make_state(seed: int = 0) -> State:
  """A state with all that can go wrong: bf16, empties, optax, typed key."""
  normal = jax.random.normal
  key = jax.random.key(seed)
  params = {
      'G': {'dense': {'kernel': normal(key, (8, 16)),
                      'bias': normal(key, (16,), jnp.bfloat16)}},
      'D': {'w': normal(key, (4, 4)) * 1e-30},
  }
  tx = optax.chain(optax.clip(1.), optax.adam(optax.constant_schedule(1e-3)))
  return State(
      step=jnp.int32(seed), params=params,
      mvars={'G': {}, 'D': {'batch_stats': {'mean': jnp.full(3, 0.1)}}},
      opt={'G': tx.init(params['G']), 'D': optax.sgd(0.1).init(params['D'])},
      ema={'G': {'params': jax.tree.map(jnp.copy, params['G'])}},
      aux={}, key=jax.random.fold_in(key, 7))


def abstract(state, sharding=None):
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding or x.sharding), state)


def bits(tree):
  def one(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    x = np.asarray(x)
    return (x.dtype.name, x.shape, x.tobytes())
  return jax.tree.map(one, tree)


def assert_identical(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert jax.tree.leaves(bits(a)) == jax.tree.leaves(bits(b))


def save_steps(workdir, steps, **kwargs):
  with checkpoint.Checkpointer(workdir, **kwargs) as c:
    for step in steps:
      assert c.save(step, make_state(step), {'next': step}, {'kimg': step / 8})
  return c


def array_file(workdir, step):
  """The largest data file of a checkpoint."""
  state = os.path.join(workdir, 'checkpoints', str(step), 'state')
  found = [os.path.join(root, n) for root, _, names in os.walk(state)
           for n in names]
  return max(found, key=os.path.getsize)


def flip_bit(path):
  with open(path, 'r+b') as f:
    f.seek(os.path.getsize(path) // 2)
    byte = f.read(1)[0]
    f.seek(-1, os.SEEK_CUR)
    f.write(bytes([byte ^ 1]))


def test_round_trip_is_bit_exact(tmp_path):
  state = make_state(3)
  meta = {'kimg': 1.5, 'n': np.int64(3), 'shape': (1, 2), 'x': jnp.int32(4)}
  with checkpoint.Checkpointer(tmp_path) as c:
    c.save(3, state, {'next_index': 17}, meta)
    got = c.restore(abstract(state))
  assert_identical(got.state, state)
  assert got.data_state == {'next_index': 17}
  assert got.meta == {
      'kimg': 1.5, 'n': 3, 'shape': [1, 2], 'x': 4, 'metrics': {}}
  assert (got.step, got.refused) == (3, {})
  # The restored key goes on with the same numbers.
  np.testing.assert_array_equal(
      jax.random.bits(got.state.key, (4,)), jax.random.bits(state.key, (4,)))


def test_donation_right_after_save_is_safe(tmp_path):
  state = make_state(1)
  want = bits(state)
  step = jax.jit(lambda s: s.replace(
      params=jax.tree.map(lambda x: x * 0, s.params)), donate_argnums=0)
  with checkpoint.Checkpointer(tmp_path) as c:
    target = abstract(state)
    c.save(1, state, {}, {})
    step(state)
    got = c.restore(target)
  assert jax.tree.leaves(bits(got.state)) == jax.tree.leaves(want)


@pytest.mark.parametrize('shape', [(1, 1), (4, 2), (8, 1)])
def test_restores_onto_another_mesh(tmp_path, shape):
  devices = np.array(jax.devices())
  mesh = jax.sharding.Mesh(devices[:4].reshape(2, 2), ('data', 'model'))
  state = make_state(5)
  def place(m):
    def one(x):
      spec = P(None, 'model') if x.ndim == 2 else P()
      return jax.sharding.NamedSharding(m, spec)
    return jax.tree.map(one, state)
  save_state = jax.device_put(state, place(mesh))
  other = jax.sharding.Mesh(
      devices[:shape[0] * shape[1]].reshape(shape), ('data', 'model'))
  target = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state, place(other))
  with checkpoint.Checkpointer(tmp_path) as c:
    c.save(5, save_state, {}, {})
    got = c.restore(target).state
  assert_identical(got, state)
  kernel = got.params['G']['dense']['kernel']
  assert kernel.sharding == jax.sharding.NamedSharding(other, P(None, 'model'))


def test_latest_are_kept(tmp_path):
  c = save_steps(tmp_path, [10, 20, 30], keep_latest=2)
  assert c.steps() == [20, 30]
  assert c.latest_step() == 30


def test_best_is_kept_across_a_resume_and_newest_never_deleted(tmp_path):
  best = ('fd', 'min')
  with checkpoint.Checkpointer(tmp_path, 1, best) as c:
    for step, fd in [(1, 9.), (2, 3.), (3, float('nan')), (4, None)]:
      metrics = None if fd is None else {'fd': fd, 'other': 1.}
      c.save(step, make_state(), {}, {}, metrics)
  assert c.steps() == [2, 4]
  with checkpoint.Checkpointer(tmp_path, 1, best) as c:  # the resumed run
    c.save(5, make_state(), {}, {}, {'fd': 4.})
  assert c.steps() == [2, 5]
  assert c.best_step() == 2
  assert c.read_meta(2)['metrics'] == {'fd': 3., 'other': 1.}


def test_best_by_max(tmp_path):
  with checkpoint.Checkpointer(tmp_path, 1, ('is', 'max')) as c:
    for step, score in [(1, 2.), (2, 7.), (3, 5.)]:
      c.save(step, make_state(), {}, {}, {'is': score})
  assert c.steps() == [2, 3]
  assert c.best_step() == 2


def test_best_by_another_metric_after_a_resume(tmp_path):
  """What was ranked by the old one gives way to the first of the new."""
  with checkpoint.Checkpointer(tmp_path, 1, ('fd', 'min')) as c:
    c.save(1, make_state(), {}, {}, {'fd': 9.})
    c.save(2, make_state(), {}, {}, {'fd': 3.})
  with checkpoint.Checkpointer(tmp_path, 1, ('is', 'max')) as c:
    for step, score in [(3, 2.), (4, 7.), (5, 5.)]:
      c.save(step, make_state(), {}, {}, {'is': score})
  assert c.steps() == [4, 5]
  assert c.best_step() == 4


def test_restore_variables_needs_no_system(tmp_path):
  state = make_state(2)
  save_steps(tmp_path, [2])
  c = checkpoint.Checkpointer(tmp_path)
  got = c.restore_variables()
  assert set(got.state) == {'ema'}
  assert_identical(got.state['ema'], state.ema)
  assert got.step == 2 and got.meta['kimg'] == 0.25
  got = c.restore_variables(2, ['params', 'mvars'])
  assert_identical(got.state, {'params': state.params, 'mvars': state.mvars})
  device = jax.local_devices()[0]
  assert all(x.devices() == {device} for x in jax.tree.leaves(got.state))


def test_restore_variables_of_a_converted_workdir(tmp_path):
  ema = {'G': {'params': {'w': jnp.arange(3.)}}}
  with checkpoint.Checkpointer(tmp_path) as c:
    c.save(0, {'ema': ema}, {}, {'format': 'official'})
    assert_identical(c.restore_variables().state['ema'], ema)
    with pytest.raises(errors.UserError, match=r"no \['params'\].*'ema'"):
      c.restore_variables(names=['params'])


def test_reading_changes_nothing_on_disk(tmp_path):
  save_steps(tmp_path, [1, 2])
  flip_bit(array_file(tmp_path, 2))
  (tmp_path / 'checkpoints' / '3.orbax-checkpoint-tmp').mkdir()
  before = sorted(os.walk(tmp_path))
  c = checkpoint.Checkpointer(tmp_path)
  assert c.restore_variables().step == 1
  assert c.restore(abstract(make_state())).step == 1
  c.close()
  assert sorted(os.walk(tmp_path)) == before


def damage_flip(workdir):
  flip_bit(array_file(workdir, 20))


def damage_truncate(workdir):
  os.truncate(array_file(workdir, 20), 10)


def damage_missing(workdir):
  os.unlink(array_file(workdir, 20))


def damage_meta(workdir):
  flip_bit(workdir / 'checkpoints' / '20' / 'meta' / 'metadata')


def damage_checksums(workdir):
  flip_bit(workdir / 'checkpoints' / '20' / checkpoint.CHECKSUMS)


def damage_half_deleted(workdir):
  shutil.rmtree(workdir / 'checkpoints' / '20' / 'state')


def damage_unchecked(workdir):
  os.unlink(workdir / 'checkpoints' / '20' / checkpoint.CHECKSUMS)
  os.truncate(array_file(workdir, 20), 10)


def damage_emptied(workdir):
  shutil.rmtree(workdir / 'checkpoints' / '20')
  (workdir / 'checkpoints' / '20').mkdir()


@pytest.mark.parametrize('damage', [
    damage_flip, damage_truncate, damage_missing, damage_meta,
    damage_checksums, damage_half_deleted, damage_unchecked, damage_emptied])
def test_broken_checkpoint_falls_back_and_says_so(tmp_path, caplog, damage):
  save_steps(tmp_path, [10, 20])
  damage(tmp_path)
  c = checkpoint.Checkpointer(tmp_path)
  with caplog.at_level(logging.WARNING):
    got = c.restore(abstract(make_state()))
  assert got.step == 10 and got.data_state == {'next': 10}
  assert_identical(got.state, make_state(10))
  assert set(got.refused) == {20}
  assert 'checkpoints/20 is refused' in caplog.text
  assert 'going on from checkpoint 10' in caplog.text
  # The run arrives at step 20 again.
  assert c.save(20, make_state(20), {'next': 20}, {})
  c.close()
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == [
      '10', '20', 'bad_20']
  got = checkpoint.Checkpointer(tmp_path).restore(abstract(make_state()))
  assert (got.step, got.refused) == (20, {})
  with pytest.raises(errors.UserError, match='no checkpoint of step 30'):
    c.restore(abstract(make_state()), 30)


def test_explicit_broken_step_is_refused_by_name(tmp_path):
  save_steps(tmp_path, [10, 20])
  damage_missing(tmp_path)
  with pytest.raises(errors.UserError, match='checkpoints/20 is refused: .*'
                     r' is missing.*\[10, 20\]'):
    checkpoint.Checkpointer(tmp_path).restore(abstract(make_state()), 20)


def test_no_good_checkpoint(tmp_path):
  c = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(errors.UserError, match='no checkpoint in'):
    c.restore(abstract(make_state()))
  assert os.listdir(tmp_path) == []
  save_steps(tmp_path, [10, 20])
  flip_bit(array_file(tmp_path, 10))
  os.unlink(array_file(tmp_path, 20))
  with pytest.raises(errors.UserError, match='step 20: .*missing; step 10: .*'
                     'changed'):
    c.restore(abstract(make_state()))


def test_without_checksums_a_whole_checkpoint_is_believed(tmp_path):
  save_steps(tmp_path, [10, 20])
  os.unlink(tmp_path / 'checkpoints' / '20' / checkpoint.CHECKSUMS)
  got = checkpoint.Checkpointer(tmp_path).restore(abstract(make_state()))
  assert got.step == 20
  assert_identical(got.state, make_state(20))


def test_checksums_cover_every_file(tmp_path):
  save_steps(tmp_path, [10])
  root = tmp_path / 'checkpoints' / '10'
  listed = json.loads((root / checkpoint.CHECKSUMS).read_text())['files']
  on_disk = {str(p.relative_to(root)) for p in root.rglob('*') if p.is_file()}
  assert set(listed) == on_disk - {checkpoint.CHECKSUMS}
  assert any(name.startswith('state') for name in listed)


@pytest.mark.parametrize('change,told', [
    (lambda s: s.replace(params={**s.params, 'E': {'w': s.step}}),
     'params/E/w is not in the checkpoint'),
    (lambda s: s.replace(ema={}), 'only in the checkpoint'),
    (lambda s: s.replace(step=jnp.float32(0)),
     r'step is int32\[\] in the checkpoint and float32\[\] here'),
    (lambda s: s.replace(params={**s.params, 'D': {'w': jnp.zeros((4, 5))}}),
     r'params/D/w is float32\[4, 4\] in .* float32\[4, 5\] here'),
])
@pytest.mark.parametrize('checked', [True, False])
def test_state_of_another_model_is_no_broken_checkpoint(
    tmp_path, change, told, checked):
  save_steps(tmp_path, [10, 20])
  if not checked:
    os.unlink(tmp_path / 'checkpoints' / '20' / checkpoint.CHECKSUMS)
  c = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(errors.UserError, match=told):
    c.restore(abstract(change(make_state())))


def test_saving_a_step_twice(tmp_path):
  state = make_state()
  with checkpoint.Checkpointer(tmp_path) as c:
    assert c.save(1, state, {'n': 1}, {})
    assert not c.save(1, state, {'n': 2}, {})
    assert c.restore(abstract(state)).data_state == {'n': 1}
    assert c.save(1, state, {'n': 3}, {}, force=True)
    assert c.restore(abstract(state)).data_state == {'n': 3}
    assert os.listdir(c.directory) == ['1']


def test_replacement_killed_in_between_is_undone(tmp_path):
  save_steps(tmp_path, [1, 2])
  root = tmp_path / 'checkpoints'
  os.rename(root / '2', root / 'replaced_2')
  save_steps(tmp_path, [3])
  assert sorted(os.listdir(root)) == ['2', '3']


def test_temporary_directories_of_dead_saves_are_cleaned(tmp_path):
  save_steps(tmp_path, [1])
  dead = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
  dead.mkdir()
  (dead / 'big').write_bytes(b'x')
  assert save_steps(tmp_path, [2]).steps() == [1, 2]
  assert not dead.exists()


CHILD = '''
import logging, os, resource, signal, sys, time
logging.getLogger('absl')  # as core/cli.py does, before absl is imported
import jax, jax.numpy as jnp
from gans_jax.core import checkpoint, errors
workdir = sys.argv[1]
state = {'ema': {'w': jnp.arange(90_000.).reshape(300, 300)}}
c = checkpoint.Checkpointer(workdir)
'''


def child(code, *args):
  env = dict(os.environ, JAX_PLATFORMS='cpu')
  return subprocess.run(
      [sys.executable, '-c', CHILD + textwrap.dedent(code), *map(str, args)],
      env=env, capture_output=True, text=True, timeout=120)


def test_full_disk(tmp_path):
  """A file size limit stands in for a full disk: write() fails midway."""
  done = child('''
      c.save(1, state, {}, {}); c.wait()
      unlimited = resource.RLIM_INFINITY
      resource.setrlimit(resource.RLIMIT_FSIZE, (60000, unlimited))
      c.save(2, state, {}, {})
      try:
        c.wait()
      except errors.UserError as error:
        print('WAIT', error)
      c.save(3, state, {}, {})
      try:
        c.save(4, state, {}, {})
      except errors.UserError as error:
        print('NEXT', error)
      print(c.steps())
      resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
      c.save(5, state, {}, {})
      c.close()
      print(sorted(os.listdir(c.directory)))
      print(c.restore_variables(1).step)
      ''', tmp_path)
  assert done.returncode == 0, done.stderr
  assert 'Traceback' not in done.stderr
  lines = done.stdout.splitlines()
  assert lines[0].startswith('WAIT Checkpoint 2 could not be written')
  assert lines[1].startswith('NEXT Checkpoint 3 could not be written')
  assert 'File too large; the last good checkpoint is step 1' in lines[0]
  assert lines[2:] == ['[1]', "['1', '5']", '1']


def test_no_permission():
  """As root nothing is forbidden, so the child becomes another user."""
  # Not tmp_path, whose parents only their owner may enter.
  with tempfile.TemporaryDirectory() as workdir:
    os.chmod(workdir, 0o555)
    done = child('''
        if os.getuid() == 0:
          os.setuid(65534)
        try:
          c.save(1, state, {}, {})
        except errors.UserError as error:
          print(error)
        ''', workdir)
    assert done.returncode == 0, done.stderr
    assert 'could not be written' in done.stdout
    assert 'Permission denied; there is no earlier checkpoint' in done.stdout
    assert os.listdir(workdir) == []


def test_workdir_that_may_not_be_entered():
  with tempfile.TemporaryDirectory() as workdir:
    os.chmod(workdir, 0o000)
    done = child('''
        if os.getuid() == 0:
          os.setuid(65534)
        try:
          c.restore_variables()
        except errors.UserError as error:
          print(error)
        ''', workdir)
    os.chmod(workdir, 0o700)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('Cannot read ')
  assert 'Permission denied' in done.stdout


def test_killed_while_saving(tmp_path):
  """SIGKILL at any moment leaves a directory that resumes."""
  for delay in (0., 0.003, 0.01, 0.03):
    done = child('''
        step = (c.latest_step() or 0) + 1
        if step == 1:
          c.save(1, state, {}, {}); c.wait(); step = 2
        c.save(step, state, {}, {})
        time.sleep(float(sys.argv[2]))
        os.kill(os.getpid(), signal.SIGKILL)
        ''', tmp_path, delay)
    assert done.returncode == -9, done.stderr
    c = checkpoint.Checkpointer(tmp_path)
    want = np.arange(90_000.).reshape(300, 300)
    got = c.restore_variables()
    np.testing.assert_array_equal(got.state['ema']['w'], want)
    assert got.step >= 1 and got.refused == {}


def test_bad_settings():
  with pytest.raises(errors.UserError, match='keep is 0'):
    checkpoint.Checkpointer('/nowhere', keep_latest=0)
  with pytest.raises(errors.UserError, match="'min' or 'max'"):
    checkpoint.Checkpointer('/nowhere', best_metric=('fd', 'least'))
