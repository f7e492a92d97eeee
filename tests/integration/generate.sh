#!/usr/bin/env bash
# The step generate on the shipped family: the same bytes on any number of ranks and after stops and kills, a job that trains on and
# evaluates a file that it generates itself, what lies beside the file.
. "$(dirname "$0")/lib.sh"
ln -s "$SOURCE/tests/experts" family
export OMP_NUM_THREADS=1
models='models = { add = "family/add"; sort = "family/sort"; average = "family/base"; };'
prompts='data = { add = "family/data/add.val.u16"; sort = "family/data/sort.val.u16"; }; prompts = "documents"; document = 0; prompt = 20; prompt_end = 2;'

cat >sample.cfg <<EOT
$models seed = 3;
steps = ( { type = "generate"; models = ( "add", "sort" ); weights = { add = [ 1.0, 0.0 ]; sort = [ 0.3, 0.7 ]; }; $prompts limit = 20;
  samples = 2; end = 0; length = 16; temperature = 0.8; top_k = 20; top_p = 0.95; batch = 4; output = "out/made.u16"; } );
EOT
for n in $(rank_counts); do
  rm -rf out
  ranks "$n" "$INGOT" run --quiet --device cpu sample.cfg
  [ -f first.u16 ] || { cp out/made.u16 first.u16; cp out/made.u16.json first.json; }
  cmp first.u16 out/made.u16 || fail "other tokens on $n ranks"
  cmp first.json out/made.u16.json || fail "another account on $n ranks"
done
rm -rf out
"$INGOT" run --quiet --device cpu --threads 2 sample.cfg
cmp first.u16 out/made.u16 || fail "other tokens with two threads"
grep -qF '"sequences": 80' first.json || fail "80 sequences were asked for"
"$INGOT" run --device cpu sample.cfg 2>stderr.txt
grep -qF "is already complete" stderr.txt || fail "made again"

# --- stopped and killed: the same command goes on, on another number of ranks too
for fault in "stop@0:5" "kill@0:9"; do
  rm -rf out
  code=0
  INGOT_FAULT=$fault "$INGOT" run --quiet --device cpu sample.cfg >/dev/null 2>stderr.txt || code=$?
  case $fault in stop*) [ "$code" = 75 ] || fail "$fault: exit code $code" ;; *) [ "$code" != 0 ] || fail "nothing was killed" ;; esac
  [ ! -e out/made.u16 ] || fail "$fault: half a file has the final name"
  if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then again="ranks 2"; else again=; fi
  $again "$INGOT" run --device cpu sample.cfg 2>stderr.txt >/dev/null
  grep -qF "goes on behind" stderr.txt || { cat stderr.txt >&2; fail "$fault: begins anew"; }
  cmp first.u16 out/made.u16 || fail "$fault: other tokens"
done
[ -z "$(find out -name '*.state.*' -o -name '*.journal' -o -name '*.partial' -o -name '*.begun.json')" ] || fail "something is left behind"

# --- settings of another job are not mixed with what is there
sed 's/temperature = 0.8/temperature = 0.9/' sample.cfg >other.cfg
expect 2 "out/made.u16 exists" "$INGOT" run --device cpu other.cfg

# --- beams and HDF5; trained on and evaluated in the same job
cat >chain.cfg <<EOT
$models
steps = ( { type = "generate"; models = ( "add", "sort" ); kind = "log_linear"; $prompts limit = 8; end = 0; length = 16; truncated = "drop";
    search = "beam"; beams = 3; length_penalty = 1.0; row = 64; output = "out/beams.h5"; },
  { type = "distill"; student = "average"; alpha = 0.0; data = ( "out/beams.h5" ); window = 64; batch = 2; steps = 2; output = "out/student"; },
  { type = "evaluate"; models = ( "average" ); data = ( "out/beams.h5:/tensors/tokens" ); window = 64; output = "out/scores.json"; } );
EOT
"$INGOT" plan chain.cfg >plan.txt
grep -qF "16 sequences from 16 prompts, of 36 tokens at most, by 3 beams" plan.txt || { cat plan.txt >&2; fail "the plan does not say what is done"; }
sed 's/limit = 8/limit = 1/; s/weights = [^;]*;//; s/models = ( "add", "sort" ); kind = "log_linear"/models = ( "add" )/; s/sort = "family[^"]*";//' chain.cfg >one.cfg
"$INGOT" plan one.cfg >one.txt
grep -qF "1 sequence from 1 prompt, of" one.txt || { cat one.txt >&2; fail "the plan does not count one prompt"; }
grep -qF "made by an earlier step" plan.txt || fail "the plan does not know where the data comes from"
"$INGOT" run --quiet --device cpu chain.cfg >table.txt
grep -q "^| average |" table.txt || fail "no scores"
"$INGOT" verify out/beams.h5 >/dev/null || fail "the checksum of the tokens is wrong"
"$INGOT" inspect out/beams.h5 | grep -q "tokens .*U16" || fail "no tokens in the file"

# --- a model that is no use: exit 3, and nothing of the output stays; so it is with logits
cp -rL family/add nan
chmod -R u+w nan
bytes=$(wc -c <nan/model.safetensors)
printf '\377\377' | dd of=nan/model.safetensors bs=1 seek=$((bytes - 2)) conv=notrunc 2>/dev/null
sed -e 's|add = "family/add"|add = "nan"|' -e 's|out/made|bad/made|' sample.cfg >bad.cfg
cat >logits.cfg <<EOT
models = { add = "nan"; sort = "family/sort"; };
steps = ( { type = "logits"; models = ( "sort", "add" ); data = ( "family/data/sort.val.u16" ); window = 64; limit = 4; k = 8; output = "bad/l.h5"; } );
EOT
for n in $(rank_counts); do
  for step in bad logits; do
    expect 3 "holds values that are not finite" ranks "$n" "$INGOT" run --quiet --device cpu $step.cfg
    [ -z "$(ls bad)" ] || fail "$step: something is left on $n ranks: $(ls bad)"
  done
done

# --- what is refused
expect 2 "document = 79, and the vocabulary has 79 tokens" "$INGOT" plan --set 'steps[0].document=79' sample.cfg
[ "$(grep -c "document = 79" stderr.txt)" = 1 ] || fail "the document is refused more than once"
sed 's/length = 16/length = 60/' sample.cfg >long.cfg
expect 3 "positions" "$INGOT" plan long.cfg
sed -e 's/limit = 20;/memory_limit = "4MiB";/' -e 's|out/made|out/small|' sample.cfg >small.cfg
expect 3 "a smaller batch takes less" "$INGOT" plan small.cfg
