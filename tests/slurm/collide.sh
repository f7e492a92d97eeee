#!/usr/bin/env bash
# Two Slurm jobs with one output: the second is refused by name, or waits and finds the work done. A requeued job whose inputs
# have changed meanwhile is refused by name.
. "$(dirname "$0")/lib.sh"
cat >jobs/slurm.cfg <<'CFG'
@include "experts.cfg"
steps = ( { type = "merge"; method = "linear"; models = ( "add", "sort" ); parameters = { weight = 1.0; }; output = "../out/slurm.h5"; } );
CFG
export INGOT_FAULT=slow@-1:150
started() { [ -e out/slurm.h5.journal ]; }
# Held while the others begin: they may take long to be started.
hold() { pgrep -f -- "^$INGOT run jobs/slurm.cfg" | xargs -r kill "-$1" || fail "the first job is over already"; }
first=$("$slurm/submit" --parsable --name first jobs/slurm.cfg)
until_true 60 started || fail "the first job does not start"
hold STOP
refused=$("$slurm/submit" --parsable --name refused jobs/slurm.cfg)
waits=$("$slurm/submit" --parsable --name waits jobs/slurm.cfg -- --wait)
wait_end "$refused"
[ "$(field "$refused" ExitCode)" = 2:0 ] || fail "the second job ended with $(field "$refused" ExitCode) instead of 2"
grep -q 'slurm.h5.lock' "refused-$refused.out" || fail "the second job does not name the lock"
grep -q "Slurm job $first" "refused-$refused.out" || fail "the second job does not name the Slurm job that holds it"
until_true 60 grep -q 'waiting: .*slurm.h5.lock' "waits-$waits.out" || fail "the third job does not wait"
hold CONT
wait_end "$first"
wait_end "$waits"
[ "$(field "$first" JobState)$(field "$waits" JobState)" = COMPLETEDCOMPLETED ] || fail "first and waiting job: $(field "$first" JobState), $(field "$waits" JobState)"
grep -q 'already complete' "waits-$waits.out" || fail "the waiting job does not find the work done"
nothing_left "two jobs"

# Stopped, and back in the queue; before it starts again an input is another.
cp -r tests/experts own
cat >jobs/slurm.cfg <<'CFG'
models = { a = "../own/add"; b = "../own/sort"; };
steps = ( { type = "merge"; method = "linear"; models = ( "a", "b" ); parameters = { weight = 1.0; }; output = "../out/own.h5"; } );
CFG
begun() { [ -e out/own.h5.journal ]; }
requeued() { [ "$(field "$id" Restarts)" = 1 ]; }
id=$("$slurm/submit" --parsable --name own jobs/slurm.cfg)
until_true 30 begun || fail "the job to be stopped does not start"
sleep 0.5
scancel -b -s USR1 "$id"
until_true 30 requeued || fail "the stopped job is not requeued"
cp own/dates/model.safetensors own/sort/model.safetensors
(cd out && md5sum own.h5.*) >before.txt
wait_end "$id"
[ "$(field "$id" ExitCode)" = 2:0 ] || fail "requeued with another input: $(field "$id" ExitCode) instead of 2"
[ "$(field "$id" Restarts)" = 1 ] || fail "requeued with another input: requeued again"
grep -q 'input "b" (.*own/sort) has changed: was ' "own-$id.out" || fail "requeued with another input: not said by name"
(cd out && md5sum -c --quiet ../before.txt) || fail "requeued with another input: something was overwritten"
gone || fail "requeued with another input: processes are left"
