#!/usr/bin/env bash
# The steps evaluate, fisher and gram on the shipped family: scores against the reference, any number of ranks, stopped and
# killed runs, and what wrong jobs and data get.
. "$(dirname "$0")/lib.sh"
: "${NEAR:?}"
ln -s "$SOURCE/tests/experts" family
export OMP_NUM_THREADS=1
n_window=$((8 + 8 * SCALE)) # a rank of four has four at least

score() { # FILE MODEL DATA: the nll, of an evaluation or of the family's reference.json: both nest model, data set, number
  tr -d ' \n' <"$1" | grep -o "\"$2\":{\"add\":{\"nll\".*" | head -n 1 | grep -o "\"$3\":{\"nll\":[0-9.e-]*" | head -n 1 | sed 's/.*://'
}

# --- evaluate: two models on all data sets, in full
cat >evaluate.cfg <<EOT
models = { base = "family/base"; sort = "family/sort"; };
steps = ( { type = "evaluate"; models = ( "base", "sort" ); window = 64; output = "out/scores.json";
  data = { add = "family/data/add.val.u16"; sort = "family/data/sort.val.u16"; brackets = "family/data/brackets.val.u16";
           dates = "family/data/dates.val.u16"; }; } );
EOT
"$INGOT" run --quiet --device cpu evaluate.cfg >table.txt
"$INGOT" run --device cpu evaluate.cfg 2>again.txt >/dev/null
grep -qF "already complete" again.txt || fail "an evaluation is not complete when run again"
count=0
for model in base sort; do
  for data in add sort brackets dates; do
    found=$(score out/scores.json "$model" "$data") wanted=$(score family/reference.json "$model" "$data")
    awk -v a="$found" -v b="$wanted" 'BEGIN { exit !(a > 0 && b > 0 && a / b < 1.00001 && a / b > 0.99999) }' ||
      fail "$model on $data: $found instead of $wanted"
    count=$((count + 1))
  done
done
[ "$count" = 8 ] || fail "only $count scores"
grep -qF "| base | 4.141 | 4.095 | 2.959 | 1.894 |" table.txt || fail "the table lacks the reference's perplexities"

# --- the same scores on any number of ranks, and in an HDF5 file; a stopped evaluation goes on
sed -e "s/window = 64;/window = 64; limit = $n_window;/" -e 's/scores.json/ranks.h5/' evaluate.cfg >ranks.cfg
for n in $(rank_counts); do
  rm -rf out/ranks.h5*
  ranks "$n" "$INGOT" run --quiet --device cpu ranks.cfg >"table-$n.txt"
  cmp table-1.txt "table-$n.txt" || fail "evaluate: other figures on $n ranks"
done
rm -rf out/ranks.h5*
code=0
INGOT_FAULT="stop@0:4" "$INGOT" run --quiet --device cpu ranks.cfg >/dev/null 2>stderr.txt || code=$?
[ "$code" = 75 ] || { cat stderr.txt >&2; fail "a stopped evaluation: exit code $code"; }
"$INGOT" run --device cpu ranks.cfg 2>stderr.txt >resumed.txt
grep -qF "are there already" stderr.txt || fail "a stopped evaluation begins anew"
cmp table-1.txt resumed.txt || fail "a stopped evaluation ends with other figures"
"$INGOT" inspect out/ranks.h5 | grep -q "tokens .*I64" || fail "the HDF5 file has no tables"
[ -z "$(find out -name '*.state.*')" ] || fail "states are left behind"

# --- fisher and gram: ranks agree to rounding; stopped and killed runs end with the same bytes
cat >fisher.cfg <<EOT
models = { sort = "family/sort"; };
steps = ( { type = "fisher"; model = "sort"; window = 64; limit = $n_window; data = ( "family/data/sort.calib.u16" ); output = "out/s.h5"; } );
EOT
cat >gram.cfg <<EOT
models = { sort = "family/sort"; };
steps = ( { type = "gram"; model = "sort"; window = 64; limit = $n_window; batch = 1; outputs = true; labels = "sampled"; seed = 5;
  data = ( "family/data/sort.calib.u16" ); output = "out/s.h5"; } );
EOT
for kind in fisher gram; do
  for n in $(rank_counts); do
    rm -rf out
    ranks "$n" "$INGOT" run --quiet --device cpu "$kind.cfg"
    mv out/s.h5 "$kind-$n.h5"
    "$NEAR" "$kind-1.h5" "$kind-$n.h5" 2e-6 || fail "$kind: other values on $n ranks"
    for fault in "stop@$((n - 1)):2" "kill@$((n - 1)):2"; do
      rm -rf out
      code=0
      INGOT_FAULT=$fault ranks "$n" "$INGOT" run --quiet --device cpu "$kind.cfg" >/dev/null 2>stderr.txt || code=$?
      [ "$code" != 0 ] || fail "$kind, $fault, $n ranks: no failure"
      [ ! -e out/s.h5 ] || fail "$kind, $fault, $n ranks: there is an output"
      case $fault in
        stop*)
          [ "$code" = 75 ] || { cat stderr.txt >&2; fail "$kind, $fault, $n ranks: exit code $code"; }
          [ "$(find out -name '*.state.*' | wc -l)" = "$n" ] || fail "$kind, $fault, $n ranks: not every rank saved its sums" ;;
      esac
      ranks "$n" "$INGOT" run --quiet --device cpu "$kind.cfg" || fail "$kind, $fault, $n ranks: does not continue"
      cmp "$kind-$n.h5" out/s.h5 || fail "$kind, $fault, $n ranks: other bytes"
      [ -z "$(find out -name '*.state.*' -o -name '*.journal')" ] || fail "$kind, $fault, $n ranks: something is left"
    done
  done
done
if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then # states of two ranks are of no use to one
  rm -rf out
  code=0
  INGOT_FAULT="stop@0:2" ranks 2 "$INGOT" run --quiet --device cpu fisher.cfg 2>stderr.txt || code=$?
  [ "$code" = 75 ] || { cat stderr.txt >&2; fail "two ranks stopped: exit code $code"; }
  "$INGOT" run --device cpu fisher.cfg 2>stderr.txt || { cat stderr.txt >&2; fail "one rank after two"; }
  grep -qF "saved states of another number of ranks: begun anew" stderr.txt || fail "nothing said of other states"
  cmp fisher-1.h5 out/s.h5 || fail "one rank after two: other bytes"
  [ -z "$(find out -name '*.state.*')" ] || fail "states of two ranks are left"
fi
"$INGOT" verify gram-1.h5 >/dev/null || fail "gram: checksums"

# --- a statistic of a model that an earlier step makes; failing writes and reads
cat >chain.cfg <<EOT
models = { base = "family/base"; sort = "family/sort"; };
steps = ( { type = "merge"; method = "linear"; models = ( "base", "sort" ); parameters = { weight = 0.5; }; output = "out/m.h5"; },
  { type = "fisher"; model = "out/m.h5"; window = 64; limit = 2; data = ( "family/data/sort.calib.u16" ); output = "out/f"; },
  { type = "evaluate"; models = ( "out/m.h5" ); window = 64; limit = 2; data = ( "family/data/sort.val.u16" ); output = "out/e.json"; } );
EOT
rm -rf out
"$INGOT" plan --bandwidth 1,1 chain.cfg >plan.txt || fail "a statistic of a model that is not there yet does not plan"
grep -qF "2 windows of 64 tokens" plan.txt || fail "the plan does not say what is done"
grep -qE 'about [^ ]+ s without running the models, reading at' plan.txt || fail "the plan does not say what its time leaves out"
"$INGOT" run --quiet --device cpu chain.cfg >/dev/null || fail "a statistic of a merged model"
[ -e out/f/model.safetensors ] && [ -e out/f/ingot_statistics.json ] || fail "statistics in a directory"
for n in $(rank_counts); do
  for point in write read; do
    rm -rf out
    INGOT_FAULT="$point@$((n - 1)):1" expect 1 "planned fault: $point" ranks "$n" "$INGOT" run --quiet --device cpu fisher.cfg
    [ "$n" = 1 ] || grep -q "error: rank $((n - 1)) on " stderr.txt || fail "$n ranks, $point: $(cat stderr.txt)"
    [ ! -e out/s.h5 ] || fail "$point fails, $n ranks: there is an output"
  done
done

# --- what is refused, before anything is written
refuse() { # CODE TEXT SETTING...
  local code=$1 text=$2 set=(); shift 2
  for s in "$@"; do set+=(--set "$s"); done
  rm -rf out
  expect "$code" "$text" "$INGOT" run --quiet --device cpu "${set[@]}" fisher.cfg
  [ -z "$(find . -name 's.h5*')" ] || fail "something was written: $text"
}
head -c 100 family/data/add.val.u16 >short.u16
head -c 101 family/data/add.val.u16 >odd.u16
{ head -c 600 family/data/add.val.u16; printf '\377\000'; head -c 600 family/data/add.val.u16; } >big.u16
mkdir bare strange
cp family/sort/model.safetensors bare
cp family/sort/* strange
sed -i 's/"model_type": "llama"/"model_type": "mamba"/' strange/config.json
refuse 3 "short.u16: 50 tokens, fewer than a window of 64" 'steps[0].data=["short.u16"]'
refuse 3 "odd.u16: 101 bytes are no whole number of 2-byte token ids" 'steps[0].data=["odd.u16"]'
refuse 3 "none.u16: cannot open the token file" 'steps[0].data=["none.u16"]'
refuse 3 "big.u16: token 300 is 255, and ids go from 0 to 78 (the model's vocabulary)" 'steps[0].data=["big.u16"]'
refuse 3 "windows of 128 tokens, and model \"sort\" (family/sort) has 64 positions" 'steps[0].window=128'
refuse 3 "model \"sort\" (bare) has no config.json" 'models.sort="bare"'
refuse 3 "mamba" 'models.sort="strange"'
refuse 2 "window: 1 is out of range: 2 to 16777216" 'steps[0].window=1'
refuse 2 "dtype = \"bfloat16\" needs a GPU" 'steps[0].dtype="bfloat16"'
refuse 3 "and memory_limit is 1.00 MiB" 'steps[0].memory_limit="1MiB"'
refuse 2 "statistics are written to a .h5 file or a directory" 'steps[0].output="out/s.safetensors"'
refuse 2 "separate = true needs \"document\"" 'steps[0].separate=true'
refuse 2 "document = 79, and the vocabulary has 79 tokens" 'steps[0].document=79'
refuse 2 "two data sets are called \"sort\"" 'steps[0].data=["family/data/sort.val.u16", "family/data/sort.calib.u16"]'
cat >scores.cfg <<EOT
models = { base = "family/base"; };
steps = ( { type = "evaluate"; name = "scores"; models = ( "base" ); window = 64; limit = 2; data = ( "family/data/sort.val.u16" ); output = "out/e.json"; },
  { type = "export"; model = "scores"; output = "out/x.h5"; } );
EOT
expect 2 'the output of step 1 (evaluate), "scores", is no checkpoint' "$INGOT" run --quiet scores.cfg
expect 2 "scores are written to a .json or a .h5 file" "$INGOT" run --quiet --set 'steps[0].output="out/e.txt"' scores.cfg
