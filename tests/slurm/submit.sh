#!/usr/bin/env bash
# slurm/submit, merge.sbatch, pipeline and sweep on a real Slurm of 4 virtual nodes: what is run, and what is refused.
NODES=4
. "$(dirname "$0")/lib.sh"
"$INGOT" run --quiet jobs/chain.cfg
mv out reference
same() { cmp "reference/$1" "out/$1" || fail "$2: $1 has other bytes"; }

# One command, on 1, 2 and 4 nodes; srun and mpirun.
for nodes in 1 2 4; do
  for launcher in srun mpirun; do
    rm -rf out
    id=$(INGOT_LAUNCHER=$launcher "$slurm/submit" --parsable --nodes "$nodes" --ranks 2 jobs/chain.cfg)
    wait_end "$id"
    [ "$(field "$id" JobState)" = COMPLETED ] || fail "$nodes nodes by $launcher: $(field "$id" JobState)"
    same both.h5 "$nodes nodes by $launcher"
    grep -q "$((2 * nodes)) ranks" ingot-*.out || fail "$nodes nodes by $launcher: not $((2 * nodes)) ranks"
    rm -f ingot-*.out
  done
done
says 0 'all steps of jobs/chain.cfg are complete' "$slurm/submit" jobs/chain.cfg

# What is shown is a script that shellcheck and sbatch accept, and that runs.
rm -rf out
"$slurm/submit" --print --nodes 2 jobs/chain.cfg >shown.sbatch
shellcheck -e SC1090,SC1091 shown.sbatch || fail "shellcheck of what --print shows"
wait_end "$(sbatch --parsable shown.sbatch)"
same both.h5 "the shown script"

# merge.sbatch by itself.
rm -rf out
wait_end "$(sbatch --parsable --nodes=2 --cpus-per-task=1 "$slurm/merge.sbatch" jobs/chain.cfg --step 1)"
same numbers.h5 merge.sbatch

# distill.sbatch: a student in a few steps, told to stop on the way: it puts itself back and ends with the same bytes.
cat >jobs/student.cfg <<'CFG'
@include "experts.cfg"
steps = ( { type = "distill"; student = "base"; teachers = ( "add", "sort" ); data = ( "../tests/experts/data/add.calib.u16" );
            window = 64; batch = 4; steps = 12; output = "../out/student.h5"; } );
CFG
"$INGOT" run --quiet --threads 1 jobs/student.cfg
mv out/student.h5 reference/student.h5
rm -rf out
id=$(INGOT_FAULT=slow@-1:400 sbatch --parsable --cpus-per-task=1 "$slurm/distill.sbatch" jobs/student.cfg)
steps_run() { grep -q "step 1" "ingot-distill-$id.out"; }
until_true 60 steps_run || fail "distill.sbatch does not start"
sleep 0.5
scancel -b -s USR1 "$id"
wait_end "$id"
[ "$(field "$id" JobState)" = COMPLETED ] || fail "distill.sbatch: $(field "$id" JobState)"
[ "$(field "$id" Restarts)" = 1 ] || fail "distill.sbatch: $(field "$id" Restarts) restarts"
same student.h5 distill.sbatch

# Steps as jobs of their own, those for the same inputs as one array, in the order of their inputs.
rm -rf out
"$slurm/pipeline" jobs/chain.cfg 2>pipeline.txt
grep -q 'steps 1,2 (merge): job' pipeline.txt || fail "steps 1 and 2 are not one array"
last=$(sed -n 's/.*steps 4 (export): job \([0-9]*\).*/\1/p' pipeline.txt)
wait_end "$last"
[ "$(field "$last" ExitCode)" = 0:0 ] || fail "the pipeline's last job: $(field "$last" ExitCode)"
same both.h5 "the pipeline"
cmp reference/both-hf/model.safetensors out/both-hf/model.safetensors || fail "the pipeline's export has other bytes"
says 0 'are complete: nothing to submit' "$slurm/pipeline" jobs/chain.cfg

# A failing task of the array takes along what needs it, and nothing runs on half of the inputs.
rm -rf out
INGOT_FAULT=write@0:3 "$slurm/pipeline" jobs/chain.cfg 2>pipeline.txt
first=$(sed -n 's/.*steps 1,2 (merge): job \([0-9]*\).*/\1/p' pipeline.txt)
last=$(sed -n 's/.*steps 4 (export): job \([0-9]*\).*/\1/p' pipeline.txt)
wait_end "$last"
[ "$(field "$last" JobState)" = CANCELLED ] || fail "the job after a failed one: $(field "$last" JobState)"
[ "$(field "${first}_1" JobState)" = FAILED ] || fail "the failing task: $(field "${first}_1" JobState)"
[ ! -e out/both.h5 ] || fail "there is an output made from half of the inputs"
rm -rf out

# A sweep: four settings, four outputs, each as if run alone.
cat >jobs/sweep.cfg <<'CFG'
@include "experts.cfg"
steps = ( { type = "merge"; method = "task_arithmetic"; base = "base"; models = ( "add", "sort" );
            parameters = { weight = 1.0; lambda = 0.4; }; output = "../out/sweep.h5"; } );
CFG
says 0 '4 tasks' "$slurm/sweep" --wait jobs/sweep.cfg 'steps[0].parameters.lambda=0.3,0.5' 'steps[0].dtype="bfloat16","float32"' \
  'steps[0].output="../out/sweep-{1}-{2}.h5"'
[ "$(find out -name 'sweep-*.h5' | wc -l)" = 4 ] || fail "not four outputs: $(ls out)"
"$INGOT" run --quiet --set 'steps[0].parameters.lambda=0.5' --set 'steps[0].dtype="float32"' --set 'steps[0].output="../out/alone.h5"' jobs/sweep.cfg
"$INGOT" diff --quiet out/alone.h5 out/sweep-0.5-float32.h5 >/dev/null ||
  fail "a task of the sweep differs from the same settings alone"
says 2 'would both write' "$slurm/sweep" jobs/sweep.cfg 'steps[0].parameters.lambda=0.3,0.5' 'steps[0].seed=1,2' 'steps[0].output="../out/s-{1}.h5"'
says 2 'does not plan' "$slurm/sweep" jobs/sweep.cfg 'steps[0].parameters.lamda=0.3,0.5' 'steps[0].seed=1,2' 'steps[0].output="../out/s-{1}.h5"'

# A scheduled run: not before its time, and its successor is there when it starts.
cat >jobs/daily.cfg <<'CFG'
@include "experts.cfg"
steps = ( { type = "merge"; method = "linear"; models = ( "add", "sort" ); parameters = { weight = 1.0; }; output = "../out/daily.h5"; } );
CFG
before=$(date +%s)
id=$("$slurm/submit" --parsable --begin now+3 --every 1day jobs/daily.cfg -- --set 'steps[0].output="../out/daily-{date}.h5"')
wait_end "$id"
[ "$(field "$id" JobState)" = COMPLETED ] || fail "the scheduled job: $(field "$id" JobState)"
[ $(($(date +%s) - before)) -ge 3 ] || fail "the scheduled job ran before its time"
[ -e "out/daily-$(date -d "@$before" +%F).h5" ] || [ -e "out/daily-$(date +%F).h5" ] || fail "no output of the day"
[ "$(squeue -h -t pending -o %i | wc -l)" = 1 ] || fail "the scheduled job has no successor: $(squeue -h)"
scancel -u root

# Refused by name, and nothing submitted.
printf 'steps = ( { type = "merge"; } );\n' >jobs/bad.cfg
says 2 'does not plan: nothing was submitted' "$slurm/submit" jobs/bad.cfg
says 2 'no partition "nowhere" here; there are: main' "$slurm/submit" --partition nowhere jobs/chain.cfg
says 2 '3 GPUs a node were asked for; the nodes here have 2' "$slurm/submit" --gpus 3 jobs/daily.cfg
says 2 'cannot read the job file' "$slurm/submit" no-such.cfg
says 2 'unknown option --gpu' "$slurm/submit" --gpu 1 jobs/daily.cfg
says 2 'expected a whole number' "$slurm/submit" --nodes many jobs/daily.cfg
mkdir tools # all that the script needs, and no sbatch
for tool in bash dirname sed date; do ln -s "$(command -v $tool)" "tools/$tool"; done
says 2 'no Slurm here' env PATH="$PWD/tools" "$slurm/submit" jobs/daily.cfg
says 2 'not inside a Slurm job' bash -c "INGOT_SLURM_DIR=$slurm; unset SLURM_JOB_ID; . $slurm/batch.sh; ingot_batch jobs/daily.cfg"
says 2 'INGOT_LAUNCHER is "rsh"' env INGOT_LAUNCHER=rsh SLURM_JOB_ID=1 bash -c ". $slurm/batch.sh; ingot_batch jobs/daily.cfg"
[ -z "$(squeue -h)" ] || fail "something was submitted: $(squeue -h)"
nothing_left "after all"
