#!/usr/bin/env bash
# slurm/batch.sh without a cluster, a small script in the place of mpirun: what a job ends with, whenever a signal comes.
set -euo pipefail
: "${SOURCE:?}"
work=$(mktemp -d "${TMPDIR:-/tmp}/ingot-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAILED: $*" >&2; exit 1; }
mkdir bin
tool() { { echo '#!/usr/bin/env bash'; cat; } >"bin/$1"; chmod +x "bin/$1"; }
tool scontrol <<'END'
echo "scontrol $*" >&2
exit 1
END
mpirun() { tool mpirun; }
unset SLURM_ARRAY_JOB_ID SLURM_RESTART_COUNT
export SLURM_JOB_ID=7 INGOT=/bin/true INGOT_SITE_ENV=/dev/null INGOT_LAUNCHER=mpirun
batch() { # CODE WHAT BEFORE: what a job ends with; BEFORE is run ahead of it
  local code=0
  PATH=$work/bin:$PATH bash -c "set -euo pipefail; . '$SOURCE/slurm/batch.sh'; $3 ingot_batch job.cfg" 2>said.txt || code=$?
  [ "$code" = "$1" ] || { cat said.txt >&2; fail "$2: exit code $code instead of $1"; }
}
says() { grep -qF "$1" said.txt || { cat said.txt >&2; fail "does not say \"$1\""; }; }

# USR1 when the program is ending: the code is the program's, and nothing is requeued.
for code in 0 3; do
  mpirun <<<"trap '' USR1; kill -s USR1 \$PPID; exit $code"
  for _ in {1..5}; do
    batch "$code" "a signal at the end" ''
    if grep -q requeue said.txt; then fail "a signal at the end: requeued"; fi
  done
done

# USR1 while it runs, which it takes as an order to stop; a second one changes nothing.
mpirun <<'END'
trap 'sleep 0.2; exit 75' USR1
kill -s USR1 $PPID
sleep 0.1 & wait
kill -s USR1 $PPID
while :; do sleep 0.05; done
END
batch 75 "stopped" ''
says "stopped; requeue 1 of at most 20"
says "scontrol requeue 7"
says "the job could not be put back into the queue"
SLURM_RESTART_COUNT=20 batch 75 "stopped too often" ''
says "not requeued: it has been 20 times already"

# USR1 before the launcher passes it on: it dies of it. USR1 before the launcher is there.
# shellcheck disable=SC2016 # for the other shell
mpirun <<<'kill -s USR1 $PPID; exec sleep 20'
batch 75 "before the launcher is ready" ''
says "scontrol requeue 7"
mpirun <<<'echo started >&2'
# shellcheck disable=SC2016 # for the other shell
INGOT_MODULES=x batch 75 "before the launcher" 'module() { kill -s USR1 $$; };'
says "scontrol requeue 7"
if grep -q started said.txt; then fail "a job that was told to stop starts the program"; fi

# TERM: stopped, without a requeue.
mpirun <<<"trap 'exit 75' USR1; kill -s TERM \$PPID; while :; do sleep 0.05; done"
batch 75 "TERM" ''
if grep -q requeue said.txt; then fail "TERM: requeued"; fi
