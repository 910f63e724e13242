"""Two real processes: collectives, one checkpoint, one lock, one way out."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import portpicker
import pytest

from gans_jax.core import errors
from gans_jax.core import processes

CHILD = '''
import json, os, sys, time, logging
import jax, jax.numpy as jnp, numpy as np
me, port, workdir = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f'127.0.0.1:{port}', 2, me)
from gans_jax.core import alarms, checkpoint, errors, processes, signals
from gans_jax.core import workdir as workdir_lib
P = jax.sharding.PartitionSpec
mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
def say(**facts):
  print(json.dumps(facts), flush=True)
def refusal(function):
  try:
    function()
  except errors.UserError as error:
    return str(error)
'''


class Pair:
  """Two children that run `code`, one device each."""

  def __init__(self, code, workdir):
    port = str(portpicker.pick_unused_port())
    env = dict(os.environ, JAX_PLATFORMS='cpu', TF_CPP_MIN_LOG_LEVEL='3')
    self.children = [
        subprocess.Popen(
            [sys.executable, '-c', CHILD + textwrap.dedent(code), str(i), port,
             str(workdir)], env=env, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        for i in range(2)]

  def finish(self):
    """Returns both children's lines; kills those that hang."""
    try:
      outs = [c.communicate(timeout=90) for c in self.children]
    finally:
      for c in self.children:
        c.kill()
    for c, (_, err) in zip(self.children, outs, strict=True):
      assert c.returncode == 0, err[-3000:]
    return [[json.loads(x) for x in out.splitlines() if x.startswith('{')]
            for out, _ in outs]


def test_one_process():
  assert processes.is_main()
  assert processes.on_main(lambda: [1, 2]) == [1, 2]
  assert processes.first_problem('x') == 'x'
  def refuse():
    raise errors.UserError('no')
  with pytest.raises(errors.UserError, match='no'):
    processes.on_main(refuse)


def test_a_workdir_that_is_not_shared_is_refused(tmp_path, monkeypatch):
  path = tmp_path / 'config.json'
  path.write_text('{}')
  processes.check_shared(str(path))
  # As in a process whose disk holds another file, and then none.
  monkeypatch.setattr(processes.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(processes, 'on_main', lambda f: 'digest of 0')
  monkeypatch.setattr(processes, 'first_problem', lambda text: text)
  for _ in range(2):
    with pytest.raises(errors.UserError, match='all hosts share'):
      processes.check_shared(str(path), timeout=0.0)
    path.unlink(missing_ok=True)
  # It shows up late.
  found = iter(['', '', 'digest of 0'])
  monkeypatch.setattr(processes, '_digest', lambda path: next(found))
  processes.check_shared(str(path))


def test_workdir_and_checkpoints_of_two_processes(tmp_path):
  pair = Pair('''
      # 1. One works, both hear.
      calls = []
      got = processes.on_main(lambda: calls.append(1) or {'a': [me]})
      problem = processes.first_problem(['', 'from one'][me])
      say(got=got, calls=len(calls), problem=problem)

      # 2. A refusal is everybody's.
      os.makedirs(workdir + '/other', exist_ok=True)
      open(workdir + '/other/x', 'w').close()
      say(refusal=refusal(lambda: workdir_lib.open_run(
          workdir + '/other', {'system': 's'})))
      run = workdir_lib.open_run(workdir + '/run', {'system': 's'})

      # 3. A sharded and a replicated array, saved together.
      whole = np.arange(8, dtype=np.float32).reshape(4, 2)
      def put(x, spec):
        return jax.make_array_from_callback(
            x.shape, jax.sharding.NamedSharding(mesh, spec), lambda i: x[i])
      state = {'ema': {'w': put(whole, P('data'))},
               'params': {'b': put(whole[0], P())}}
      target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=x.sharding), state)
      with checkpoint.Checkpointer(run.path, 2, ('fd', 'min')) as c:
        for step in (1, 2, 3):
          c.save(step, state, {'next': step}, {}, {'fd': float(step)})
        got = c.restore(target)
      local = np.asarray(got.state['ema']['w'].addressable_data(0))
      say(steps=c.steps(), step=got.step, local=local.tolist(), me=me)

      # A NaN on one process alarms both.
      alarms.Alarms().check_state(3, state)
      whole[3, 1] = np.nan
      say(alarm=refusal(lambda: alarms.Alarms().check_state(
          4, {'ema': {'w': put(whole, P('data'))}}, 3)))
      whole[3, 1] = 7

      # 4. A broken one falls back in both; its step can be saved anew.
      if me == 0:
        os.unlink(workdir + '/run/checkpoints/3/meta/metadata')
      with checkpoint.Checkpointer(run.path) as c:
        got = c.restore(target)
        c.save(3, state, {}, {})
        again = c.restore(target)
        variables = c.restore_variables().state['ema']['w']
      say(step=got.step, refused=list(got.refused), again=again.step,
          same=bool((np.asarray(variables) == whole).all()),
          bad=os.path.isdir(workdir + '/run/checkpoints/bad_3'))
      ''', tmp_path)
  for me, lines in enumerate(pair.finish()):
    one, two, three, alarm, four = lines
    assert one == {'got': {'a': [0]}, 'calls': 1 - me, 'problem': 'from one'}
    assert 'not empty and not the workdir' in two['refusal']
    assert three['steps'] == [1, 2, 3] and three['step'] == 3
    assert three['local'] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]][me]
    assert 'at step 4: ema/w of the state hold' in alarm['alarm']
    assert four == {'step': 2, 'refused': [3], 'again': 3, 'same': True,
                    'bad': True}


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_both_at_the_same_step(tmp_path, number):
  pair = Pair('''
      with signals.catch() as stop:
        step = 0
        say(ready=1)
        while step < 3000:
          step += 1
          time.sleep(0.02)
          if stop.requested(step):
            break
      say(step=step)
      ''', tmp_path)
  for c in pair.children:
    while not c.stdout.readline().startswith('{"ready'):
      pass
  pair.children[1].send_signal(number)
  (one,), (two,) = pair.finish()
  assert one == two and 0 < one['step'] < 3000
