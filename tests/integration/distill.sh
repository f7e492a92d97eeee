#!/usr/bin/env bash
# The step distill on the shipped family: a student that learns, the same bytes after stops and kills at any step, other numbers of
# ranks within rounding, and what wrong jobs get.
. "$(dirname "$0")/lib.sh"
: "${NEAR:?}"
ln -s "$SOURCE/tests/experts" family
export OMP_NUM_THREADS=1
n_step=$((4 * SCALE))

# write_job FILE OUTPUT [BODY]
write_job() {
  cat >"$1" <<EOT
seed = 4;
models = { base = "family/base"; sort = "family/sort"; dates = "family/dates"; };
steps = ( { type = "distill"; student = "base"; teachers = ( "sort", "dates" ); window = 64; steps = $n_step; batch = 8; micro_batch = 4; rate = 0.001;
  warmup = 2; output_dtype = "float32"; output = "$2"; validation = { sort = "family/data/sort.val.u16"; }; validation_limit = 8; validate_every = 3;
  data = { sort = { path = "family/data/sort.calib.u16"; teachers = ( "sort" ); }; dates = { path = "family/data/dates.calib.u16"; weight = 2; }; };
  ${3:-} } );
EOT
}

# --- trained, and complete when run again; history, curves and config are there
write_job h5.cfg out/student.h5
"$INGOT" run --device cpu --json events.json h5.cfg 2>log.txt
grep -qF "after step $n_step of $n_step: validation perplexity" log.txt || fail "no validation at the end"
grep -qE "memory of a rank: .*; planned " log.txt || fail "nothing is said of the memory that was planned"
grep -q '"planned_memory_bytes":[1-9]' events.json || fail "no event with the memory that was planned"
grep -q '"training_step":' events.json || fail "no events of the training"
"$INGOT" run --device cpu h5.cfg 2>again.txt
grep -qF "already complete" again.txt || fail "a training is not complete when run again"
"$INGOT" inspect out/student.h5 | grep -q "ingot_training.json" || fail "no history in the checkpoint"
grep -qF "with out/student.last.h5 is complete" log.txt || fail "nothing is said of the last student"
grep -q "<svg" out/student.h5.svg || fail "no curves"
[ -z "$(find out -name '*.state.*')" ] || fail "states are left behind"
cp out/student.h5 straight.h5

# --- a manifest that cannot be written: nothing is under either name, and what is made is taken up
for blocked in out/student.h5 out/student.last.h5; do
  rm -rf out
  mkdir -p "$blocked.manifest.json/taken"
  expect 1 "$blocked.manifest.json" "$INGOT" run --quiet --device cpu h5.cfg
  [ ! -e out/student.h5 ] && [ ! -e out/student.last.h5 ] || fail "$blocked: a checkpoint in spite of a manifest that cannot be written"
  [ -z "$(find out -name '*.manifest.json' -type f)" ] || fail "$blocked: a manifest without a checkpoint"
  rm -r "$blocked.manifest.json"
  "$INGOT" run --quiet --device cpu h5.cfg
  cmp straight.h5 out/student.h5 || fail "$blocked: other bytes once its manifest can be written"
done
cp out/student.last.h5 straight.last.h5
"$INGOT" verify out/student.last.h5 >/dev/null || fail "the last student is no whole checkpoint"

# --- stopped and killed at random steps, with layers kept and layers run again: the same bytes
for _ in 1 2 3; do
  rm -rf out
  at=$((RANDOM % n_step + 1))
  code=0
  INGOT_FAULT="stop@0:$at" "$INGOT" run --quiet --device cpu --set 'steps[0].recompute=true' h5.cfg 2>stderr.txt || code=$?
  [ "$code" = 75 ] || { cat stderr.txt >&2; fail "stopped in step $at: exit code $code"; }
  [ -e out/student.h5.state.last ] || fail "stopped in step $at: nothing is saved"
  kill_at=$((RANDOM % (2 * n_step) + 1)) code=0 # in a step, or while a checkpoint is written
  INGOT_FAULT="kill@0:$kill_at" "$INGOT" run --quiet --device cpu h5.cfg 2>/dev/null || code=$?
  [ ! -e out/student.h5 ] || [ "$code" = 0 ] || fail "killed in step $kill_at: there is an output"
  "$INGOT" run --quiet --device cpu h5.cfg
  cmp straight.h5 out/student.h5 || fail "stopped in step $at and killed $kill_at steps later: other bytes"
  cmp straight.last.h5 out/student.last.h5 || fail "stopped in step $at and killed $kill_at steps later: other bytes of the last"
done

# --- the best and the last: a training that makes it worse has its start as the best, and the last beside it
write_job worse.cfg out/worse 'keep = "last_and_best";'
sed -i "s/steps = $n_step/steps = 3/; s/rate = 0.001/rate = 0.3/" worse.cfg
"$INGOT" run --quiet --device cpu worse.cfg
cat >start.cfg <<EOT
models = { base = "family/base"; };
steps = ( { type = "merge"; method = "linear"; parameters = { weight = 1.0; }; models = ( "base" ); dtype = "float32"; output = "start"; } );
EOT
"$INGOT" run --quiet --device cpu start.cfg
"$NEAR" start out/worse.best 0 || fail "the best of a training that makes it worse is not its start"
if "$NEAR" start out/worse 0; then fail "the last of a training is its start"; fi
grep -qF '"kept_step": 0' out/worse.best/ingot_training.json || fail "the best is not said to be of step 0"
grep -qF '"kept_step": 3' out/worse/ingot_training.json || fail "the last is not said to be of step 3"
"$INGOT" verify out/worse.best >/dev/null
mv out/worse last
mv out/worse.best best
sed 's/last_and_best/best_and_last/' worse.cfg >both.cfg
# the output cannot be put in place, when the other already is
expect 1 "" env INGOT_FAULT="commit@0:2" "$INGOT" run --quiet --device cpu both.cfg
[ ! -e out/worse ] || fail "an output in spite of a failed commit"
[ -e out/worse.last ] || fail "the last is not made before the output"
"$INGOT" run --quiet --device cpu both.cfg
"$NEAR" best out/worse 0 && "$NEAR" last out/worse.last 0 || fail "keep = best_and_last: other students"
sed 's/last_and_best/best/; s/out.worse/out\/alone/' worse.cfg >alone.cfg
"$INGOT" run --quiet --device cpu alone.cfg
"$NEAR" best out/alone 0 || fail "keep = best: another student"
[ ! -e out/alone.last ] || fail "keep = best: the last is there too"
# something else under its name, and another step's output
mkdir out/alone.last
sed -i 's/"best"/"best_and_last"/; s/seed = 4/seed = 5/' alone.cfg
rm -r out/alone
expect 2 "alone.last exists, without a manifest" "$INGOT" run --quiet --device cpu alone.cfg
sed 's/steps = (/steps = ( { type = "merge"; method = "linear"; models = ( "sort", "dates" ); output = "out\/alone.last"; },/' alone.cfg >twice.cfg
expect 2 "which this step writes too, is the output of step 1" "$INGOT" run --fresh --quiet --device cpu twice.cfg

# --- a state that is broken: the generation before, or from the start; the same bytes
rm -rf out
INGOT_FAULT="stop@0:3" "$INGOT" run --quiet --device cpu h5.cfg 2>/dev/null || true
printf x | dd of=out/student.h5.state.0.0-of-1 bs=1 seek=5000 conv=notrunc 2>/dev/null
"$INGOT" run --device cpu h5.cfg 2>stderr.txt
grep -qF "not taken up, because its checksum is wrong" stderr.txt || fail "a broken state is not noticed"
cmp straight.h5 out/student.h5 || fail "after a broken state: other bytes"

# --- any number of ranks within rounding; resumed on another number
for n in $(rank_counts); do
  [ "$n" != 1 ] || continue
  rm -rf out
  ranks "$n" "$INGOT" run --quiet --device cpu h5.cfg
  cp out/student.h5 "ranks-$n.h5"
  "$NEAR" straight.h5 "ranks-$n.h5" 2e-3 || fail "other values on $n ranks"
  rm -rf out
  code=0
  # teachers that are spread over the ranks until then, and on each rank afterwards
  INGOT_FAULT="stop@$((n - 1)):3" ranks "$n" "$INGOT" run --quiet --device cpu --set 'steps[0].placement="spread"' h5.cfg 2>/dev/null || code=$?
  [ "$code" = 75 ] || fail "stopped on $n ranks: exit code $code"
  cp -r out saved
  ranks "$n" "$INGOT" run --quiet --device cpu h5.cfg
  cmp "ranks-$n.h5" out/student.h5 || fail "stopped on $n ranks: other bytes"
  rm -rf out
  mv saved out
  "$INGOT" run --device cpu h5.cfg 2>stderr.txt
  grep -qF "on another number of ranks" stderr.txt || { cat stderr.txt >&2; fail "the state of $n ranks is not taken up by one"; }
  "$NEAR" straight.h5 out/student.h5 2e-3 || fail "begun on $n ranks, ended on one: other values"
done

# --- a random student from a config, as a directory that can be run again
sed 's/"hidden_size": 128/"hidden_size": 64/; s/"head_dim": 32/"head_dim": 16/' family/base/config.json >small.json
write_job small.cfg out/small
sed -i 's/student = "base"/config = "small.json"/' small.cfg
"$INGOT" run --quiet --device cpu small.cfg
cmp small.json out/small/config.json || fail "a random student has another config"
cmp family/base/tokenizer.json out/small/tokenizer.json || fail "a random student has no tokenizer of its teachers"
cat >evaluate.cfg <<EOT
models = { small = "out/small"; };
steps = ( { type = "evaluate"; models = ( "small" ); window = 64; limit = 4; data = ( "family/data/sort.val.u16" ); output = "out/scores.json"; } );
EOT
"$INGOT" run --quiet --device cpu evaluate.cfg >/dev/null

# --- from a logits file with all classes: one line of the job changes, and the student within the rounding of the file
cat >logits.cfg <<EOT
models = { sort = "family/sort"; dates = "family/dates"; base = "family/base"; };
steps = ( { type = "logits"; models = ( "sort", "dates" ); window = 64; limit = 32; k = 79; logp_dtype = "float32"; tail = "none";
            data = ( "family/data/sort.calib.u16" ); output = "out/logits.h5"; },
          { type = "distill"; student = "base"; logits = "out/logits.h5"; window = 64; limit = 32; steps = $n_step; batch = 4; rate = 0.001;
            data = ( "family/data/sort.calib.u16" ); output_dtype = "float32"; output = "out/from-file.h5"; } );
EOT
"$INGOT" plan --bandwidth 1,1 logits.cfg >/dev/null
"$INGOT" run --quiet --device cpu logits.cfg
sed -e 's/logits = "out.logits.h5"/teachers = ( "sort", "dates" )/; s/from-file/live/' logits.cfg >live.cfg
"$INGOT" run --quiet --device cpu live.cfg
"$NEAR" out/live.h5 out/from-file.h5 2e-3 || fail "from a logits file: another student than from live teachers"
cat >other.cfg <<EOT
models = { base = "family/base"; };
steps = ( { type = "distill"; student = "base"; logits = "out/logits.h5"; window = 64; limit = 32; steps = 2; batch = 4;
            data = ( "family/data/dates.calib.u16" ); output = "out/other.h5"; } );
EOT
expect 3 "logits.h5" "$INGOT" run --quiet --device cpu other.cfg
[ ! -e out/other.h5 ] || fail "an output in spite of logits of other tokens"

# --- the teachers' weights from an ensemble step: the student that the same numbers give, and what does not fit
cat >weights.cfg <<EOT
models = { sort = "family/sort"; dates = "family/dates"; base = "family/base"; };
steps = ( { type = "ensemble"; name = "mixture"; models = ( "dates", "sort" ); weights = { s = ( 0.25, 0.75 ); d = ( 1.0, 0.0 ); }; window = 64;
            limit = 2; data = { s = "family/data/sort.val.u16"; d = "family/data/dates.val.u16"; }; output = "out/mixture.h5"; },
          { type = "distill"; student = "base"; teachers = ( "sort", "dates" ); weights = "mixture"; window = 64; steps = 2; batch = 4; rate = 0.001;
            data = { s = "family/data/sort.calib.u16"; d = "family/data/dates.calib.u16"; }; output_dtype = "float32"; output = "out/weighed.h5"; } );
EOT
"$INGOT" plan --bandwidth 1,1 weights.cfg >/dev/null
"$INGOT" run --quiet --device cpu weights.cfg >/dev/null
cat >by-hand.cfg <<EOT
models = { sort = "family/sort"; dates = "family/dates"; base = "family/base"; };
steps = ( { type = "distill"; student = "base"; teachers = ( { model = "sort"; weight = 0.75; }, { model = "dates"; weight = 0.25; } ); window = 64;
            steps = 2; batch = 4; rate = 0.001; output_dtype = "float32"; output = "out/by-hand.h5";
            data = { s = "family/data/sort.calib.u16"; d = { path = "family/data/dates.calib.u16"; teachers = ( "dates" ); }; }; } );
EOT
"$INGOT" run --quiet --device cpu by-hand.cfg
"$NEAR" out/by-hand.h5 out/weighed.h5 0 || fail "weights of an ensemble step: another student than by hand"
# models that are alike in size, time and header: by their ids
mkdir twins
cp -rL family/sort family/dates twins/
find twins -exec touch -d 2020-01-01 {} +
sed 's/family.sort"/twins\/sort"/; s/family.dates"/twins\/dates"/; s/out.mixture/out\/twins/; s/out.weighed/out\/twins-weighed/' weights.cfg >twins.cfg
"$INGOT" run --quiet --device cpu twins.cfg >/dev/null
"$NEAR" out/weighed.h5 out/twins-weighed.h5 0 || fail "weights of models that are alike in size, time and header: another student"
expect_unfit() { # CODE TEXT SED-SCRIPT
  sed "s/out.weighed/out\/unfit/; s/weights = \"mixture\"/weights = \"out\/mixture.h5\"/; $3" weights.cfg >unfit.cfg
  expect "$1" "$2" "$INGOT" run --step 2 --quiet --device cpu unfit.cfg
  [ ! -e out/unfit.h5 ] || fail "an output in spite of: $2"
}
expect_unfit 3 'mixture.h5 has no weight for model "base"' 's/( "sort", "dates" ); weights/( "sort", "dates", "base" ); weights/'
expect_unfit 3 'has a weight for model "dates", which is not one of the models here' 's/( "sort", "dates" ); weights/( "sort" ); weights/'
expect_unfit 3 'has no weights for data "x"' 's/{ s = "family.data.sort.calib/{ x = "family\/data\/sort.calib/'
expect_unfit 3 'holds weights for kind = "linear", and combine is "log_linear"' 's/steps = 2;/steps = 2; combine = "log_linear";/'
expect_unfit 3 'weights of an ensemble: the attribute "ingot_ensemble" is missing' 's/out.mixture.h5"; window/out\/by-hand.h5"; window/'
expect_unfit 3 'none.h5' 's/out.mixture.h5"; window/out\/none.h5"; window/'
expect_unfit 2 'give one of them' 's/( "sort", "dates" ); weights/( { model = "sort"; weight = 0.5; }, { model = "dates"; weight = 0.5; } ); weights/'
expect_unfit 3 'no teacher of data "d" has a weight that is not 0' 's/d = "family.data.dates.calib.u16"/d = { path = "family\/data\/dates.calib.u16"; teachers = ( "sort" ); }/'

# --- tokens that a teacher finds implausible: the same student from live teachers and from a logits file with all of their distribution
cat >plausible.cfg <<EOT
models = { sort = "family/sort"; dates = "family/dates"; base = "family/base"; };
steps = ( { type = "ensemble"; name = "mixture"; kind = "log_linear"; models = ( "dates", "sort" ); weights = [ -0.5, 1.5 ]; plausibility = 0.2; reference = "sort";
            window = 64; limit = 2; data = { s = "family/data/sort.val.u16"; }; output = "out/plausible.json"; },
          { type = "logits"; kind = "log_linear"; models = ( "sort", "dates" ); weights = "mixture"; window = 64; limit = 8; k = 79; logp_dtype = "float32";
            data = { s = "family/data/sort.calib.u16"; }; output = "out/plausible-logits.h5"; },
          { type = "distill"; student = "base"; logits = "out/plausible-logits.h5"; window = 64; limit = 8; steps = 2; batch = 4; rate = 0.001;
            data = { s = "family/data/sort.calib.u16"; }; output_dtype = "float32"; output = "out/plausible-file.h5"; },
          { type = "distill"; student = "base"; teachers = ( "sort", "dates" ); weights = "mixture"; window = 64; limit = 8; steps = 2; batch = 4; rate = 0.001;
            data = { s = "family/data/sort.calib.u16"; }; output_dtype = "float32"; output = "out/plausible-live.h5"; },
          { type = "distill"; student = "base"; teachers = ( "sort", "dates" ); weights = "mixture"; plausibility = 0.0; window = 64; limit = 8; steps = 2;
            batch = 4; rate = 0.001; data = { s = "family/data/sort.calib.u16"; }; output_dtype = "float32"; output = "out/plausible-all.h5"; } );
EOT
"$INGOT" run --quiet --device cpu plausible.cfg >plausible.txt
grep -q "^s: [1-9][0-9]* of 126 tokens are ruled out, perplexity of the others [1-9]" plausible.txt || { cat plausible.txt >&2; fail "no tokens are ruled out"; }
"$NEAR" out/plausible-file.h5 out/plausible-live.h5 1e-4 || fail "plausibility: another student from the file"
if "$NEAR" out/plausible-all.h5 out/plausible-live.h5 1e-4; then fail "plausibility: the same student without it"; fi
expect_implausible() { # CODE TEXT SED-SCRIPT
  sed "s/out.plausible-live/out\/implausible/; $3" plausible.cfg >implausible.cfg
  expect "$1" "$2" "$INGOT" run --step 4 --quiet --device cpu implausible.cfg
}
expect_implausible 2 'loss = "reverse_kl" is infinite where plausibility rules tokens out' 's/teachers = ( "sort", "dates" ); weights = "mixture"; window/loss = "reverse_kl"; &/'
expect_implausible 2 '"dates" says what is plausible, and its weight is -0.5' 's/weights = "mixture"; window = 64; limit = 8; steps/plausibility = 0.1; reference = "dates"; &/'
expect_implausible 2 'it is for teachers with combine = "log_linear"' 's/weights = "mixture"; window = 64; limit = 8; steps/plausibility = 0.1; combine = "linear"; &/'

# --- refused while planning
expect_bad() { # CODE TEXT SED-SCRIPT
  write_job bad.cfg out/bad
  sed -i "$3" bad.cfg
  expect "$1" "$2" "$INGOT" run --quiet --device cpu bad.cfg
  [ ! -e out/bad ] || fail "an output in spite of: $2"
}
expect_bad 2 'exactly one of "student" and "config"' 's/student = "base";//'
expect_bad 2 'exactly one of "teachers" and "logits"' 's/teachers = ( "sort", "dates" );//; s/teachers = ( "sort" );//'
expect_bad 2 'weight -1: weights of combine = "linear" must be above 0' 's/( "sort", "dates" )/( { model = "sort"; weight = -1; }, { model = "dates"; weight = 2; } )/'
expect_bad 2 'sum to 0.9' 's/( "sort", "dates" )/( { model = "sort"; weight = 0.5; }, { model = "dates"; weight = 0.4; } )/; s/teachers = ( "sort" );//'
expect_bad 2 '1 of 2 teachers have a weight' 's/( "sort", "dates" )/( { model = "sort"; weight = 0.5; }, "dates" )/'
expect_bad 2 'is none of this step'"'"'s teachers' 's/teachers = ( "sort" );/teachers = ( "base" );/'
expect_bad 2 'dates.weight: 0 is out of range: above 0' 's/weight = 2/weight = 0/'
expect_bad 2 'rate: 0 is out of range: above 0' 's/rate = 0.001/rate = 0/'
sed 's/limit = 32;/limit = 32; shift = true;/' logits.cfg >shifted.cfg
expect 2 'a logits file is of windows at their own places' "$INGOT" plan shifted.cfg
expect_bad 2 'floor: 1e-08 is out of range: at most 0 (log_linear: log-probabilities' 's/batch = 8;/batch = 8; floor = 1e-8;/'
expect_bad 2 'alpha: 2 is out of range: 0 to 1' 's/batch = 8;/batch = 8; alpha = 2;/'
expect_bad 2 'steps of warm-up, and there are' 's/warmup = 2;/warmup = 2000;/'
expect_bad 2 'a student is written to a .h5 file or a directory' 's/out.bad/out\/bad.safetensors/'
expect_bad 2 'dtype = "bfloat16" needs a GPU' 's/batch = 8;/batch = 8; dtype = "bfloat16";/'
if [ "${n:-1}" != 1 ]; then
  ranks 2 "$INGOT" plan --set 'steps[0].placement="spread"' h5.cfg >plan.txt
  grep -q "; teachers: spread over 2 ranks, as set: .* a rank; .* with all 2 on each" plan.txt || { cat plan.txt >&2; fail "the plan does not say where teachers are"; }
fi
expect_bad 3 'the student does not fit: a rank needs' 's/batch = 8;/batch = 8; memory_limit = "4MB";/'
# what no number of ranks can share is less than what one needs
"$INGOT" plan bad.cfg 2>stderr.txt || true
awk '{ gsub(/.*a rank needs /, ""); need = $1; unit = $2; gsub(/.*gradients alone are /, ""); gsub(/:/, ""); exit !($1 > 0 && $1 < need && $2 == unit) }' stderr.txt ||
  { cat stderr.txt >&2; fail "the least that a rank needs is not less than what it needs"; }
expect_bad 3 'it fits with recompute = true' 's/batch = 8;/batch = 32; memory_limit = "95MB";/; s/micro_batch = 4/micro_batch = 32/'
expect_bad 3 'ends early' "s/steps = $n_step/steps = 1000/; s/batch = 8;/batch = 8; repeat = false;/"
expect_bad 3 'windows of 65 tokens' 's/window = 64/window = 65/'
expect_bad 3 'none.u16' 's/dates.calib.u16/none.u16/'
expect_bad 2 'document = 79, and the vocabulary has 79 tokens' 's/batch = 8;/batch = 8; document = 79;/'
mkdir other
cp family/dates/* other/
sed -i 's/"a": *\([0-9]*\)/"@@": \1/' other/tokenizer.json
expect_bad 3 'different vocabularies: ' 's/family.dates/other/'
sed 's/family.base/other/; s/dates.calib/sort.calib/' other.cfg >tokenizer.cfg
expect 3 "tokenizer" "$INGOT" run --quiet --device cpu tokenizer.cfg

# --- a training that explodes: exit 3, what was saved stays
write_job hot.cfg out/hot
sed -i 's/rate = 0.001/rate = 1e30; clip = 0/' hot.cfg
code=0
INGOT_FAULT="stop@0:1" "$INGOT" run --quiet --device cpu hot.cfg 2>/dev/null || code=$?
[ "$code" = 75 ] || fail "stopped at the start of a training that explodes: exit code $code"
expect 3 "is not finite" "$INGOT" run --quiet --device cpu hot.cfg
[ -e out/hot.state.0.0-of-1 ] && grep -q "^0 [01] 1$" out/hot.state.last || fail "what was saved before the loss was not finite is gone"
[ ! -e out/hot ] || fail "an output of a training that exploded"
