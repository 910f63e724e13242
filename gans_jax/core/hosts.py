"""Hosts: a roll call that names who is missing or differs, before they join.

JAX joins the processes of a job through a service in process 0. Where one of
them does not come, it aborts all of them and says of none which it was; where
one has another config or other code, they compile different programs and
hang. So a roll call comes first, at the address of that service: process 0
listens, every process says who it is and what it would run, and all of them
hear the same verdict. It is done before JAX touches a device.
"""

from collections.abc import Callable
from collections.abc import Mapping
import json
import logging
import os
import platform
import re
import socket
import time

import gans_jax
from gans_jax.core import cli
from gans_jax.core import config as config_lib
from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import workdir as workdir_lib

TIMEOUT = 300.0    # seconds, as that of jax.distributed.initialize
GRACE = 10.0       # seconds that the others have once one cannot start
NOTICE = 10.0      # seconds after which process 0 says whom it waits for
_LARGEST = 2**24   # bytes of a message; a pod's are some 20 KB
_log = logging.getLogger(__name__)


class MissingError(errors.UserError):
  """Not all processes came: the same command may go well later."""

  exit_code = cli.PREEMPTED


def join(coordinator: str | None, processes: int | None,
         process_id: int | None, auto: bool,
         load: Callable[[], config_lib.ConfigDict],
         timeout: float = TIMEOUT) -> config_lib.ConfigDict:
  """Loads the config and joins the processes of the job, if it has several.

  Args:
    coordinator: 'host:port' of process 0, or None.
    processes: number of processes, or None.
    process_id: this process's number, or None.
    auto: take all three from the cluster (TPU pod, SLURM, Kubernetes).
    load: returns the config that this process would run.
    timeout: seconds to wait for the others.

  Returns:
    What `load` returned.

  Raises:
    UserError: the settings are incomplete, `load` refuses in any process, or
      the processes would not run the same.
    MissingError: not all of them came.
  """
  job = (coordinator, processes, process_id)
  if auto and job == (None, None, None):
    job = find_cluster(timeout)
  if None in job or job[1] == 1:
    mesh_lib.initialize_distributed(coordinator, processes, process_id, auto)
    return load()
  config = roll_call(*job, load, timeout)
  mesh_lib.initialize_distributed(coordinator, processes, process_id, auto)
  return config


def find_cluster(timeout: float):
  """Returns what JAX finds of the cluster: (address, processes, process).

  All three are None where it finds none. That is asked of JAX's own modules,
  because it offers no other way to know them without joining.
  """
  from jax._src import clusters

  detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
  return detect(None, None, None, None, None, round(timeout))[:3]


def facts(config: Mapping) -> dict[str, dict[str, str]]:
  """Returns what all processes must agree on: {kind: {name: value}}."""
  folder = os.path.dirname(os.path.abspath(gans_jax.__file__))
  source = {}
  for root, _, names in os.walk(folder):
    for name in names:
      if name.endswith('.py'):
        path = os.path.join(root, name)
        source[os.path.relpath(path, folder)] = files.sha256(path)[:16]
  python = '.'.join(platform.python_version_tuple()[:2])
  return {
      'config': {key: json.dumps(value) for key, value in
                 workdir_lib.flatten(files.plain(config)).items()},
      'packages': {'Python': python, 'gans_jax': gans_jax.__version__,
                   **workdir_lib.versions()},
      'source': source,
  }


def roll_call(coordinator: str, processes: int, process_id: int,
              load: Callable[[], Mapping], timeout: float = TIMEOUT):
  """Waits until all processes are there and would run the same.

  Args:
    coordinator: 'host:port' of process 0, where JAX's service will be.
    processes: number of processes.
    process_id: this process's number.
    load: returns the config that this process would run.
    timeout: seconds from now.

  Returns:
    What `load` returned.

  Raises:
    UserError, MissingError: as `join`, the same in every process.
  """
  deadline = time.monotonic() + timeout
  hello = {'program': workdir_lib.PROGRAM, 'process': process_id,
           'processes': processes, 'host': socket.gethostname(),
           'pid': os.getpid()}
  failure = config = None
  try:
    config = load()
    hello['facts'] = facts(config)
  except errors.UserError as error:
    failure, hello['error'] = error, str(error)
  if process_id == 0:
    answer = _lead(_port(coordinator), hello, deadline, timeout)
  else:
    answer = _follow(coordinator, hello, deadline, timeout)
  if failure is not None:
    raise failure
  if answer['problem']:
    kind = MissingError if answer['missing'] else errors.UserError
    raise kind(answer['problem'])
  return config


# --- Process 0 ---------------------------------------------------------------


def _lead(port: int, mine: dict, deadline: float, timeout: float) -> dict:
  """Hears all processes and answers them; returns the answer."""
  came, connections = {0: mine}, []
  count, notice, problem = mine['processes'], NOTICE, ''
  if 'error' in mine:
    deadline = min(deadline, time.monotonic() + GRACE)
  begin = time.monotonic()
  try:
    with _listen(port) as server:
      while len(came) < count and not problem:
        now = time.monotonic()
        if now > deadline:
          break
        if now - begin > notice:
          notice *= 2
          _log.warning('waiting for %s; %.0f s are left',
                       _names(_absent(came, count), came), deadline - now)
        server.settimeout(min(0.2, deadline - now + 0.01))
        try:
          connection, address = server.accept()
        except TimeoutError:
          continue
        hello = _receive(connection, 5.0)
        if hello is None:
          connection.close()  # not one of ours
          continue
        hello['address'] = address[0].removeprefix('::ffff:')
        number = hello['process']
        problem = _impostor(hello, came, count)
        connections.append(connection)
        came.setdefault(number, hello)
        if 'error' in hello:
          deadline = min(deadline, time.monotonic() + GRACE)
    # The port is free again before anybody hears that JAX may have it.
    problem, missing = (problem, False) if problem else verdict(
        came, count, timeout)
    answer = {'program': mine['program'], 'problem': problem,
              'missing': missing}
    for connection in connections:
      _send(connection, answer)
    return answer
  finally:
    for connection in connections:
      connection.close()


def _listen(port: int) -> socket.socket:
  both = socket.has_dualstack_ipv6()
  try:
    return socket.create_server(
        ('', port), family=socket.AF_INET6 if both else socket.AF_INET,
        backlog=1024, dualstack_ipv6=both)
  except OSError as error:
    raise errors.UserError(
        f'Process 0 cannot listen on port {port}: {error.strerror}. Another '
        'run on this host may have it: stop that, or give all processes '
        'another --coordinator.') from error


def _impostor(hello: dict, came: dict[int, dict], count: int) -> str:
  """What is wrong with the numbers that a process gives, or ''."""
  number, name = hello['process'], _name(hello)
  if hello['processes'] != count:
    return (f'{name} was told of {hello["processes"]} processes and '
            f'{_name(came[0])} of {count}. Give all of them the same '
            '--num_processes.')
  if not 0 <= number < count:
    return (f'{name} came to a job of {count} processes, which are 0 to '
            f'{count - 1}. Correct its --process_id.')
  before = came.get(number, hello)
  if (before['host'], before['pid']) != (hello['host'], hello['pid']):
    return (f'Two came as process {number}: {_place(before)} and '
            f'{_place(hello)}. Give each its own --process_id, and see that '
            'no process of an earlier run is left.')
  return ''


def verdict(came: Mapping[int, dict], count: int,
            timeout: float) -> tuple[str, bool]:
  """Judges who came to a roll call.

  Args:
    came: {process: what it said}.
    count: how many processes there should be.
    timeout: seconds that were waited, for the message.

  Returns:
    (what is wrong or '', whether it is only that some are missing).
  """
  refused = {i: hello['error'] for i, hello in came.items()
             if 'error' in hello}
  if refused:
    first = min(refused)
    others = [i for i in refused if i != first]
    also = f' (so do {_names(others, came)})' if others else ''
    return (f'{_name(came[first])} cannot start{also}: {refused[first]}',
            False)
  absent = _absent(came, count)
  different = differences(came)
  if different:
    shown = '; '.join(different[:4])
    more = f'; and {len(different) - 4} more' if len(different) > 4 else ''
    gone = f' ({_names(absent, came)} did not come.)' if absent else ''
    return (f'The processes would not run the same: {shown}{more}. Give '
            f'every host the same command, code and packages.{gone}', False)
  if absent:
    return (f'{len(came)} of {count} processes came in {timeout:g} s: '
            f'{_names(sorted(came), came)}. Missing: '
            f'{_names(absent, came)}. Look at the logs there, and see that '
            'it can reach the address of process 0; --host_timeout waits '
            'longer.', True)
  return '', False


def differences(came: Mapping[int, dict]) -> list[str]:
  """Returns in words in what the processes differ, and which of them."""
  found = []
  for kind, noun in (('config', 'config key '), ('packages', ''),
                     ('source', 'gans_jax/')):
    told = {i: hello['facts'][kind] for i, hello in came.items()
            if 'facts' in hello}
    for key in sorted({key for values in told.values() for key in values}):
      by_value = {}
      for i in sorted(told):
        by_value.setdefault(
            told[i].get(key, workdir_lib.ABSENT), []).append(i)
      if len(by_value) == 1:
        continue
      # The rarest first: of two values that is the host to look at.
      groups = sorted(by_value.items(), key=lambda item: len(item[1]))
      found.append(f'{noun}{key} is ' + ' and '.join(
          f'{value} on {_names(who, came)}' for value, who in groups))
  return found


# --- Names -------------------------------------------------------------------


def _absent(came, count: int) -> list[int]:
  return [i for i in range(count) if i not in came]


def _place(hello: Mapping) -> str:
  parts = [hello['host']]
  if hello.get('address', hello['host']) != hello['host']:
    parts.append(hello['address'])
  return ' at '.join(parts)


def _name(hello: Mapping) -> str:
  return f'process {hello["process"]} ({_place(hello)})'


def _names(numbers, came: Mapping[int, dict]) -> str:
  """Returns 'process 1 (a), process 2 (b)'; of many, the first and how many."""
  known = known_hosts(came[0]['processes']) if 0 in came else {}
  names = []
  for i in numbers[:8]:
    if i in came:
      names.append(_name(came[i]))
    else:
      names.append(f'process {i} ({known[i]})' if i in known
                   else f'process {i}')
  more = len(numbers) - len(names)
  return ', '.join(names) + (f' and {more} more' if more > 0 else '')


def known_hosts(count: int) -> dict[int, str]:
  """Returns the host of each process as far as the cluster tells it.

  GKE lists the hosts of a TPU slice, SLURM the nodes of a step, whose tasks
  are numbered node by node (--distribution=block, the default of srun).

  Args:
    count: number of processes.
  """
  hosts = (os.environ.get('TPU_PROCESS_ADDRESSES')
           or os.environ.get('TPU_WORKER_HOSTNAMES') or '')
  names = [name for name in hosts.split(',') if name]
  if len(names) == count:  # not so of several slices
    return dict(enumerate(names))
  names = expand_nodes(os.environ.get('SLURM_STEP_NODELIST', ''))
  if not names or count % len(names):
    return {}
  return {i: names[i * len(names) // count] for i in range(count)}


def expand_nodes(text: str) -> list[str]:
  """Returns the nodes of a SLURM list: 'a[1-2,07],b' is a1, a2, a07, b."""
  nodes = []
  for prefix, ranges, suffix in re.findall(
      r'([^,\[]+)(?:\[([^\]]*)\])?([^,\[]*)', text):
    if not ranges:
      nodes.append(prefix + suffix)
    for part in filter(None, ranges.split(',')):
      first, _, last = part.partition('-')
      nodes += [f'{prefix}{i:0{len(first)}d}{suffix}'
                for i in range(int(first), int(last or first) + 1)]
  return nodes


# --- The others --------------------------------------------------------------


def _follow(coordinator: str, hello: dict, deadline: float,
            timeout: float) -> dict:
  """Tells process 0 who is here; returns its answer."""
  host, port = coordinator.rpartition(':')[0].strip('[]'), _port(coordinator)
  why = 'nothing is there'
  while True:
    try:
      with socket.create_connection((host, port), timeout=5.0) as connection:
        if _send(connection, hello):
          # It answers when its own time is over, at the latest.
          answer = _receive(connection, timeout + 3 * GRACE)
          if answer is not None:
            return answer
        why = 'what listens there does not answer a roll call'
    except OSError as error:
      why = error.strerror or str(error)
    if time.monotonic() > deadline:
      raise MissingError(
          f'Process 0 at {coordinator} did not answer {_name(hello)} in '
          f'{timeout:g} s: {why}. Look at the log of process 0, and see that '
          'this host can reach that address.')
    time.sleep(0.2)


def _port(coordinator: str) -> int:
  port = coordinator.rpartition(':')[2]
  if ':' not in coordinator or not port.isdigit() or int(port) > 65535:
    raise errors.UserError(
        f'--coordinator is {coordinator!r}, expected HOST:PORT, such as '
        '10.0.0.1:8476.')
  return int(port)


def _send(connection: socket.socket, message: dict) -> bool:
  """Sends one line of JSON; returns whether it went."""
  try:
    connection.sendall(json.dumps(message).encode() + b'\n')
    return True
  except OSError:
    return False


def _receive(connection: socket.socket, timeout: float) -> dict | None:
  """Returns a message of this program, or None."""
  data, deadline = b'', time.monotonic() + timeout
  try:
    while not data.endswith(b'\n'):
      connection.settimeout(max(0.01, deadline - time.monotonic()))
      chunk = connection.recv(2**16)
      if not chunk or len(data) > _LARGEST:
        return None
      data += chunk
    message = json.loads(data)
  except (OSError, ValueError):
    return None
  ours = (isinstance(message, dict)
          and message.get('program') == workdir_lib.PROGRAM)
  return message if ours else None
