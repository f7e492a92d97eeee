#!/usr/bin/env bash
# An unfinished output whose settings or inputs have changed since is refused by the name of what differs, with nothing
# overwritten; --fresh begins anew. So is a finished one.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 3 $((4 * SCALE))
job ties.cfg out/m.h5 ties 'parameters = { density = 0.4; };'
job other.cfg out/m.h5 ties 'parameters = { density = 0.5; };'
job linear.cfg out/m.h5 task_arithmetic
"$INGOT" run --quiet --threads 2 ties.cfg
mv out reference

stop() { # leaves an unfinished output, on RANKS ranks
  rm -rf out
  expect 75 'the same command continues' env INGOT_FAULT=stop@0:2 bash -c ". '$SOURCE/tests/integration/ranks.sh'; ranks $1 '$INGOT' run --quiet --threads 1 ties.cfg"
  [ -e out/m.h5.journal ] && [ -e out/m.h5.begun.json ] || fail "a stopped run leaves no journal, or no note of what it was begun from"
  (cd out && md5sum ./*) >before.txt
}
untouched() { (cd out && md5sum -c --quiet ../before.txt) || fail "$1: something was overwritten"; }

for n in $(rank_counts); do
  stop "$n"
  expect 2 'output out/m.h5: was begun by other settings or from other inputs (parameters.density was 0.4, is 0.5); --fresh' \
    ranks "$n" "$INGOT" run --quiet other.cfg
  untouched "another setting, $n ranks"
done
expect 2 'method was "ties", is "task_arithmetic"' "$INGOT" run --quiet linear.cfg
expect 2 'parameters.density was 0.4, is 0.5' "$INGOT" plan --bandwidth 1,1 other.cfg
untouched "another method, and a plan"

# The lock of a killed run hides the matter from the plan: it is found under the lock.
printf 'ingot lock 1\nhost %s\nboot 0\npid 1\nstart 1\nwhat x\nsince 2026-01-01T00:00:00Z\nkernel_lock 1\ntoken 0\n' "$(uname -n)" >out/m.h5.lock
touch -d '10 minutes ago' out/m.h5.lock
expect 2 'parameters.density was 0.4, is 0.5' "$INGOT" run --quiet other.cfg
rm -f out/m.h5.lock
untouched "a killed run's lock"

# An input that has other files now, in the middle of the list.
file=models/expert-2/model.safetensors
size=$(($(stat -c %s "$file") - 8 - $(od -An -tu8 -N8 "$file"))) # without the header
cp -a models/expert-2 kept
cp models/expert-3/model.safetensors models/expert-2/model.safetensors
expect 2 'input "b" (models/expert-2) has changed: was '"$size bytes, identity " "$INGOT" run --quiet ties.cfg
untouched "another input"
rm -rf models/expert-2
cp -a kept models/expert-2
"$INGOT" run --quiet ties.cfg || fail "with its inputs back, the same command does not continue"
cmp reference/m.h5 out/m.h5 || fail "other bytes after all"
[ ! -e out/m.h5.begun.json ] || fail "a finished output keeps its note"

# An input that somebody writes to while it is merged: no output, and the same command merges what is there then.
for n in $(rank_counts); do
  rm -rf out
  INGOT_FAULT=slow@-1:300 ranks "$n" "$INGOT" run --quiet --threads 1 ties.cfg 2>stderr.txt &
  run=$!
  until [ -e out/m.h5.journal ]; do
    kill -0 "$run" || { cat stderr.txt >&2; fail "$n ranks: over before it began to write"; }
    sleep 0.01
  done
  printf 'zz' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") - 2)) conv=notrunc status=none
  code=0
  wait "$run" || code=$?
  if [ "$code" != 3 ] || ! grep -qF "expert-2/model.safetensors: has changed while it was in use" stderr.txt; then
    cat stderr.txt >&2
    fail "$n ranks: an input changed in the middle: exit code $code"
  fi
  [ -z "$(ls out)" ] || fail "$n ranks: an input changed in the middle: $(ls out)"
done
"$INGOT" run --quiet ties.cfg || fail "an input that has changed is not merged anew"

# One that changes while the run waits for another's lock: nothing is merged at all.
rm -rf out
mkdir out
printf 'ingot lock 1\nhost elsewhere\nboot 0\npid 1\nstart 1\nwhat x\nsince 2026-01-01T00:00:00Z\nkernel_lock 1\ntoken 0\n' >out/m.h5.lock
INGOT_FAULT=write@0:1 "$INGOT" run --wait --threads 1 ties.cfg 2>stderr.txt &
run=$!
until grep -q 'waiting: out/m.h5.lock' stderr.txt; do
  kill -0 "$run" || { cat stderr.txt >&2; fail "does not wait"; }
  sleep 0.01
done
printf 'yy' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") - 2)) conv=notrunc status=none
rm out/m.h5.lock
code=0
wait "$run" || code=$?
if [ "$code" != 3 ] || ! grep -qF "expert-2/model.safetensors: has changed while it was in use" stderr.txt; then
  cat stderr.txt >&2
  fail "an input changed while the run waited: exit code $code"
fi
[ -z "$(ls out)" ] || fail "an input changed while the run waited: $(ls out)"
rm -rf out models/expert-2
cp -a kept models/expert-2
"$INGOT" run --quiet ties.cfg
cmp reference/m.h5 out/m.h5 || fail "other bytes with the first input"

# A finished output: what its manifest says.
expect 2 'out/m.h5 exists, made by other settings or from other inputs (parameters.density was 0.4, is 0.5); --fresh replaces it' \
  "$INGOT" run --quiet other.cfg
cmp reference/m.h5 out/m.h5 || fail "a refused run has changed the output"

# A journal of another version of the program, or of a job that left no note.
stop 1
printf '\002' | dd of=out/m.h5.journal bs=1 seek=8 conv=notrunc status=none
(cd out && md5sum ./*) >before.txt
expect 2 'out/m.h5.journal: is of version 2, expected 1' "$INGOT" run --quiet ties.cfg
untouched "a journal of another version"
stop 1
rm out/m.h5.begun.json
(cd out && md5sum ./*) >before.txt
expect 2 'belongs to a job with other settings or inputs' "$INGOT" run --quiet other.cfg
untouched "no note"

# --fresh discards; a run that fails before it has written anything leaves no note.
stop 1
"$INGOT" run --quiet --fresh other.cfg || fail "--fresh does not begin anew"
[ -z "$(find out -name '*.partial' -o -name '*.journal' -o -name '*.begun*')" ] || fail "--fresh leaves something behind"
"$INGOT" run --quiet --set 'steps[0].output="alone.h5"' other.cfg
"$INGOT" diff --quiet alone.h5 out/m.h5 >/dev/null || fail "--fresh makes another output"
