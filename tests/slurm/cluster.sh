#!/usr/bin/env bash
# A Slurm cluster on this machine for the tests: munged, slurmctld and a slurmd for each virtual node, on the loopback
# address, with all files in one folder.
#   cluster.sh start DIR NODES     start, wait until all nodes are idle, write DIR/env for the caller to source
#   cluster.sh stop DIR            end the jobs and everything that was started
#   cluster.sh guard DIR PID       wait for the end of process PID, then stop and remove DIR's folder, if they are still there
#   cluster.sh kill-node DIR NODE  end a node's slurmd and all processes of its jobs at once: the node has died
#   cluster.sh start-node DIR NODE start it again
# Debian packages: slurm-wlm munge libpmix-dev (Slurm's PMIx plugin loads libpmix.so by that name). Exit code 77 with a reason
# when they are missing.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
action=${1:?}
dir=${2:?}

skip() {
  echo "skipped: $*" >&2
  exit 77
}

# A process is known by pid and start time, so that a number used again is never hit.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
launch() { # NAME COMMAND...
  local name=$1
  shift
  setsid "$@" </dev/null >"$dir/log/$name.out" 2>&1 &
  echo "$! $(started_at $!)" >"$dir/pid/$name"
}
running() { # NAME
  local pid started
  [ -r "$dir/pid/$1" ] || return 1
  read -r pid started <"$dir/pid/$1"
  [ -n "$started" ] && [ "$(started_at "$pid")" = "$started" ]
}
end() { # SIGNAL NAME: and wait, with SIGKILL after five seconds
  local pid i
  running "$2" || return 0
  read -r pid _ <"$dir/pid/$2"
  kill "-$1" "$pid" 2>/dev/null || true
  for i in {1..100}; do
    running "$2" || return 0
    [ "$i" -lt 50 ] || kill -KILL "$pid" 2>/dev/null || true
    sleep 0.1
  done
}
until_true() { # SECONDS COMMAND...
  local tries=$(($1 * 10))
  shift
  while [ "$tries" -gt 0 ]; do
    if "$@" >/dev/null 2>&1; then return 0; fi
    tries=$((tries - 1))
    sleep 0.1
  done
  return 1
}

# slurmstepd processes of this cluster, of one node or of all: they keep that node's log open.
step_daemons() {
  local proc fd
  for proc in /proc/[0-9]*; do
    [[ $(readlink "$proc/exe" 2>/dev/null) == *slurmstepd ]] || continue
    for fd in "$proc"/fd/*; do
      if [[ $(readlink "$fd" 2>/dev/null) == "$dir/log/slurmd.${1:-}"* ]]; then
        echo "${proc##*/}"
        break
      fi
    done
  done
}
kill_tree() {
  local child children
  children=$(cat "/proc/$1/task"/*/children 2>/dev/null) || true
  for child in $children; do kill_tree "$child"; done
  kill -KILL "$1" 2>/dev/null || true
}

# Processes of this cluster's jobs whose parents are gone already.
end_orphans() {
  local proc
  for proc in /proc/[0-9]*; do
    if grep -qzxF "SLURM_CONF=$dir/slurm.conf" "$proc/environ" 2>/dev/null && grep -qz '^SLURM_JOB_ID=' "$proc/environ" 2>/dev/null; then
      kill -KILL "${proc##*/}" 2>/dev/null || true
    fi
  done
}

start_node() {
  # A host name of its own for each node: Open MPI names its shared memory by host, and two nodes must not meet there.
  mkdir -p "$dir/spool/$1" "$dir/tmp/$1"
  chmod 1777 "$dir/tmp/$1"
  # shellcheck disable=SC2016 # expanded by the inner shell
  launch "slurmd.$1" unshare --uts --mount sh -c \
    'hostname "$1" && mount --bind "$2/hosts" /etc/hosts && exec slurmd -D -N "$1" -f "$2/slurm.conf"' sh "$1" "$dir"
}

write_settings() { # NODES PORT
  local i comm=''
  { cat /etc/hosts; printf '127.0.0.1'; for ((i = 1; i <= $1; i++)); do printf ' n%d' "$i"; done; echo; } >"$dir/hosts"
  # Only where the own host name is the loopback address can the daemons be kept to it.
  [ "$(getent ahostsv4 "$(hostname)" | head -n 1 | cut -d' ' -f1)" != 127.0.0.1 ] || comm=CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
  cat >"$dir/slurm.conf" <<-CONF
	ClusterName=ingot
	SlurmctldHost=localhost(127.0.0.1)
	SlurmctldPort=$2
	SlurmUser=root
	SlurmdUser=root
	AuthType=auth/munge
	CredType=cred/munge
	# A requeued job waits for its credential to expire; below 5 s Slurm takes its default, 120 s.
	AuthInfo=socket=$dir/munge.socket,cred_expire=5
	StateSaveLocation=$dir/state
	SlurmdSpoolDir=$dir/spool/%n
	# Slurm's PMIx plugin makes a folder here by job and step: nodes need different ones.
	TmpFS=$dir/tmp/%n
	SlurmctldPidFile=$dir/pid/slurmctld.own
	SlurmdPidFile=$dir/pid/slurmd.%n.own
	SlurmctldLogFile=$dir/log/slurmctld.log
	SlurmdLogFile=$dir/log/slurmd.%n.log
	MailProg=/bin/true
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	TaskProlog=$dir/prolog
	SwitchType=switch/none
	MpiDefault=pmix
	SchedulerType=sched/backfill
	SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core
	PreemptType=preempt/partition_prio
	PreemptMode=REQUEUE
	JobRequeue=1
	ReturnToService=2
	SlurmdTimeout=10
	KillWait=5
	MinJobAge=3600
	SlurmdParameters=config_overrides
	JobAcctGatherType=jobacct_gather/none
	AccountingStorageType=accounting_storage/none
	GresTypes=gpu
	$comm
	NodeName=n[1-$1] NodeAddr=127.0.0.1 Port=[$(($2 + 1))-$(($2 + $1))] CPUs=8 RealMemory=65536 Gres=gpu:2
	PartitionName=main Nodes=n[1-$1] Default=YES MaxTime=INFINITE State=UP PriorityTier=1
	PartitionName=urgent Nodes=n[1-$1] MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
	CONF
  # Character devices that exist everywhere stand for GPUs.
  echo "NodeName=n[1-$1] Name=gpu File=/dev/null,/dev/zero" >"$dir/gres.conf"
  # Open MPI between virtual nodes of one machine: UCX, since its own TCP transport fails now and then between ranks of one host.
  cat >"$dir/prolog" <<-'PROLOG'
	#!/bin/sh
	for setting in OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_rmaps_base_oversubscribe=1 \
	  OMPI_MCA_pml=ucx OMPI_MCA_osc=^pt2pt OMPI_MCA_opal_common_ucx_tls=any OMPI_MCA_opal_common_ucx_devices=any \
	  OMPI_MCA_opal_common_ucx_verbose=-1 UCX_LOG_LEVEL=fatal UCX_TLS=self,sm,tcp UCX_NET_DEVICES=lo \
	  OMPI_MCA_oob_tcp_if_include=lo OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; do
	  echo "export $setting"
	done
	PROLOG
  chmod 755 "$dir/prolog"
}

no_jobs() { [ -z "$(timeout 5 squeue -h)" ]; }
idle() { [ "$(sinfo -h -N -p main -t idle -o %N | sort -u | wc -l)" = "$1" ]; }

# Nobody listens on any of the ports FIRST to FIRST + COUNT.
free_ports() {
  local port
  for ((port = $1; port <= $1 + $2; port++)); do
    if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return 1; fi
  done
}

start() { # NODES
  local count=$1 port i tool
  [ "$(id -u)" = 0 ] || skip "the test cluster needs root (host names for its virtual nodes)"
  for tool in munged slurmctld slurmd sbatch; do command -v "$tool" >/dev/null || skip "no $tool (Debian packages slurm-wlm munge)"; done
  compgen -G '/usr/lib/*/libpmix.so' >/dev/null || skip "no libpmix.so (Debian package libpmix-dev)"
  unshare --uts --mount true 2>/dev/null || skip "no namespaces here: virtual nodes cannot have host names"
  mkdir -p "$dir"/{log,pid,spool,state,tmp,key}
  chmod 700 "$dir/key" "$dir/state"
  port=$((17000 + (RANDOM % 700) * 20))
  until free_ports "$port" "$count"; do port=$((17000 + (RANDOM % 700) * 20)); done
  write_settings "$count" "$port"
  head -c 1024 /dev/urandom >"$dir/key/munge.key"
  chmod 600 "$dir/key/munge.key"
  launch munged munged --foreground --force --num-threads=2 --key-file="$dir/key/munge.key" --socket="$dir/munge.socket" \
    --pid-file="$dir/key/munged.pid" --seed-file="$dir/key/munged.seed" --log-file="$dir/log/munged.log"
  until_true 10 test -S "$dir/munge.socket"
  export SLURM_CONF=$dir/slurm.conf
  launch slurmctld slurmctld -D -f "$dir/slurm.conf"
  for ((i = 1; i <= count; i++)); do start_node "n$i"; done
  echo "export SLURM_CONF=$dir/slurm.conf" >"$dir/env"
  until_true 30 idle "$count" || { tail -n 5 "$dir"/log/*.out >&2; stop; echo "the cluster did not start" >&2; exit 1; }
}

stop() {
  local pid name
  export SLURM_CONF=$dir/slurm.conf
  if running slurmctld; then
    timeout 10 scancel --quiet -u root 2>/dev/null || true
    until_true 3 no_jobs || true
  fi
  for name in "$dir"/pid/slurmd.n*; do [[ $name == *.own || ! -e $name ]] || end TERM "${name##*/}"; done
  for pid in $(step_daemons); do kill_tree "$pid"; done
  end_orphans
  for name in slurmctld munged; do end TERM "$name"; done
}

# A test that is killed (ctest's time limit) cannot clean up.
guard() { # PID
  local started
  started=$(started_at "$1")
  while [ -n "$started" ] && [ "$(started_at "$1")" = "$started" ]; do sleep 0.5; done
  [ -e "$dir/slurm.conf" ] || return 0
  stop
  rm -rf "${dir%/*}"
}

case $action in
start) start "${3:?}" ;;
stop) stop ;;
guard) guard "${3:?}" ;;
kill-node)
  export SLURM_CONF=$dir/slurm.conf
  end KILL "slurmd.${3:?}"
  for pid in $(step_daemons "$3.log"); do kill_tree "$pid"; done
  # Not to wait for SlurmdTimeout.
  scontrol update nodename="$3" state=down reason=died
  ;;
start-node)
  export SLURM_CONF=$dir/slurm.conf
  start_node "${3:?}"
  scontrol update nodename="$3" state=resume 2>/dev/null || true
  ;;
*) exit 2 ;;
esac
