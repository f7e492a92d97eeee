#!/usr/bin/env bash
# Promise 1: a merge gives the same bytes for any number of ranks and threads, for every method and output format.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 3 $((5 * SCALE))

pair='models = ( { model = "a"; } );' # slerp: base and one model
run_case() { # NAME JOB OUTPUT
  local name=$1 file=$2 output=$3 n threads
  rm -rf out reference
  "$INGOT" run --quiet --threads 1 "$file" || fail "$name: one rank, one thread"
  mv out reference
  for n in $(rank_counts); do
    for threads in 1 3; do
      rm -rf out
      ranks "$n" "$INGOT" run --quiet --threads "$threads" "$file" || fail "$name: $n ranks, $threads threads"
      if [ -d "reference/$output" ]; then
        diff -rq --exclude=ingot_manifest.json "reference/$output" "out/$output" || fail "$name: bytes differ with $n ranks, $threads threads"
      else
        cmp "reference/$output" "out/$output" || fail "$name: bytes differ with $n ranks, $threads threads"
      fi
      [ -z "$(find out -name '*.partial' -o -name '*.journal')" ] || fail "$name: something was left behind"
    done
  done
  "$INGOT" verify "out/$output" >/dev/null || fail "$name: verify"
}

job linear.cfg out/m.h5 linear 'parameters = { normalize = true; };'
sed -i 's/base = "base"; output/output/' linear.cfg
run_case linear linear.cfg m.h5
job task.cfg out/m.safetensors task_arithmetic 'parameters = { lambda = 0.7; };'
run_case task_arithmetic task.cfg m.safetensors
job ties.cfg out/m.h5 ties 'parameters = { density = 0.3; };'
run_case ties ties.cfg m.h5
job ties-model.cfg out/m.h5 ties 'parameters = { density = 0.3; scope = "model"; };'
run_case "ties over the model" ties-model.cfg m.h5
job dare.cfg out/hf dare_linear 'parameters = { density = 0.5; rescale = "inv_density"; }; shard_size = "4MB";'
run_case dare_linear dare.cfg hf
job dare-ties.cfg out/m.h5 dare_ties 'parameters = { density = 0.5; }; dtype = "float32"; alignment = "16KiB";'
run_case dare_ties dare-ties.cfg m.h5
job slerp.cfg out/m.h5 slerp 'parameters = { t = 0.3; };'
sed -i "s/^  models = .*/  $pair/" slerp.cfg
run_case slerp slerp.cfg m.h5

# Stripes and hints: the same bytes, and where nothing comes of them one warning, from one rank.
rm -rf out reference
"$INGOT" run --quiet ties.cfg || fail "ties"
mv out reference
for n in $(rank_counts); do
  rm -rf out
  ranks "$n" "$INGOT" run --quiet --set io.striping_factor=3 --set io.hints.cb_nodes=1 ties.cfg 2>stderr.txt || fail "stripes: $n ranks"
  cmp reference/m.h5 out/m.h5 || fail "stripes: bytes differ with $n ranks"
  [ "$(grep -c warning stderr.txt)" -le 1 ] || fail "stripes: $n ranks: more than one warning: $(cat stderr.txt)"
done
