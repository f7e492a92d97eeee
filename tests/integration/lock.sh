#!/usr/bin/env bash
# Of two runs with one output, one writes it: the other is refused, or waits. Dead holders are no obstacle.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 3 $((8 * SCALE))
job ties.cfg out/m.h5 ties 'parameters = { density = 0.4; };'
"$INGOT" run --quiet --threads 2 ties.cfg && mv out/m.h5 reference.h5
rm -rf out

# hold: a run that is stopped by SIGSTOP once it has the lock and a journal; its process is $held. It writes slowly, so that it is
# not over before this script looks.
held=""
trap 'kill -KILL $held 2>/dev/null || true; cleanup' EXIT
hold() {
  local n
  for n in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf out
    INGOT_FAULT=slow@-1:20 "$INGOT" run --quiet --threads 1 ties.cfg 2>held.txt &
    held=$!
    while [ ! -e out/m.h5.journal ] && kill -0 "$held" 2>/dev/null; do sleep 0.002; done
    kill -STOP "$held" 2>/dev/null || true
    [ ! -e out/m.h5.lock ] || [ -e out/m.h5 ] || return 0
    kill -CONT "$held" 2>/dev/null || true
    wait "$held" || true # it was faster
  done
  fail "no run could be stopped while it held its lock"
}
release() { kill -CONT "$held"; wait "$held" || fail "the holder failed: $(cat held.txt)"; held=""; }
clean() { [ -z "$(find out -name '*.lock*' -o -name '*.partial' -o -name '*.journal')" ] || fail "$1: something was left behind"; }

# Refused; the message says who and where.
hold
for n in $(rank_counts); do
  expect 2 "out/m.h5.lock: another run is writing this output: host $(uname -n), process $held, job ties.cfg, since 20" \
    ranks "$n" "$INGOT" run --quiet --threads 1 ties.cfg
done
expect 2 "another run is writing this output" "$INGOT" run --quiet --fresh ties.cfg
expect 2 "waited 1 s" "$INGOT" run --quiet --wait=1 ties.cfg
expect 2 "--wait: expected a whole number of at least 1, found \"0\"" "$INGOT" run --wait=0 ties.cfg
expect 2 "another run is writing this output" "$INGOT" import models/base out/m.h5
[ -e out/m.h5.partial ] || fail "a refused run has removed the holder's partial output"
"$INGOT" run --dry-run ties.cfg >/dev/null || fail "a plan needs no lock"

# A waiting run can be stopped, and another one goes on when the holder is done, and finds nothing left to do.
says=(stopped.txt)
for n in $(rank_counts); do
  says+=("waiter-$n.txt")
  ranks "$n" "$INGOT" run --wait ties.cfg >"waiter-$n.txt" 2>&1 &
  waiters+=($!)
done
"$INGOT" run --wait ties.cfg 2>stopped.txt &
stopped=$!
for file in "${says[@]}"; do
  for ((i = 0; i < 1500; i++)); do
    if grep -sq "waiting: out/m.h5.lock" "$file"; then break; fi
    sleep 0.02
  done
  grep -q "waiting: out/m.h5.lock" "$file" || fail "$file does not say that it waits"
done
kill -TERM "$stopped"
code=0
wait "$stopped" || code=$?
[ "$code" = 75 ] || fail "SIGTERM while waiting: exit code $code instead of 75"
release
for pid in "${waiters[@]}"; do wait "$pid" || fail "a waiting run failed: $(cat waiter-*.txt)"; done
for file in waiter-*.txt; do grep -q "is already complete" "$file" || fail "$file: merged again"; done
cmp reference.h5 out/m.h5 || fail "other bytes beside waiting runs"
clean "waiting"

# A killed holder: its lock file stays, and nobody is kept by it; its journal is continued. So too while one waits.
hold
kill -KILL "$held"
wait "$held" 2>/dev/null || true
[ -e out/m.h5.lock ] || fail "the killed run's lock file is gone"
"$INGOT" run --quiet ties.cfg || fail "a dead run keeps its lock"
cmp reference.h5 out/m.h5 || fail "other bytes after a killed holder"
clean "killed holder"
hold
"$INGOT" run --wait ties.cfg 2>waiter.txt &
waiter=$!
while ! grep -sq "waiting:" waiter.txt && kill -0 "$waiter" 2>/dev/null; do sleep 0.02; done
kill -KILL "$held"
wait "$held" 2>/dev/null || true
held=""
wait "$waiter" || fail "a run that waited for a killed one failed: $(cat waiter.txt)"
cmp reference.h5 out/m.h5 || fail "other bytes after waiting for a killed holder"
clean "killed while another waits"

# Another machine's lock: alive while it is renewed, gone when it is old, and at once for the same Slurm job started again.
foreign() {
  rm -rf out
  mkdir out
  printf '%s\n' "ingot lock 1" "host far.example" "boot 1" "pid 7" "start 9" "what job far.cfg" "slurm_job 12" \
    "slurm_restart 0" "since 2026-01-01T00:00:00Z" "kernel_lock 1" "token 0" >out/m.h5.lock
}
foreign
expect 2 "host far.example, process 7, job far.cfg, Slurm job 12" "$INGOT" run --quiet ties.cfg
SLURM_JOB_ID=12 SLURM_RESTART_COUNT=1 "$INGOT" run --quiet ties.cfg || fail "a requeued Slurm job is kept by its own lock"
clean "requeued"
foreign
touch -d '10 minutes ago' out/m.h5.lock
"$INGOT" run --quiet ties.cfg || fail "an old lock of another machine is not taken over"
cmp reference.h5 out/m.h5 || fail "other bytes after a take-over"
clean "taken over"

# A run that others took for dead does not finish: it leaves the output to them.
hold
cp out/m.h5.lock lock.txt
sed -e 's/^host .*/host far.example/' -e 's/^token .*/token 1/' lock.txt >out/new
mv out/new out/m.h5.lock
kill -CONT "$held"
code=0
wait "$held" || code=$?
held=""
[ "$code" = 2 ] || fail "a run without its lock ends with $code instead of 2"
grep -q "another run has taken over this output" held.txt || fail "a run without its lock says: $(cat held.txt)"
[ ! -e out/m.h5 ] || fail "a run without its lock has put its output in place"
[ -e out/m.h5.lock ] && [ -e out/m.h5.partial ] || fail "a run without its lock has removed what is another's"
