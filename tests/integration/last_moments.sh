#!/usr/bin/env bash
# Killed between an output's name and its manifest, and between its manifest and the removal of what was kept for a restart: the
# same command ends with the same bytes and nothing beside them, for every kind of step.
. "$(dirname "$0")/lib.sh"
ln -s "$SOURCE/tests/experts" family
export OMP_NUM_THREADS=1

# write_job FILE STEP...
write_job() {
  local file=$1 IFS=, list; shift
  list="$*"
  cat >"$file" <<EOT
seed = 3;
models = { base = "family/base"; sort = "family/sort"; dates = "family/dates"; };
steps = ( $list );
EOT
}
data='window = 64; limit = 4; data = { sort = "family/data/sort.val.u16"; dates = "family/data/dates.val.u16"; };'
few='window = 64; limit = 2; data = ( "family/data/sort.calib.u16" );'
steps=(
  '{ type = "merge"; method = "ties"; base = "base"; models = ( "sort", "dates" ); parameters = { weight = 0.5; density = 0.5; }; output = "out/ties.h5"; }'
  '{ type = "merge"; method = "linear"; models = ( "sort", "dates" ); parameters = { weight = 0.5; }; output = "out/linear"; }'
  "{ type = \"fisher\"; model = \"sort\"; $few output = \"out/fisher.h5\"; }"
  "{ type = \"gram\"; model = \"dates\"; $few output = \"out/gram\"; }"
  "{ type = \"evaluate\"; models = ( \"sort\", \"base\" ); $data output = \"out/table.json\"; }"
  "{ type = \"evaluate\"; models = ( \"sort\", \"dates\" ); $data output = \"out/table.h5\"; }"
  "{ type = \"ensemble\"; models = ( \"sort\", \"dates\" ); $data output = \"out/ensemble.json\"; }"
  "{ type = \"logits\"; models = ( \"sort\", \"dates\" ); k = 8; $data output = \"out/logits.h5\"; }"
  "{ type = \"generate\"; models = ( \"sort\" ); limit = 4; prompts = \"documents\"; document = 0; prompt = 8; length = 8; batch = 2; data = { sort = \"family/data/sort.val.u16\"; }; output = \"out/made.u16\"; }"
  "{ type = \"soup\"; models = ( \"base\", \"sort\" ); $data output = \"out/soup.h5\"; }"
  "{ type = \"regmean_plus\"; models = ( \"sort\", \"dates\" ); window = 64; limit = 2; data = { sort = \"family/data/sort.calib.u16\"; dates = \"family/data/dates.calib.u16\"; }; output = \"out/plus.h5\"; }"
  "{ type = \"distill\"; student = \"base\"; teachers = ( \"sort\" ); window = 64; steps = 2; batch = 2; micro_batch = 2; rate = 0.001; validate_every = 1; validation = { sort = \"family/data/sort.val.u16\"; }; validation_limit = 2; data = { sort = \"family/data/sort.calib.u16\"; }; output = \"out/student.h5\"; }"
)

check() { # RANKS STEP...
  local n=$1 step point code what; shift
  rm -rf out
  ranks "$n" "$INGOT" run --quiet --device cpu all.cfg >/dev/null || fail "$n ranks: not killed, it fails"
  rm -rf straight
  mv out straight
  for step in "$@"; do
    for point in list tidy; do
      what="$n ranks, killed in step $step ($point)"
      code=0
      INGOT_FAULT="$point@0:1" ranks "$n" "$INGOT" run --quiet --device cpu --step "$step" all.cfg >/dev/null 2>stderr.txt || code=$?
      [ "$code" != 0 ] || fail "$what: was not killed"
      [ -n "$(find out -name '*.begun.json')" ] || { cat stderr.txt >&2; fail "$what: nothing was left: the test tests nothing"; }
    done
    "$INGOT" plan --bandwidth 1,1 all.cfg >plan.txt || fail "$what: a plan finds problems"
    ranks "$n" "$INGOT" run --device cpu --step "$step" all.cfg >/dev/null 2>stderr.txt || { cat stderr.txt >&2; fail "$what: does not continue"; }
    grep -qF "is already complete" stderr.txt || { cat stderr.txt >&2; fail "$what: made again"; }
  done
  ! diff -r --exclude='*manifest.json' straight out | grep -v '^Only in straight: ' || fail "$n ranks: other bytes, or something is left"
}
write_job all.cfg "${steps[@]}"
check 1 $(seq 1 ${#steps[@]})
if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then check 2 1 3 ${#steps[@]}; fi # mpirun takes its time when a rank is killed

# Of a run with other settings that was begun over a complete output and stopped, nothing is removed: the command that made the output
# finds it complete, the other one goes on.
write_job merge.cfg "${steps[0]}"
rm -rf out
"$INGOT" run --quiet merge.cfg
cp out/ties.h5 ties.h5
expect 75 'the same command continues' env INGOT_FAULT=stop@0:1 "$INGOT" run --quiet --fresh --threads 1 --set 'steps[0].parameters.density=0.25' merge.cfg
[ -e out/ties.h5.journal ] || fail "a stopped run leaves no journal: nothing is tested"
cp -a out before
expect 0 'is already complete' "$INGOT" run merge.cfg
diff -r before out || fail "another job's unfinished work was touched"

# The lock of a run that was killed in its very last moment goes as well.
rm -rf out
"$INGOT" run --quiet merge.cfg
printf 'ingot lock 1\nhost %s\nboot 0\npid 1\nstart 1\nwhat x\nsince 2026-01-01T00:00:00Z\nkernel_lock 1\ntoken 0\n' "$(uname -n)" >out/ties.h5.lock
touch -d '10 minutes ago' out/ties.h5.lock
expect 0 'is already complete' "$INGOT" run merge.cfg
[ "$(ls out)" = "$(printf 'ties.h5\nties.h5.manifest.json')" ] || fail "a lock is left: $(ls out)"
cmp ties.h5 out/ties.h5 || fail "other bytes"
