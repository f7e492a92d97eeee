#!/usr/bin/env bash
# The step regmean_plus: its blocks are those of regmean with Gram matrices gathered, block after block, from models that are put
# together by linear merges (Llama and GPT-2); any number of ranks, stopped and killed runs, little memory; what is refused.
. "$(dirname "$0")/lib.sh"
: "${NEAR:?}"
ln -s "$SOURCE/tests/experts" family
ln -s "$SOURCE/tests/integration/gpt2_merge" g
export OMP_NUM_THREADS=1

# --- block by block with other steps: FILE FOLDER STEM N_LAYER EMBEDDINGS SETTINGS, and MODEL=DATA... for the models
filters() { # FIRST REST FILTER...: FIRST for tensors with one of the filters in their names, REST for others
  local first=$1 rest=$2 text="("
  shift 2
  for f in "$@"; do text="$text { filter = \"$f\"; value = $first; },"; done
  echo "$text { filter = \"*\"; value = $rest; } )"
}
by_hand() {
  local file=$1 folder=$2 stem=$3 n_layer=$4 embeddings=$5 settings=$6 models="" list="" data="" steps="" all="" taken l m merged
  shift 6
  for m in "$@"; do
    models="$models ${m%%=*} = \"$folder/${m%%=*}\";"
    list="$list${list:+, }\"${m%%=*}\""
    data="$data ${m%%=*} = \"${m#*=}\";"
  done
  merged=$embeddings # what is merged when a block is looked at
  for l in $(seq 0 $((n_layer - 1))); do
    taken=""
    for m in "$@"; do
      # shellcheck disable=SC2086
      steps="$steps { type = \"merge\"; name = \"half-$l-${m%%=*}\"; method = \"linear\"; dtype = \"float32\"; output = \"hand/half-$l-${m%%=*}.h5\";
        models = ( { model = \"plus\"; weight = $(filters 1.0 0.0 $merged); }, { model = \"${m%%=*}\"; weight = $(filters 0.0 1.0 $merged); } ); },
      { type = \"gram\"; name = \"gram-$l-${m%%=*}\"; model = \"half-$l-${m%%=*}\"; data = ( \"${m#*=}\" ); $settings output = \"hand/gram-$l-${m%%=*}.h5\"; },"
      taken="$taken${taken:+, }{ model = \"${m%%=*}\"; statistics = \"gram-$l-${m%%=*}\"; }"
    done
    steps="$steps { type = \"merge\"; name = \"block-$l\"; method = \"regmean\"; dtype = \"float32\"; statistics_model = \"ignore\"; models = ( $taken );
      parameters = { alpha = 0.75; ridge = 0.001; }; output = \"hand/block-$l.h5\"; },"
    all="$all, { model = \"block-$l\"; weight = $(filters 1.0 0.0 "$stem.$l."); }"
    merged="$merged $stem.$l."
  done
  cat >"$file" <<EOT2
models = { $models };
steps = ( { type = "regmean_plus"; name = "plus"; models = ( $list ); $settings data = { $data }; alpha = 0.75; ridge = 0.001;
  output = "out/plus.h5"; output_dtype = "float32"; }, $steps
  { type = "merge"; method = "linear"; output = "hand/all.h5"; models = ( { model = "plus"; weight = $(filters 0.0 1.0 "$stem."); }$all ); } );
EOT2
}
by_hand gpt2.cfg g h 2 "wte wpe" "window = 16;" a=g/a.u16 b=g/b.u16
"$INGOT" run --quiet --device cpu gpt2.cfg || fail "GPT-2"
"$NEAR" out/plus.h5 hand/all.h5 1e-6 || fail "GPT-2: not what other steps make of it block by block"
rm -rf out hand
by_hand llama.cfg family layers 4 embed_tokens "window = 64; limit = 8; document = 0; separate = true;" \
  sort=family/data/sort.calib.u16 dates=family/data/dates.calib.u16
"$INGOT" run --quiet --device cpu llama.cfg || fail "Llama"
"$NEAR" out/plus.h5 hand/all.h5 1e-6 || fail "Llama: not what other steps make of it block by block"
rm -rf out hand

# --- PyTorch's and NumPy's merges (regmean_plus/make_reference.py)
ln -s "$SOURCE/tests/integration/regmean_plus" r
cat >torch.cfg <<EOT
models = { a = "g/a"; b = "g/b"; la = "r/la"; lb = "r/lb"; };
steps = ( { type = "regmean_plus"; models = ( "a", "b" ); window = 16; alpha = 0.8; data = { a = "g/a.u16"; b = "g/b.u16"; }; output = "out/gpt2"; },
  { type = "regmean_plus"; models = ( "la", "lb" ); window = 16; alpha = 0.8; data = { la = "r/la.u16"; lb = "r/lb.u16"; }; output = "out/llama"; } );
EOT
for n in $(rank_counts); do
  ranks "$n" "$INGOT" run --quiet --device cpu torch.cfg || fail "$n ranks"
  for m in gpt2 llama; do "$NEAR" "r/$m.safetensors" "out/$m" 2e-5 || fail "$m: not PyTorch's merge, $n ranks"; done
  rm -rf out
done

# --- one model stays what it is
cat >one.cfg <<EOT
models = { a = "g/a"; };
steps = ( { type = "regmean_plus"; models = ( "a" ); window = 16; data = { a = "g/a.u16"; }; output = "out/one"; },
  { type = "merge"; method = "linear"; models = ( "a" ); parameters = { weight = 1.0; }; output = "out/same"; } );
EOT
"$INGOT" run --quiet --device cpu one.cfg
"$NEAR" out/same out/one 1e-4 || fail "RegMean++ of one model is another model"
grep -qF "arXiv 2508.03121" out/one/README.md || fail "the model card lacks the method's source"
grep -qF "alpha: 0.9" out/one/README.md || fail "the model card lacks the recipe"
rm -rf out

# --- plan, report, and that it is complete
cat >plus.cfg <<EOT
models = { sort = "family/sort"; brackets = "family/brackets"; dates = "family/dates"; };
steps = ( { type = "regmean_plus"; models = ( "sort", "brackets", "dates" ); window = 64; limit = 8; batch = 2; document = 0;
  data = { dates = "family/data/dates.calib.u16"; sort = "family/data/sort.calib.u16"; brackets = "family/data/brackets.calib.u16"; };
  output = "out/s.h5"; output_dtype = "float32"; } );
EOT
"$INGOT" plan --bandwidth 1,1 plus.cfg >plan.txt
grep -qF "step 1: RegMean++ of 3 models" plan.txt || { cat plan.txt >&2; fail "title"; }
grep -qF "4 blocks one after the other, each by 24 windows of 64 tokens, 2 in a pass, in float32 on the CPU" plan.txt ||
  { cat plan.txt >&2; fail "work"; }
[ ! -e out ] || fail "a plan that writes"
"$INGOT" run --device cpu --json events.jsonl plus.cfg 2>log.txt || { cat log.txt >&2; fail "run"; }
grep -qF "28 matrices solved" log.txt || { cat log.txt >&2; fail "nothing said of the matrices"; }
grep -F '"matrices"' events.jsonl | grep -qE '"solved": ?28' || fail "no event of the matrices"
grep -qF "96 windows run, 0 taken over" log.txt || { cat log.txt >&2; fail "other windows"; }
"$INGOT" verify out/s.h5 >/dev/null || fail "checksums"
[ -z "$(find out -name '*.state.*' -o -name '*.journal' -o -name '*.partial')" ] || fail "something is left"
"$INGOT" run --device cpu plus.cfg 2>again.txt
grep -qF "already complete" again.txt || fail "it is not complete when run again"
mv out/s.h5 reference.h5

# --- ranks agree to rounding; stopped and killed runs end with the same bytes
for n in $(rank_counts); do
  rm -rf out
  ranks "$n" "$INGOT" run --quiet --device cpu plus.cfg || fail "$n ranks"
  mv out/s.h5 "ranks-$n.h5"
  "$NEAR" reference.h5 "ranks-$n.h5" 2e-5 || fail "other values on $n ranks"
  [ "$n" = 4 ] && continue # nothing new
  for fault in "stop@$((n - 1)):2" "stop@$((n - 1)):$((50 / n))" "kill@$((n - 1)):$((40 / n))" commit@0:1; do
    rm -rf out
    code=0
    INGOT_FAULT=$fault ranks "$n" "$INGOT" run --quiet --device cpu plus.cfg >/dev/null 2>stderr.txt || code=$?
    [ "$code" != 0 ] || fail "$fault, $n ranks: no failure"
    case $fault in stop*) [ "$code" = 75 ] || { cat stderr.txt >&2; fail "$fault, $n ranks: exit code $code"; } ;; esac
    [ ! -e out/s.h5 ] || fail "$fault, $n ranks: there is an output"
    ranks "$n" "$INGOT" run --device cpu plus.cfg 2>stderr.txt || { cat stderr.txt >&2; fail "$fault, $n ranks: does not continue"; }
    cmp "ranks-$n.h5" out/s.h5 || fail "$fault, $n ranks: other bytes"
    case $fault in
      stop@?:2 ) ;;
      *) ! grep -qF "96 windows run" stderr.txt || { cat stderr.txt >&2; fail "$fault, $n ranks: begins anew"; } ;;
    esac
    [ -z "$(find out -name '*.state.*' -o -name '*.journal' -o -name '*.partial')" ] || fail "$fault, $n ranks: something is left"
  done
done
if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then # what one rank has merged is of use to two
  rm -rf out
  INGOT_FAULT=stop@0:50 expect 75 "the same command continues" "$INGOT" run --quiet --device cpu plus.cfg
  ranks 2 "$INGOT" run --quiet --device cpu plus.cfg || fail "two ranks after one"
  "$NEAR" reference.h5 out/s.h5 2e-5 || fail "two ranks after one: other values"
fi

# --- little memory: fewer windows in a pass
rm -rf out
sed -i 's/ batch = 2;//' plus.cfg
need=$("$INGOT" plan --bandwidth 1,1 --resources plus.cfg 2>/dev/null | cut -f 4)
limit="$((need / 1024 - 100))KiB"
"$INGOT" plan --bandwidth 1,1 --set "steps[0].memory_limit=\"$limit\"" plus.cfg >plan.txt
grep -qF ", 16 in a pass" plan.txt || { cat plan.txt >&2; fail "no plan for $limit"; }
"$INGOT" run --quiet --device cpu --set "steps[0].memory_limit=\"$limit\"" plus.cfg
"$NEAR" reference.h5 out/s.h5 2e-5 || fail "other values with little memory"

# --- failures: reads, no room, weights that are not finite, other models, data that are not for the models
rm -rf out
INGOT_FAULT=read@0:3 expect 1 "planned fault: read" "$INGOT" run --quiet --device cpu plus.cfg
INGOT_FAULT=write@0:20 expect 1 "planned fault: write" "$INGOT" run --quiet --device cpu plus.cfg
[ ! -e out/s.h5 ] || fail "a failure, and an output"
mkdir nan wide
cp family/sort/* nan
cp family/sort/* wide
bytes=$(wc -c <nan/model.safetensors)
printf '\377\377' | dd of=nan/model.safetensors bs=1 seek=$((bytes - 2)) conv=notrunc 2>/dev/null
expect 3 "nan: model.norm.weight holds values that are not finite" "$INGOT" run --fresh --quiet --device cpu --set 'models.sort="nan"' plus.cfg
expect 3 "not finite" "$INGOT" run --fresh --quiet --device cpu --set 'models.dates="nan"' plus.cfg
grep -qF "model.norm.weight" stderr.txt || { cat stderr.txt >&2; fail "nothing said of the tensor"; }
rm -rf out
[ ! -e out/s.h5 ] || fail "weights that are not finite, and an output"
sed -i 's/"num_hidden_layers": 4/"num_hidden_layers": 3/' wide/config.json
expect 3 "model.layers.3" "$INGOT" run --quiet --device cpu --set 'models.sort="wide"' plus.cfg
cp family/sort/config.json wide
sed -i 's/"rms_norm_eps": [0-9.e-]*/"rms_norm_eps": 0.5/' wide/config.json
expect 3 'models of one architecture are needed: epsilon of the norms: 0.5 in "sort" (' \
  "$INGOT" run --quiet --device cpu --set 'models.sort="wide"' plus.cfg
printf '\377\377%.0s' $(seq 600) >high.u16
expect 3 "65535" "$INGOT" run --quiet --device cpu --set 'steps[0].data.sort="high.u16"' plus.cfg
expect 3 "and memory_limit is 1.00 MiB" "$INGOT" run --quiet --device cpu --set 'steps[0].memory_limit="1MiB"' plus.cfg
expect 2 'no data for the model "sort"' "$INGOT" run --quiet --device cpu --set 'steps[0].models=("sort")' \
  --set 'steps[0].data=("family/data/dates.calib.u16")' plus.cfg
