"""Rehearses a pod on one machine: N real processes of K virtual CPU devices.

  python launch/rehearse_pod.py --processes=2 --devices=1 -- \\
      --config=experiments/quickstart.py:debug --workdir=/tmp/pod

What follows `--` is the command line of `python -m gans_jax.main`, the very
one that every host of a pod gets; the address of process 0 and the numbers of
the processes are added to it. The processes meet through jax.distributed on
localhost, and read and write what hosts of a pod would: disjoint rows of each
batch, one workdir, one checkpoint.

Lines of output begin with the number of the process. Once a process fails,
the others get 15 seconds and are then killed, because they wait for it in a
collective. Ctrl-C and SIGTERM are passed on as SIGTERM, as a pod is
preempted: the processes save at the same step and exit with 75. To preempt
one process alone, send SIGTERM to its pid, which is printed.

exit codes: that of the first process that failed (75: saved and preempted);
124 after --timeout; 130 after a second Ctrl-C; 0 when all are done.
"""

import argparse
from collections.abc import Mapping
from collections.abc import Sequence
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TextIO

GRACE_SECONDS = 15.0
TIMED_OUT = 124
INTERRUPTED = 130
_OURS = ('--coordinator', '--num_processes', '--process_id', '--distributed')


def free_port() -> int:
  """Returns a TCP port of localhost that nobody listens to now."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def commands(processes: int, port: int,
             argv: Sequence[str]) -> list[list[str]]:
  """Returns one command per process."""
  # Unbuffered, or what a killed process said last would be lost.
  return [[sys.executable, '-u', '-m', 'gans_jax.main', *argv,
           f'--coordinator=127.0.0.1:{port}', f'--num_processes={processes}',
           f'--process_id={i}'] for i in range(processes)]


def settings(devices: int, flags: str = '') -> dict[str, str]:
  """Returns the environment variables that make `devices` CPU devices.

  Args:
    devices: of each process.
    flags: XLA_FLAGS as they are; a number of devices in them is dropped, for
      JAX refuses to be told twice.
  """
  flags = re.sub(r'--xla_force_host_platform_device_count=\S*', '', flags)
  return {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices),
          'XLA_FLAGS': ' '.join(flags.split())}


class Pod:
  """Processes that run together; as a context, none outlives it."""

  def __init__(self, argvs: Sequence[Sequence[str]],
               environment: Mapping[str, str]):
    """Starts one process per command, whose output is passed on."""
    self._ended: list[tuple[int, int]] = []  # (process, code), in order
    self._forwarders = []
    self._write = threading.Lock()
    self.processes = []
    for i, argv in enumerate(argvs):
      # Groups of their own: a Ctrl-C reaches them once, through `signal`,
      # and SIGKILL reaches their data workers too.
      process = subprocess.Popen(
          argv, env=dict(environment), stdin=subprocess.DEVNULL,
          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
          start_new_session=True)
      self.processes.append(process)
      for source, target in ((process.stdout, sys.stdout),
                             (process.stderr, sys.stderr)):
        thread = threading.Thread(target=self._forward,
                                  args=(i, source, target), daemon=True)
        thread.start()
        self._forwarders.append(thread)

  def __enter__(self) -> 'Pod':
    return self

  def __exit__(self, *unused_exception) -> None:
    self.kill()
    for thread in self._forwarders:
      thread.join(5)

  def _forward(self, number: int, source, target: TextIO) -> None:
    for line in source:
      text = line.decode(errors='replace').rstrip('\r\n')
      with self._write:
        target.write(f'[{number}] {text}\n')
        target.flush()

  def signal(self, number: int) -> None:
    """Sends a signal to every process that still runs."""
    for process in self.processes:
      if process.poll() is None:
        process.send_signal(number)

  def kill(self) -> None:
    """Ends all at once. SIGTERM would not: jax.distributed catches it."""
    for process in self.processes:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    for process in self.processes:
      process.wait()

  def ended(self) -> list[tuple[int, int]]:
    """Returns (process, exit code) of those that have ended, in that order.

    The code is 128 + n of a process that signal n has ended.
    """
    known = {i for i, _ in self._ended}
    for i, process in enumerate(self.processes):
      code = process.poll()
      if i not in known and code is not None:
        self._ended.append((i, code if code >= 0 else 128 - code))
    return list(self._ended)


def wait(pod: Pod, timeout: float, grace: float, interrupts: list[int]) -> int:
  """Waits for the end of a pod and returns its exit code.

  Args:
    pod: the processes.
    timeout: seconds that they may take; 0 is no limit.
    grace: seconds that the others have when one has failed.
    interrupts: grows by one with each signal to this program.
  """
  start, failed_at = time.monotonic(), None
  while True:
    ended = pod.ended()
    failures = [(i, code) for i, code in ended if code]
    if len(ended) == len(pod.processes):
      return failures[0][1] if failures else 0
    now = time.monotonic()
    if len(interrupts) > 1:
      _say('interrupted again; killing all, nothing is saved')
      return INTERRUPTED
    if timeout and now - start > timeout:
      _say(f'not done after {timeout:g} s (--timeout); killing all')
      return TIMED_OUT
    if failures:
      failed_at = failed_at or now
      if now - failed_at > grace:
        i, code = failures[0]
        left = sorted(set(range(len(pod.processes))) - {i for i, _ in ended})
        _say(f'process {i} ended with exit code {code} and {left} did not '
             f'end in the {grace:g} s after that; killing them')
        return code
    time.sleep(0.05)


def _say(text: str) -> None:
  print(f'[rehearsal] {text}', file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str]):
  """Returns (our arguments, those of gans_jax.main)."""
  parser = argparse.ArgumentParser(
      prog='python launch/rehearse_pod.py', description=__doc__,
      usage='%(prog)s [--processes=N] [--devices=K] [...] -- '
            '--config=FILE.py --workdir=DIR [...]',
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  parser.add_argument('--processes', type=int, default=2, metavar='N')
  parser.add_argument('--devices', type=int, default=1, metavar='K',
                      help='virtual CPU devices of each process (default 1)')
  parser.add_argument('--timeout', type=float, default=0.0, metavar='SECONDS',
                      help='kill all after this long (default 0: never)')
  parser.add_argument('--dry_run', action='store_true',
                      help='print the commands and run nothing (after `--` '
                           'it is the dry run of gans_jax.main)')
  argv = list(argv)
  cut = argv.index('--') if '--' in argv else len(argv)
  args, rest = parser.parse_args(argv[:cut]), argv[cut + 1:]
  if args.processes < 1 or args.devices < 1 or args.timeout < 0:
    parser.error('--processes and --devices must be at least 1, --timeout 0')
  if not rest:
    parser.error('after `--` comes the command line of gans_jax.main: '
                 '-- --config=FILE.py --workdir=DIR')
  for item in rest:
    if item.partition('=')[0] in _OURS:
      parser.error(f'{item}: the rehearsal sets this itself; leave it out')
  return args, rest


def main(argv: Sequence[str]) -> int:
  args, rest = _arguments(argv)
  argvs = commands(args.processes, free_port(), rest)
  variables = settings(args.devices, os.environ.get('XLA_FLAGS', ''))
  if args.dry_run:
    prefix = ' '.join(f'{k}={shlex.quote(v)}' for k, v in variables.items())
    for command in argvs:
      print(prefix, shlex.join(command))
    return 0
  interrupts = []
  with Pod(argvs, {**os.environ, **variables}) as pod:

    def stop(number, unused_frame):
      interrupts.append(number)
      if len(interrupts) == 1:
        pod.signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, stop)
    for i, process in enumerate(pod.processes):
      _say(f'process {i} is pid {process.pid}')
    return wait(pod, args.timeout, GRACE_SECONDS, interrupts)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
