#!/usr/bin/env bash
# Two Slurm jobs with one output: the second is refused by name, or waits and finds the work done.
. "$(dirname "$0")/lib.sh"
cat >jobs/slurm.cfg <<'CFG'
@include "experts.cfg"
steps = ( { type = "merge"; method = "linear"; models = ( "add", "sort" ); parameters = { weight = 1.0; }; output = "../out/slurm.h5"; } );
CFG
export INGOT_FAULT=slow@-1:150
started() { [ -e out/slurm.h5.journal ]; }
first=$("$slurm/submit" --parsable --name first jobs/slurm.cfg)
until_true 30 started || fail "the first job does not start"
refused=$("$slurm/submit" --parsable --name refused jobs/slurm.cfg)
waits=$("$slurm/submit" --parsable --name waits jobs/slurm.cfg -- --wait)
wait_end "$refused"
[ "$(field "$refused" ExitCode)" = 2:0 ] || fail "the second job ended with $(field "$refused" ExitCode) instead of 2"
grep -q 'slurm.h5.lock' "refused-$refused.out" || fail "the second job does not name the lock"
grep -q "Slurm job $first" "refused-$refused.out" || fail "the second job does not name the Slurm job that holds it"
wait_end "$first"
wait_end "$waits"
[ "$(field "$first" JobState)$(field "$waits" JobState)" = COMPLETEDCOMPLETED ] || fail "first and waiting job: $(field "$first" JobState), $(field "$waits" JobState)"
grep -q 'already complete' "waits-$waits.out" || fail "the waiting job does not find the work done"
nothing_left "two jobs"
