"""The roll call: who is missing, who differs, and that all hear the same."""

import json
import socket
import threading

import portpicker
import pytest
import runs

from gans_jax import main
from gans_jax.core import cli
from gans_jax.core import errors
from gans_jax.core import hosts

FACTS = hosts.facts
CONFIG = {'system': 'dcgan', 'optimizer': {'G': {'lr': 2e-4}}, 'rows': (1, 2)}


def call(numbers, count, load=lambda i: CONFIG, timeout=10.0, address=None):
  """Calls the roll in threads; returns {number: config or error}."""
  address = address or f'127.0.0.1:{portpicker.pick_unused_port()}'
  found = {}

  def one(key, number):
    try:
      found[key] = hosts.roll_call(
          address, count, number, lambda: load(number), timeout)
    except errors.UserError as error:
      found[key] = error

  threads = [threading.Thread(target=one, args=item)
             for item in enumerate(numbers)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  return found


@pytest.fixture(autouse=True)
def few_facts(monkeypatch):
  """The threads are one program; what differs is told by `load`."""
  def facts(config):
    return {'config': {k: json.dumps(v) for k, v in config.items()},
            'packages': {'jax': config.get('jax', '1')},
            'source': {'train.py': 'abc'}}

  monkeypatch.setattr(hosts, 'facts', facts)


def test_all_come():
  assert call(range(5), 5) == dict.fromkeys(range(5), CONFIG)


def test_the_missing_one_is_named_to_all(monkeypatch, caplog):
  monkeypatch.setattr(hosts, 'NOTICE', 0.2)
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'host-a,host-b,host-c,host-d')
  found = call([0, 1, 3], 4, timeout=1.0)
  assert {type(x) for x in found.values()} == {hosts.MissingError}
  text, = {str(x) for x in found.values()}
  assert '3 of 4 processes came in 1 s' in text
  assert 'Missing: process 2 (host-c).' in text
  here = socket.gethostname()
  assert f'process 3 ({here} at 127.0.0.1)' in text
  assert hosts.MissingError.exit_code == 75
  assert 'waiting for process 2 (host-c); ' in caplog.text


def test_process_0_is_missing():
  found = call([1], 2, timeout=0.5)
  assert isinstance(found[0], hosts.MissingError)
  assert 'Process 0 at 127.0.0.1:' in str(found[0])
  assert 'Connection refused' in str(found[0])


def test_another_config_is_refused_naming_key_and_host():
  def load(number):
    return {**CONFIG, 'seed': int(number == 2), **(
        {'extra': 1} if number == 1 else {})}

  found = call(range(4), 4, load)
  text, = {str(x) for x in found.values()}
  assert 'config key seed is 1 on process 2 (' in text
  assert 'config key extra is 1 on process 1 (' in text
  assert 'and (absent) on process 0 (' in text
  assert not isinstance(found[0], hosts.MissingError)


def test_other_packages_are_refused():
  found = call(range(2), 2, lambda i: {'jax': f'0.{i}'})
  text, = {str(x) for x in found.values()}
  assert 'jax is 0.0 on process 0' in text and '0.1 on process 1' in text


def test_what_one_cannot_load_is_told_to_all():
  def load(number):
    if number == 1:
      raise errors.UserError('no such file')
    return CONFIG

  found = call(range(3), 3, load)
  assert str(found[1]) == 'no such file'
  for i in (0, 2):
    assert str(found[i]).startswith('process 1 (')
    assert str(found[i]).endswith('cannot start: no such file')


def test_nobody_waits_long_for_the_rest_when_one_cannot_start(monkeypatch):
  monkeypatch.setattr(hosts, 'GRACE', 0.3)

  def load(number):
    raise errors.UserError('bad')

  found = call([0, 1], 3, load, timeout=60.0)
  assert {str(x) for x in found.values()} == {'bad'}


@pytest.mark.parametrize('numbers,counts,words', [
    ([0, 1, 1], 3, 'Two came as process 1'),
    ([0, 7], 2, 'came to a job of 2 processes, which are 0 to 1'),
])
def test_wrong_numbers(monkeypatch, numbers, counts, words):
  pids = iter(range(100))
  monkeypatch.setattr(hosts.os, 'getpid', lambda: next(pids))
  found = call(numbers, counts, timeout=5.0)
  assert any(words in str(x) for x in found.values())
  assert all(isinstance(x, errors.UserError) for x in found.values())


def test_another_number_of_processes():
  address = f'127.0.0.1:{portpicker.pick_unused_port()}'
  found = {}

  def lead():
    found[0] = call([0], 2, address=address, timeout=5.0)[0]

  thread = threading.Thread(target=lead)
  thread.start()
  found[1] = call([1], 3, address=address, timeout=5.0)[0]
  thread.join()
  assert 'was told of 3 processes' in str(found[0])
  assert str(found[0]) == str(found[1])


def test_strangers_are_ignored():
  """Something scans the port, and sends what is no message."""
  port = portpicker.pick_unused_port()
  stop = threading.Event()

  def scan():
    while not stop.is_set():
      try:
        with socket.create_connection(('127.0.0.1', port), 1) as connection:
          connection.sendall(b'GET / HTTP/1.0\n')
      except OSError:
        pass
      stop.wait(0.05)

  thread = threading.Thread(target=scan)
  thread.start()
  try:
    assert call([0, 1], 2, address=f'127.0.0.1:{port}') == {
        0: CONFIG, 1: CONFIG}
  finally:
    stop.set()
    thread.join()


def test_port_in_use_and_bad_addresses():
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
    assert f'cannot listen on port {port}' in str(
        call([0], 2, address=f'127.0.0.1:{port}')[0])
  for address in ('localhost', '1.2.3.4:x', '::1:99999'):
    assert 'expected HOST:PORT' in str(call([0], 2, address=address)[0])


def test_one_process_only_loads():
  assert hosts.join(None, None, None, False, lambda: CONFIG) == CONFIG


@pytest.mark.parametrize('text,nodes', [
    ('', []),
    ('node7', ['node7']),
    ('gpu[08-10,2],login', ['gpu08', 'gpu09', 'gpu10', 'gpu2', 'login']),
    ('r1n[1-2]-ib', ['r1n1-ib', 'r1n2-ib']),
])
def test_slurm_nodes(text, nodes):
  assert hosts.expand_nodes(text) == nodes


def test_slurm_names_the_node_of_a_task(monkeypatch):
  monkeypatch.delenv('TPU_WORKER_HOSTNAMES', raising=False)
  monkeypatch.delenv('TPU_PROCESS_ADDRESSES', raising=False)
  monkeypatch.setenv('SLURM_STEP_NODELIST', 'n[1-2]')
  assert hosts.known_hosts(4) == {0: 'n1', 1: 'n1', 2: 'n2', 3: 'n2'}
  assert hosts.known_hosts(3) == {}
  # One slice of two, which another slice's hosts are not in.
  monkeypatch.delenv('SLURM_STEP_NODELIST')
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')
  assert hosts.known_hosts(2) == {0: 'a', 1: 'b'}
  assert hosts.known_hosts(4) == {}


def test_slurm_cluster_is_found(monkeypatch):
  """As JAX reads it: the first node of the step, a port of the job."""
  for name, value in dict(
      SLURM_JOB_ID='4097', SLURM_STEP_NODELIST='n[3-4]', SLURM_NTASKS='16',
      SLURM_PROCID='9', SLURM_LOCALID='1', SLURM_STEP_NUM_NODES='2').items():
    monkeypatch.setenv(name, value)
  assert hosts.find_cluster(5) == ('n3:61441', 16, 9)


def test_facts_name_keys_packages_and_files():
  facts = FACTS(CONFIG)
  assert facts['config'] == {
      'system': '"dcgan"', 'optimizer.G.lr': '0.0002', 'rows': '[1, 2]'}
  assert {'jax', 'gans_jax', 'Python'} <= set(facts['packages'])
  assert len(facts['source']['core/hosts.py']) == 16
  assert FACTS(CONFIG) == facts


def test_the_command_says_who_is_missing_and_may_be_run_again(
    tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(hosts, 'facts', FACTS)
  port = portpicker.pick_unused_port()
  code = cli.call(main.main, [
      f'--config={runs.write_config(tmp_path)}', f'--workdir={tmp_path}/run',
      f'--coordinator=127.0.0.1:{port}', '--num_processes=2',
      '--process_id=0', '--host_timeout=0.2'])
  err = ' '.join(capsys.readouterr().err.split())
  assert code == cli.PREEMPTED
  assert 'error: 1 of 2 processes came in 0.2 s' in err
  assert 'Missing: process 1.' in err
  assert not (tmp_path / 'run').exists()
