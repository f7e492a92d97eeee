#!/usr/bin/env bash
# The steps ensemble and logits on the shipped family: scores against the reference, any number of ranks, models one after the other,
# models spread over the ranks, learnt weights, killed runs, and what wrong models get.
. "$(dirname "$0")/lib.sh"
ln -s "$SOURCE/tests/experts" family
export OMP_NUM_THREADS=1
models='models = { add = "family/add"; sort = "family/sort"; brackets = "family/brackets"; dates = "family/dates"; };'
all='models = ( "add", "sort", "brackets", "dates" );'

# the number behind "KEY": in a JSON file
number() { tr -d ' \n' <"$1" | grep -o "\"$2\":{\"nll\":[0-9.e-]*" | tail -n +"${3:-1}" | head -n 1 | sed 's/.*://'; }
near() { awk -v a="$1" -v b="$2" -v e="$3" 'BEGIN { exit !(a > 0 && b > 0 && a / b < 1 + e && a / b > 1 - e) }'; }

# --- equal weights, in full: the family's README has 1.3107 and 3.709 for add
cat >linear.cfg <<EOT
$models
steps = ( { type = "ensemble"; $all window = 64; output = "out/linear.json"; data = { add = "family/data/add.val.u16"; }; } );
EOT
"$INGOT" run --quiet --device cpu linear.cfg >table.txt
near "$(number out/linear.json add)" 1.3107 5e-5 || fail "linear: $(number out/linear.json add) instead of 1.3107"
grep -qF "| ensemble | 3.709 | 3.709 |" table.txt || fail "the table lacks the reference's perplexity"
grep -qF "| add | 3.199 | 3.199 |" table.txt || fail "the table lacks a member's perplexity"

# --- weights that are learnt, on any number of ranks, and with one model at a time; then a logits file with them
cat >learn.cfg <<EOT
$models
steps = ( { type = "ensemble"; weights = "learn"; per_data = true; $all window = 64; limit = 16; output = "out/learn.h5"; name = "weights";
  learn_data = { add = "family/data/add.calib.u16"; dates = "family/data/dates.calib.u16"; };
  data = { add = "family/data/add.val.u16"; dates = "family/data/dates.val.u16"; }; },
  { type = "logits"; weights = "weights"; $all window = 64; limit = 16; k = 8; output = "out/logits.h5"; batch = 2;
  data = { add = "family/data/add.val.u16"; dates = "family/data/dates.val.u16"; }; } );
EOT
for n in $(rank_counts); do
  rm -rf out
  ranks "$n" "$INGOT" run --quiet --device cpu learn.cfg >"learn-$n.txt"
  cmp learn-1.txt "learn-$n.txt" || fail "ensemble: other figures on $n ranks"
done
awk -F'|' '/^\| (add|dates) \| [0-9.]* \| [0-9.]* \| [0-9.]* \| [0-9.]* \|/ && NF == 9 { n++; if (!($8 < $7)) exit 1 } END { exit n != 2 }' learn-1.txt ||
  fail "learnt weights are no better than equal ones"
"$INGOT" inspect out/logits.h5 | grep -q "ids .*U16" || fail "the logits file lacks its tensors"
mv out/logits.h5 whole.h5
rm -rf out
sed 's/window = 64;/window = 64; memory_limit = "9MiB";/' learn.cfg >small.cfg
"$INGOT" plan small.cfg >plan.txt
grep -q "one after the other, for [0-9]* windows at a time" plan.txt || { cat plan.txt >&2; fail "the plan does not say how models are held"; }
"$INGOT" run --quiet --device cpu small.cfg >small.txt
cmp learn-1.txt small.txt || fail "other figures with one model at a time"

# --- spread over the ranks: the same numbers as with all models on each, for numbers of ranks that models and windows do not divide
mv out learnt
for placement in replicated spread; do
  cat >"$placement.cfg" <<EOT
$models
steps = ( { type = "ensemble"; kind = "log_linear"; weights = "learn"; models = ( "add", "sort", "dates" ); window = 64; limit = 5; batch = 2;
  placement = "$placement"; output = "out/weights.h5"; learn_data = ( "family/data/add.calib.u16" ); data = ( "family/data/add.val.u16" ); },
  { type = "ensemble"; kind = "posterior"; models = ( "add", "sort", "dates" ); window = 64; limit = 3; batch = 1; partial = true;
  placement = "$placement"; output = "out/posterior.json"; data = ( "family/data/sort.val.u16" ); },
  { type = "logits"; models = ( "add", "sort", "dates" ); window = 64; limit = 5; batch = 2; k = 8;
  placement = "$placement"; output = "out/logits.h5"; data = ( "family/data/add.val.u16" ); } );
EOT
done
for n in $(rank_counts); do
  [ "$n" != 1 ] || continue
  for placement in replicated spread; do
    rm -rf out
    ranks "$n" "$INGOT" run --quiet --device cpu "$placement.cfg" >"$placement.txt"
    rm -rf "$placement" && mv out "$placement"
  done
  cmp replicated.txt spread.txt || fail "spread over $n ranks: other figures"
  cmp replicated/posterior.json spread/posterior.json || fail "spread over $n ranks: another mixture"
  for file in weights logits; do
    "$INGOT" diff "replicated/$file.h5" "spread/$file.h5" | grep -qx identical || fail "spread over $n ranks: other $file"
  done
done
if [ "${n:-1}" != 1 ]; then
  ranks 2 "$INGOT" plan spread.cfg >plan.txt
  grep -q "models: spread over 2 ranks, as set: .* a rank; .* with all 3 on each" plan.txt || { cat plan.txt >&2; fail "the plan does not say where models are"; }
  sed -e '/placement/s/placement = "[a-z]*";//' -e 's/window = 64;/window = 64; memory_limit = "11.5MiB";/' spread.cfg >auto.cfg
  ranks 2 "$INGOT" plan auto.cfg >plan.txt
  grep -q "spread over 2 ranks: .* too much, as memory_limit is 11.50 MiB" plan.txt || { cat plan.txt >&2; fail "models that do not fit are not spread"; }
  # a rank that stops or fails, between rounds or in one, ends all; the same command goes on
  for fault in "75 stop@1:2" "1 read@1:2" "1 write@0:2"; do
    rm -rf out
    code=0
    INGOT_FAULT=${fault#* } ranks 2 "$INGOT" run --quiet --device cpu --step 3 spread.cfg >/dev/null 2>stderr.txt || code=$?
    [ "$code" = "${fault% *}" ] || { cat stderr.txt >&2; fail "${fault#* }: exit code $code"; }
    ranks 2 "$INGOT" run --quiet --device cpu --step 3 spread.cfg
    "$INGOT" diff out/logits.h5 spread/logits.h5 | grep -qx identical || fail "${fault#* }: other logits"
  done
fi
expect 3 "placement = \"spread\" on one rank, which needs" "$INGOT" plan --set 'steps[2].memory_limit="9MiB"' --step 3 spread.cfg
rm -rf out
mv learnt out

# --- killed while it writes logits: the same command goes on
for fault in "kill@0:3" "stop@0:2"; do
  rm -rf out/logits.h5*
  code=0
  INGOT_FAULT=$fault "$INGOT" run --quiet --device cpu --step 2 learn.cfg >/dev/null 2>stderr.txt || code=$?
  [ "$code" != 0 ] || fail "$fault: nothing was killed"
  "$INGOT" run --device cpu --step 2 learn.cfg 2>stderr.txt >/dev/null
  grep -qF "goes on behind" stderr.txt || { cat stderr.txt >&2; fail "$fault: logits begin anew"; }
done
"$INGOT" verify out/logits.h5 >/dev/null || fail "the checksums of the logits are wrong"
[ -z "$(find out -name '*.state.*' -o -name '*.journal' -o -name '*.partial')" ] || fail "something is left behind"

# --- other vocabularies, and weights of other models
cp -rL family/sort other
chmod -R u+w other
if [ -f other/tokenizer.json ]; then
  sed -i '0,/"a": *\([0-9]*\)/s//"aa": \1/' other/tokenizer.json
  sed -e 's|family/sort|other|' linear.cfg >other.cfg
  expect 3 "different vocabularies: " "$INGOT" plan other.cfg
fi
sed -e 's/, "dates" );/ );/' -e 's/type = "ensemble"; weights = "learn"; per_data = true;/type = "ensemble"; weights = "out\/learn.h5";/' \
  -e 's/learn_data = .*//' -e 's/output = "out\/learn.h5"/output = "out\/three.json"/' learn.cfg >three.cfg
expect 3 'has a weight for model "dates", which is not one of the models here' "$INGOT" plan --step 1 three.cfg
