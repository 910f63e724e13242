#!/usr/bin/env bash
# Trains on a TPU pod slice of Google Cloud, from the first request to the end.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [options] [-- MAIN...]

commands:
  create   ask for the slice as a queued resource; returns at once
  wait     wait until the slice is there
  install  copy this checkout to every host, with a Python of its own
  start    train on every host: python -m gans_jax.main --distributed MAIN...
  status   state of the slice; "running" or the exit code of every host
  logs     the last --lines of every host, or of --worker=I
  stop     SIGTERM to every host: it saves and ends with exit code 75
  watch    all of it: create, wait, install, start; then look every --every
           seconds, start again after an error that passes, ask for a new
           slice when this one was preempted; until the run is done
  delete   give the slice back; what is on its disks is lost

options:
  --name=NAME      of the queued resource and its node
  --zone=ZONE      such as us-west4-a
  --project=ID     default: that of gcloud
  --type=TYPE      accelerator type, such as v5litepod-16, v6e-16, v5p-32
  --version=V      runtime version; default: by --type
  --slices=N       several slices of that type (default 1)
  --spot           cheap, and may be taken away at any time; or --reserved
  --nfs=HOST:/DIR  mounted at /mnt/shared on every host
  --setup=FILE     a script that every host runs after the installation
  --every=SECONDS  between two looks (default 60)
  --restarts=N     of `watch`, in a row without an hour between (default 20)
  --lines=N        of `logs` (default 20)
  --worker=I       of `logs`: host I of the slice (default all)
  --dry_run        print the commands and run nothing

--workdir of MAIN must be a directory that all hosts share, such as one below
/mnt/shared: each writes its part of a checkpoint there, and a new slice finds
the run there.

exit codes of `watch`: 0 done; 2 bad input and 3 alarm, as the run's own; 1
given up.
EOF
}

fail() { echo "error: $*" >&2; exit 2; }
say() { echo "[tpu_pod] $*" >&2; }

command="${1:-}"
case "$command" in
  create | wait | install | start | status | logs | stop | watch | delete) ;;
  -h | --help | help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
shift

name='' zone='' project='' type='' version='' nfs='' setup=''
slices=1 every=60 restarts=20 lines=20 worker=all tier=() dry_run=''
while [ $# -gt 0 ]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --spot | --reserved) tier=("$1") ;;
    --nfs=*) nfs="${1#*=}" ;;
    --setup=*) setup="${1#*=}" ;;
    --every=*) every="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --lines=*) lines="${1#*=}" ;;
    --worker=*) worker="${1#*=}" ;;
    --dry_run) dry_run=1 ;;
    --) shift; break ;;
    *) fail "unknown option $1; what belongs to gans_jax.main comes after --" ;;
  esac
  shift
done
main=("$@")
# Tells a run from another one that was on the same hosts before.
id=''
[ $# -eq 0 ] || id="$(printf '%q ' "$@" | cksum)"

[ -n "$name" ] && [ -n "$zone" ] || fail '--name and --zone are needed'
for number in "$slices" "$restarts" "$lines"; do
  [[ $number =~ ^[0-9]+$ ]] || fail "$number is not a number"
done
[[ $every =~ ^[0-9.]+$ ]] || fail "--every=$every is not a number"

# The runtime that has the driver of a type.
runtime() {
  case "$type" in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) fail "--type=$type is not known here; give its --version too" ;;
  esac
}

case "$command" in
  create | watch)
    [ -n "$type" ] || fail '--type is needed'
    [ -n "$version" ] || version="$(runtime)" ;;
esac
case "$command" in
  start | watch)
    [ ${#main[@]} -gt 0 ] || fail \
      'after -- comes the command line: -- --config=FILE.py --workdir=DIR' ;;
esac
[ -z "$setup" ] || [ -f "$setup" ] || fail "--setup: there is no file $setup"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
errors="$(mktemp)"
trap 'rm -f "$errors"' EXIT

# Prints a command, and runs it unless this is a dry run.
run() {
  if [ -n "$dry_run" ]; then printf '%q ' "$@"; echo; else "$@"; fi
}

tpus() {
  local verb="$1"
  shift
  run gcloud compute tpus queued-resources "$verb" "$@" --zone="$zone" \
    ${project:+--project="$project"}
}

# Runs a shell command on hosts, all by default, of all slices.
on_hosts() {
  tpus ssh "$name" --quiet --node=all --worker="${2:-all}" --command="$1"
}

# Copies a file to all hosts.
to_hosts() { tpus scp "$1" "$name:$2" --quiet --node=all --worker=all; }

create() {
  local nodes=(--node-id="$name")
  [ "$slices" -eq 1 ] || nodes=(--node-count="$slices" --node-prefix="$name")
  tpus create "$name" "${nodes[@]}" --accelerator-type="$type" \
    --runtime-version="$version" "${tier[@]}"
}

delete() { tpus delete "$name" --force --quiet; }

# ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ...; ABSENT where there is none;
# UNKNOWN without an answer, as where a network is down.
state() {
  if tpus describe "$name" --format='value(state.state)' 2> "$errors"; then
    return
  fi
  if grep -qi 'not.found' "$errors"; then
    echo ABSENT
  else
    say "no answer: $(head -c 300 "$errors")"
    echo UNKNOWN
  fi
}

wait_for_slice() {
  [ -z "$dry_run" ] || { tpus describe "$name" --format='value(state.state)'
    return 0; }
  local now before=''
  while true; do
    now="$(state)"
    [ "$now" = "$before" ] || say "$name is $now"
    before="$now"
    case "$now" in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING | ABSENT) return 1 ;;
    esac
    sleep "$every"
  done
}

install_all() {
  local archive="/tmp/gans_jax_$name.tar.gz"
  run tar -C "$root" --exclude='__pycache__' -czf "$archive" \
    setup.py gans_jax experiments launch || return 1
  to_hosts "$archive" "$archive" || return 1
  # The system's Python is older than ours.
  on_hosts "set -e; mkdir -p ~/gans_jax; tar -C ~/gans_jax -xzf $archive
python3 -m pip install --quiet --user uv
test -d ~/venv || python3 -m uv venv --quiet --python=3.12 ~/venv
python3 -m uv pip install --quiet --python=\$HOME/venv/bin/python \
-e ~/gans_jax'[tpu]'" || return 1
  if [ -n "$nfs" ]; then
    on_hosts "set -e; sudo mkdir -p /mnt/shared; mountpoint -q /mnt/shared || {
sudo apt-get install -qq -y nfs-common; sudo mount -t nfs $nfs /mnt/shared; }" \
      || return 1
  fi
  if [ -n "$setup" ]; then
    to_hosts "$setup" /tmp/gans_jax_setup || return 1
    on_hosts 'bash /tmp/gans_jax_setup' || return 1
  fi
}

# What is left of a run before is killed: it may wait for a lost host in a
# collective, and SIGTERM does not end it then.
start() {
  local quoted
  quoted="$(printf '%q ' "${main[@]}")"
  on_hosts "test ! -f ~/train.group || kill -KILL -- -\$(cat ~/train.group)
rm -f ~/train.group ~/train.pid ~/train.exit; echo '$id' > ~/train.id
cd ~/gans_jax
nohup setsid bash -c 'echo \$\$ > ~/train.group
~/venv/bin/python -u -m gans_jax.main --distributed \"\$@\" >> ~/train.log 2>&1 &
echo \$! > ~/train.pid; wait \$!; echo \$? > ~/train.exit' train $quoted\
> /dev/null 2>&1 < /dev/null &"
}

# Says of a host "running", "exit N" or "absent"; of any run if $id is ''.
report="id='$id'
$(cat <<'EOF'
if [ -n "$id" ] && [ "$id" != "$(cat ~/train.id)" ]; then s=absent
elif [ -f ~/train.exit ]; then s="exit $(cat ~/train.exit)"
elif kill -0 "$(cat ~/train.pid)"; then s=running
else s=absent; fi 2> /dev/null; echo "$(hostname): $s"
EOF
)"

# What the run as a whole does: running, ending, lost, unreachable, or the
# exit code that all its hosts agree on or that no new start would change.
outcome() {
  local text
  text="$(on_hosts "$report" 2> "$errors")" || text=''
  for code in 2 3; do
    if grep -q ": exit $code\$" <<< "$text"; then echo "$code"; return; fi
  done
  if grep -qE ': (absent|exit [1-9][0-9]*)$' <<< "$text"; then
    # The others save, or notice it and end, by themselves.
    if grep -q ': running$' <<< "$text"; then echo ending; else echo lost; fi
  elif grep -q ': running$' <<< "$text"; then
    echo running
  elif grep -q ': exit 0$' <<< "$text"; then
    echo 0
  else
    echo unreachable
  fi
}

watch() {
  local left="$restarts" begin=0 ending=0 result fresh='' started=''
  if [ -n "$dry_run" ]; then
    create; wait_for_slice; install_all; start; on_hosts "$report"
    return 0
  fi
  while true; do
    # An hour of training has earned new attempts.
    [ $((SECONDS - begin)) -lt 3600 ] || left="$restarts"
    [ "$left" -gt 0 ] || { say "given up after $restarts attempts"; return 1; }
    case "$(state)" in
      ABSENT)
        say "asking for $name"
        create || say 'the request was refused'
        fresh=1 left=$((left - 1)) ;;
      FAILED | SUSPENDED)
        say "$name was taken away or refused"
        delete || say 'it cannot be deleted yet'
        fresh=1 left=$((left - 1))
        sleep "$every"
        continue ;;
    esac
    if ! wait_for_slice; then sleep "$every"; continue; fi
    result=lost
    [ -n "$fresh" ] || result="$(outcome)"
    if [ "$result" = ending ]; then
      # JAX gives a lost host up after 100 seconds.
      ending=$((ending + 1))
      [ "$ending" -lt 4 ] || result=lost
    fi
    # What went wrong before this command may have been put right.
    case "$result$started" in 2 | 3) result=lost ;; esac
    case "$result" in
      running) ending=0 ;;
      ending) ;;
      unreachable) say "no answer: $(tail -c 300 "$errors")" ;;
      0) say 'done'; return 0 ;;
      2 | 3) say "ended with exit code $result, see: launch/tpu_pod.sh logs"
        return "$result" ;;
      *) say 'starting'
        left=$((left - 1)) begin=$SECONDS ending=0
        # What fails here, such as a host that is not up yet, passes.
        if install_all && start; then fresh='' started=yes; fi ;;
    esac
    sleep "$every"
  done
}

case "$command" in
  create) create ;;
  wait) wait_for_slice || { say 'it will not come; delete it'; exit 1; } ;;
  install) install_all ;;
  start) start ;;
  status)
    tpus describe "$name" --format='value(state.state)'
    on_hosts "$report" ;;
  logs) on_hosts "echo \"== \$(hostname)\"; tail -n $lines ~/train.log" \
    "$worker" ;;
  stop) on_hosts "kill -TERM \$(cat ~/train.pid)" ;;
  watch) watch ;;
  delete) delete ;;
esac
