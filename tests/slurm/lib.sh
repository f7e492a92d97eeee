# Shared by the tests of this folder: a cluster, a work folder with the example jobs, and waiting for jobs.
#   NODES=2; . lib.sh        $INGOT is the program, $SOURCE the repository
# shellcheck shell=bash
set -euo pipefail
: "${INGOT:?}" "${SOURCE:?}"
work=$(mktemp -d "${TMPDIR:-/tmp}/ingot-slurm.XXXXXX")
cluster=$SOURCE/tests/slurm/cluster.sh
leave() {
  local code=$?
  "$cluster" stop "$work/slurm" || true
  if [ "$code" != 0 ] && [ "$code" != 77 ]; then tail -n 20 "$work"/*.out >&2 2>/dev/null || true; fi
  rm -rf "$work"
}
trap leave EXIT
fail() {
  echo "FAILED: $*" >&2
  exit 1
}
"$cluster" start "$work/slurm" "${NODES:-2}" || exit $?
setsid "$cluster" guard "$work/slurm" $$ </dev/null >/dev/null 2>&1 &
# shellcheck disable=SC1091 # made just now
. "$work/slurm/env"
cd "$work"
ln -s "$SOURCE/tests" tests
cp -r "$SOURCE/jobs" jobs
unset SLURM_CPUS_PER_TASK OMP_NUM_THREADS "${!OMPI_MCA_@}" # the cluster has its own
export INGOT INGOT_CPUS=1 INGOT_SITE_ENV=/dev/null
# shellcheck disable=SC2034 # used by the tests
slurm=$SOURCE/slurm

field() { # JOB FIELD: of scontrol show job, such as JobState
  scontrol show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p" | head -n 1
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
ended() { case $(field "$1" JobState) in COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | PREEMPTED) return 0 ;; *) return 1 ;; esac; }
wait_end() { until_true "${2:-90}" ended "$1" || fail "job $1 does not end: $(field "$1" JobState)"; }
says() { # CODE TEXT COMMAND...: ends with the code and says the text
  local want=$1 text=$2 code=0
  shift 2
  "$@" >said.txt 2>&1 || code=$?
  [ "$code" = "$want" ] || { cat said.txt >&2; fail "$*: exit code $code instead of $want"; }
  grep -qF -- "$text" said.txt || { cat said.txt >&2; fail "$*: does not say \"$text\""; }
}
# No process of the program is left, and no lock or partial output.
nothing_left() {
  until_true 10 gone || fail "$1: processes are left: $(pgrep -af -- "$work/jobs" | head -n 3)"
  [ -z "$(find "$work/out" -name '*.lock' -o -name '*.partial' -o -name '*.journal')" ] ||
    fail "$1: left behind: $(find "$work/out" -name '*.lock' -o -name '*.partial' -o -name '*.journal')"
}
gone() { ! pgrep -f -- "$INGOT run .*jobs/slurm" >/dev/null; }
