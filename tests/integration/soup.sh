#!/usr/bin/env bash
# The step soup on the shipped family: the output is the linear merge of its members and has the score that the table says, on
# any number of ranks, stopped, killed, with little memory; bad candidates are rejected, wrong jobs refused.
. "$(dirname "$0")/lib.sh"
ln -s "$SOURCE/tests/experts" family
export OMP_NUM_THREADS=1
n_window=32 # in passes of 16, so that scoring needs more memory than merging does

cat >soup.cfg <<EOT
models = { base = "family/base"; sort = "family/sort"; brackets = "family/brackets"; dates = "family/dates"; };
steps = ( { type = "soup"; models = ( "base", "sort", "brackets", "dates" ); window = 64; limit = $n_window; batch = 16; output = "out/s.h5";
  data = { sort = "family/data/sort.val.u16"; brackets = "family/data/brackets.val.u16"; dates = "family/data/dates.val.u16"; }; } );
EOT
member() { tr -d ' \n' <"$1" | sed 's/.*"members":\[\([^]]*\)\].*/\1/; s/"//g; s/,/ /g'; } # the last list: that of the soup
same_tensors() { "$INGOT" diff "$1" "$2" >diff.txt || { cat diff.txt >&2; fail "$3"; }; grep -q identical diff.txt || fail "$3"; }

# --- what is written is the linear merge of the members, and scores as the table says
"$INGOT" run --device cpu soup.cfg >table.txt 2>log.txt
grep -q "| accepted |\| accepted$\|accepted |" table.txt || { cat table.txt >&2; fail "nothing was accepted"; }
grep -q "rejected |" table.txt || fail "nothing was rejected"
members=$(member out/s.h5.soup.json)
[ "$(echo "$members" | wc -w)" -ge 2 ] || fail "the soup has the members $members"
[ -z "$(find out -name '*.state.*' -o -name '*.journal' -o -name '*.partial')" ] || fail "something is left"
"$INGOT" verify out/s.h5 >/dev/null || fail "checksums"
list=${members// /\", \"}
cat >linear.cfg <<EOT
models = { base = "family/base"; sort = "family/sort"; brackets = "family/brackets"; dates = "family/dates"; };
steps = ( { type = "merge"; method = "linear"; models = ( "$list" ); parameters = { weight = 1.0; }; output = "out/linear.h5"; },
  { type = "evaluate"; models = ( "out/linear.h5" ); window = 64; limit = $n_window; batch = 16; output = "out/e.json";
  data = { sort = "family/data/sort.val.u16"; brackets = "family/data/brackets.val.u16"; dates = "family/data/dates.val.u16"; }; } );
EOT
"$INGOT" run --quiet --device cpu linear.cfg >/dev/null
same_tensors out/linear.h5 out/s.h5 "the soup is not the linear merge of its members"
mean=$(grep -o '"nll": [0-9.]*' out/e.json | awk '{ s += $2 } END { printf "%.12f", s / NR }')
found=$(tail -n 2 out/s.h5.soup.json | grep -o '"score": -[0-9.]*' | sed 's/.*-//')
awk -v a="$mean" -v b="$found" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a > 0 && d < 1e-9) }' ||
  fail "the soup's score is -$found, and its output has the loss $mean"
cp out/s.h5 one.h5
cp out/s.h5.soup.json one.json
"$INGOT" run --device cpu soup.cfg 2>again.txt >/dev/null
grep -qF "already complete" again.txt || fail "a soup is not complete when run again"

# --- the same bytes on any number of ranks, and where the sum has no room
for n in $(rank_counts); do
  rm -rf out
  ranks "$n" "$INGOT" run --quiet --device cpu soup.cfg >/dev/null
  cmp one.h5 out/s.h5 || fail "other bytes on $n ranks"
done
rm -rf out
need=$("$INGOT" plan --bandwidth 1,1 --resources soup.cfg 2>/dev/null | cut -f 4)
limit="$((need / 1024 - 200))KiB"
"$INGOT" plan --bandwidth 1,1 --set "steps[0].memory_limit=\"$limit\"" soup.cfg >plan.txt
grep -qF "the models of the soup are read for every average" plan.txt || { cat plan.txt >&2; fail "no plan for $limit"; }
"$INGOT" run --quiet --device cpu --set "steps[0].memory_limit=\"$limit\"" soup.cfg >/dev/null
cmp one.h5 out/s.h5 || fail "other bytes with little memory"
cmp one.json out/s.h5.soup.json || fail "other scores with little memory"

# --- stopped and killed in the search, and in the merge: finished evaluations are kept
for fault in stop@0:9 kill@0:9 stop@0:29 kill@0:29 kill@0:43 commit@0:1; do
  rm -rf out
  code=0
  INGOT_FAULT=$fault "$INGOT" run --quiet --device cpu soup.cfg >/dev/null 2>stderr.txt || code=$?
  [ "$code" != 0 ] || fail "$fault: no failure"
  case $fault in stop*) [ "$code" = 75 ] || { cat stderr.txt >&2; fail "$fault: exit code $code"; } ;; esac
  [ ! -e out/s.h5 ] || fail "$fault: there is an output"
  "$INGOT" run --device cpu soup.cfg 2>stderr.txt >resumed.txt || { cat stderr.txt >&2; fail "$fault: does not continue"; }
  grep -qF "evaluations are there already" stderr.txt || fail "$fault: begins anew"
  cmp one.h5 out/s.h5 || fail "$fault: other bytes"
  cmp one.json out/s.h5.soup.json || fail "$fault: other scores"
  [ -z "$(find out -name '*.state.*' -o -name '*.journal' -o -name '*.partial')" ] || fail "$fault: something is left"
done
if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then # what one rank has finished is of use to two
  rm -rf out
  INGOT_FAULT=stop@0:29 expect 75 "the same command continues" "$INGOT" run --quiet --device cpu soup.cfg
  ranks 2 "$INGOT" run --device cpu soup.cfg 2>stderr.txt >/dev/null
  grep -qF "evaluations are there already" stderr.txt || fail "two ranks after one begin anew"
  cmp one.h5 out/s.h5 || fail "two ranks after one: other bytes"
fi

# --- uniform: all, as listed; a directory of another dtype, with a card that names the members; by accuracy
rm -rf out
sed -e 's/window = 64;/window = 64; search = "uniform"; metric = "accuracy"; output_dtype = "float32";/' -e 's:out/s.h5:out/u:' soup.cfg >uniform.cfg
"$INGOT" run --quiet --device cpu uniform.cfg >table.txt
grep -q "| of all 4 | .* % | accepted |" table.txt || { cat table.txt >&2; fail "uniform: table"; }
sed -i -e "s/\"$list\"/\"base\", \"sort\", \"brackets\", \"dates\"/" -e 's/output = "out\/linear.h5"/dtype = "float32"; output = "out\/linear.h5"/' linear.cfg
"$INGOT" run --quiet --device cpu --step 1 linear.cfg
same_tensors out/linear.h5 out/u "a uniform soup is not the average"
grep -qF '{"members":["base","sort","brackets","dates"]}' out/u/README.md || fail "the model card lacks the members"
[ -e out/u.soup.json ] || fail "no table beside a directory"

# --- candidates without a finite loss: NaN in the weights, and weights that overflow; first in the list too
mkdir nan huge
cp family/sort/* nan
cp family/sort/* huge
bytes=$(wc -c <family/sort/model.safetensors)
printf '\377\377' | dd of=nan/model.safetensors bs=1 seek=$((bytes - 2)) conv=notrunc 2>/dev/null
for i in $(seq 8); do printf '\177\177' | dd of=huge/model.safetensors bs=1 seek=$((bytes - 2 * i)) conv=notrunc 2>/dev/null; done
sed -e 's/models = ( "base", "sort", "brackets", "dates" )/models = ( "nan", "base", "sort", "brackets", "huge", "dates" )/' \
  -e 's/^models = {/models = { nan = "nan"; huge = "huge";/' soup.cfg >bad.cfg
rm -rf out
"$INGOT" run --device cpu bad.cfg >table.txt 2>stderr.txt || { cat stderr.txt >&2; fail "bad candidates"; }
grep -qF 'rejected: "nan": ' stderr.txt || fail "nothing said of weights that are not finite"
grep -qF 'rejected: "huge": ' stderr.txt || { cat stderr.txt >&2; fail "nothing said of a loss that is not finite"; }
[ "$(grep -c "not finite |" table.txt)" = 2 ] || { cat table.txt >&2; fail "the table does not say what was rejected"; }
same_tensors one.h5 out/s.h5 "bad candidates change the soup"
sed -e 's/models = ( .* ); window/models = ( "nan", "huge" ); window/' bad.cfg >worse.cfg
rm -rf out
expect 3 "none of the 2 candidates has a finite score" "$INGOT" run --quiet --device cpu worse.cfg
[ -z "$(ls out)" ] || fail "no candidate, and something is left: $(ls out)"

# --- other failures: reads, an unlike model, the output in the way
rm -rf out
INGOT_FAULT=read@0:3 expect 1 "planned fault: read" "$INGOT" run --quiet --device cpu soup.cfg
[ ! -e out/s.h5 ] || fail "a failed read, and an output"
mkdir wide
cp family/sort/* wide
sed -i 's/"num_hidden_layers": 4/"num_hidden_layers": 3/' wide/config.json
expect 3 "model.layers.3" "$INGOT" run --quiet --device cpu --set 'models.sort="wide"' soup.cfg
# Problems of the merge in it are the soup's, and name no settings that a soup has not.
mkdir other
cp family/sort/* other
sed -i 's/"a": *\([0-9]*\)/"@@": \1/' other/tokenizer.json
expect 3 "step 1 (soup): different vocabularies: " "$INGOT" run --quiet --device cpu --set 'models.sort="other"' soup.cfg
grep -qF 'vocabulary = "ignore"' stderr.txt && fail "a setting that a soup does not have"
expect 2 "document = 79, and the vocabulary has 79 tokens" "$INGOT" run --quiet --device cpu --set 'steps[0].document=79' soup.cfg
expect 3 "and memory_limit is 1.00 MiB" "$INGOT" run --quiet --device cpu --set 'steps[0].memory_limit="1MiB"' soup.cfg
expect 3 "windows of 128 tokens" "$INGOT" run --quiet --device cpu --set 'steps[0].window=128' soup.cfg
